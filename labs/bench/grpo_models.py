"""What both sides of `labs bench grpo` start from: model, prompts, reward, adapter, given answers.

Everything here is read by the child of each way, so that neither has its own.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from labs.bench.sft_models import build
from labs.models import load_vlm

RANK, ALPHA = 8, 16.0
# Deviation of the adapter's B. On given answers policy and reference lie apart (0.3 to 0.4 nats a
# token), so that every term of the loss counts; in the timed steps tiny-sft answers much as it did.
CHECKED, TIMED = 0.03, 0.003
# One of these a prompt, in turn: short answers, and one long one in four.
TASKS = ("existence", "caption", "count", "colour", "reasoning", "caption", "position", "grounding")


def start(name: str):
    """(model, processor): a zoo model by name, or `tiny` and `100m` with random weights."""
    return build(name) if name in ("tiny", "100m") else load_vlm(name)


def adapted_layers(model: nn.Module) -> list[str]:
    """Names of the layers that get a low-rank update: all linear ones of the language model."""
    from labs.models.lora import linear_targets

    return linear_targets(model, "all-linear", ["language_model"])


def write_prompts(folder: Path, count: int, resolution: int, seed: int = 0) -> Path:
    """`count` questions about the world with their answers: folder/prompts.json and PNG files."""
    from labs.shapes import make_record

    rows = []
    for index in range(count):
        task = TASKS[index % len(TASKS)]
        record = make_record(task, seed * 1_000_000 + index, "train", resolution=resolution)
        qa = record["meta"]["turns"][0]
        image = folder / f"{index}.png"
        record["image"].save(image)
        rows.append(
            {
                "id": record["id"],
                "task": task,
                "image": str(image),
                "question": qa.question,
                "answer": qa.answer,
            }
        )
    path = folder / "prompts.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def read_prompts(path: str | Path) -> list[dict]:
    """The rows of `write_prompts`."""
    return json.loads(Path(path).read_text())


def score(said: str, answer: str) -> float:
    """F1 over the letters of what was said and of the right answer, in any order, 0 to 1.

    Graded, so that few groups have no signal, and cheap.
    """
    ours, right = Counter(said.lower()), Counter(answer.lower())
    return 2 * (ours & right).total() / max(1, ours.total() + right.total())


def lora_tensors(model: nn.Module) -> dict[str, Tensor]:
    """{"LAYER.lora_A": parameter, …} of our adapter and of PEFT's, under the same names."""
    found = {}
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            name = name.removeprefix("base_model.model.")
            found[name.removesuffix(".weight").removesuffix(".default")] = parameter
    return dict(sorted(found.items()))


@torch.no_grad()
def fill_adapter(model: nn.Module, b_scale: float = TIMED, seed: int = 0) -> None:
    """The same adapter for both: A as it is usually drawn, B normal with this deviation, not zero.

    With B at zero policy and reference would be one, and no check could tell them apart.
    """
    for number, (name, parameter) in enumerate(lora_tensors(model).items()):
        generator = torch.Generator().manual_seed(1_000 * seed + number)
        scale = 1 / math.sqrt(parameter.shape[1]) if name.endswith("lora_A") else b_scale
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def given_completions(
    tokenizer, rows: Iterable[dict], generations: int, longest: int, seed: int = 0
) -> list[list[int]]:
    """`generations` answers to each prompt, as token ids: a part of the right one, then noise.

    Their lengths differ, two in three end by themselves and their rewards differ.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    special, words = set(tokenizer.all_special_ids), len(tokenizer)
    made = []
    for row in rows:
        right = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        for number in range(generations):
            ids = right[: draw(0, min(len(right), longest - 2))]
            while len(ids) < 1 or (len(ids) < longest - 1 and draw(0, 3)):
                token = draw(0, words - 1)
                if token not in special:
                    ids.append(token)
            made.append([*ids, tokenizer.eos_token_id] if number % 3 else ids)
    return made
