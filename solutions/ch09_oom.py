"""Chapter 9, GPU memory: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from labs.grading import exercise

IGNORE = -100  # a label that carries no loss
UNITS = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


# -- training_memory ---------------------------------------------------------------------------


@exercise(
    kind="compute",
    points=8,
    difficulty="basic",
    minutes=20,
    section="Where memory goes",
    hints=(
        "What does one *trained* parameter cost under mixed-precision AdamW, and what one that "
        "only takes part? Add up the five tensors of the first; the second has one.",
        "16 bytes for a trained parameter, 2 for a frozen one. In `full` the tower is frozen and "
        "the rest is trained; in `lora` only adapters and projector are. A picture of 336 pixels "
        "makes $(336 / 14)^2$ tokens, beside the 1472 of the text.",
        "The inputs of 32 layers are $32 \\cdot 16 \\cdot 2048 \\cdot 4096$ numbers of 2 bytes. "
        "The logits are $16 \\cdot 2048 \\cdot 32000$ numbers, once with 2 bytes and once with 4. "
        "Divide by $1024^3$ last.",
    ),
)
def training_memory() -> dict[str, float]:
    r"""What does LLaVA-1.5-7B need to train, before you rent anything?

    The vision tower has 303,507,456 parameters, the projector 20,979,712 and the language model
    6,738,415,616: 32 layers, a hidden size of 4096, a vocabulary of 32,000. Mixed-precision AdamW
    keeps for every *trained* parameter a working copy and a gradient in bfloat16, and a master copy
    and two moments in float32. A frozen parameter has its working copy and nothing else. Return a
    dict of four numbers, all in GiB (1024³ bytes):

    - `"full_gib"`: weights, gradients and optimizer where language model and projector are trained
      and the tower is frozen.
    - `"lora_gib"`: the same where the language model is frozen too, and LoRA adapters of
      319,815,680 parameters (chapter 3's rank 128) are trained beside the projector.
    - `"checkpoints_gib"`: the activations that gradient checkpointing keeps in the language model:
      the input of each layer, in bfloat16, for 16 samples. A sample is a picture of 336 x 336
      pixels, one visual token for every patch of 14 x 14, and 1472 tokens of text beside these.
    - `"logits_gib"`: that batch's logits at every position, in bfloat16, together with the float32
      copy that the loss is taken from.

    Context, workspace and fragmentation come on top; here they are left out.
    """
    # --- answer
    tower, projector, language = 303_507_456, 20_979_712, 6_738_415_616
    adapters, gib = 319_815_680, 1024**3
    frozen = 2
    trained = 2 + 2 + 4 + 2 * 4  # working copy, gradient, master copy, two moments
    tokens = (336 // 14) ** 2 + 1472
    return {
        "full_gib": ((language + projector) * trained + tower * frozen) / gib,
        "lora_gib": ((adapters + projector) * trained + (tower + language) * frozen) / gib,
        "checkpoints_gib": 32 * 16 * tokens * 4096 * 2 / gib,
        "logits_gib": 16 * tokens * 32_000 * (2 + 4) / gib,
    }
    # --- end


@training_memory.alternative
def tensor_by_tensor():
    def gib(*tensors):
        return sum(numbers * size for numbers, size in tensors) / 2**30

    def adamw(n):
        return [(n, 2), (n, 2), (n, 4), (n, 4), (n, 4)]

    return {
        "full_gib": gib(*adamw(6738415616), *adamw(20979712), (303507456, 2)),
        "lora_gib": gib(*adamw(319815680 + 20979712), (303507456 + 6738415616, 2)),
        "checkpoints_gib": 8.0,
        "logits_gib": gib((16 * 2048 * 32000, 2), (16 * 2048 * 32000, 4)),
    }


def bill(trained=16, tokens=2048, logits=6, unit=2**30, tower_trained=False, base_trained=False):
    """The four numbers for other (wrong) readings of the question; it is no answer."""
    tower, projector, language, adapters = 303507456, 20979712, 6738415616, 319815680
    tower_bytes = tower * (trained if tower_trained else 2)
    full = (language + projector) * trained + tower_bytes
    lora = (adapters + projector) * trained + tower_bytes
    lora += language * (trained if base_trained else 2)
    return {
        "full_gib": full / unit,
        "lora_gib": lora / unit,
        "checkpoints_gib": 32 * 16 * tokens * 4096 * 2 / unit,
        "logits_gib": 16 * tokens * 32000 * logits / unit,
    }


@training_memory.mistake("These are GB of 1000³ bytes: the question asks for GiB of 1024³.")
def in_gigabytes():
    return bill(unit=10**9)


@in_gigabytes.again
def billions():
    trained, adapters, rest = 6759395328, 340795392, 7041923072
    return {
        "full_gib": (trained * 16 + 607014912) * 1e-9,
        "lora_gib": (adapters * 16 + rest * 2) * 1e-9,
        "checkpoints_gib": 8.589934592,
        "logits_gib": 6.291456,
    }


@training_memory.mistake(
    "12 bytes for a trained parameter: one of its float32 tensors is missing. Mostly it is the "
    "master copy: bfloat16 is too coarse to add a small step to. AdamW's moments are two."
)
def no_master_copy():
    return bill(trained=12)


@no_master_copy.again
def two_two_and_eight():
    weight, gradient, moments = 2, 2, 8
    each = weight + gradient + moments
    language, projector, tower = 6.738415616e9, 20979712, 303507456
    return {
        "full_gib": (each * (language + projector) + 2 * tower) / 1073741824,
        "lora_gib": (each * (319815680 + projector) + 2 * (tower + language)) / 1073741824,
        "checkpoints_gib": 8,
        "logits_gib": 5.859375,
    }


@training_memory.mistake(
    "The gradients are missing: 2 bytes for every trained parameter, alive until the step is done."
)
def no_gradients():
    return bill(trained=14)


@no_gradients.again
def weights_and_optimizer():
    kib = 1 << 10
    optimizer = 4 + 4 + 4
    full = sum(n * (2 + optimizer) for n in (6738415616, 20979712)) + 303507456 * 2
    lora = 340795392 * (2 + optimizer) + 7041923072 * 2
    return {
        "full_gib": full / kib**3,
        "lora_gib": lora / kib**3,
        "checkpoints_gib": 2 * 4096 * 2048 * 16 * 32 / kib**3,
        "logits_gib": 6 * 32000 * 2048 * 16 / kib**3,
    }


@training_memory.mistake(
    "The frozen tower is billed as if it were trained: it has neither gradients nor a master copy "
    "nor moments."
)
def tower_in_full():
    return bill(tower_trained=True)


@tower_in_full.again
def everything_times_16():
    vit, mlp, llm, lora = 303507456, 20979712, 6738415616, 319815680
    return {
        "full_gib": 16 * (vit + mlp + llm) / 2**30,
        "lora_gib": (16 * (vit + mlp + lora) + 2 * llm) / 2**30,
        "checkpoints_gib": 2**33 / 2**30,
        "logits_gib": 375 / 64,
    }


@training_memory.mistake(
    "With LoRA the base is billed as if it were trained: it keeps its bfloat16 copy and nothing else."
)
def base_in_full():
    return bill(base_trained=True)


@base_in_full.again
def adapters_on_top():
    full = (6738415616 + 20979712) * 16 + 303507456 * 2
    return {
        "full_gib": full / 1024 / 1024 / 1024,
        "lora_gib": (full + 319815680 * 16) / 1024 / 1024 / 1024,
        "checkpoints_gib": 8.0,
        "logits_gib": 5.859375,
    }


@training_memory.mistake(
    "The picture's tokens are missing: one placeholder in the text becomes 576 visual tokens, and "
    "each is a token like any other in every layer and in the logits."
)
def text_only():
    return bill(tokens=1472)


@text_only.again
def words_alone():
    t = 1472
    return {
        "full_gib": 101.28748893737793,
        "lora_gib": 18.19489097595215,
        "checkpoints_gib": t * 16 * 32 * 8192 / 2**30,
        "logits_gib": t * 16 * 192000 / 2**30,
    }


@training_memory.mistake(
    "The float32 copy of the logits is missing: cross-entropy is taken in float32, and the copy is "
    "twice as large as what it copies."
)
def logits_once():
    return bill(logits=2)


@logits_once.again
def bfloat16_logits():
    right = 16 * (336 * 336 // 196 + 1472)
    gib = 2.0**30
    return {
        "full_gib": (16 * 6759395328 + 2 * 303507456) / gib,
        "lora_gib": (16 * 340795392 + 2 * 7041923072) / gib,
        "checkpoints_gib": right * 32 * 4096 * 2 / gib,
        "logits_gib": right * 32000 * 2 / gib,
    }


# -- read_oom ----------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=30,
    section="Reading the message",
    hints=(
        "Three layouts, five numbers. Which words stand right before or right after each number in "
        "each layout, and which number means something else in 1.5 to 2.0?",
        "One pattern for a size, `([\\d.]+) (bytes|KiB|MiB|GiB)`, and for each number a list of "
        "patterns that hold it. From 1.5 to 2.0 `reserved in total` includes what is allocated: "
        "subtract it.",
        "`gap = total - free - allocated - unallocated`. Ask in this order: tried > total; gap > "
        "4 GiB; free + unallocated >= tried; else capacity. Leave the processes' list alone.",
    ),
)
def read_oom(text: str) -> dict:
    r"""Read PyTorch's out-of-memory message, as several versions write it, and say what it means.

    The sentence has had three layouts (here on several lines; in a log it is one line):

        1.5 to 2.0  CUDA out of memory. Tried to allocate 58.00 MiB (GPU 0; 15.90 GiB total
                    capacity; 14.75 GiB already allocated; 41.88 MiB free; 15.02 GiB reserved
                    in total by PyTorch)
        up to 1.4   the same, but the last size is "270.00 MiB cached"
        from 2.1    CUDA out of memory. Tried to allocate 58.00 MiB. GPU 0 has a total capacty of
                    15.90 GiB of which 41.88 MiB is free. Process 71 has 15.40 GiB memory in use.
                    Of the allocated memory 14.75 GiB is allocated by PyTorch, and 276.48 MiB is
                    reserved by PyTorch but unallocated.

    From 2.1 on the list of processes varies ("Including non-PyTorch memory, this process has ...",
    one or several "Process N has ...", in a container also yourself under such a number),
    "capacty" is spelt "capacity" from 2.2, and "with 1.20 GiB allocated in private pools (e.g.,
    CUDA Graphs), " may stand before the unallocated size. Units are bytes, KiB, MiB or GiB, of
    1024. `reserved in total` *includes* what is allocated; `cached` does not.

    Return a dict: `tried`, `total`, `free`, `allocated`, `unallocated` (reserved by PyTorch but
    not allocated), all in bytes, and `verdict`, the first of these that is true:

    - `"shape"`: tried is more than the whole GPU: no freeing helps, look at the shape.
    - `"intruder"`: more than 4 GiB of the total is neither free nor PyTorch's here. (Context and
      NCCL take up to about 3.5 GiB; beyond that somebody else is there, whatever the list says.)
    - `"fragmentation"`: free and unallocated together would have held it, in one piece.
    - `"capacity"`: the run needs more than there is.
    """
    # --- answer
    size = r"([\d.]+) (bytes|KiB|MiB|GiB)"

    def find(*patterns):
        for pattern in patterns:
            if found := re.search(pattern.replace("SIZE", size), text):
                return float(found[1]) * UNITS[found[2]]
        return None

    tried = find("Tried to allocate SIZE")
    total = find("SIZE total capacity", r"total capac\w+ of SIZE")
    free = find("SIZE free;", "of which SIZE is free")
    allocated = find("SIZE already allocated", "SIZE is allocated by PyTorch")
    unallocated = find("SIZE cached", "SIZE is reserved by PyTorch but unallocated")
    if unallocated is None:
        unallocated = find("SIZE reserved in total") - allocated
    if tried > total:
        verdict = "shape"
    elif total - free - allocated - unallocated > 4 * 1024**3:
        verdict = "intruder"
    elif free + unallocated >= tried:
        verdict = "fragmentation"
    else:
        verdict = "capacity"
    return {
        "tried": tried,
        "total": total,
        "free": free,
        "allocated": allocated,
        "unallocated": unallocated,
        "verdict": verdict,
    }
    # --- end


def judge(tried, total, free, allocated, unallocated, gap=4 * 1024**3):
    """The five numbers with their verdict, for right and wrong answers; it is no answer."""
    if tried > total:
        verdict = "shape"
    elif total - free - allocated - unallocated > gap:
        verdict = "intruder"
    else:
        verdict = "fragmentation" if free + unallocated >= tried else "capacity"
    return {
        "tried": tried,
        "total": total,
        "free": free,
        "allocated": allocated,
        "unallocated": unallocated,
        "verdict": verdict,
    }


def sizes_in(text, units=UNITS):
    """The five numbers by their order in the sentence, and its layout; it is no answer."""
    line = next(line for line in text.splitlines() if "Tried to allocate" in line)
    line = re.sub("with .{,20} allocated in private pools", "", line)
    line = re.sub("(Process \\d+|this process) has .*? memory in use", "", line)
    found = re.findall("([0-9.]+) (bytes|KiB|MiB|GiB)", line)
    numbers = [float(number) * units[unit] for number, unit in found]
    if "of which" in line:
        tried, total, free, allocated, last = numbers
        return [tried, total, free, allocated, last], "unallocated"
    tried, total, allocated, free, last = numbers
    return [tried, total, free, allocated, last], "cached" if "cached" in line else "reserved"


@read_oom.alternative
def by_order_of_sizes(text):
    numbers, layout = sizes_in(text)
    if layout == "reserved":
        numbers[4] -= numbers[3]
    return judge(*numbers)


def pieces(text):
    """(tried, total, free, allocated, the last size, the word behind it), by one pattern a layout;
    it is no answer.
    """
    size = r"([\d.]+ \w+)"
    old = rf"allocate {size} \(GPU \d+; {size} total capacity; {size} already allocated; {size} free; {size} (\w+)"
    new = rf"allocate {size}\. .*?total capac\w+ of {size} of which {size} is free"
    newer = rf"Of the allocated memory {size} is .* and {size} is (reserved by PyTorch but)"

    def value(written):
        number, unit = written.split()
        return float(number) * 1024 ** ("bytes", "KiB", "MiB", "GiB").index(unit)

    if found := re.search(old, text):
        tried, total, kept, free, last, word = found.groups()
        return *map(value, (tried, total, free, kept, last)), word
    first, second = re.search(new, text), re.search(newer, text)
    return *map(value, (*first.groups(), *second.groups()[:2])), "unallocated"


@read_oom.mistake(
    "`reserved in total` is taken for what is unallocated: up to 2.0 it includes the allocated "
    "memory, which then counts twice."
)
def reserved_as_it_stands(text):
    return judge(*sizes_in(text)[0])


@reserved_as_it_stands.again
def last_number_is_spare(text):
    tried, total, free, kept, spare, _ = pieces(text)
    answer = {"tried": tried, "total": total, "free": free, "allocated": kept, "unallocated": spare}
    if tried > total:
        return {**answer, "verdict": "shape"}
    if total - (free + kept + spare) > 4 << 30:
        return {**answer, "verdict": "intruder"}
    return {**answer, "verdict": "capacity" if spare + free < tried else "fragmentation"}


@read_oom.mistake(
    "`cached` is read like `reserved`: up to 1.4 it is what lies unused, and nothing is to be "
    "subtracted from it."
)
def cached_minus_allocated(text):
    numbers, layout = sizes_in(text)
    if layout != "unallocated":
        numbers[4] -= numbers[3]
    return judge(*numbers)


@cached_minus_allocated.again
def all_old_ones_subtract(text):
    tried, total, free, kept, last, word = pieces(text)
    spare = last if word == "unallocated" else last - kept
    gap = total - free - kept - spare
    names = [
        (tried > total, "shape"),
        (gap > 4 * 2**30, "intruder"),
        (free + spare >= tried, "fragmentation"),
        (True, "capacity"),
    ]
    return {
        "tried": tried,
        "total": total,
        "free": free,
        "allocated": kept,
        "unallocated": spare,
        "verdict": next(name for true, name in names if true),
    }


@read_oom.mistake("The units are taken for powers of 1000: a GiB has 1024³ bytes.")
def powers_of_1000(text):
    numbers, layout = sizes_in(text, {"bytes": 1, "KiB": 10**3, "MiB": 10**6, "GiB": 10**9})
    if layout == "reserved":
        numbers[4] -= numbers[3]
    return judge(*numbers, gap=4 * 10**9)


@powers_of_1000.again
def decimal_prefixes(text):
    def decimal(n):
        for power in (3, 2, 1):
            if n >= 1024**power:
                return n / 1024**power * 1000**power
        return n

    tried, total, free, kept, last, word = pieces(text)
    tried, total, free, kept, last = map(decimal, (tried, total, free, kept, last))
    spare = last - kept if word == "reserved" else last
    if tried > total:
        verdict = "shape"
    elif total - free - kept - spare > 4e9:
        verdict = "intruder"
    elif free + spare >= tried:
        verdict = "fragmentation"
    else:
        verdict = "capacity"
    keys = ("tried", "total", "free", "allocated", "unallocated", "verdict")
    return dict(zip(keys, (tried, total, free, kept, spare, verdict), strict=True))


@read_oom.mistake(
    "A `Process N` in the list is taken for an intruder. Inside a container that is your own "
    "process under another number; the gap in the sum says whether somebody else is there."
)
def any_process_intrudes(text):
    numbers, layout = sizes_in(text)
    if layout == "reserved":
        numbers[4] -= numbers[3]
    found = judge(*numbers)
    listed = re.search("Process \\d+ has", text)
    return found | {"verdict": "intruder"} if listed and found["verdict"] != "shape" else found


@any_process_intrudes.again
def somebody_is_listed(text):
    tried, total, free, kept, last, word = pieces(text)
    spare = last - kept if word == "reserved" else last
    out = {"tried": tried, "total": total, "free": free, "allocated": kept, "unallocated": spare}
    if tried > total:
        out["verdict"] = "shape"
    elif "Process " in text or total - free - kept - spare > 4 * 1024**3:
        out["verdict"] = "intruder"
    elif free + spare < tried:
        out["verdict"] = "capacity"
    else:
        out["verdict"] = "fragmentation"
    return out


@read_oom.mistake(
    "What is reserved but unallocated is left out of the gap: it is PyTorch's own, so a fragmented "
    "run looks like a neighbour."
)
def gap_without_cache(text):
    numbers, layout = sizes_in(text)
    if layout == "reserved":
        numbers[4] -= numbers[3]
    found = judge(*numbers)
    gap = numbers[1] - numbers[2] - numbers[3]
    return found | {"verdict": "intruder"} if gap > 4 * UNITS["GiB"] else found


@gap_without_cache.again
def not_free_not_allocated(text):
    tried, total, free, kept, last, word = pieces(text)
    spare = last - (kept if word == "reserved" else 0)
    elsewhere = (total - free - kept) / 2**30
    verdict = "fragmentation" if tried <= free + spare else "capacity"
    if elsewhere > 4:
        verdict = "intruder"
    if tried > total:
        verdict = "shape"
    return {
        "verdict": verdict,
        "tried": tried,
        "total": total,
        "free": free,
        "allocated": kept,
        "unallocated": spare,
    }


@read_oom.mistake(
    "Only the unallocated memory is compared with the request: what is free counts too, for in one "
    "piece the two together would have held it."
)
def unallocated_alone(text):
    numbers, layout = sizes_in(text)
    if layout == "reserved":
        numbers[4] -= numbers[3]
    found = judge(*numbers)
    if found["verdict"] == "fragmentation" and found["unallocated"] < found["tried"]:
        found["verdict"] = "capacity"
    return found


@unallocated_alone.again
def spare_covers_the_request(text):
    tried, total, free, kept, last, word = pieces(text)
    spare = last - kept if word == "reserved" else last
    gap = total - free - kept - spare
    verdict = ["capacity", "fragmentation"][spare >= tried]
    verdict = "intruder" if gap > 4 * 1024**3 else verdict
    return {
        "tried": tried,
        "total": total,
        "free": free,
        "allocated": kept,
        "unallocated": spare,
        "verdict": "shape" if tried > total else verdict,
    }


# -- checkpointed ------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=20,
    difficulty="challenge",
    minutes=45,
    section="Remedies",
    forbid=("torch.utils.checkpoint", "transformers", "fairscale"),
    hints=(
        "What does the backward pass need that a forward pass without a graph has thrown away, and "
        "what must be kept so that it can be made again, to the last dropped number?",
        "A `torch.autograd.Function`: forward runs the block (no graph is made inside) and saves x "
        "and `torch.get_rng_state()`. Backward puts that state back, runs the block again with "
        "`torch.enable_grad()` on a detached x, and differentiates. Which inputs must the Function "
        "have, so that autograd calls it although x needs no gradient?",
        "`Function.apply(x, *block.parameters())`. In backward: `y = block(x)`, then "
        "`torch.autograd.grad(y, [x, *parameters], slope)`, and put back the random state that was "
        "there before you changed it.",
    ),
)
def checkpointed(
    block: nn.Module, x: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch width"]:
    r"""Gradient checkpointing: `block(x)`, with no activation of the block kept for the backward
    pass.

    Keep `x` alone (and what costs next to nothing); when the backward pass comes by, run the block
    a second time, now with its graph, and go through that. Memory falls from that of all blocks
    to that of one, for one more forward pass: 4 units of work instead of 3.

    - The value and all gradients, of `x` and of the block's parameters, are those of `block(x)`.
      The parameters get theirs also where `x` needs none (a first layer above frozen embeddings).
    - A block with dropout draws the *same* mask again; and the random numbers that the program
      draws after the backward pass are those it would have drawn without checkpointing.
    - The block runs twice: once in the forward pass, once in the backward pass.

    The block's parameters are all trained; it has one input and one output. Graded: value and
    gradients, with and without a gradient for x; dropout; the random stream; the bytes kept
    between forward and backward, and the times the block ran. Chen et al., arXiv:1604.06174.
    """

    # --- answer
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            ctx.parameters, ctx.state = parameters, torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            (x,) = ctx.saved_tensors
            now = torch.get_rng_state()
            torch.set_rng_state(ctx.state)
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                y = block(x)
            torch.set_rng_state(now)
            return torch.autograd.grad(y, [x, *ctx.parameters], slope)

    return Recompute.apply(x, *block.parameters())
    # --- end


@checkpointed.alternative
def by_saved_tensors_hooks(block, x):
    # What autograd saves is dropped and counted; the first that is asked for makes all of them
    # again in one more forward pass, in the same order.
    state, count, again = torch.get_rng_state(), 0, []

    def drop(tensor):
        nonlocal count
        count += 1
        return count - 1

    def make(number):
        if not again:
            now = torch.get_rng_state()
            torch.set_rng_state(state)

            def keep(tensor):
                again.append(tensor.detach())

            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(keep, lambda _: None),
            ):
                block(x.detach().requires_grad_(x.requires_grad))
            torch.set_rng_state(now)
        return again[number]

    with torch.autograd.graph.saved_tensors_hooks(drop, make):
        return block(x)


def replayed(block, x, replay, inputs=None, forward=torch.no_grad):
    """`block(x)` with a backward pass of one's own, for right and wrong answers; it is no answer.

    `replay(x, state, slope)` gives the gradients of x and of the parameters.
    """
    state = torch.get_rng_state()

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *rest):
            ctx.x = x.detach()
            with forward():
                return block(x).detach()

        @staticmethod
        def backward(ctx, slope):
            return tuple(replay(ctx.x.clone().requires_grad_(), state, slope))

    return Node.apply(x, *(block.parameters() if inputs is None else inputs))


@checkpointed.alternative
def in_a_forked_stream(block, x):
    def replay(x, state, slope):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            return torch.autograd.grad(block(x), (x, *block.parameters()), slope)

    return replayed(block, x, replay)


@checkpointed.mistake(
    "The random state is not put back before the second forward pass: dropout draws another mask, "
    "and the gradient belongs to a network that never ran."
)
def another_mask(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            now = torch.get_rng_state()
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = block(x)
            torch.set_rng_state(now)
            return torch.autograd.grad(y, [x, *block.parameters()], slope)

    return Recompute.apply(x, *block.parameters())


@another_mask.again
def fresh_randomness(block, x):
    def replay(x, _, slope):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            return torch.autograd.grad((block(x) * slope).sum(), (x, *block.parameters()))

    return replayed(block, x, replay)


@checkpointed.mistake(
    "The random state of the forward pass is put back and left there: everything that is drawn "
    "after the backward pass repeats numbers that have been used."
)
def stream_rewound(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            ctx.state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            torch.set_rng_state(ctx.state)
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = block(x)
            return torch.autograd.grad(y, [x, *block.parameters()], slope)

    return Recompute.apply(x, *block.parameters())


@stream_rewound.again
def state_set_and_forgotten(block, x):
    def replay(x, state, slope):
        torch.random.set_rng_state(state)
        with torch.enable_grad():
            out = block(x)
        return torch.autograd.grad(outputs=out, inputs=(x, *block.parameters()), grad_outputs=slope)

    return replayed(block, x, replay)


@checkpointed.mistake(
    "Only x is an input of the Function: the block's parameters get no gradient, and nothing has "
    "one where x needs none."
)
def parameters_forgotten(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            now = torch.get_rng_state()
            torch.set_rng_state(ctx.state)
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = block(x)
            torch.set_rng_state(now)
            return torch.autograd.grad(y, x, slope)[0]

    return Recompute.apply(x)


@parameters_forgotten.again
def only_the_input(block, x):
    def replay(x, state, slope):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            return torch.autograd.grad(block(x), [x], slope)

    return replayed(block, x, replay, inputs=())


@checkpointed.mistake(
    "The gradient that comes from above is left out: the block is differentiated as if its outputs "
    "were summed into the loss."
)
def slope_forgotten(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            ctx.state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            now = torch.get_rng_state()
            torch.set_rng_state(ctx.state)
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = block(x).sum()
            torch.set_rng_state(now)
            return torch.autograd.grad(y, [x, *block.parameters()])

    return Recompute.apply(x, *block.parameters())


@slope_forgotten.again
def ones_for_the_slope(block, x):
    def replay(x, state, slope):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            y = block(x)
            return torch.autograd.grad(y, (x, *block.parameters()), torch.ones_like(slope))

    return replayed(block, x, replay)


@checkpointed.mistake("x gets no gradient: with this block every layer below it stops learning.")
def chain_cut(block, x):
    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            ctx.save_for_backward(x)
            ctx.state = torch.get_rng_state()
            return block(x)

        @staticmethod
        def backward(ctx, slope):
            now = torch.get_rng_state()
            torch.set_rng_state(ctx.state)
            with torch.enable_grad():
                y = block(ctx.saved_tensors[0].detach())
            torch.set_rng_state(now)
            return None, *torch.autograd.grad(y, list(block.parameters()), slope)

    return Recompute.apply(x, *block.parameters())


@chain_cut.again
def input_without_gradient(block, x):
    def replay(x, state, slope):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(state)
            slopes = torch.autograd.grad(block(x.detach()), list(block.parameters()), slope)
        return [torch.zeros_like(x), *slopes]

    return replayed(block, x, replay)


@checkpointed.mistake(
    "The block runs with its graph in the forward pass, so all its activations stay: nothing is "
    "saved."
)
def keeps_everything(block, x):
    return block(x)


@keeps_everything.again
def graph_in_the_context(block, x):
    class Stored(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, *parameters):
            with torch.enable_grad():
                ctx.x = x.detach().requires_grad_()
                ctx.y = block(ctx.x)
            ctx.parameters = parameters
            return ctx.y.detach()

        @staticmethod
        def backward(ctx, slope):
            return torch.autograd.grad(ctx.y, (ctx.x, *ctx.parameters), slope)

    return Stored.apply(x, *block.parameters())


# -- fitting_step ------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=15,
    difficulty="challenge",
    minutes=40,
    section="The batch size, changed while running",
    forbid=("accelerate", "transformers"),
    hints=(
        "An attempt may die in its third micro-batch. What has it left behind that the next "
        "attempt would count a second time? And what is still alive while an `except` block runs?",
        "One denominator for all micro-batches: the labels of the whole batch that carry loss. "
        "Each attempt starts from `parameter.grad = None` and from the first row. In the `except` "
        "block only note that it failed: the exception holds the frames that hold the tensors.",
        "`while True:` try all micro-batches; return where they went through; `except "
        "torch.OutOfMemoryError:` raise if micro_batch is 1. *After* the except block: "
        "`micro_batch //= 2`, and on with the loop.",
    ),
)
def fitting_step(
    model: nn.Module,
    x: Float[Tensor, "batch tokens width"],
    labels: Int[Tensor, "batch tokens"],
    micro_batch: int,
) -> dict:
    r"""Loss and gradients of one batch, in micro-batches that are halved until they fit.

    $$L = \frac{1}{N} \sum_{b,t:\ y_{b,t} \neq -100} -\log p(y_{b,t} \mid x_b)$$

    `model(x[i:j])` gives logits `[j - i, tokens, vocab]`; `labels` `[batch, tokens]` belong to the
    same positions (no shift here), -100 carries no loss, and $N$ counts the labels of the *whole*
    batch that do. Go through the rows in order, `micro_batch` at a time (the last may be
    smaller), with a backward pass for each. Where a `torch.OutOfMemoryError` is raised, halve
    `micro_batch` (rounded down) and start the batch again.

    - The gradients of $L$ lie in the parameters' `.grad` at the end; what lay there before the call
      is dropped. Loss and gradients are those of the large batch, whatever size was reached.
    - Where one row at a time does not fit, the exception goes on to the caller. Any other error
      goes on at once: a bug is not a lack of memory.

    Return `{"loss": scalar tensor, detached, "micro_batch": the size that fitted}`. Graded under a
    byte budget that raises PyTorch's own exception: loss and gradients, with unequal label counts
    and rows of unequal cost, the sizes tried, and the errors.
    """
    # --- answer
    count = (labels != IGNORE).sum()
    while True:
        for parameter in model.parameters():
            parameter.grad = None
        try:
            loss = torch.zeros(())
            for start in range(0, len(x), micro_batch):
                rows = slice(start, start + micro_batch)
                logits = model(x[rows]).flatten(0, 1)
                part = F.cross_entropy(logits, labels[rows].flatten(), reduction="sum") / count
                part.backward()
                loss = loss + part.detach()
            return {"loss": loss, "micro_batch": micro_batch}
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
        # Only here the failed attempt is gone: inside `except`, its traceback holds its tensors.
        logits = part = None
        micro_batch //= 2
    # --- end


def attempt(model, x, labels, size, count=None):
    """One pass in micro-batches, for right and wrong answers; it is no answer."""
    count = (labels != IGNORE).sum() if count is None else count
    loss = torch.zeros(())
    for rows, wanted in zip(x.split(size), labels.split(size), strict=True):
        logits = model(rows).flatten(0, 1)
        part = F.cross_entropy(logits, wanted.flatten(), ignore_index=-100, reduction="sum") / count
        part.backward()
        loss = loss + part.detach()
    return loss


@fitting_step.alternative
def by_retrying_function(model, x, labels, micro_batch):
    def fits(size):
        model.zero_grad(set_to_none=True)
        try:
            return attempt(model, x, labels, size)
        except torch.OutOfMemoryError as error:
            if size < 2:
                raise
            error.__traceback__ = None
            return None

    while (loss := fits(micro_batch)) is None:
        micro_batch = micro_batch // 2
    return {"loss": loss, "micro_batch": micro_batch}


@fitting_step.mistake(
    "The failed attempt's gradients are kept: the rows that went through before it died count "
    "twice."
)
def leftovers_counted(model, x, labels, micro_batch):
    model.zero_grad()
    while True:
        try:
            return {"loss": attempt(model, x, labels, micro_batch), "micro_batch": micro_batch}
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
        micro_batch //= 2


@leftovers_counted.again
def gradients_pile_up(model, x, labels, micro_batch):
    parameters, size = list(model.parameters()), micro_batch
    n = int((labels >= 0).sum())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    while size:
        total, done = 0.0, True
        for i in range(0, x.shape[0], size):
            try:
                logp = model(x[i : i + size]).log_softmax(-1).flatten(0, 1)
                nll = F.nll_loss(logp, labels[i : i + size].flatten(), reduction="sum") / n
                nll.backward()
                total += nll.item()
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                done = False
            logp = nll = None
            if not done:
                break
        if done:
            return {"loss": torch.tensor(total), "micro_batch": size}
        size //= 2


@fitting_step.mistake(
    "The micro-batches' means are averaged: with unequal label counts, and a smaller last "
    "micro-batch, that is another loss, and it changes with the size."
)
def means_averaged(model, x, labels, micro_batch):
    while True:
        model.zero_grad()
        loss, parts = torch.zeros(()), len(x.split(micro_batch))
        try:
            for rows, wanted in zip(x.split(micro_batch), labels.split(micro_batch), strict=True):
                part = F.cross_entropy(model(rows).flatten(0, 1), wanted.flatten()) / parts
                part.backward()
                loss = loss + part.detach()
            return {"loss": loss, "micro_batch": micro_batch}
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
        part = None
        micro_batch //= 2


@means_averaged.again
def loss_over_steps(model, x, labels, micro_batch):
    def go(size):
        steps, total = -(-len(x) // size), 0.0
        for step in range(steps):
            part = slice(step * size, step * size + size)
            loss = F.cross_entropy(model(x[part]).transpose(1, 2), labels[part]) / steps
            loss.backward()
            total += loss.item()
        return torch.tensor(total)

    while True:
        model.zero_grad(set_to_none=True)
        failure = None
        try:
            return {"loss": go(micro_batch), "micro_batch": micro_batch}
        except torch.OutOfMemoryError as error:
            failure = error.with_traceback(None)
        if micro_batch == 1:
            raise failure
        micro_batch //= 2


@fitting_step.mistake(
    "The retry runs inside the `except` block. The exception's traceback holds the frames of the "
    "failed attempt, these hold its tensors, and so every smaller attempt fails as well."
)
def retries_while_caught(model, x, labels, micro_batch):
    model.zero_grad()
    try:
        return {"loss": attempt(model, x, labels, micro_batch), "micro_batch": micro_batch}
    except torch.OutOfMemoryError:
        if micro_batch == 1:
            raise
        return retries_while_caught(model, x, labels, micro_batch // 2)


@retries_while_caught.again
def nested_attempts(model, x, labels, micro_batch):
    n = (labels != -100).sum()

    def go(size):
        for p in model.parameters():
            p.grad = None
        total = torch.zeros(())
        try:
            for i in range(0, len(x), size):
                scores = model(x[i : i + size]).flatten(0, 1)
                nll = F.cross_entropy(scores, labels[i : i + size].flatten(), reduction="sum")
                (nll / n).backward()
                total += nll.detach() / n
        except torch.OutOfMemoryError as error:
            if size > 1:
                return go(size // 2)
            raise error
        return {"loss": total, "micro_batch": size}

    return go(micro_batch)


@fitting_step.mistake(
    "Every RuntimeError is taken for a lack of memory: a wrong shape is tried again at every size "
    "before anybody hears of it."
)
def any_error_is_memory(model, x, labels, micro_batch):
    while True:
        model.zero_grad()
        try:
            return {"loss": attempt(model, x, labels, micro_batch), "micro_batch": micro_batch}
        except RuntimeError:
            if micro_batch == 1:
                raise
        micro_batch //= 2


@any_error_is_memory.again
def catches_exceptions(model, x, labels, micro_batch):
    size, n = micro_batch, (labels != -100).sum()
    while True:
        model.zero_grad()
        caught = None
        try:
            return {"loss": attempt(model, x, labels, size, n), "micro_batch": size}
        except Exception as error:
            caught = error.with_traceback(None)
        if size == 1:
            raise caught
        size = size // 2


@fitting_step.mistake(
    "Rows that do not fit are skipped: the run goes on, and the long samples are never learnt."
)
def skips_what_fails(model, x, labels, micro_batch):
    model.zero_grad()
    count, loss = (labels != IGNORE).sum(), torch.zeros(())
    for rows, wanted in zip(x.split(micro_batch), labels.split(micro_batch), strict=True):
        try:
            loss = loss + attempt(model, rows, wanted, micro_batch, count)
        except torch.OutOfMemoryError:
            continue
    return {"loss": loss, "micro_batch": micro_batch}


@skips_what_fails.again
def without_the_long_ones(model, x, labels, micro_batch):
    for p in model.parameters():
        p.grad = None
    n, total = (labels != -100).sum(), 0.0
    for i in range(0, len(x), micro_batch):
        scores = nll = None
        try:
            scores = model(x[i : i + micro_batch]).flatten(0, 1)
            wanted = labels[i : i + micro_batch].flatten()
            nll = F.cross_entropy(scores, wanted, reduction="sum") / n
            nll.backward()
            total += nll.item()
        except torch.OutOfMemoryError:
            pass
    return {"loss": torch.tensor(total), "micro_batch": micro_batch}


@fitting_step.mistake(
    "It goes straight to one row at a time: right numbers, but slower than it need be; halve."
)
def straight_to_one(model, x, labels, micro_batch):
    for size in (micro_batch, 1):
        model.zero_grad()
        try:
            return {"loss": attempt(model, x, labels, size), "micro_batch": size}
        except torch.OutOfMemoryError:
            if size == 1:
                raise


@straight_to_one.again
def one_row_if_it_fails(model, x, labels, micro_batch):
    n = int((labels != IGNORE).sum())
    model.zero_grad()
    try:
        return {"loss": attempt(model, x, labels, micro_batch, n), "micro_batch": micro_batch}
    except torch.OutOfMemoryError:
        pass
    if micro_batch == 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    model.zero_grad()
    return {"loss": attempt(model, x, labels, 1, n), "micro_batch": 1}


# -- growing_run -------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    batches: list[tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]],
    lr: float = 0.5,
) -> dict[str, Tensor]:
    """Train on batches of (ids, labels) and log, for each step, the loss and the entropy of the
    model's predictions.
    """
    losses, entropies = [], []
    for ids, labels in batches:
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
                parameter.grad = None
        losses.append(loss)
        entropies.append(entropy)
    return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}


GROWING_LOG = """
before step  weights  inputs  activations   all (MiB)
          1     0.09    0.00         0.00  0.09
          2     0.09    0.00         0.36  0.45
          3     0.09    0.00         0.60  0.69
          4     0.09    0.01         0.83  0.93
          5     0.09    0.01         1.07  1.17
          6     0.09    0.01         1.31  1.41
