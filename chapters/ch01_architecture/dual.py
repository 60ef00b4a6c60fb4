"""A dual encoder that trains in seconds, for chapter 1's recorded sweeps.

The picture's side is locked, as in LiT (Zhai et al. 2022, arXiv:2111.07991): the trained tower of
tiny-base, its 6 x 6 patches averaged to the scene's 3 x 3 cells and computed once. A projection of
it and a text tower of 2 layers start from nothing. So a run is a matter of the loss and of the text,
and what a sweep changes is all that differs between two runs of one seed.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from scipy import stats
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from labs.losses import info_nce
from labs.models import load_vlm
from labs.shapes import caption, render, sample_scene, seeded

SEEDS = (0, 1, 2)
POOL, EXAM, GALLERY = 8192, 1000, 100
OBJECTS = 2  # a scene: "a large red ring at the top left and a small blue star at the bottom"
BATCH, SAMPLES, LEARNING_RATE, WARM_UP = 256, 32_768, 2e-3, 0.1
# What a record depends on: it is marked as older once any of these changes.
CODE = ["labs/losses", "labs/models", "labs/shapes", "labs/zoo/weights/tiny-base"]


class DualEncoder(nn.Module):
    """`forward` gives the two features [B, 64] of cached pictures and of texts."""

    def __init__(self, cells: int, vocabulary: int, end: int, temperature: float):
        super().__init__()
        self.image_projection = nn.Sequential(nn.LayerNorm(cells), nn.Linear(cells, 64))
        text = CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, hidden_act="gelu",
            bos_token_id=None, eos_token_id=end, pad_token_id=0, initializer_range=0.1,
        )  # fmt: skip
        self.text_model, self.text_projection = CLIPTextModel(text), nn.Linear(64, 64)
        self.log_scale = nn.Parameter(-torch.tensor(temperature).log())

    @property
    def temperature(self) -> torch.Tensor:
        return (-self.log_scale).exp()

    def forward(self, pictures, ids, mask):
        states = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        # The end token's state, which has seen the whole text. Not `pooler_output`: for a tokenizer
        # whose end token has the id 2, as ours, Transformers takes the largest id in its place.
        ends = states[torch.arange(len(states)), mask.sum(1) - 1]
        return self.image_projection(pictures), self.text_projection(ends)


@torch.no_grad()
def prepare(pool: int, exam: int) -> dict:
    """Pictures through the locked tower, texts through the tokenizer; train and unseen scenes."""
    torch.set_num_threads(os.cpu_count() or 1)
    model, processor = load_vlm("tiny-base")
    tokenizer, data = processor.tokenizer, {}
    for split, count in (("train", pool), ("test", exam)):
        scenes = [
            sample_scene(seeded("dual", split, i), split, count=OBJECTS) for i in range(count)
        ]
        cells = []
        for start in range(0, count, 256):
            pictures = [render(scene) for scene in scenes[start : start + 256]]
            batch = processor.image_processor(pictures, return_tensors="pt")
            patches = model.model.vision_tower(**batch).last_hidden_state[:, 1:]
            grid = patches.transpose(1, 2).unflatten(2, (6, 6))
            cells.append(nn.functional.avg_pool2d(grid, 2).flatten(1))
        texts = [caption(scene) + tokenizer.eos_token for scene in scenes]
        text = tokenizer(texts, return_tensors="pt", padding=True)
        data[split] = torch.cat(cells), text["input_ids"], text["attention_mask"]
    torch.set_num_threads(1)
    return data | {"vocabulary": len(tokenizer), "end": tokenizer.eos_token_id}


def fit(
    data: dict,
    seed: int,
    batch: int = BATCH,
    group: int | None = None,
    temperature: float = 0.07,
    learned: bool = True,
    samples: int = SAMPLES,
) -> dict:
    """Train one dual encoder and say how it retrieves unseen scenes.

    `group` splits a batch into groups that do not see one another: the number of negatives changes
    and nothing else. The rate goes with the square root of the batch size (Malladi et al. 2022,
    arXiv:2205.10782), since at equal samples a smaller batch takes more steps.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = DualEncoder(data["train"][0].shape[1], data["vocabulary"], data["end"], temperature)
    model.log_scale.requires_grad_(learned)
    steps = max(1, samples // batch)
    rate = LEARNING_RATE * (batch / BATCH) ** 0.5
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps + 1, pct_start=WARM_UP)
    order = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(rows) < batch:  # epochs in another order each, joined
            rows = torch.cat([rows, torch.randperm(len(data["train"][0]), generator=order)])
        taken, rows = rows[:batch], rows[batch:]
        image, text = model(*(part[taken] for part in data["train"]))
        loss = torch.stack([
            info_nce(i, t, model.temperature)
            for i, t in zip(image.split(group or batch), text.split(group or batch), strict=True)
        ]).mean()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "seed": seed,
        "loss": loss.item(),
        "temperature": model.temperature.item(),
        "steps": steps,
    } | exam(model, data)


@torch.inference_mode()
def exam(model: DualEncoder, data: dict) -> dict:
    """Recall at 1 in galleries of 100, picture to text and back; cosines of pairs and of others."""
    model.eval()
    image, text = (nn.functional.normalize(x, dim=-1) for x in model(*data["test"]))
    hits, total, right, wrong = 0, 0, [], []
    for start in range(0, len(image) - GALLERY + 1, GALLERY):
        block = slice(start, start + GALLERY)
        cosines = image[block] @ text[block].T
        own = torch.arange(GALLERY)
        hits += int((cosines.argmax(1) == own).sum() + (cosines.argmax(0) == own).sum())
        total += 2 * GALLERY
        right.append(cosines.diagonal().mean().item())
        wrong.append(((cosines.sum() - cosines.trace()) / (GALLERY**2 - GALLERY)).item())
    return {
        "recall": hits / total,
        "cosine_of_pairs": statistics.mean(right),
        "cosine_of_others": statistics.mean(wrong),
    }


def run_all(data: dict, settings: list[dict], say=None) -> list[dict]:
    """Every setting fitted, on all cores, one thread each; results in the order of the settings."""
    # Spawned, not forked: PyTorch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, _keep, (data,)) as pool:
        found = []
        for setting, result in zip(settings, pool.map(_fit_kept, settings), strict=True):
            found.append(setting | result)
            print(found[-1], file=sys.stderr, flush=True)
    return found


_data: dict = {}


def _keep(data: dict) -> None:
    _data.update(data)


def _fit_kept(setting: dict) -> dict:
    return fit(_data, **setting)


def over_seeds(values: list[float]) -> dict:
    """Mean over seeds and the 95 % interval of it (Student's t: wide at three, and honest)."""
    mean, n = statistics.mean(values), len(values)
    half = 0.0
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": values}


def tiny() -> bool:
    """Whether the script was called with --tiny: the same code in seconds, for a look at it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args().tiny


def script(file: str) -> str:
    """The script's own path from the repository's root, for the record's list of code."""
    root = Path(__file__).resolve().parents[2]
    return Path(file).resolve().relative_to(root).as_posix()
