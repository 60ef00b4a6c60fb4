"""What each side of `labs bench grpo` makes of the same given answers: its own numbers, in a file.

Only the rollout is replaced. Scoring, advantages, reference, loss and backward pass are those of the
trainer itself, called as its own step calls them.
"""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from labs.bench import grpo_models as shared


def check_ours(trainer, rows: list[dict], settings: dict) -> str:
    """Our numbers for the given answers: the rollout is replaced, all that follows is the trainer's."""
    from labs.models.generation import encode_prompts, render_prompt
    from labs.models.rollout import Rollout
    from labs.train.policy.completion import Completion
    from labs.train.policy.score import score
    from labs.train.policy.update import Sums

    shared.fill_adapter(trainer.model, shared.CHECKED)
    processor, policy = trainer.processor, trainer.policy
    prompts = [trainer.train_dataset[i] for i in range(settings["prompts"])]
    asked = [prompt for prompt in prompts for _ in range(policy.num_generations)]
    given = shared.given_completions(
        processor.tokenizer, rows[: len(prompts)], policy.num_generations, policy.max_new_tokens
    )
    encoded = encode_prompts(
        processor,
        [render_prompt(processor, p.messages) for p in prompts],
        [p.images for p in prompts],
    )
    ids = torch.full((len(given), max(map(len, given))), processor.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(given):
        ids[row, : len(answer)], mask[row, : len(answer)] = torch.tensor(answer), 1
    finished = [answer[-1] == processor.tokenizer.eos_token_id for answer in given]
    rollout = Rollout(
        prompt_ids=encoded["input_ids"],
        prompt_mask=encoded["attention_mask"],
        ids=ids,
        mask=mask,
        logprobs=torch.zeros(ids.shape),
        finished=torch.tensor(finished),
        texts=processor.tokenizer.batch_decode(given, skip_special_tokens=True),
        images={"pixel_values": encoded["pixel_values"]},
    )
    completions = [
        Completion(text, len(answer), done)
        for text, answer, done in zip(rollout.texts, given, finished, strict=True)
    ]
    scored = score(trainer.reward, asked, completions, policy)
    experience, _ = trainer._experience(prompts, rollout, scored)
    logprobs, _ = trainer._pass(experience.rows, experience.pictures)
    sums = Sums()
    trainer._minibatch(experience, torch.arange(len(given)), sums)
    return write_check(
        settings,
        trainer.model,
        {
            "prompts": rollout.prompt_ids.masked_fill(rollout.prompt_mask == 0, -1)[
                experience.rows.prompt
            ],
            "completions": ids.masked_fill(mask == 0, -1),
            "logprobs": logprobs,
            "reference_logprobs": experience.reference,
            "advantages": experience.targets.advantages,
            "loss": torch.tensor(sums.means()["loss"]),
        },
    )


def check_trl(trainer, dataset, rows: list[dict], settings: dict) -> str:
    """TRL's own numbers for given answers: its rollout is replaced, all that follows is its own."""
    shared.fill_adapter(trainer.model, shared.CHECKED)
    tokenizer, prompts = trainer.processing_class.tokenizer, settings["prompts"]
    given = shared.given_completions(
        tokenizer, rows[:prompts], settings["generations"], settings["max_new_tokens"]
    )
    asked = [dataset[i] for i in range(prompts) for _ in range(settings["generations"])]

    def generate(prompt_ids, images, multimodal_fields, num_generations, **named):
        return given, None

    trainer._generate_single_turn = generate
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    batch = trainer._generate_and_score_completions(asked)
    del trainer._generate_single_turn
    steps = trainer.args.steps_per_generation
    names = [name for name in batch if isinstance(batch[name], torch.Tensor) and batch[name].dim()]
    logprobs, loss = [], 0.0
    for part in range(steps):
        size = settings["micro_batch"]
        rows_of = slice(part * size, (part + 1) * size)
        inputs = {name: batch[name][rows_of] for name in names}
        inputs["num_images"] = batch["num_images"][rows_of]
        inputs["num_items_in_batch"] = batch["num_items_in_batch"]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            logprobs.append(
                trainer._get_per_token_logps_and_entropies(
                    trainer.model,
                    ids,
                    mask,
                    inputs["completion_ids"].shape[1],
                    pixel_values=inputs["pixel_values"],
                    num_images=inputs["num_images"],
                )[0]
            )
        part_loss = trainer._compute_loss(trainer.model, inputs)
        part_loss.backward()
        loss += part_loss.item()
    trainer._metrics["train"].clear()
    return write_check(
        settings,
        trainer.model,
        {
            "prompts": batch["prompt_ids"].masked_fill(batch["prompt_mask"] == 0, -1),
            "completions": batch["completion_ids"].masked_fill(batch["completion_mask"] == 0, -1),
            "logprobs": torch.cat(logprobs) * batch["completion_mask"],
            "reference_logprobs": batch["ref_per_token_logps"] * batch["completion_mask"],
            "advantages": batch["advantages"],
            "loss": torch.tensor(loss),
        },
    )


def write_check(settings: dict, model, tensors: dict) -> str:
    """Write the tensors, and the gradient of the adapter, which is dropped; the file's name."""
    gradients = [p.grad.flatten() for p in shared.lora_tensors(model).values()]
    tensors |= {"gradient": torch.cat(gradients)}
    model.zero_grad(set_to_none=True)
    path = Path(settings["folder"]) / f"{settings['way']}.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


def identity(model) -> dict:
    """Hashes of the frozen weights and of the adapter, whichever library's wrapper they are in."""
    frozen = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            name = name.removeprefix("base_model.model.")
            frozen[name.replace(".base_layer.", ".").replace(".base.", ".")] = parameter
    adapter = shared.lora_tensors(model)
    return {
        "weights": _hash(frozen),
        "adapter": _hash(adapter),
        "parameters": sum(p.numel() for p in frozen.values()),
        "trained": sum(p.numel() for p in adapter.values()),
    }


def _hash(tensors: dict) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return total.hexdigest()
