"""What a log says about the run itself: versions, settings, progress, numbers that grow.

Everything here is support for a cause, never a cause alone. Standard library only, Python 3.9+.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from labs.doctors.memory.log.lines import Line, Log

VERSIONS = re.compile(
    r"(?i)\b(torch|pytorch|transformers|deepspeed|trl|peft|accelerate|vllm|bitsandbytes|flash[-_]attn"
    r"|unsloth|xformers|triton|cudnn|nccl)\b(?:\s+(?:version|release))?\s*(?:[:=]+|==|\s|-)\s*v?"
    r"(\d+\.\d+(?:\.\d+)?(?:(?:\.|\+)\w+)?)"
)
# key -> values as they stand in a config dump, a command line, YAML or JSON.
SETTINGS = {
    "batch": r"(?:per_device_train_batch_size|train_micro_batch_size_per_gpu|micro_batch_size|train_batch_size|batch_size)",
    "eval_batch": r"per_device_eval_batch_size",
    "accumulation": r"gradient_accumulation_steps",
    "length": r"(?:max_seq_length|max_seq_len|model_max_length|max_length|cutoff_len|seq_length|sequence_length|seq_len|block_size)",
    "attention": r"_?attn_implementation(?:_internal)?",
    "checkpointing": r"gradient_checkpointing",
    "workers": r"(?:dataloader_)?num_workers",
    "world": r"(?:world_size|num_processes|nproc_per_node|WORLD_SIZE|n_gpus?|num_gpus)",
    "dtype": r"(?:torch_)?dtype",
    "stage": r"(?:zero_optimization_stage|zero_stage|\"?stage\"?)",
    "generations": r"num_generations",
    "beams": r"num_beams",
}
_SETTINGS = {
    name: re.compile(rf"(?<![\w])[\"']?(?:--)?{key}[\"']?\s*[:= ]\s*[\"']?([\w.\-]+)")
    for name, key in SETTINGS.items()
}
# Cheap questions before the patterns: most lines of a log are none of these.
_SETTING_WORDS = (
    *(
        "batch_size",
        "accumulation_steps",
        "max_seq",
        "max_length",
        "cutoff_len",
        "seq_len",
        "block_size",
    ),
    *("attn_impl", "gradient_checkpointing", "num_workers", "world_size", "num_processes", "nproc"),
    *("n_gpu", "num_gpus", "dtype", "stage", "num_generations", "num_beams", "sequence_length"),
)
_PACKAGES = (
    *("torch", "transformers", "deepspeed", "trl", "peft", "accelerate", "vllm", "bitsandbytes"),
    *("flash", "unsloth", "xformers", "triton", "cudnn", "nccl"),
)
_MEMORY_WORDS = ("mem", "alloc", "reserved", "rss", "vram")
ALLOC_CONF = re.compile(
    r"PYTORCH_(?:CUDA_|HIP_)?ALLOC_CONF[\"']?\]?\s*[:=,]\s*[\"']?([\w:,.\[\]]+:[\w:,.\[\]]+)"
)

# A training step that was finished: tqdm's bar, a Trainer's dictionary, `step 12 loss 1.2`.
PROGRESS = re.compile(
    r"(?P<bar>\d+%\|[^|\n]*\|\s*(?P<done>\d+)/(?P<all>\d+))|\{'loss': |\bloss[\s:=]+\d"
)
# The Trainer's dictionary after an evaluation; others print the same two names.
EVALUATED = re.compile(r"[\"']?\b(?:eval|val(?:idation)?)[_/ ]loss[\"']?\s*[:=]\s*\d")
STEP = re.compile(r"(?i)\b(?:step|iter(?:ation)?)s?[\s:=#\[]+(\d+)")

# Numbers of memory printed as a run goes on.
# The number must follow at once, after `:` or `=` or with a unit: "memory usage step 12" is none.
MEMORY_WORD = re.compile(
    r"(?i)\b(?P<name>(?:(?:max|peak|cpu|gpu|cuda|host|torch)[_ ])*"
    r"(?:mem(?:ory)?(?:[ _/](?:allocated|reserved|used|usage|alloc))?|reserved|allocated|rss|vram))"
    r"(?:(?: ?\((?P<paren>[KMGT]i?B)\))?[\"']?\s{0,3}[:=]\s{0,3}|\s{1,3}(?=[\d.]+\s?[KMGT]i?B))"
    r"(?P<number>\d+(?:\.\d+)?)\s?(?P<unit>[KMGT]i?B?\b)?"
)
SERIES = re.compile(
    r"(?i)\b(?P<name>reserved|allocated|rss|memory|mem|vram)\b[^\d\n]{0,40}"
    r"(?P<numbers>\d+(?:\.\d+)?(?:\s*,\s*\d+(?:\.\d+)?){3,})"
)


@dataclass
class Context:
    """Facts about the run. `series` maps the printed name of a memory number to its values."""

    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    allocator: tuple[str, Line] | None = None
    progress: list[tuple[int, int]] = field(default_factory=list)  # line number, step (-1: unknown)
    series: dict[str, list[tuple[float, Line]]] = field(default_factory=dict)
    evaluated: list[int] = field(default_factory=list)  # lines that report an evaluation's result

    def just_evaluated(self, number: int) -> bool:
        """Whether an evaluation ended above this line with at most one training step after it."""
        last = max((line for line in self.evaluated if line < number), default=None)
        return last is not None and self.steps_between(last, number) <= 1

    def steps_between(self, start: int, end: int) -> int:
        """Training steps finished between two lines; a bar that is drawn again counts once."""
        lines = [(line, step) for line, step in self.progress if start < line < end]
        return len({step if step >= 0 else -line for line, step in lines})

    def number(self, name: str) -> int | None:
        value = self.settings.get(name, "")
        return int(value) if value.isdigit() else None

    def steps_before(self, number: int) -> int | None:
        """The last step finished above this line; 0 if steps were printed later only; None if never."""
        before = [step for line, step in self.progress if line < number]
        if not before:
            return 0 if self.progress else None
        known = [step for step in before if step >= 0]
        return max(known[-1], len(before) if known[-1] == 0 else 0) if known else len(before)


def context_of(log: Log) -> Context:
    """Collect versions, settings, progress and memory numbers from all lines that were read."""
    found = Context()
    for line in log.lines:
        _settings(found, line)
        _progress(found, line)
    for lines in log.samples or log.regions:
        for line in lines:
            _memory(found, line)
    return found


def _settings(found: Context, line: Line) -> None:
    text = line.text[:4000]
    lower = text.lower()
    if any(word in lower for word in _PACKAGES):
        for match in VERSIONS.finditer(text):
            found.versions.setdefault(
                match.group(1).lower().replace("pytorch", "torch"), match.group(2)
            )
    if any(word in lower for word in _SETTING_WORDS):
        for name, pattern in _SETTINGS.items():
            match = pattern.search(text)
            if match:
                found.settings[name] = match.group(1).strip("'\",")
    if "ALLOC_CONF" in text:
        match = ALLOC_CONF.search(text)
        # The hint inside PyTorch's own sentence is not a setting.
        if match and "to avoid fragmentation" not in text[match.start() : match.end() + 40]:
            found.allocator = (match.group(1), line)


def _progress(found: Context, line: Line) -> None:
    if "loss" not in line.text and "%|" not in line.text:
        return
    if "%|" not in line.text and EVALUATED.search(line.text[:1000]):  # bars repeat the last one
        found.evaluated.append(line.number)
        return
    match = PROGRESS.search(line.text[:1000])
    if not match:
        return
    if match.group("done"):
        step = int(match.group("done"))
        # Loading shards and mapping data sets draw bars too; a bar of a few items is not training.
        if re.search(
            r"(?i)loading|shards|map\b|tokeniz|download|fetching|extract", line.text[:200]
        ):
            return
        found.progress.append((line.number, step))
        return
    step = STEP.search(line.text)
    found.progress.append((line.number, int(step.group(1)) if step else -1))


def _memory(found: Context, line: Line) -> None:
    text = line.text[:1000]
    lower = text.lower()
    if not any(word in lower for word in _MEMORY_WORDS):
        return
    if "Tried to allocate" in text or "out of memory" in text:
        return
    listed = SERIES.search(text)
    if listed:
        values = [float(value) for value in re.findall(r"\d+(?:\.\d+)?", listed.group("numbers"))]
        found.series[listed.group("name").lower()] = [(value, line) for value in values]
        return
    match = MEMORY_WORD.search(text)
    if match:
        number = float(match.group("number"))
        unit = match.group("unit") or match.group("paren") or "M"
        scale = {"K": 2**-10, "M": 1.0, "G": 2**10, "T": 2**20}[unit[0].upper()]
        # Ranks and metrics apart: two mixed series look like steps up and down.
        key = match.group("name").lower() + (
            f" (rank {line.rank})" if line.rank is not None else ""
        )
        found.series.setdefault(key, []).append((number * scale, line))


@dataclass(frozen=True)
class Growth:
    """A memory number that rises without an end in sight."""

    name: str
    first: float
    last: float
    count: int
    line: Line


def growth_of(context: Context) -> Growth | None:
    """The memory number that grew steadily over the run, if one did.

    Steady means: after the first fifth (warm-up), at least six values, nine of ten steps not
    downward, the last at least half above the first, and both halves of the time took their part
    (a jump at one long batch is not a leak).
    """
    for name, values in context.series.items():
        rest = [value for value, _ in values][len(values) // 5 :]
        if len(rest) < 5 or rest[0] <= 0 or rest[-1] < 1.5 * rest[0]:
            continue
        rises = sum(rest[i] >= rest[i - 1] for i in range(1, len(rest)))
        rise, middle = rest[-1] - rest[0], rest[len(rest) // 2] - rest[0]
        strict = len(set(rest)) >= max(4, len(rest) // 3)
        if strict and rises >= 0.9 * (len(rest) - 1) and 0.25 * rise <= middle <= 0.75 * rise:
            return Growth(name, rest[0], rest[-1], len(rest), values[-1][1])
    return None
