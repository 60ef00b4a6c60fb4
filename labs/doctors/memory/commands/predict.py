"""`oom_doctor.py predict MODEL`: what a run will need, what fits, what to change."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time

from labs.doctors.memory.forecast.data import Worst, worst_batch
from labs.doctors.memory.forecast.observed import compare, read_observed
from labs.doctors.memory.forecast.page import page_of
from labs.doctors.memory.forecast.predict import check_fits, predict
from labs.doctors.memory.forecast.prediction import Prediction
from labs.doctors.memory.forecast.show import headline_lines, lines_of
from labs.doctors.memory.plan import CHOICES, Plan
from labs.errors import InputError

EPILOG = """examples:
  oom_doctor.py predict llava-hf/llava-1.5-7b-hf --method lora --batch 4
  oom_doctor.py predict Qwen/Qwen2-VL-2B-Instruct --image 1920x1080 --checkpointing --fits 24
  oom_doctor.py predict path/to/config.json --method qlora --attention sdpa --html report.html
  oom_doctor.py predict path/to/model --data train.json --image-root images --batch 8
  oom_doctor.py predict path/to/model --objective dpo --sharding zero3 --world-size 8 --json
  oom_doctor.py predict path/to/model --batch 4 --observed measured.json

No weights are loaded and no GPU is needed: one step of the model's own classes is traced on tensors
without memory. The headline comes from a few layers; then all are traced, and each remedy is tried.

