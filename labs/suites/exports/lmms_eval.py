"""Results as lmms-eval writes them with --log_samples, so that its tools read them.

    lmms_eval/MODEL/YYYYmmdd_HHMMSS_results.json
    lmms_eval/MODEL/YYYYmmdd_HHMMSS_samples_TASK.jsonl

Its log viewer lists such folders, `--baseline FILE.jsonl` compares a new run with the samples item by
item (doc_id, `score`), and its table prints the results.

Sources: EvolvingLMMs-Lab/lmms-eval 75571cf, lmms_eval/loggers/evaluation_tracker.py, evaluator.py,
utils.py (make_table, sanitize_model_name), baselines/loader.py, tui/server.py and
docs/getting-started/commands.md (fields of a sample).
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from labs.formats.files import atomic_write
from labs.suites.contract import Row
from labs.suites.folder import dumps, write_json
from labs.suites.results import Run

TASKS = {"pope": "pope", "mme": "mme", "vqav2": "vqav2_val"}


def write_lmms_eval(run: Run, folder: str | Path | None = None) -> list[Path]:
    """Write the run under `folder` (by default lmms_eval/ in its own); the paths, samples last."""
    root = Path(folder) if folder is not None else run.folder / "lmms_eval"
    date = re.sub(r"\D", "", run.scores["date"])[:14]
    stamp, task = f"{date[:8]}_{date[8:]}", task_name(run)
    place = root / sanitized(run.model)
    samples = [sample(number, row) for number, row in enumerate(run.rows)]
    results = place / f"{stamp}_results.json"
    lines = place / f"{stamp}_samples_{task}.jsonl"
    write_json(results, _results(run, task, stamp, samples))
    with atomic_write(lines, "wb") as file:
        file.writelines(dumps(line) + b"\n" for line in samples)
    return [results, lines]


def task_name(run: Run) -> str:
    """What lmms-eval calls the task; labs_SUITE for one that it does not have."""
    if run.suite == "mmbench":
        file = str(run.config["suite"]["settings"].get("file", "")).lower()
        language = "cn" if re.search(r"(^|[^a-z])(cn|zh)([^a-z]|$)", file) else "en"
        return f"mmbench_{language}_{'test' if 'test' in file else 'dev'}"
    return TASKS.get(run.suite, re.sub(r"\W", "_", f"labs_{run.suite}")[:100])


def sanitized(model: str) -> str:
    """A model's name as its folder: the last two parts, without what paths cannot hold."""
    name = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f]+", "__", "/".join(model.split("/")[-2:]))
    return name.lstrip(".")[:100] or "model"


def sample(number: int, row: Row) -> dict[str, Any]:
    """One line of the samples file.

    `resps` is left out, as lmms-eval leaves it out where it equals `filtered_resps`. `score` is the
    key that its comparison looks for; nothing else has "score" in its name.
    """
    doc = {"id": row.id, "prompt": row.prompt, "answer": row.answer, **row.about}
    text = json.dumps(doc, indent=2, ensure_ascii=True)
    return {
        "doc_id": number,
        "target": row.answer if isinstance(row.answer, str) else json.dumps(row.answer),
        "filtered_resps": [row.said],
        "token_counts": [{"output_tokens": row.tokens}],
        "doc_hash": hashlib.sha256(text.encode()).hexdigest(),
        "score": row.score,
        "parsed": row.parsed,
        "status": row.status,
        "labs_id": row.id,
        "input": row.prompt,
    }


def _results(run: Run, task: str, stamp: str, samples: list[dict]) -> dict[str, Any]:
    n, seconds = len(run.rows), run.scores["seconds"]
    hashes = "".join(f"sample_{index}{line['doc_hash']}" for index, line in enumerate(samples))
    model = run.config["model"]
    return {
        "results": {task: {"alias": task, **_metrics(run)}},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "output_type": "generate_until", "score_key": "score",
                           "metadata": run.config["suite"].get("settings") or {}}},
        "versions": {task: run.config.get("versions", {}).get("labs", "Yaml")},
        "n-shot": {task: 0},
        "higher_is_better": {task: {run.headline: True}},
        "n-samples": {task: {"original": n, "effective": n}},
        "config": {
            "model": model["name"],
            "model_args": f"pretrained={model.get('path', model['name'])},dtype={model.get('dtype')}",
            "batch_size": run.config.get("batch_size"),
            "device": model.get("device"),
            "limit": None,
            "gen_kwargs": json.dumps(run.config.get("generation")),
        },
        "date": stamp,
        "task_hashes": {task: hashlib.sha256(hashes.encode()).hexdigest()},
        "model_source": "labs",
        "model_name": model["name"],
        "model_name_sanitized": sanitized(model["name"]),
        "total_evaluation_time_seconds": str(seconds),
    }  # fmt: skip


def _metrics(run: Run) -> dict[str, Any]:
    """Each measure as "NAME,none"; the standard error where the measure is the mean score, by the
    central limit theorem as lmms-eval's stderr_clt, else "N/A"."""
    scores = [row.score for row in run.rows]
    n, mean = len(scores), sum(scores) / len(scores)
    error: float | str = "N/A"
    if n > 1:
        error = math.sqrt(sum((score - mean) ** 2 for score in scores) / (n - 1) / n)
    metrics: dict[str, Any] = {}
    for name, measure in run.measures.items():
        key = name.replace(",", " ")
        same = measure.n == n and math.isclose(measure.value, mean, abs_tol=1e-12)
        metrics |= {f"{key},none": measure.value, f"{key}_stderr,none": error if same else "N/A"}
    return metrics