step 6: CUDA out of memory. Tried to allocate 121.98 KiB. GPU 0 has a total capacity of 2.00 MiB of which 23.61 KiB is free. Including non-PyTorch memory, this process has 1.98 MiB memory in use. Of the allocated memory 1.98 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
alive then: 6 float32 [4, 37, 211] from _softmax, 6 from _log_softmax: one of each step, 1 to 6
            1 float32 [148, 211] from addmm, _log_softmax, nll_loss_backward: all of step 6
"""


@exercise(
    kind="debug",
    points=10,
    difficulty="basic",
    minutes=25,
    section="Leaks",
    diagnoses={
        "logged_with_graph": "a number is logged as a tensor, and its graph stays alive with it",
        "gradients_kept": "gradients are not dropped after the step, and pile up",
        "batch_too_large": "one step's activations do not fit: the batch is too large",
        "fragmentation": "there is enough memory, but in pieces",
        "data_kept": "the batches stay in memory after they have been used",
    },
    log=GROWING_LOG,
    broken=fit,
    hints=(
        "The first steps fit, a later one of the same size does not. Which category grows, by how "
        "much a step, and which shape is that?",
        "`loss.backward()` frees what *its* graph has saved. The entropy has operations of its own "
        "on the logits, and nobody ever runs backward through these. Who still holds them?",
        "Log numbers, not graphs: `entropies.append(entropy.detach())`, or compute it under "
        "`torch.no_grad()`. Do the same to the loss, so that nobody has to think about it.",
    ),
)
def growing_run() -> dict:
    r"""A run that fits at first and dies some steps later: find the fault and mend it.

    `fit` trains a small language model and logs two numbers a step: the loss, and the entropy
    $-\sum_v p_v \ln p_v$ of its predictions, averaged over positions. The log is from twelve
    batches under a budget of 2 MiB, which you can set yourself in a cell:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2 MiB", model):
            fit(model, batches)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of `fit`.
    Graded: the same two numbers for every step, on short runs that never failed too; that the run
    fits, on whole batches; and that twice as many steps need no more memory.
    """

    # --- answer
    def patched(model, batches, lr=0.5):
        losses, entropies = [], []
        for ids, labels in batches:
            logits = model(ids)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
            with torch.no_grad():
                entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= lr * parameter.grad
                    parameter.grad = None
            losses.append(loss.detach())
            entropies.append(entropy)
        return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}

    line = next(line for line in GROWING_LOG.splitlines() if "one of each step" in line)
    return {"diagnosis": "logged_with_graph", "evidence": line, "patch": patched}
    # --- end


ENTROPY_LINE = "6 float32 [4, 37, 211] from _softmax, 6 from _log_softmax: one of each step, 1 to 6"


def log_steps(model, batches, lr, entropy_of, loss_of=torch.Tensor.detach, cut=lambda b: b):
    """`fit` with other ways to log, for right and wrong patches; it is no answer."""
    losses, entropies = [], []
    for ids, labels in batches:
        logits = model(cut(ids))
        loss = F.cross_entropy(logits.flatten(0, 1), cut(labels).flatten())
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
        model.zero_grad()
        losses.append(loss_of(loss))
        entropies.append(entropy_of(entropy))
        logits = loss = entropy = None
    return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}


@growing_run.alternative
def logged_as_numbers():
    def patch(model, batches, lr=0.5):
        return log_steps(model, batches, lr, lambda e: torch.tensor(e.item()))

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@growing_run.alternative
def entropy_of_detached_logits():
    def patch(model, batches, lr=0.5):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        log = {"loss": [], "entropy": []}
        for ids, labels in batches:
            optimizer.zero_grad()
            logits = model(ids)
            loss = F.cross_entropy(logits.mT, labels)
            loss.backward()
            optimizer.step()
            logp = logits.detach().log_softmax(-1)
            log["entropy"].append(-(logp.exp() * logp).sum(-1).mean())
            log["loss"].append(loss.detach())
        return {key: torch.stack(value) for key, value in log.items()}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


def sgd(model, lr):
    """One step of plain gradient descent; it is no answer."""
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(lr * p.grad)
            p.grad = None


@growing_run.mistake(
    "`del`, `gc.collect()` and `empty_cache()` free what nobody holds. The list of entropies holds "
    "the graphs, so they stay."
)
def collects_garbage():
    import gc

    def patch(model, batches, lr=0.5):
        def kept(entropy):
            gc.collect()
            torch.cuda.empty_cache()
            return entropy

        return log_steps(model, batches, lr, kept, loss_of=kept)

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@collects_garbage.again
def empties_the_cache():
    import gc

    def run(model, batches, lr=0.5):
        history = []
        for step, (ids, labels) in enumerate(batches):
            logits = model(ids)
            loss = F.cross_entropy(logits.transpose(1, 2), labels)
            p = logits.softmax(-1)
            history.append([loss, -(p * logits.log_softmax(-1)).sum(-1).mean()])
            loss.backward()
            sgd(model, lr)
            del logits, loss, p
            if step % 2 == 0:
                gc.collect()
        losses, entropies = zip(*history, strict=True)
        return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": run}


@growing_run.mistake(
    "Only the loss is detached. Its graph was freed by `backward()` anyway; the entropy's is the "
    "one that stays."
)
def loss_alone():
    def patch(model, batches, lr=0.5):
        return log_steps(model, batches, lr, lambda e: e)

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@loss_alone.again
def item_of_the_loss():
    def run(model, batches, lr=0.5):
        losses, entropies = [], []
        for ids, labels in batches:
            logits = model(ids)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            entropies += [-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()]
            loss.backward()
            sgd(model, lr)
            losses += [loss.item()]
        return {"loss": torch.tensor(losses), "entropy": torch.stack(entropies)}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": run}


@growing_run.mistake(
    "A batch of one row hides the growth behind smaller steps: it trains on a quarter of the data, "
    "and still grows."
)
def one_row_a_batch():
    def patch(model, batches, lr=0.5):
        return log_steps(model, batches, lr, lambda e: e, cut=lambda b: b[:1])

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@one_row_a_batch.again
def first_sample_only():
    def run(model, batches, lr=0.5):
        small = [(ids[0:1], labels[0:1]) for ids, labels in batches]
        log = fit(model, small, lr)
        return {"loss": log["loss"].detach(), "entropy": log["entropy"].detach()}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": run}


@growing_run.mistake(
    "The exception is swallowed: the run ends without an error, and without the steps that did "
    "not fit."
)
def stops_quietly():
    def patch(model, batches, lr=0.5):
        log = []
        for batch in batches:
            try:
                log.append(fit(model, [batch], lr))
            except torch.OutOfMemoryError:
                break
        return {key: torch.cat([step[key] for step in log]) for key in ("loss", "entropy")}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@stops_quietly.again
def passes_over_the_error():
    def run(model, batches, lr=0.5):
        losses, entropies = [], []
        try:
            for ids, labels in batches:
                logits = model(ids)
                loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
                entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
                loss.backward()
                sgd(model, lr)
                losses.append(loss)
                entropies.append(entropy)
        except RuntimeError:
            pass
        return {"loss": torch.stack(losses), "entropy": torch.stack(entropies)}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": run}


@growing_run.mistake(
    "The entropy is no longer computed: the memory is saved, and so is what was to be logged."
)
def nothing_logged():
    def patch(model, batches, lr=0.5):
        return log_steps(model, batches, lr, lambda e: torch.zeros(()))

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": patch}


@nothing_logged.again
def entropy_switched_off():
    def run(model, batches, lr=0.5):
        losses = []
        for ids, labels in batches:
            loss = F.cross_entropy(model(ids).mT, labels)
            loss.backward()
            sgd(model, lr)
            losses.append(loss.item())
        return {"loss": torch.tensor(losses), "entropy": torch.zeros(len(batches))}

    return {"diagnosis": "logged_with_graph", "evidence": ENTROPY_LINE, "patch": run}


@growing_run.mistake(
    "One step does fit: the first five did, and the last asks for no more than they. What grows "
    "from step to step is no matter of the batch size."
)
def blames_the_batch():
    return {"diagnosis": "batch_too_large", "evidence": "step 6: CUDA out of memory", "patch": fit}


@blames_the_batch.again
def too_many_rows():
    def same(model, batches, lr=0.5):
        return fit(model, batches, lr)

    return {
        "diagnosis": "batch_too_large",
        "evidence": "Tried to allocate 121.98 KiB",
        "patch": same,
    }


# -- evaluation_run ----------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: list[tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]],
) -> dict[str, Tensor]:
    """Loss and accuracy over all labelled tokens of all batches of (ids, labels); dropout is off
    meanwhile.
    """
    training = model.training
    model.eval()
    kept, wanted = [], []
    for ids, labels in batches:
        kept.append(model(ids))
        wanted.append(labels)
    model.train(training)
    logits, labels = torch.cat(kept).flatten(0, 1), torch.cat(wanted).flatten()
    counted = labels != IGNORE
    return {
        "loss": F.cross_entropy(logits, labels, ignore_index=IGNORE),
        "accuracy": (logits.argmax(-1) == labels)[counted].float().mean(),
    }


EVALUATION_LOG = """
evaluation    weights  gradients  activations  inputs  other   all (MiB)
batch  1         0.16       0.00         0.00    0.00   0.00  0.16
batch  2         0.16       0.00         0.00    0.00   0.14  0.30
batch  4         0.16       0.00         0.00    0.00   0.41  0.57
batch  8         0.16       0.00         0.00    0.01   0.95  1.12
batch 12         0.16       0.00         0.00    0.01   1.49  1.67
after batch 12: CUDA out of memory. Tried to allocate 1.63 MiB. GPU 0 has a total capacity of 2.50 MiB of which 712.74 KiB is free. Including non-PyTorch memory, this process has 1.80 MiB memory in use. Of the allocated memory 1.80 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
"""


@exercise(
    kind="debug",
    points=10,
    difficulty="basic",
    minutes=25,
    section="Evaluation",
    diagnoses={
        "keeps_all_logits": "the logits of every batch are kept until all of them are joined",
        "graph_kept": "the forward passes store activations for a backward pass",
        "batch_too_large": "one batch of the evaluation does not fit",
        "fragmentation": "there is enough memory, but in pieces",
        "training_left_over": "gradients and optimizer states of the training take the place",
    },
    log=EVALUATION_LOG,
    broken=evaluate,
    hints=(
        "Divide the request by the 4 bytes of a float32 and by the vocabulary of 307. How many "
        "tokens is that, and how many has one batch?",
        "Loss and accuracy of a set need three numbers of each batch, and no logits: which? "
        "Moving the logits to the host instead only moves the fault there.",
        "Sum up `F.cross_entropy(..., reduction='sum')`, the right guesses and the labels that "
        "count, batch by batch; divide once at the end. Batches have unequal label counts.",
    ),
)
def evaluation_run() -> dict:
    r"""Training fits, and the first evaluation kills the run: find the fault and mend it.

    `evaluate` gives the mean loss and the accuracy over the $N$ labelled tokens of a whole set,

    $$L = \frac{1}{N} \sum_{i=1}^{N} -\log p(y_i), \qquad
      A = \frac{1}{N} \sum_{i=1}^{N} [\arg\max_v z_{i,v} = y_i]$$

    (labels belong to the same positions; -100 does not count). The log is from 12 batches of 4 x 29
    tokens, with a vocabulary of 307, under a budget of 2.5 MiB:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2.5 MiB", model):
            evaluate(model, batches)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `evaluate`. Graded: both numbers, on three batches that never failed too, with unequal label
    counts and one batch that has none; that the run fits, on whole batches; that twice as many
    batches need no more memory; and that the model is left in the mode in which it came.
    """

    # --- answer
    @torch.no_grad()
    def patched(model, batches):
        training = model.training
        model.eval()
        loss, right, count = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for ids, labels in batches:
            logits, labels = model(ids).flatten(0, 1), labels.flatten()
            loss += F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
            right += (logits.argmax(-1) == labels).sum()  # -100 is never the largest
            count += (labels != IGNORE).sum()
        model.train(training)
        return {"loss": loss / count, "accuracy": right / count}

    line = next(line for line in EVALUATION_LOG.splitlines() if "Tried to allocate" in line)
    return {"diagnosis": "keeps_all_logits", "evidence": line, "patch": patched}
    # --- end


REQUEST = "Tried to allocate 1.63 MiB"


@evaluation_run.alternative
def three_numbers_a_batch():
    def patch(model, batches):
        training, totals = model.training, torch.zeros(3, dtype=torch.float64)
        model.eval()
        for ids, labels in batches:
            with torch.inference_mode():
                logp = model(ids).log_softmax(-1)
                counted = labels >= 0
                nll = -logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
                right = (logp.argmax(-1) == labels) & counted
                totals += torch.stack([x.double().sum() for x in (nll * counted, right, counted)])
        model.train(training)
        loss, right, count = totals.float()
        return {"loss": loss / count, "accuracy": right / count}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


def scored(model, batches, divide_late=True, restore=True):
    """Sums over batches, for right and wrong patches; it is no answer."""
    training = model.training
    model.eval()
    parts = []
    with torch.no_grad():
        for ids, labels in batches:
            logits, wanted = model(ids).flatten(0, 1), labels.flatten()
            nll = F.cross_entropy(logits, wanted, reduction="sum")
            right, count = (logits.argmax(-1) == wanted).sum(), (wanted >= 0).sum()
            parts.append(torch.stack([nll, right.float(), count.float()]))
    if restore:
        model.train(training)
    parts = torch.stack(parts)
    if divide_late:
        loss, right, count = parts.sum(0)
        return {"loss": loss / count, "accuracy": right / count}
    parts = parts[parts[:, 2] > 0]
    means = (parts[:, :2] / parts[:, 2:]).mean(0)
    return {"loss": means[0], "accuracy": means[1]}


@evaluation_run.mistake(
    "The batches' means are averaged: a batch with few labels weighs as much as a full one."
)
def mean_of_batches():
    def patch(model, batches):
        return scored(model, batches, divide_late=False)

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@mean_of_batches.again
def average_loss_per_batch():
    @torch.no_grad()
    def run(model, batches):
        was, losses, rights = model.training, [], []
        model.eval()
        for ids, labels in batches:
            keep = labels >= 0
            if keep.any():
                logits = model(ids)[keep]
                losses.append(F.cross_entropy(logits, labels[keep]).item())
                rights.append((logits.argmax(1) == labels[keep]).float().mean().item())
        model.train(was)
        n = len(losses)
        return {"loss": torch.tensor(sum(losses) / n), "accuracy": torch.tensor(sum(rights) / n)}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


@evaluation_run.mistake(
    "The model stays in evaluation mode: the training goes on without dropout, and nobody is told."
)
def left_in_eval():
    def patch(model, batches):
        return scored(model, batches, restore=False)

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@left_in_eval.again
def never_back_to_training():
    @torch.inference_mode()
    def run(model, batches):
        model = model.eval()
        loss = hits = n = 0.0
        for ids, labels in batches:
            keep = labels >= 0
            logits = model(ids)[keep]
            loss += F.cross_entropy(logits, labels[keep], reduction="sum").item()
            hits += (logits.argmax(1) == labels[keep]).sum().item()
            n += keep.sum().item()
        return {"loss": torch.tensor(loss / n), "accuracy": torch.tensor(hits / n)}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


@evaluation_run.mistake(
    "Smaller batches keep the same logits, only in more pieces: joined they are as large as before."
)
def one_row_at_a_time():
    def patch(model, batches):
        rows = [(ids[i : i + 1], y[i : i + 1]) for ids, y in batches for i in range(len(ids))]
        return evaluate(model, rows)

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@one_row_at_a_time.again
def batch_size_one():
    @torch.no_grad()
    def run(model, batches):
        mode = model.training
        model.eval()
        logits, labels = [], []
        for ids, y in batches:
            for row, wanted in zip(ids.unbind(), y.unbind(), strict=True):
                logits.append(model(row.unsqueeze(0)))
                labels.append(wanted.unsqueeze(0))
        scores, y = torch.cat(logits)[:, :], torch.cat(labels)
        model.train(mode)
        right = (scores.argmax(-1) == y)[y >= 0].float().mean()
        return {"loss": F.cross_entropy(scores.mT, y), "accuracy": right}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


@evaluation_run.mistake(
    "`gc.collect()` and `empty_cache()` after each batch free what nobody holds; the list holds "
    "all the logits."
)
def collects_after_batches():
    import gc

    def patch(model, batches):
        def collected():
            for batch in batches:
                gc.collect()
                torch.cuda.empty_cache()
                yield batch

        return evaluate(model, collected())

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@collects_after_batches.again
def cleans_up_often():
    import gc

    @torch.no_grad()
    def run(model, batches):
        mode = model.training
        model.eval()
        outputs = []
        for ids, _ in batches:
            output = model(ids)
            outputs.append(output)
            del output
            gc.collect()
        model.train(mode)
        scores, y = torch.cat(outputs), torch.cat([y for _, y in batches])
        right = (scores.argmax(-1) == y)[y != -100].float().mean()
        return {"loss": F.cross_entropy(scores.mT, y), "accuracy": right}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


@evaluation_run.mistake(
    "The logits are kept in 16 bits: half the bytes a token is still some for every token, so a set "
    "twice as large fails again (and the loss is a little off)."
)
def kept_in_half():
    @torch.no_grad()
    def patch(model, batches):
        training = model.training
        model.eval()
        kept = torch.cat([model(ids).half() for ids, _ in batches])
        model.train(training)
        loss = right = count = 0
        for logits, (_, labels) in zip(kept.split(4), batches, strict=True):
            logits, labels = logits.float().flatten(0, 1), labels.flatten()
            loss = loss + F.cross_entropy(logits, labels, reduction="sum")
            right = right + (logits.argmax(-1) == labels).sum()
            count = count + (labels != IGNORE).sum()
        return {"loss": loss / count, "accuracy": right / count}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@kept_in_half.again
def float16_in_the_list():
    def run(model, batches):
        mode, outputs = model.training, []
        model.eval()
        for ids, _ in batches:
            with torch.no_grad():
                outputs.append(model(ids).to(torch.float16))
        model.train(mode)
        scores = torch.cat(outputs)
        total, right, n = 0.0, 0.0, 0.0
        for i, (_, y) in enumerate(batches):
            part = scores[4 * i : 4 * i + 4].float()
            total += F.cross_entropy(part.mT, y, reduction="sum").item()
            right += ((part.argmax(-1) == y) & (y >= 0)).sum().item()
            n += (y >= 0).sum().item()
        return {"loss": torch.tensor(total / n), "accuracy": torch.tensor(right / n)}

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


@evaluation_run.mistake(
    "Only the first batches are scored, those that fit: a number for another set."
)
def scores_a_part():
    def patch(model, batches):
        return evaluate(model, batches[:4])

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": patch}


@scores_a_part.again
def four_are_enough():
    def run(model, batches):
        few = []
        for batch in batches:
            if len(few) == 4:
                break
            few.append(batch)
        return scored(model, few)

    return {"diagnosis": "keeps_all_logits", "evidence": REQUEST, "patch": run}


# -- frozen_tower ------------------------------------------------------------------------------


def vision_step(
    tower: nn.Module,
    connector: nn.Module,
    pixels: Float[Tensor, "images patches width"],
    targets: Float[Tensor, "images patches hidden"],
    train_tower: bool = False,
) -> dict:
    """One step's loss, and the gradients of what is trained: the connector, and the tower where
    `train_tower` says so (connector first).
    """
    tower.requires_grad_(train_tower)
    trained = [*connector.parameters(), *(tower.parameters() if train_tower else ())]
    for parameter in trained:
        parameter.grad = None
    pixels = pixels.clone().requires_grad_()  # as enable_input_require_grads() does
    features = tower(pixels)
    loss = F.mse_loss(connector(features), targets)
    loss.backward()
    return {"loss": loss.detach(), "gradients": [parameter.grad for parameter in trained]}


TOWER_LOG = """
parameters: tower 0 of 149,376 trainable, connector 7,296 of 7,296
step 1, forward: CUDA out of memory. Tried to allocate 55.12 KiB. GPU 0 has a total capacity of 2.25 MiB of which 38.25 KiB is free. Including non-PyTorch memory, this process has 2.21 MiB memory in use. Of the allocated memory 2.21 MiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.
alive then, in KiB: weights 612, gradients 0, optimizer 0, images 55 and their copy 55
  activations: tower.0 220  tower.3 220  tower.6 220  tower.9 220  tower.12 220  tower.15 220
