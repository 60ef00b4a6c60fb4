"""The options of `check`, and what they mean as Options. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from labs.doctors.data.commands.models import model_folder
from labs.doctors.data.options import Options
from labs.doctors.data.tally import EXAMPLES
from labs.errors import InputError

DESCRIPTION = "Check a training set before a long run pays for what is wrong with it."
CASES = (
    "check train.json",
    "check data/ --against test.json --html report.html",
    "check train.jsonl --image-root images/ --model Qwen/Qwen2-VL-2B-Instruct --max-length 2048",
    "check train.json --fix cleaned/",
    "check train.json --json --fail-on warning",
)
EXIT_CODES = """exit codes:
  0    nothing found at or above --fail-on (errors, unless told otherwise)
  1    something was found
  2    bad input: one sentence says what is wrong, one what to do
  130  stopped with Ctrl-C"""


class Parser(argparse.ArgumentParser):
    """Mistakes on the command line become InputError, with the nearest option that there is."""

    def error(self, message: str):
        raise InputError(
            f"{message[:1].upper()}{message[1:]}.", f"`{self.prog} --help` lists the options."
        )

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            given = unknown[0].split("=")[0]
            options = [o for action in self._actions for o in action.option_strings]
            near = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
            if not given.startswith("-"):
                raise InputError(
                    f"One PATH is checked, and {given!r} is a second.",
                    "Give a folder that holds both, or name the other split with --against.",
                )
            raise InputError(
                f"There is no option {given}.",
                f"Did you mean {near[0]}?" if near else f"`{self.prog} --help` lists the options.",
            )
        return known


def parser(program: str) -> Parser:
    """The parser of `check`. program: what stands before PATH, as "data_doctor.py check"."""
    made = Parser(
        prog=program,
        description=DESCRIPTION,
        epilog="examples:\n"
        + "\n".join(f"  {program.rsplit(' ', 1)[0]} {line}" for line in CASES)
        + f"\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation that works today may mean something else tomorrow
    )
    add_arguments(made)
    return made


def add_arguments(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("path", metavar="PATH", help="a data file, or a folder of them; the format is found out")
    add(
        "--against",
        metavar="PATH",
        action="append",
        default=[],
        help="another split (repeatable): samples and images that are in both are leaks",
    )
    add(
        "--image-root",
        metavar="DIR",
        help="the folder that image paths are relative to (default: the data file's own)",
    )
    add(
        "--follow-links",
        action="store_true",
        help="let links in the data folder lead out of it (to pictures that live elsewhere)",
    )
    add(
        "--no-images",
        dest="images",
        action="store_false",
        help="open no image; only look whether its file is there",
    )
    add(
        "--near-duplicates",
        dest="near_duplicates",
        action="store_true",
        default=True,
        help="look for images that look alike (the default)",
    )
    add(
        "--no-near-duplicates",
        dest="near_duplicates",
        action="store_false",
        help="do not",
    )
    tokens = made.add_argument_group("tokens, with a model's processor (needs transformers)")
    add = tokens.add_argument
    add("--model", metavar="NAME", help="a folder, a hub id, or a model of the zoo (tiny-sft)")
    add("--max-length", metavar="N", type=_count, help="tokens that a sample may have in training")
    add("--clip", metavar="NAME", help="a CLIP model that scores how a text fits its picture")
    add(
        "--clip-threshold",
        metavar="X",
        type=float,
        help="the score below which a text does not fit (default: that of the model)",
    )
    limits = made.add_argument_group("limits")
    add = limits.add_argument
    add(
        "--max-pixels",
        metavar="N",
        type=_count,
        default=Options.max_pixels,
        help=f"an image may have (default: {Options.max_pixels:,})",
    )
    add(
        "--seconds",
        metavar="S",
        type=_positive,
        default=Options.image_seconds,
        help=f"opening one image may take (default: {Options.image_seconds:g})",
    )
    add(
        "--memory",
        metavar="MB",
        type=_count,
        default=Options.image_memory_mb,
        help=f"opening one image may take (default: {Options.image_memory_mb:,})",
    )
    add("--workers", metavar="N", type=_count, help="processes (default: one a core)")
    output = made.add_argument_group("output")
    add = output.add_argument
    add("--html", metavar="FILE", help="also write one static page, with pictures and histograms")
    add("--json", action="store_true", help="print JSON (schema data-doctor/1) and nothing else")
    add(
        "--examples",
        metavar="N",
        type=_count,
        default=EXAMPLES,
        help=f"examples of each fault in the page and the JSON (default: {EXAMPLES})",
    )
    add(
        "--fail-on",
        choices=("error", "warning", "never"),
        default="error",
        help="the least that makes the exit code 1 (default: error)",
    )
    add(
        "--no-redact",
        dest="redact",
        action="store_false",
        help="leave home folders, addresses and secrets in the report",
    )
    repair = made.add_argument_group("repair")
    add = repair.add_argument
    add(
        "--fix",
        metavar="OUT",
        help="write a cleaned copy and a log of each change; the original is never touched",
    )
    add(
        "--fix-semantic",
        action="store_true",
        help="also remove what was judged by a score, which errs now and then",
    )
    add(
        "--copy-images",
        action="store_true",
        help="copy the images that the cleaned copy uses into OUT, so that it stands alone",
    )
    made.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def options_of(given: argparse.Namespace) -> Options:
    """The parsed command line as Options. Raises InputError for paths and models that are not there."""
    if not given.fix and (given.fix_semantic or given.copy_images):
        option = "--fix-semantic" if given.fix_semantic else "--copy-images"
        raise InputError(
            f"{option} says how --fix works, and there is no --fix.", "Add --fix OUT, or leave it."
        )
    if given.max_length and not given.model:
        raise InputError(
            "--max-length counts tokens, and no tokenizer is named.",
            "Add --model with the model that is to be trained.",
        )
    if given.clip_threshold is not None and not given.clip:
        raise InputError(
            "--clip-threshold needs --clip, and no CLIP model is named.", "Add --clip NAME."
        )
    if given.image_root is not None and not Path(given.image_root).is_dir():
        raise InputError(
            f"There is no folder {given.image_root} (--image-root).",
            "Give the folder that the image paths in the data are relative to.",
        )
    for path in [given.path, *given.against]:
        if not Path(path).exists():
            raise InputError(f"There is no file or folder {path}.", "Check the path.")
    return Options(
        path=Path(given.path),
        against=tuple(map(Path, given.against)),
        image_root=Path(given.image_root) if given.image_root is not None else None,
        follow_links=given.follow_links,
        model=model_folder(given.model, "--model") if given.model else None,
        max_length=given.max_length,
        images=given.images,
        near_duplicates=given.near_duplicates,
        clip=model_folder(given.clip, "--clip") if given.clip else None,
        clip_threshold=given.clip_threshold,
        max_pixels=given.max_pixels,
        image_seconds=given.seconds,
        image_memory_mb=given.memory,
        workers=given.workers,
        examples=given.examples,
    )


def _count(text: str) -> int:
    value = int(text.replace("_", "").replace(",", ""))
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time in seconds")
    return value


_count.__name__, _positive.__name__ = "whole number", "number"  # what argparse names in its errors
