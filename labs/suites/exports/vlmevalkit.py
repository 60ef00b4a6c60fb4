"""Predictions as VLMEvalKit keeps them, so that it can score them itself.

    vlmevalkit/MODEL/TYYYYmmdd-HHMMSS/MODEL_DATASET.tsv

Give it as `--work-dir …/vlmevalkit --model MODEL --data DATASET --mode eval --reuse` with the
environment variable PRED_FORMAT=tsv (the kit's own default, xlsx, cuts cells at 32,767 characters), or
call `build_dataset(DATASET).evaluate(FILE)`. Columns are those of the kit's data sets: index, question,
hint, A, B, …, answer, category, l2-category, split, image_path, and prediction; those that no row fills
are left out.

A suite with options that the kit does not know gets MODEL's folder's neighbour DATASET.tsv, without
pictures: put it into the kit's LMUData folder, and it is a "custom" multiple-choice set (a circular one
where its name says so). Other suites of this house have predictions only: the kit has no score for them.

Sources: open-compass/VLMEvalKit e8e78f0, vlmeval/smp/file.py (get_pred_file_path, dump, load,
find_prediction_files), dataset/image_mcq.py, image_yorn.py, utils/multiple_choice.py, utils/yorn.py.
"""

import csv
import re
import string
from pathlib import Path
from typing import Any

from labs.formats.files import atomic_write
from labs.suites.contract import Row
from labs.suites.results import Run

ROTATION = (
    1_000_000  # index of the k-th pass of a circular question: index of the first + k of these
)
COLUMNS = ("index", "question", "hint", *string.ascii_uppercase, "answer", "category", "l2-category",
           "split", "image_path", "prediction")  # fmt: skip
FALLBACK = {"category": ("category", "task", "setting", "form"), "l2-category": ("l2_category",)}


def write_vlmevalkit(run: Run, folder: str | Path | None = None) -> list[Path]:
    """Write the run's predictions under `folder` (by default vlmevalkit/ in its own); the paths."""
    root = Path(folder) if folder is not None else run.folder / "vlmevalkit"
    model, name = file_name(run.model), dataset_name(run)
    date = re.sub(r"\D", "", run.scores["date"])[:14]
    rows = records(run)
    paths = [root / model / f"T{date[:8]}-{date[8:]}" / f"{model}_{name}.tsv"]
    _write(paths[0], rows)
    if name.startswith("labs_") and all("A" in row for row in rows):
        paths.append(root / f"{name}.tsv")
        _write(paths[1], [{k: v for k, v in row.items() if k != "prediction"} for row in rows])
    return paths


def dataset_name(run: Run) -> str:
    """What the kit calls the data set; labs_SUITE for one that it does not have."""
    if run.suite == "mmbench":
        file = str(run.config["suite"]["settings"].get("file", "")).lower()
        if "ccbench" in file:
            return "CCBench"
        split = "TEST" if "test" in file else "DEV"
        language = "CN" if re.search(r"(^|[^a-z])(cn|zh)([^a-z]|$)", file) else "EN"
        return f"MMBench_{split}_{language}" + ("_V11" if "v11" in file else "")
    return {"pope": "POPE", "mme": "MME"}.get(run.suite, f"labs_{file_name(run.suite)}")


def file_name(model: str) -> str:
    """A model's name, or a suite's, as one part of a path, whatever is in it."""
    return re.sub(r"[^\w.+-]+", "_", model).lstrip(".")[:100] or "model"


def records(run: Run) -> list[dict[str, Any]]:
    """The rows as the kit's columns, in its order: by index."""
    official = not dataset_name(run).startswith("labs_")
    groups = {key: number for number, key in enumerate(dict.fromkeys(r.group for r in run.rows))}
    made = [
        _record(row, _index(row, number, groups), official) for number, row in enumerate(run.rows)
    ]
    return sorted(made, key=lambda record: record["index"])


def _index(row: Row, number: int, groups: dict[str | None, int]) -> int:
    """The data set's own index; for passes of a circular question theirs; else a running number."""
    if type(row.about.get("index")) is int:
        return row.about["index"]
    if type(row.about.get("rotation")) is int and row.group is not None:
        return groups[row.group] + row.about["rotation"] * ROTATION
    return number


def _record(row: Row, index: int, official: bool) -> dict[str, Any]:
    about = row.about
    record: dict[str, Any] = {
        "index": index,
        # A suite of ours puts its options into the prompt; a benchmark's question is its own.
        "question": about["question"] if official and "question" in about else row.prompt,
        "hint": about.get("hint"),
        "answer": _answer(row.answer),
        "split": about.get("split"),
        "image_path": _picture(about),
        "prediction": row.said,
    }
    if isinstance(options := about.get("options"), list):
        record |= dict(zip(string.ascii_uppercase, options, strict=False))
    for column, keys in FALLBACK.items():
        record[column] = next((about[key] for key in keys if about.get(key) is not None), None)
    return {key: value for key, value in record.items() if value is not None}


def _answer(answer: Any) -> Any:
    """Yes and No with a capital, which is how the kit compares them; a list as Python writes it."""
    if answer in ("yes", "no"):
        return answer.capitalize()
    return repr(answer) if isinstance(answer, list | dict) else answer


def _picture(about: dict) -> str | None:
    """What the kit takes two MME questions for one picture's by."""
    image = about.get("image")
    if not isinstance(image, str):
        return None
    return f"{about['task']}/{image}" if isinstance(about.get("task"), str) else image


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        writer = csv.DictWriter(
            file, columns, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(
            {key: _clean(value) for key, value in row.items() if key in columns} for row in rows
        )


def _clean(value: Any) -> Any:
    """Half a surrogate pair has no bytes in UTF-8; a NUL ends a cell for pandas."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "")
