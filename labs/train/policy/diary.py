"""The diary that a policy run keeps: a line a step, sample answers, TensorBoard, and a report. Chapter 5.

In the run's folder: diary.jsonl (one JSON object a step), samples.jsonl with samples/STEP_K.png,
run.json (what the run was), tensorboard/, and report.html when it ends. Every line is written whole by
one call, so that a killed run leaves all of its steps. NaN and infinities are written as the strings
"NaN", "Infinity" and "-Infinity": JSON has no others.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.files import atomic_write
from labs.train.policy.reading import DIARY, PICTURES, RUN, SAMPLES, parse, whole_lines
from labs.train.policy.report import write_report
from labs.train.policy.series import number

PICTURE_SIDE = 384  # larger pictures are made smaller: they are there to be glanced at

GROUPS = {
    "reward": "reward reward_std rewards/ task/ hallucination_rate objects_invented objects_named",
    "kl": "kl kl_per_sequence kl_coef kl_loss",
    "policy": "entropy loss policy_loss clip_fraction approx_kl learning_rate grad_norm updates stopped_early",
    "value": "value_loss value_clip_fraction value_explained_variance",
    "rollout": "response_length finished no_signal mismatch mismatch_max skipped/",
    "speed": "seconds_rollout seconds_score seconds_update completions_per_second tokens_per_second",
}
_GROUP = {name: group for group, members in GROUPS.items() for name in members.split()}


class Diary:
    """Keeps the diary of one run in `folder`; nothing where that is None (other ranks, no output).

    run: what the run is (model, recipe, settings), for run.json and the report. step: the step that
    the run goes on from. What the files say of later steps is cut off, for those steps come again.
    At step 0 a run begins: an older diary in the folder is kept as diary.previous.jsonl.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        report_to: str = "none",
        run: Mapping[str, Any] | None = None,
        step: int = 0,
    ):
        self.folder = Path(folder) if folder is not None else None
        self.writer = None
        self.lines = 0
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not step and (self.folder / DIARY).exists():
            os.replace(self.folder / DIARY, self.folder / "diary.previous.jsonl")
        self.lines = _cut(self.folder / DIARY, step)
        _cut(self.folder / SAMPLES, step)
        _cut_pictures(self.folder / PICTURES, step)
        with atomic_write(self.folder / RUN) as file:
            json.dump(_plain(run or {}), file, indent=1, default=str)
        self.diary = open(self.folder / DIARY, "ab", buffering=0)  # noqa: SIM115 - open for the whole run
        self.samples = open(self.folder / SAMPLES, "ab", buffering=0)  # noqa: SIM115
        if report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: a resumed run overwrites what the lost steps had logged
            self.writer = SummaryWriter(
                self.folder / "tensorboard", purge_step=step + 1 if step else None
            )

    def log(self, entry: Mapping[str, Any], samples: Sequence[Mapping[str, Any]] | None = None):
        """Append one step. `entry["step"]` is its number; values that are None are left out.

        samples: dicts of prompt, said, answer, reward, task and image (a Pillow image, a path or None).
        """
        if self.folder is None:
            return
        step = int(entry["step"])
        values = {name: number(value) for name, value in entry.items() if name != "step"}
        values = {name: value for name, value in values.items() if value is not None}
        for k, sample in enumerate(samples or ()):
            self._sample(step, k, sample)
        _append(self.diary, {"step": step, **values})
        self.lines += 1
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(tag(name), value, step)

    def _sample(self, step: int, k: int, sample: Mapping[str, Any]) -> None:
        picture, pixels = sample.get("image"), None
        line = {"step": step, "k": k, "prompt": str(sample["prompt"]), "said": str(sample["said"])}
        answer = sample.get("answer")
        line |= {"answer": None if answer is None else str(answer)}
        line |= {"reward": number(sample.get("reward"))}
        line |= {"task": str(sample.get("task") or ""), "image": None}
        if picture is not None:
            picture = load_image(picture)
            pixels = np.asarray(picture)
            line["same_picture"] = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
            picture = picture.copy()
            picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
            line["image"] = f"{PICTURES}/{step}_{k}.png"
            with atomic_write(self.folder / line["image"], "wb") as file:
                picture.save(file, "PNG")
        _append(self.samples, line)
        if self.writer is not None:
            # Four spaces make it code: an answer's own markup is shown, not drawn.
            told = {n: line[n] for n in ("prompt", "said", "answer", "reward", "task")}
            text = "\n".join(f"    {n}: {v}".replace("\n", "\n    ") for n, v in told.items())
            self.writer.add_text(f"samples/{k}", text, step)
            if picture is not None:
                self.writer.add_image(
                    f"samples/{k}", np.array(picture), step, dataformats="HWC"
                )  # fmt: skip

    def close(self) -> None:
        """Write report.html, where anything was logged, and close the files."""
        if self.folder is None:
            return
        self.diary.close()
        self.samples.close()
        if self.writer is not None:
            self.writer.close()
        if self.lines:
            write_report(self.folder)


def tag(name: str) -> str:
    """TensorBoard's name of a quantity: its group, then the name. "task/count" is "reward/task/count"."""
    head, slash, _ = name.partition("/")
    return f"{_GROUP.get(head + slash, 'train')}/{name}"


def _append(file: IO[bytes], record: dict) -> None:
    """One line by one write, or none of it."""
    line = json.dumps(_plain(record)).encode() + b"\n"
    end = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "only part of the line was written")
    except OSError as error:
        os.ftruncate(file.fileno(), end)
        raise InputError(
            f"The diary {file.name} cannot be written: {error.strerror}.",
            "Free some space, and resume from the last checkpoint.",
        ) from error


def _plain(value: Any) -> Any:
    """The same without NaN and infinities, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _cut(path: Path, step: int) -> int:
    """Keep the whole lines up to `step`; returns how many. Broken lines go too: nothing can date them."""
    kept = []
    if step:
        for _, line, ended in whole_lines(path):
            try:
                if ended and parse(line)[0] <= step:
                    kept.append(line)
            except ValueError:
                continue
    if path.exists():
        with atomic_write(path, "wb") as file:
            file.writelines(kept)
    return len(kept)


def _cut_pictures(folder: Path, step: int) -> None:
    for path in folder.glob("*_*.png"):
        number, _, k = path.stem.partition("_")
        if number.isdecimal() and k.isdecimal() and (not step or int(number) > step):
            path.unlink()
