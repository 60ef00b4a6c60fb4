"""TRL's own trainers on a model of a few hundred weights, to run their methods on our numbers."""

import pytest


@pytest.fixture(scope="session")
def trl_trainers(tmp_path_factory):
    """{"grpo": GRPOTrainer, "rloo": RLOOTrainer}, each with `given_rewards`, a list it will score by.

    Built as a user would build them. A test sets their options as attributes (the trainers read
    them at every call), and puts log-probabilities in the place of the model's.
    """
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "b", "c"])}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    sizes = {"vocab_size": len(words), "hidden_size": 8, "intermediate_size": 8}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    dataset = Dataset.from_list([{"prompt": "a b"}] * 8)

    def build(trainer_class, config_class):
        def score(completions, **_):
            return trainer.given_rewards

        args = config_class(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=3,
            beta=0.0,  # no reference model is loaded; a test that wants the term sets it
            report_to=[],
            use_cpu=True,
            bf16=False,
        )
        trainer = trainer_class(
            model=LlamaForCausalLM(config),
            reward_funcs=score,
            args=args,
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return {
        "grpo": build(trl.GRPOTrainer, trl.GRPOConfig),
        "rloo": build(trl.RLOOTrainer, trl.RLOOConfig),
    }
