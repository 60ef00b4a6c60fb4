"""`run`: a model is asked a suite, and what comes of it stands in a results folder.

The folder can be left and gone on with at any point, Ctrl-C, kill -9 or a full disk: what is answered
is kept, nothing that is kept is asked again, and in the end the rows are those of a run that was never
disturbed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from labs.errors import InputError
from labs.suites import folder as files
from labs.suites.asking import Interrupted, Update, ask_all
from labs.suites.contract import Answer, Answerer, Row, Suite, row_of
from labs.suites.machine import hardware, versions
from labs.suites.questions import fingerprint, limited, plan, prepare
from labs.suites.results import Run, read_config, read_rows, read_run, row_from
from labs.suites.summary import statuses, unfinished, unparsed

__all__ = ["Interrupted", "Update", "rescore", "run", "scores_of"]

FORMAT = 1


def run(
    answerer: Answerer,
    suite: Suite,
    folder: str | Path,
    *,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    progress: Callable[[Update], None] | None = None,
) -> Run:
    """Ask `suite` of `answerer`, score the answers, and write it all to `folder`.

    A folder of the same run is gone on with. max_new_tokens: for all questions, in place of the
    suite's own limits. progress: called at the start and after each batch.

    A batch that does not fit into memory is asked in halves, and later ones too; `progress` says so.
    A picture that cannot be opened ends the run: a score over the rest would be another suite's.

    Raises InputError for a folder of another run or one that another process writes to, a suite
    that `prepare` refuses, a picture, a full disk, and Interrupted on Ctrl-C. Chapter 7.
    """
    folder = Path(folder)
    if batch_size < 1:
        raise InputError(f"A batch of {batch_size} is none.", "Give --batch-size 1 or more.")
    # Edge cases are asked in a way of their own: what they raise is what they measure.
    around = getattr(suite, "around", None)
    answerer = around(answerer) if around else answerer
    model = answerer.describe()
    pictures = model.get("pictures", "seen") == "seen" and not around
    questions = prepare(suite, pictures=pictures)
    print_of = fingerprint(questions)
    asked = limited(questions, max_new_tokens)
    batches = plan(asked, answerer, batch_size)
    config = {
        "format": FORMAT,
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "settings": suite.settings(),
            "loaded": getattr(suite, "loaded", None),
        },
        "model": model,
        "generation": {
            "decoding": "greedy",
            "max_new_tokens": sorted({q.max_new_tokens for q in asked}),
        },
        "batch_size": batch_size,
        "questions": {
            "n": len(questions),
            "fingerprint": print_of,
            "described": sum("description" in q.about for q in questions),
        },
        "versions": versions(),
        "hardware": hardware(),
    }
    with files.locked(folder):
        files.settle(folder, config)
        kept = files.answered(folder, [[asked[i].id for i in batch] for batch in batches])
        if (folder / files.SCORES).exists() and len(kept) == len(questions):
            if progress:
                progress(Update(suite.name, len(kept), len(questions)))
            return read_run(folder)
        where = str(folder / files.ITEMS)
        by_id = {q.id: q for q in asked}
        # What an earlier process read and scored is read again: all rows shall be of one make.
        rows = {
            id: row_of(suite, by_id[id], _answer(row_from(line, where)))
            for id, line in kept.items()
        }
        ask_all(answerer, suite, folder, asked, batches, rows, batch_size, progress)
        _finish(folder, suite, [rows[q.id] for q in questions], model["name"])
    return read_run(folder)


def _answer(row: Row) -> Answer:
    """What a model said, by a line of items.jsonl."""
    return Answer(row.said, row.tokens, row.finished, tuple(row.thoughts))


def _finish(folder: Path, suite: Suite, rows: Sequence[Row], model: str) -> None:
    files.finish(folder, rows, scores_of(suite, rows, model, files.seconds(folder)))


def scores_of(suite: Suite, rows: Sequence[Row], model: str, seconds: float) -> dict:
    """What scores.json holds. seconds: of asking, all processes together."""
    measures = suite.measures(rows)
    tokens = sum(row.tokens for row in rows)
    return {
        "suite": suite.name,
        "model": model,
        "headline": suite.headline if suite.headline in measures else next(iter(measures)),
        "n": len(rows),
        "measures": {name: measure._asdict() for name, measure in measures.items()},
        "statuses": statuses(rows),
        "unparsed": unparsed(rows)._asdict(),
        "unfinished": unfinished(rows)._asdict(),
        "tokens": {"total": tokens, "mean": tokens / len(rows)},
        "seconds": round(seconds, 3),
        "date": files.now(),
    }


def rescore(folder: str | Path, suite: Suite) -> Run:
    """Read and score the answers of a finished run again, without a model.

    For a reader or a measure that has changed. What was asked and said stays as it is. Raises
    InputError where the suite no longer asks what the run was asked, or an answer is missing.
    """
    folder = Path(folder)
    with files.locked(folder):
        config = read_config(folder)
        questions = prepare(suite, pictures=False)
        if fingerprint(questions) != config["questions"]["fingerprint"]:
            raise InputError(
                f"The suite {suite.name} does not ask what the run in {folder} was asked "
                f"({config['questions']['n']} questions then, {len(questions)} now).",
                "Load the suite as it was then, or run it again.",
            )
        rows = {row.id: row for row in read_rows(folder)}
        if missing := [q.id for q in questions if q.id not in rows]:
            raise InputError(
                f"The run in {folder} has no answer to {len(missing)} of {len(questions)} "
                f"questions, {missing[0]} the first.",
                "Run the same `labs eval` command again: it goes on where it stopped.",
            )
        files.note(folder, date=files.now(), rescored=True, versions=versions())
        again = [row_of(suite, q, _answer(rows[q.id])) for q in questions]
        _finish(folder, suite, again, config["model"]["name"])
    return read_run(folder)
