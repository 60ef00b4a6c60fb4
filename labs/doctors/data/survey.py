"""One pass over a data set's text, on all cores: what is wrong with it, and what is in it.

The parent cuts files into pieces of whole records and adds up what comes back; children decode and
look. Nothing but counts, digests and references to images is kept of a sample.

Standard library only, Python 3.9 or newer (Transformers where tokens are counted).
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); the arrays of a table have one length)
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.data.options import Options
from labs.doctors.data.reading.jobs import Answer, Job, answers, read_job
from labs.doctors.data.reading.pool import Alone, Pool
from labs.doctors.data.reading.sources import coco_names
from labs.doctors.data.reading.whole import place_name, reader, row_at
from labs.doctors.data.sample import Place, Problem, Sample
from labs.doctors.data.tally import EXAMPLES, Tally
from labs.doctors.data.text.collect import Collector, Part
from labs.doctors.data.text.copies import find_copies, find_one_sided_answers, find_shared_captions
from labs.doctors.data.text.corpus import Corpus, DataFile
from labs.doctors.data.text.images import Entry, ImageTable
from labs.doctors.data.text.leaks import find_leaks
from labs.doctors.data.text.references import Folder
from labs.doctors.data.text.turns import rules_for
from labs.errors import InputError
from labs.formats.json_rows import Arrival
from labs.formats.row import Row, printable
from labs.formats.rows import SIZE
from labs.formats.sniff import Layout, sniff

Progress = Callable[[str, int, "int | None"], None]
SMALL = 8 << 20  # bytes of data up to which starting processes takes longer than reading
HELD_OUT = ("val", "test")
BENCHMARKS = ("mmbench", "pope", "mme", "qilin")  # their splits share images and queries on purpose


@dataclass
class Survey:
    """What one pass over the text found.

    images: every image that is referred to, once each, looked up on disk. histograms: "turns",
    "images", "characters" (and "tokens", "visual_tokens" where they were counted) -> lower edge of a
    bin -> samples; `labs.doctors.data.text.collect.upper_edge` gives the other edge. answers: (language,
    "yes" or "no") -> answers that begin with it. unchecked: sentences about what was not looked at.
    files: each with its split. other: the same of `options.against`, None without.
    """

    layout: Layout
    tally: Tally
    samples: int
    turns: int
    images: ImageTable
    histograms: dict[str, Counter]
    answers: dict[tuple[str, str], int]
    unchecked: list[str]
    files: list[DataFile]
    other: Corpus | None = None

    def held_out_images(self) -> Iterator[Entry]:
        """The images of the other splits: of val and test files here, and of `options.against`."""
        files = {n for n, file in enumerate(self.files) if file.split in HELD_OUT}
        yield from _shown_in(self.images, files)
        if self.other is not None:
            yield from self.other.images

    def training_images(self) -> Iterator[Entry]:
        """The images of the files that are neither val nor test."""
        files = {n for n, file in enumerate(self.files) if file.split not in HELD_OUT}
        yield from _shown_in(self.images, files)


def _shown_in(table: ImageTable, files: set[int]) -> Iterator[Entry]:
    numbers = {n for n, file in zip(table.uses, table.use_files) if file in files}
    return map(table.entry, sorted(numbers))


def survey(
    layout: Layout,
    options: Options,
    progress: Progress | None = None,
    make_checker: Callable[[], Any] | None = None,
    size: int = SIZE,
) -> Survey:
    """Read all of `layout` and, for leaks, `options.against`.

    progress: told of ("text", megabytes read, of how many). make_checker: makes what counts tokens
    (`labs.doctors.data.tokens.make_checker` with its arguments, as a functools.partial), called in each
    process. size: bytes of a piece. Raises InputError where a file cannot be opened, or a process dies.
    """
    folder = options.path if options.path.is_dir() else options.path.parent
    others = [sniff(path) for path in options.against]
    apart = {os.path.realpath(file) for other in others for file in other.files}
    files = [file for file in layout.files if os.path.realpath(file) not in apart]
    if not files:
        raise InputError(
            f"Everything in {options.path} is also named by --against.",
            "Name the other split there.",
        )
    splits = {file: name for name, members in layout.splits.items() for file in members}
    compared = bool(others) or (
        layout.format not in BENCHMARKS and len({splits.get(file, "train") for file in files}) > 1
    )
    corpus = Corpus(options.examples, options.follow_links)
    other = Corpus(follow_links=options.follow_links) if others else None
    runs = [
        _Run(corpus, layout, Work(layout.format, True, compared, make_checker, options.examples))
    ]
    runs[0].add(files, folder, options, splits)
    for one in others:
        runs.append(_Run(other, one, Work(one.format, False, True)))
        runs[-1].add(one.files, one.root, options, dict.fromkeys(one.files, "against"))
    try:
        _read_all(runs, options.processes, size, progress)
    except OSError as error:
        raise InputError(
            f"{error.filename or options.path} cannot be read: {error.strerror or error}.",
            "Check that nothing changes the data meanwhile, and the disk.",
        ) from None
    _finish(corpus, other, compared, layout)
    if make_checker is None:
        corpus.unchecked.append(
            "Special tokens were looked for by a table of known ones: no --model was given."
        )
    return Survey(
        layout, corpus.tally, corpus.samples, corpus.turns, corpus.images, corpus.histograms,
        dict(corpus.answers), corpus.unchecked, corpus.files, other,
    )  # fmt: skip


def _read_all(runs: list[_Run], processes: int, size: int, progress: Progress | None) -> None:
    total, done = sum(os.path.getsize(job.path) for run in runs for job in run.jobs), 0
    for run in runs:
        many = processes > 1 and (total > SMALL or run.work.make_checker is not None)
        with Pool(run.work, processes) if many else Alone(run.work) as runner:
            for more in run.results(runner, size):
                done += more
                if progress is not None:
                    progress("text", done >> 20, total >> 20)


@dataclass
class _Run:
    """The files of one layout, on their way into a corpus."""

    corpus: Corpus
    layout: Layout
    work: Work
    jobs: list[Job] = field(default_factory=list)

    def add(
        self, files: Iterable[Path], folder: Path, options: Options, splits: dict[Path, str]
    ) -> None:
        default = "train" if splits else ""
        for file in files:
            name = place_name(file, folder)
            lined = self.layout.format != "webdataset" and file.suffix != ".parquet"
            known = DataFile(file, name, splits.get(file, default), lined)
            root = options.image_root or self.layout.root_of(file)
            number = self.corpus.add_file(known)
            self.jobs.append(
                Job(
                    number,
                    str(file),
                    name,
                    self.layout.format,
                    str(root),
                    follow_links=options.follow_links,
                )
            )

    def results(self, runner: Pool | Alone, size: int) -> Iterator[int]:
        """Do the jobs; yields the bytes that each answer leaves behind."""
        if self.work.make_checker is not None:
            told = runner.result(runner.submit(None))
            self.corpus.unchecked += told.unchecked
            self.corpus.tally.add_problems(Place("the tokenizer"), None, told.problems)
        if self.layout.format == "coco":
            self._coco_faults()
        before = {job.number: 0 for job in self.jobs}
        for answer in answers(runner, self.jobs, size):
            self._take(answer)
            yield answer.done - before[answer.number]
            before[answer.number] = answer.done

    def _take(self, answer: Answer) -> None:
        job = self.jobs[answer.number - self.jobs[0].number]
        if answer.result is not None:
            self.corpus.add(job.number, answer.result.part, job.root)
        if answer.rows:
            collector = Collector(
                rules_for(job.format), check=self.work.check, examples=self.work.examples
            )
            for row in answer.rows:
                _collect(collector, row, job.name, _broken)
            self.corpus.add(job.number, collector.finish(), job.root)

    def _coco_faults(self) -> None:
        for job in self.jobs:
            for row in coco_names(Path(job.path))[1] if self.work.check else ():
                self.corpus.tally.add(row.problem[0], Place(job.name, row.line), row.problem[1])


def _collect(
    collector: Collector, row: Row, name: str, read: Callable[[Row, Place], Sample]
) -> None:
    if row.record is None:
        collector.fault(row, name)
    else:
        collector.add(row, read(row, Place(name, row.line, row.record)))


def _broken(row: Row, place: Place) -> Sample:
    return Sample(place, None, [], [], [], [Problem(*row.problem)])


@dataclass
class Told:
    """What a checker of tokens says of itself before it has seen a sample."""

    problems: list[Problem]
    unchecked: list[str]


@dataclass
class Result:
    """What a job found; `arrival` as in `labs.formats.json_rows.Rows`, None of a whole file."""

    part: Part
    arrival: Arrival | None


@dataclass
class Work:
    """Called in each process, makes the function that does the jobs.

    check: whether faults are looked for. questions: whether questions are to be compared later.
    """

    format: str
    check: bool
    questions: bool
    make_checker: Callable[[], Any] | None = None
    examples: int = EXAMPLES

    def __call__(self) -> Callable[[Job | None], Any]:
        checker = self.make_checker() if self.make_checker is not None else None
        rules = rules_for(self.format, getattr(checker, "special_tokens", None))
        readers: dict[str, Callable[[Row, Place], Sample]] = {}

        def work(job: Job | None) -> Any:
            if job is None:
                return Told(checker.startup_problems, checker.unchecked)
            if job.path not in readers:
                readers.clear()  # COCO's names of one file at a time
                readers[job.path] = reader(self.format, Path(job.path))
            count = None if checker is None else _Tokens(checker, job)
            shards = self.format == "webdataset"
            collector = Collector(rules, self.check, self.questions, shards, count, self.examples)
            rows = read_job(job)
            for row in rows:
                _collect(collector, row, job.name, readers[job.path])
            return Result(collector.finish(), getattr(rows, "arrival", None))

        return work


class _Tokens:
    """Counts the tokens of many samples; sizes of pictures come from their headers."""

    def __init__(self, checker: Any, job: Job) -> None:
        self.checker, self.job = checker, job
        self.folder = Folder(job.root, job.follow_links)
        self.blind = getattr(checker, "fixed_pictures", False)

    def __call__(self, samples: list[Sample]) -> list:
        return self.checker.check_many([(s, [self.size(s, r) for r in s.images]) for s in samples])

    def size(self, sample: Sample, reference: str) -> tuple[int, int] | None:
        if self.blind:
            return None
        from labs.doctors.data.images import header_size

        if self.job.format == "webdataset":
            name = reference.partition("/")[2]
            places = [place for place in sample.raw["members"].values() if place[0] == name]
            known = places and places[0][1] is not None
            return header_size((self.job.path, *places[0][1:])) if known else None
        if reference.startswith("data:"):
            return header_size(reference)
        if self.folder.look_up(reference).problem:
            return None
        return header_size(self.folder.path(reference))


def _finish(corpus: Corpus, other: Corpus | None, compared: bool, layout: Layout) -> None:
    """What can be told only when all samples are known."""
    table = corpus.images
    table.finish()
    for use, number in enumerate(table.uses):
        problem = table.problems.get(number)
        if problem:
            kind, detail = problem
            corpus.tally.add(kind, table.place(use), detail, image=table.references[number])
    find_copies(corpus, samples=rules_for(layout.format).copies)
    find_shared_captions(corpus)
    find_one_sided_answers(corpus.answers, corpus.tally, Place(corpus.files[0].name))
    held_out = {n for n, file in enumerate(corpus.files) if file.split in HELD_OUT}
    training = set(range(len(corpus.files))) - held_out
    if compared and held_out and training:
        find_leaks(corpus, training, corpus, held_out)
    if other is not None:
        other.images.finish()
        find_leaks(corpus, training or held_out, other, set(range(len(other.files))))
    _name(corpus, layout.format)


def _name(corpus: Corpus, format: str) -> None:
    """Give the examples that were found by number alone the ids of their samples."""
    files = {file.name: file for file in corpus.files}
    for kind, examples in corpus.tally.examples.items():
        for number, example in enumerate(examples):
            file, record = files.get(example.place.file), example.place.record
            if example.id is None and file is not None and record is not None:
                row = row_at(file.path, file.starts[record])
                if row is not None and row.value is not None:
                    name = reader(format, file.path, {})(row, example.place).id
                    corpus.tally.examples[kind][number] = example._replace(
                        id=None if name is None else printable(name, 100)
                    )