exit codes:
  0  done; with --fits: it fits, by the best estimate (--strict: at the top of the band)
  1  it does not fit
  2  bad input: one sentence says what is wrong, one what to do"""

FLAGS = {
    "method": "what trains: all weights, adapters, adapters over 4-bit weights, or all but the towers",
    "optimizer": "optimizer",
    "precision": "dtype of the weights, and autocast",
    "attention": "attention implementation",
    "loss": "logits at once, or in chunks of tokens",
    "offload": "what is kept in host memory",
    "objective": "kind of step",
    "sharding": "how the model is divided over --world-size GPUs (arithmetic, not measured)",
    "rollout": "who generates in GRPO and PPO",
    "device": "cuda, or cpu for a run without GPU",
}
NUMBERS = {
    "batch": "rows of a micro-batch on one GPU",
    "sequence_length": "tokens of a row, the visual ones included",
    "grad_accumulation": "micro-batches a step",
    "lora_r": "rank of the adapters",
    "loss_chunk": "tokens a chunk of the loss",
    "generations": "answers a prompt in GRPO",
    "max_new_tokens": "tokens generated",
    "eval_batch": "rows of an evaluation batch",
    "world_size": "number of GPUs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Plan)}
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", help="a hub id, a folder, or a config.json; weights are not read")
    run = parser.add_argument_group("the run")
    for name, text in FLAGS.items():
        run.add_argument(
            f"--{name}",
            choices=CHOICES[name],
            default=defaults[name],
            help=f"{text} (default: %(default)s)",
        )
    for name, text in NUMBERS.items():
        run.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=defaults[name], metavar="N", help=f"{text} (default: %(default)s)"
        )  # fmt: skip
    run.add_argument("--image", action="append", metavar="WxH", help="a picture of each row; repeat for more (default: 336x336)")  # fmt: skip
    run.add_argument("--video", action="append", metavar="WxHxFRAMES", help="a clip of each row")
    run.add_argument("--no-images", action="store_true", help="rows of text alone")
    run.add_argument("--checkpointing", action="store_true", help="recompute activations")
    run.add_argument("--train-tower", action=argparse.BooleanOptionalAction, help="train the vision tower, or freeze it")  # fmt: skip
    run.add_argument("--train-connector", action=argparse.BooleanOptionalAction, help="train the connector, or freeze it")  # fmt: skip
    run.add_argument("--lora-targets", metavar="NAMES", help="comma-separated names of modules (default: all linear layers)")  # fmt: skip
    run.add_argument("--expandable-segments", action="store_true", help="PYTORCH_ALLOC_CONF=expandable_segments:True")  # fmt: skip
    run.add_argument("--precomputed-reference", action="store_true", help="DPO without the reference model in memory")  # fmt: skip
    run.add_argument("--processor", metavar="KEY=N", action="append", help="a setting of the image processor, such as max_pixels=1003520")  # fmt: skip
    run.add_argument("--no-padding", action="store_true", help="all rows are equally long: no mask is built")  # fmt: skip
    data = parser.add_argument_group("your data")
    data.add_argument("--data", metavar="FILE", help="LLaVA-like JSON or JSONL: predict its worst batch (rows are cut to --sequence-length)")  # fmt: skip
    data.add_argument("--image-root", metavar="FOLDER", help="where its images are (default: beside the file)")  # fmt: skip
    data.add_argument("--allow-skips", action="store_true", help="go on where more than 1 %% of the samples cannot be used")  # fmt: skip
    out = parser.add_argument_group("the answer")
    out.add_argument("--fits", metavar="GB", help="does it fit this card? A nominal size, or '23.6 GiB'. Decides the exit code")  # fmt: skip
    out.add_argument("--strict", action="store_true", help="with --fits: also at the top of the band")  # fmt: skip
    out.add_argument("--no-remedies", action="store_true", help="do not try what could be changed")
    out.add_argument("--observed", metavar="FILE", help="JSON of a run's measured peaks, to set beside the prediction")  # fmt: skip
    out.add_argument("--json", action="store_true", help="print the answer as JSON")
    out.add_argument("--html", metavar="FILE", help="also write it as a page with charts")
    model = parser.add_argument_group("the model's files")
    model.add_argument("--trust-remote-code", action="store_true", help="run Python code from the model's repository")  # fmt: skip
    model.add_argument("--offline", action="store_true", help="look for hub ids on this machine only")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    observed = read_observed(args.observed) if args.observed else None
    plan = plan_of(args)
    start, talk = time.monotonic(), sys.stderr.isatty() and not args.json
    width = 100

    def progress(sentence: str) -> None:
        if talk:
            print(f"\r\x1b[2K{time.monotonic() - start:4.0f} s  {sentence} …", end="", file=sys.stderr, flush=True)  # fmt: skip

    def clear() -> None:
        if talk:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)

    worst = None
    if args.data:
        progress("reading the data set")
        worst = read_data(args, plan, progress)
        plan = worst.plan(plan)

    def headline(first: Prediction) -> None:
        clear()
        if not args.json:
            print("\n".join(headline_lines(first, worst, width)), flush=True)

    answer = predict(
        plan,
        remedies=not args.no_remedies,
        card=args.fits,
        headline=headline,
        progress=progress,
    )
    clear()
    compared = compare(answer, observed) if observed else []
    if args.json:
        extra = {"observed": [dataclasses.asdict(line) for line in compared]} if compared else {}
        data = {"data": dataclasses.asdict(worst)} if worst else {}
        print(json.dumps({**answer.to_dict(), **data, **extra}, indent=2, default=str, ensure_ascii=False))  # fmt: skip
    else:
        print("\n".join(lines_of(answer, compared, width)))
    if args.html:
        write(args.html, page_of(answer, worst, compared))
    return 0 if args.fits is None or check_fits(answer, args.strict) else 1


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the options describe. Raises InputError for what cannot be."""
    images = [_numbers(text, 2, "--image", "1024x768") for text in args.image or ()]
    videos = [_numbers(text, 3, "--video", "640x360x16") for text in args.video or ()]
    if args.no_images and images:
        raise InputError("--no-images and --image were both given.", "Give one of them.")
    fields = {name: getattr(args, name) for name in (*FLAGS, *NUMBERS)}
    defaults = {field.name: field.default for field in dataclasses.fields(Plan)}
    fields["images"] = tuple(images) or (() if args.no_images or videos else defaults["images"])
    fields["videos"] = tuple(videos)
    if args.lora_targets:
        fields["lora_targets"] = tuple(name.strip() for name in args.lora_targets.split(","))
    return Plan(
        model=args.model,
        checkpointing="full" if args.checkpointing else "none",
        train_tower=args.train_tower,
        train_connector=args.train_connector,
        expandable_segments=args.expandable_segments,
        precomputed_reference=args.precomputed_reference,
        padding=not args.no_padding,
        processor=_settings(args.processor),
        trust_remote_code=args.trust_remote_code,
        allow_network=not args.offline,
        **fields,
    )


def _numbers(text: str, count: int, flag: str, example: str) -> tuple[int, ...]:
    parts = re.split(r"[x×,]", text.strip().lower())
    if len(parts) != count or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"{flag} {text!r} is no size in pixels.", f"Write it as {example}.")
    return tuple(int(part) for part in parts)


def _settings(given: list[str] | None) -> dict | None:
    settings = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\d+|true|false", value.lower()):
            raise InputError(f"--processor {text!r} is no setting.", "Write it as max_pixels=1003520.")  # fmt: skip
        settings[name] = int(value) if value.isdigit() else value.lower() == "true"
    return settings or None


def read_data(args: argparse.Namespace, plan: Plan, progress) -> Worst:
    from labs.doctors.memory.setup.configs import load_source

    source = load_source(plan.model, plan.trust_remote_code, plan.allow_network)
    return worst_batch(
        args.data,
        source,
        plan,
        image_root=args.image_root,
        allow_skips=args.allow_skips,
        progress=lambda count: progress(f"{count:,} samples read"),
    )


def write(path: str, text: str) -> None:
    from labs.formats import atomic_write

    try:
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}.", "Choose another place."
        ) from None
