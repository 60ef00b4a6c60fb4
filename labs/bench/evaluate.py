"""`labs eval` against Transformers' own batched `generate`: answers a second, on the same questions.

Both ways have the same model, questions, pictures in memory, batch size and limits of tokens, and both
prepare each batch with the model's own processor, padded on the left. `transformers` is what its
documentation shows: batches in the order of the questions, one call of `generate` each, `batch_decode`.
`labs` is what the command does: batches planned by length, `generate`, every answer read, scored,
written and synced to disk, sums with intervals, and the layouts of other kits.

What `labs` gains is padding that need not be computed, where prompts differ in length; what it pays is
all that comes after an answer. With a model as tiny as this one reading and scoring weigh most: what
they cost does not grow with the model.

Each way is a process of its own on one thread; they take turns. Before speeds are compared, answers
are: padding moves logits in the last digits, so a few may differ, and more than one in a hundred ends
the bench. Making the questions is left out of both. Seconds are wall-clock seconds; the ratio of CPU
seconds stands beside them, for a machine that others use too.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from labs.bench.children import BenchError, Progress, interleave, medians, ratio, serve, spread

WAYS = ("labs", "transformers")
MODEL = "tiny-base"
SUITES = ("existence", "counting", "colour", "position", "choice", "captions")
N, BATCH = 800, 64
TARGET = 1.0  # answers a second, ours / Transformers'
DIFFERENT = 0.01  # of the answers, at most
SEED = 0
CODE = (
    "labs/bench/evaluate.py",
    "labs/bench/children.py",
    "labs/suites/contract.py",
    "labs/suites/asking.py",
    "labs/suites/runner.py",
    "labs/suites/questions.py",
    "labs/suites/folder.py",
    "labs/suites/suspicious.py",
    "labs/suites/results.py",
    "labs/suites/summary.py",
    "labs/suites/chat.py",
    "labs/suites/machine.py",
    "labs/suites/exports",
    "labs/suites/offline",
    "labs/evaluation/answers",
    "labs/evaluation/clusters.py",
    "labs/evaluation/intervals.py",
    "labs/models/generation.py",
    "labs/shapes",
)


class NotComparable(BenchError):
    """The two ways do not give the same answers, so that a ratio of their speeds means nothing."""


def run(
    repeats: int = 3,
    n: int = N,
    batch: int = BATCH,
    turns: int = 2,
    progress: Progress | None = None,
    suites: tuple[str, ...] = SUITES,
    quick: bool = False,
) -> dict:
    """Measure both ways, `repeats` fresh sets of children with `turns` turns each. Returns

        {"setting": {...}, "answers_per_second": {way: x}, "tokens_per_second": {way: x},
         "seconds": {way: x}, "against_transformers": x, "spread": [low, high],
         "cpu_against_transformers": x, "suites": {name: x}, "different": x}

    against_transformers: answers a second, ours / theirs (above 1: ours is faster), the median over
    the rounds of the ratio within a round, and its quartiles; suites: the same of each suite alone.
    different: the share of answers whose texts differ. quick: an eighth of the questions, once. Raises
    NotComparable.
    """
    if quick:
        repeats, n, turns = 1, n // 8, 1
    rounds, different = [], 0.0
    for index in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"n": n, "batch": batch, "suites": suites, "folder": folder}
            _, new = interleave(
                "labs.bench.evaluate", WAYS, settings, turns + 1, first=index,
                name=f"children {index + 1} of {repeats}", progress=progress,
            )  # fmt: skip
            different = max(different, _different(Path(folder)))
        rounds += new[1:]  # the first round warms up
    seconds, tokens = medians(rounds, "seconds"), medians(rounds, "tokens")
    answers = n * len(suites)
    return {
        "setting": {
            "model": MODEL, "suites": list(suites), "n": answers, "batch": batch,
            "repeats": repeats, "turns": turns, "dtype": "float32", "threads": 1,
        },
        "answers_per_second": {way: answers / seconds[way] for way in WAYS},
        "tokens_per_second": {way: tokens[way] / seconds[way] for way in WAYS},
        "seconds": seconds,
        "against_transformers": ratio(rounds, "seconds", "transformers", "labs"),
        "spread": list(spread(rounds, "seconds", "transformers", "labs")),
        "cpu_against_transformers": ratio(rounds, "cpu_seconds", "transformers", "labs"),
        "suites": {name: ratio(rounds, name, "transformers", "labs") for name in suites},
        "different": different,
    }  # fmt: skip


def _different(folder: Path) -> float:
    """The share of answers that the ways do not share; NotComparable where it is large."""
    ours, theirs = (json.loads((folder / f"{way}.json").read_text()) for way in WAYS)
    if ours.keys() != theirs.keys():
        raise NotComparable("The two ways were not asked the same questions.")
    share = sum(ours[key] != theirs[key] for key in ours) / len(ours)
    if share > DIFFERENT:
        raise NotComparable(f"{100 * share:.1f} % of the answers differ.")
    return share


def _child(way: str, n: int, batch: int, suites: list[str], folder: str) -> None:
    import torch

    from labs.suites.registry import load_suite

    torch.set_num_threads(1)

    made = []
    for name in suites:
        suite = load_suite(name, n=n)
        suite.made = list(suite.questions())
        suite.questions = suite.made.__iter__  # made already: not what is measured
        made.append(suite)
    ask = (_labs if way == "labs" else _transformers)(batch)

    def measure() -> dict:
        said, tokens, by_suite, cpu = {}, 0, {}, time.process_time()
        for suite in made:
            start = time.perf_counter()
            answers, count = ask(suite)
            by_suite[suite.name] = time.perf_counter() - start
            said |= {f"{suite.name}/{id}": text for id, text in answers.items()}
            tokens += count
        cpu = time.process_time() - cpu
        Path(folder, f"{way}.json").write_text(json.dumps(said))
        total = sum(by_suite.values())
        return {"seconds": total, "cpu_seconds": cpu, "tokens": tokens, **by_suite}

    serve(measure)


def _labs(batch: int):
    """What `labs eval` does after it has loaded suites and model."""
    from labs.suites.answerers import load_answerer
    from labs.suites.exports import write_lmms_eval, write_vlmevalkit
    from labs.suites.runner import run as run_suite

    answerer = load_answerer(MODEL, device="cpu")

    def ask(suite) -> tuple[dict[str, str], int]:
        with tempfile.TemporaryDirectory() as folder:
            done = run_suite(answerer, suite, Path(folder, suite.name), batch_size=batch)
            write_vlmevalkit(done)
            write_lmms_eval(done)
        return {row.id: row.said for row in done.rows}, done.scores["tokens"]["total"]

    return ask


def _transformers(batch: int):
    """Batches in the order of the questions, as Transformers' documentation generates them."""
    import torch

    from labs.models import load_vlm, user_message

    model, processor = load_vlm(MODEL, device="cpu")
    tokenizer = processor.tokenizer

    @torch.inference_mode()
    def ask(suite) -> tuple[dict[str, str], int]:
        said, tokens = {}, 0
        for start in range(0, len(suite.made), batch):
            chosen = suite.made[start : start + batch]
            prompts = processor.apply_chat_template(
                [[user_message(q.prompt, images=len(q.images))] for q in chosen],
                add_generation_prompt=True,
                tokenize=False,
            )
            inputs = processor(
                text=prompts,
                images=[image.convert("RGB") for q in chosen for image in q.images],
                return_tensors="pt",
                padding=True,
                text_kwargs={"padding_side": "left"},
            )
            output = model.generate(
                **inputs, do_sample=False, max_new_tokens=max(q.max_new_tokens for q in chosen)
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            said |= {q.id: text for q, text in zip(chosen, texts, strict=True)}
            tokens += int((new != tokenizer.pad_token_id).sum())
        return said, tokens

    return ask


def tables(result: dict) -> list:
    """Both ways and their ratio, as a rich table."""
    from rich.table import Table

    setting, (low, high) = result["setting"], result["spread"]
    table = Table(
        title=f"{setting['n']:,} questions to {setting['model']}, batch {setting['batch']}, "
        f"float32, one thread, {setting['repeats']} x {setting['turns']} rounds",
        caption=f"{100 * result['different']:.2f} % of the answers differ. "
        f"Target: {TARGET:.1f} times as fast.",
    )
    for column in (
        "way",
        "answers/s",
        "tokens/s",
        "seconds",
        "labs is faster by (quartiles)",
        "CPU",
    ):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in WAYS:
        against = ["", ""]
        if way == "transformers":
            against = [
                f"{result['against_transformers']:.2f} ({low:.2f} to {high:.2f})",
                f"{result['cpu_against_transformers']:.2f}",
            ]
        table.add_row(
            way, f"{result['answers_per_second'][way]:.0f}", f"{result['tokens_per_second'][way]:.0f}",
            f"{result['seconds'][way]:.2f}", *against,
        )  # fmt: skip
    suites = Table("suite", "labs is faster by")
    for name, value in result["suites"].items():
        suites.add_row(name, f"{value:.2f}")
    return [table, suites]


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