"""


@exercise(
    kind="debug",
    points=12,
    difficulty="challenge",
    minutes=30,
    section="The tower, frozen",
    forbid=("transformers",),
    diagnoses={
        "graph_through_frozen": "the frozen tower stores activations: its input asks for a gradient",
        "tower_trained": "the tower's weights are trained after all",
        "too_many_images": "the step needs more than there is: fewer images must go in",
        "attention_maps": "attention builds maps of patches x patches",
        "leak": "something is kept from step to step",
    },
    log=TOWER_LOG,
    broken=vision_step,
    hints=(
        "`requires_grad=False` on a weight says that *the weight* gets no gradient. When does an "
        "operation on a frozen weight store its activations all the same?",
        "Autograd stores what it needs to carry a gradient back to anything that asks for one, and "
        "here the pixels do. Nobody uses that gradient. Does it help to cut the graph behind the "
        "tower, when it has been built already?",
        "`with torch.set_grad_enabled(train_tower): features = tower(pixels)`: no graph is built "
        "where the tower is frozen, and training it still works.",
    ),
)
def frozen_tower() -> dict:
    r"""A frozen vision tower that needs the memory of a trained one: find the fault and mend it.

    `vision_step` trains a connector behind a vision tower. The tower is frozen unless `train_tower`
    says otherwise, and still its activations fill the memory. The log is from a batch of 6 images
    of 49 patches, under a budget of 2.25 MiB, which is plenty for the connector alone:

        from labs.doctors.memory.follow.budget import byte_budget
        with byte_budget("2.25 MiB", tower, connector):
            vision_step(tower, connector, pixels, targets)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `vision_step`. Graded: loss and gradients, also of the healthy run that *trains* the tower;
    that the frozen step fits; that the tower sees the whole batch, once; and that no gradient comes
    back to it where it is frozen.
    """

    # --- answer
    def patched(tower, connector, pixels, targets, train_tower=False):
        tower.requires_grad_(train_tower)
        trained = [*connector.parameters(), *(tower.parameters() if train_tower else ())]
        for parameter in trained:
            parameter.grad = None
        with torch.set_grad_enabled(train_tower):
            features = tower(pixels)
        loss = F.mse_loss(connector(features), targets)
        loss.backward()
        return {"loss": loss.detach(), "gradients": [parameter.grad for parameter in trained]}

    line = next(line for line in TOWER_LOG.splitlines() if "tower.0" in line)
    return {"diagnosis": "graph_through_frozen", "evidence": line, "patch": patched}
    # --- end


TOWER_LINE = "activations: tower.0 220  tower.3 220  tower.6 220"


def stepped(tower, connector, pixels, targets, train_tower, see):
    """`vision_step` with another way through the tower, for right and wrong patches; no answer."""
    tower.requires_grad_(train_tower)
    trained = [*connector.parameters(), *(tower.parameters() if train_tower else ())]
    connector.zero_grad()
    tower.zero_grad()
    loss = F.mse_loss(connector(see(tower, pixels)), targets)
    loss.backward()
    return {"loss": loss.detach(), "gradients": [parameter.grad for parameter in trained]}


@frozen_tower.alternative
def input_asks_for_nothing():
    def patch(tower, connector, pixels, targets, train_tower=False):
        return stepped(tower, connector, pixels, targets, train_tower, lambda t, p: t(p))

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@frozen_tower.alternative
def hook_behind_the_tower():
    def patch(tower, connector, pixels, targets, train_tower=False):
        def see(tower, pixels):
            if train_tower:
                return tower(pixels)
            with torch.no_grad():
                features = tower(pixels)
            return features.requires_grad_()

        return stepped(tower, connector, pixels, targets, train_tower, see)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@frozen_tower.mistake(
    "`detach()` behind the tower comes too late: by then the tower has run with its graph, and all "
    "its activations were alive at once."
)
def detached_behind():
    def patch(tower, connector, pixels, targets, train_tower=False):
        def see(tower, pixels):
            features = tower(pixels.clone().requires_grad_())
            return features if train_tower else features.detach()

        return stepped(tower, connector, pixels, targets, train_tower, see)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@detached_behind.again
def data_of_the_features():
    def run(tower, connector, pixels, targets, train_tower=False):
        for p in tower.parameters():
            p.requires_grad = train_tower
        images = pixels.detach().clone()
        images.requires_grad = True
        seen = tower(images)
        if not train_tower:
            seen = seen.data
        loss = (connector(seen) - targets).pow(2).mean()
        loss.backward()
        wanted = list(connector.parameters()) + (list(tower.parameters()) if train_tower else [])
        return {"loss": loss.detach(), "gradients": [p.grad for p in wanted]}

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


@frozen_tower.mistake(
    "`eval()` switches dropout off and says nothing to autograd: the graph is built as before."
)
def evaluation_mode():
    def patch(tower, connector, pixels, targets, train_tower=False):
        def see(tower, pixels):
            return tower.train(train_tower)(pixels.clone().requires_grad_())

        return stepped(tower, connector, pixels, targets, train_tower, see)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@evaluation_mode.again
def tower_in_eval():
    def run(tower, connector, pixels, targets, train_tower=False):
        if not train_tower:
            tower.eval()
        return vision_step(tower, connector, pixels, targets, train_tower)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


@frozen_tower.mistake(
    "The tower always runs without a graph, also where it is to be trained: then it gets no "
    "gradients."
)
def never_a_graph():
    def patch(tower, connector, pixels, targets, train_tower=False):
        def see(tower, pixels):
            with torch.no_grad():
                return tower(pixels)

        return stepped(tower, connector, pixels, targets, train_tower, see)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@never_a_graph.again
def inference_always():
    def run(tower, connector, pixels, targets, train_tower=False):
        tower.requires_grad_(train_tower)
        with torch.no_grad():
            seen = tower(pixels)
        trained = list(connector.parameters())
        if train_tower:
            trained += list(tower.parameters())
        loss = (connector(seen) - targets).square().mean()
        loss.backward()
        return {"loss": loss.detach(), "gradients": [p.grad for p in trained]}

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


@frozen_tower.mistake(
    "One image at a time hides the fault: the frozen tower still stores its activations, and runs "
    "six times for nothing."
)
def one_image_at_a_time():
    def patch(tower, connector, pixels, targets, train_tower=False):
        parts = [
            vision_step(tower, connector, x[None], y[None], train_tower)
            for x, y in zip(pixels, targets, strict=True)
        ]
        slopes = zip(*(part["gradients"] for part in parts), strict=True)
        return {
            "loss": torch.stack([part["loss"] for part in parts]).mean(),
            "gradients": [sum(slope) / len(parts) for slope in slopes],
        }

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@one_image_at_a_time.again
def micro_batches_of_one():
    def run(tower, connector, pixels, targets, train_tower=False):
        tower.requires_grad_(train_tower)
        trained = [*connector.parameters(), *(tower.parameters() if train_tower else ())]
        total, n = 0.0, len(pixels)
        for i in range(n):
            image = pixels[i : i + 1].clone().requires_grad_()
            loss = F.mse_loss(connector(tower(image)), targets[i : i + 1]) / n
            loss.backward()
            total += loss.item()
        return {"loss": torch.tensor(total), "gradients": [p.grad for p in trained]}

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


@frozen_tower.mistake(
    "Checkpointing the frozen tower pays for a second forward pass, to make activations again that "
    "nobody needs."
)
def checkpointed_tower():
    from torch.utils.checkpoint import checkpoint

    def patch(tower, connector, pixels, targets, train_tower=False):
        def see(tower, pixels):
            hidden = pixels.clone().requires_grad_()
            for i in range(0, len(tower), 3):
                hidden = checkpoint(tower[i : i + 3], hidden, use_reentrant=False)
            return hidden

        return stepped(tower, connector, pixels, targets, train_tower, see)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@checkpointed_tower.again
def recomputes_the_frozen_part():
    from torch.utils.checkpoint import checkpoint_sequential

    def run(tower, connector, pixels, targets, train_tower=False):
        tower.requires_grad_(train_tower)
        x = pixels.clone().requires_grad_()
        seen = checkpoint_sequential(tower, len(tower) // 3, x, use_reentrant=False)
        loss = F.mse_loss(connector(seen), targets)
        loss.backward()
        trained = [*connector.parameters()]
        trained += [p for p in tower.parameters() if train_tower]
        return {"loss": loss.detach(), "gradients": [p.grad for p in trained]}

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


@frozen_tower.mistake(
    "Half of the images are left out: the step fits, and learns from three pictures instead of six."
)
def half_the_images():
    def patch(tower, connector, pixels, targets, train_tower=False):
        few = (len(pixels) + 1) // 2
        return vision_step(tower, connector, pixels[:few], targets[:few], train_tower)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": patch}


@half_the_images.again
def first_three():
    def run(tower, connector, pixels, targets, train_tower=False):
        keep = range(0, (len(pixels) + 1) // 2)
        some = torch.tensor(list(keep))
        return vision_step(tower, connector, pixels[some], targets[some], train_tower)

    return {"diagnosis": "graph_through_frozen", "evidence": TOWER_LINE, "patch": run}


# -- fit_on_24_gb ------------------------------------------------------------------------------


@exercise(kind="explain", difficulty="challenge", minutes=20, section="At full size")
def fit_on_24_gb():
    """You have one card of 24 GB and want LLaVA-1.5-7B to learn from your own pictures. It dies at
    the first step. In which order do you change things, what does each change give back, and what
    do you not touch?

    Say what you measure before you change anything; give the sum for weights, gradients, optimizer,
    activations and logits, before and after; name for each remedy what it costs in time or in
    quality, and one that would save nothing here. At which point do you give up on this card?
    """
    # --- answer
    # **First find out what died.** One line decides: how much was asked for, how much PyTorch held,
    # and how much was free (exercise `read_oom`). If the request is larger than the card, it is a
    # shape; if somebody else holds 5 GiB, it is not your model. Only then is it capacity.
    #
    # **The sum before** (exercise `training_memory`). Full training with mixed-precision AdamW
    # keeps 16 bytes for each of 6.76 billion trained parameters: 101 GiB. No batch size helps: the
    # batch is in none of these bytes.
    #
    # **1. Train less.** LoRA of rank 128 leaves 2 bytes for each frozen parameter and 16 for each
    # of 341 million trained ones: 18.2 GiB, most of it the frozen base. Rank 16 takes most of the
    # adapters' 5 GiB away as well. It costs no time, and perhaps some quality where the task is far
    # from what the model knows.
    #
    # **2. Quantise what is frozen**, if that is still too much: NF4 takes the base's 12.6 GiB down
    # to about 3.5. In Qwen-VL's table QLoRA needs 19.3 GB where LoRA needs 27.3, and 7.9 s a step
    # where it took 5.9: a third more time.
    #
    # **3. Activations.** They grow with batch and tokens. At batch 1 and 2048 tokens checkpointing
    # keeps 0.5 GiB of layer inputs in place of some 14 (28 copies of the hidden state a layer, the
    # factor that ml-engineering measured for a Llama of this width), for one more forward pass: 20
    # to 40 per cent of the time. Put the frozen tower under `no_grad`, which costs nothing at all.
    # Take SDPA or flash attention: the maps of eager attention grow with the square of the tokens.
    #
    # **4. Logits.** 2048 positions x 32,000 words x 6 bytes are 0.37 GiB a sample, and their
    # gradient comes on top. Few of these positions carry a label: take logits only there, or the
    # loss in chunks. Same loss, no time.
    #
    # **5. Then the batch.** Micro-batch 1, and accumulation to the batch that you wanted, divided by
    # the labels of the *whole* batch: the same loss, more slowly. It comes last because it repairs
    # nothing: it was never the batch that held 101 GiB.
    #
    # **What saves nothing here.** An 8-bit optimizer, once LoRA is in: rank 16 has 40 million
    # trained parameters, and their moments are 0.3 GiB. `empty_cache()`: by the time the exception
    # is raised the cache has been emptied already. `expandable_segments` helps against
    # fragmentation, which the first line excluded or did not.
    #
    # **What not to touch:** the resolution and the number of visual tokens, unless nothing else is
    # left: 576 of 2048 tokens are the picture, and they are what the model reads your answer from.
    # And the evaluation: shrinking the batch because the *evaluation* kept all logits is a repair in
    # the wrong place.
    #
    # **Giving up.** If the weights in 4 bits, the adapters, one checkpointed sample of your longest
    # length and the context do not fit with a tenth of the card to spare, the next step is offload
    # (host memory, several times slower) or a rented card of 48 GB for the hours that it takes.
    # Predict both before you choose: `python tools/oom_doctor.py predict`.
    # --- end
