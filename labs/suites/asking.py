"""Batches asked one after the other, while the last one is written and the next one is made ready.

Opening pictures, scoring and waiting for the disk take a thread of their own: the model does not wait
for them. What a kill can lose is the batch under way and the one that is being written.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from labs.errors import InputError
from labs.suites import folder as files
from labs.suites.contract import Answer, Answerer, Question, Row, Suite, row_of
from labs.suites.machine import hardware, versions


class Update(NamedTuple):
    """How far a run is. done: questions answered, of `total`. asked, tokens, seconds: in this process.

    note: something that a person should know, in one sentence.
    """

    suite: str
    done: int
    total: int
    asked: int = 0
    tokens: int = 0
    seconds: float = 0.0
    note: str | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run: `done` of `total` answers are kept in `folder`."""

    def __init__(self, folder: Path, done: int, total: int):
        self.folder, self.done, self.total = folder, done, total
        super().__init__(f"Interrupted: {done} of {total} answers are kept in {folder}.")


def ask_all(
    answerer: Answerer,
    suite: Suite,
    folder: Path,
    questions: Sequence[Question],
    batches: Sequence[Sequence[int]],
    rows: dict[str, Row],
    batch_size: int,
    progress: Callable[[Update], None] | None,
) -> None:
    """Ask the batches that are not in `rows` yet; each goes to items.jsonl, and into `rows`, whole.

    An answerer may have a method `prepare(questions)`: it is called for the next batch while one is
    answered, in another thread, and what it returns is the second argument of `answer`.

    Raises what `answer` and `prepare` raise, InputError for a full disk and for a question that does
    not fit into memory, and Interrupted on Ctrl-C; what is answered by then is written first.
    """
    say = progress or (lambda _: None)
    total, before, tokens = len(questions), len(rows), 0
    start = perf_counter()
    todo = [
        (number, [questions[i] for i in batch])
        for number, batch in enumerate(batches)
        if questions[batch[0]].id not in rows
    ]

    def update(note: str | None = None) -> Update:
        done = len(rows)
        return Update(suite.name, done, total, done - before, tokens, perf_counter() - start, note)

    def halved(size: int) -> None:
        sentence = f"A batch does not fit into memory: going on with {size} questions at a time."
        files.note(folder, date=files.now(), halved=size)
        say(update(sentence))

    def store(number: int, chosen: list[Question], said: list[Answer], seconds: float) -> None:
        nonlocal tokens
        made = [row_of(suite, q, a) for q, a in zip(chosen, said, strict=True)]
        kept = f"{len(rows)} of {total} answers are kept in {folder}"
        files.append(folder, files.lines(made), kept)
        rows.update((row.id, row) for row in made)
        tokens += sum(row.tokens for row in made)
        files.note(folder, batch=number, n=len(made), seconds=seconds)

    files.note(folder, date=files.now(), start=before, hardware=hardware(), versions=versions())
    say(update())
    asker, prepare = _Asker(answerer, batch_size, halved), getattr(answerer, "prepare", None)
    beside = ThreadPoolExecutor(1, thread_name_prefix="beside-the-model")
    ready = stored = None
    begun = start
    try:
        for place, (number, chosen) in enumerate(todo):
            prepared = ready.result() if ready else None
            following = todo[place + 1][1] if place + 1 < len(todo) else None
            ready = beside.submit(prepare, following) if prepare and following else None
            said = asker.ask(chosen, prepared)
            if stored:
                stored.result()
                say(update())
            now = perf_counter()
            stored = beside.submit(store, number, chosen, said, now - begun)
            begun = now
        if stored:
            stored.result()
            say(update())
    except KeyboardInterrupt:
        beside.shutdown()
        raise Interrupted(folder, len(rows), total) from None
    finally:
        beside.shutdown()  # waits until what was answered is written


class _Asker:
    """Asks batches, in smaller pieces once one of them did not fit into memory."""

    def __init__(self, answerer: Answerer, size: int, halved: Callable[[int], None]):
        self.answerer, self.size, self.halved = answerer, size, halved

    def ask(self, questions: Sequence[Question], prepared: Any = None) -> list[Answer]:
        answers: list[Answer] = []
        while len(answers) < len(questions):
            part = questions[len(answers) : len(answers) + self.size]
            whole = len(part) == len(questions)
            said = self._try(part, *([prepared] if whole and prepared is not None else []))
            if said is not None:
                answers += said
            elif len(part) == 1:
                raise InputError(
                    f"Question {part[0].id} does not fit into memory even alone.",
                    "Use --dtype bfloat16 or --quantization, smaller pictures, or a device with more "
                    "memory; `oom_doctor.py predict` says what each saves.",
                )
            else:
                self.size = (len(part) + 1) // 2
                self.halved(self.size)
        return answers

    def _try(self, part: Sequence[Question], *prepared: Any) -> list[Answer] | None:
        """The answers, or None where there was no memory; by then what it held is let go."""
        try:
            said = self.answerer.answer(part, *prepared)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            if len(said) != len(part):
                raise ValueError(f"{self.answerer.name} gave {len(said)} answers to {len(part)}")
            return said
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def out_of_memory(error: BaseException) -> bool:
    """The allocator's exception, CUDA's and cuBLAS's own, which have no class, and a CPU's."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in said for words in ("out of memory", "alloc_failed", "can't allocate memory")
    )
