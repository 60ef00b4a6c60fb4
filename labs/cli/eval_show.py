"""What a person sees of an evaluation: a bar while it runs, a table of scores, answers that are wrong."""

import json
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from labs.suites.compare import Comparison, Pair, shown
from labs.suites.results import Run
from labs.suites.runner import Update

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class Progress:
    """A rich bar for each suite on a terminal, a line now and then elsewhere; on standard error."""

    def __init__(self, console: Console):
        self.console, self.bar, self.name, self.task = console, None, "", None
        self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}", markup=False),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=self.console,
                refresh_per_second=2,  # drawing takes time from the model on a small machine
            )
            self.bar.start()
        return self

    def start(self, name: str) -> None:
        """The next suite."""
        self.name, self.task = name, None

    def update(self, update: Update) -> None:
        speed = f"{update.tokens / update.seconds:,.0f} tokens/s" if update.seconds else ""
        if self.bar is None:
            self._line(update, speed)
            return
        if self.task is None:
            self.task = self.bar.add_task(
                self.name, total=update.total, completed=update.done, speed=""
            )
        self.bar.update(self.task, completed=update.done, speed=speed)
        if update.note:
            self.bar.console.print(update.note, markup=False, highlight=False)

    def _line(self, update: Update, speed: str) -> None:
        due = time.monotonic() - self.last_line > PLAIN_SECONDS
        if update.note:
            print(update.note, file=sys.stderr, flush=True)
        elif due and update.asked:
            self.last_line = time.monotonic()
            left = update.seconds * (update.total - update.done) / update.asked
            print(
                f"{self.name}: {update.done}/{update.total} · {speed} · {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """The headline of each suite with what must be read beside it; then its other measures."""
    yield headlines(runs)
    for run in runs:
        if len(run.measures) > 1:
            yield _others(run)


def headlines(runs: Sequence[Run]) -> Table:
    models = {run.model for run in runs}
    table = Table(
        title=Text(", ".join(sorted(models))),
        caption="cut: at the limit of tokens. tokens: generated, an answer.",
    )
    table.add_column("suite", overflow="fold")
    table.add_column("headline (95 %)")
    for heading in ("n", "unparsed", "cut", "tokens"):
        table.add_column(heading, justify="right")
    for run in runs:
        scores = run.scores
        title = run.suite if len(models) == 1 else f"{run.model}: {run.suite}"
        table.add_row(
            Text(title), Text(f"{run.headline} {shown(run.measures[run.headline])}"),
            f"{scores['n']:,}", _unparsed(scores), f"{100 * scores['unfinished']['value']:.1f} %",
            f"{scores['tokens']['mean']:.1f}",
        )  # fmt: skip
    return table


def _others(run: Run) -> Table:
    """What else a suite measures; parts of it (categories, tasks: names with a slash) are counted."""
    table = Table(title=Text(f"{run.suite}, {run.model}"))
    table.add_column("measure", overflow="fold")
    table.add_column("value (95 %)")
    table.add_column("n", justify="right")
    parts = 0
    for name, measure in run.measures.items():
        if "/" in name:
            parts += 1
        elif name != run.headline:
            table.add_row(Text(name), shown(measure), f"{measure.n:,}")
    if parts:
        table.caption = f"{parts} more, by part, in scores.json"
    return table


def _unparsed(scores: dict) -> str:
    """The share of answers that could not be read, and why."""
    why = ", ".join(f"{k} {v}" for k, v in scores["statuses"].items() if k != "read")
    return f"{100 * scores['unparsed']['value']:.1f} %" + (f" ({why})" if why else "")


def run_json(run: Run, examples: int) -> dict:
    return {
        "folder": str(run.folder),
        "scores": run.scores,
        "examples": [row.to_dict() for row in _wrong_rows(run, examples)],
    }


def _wrong_rows(run: Run, count: int) -> list:
    """What could not be read first, then the lowest scores; in the suite's order where equal."""
    wrong = [row for row in run.rows if row.score < 1]
    return sorted(wrong, key=lambda row: (row.status == "read", row.score))[:count]


def wrong(run: Run, count: int) -> Iterator[Text]:
    """Answers that are not right, each with what was asked and what was read."""
    for row in _wrong_rows(run, count):
        verdict = row.status if row.status != "read" else f"{quoted(row.parsed)}, {row.score:g}"
        yield Text.assemble(
            (f"{run.suite} {row.id}\n", "bold"), *_asked(row.prompt, row.answer),
            "  said    ", quoted(row.said), f"\n  read    {verdict}",
        )  # fmt: skip


def differing(found: Comparison, pair: Pair, count: int) -> Iterator[Text]:
    """Questions on which two runs differ most, with both answers."""
    for example in found.examples(pair.suite, pair.first, pair.second, count):
        said = "".join(
            f"\n  {label}: {quoted(example.said[label])}, {example.score[label]:g}"
            for label in (pair.first, pair.second)
        )
        yield Text.assemble(
            (f"{pair.suite} {example.id}\n", "bold"),
            *_asked(example.prompt, example.answer, last=""),
            said,
        )


def _asked(prompt: str, answer, last: str = "\n") -> list[str]:
    return ["  asked   ", quoted(prompt), "\n  right   ", quoted(answer), last]


def quoted(value, longest: int = 400) -> str:
    """As JSON: what a model says may hold line ends and terminal codes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[:longest]}…"
