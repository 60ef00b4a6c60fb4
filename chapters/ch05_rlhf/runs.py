"""Short policy runs for the page and its recorded measurements: one place for what they share."""

from dataclasses import replace

from labs.data import ConversationDataset
from labs.data.world import WorldDataset
from labs.models import load_vlm
from labs.models.lora import merge_lora
from labs.shapes import Mix
from labs.suites.alignment import answer_all
from labs.train import TrainConfig, train
from labs.train.config import LoraSettings
from labs.train.policy.config import PolicyConfig
from labs.train.policy.rewards import MixedReward, WorldReward
from labs.train.policy.trainer import PolicyTrainer
from labs.train.policy.watch import world_watch
from labs.train.policy.world import WorldPrompts

EXISTENCE = Mix(tasks={"existence": 1.0}, digits=0.0, chinese=0.0, adversarial=1.0)
EVERYTHING = Mix(
    tasks={"existence": 2.5, "caption": 1.5, "conjunction": 0.7, "count": 1.5, "colour": 0.7,
           "position": 0.8, "grounding": 0.8, "reasoning": 0.6},
    digits=0.2, chinese=0.2,
)  # fmt: skip


def trainer(
    steps: int,
    *,
    mix: Mix = EXISTENCE,
    reward=None,
    start="tiny-sft",
    seed: int = 0,
    learning_rate: float = 1e-3,
    max_grad_norm: float | None = 1.0,
    schedule: str = "constant",
    method: str = "lora",
    kind: type[PolicyTrainer] = PolicyTrainer,
    **policy,
) -> PolicyTrainer:
    """A PolicyTrainer on tiny-sft (or `start`: a name, or a (model, processor)) with a LoRA of rank 16
    on its language model. `policy`: fields of PolicyConfig; 16 prompts of 8 answers unless told."""
    model, processor = load_vlm(start) if isinstance(start, str) else start
    config = TrainConfig(
        max_steps=steps, seed=seed, learning_rate=learning_rate, max_grad_norm=max_grad_norm,
        method=method, lora=LoraSettings(r=16, alpha=32), per_device_train_batch_size=64,
        lr_scheduler_type=schedule, report_to="none", progress=False,
    )  # fmt: skip
    settings = {"prompts_per_step": 16, "num_generations": 8, "max_new_tokens": 112, **policy}
    if settings.get("algorithm", "grpo") == "grpo":
        settings = {"kl_kind": "k3", "kl_in": "loss"} | settings
    return kind(
        model, processor, WorldPrompts(100_000, mix, seed=seed + 1),
        reward or MixedReward({"world": WorldReward()}), config, PolicyConfig(**settings),
        watch=world_watch,
    )  # fmt: skip


class Affine(WorldReward):
    """The world's reward, a + b: the same wish in another unit."""

    name = "affine"

    def __init__(self, times: float, plus: float):
        super().__init__()
        self.times, self.plus = times, plus

    def __call__(self, prompts, completions):
        return [self.times * r + self.plus for r in super().__call__(prompts, completions)]


class SayYes:
    """Pays for a yes, whatever is there."""

    name = "say yes"

    def __call__(self, prompts, completions):
        return [float(c.text.lower().startswith("yes")) for c in completions]


def always_yes(seed: int = 0):
    """tiny-sft driven to answer every existence question with yes: (model, processor)."""
    made = trainer(8, reward=SayYes(), kl_coef=0.0, learning_rate=3e-3, seed=seed, max_new_tokens=8)
    made.train()
    merge_lora(made.model)
    return made.model, made.processor


def spark(start, seed: int = 0, steps: int = 20):
    """`start` after a few supervised steps on true answers: enough that both answers are sampled."""
    model, processor = start
    data = ConversationDataset([WorldDataset(1)[0]], processor)
    data.conversations = WorldDataset(steps * 16, replace(EXISTENCE, turns=4), seed=seed + 50)
    config = TrainConfig(
        max_steps=steps, learning_rate=3e-4, per_device_train_batch_size=16, seed=seed,
        report_to="none", progress=False,
    )  # fmt: skip
    train(model, processor, data, config=config)
    return model, processor


def scores(model, processor, n: int = 200, types=("existence_adversarial", "caption")) -> dict:
    """Shares of right answers, the yes-rate and invented objects a caption, on held-out questions."""
    found, row = answer_all(model.eval(), processor, n, types), {}
    for name, answers in found.items():
        row[name] = float(answers.right.mean())
        if name == "existence_adversarial":
            row["yes_rate"] = float(answers.yes.mean())
        if answers.invented is not None:
            row["invented"] = float(answers.invented.mean())
            row["named"] = float(answers.named.mean())
    return row
