"""The tracebacks of a log: which calls led to the line that failed, and in which phase of training.

Reads Python's own layout, IPython's, the boxes that `rich` draws and PyTorch's shortened ones, also
when another rank's lines stand between. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labs.doctors.memory.log.lines import Line

PYTHON = re.compile(r'[\s.:]*File "([^"\n]+)", line (\d+)(?:, in (\S+))?')
RICH = re.compile(r"\s*[│┃|]\s*(\S+\.pyx?):(\d+) in (\S+)")
# Hosted notebooks copy their links along: `[/usr/lib/x.py](https://localhost/#) in f(a)`.
IPYTHON = re.compile(
    r"\s*(?:File )?\[?([\w~./\\<>\-: ]+\.py)(?:\]\([^)\s]{1,300}\))?(?::(\d+),?)? in ([\w.<>]+)\("
)
IPYTHON_CELL = re.compile(
    r"\s*(?:Cell In\s?\[\d+\]|<ipython-input-[\w\-]+>)(?:, line (\d+)| in ([\w.<>]+))"
)
SHORT = re.compile(r"\s*\.\.\. in ([\w.]+)")  # reports that quote only where it ended
# A warning or a logger names its place at the start of the very line.
WARNING = re.compile(r"(\S+\.py):(\d+): \w*Warning: (.{0,120})")
ARROW = re.compile(r"\s*[│┃|]?\s*(?:❱|-+>)\s*\d+\s*[│┃|]?\s*(.*?)\s*[│┃|]?$")
BEGIN = re.compile(r"Traceback \(most recent call last\)|─ Traceback ")
MARKS = re.compile(r"\s*[\^~]+\s*$")
ENDED = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b(?::|$)")

REACH = 400  # lines of one rank above the message that may belong to its traceback


@dataclass(frozen=True)
class Frame:
    """One call: where, which function, and the line of code where the log prints it."""

    path: str
    number: int | None
    function: str
    code: str = ""

    @property
    def words(self) -> str:
        return f"{self.path} {self.function} {self.code}"


@dataclass(frozen=True)
class Traceback:
    """Frames from the outermost call to the innermost, and the lines they stand on."""

    frames: tuple[Frame, ...] = ()
    lines: tuple[Line, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join(frame.words for frame in self.frames)


def _frame(line: str) -> Frame | None:
    match = PYTHON.match(line) or RICH.match(line)
    if match:
        return Frame(match.group(1), int(match.group(2)), match.group(3) or "")
    match = IPYTHON_CELL.match(line)
    if match:
        return Frame("notebook", int(match.group(1) or 0) or None, match.group(2) or "")
    match = IPYTHON.match(line)
    if match:
        return Frame(match.group(1).strip(), int(match.group(2) or 0) or None, match.group(3))
    match = SHORT.match(line)
    return Frame("", None, match.group(1)) if match else None


def traceback_before(lines: list[Line], index: int) -> Traceback:
    """The traceback that ends at `lines[index]`, taken from lines of the same rank only.

    Without rank prefixes other ranks' frames may stand between; frames repeat then, and a repeated
    frame says nothing new, so it is kept once.
    """
    if BEGIN.search(lines[index].text):  # a notebook names the error first, in the header
        return _of_block(_block_after(lines, index))
    rank = lines[index].rank
    own: list[Line] = []
    for line in reversed(lines[max(0, index - 4 * REACH) : index]):
        if rank is not None and line.rank is not None and line.rank != rank:
            continue
        own.append(line)
        if BEGIN.search(line.text) or len(own) >= REACH:
            break
    own.reverse()
    if not own or not any(_frame(line.text) for line in own):
        after = _traceback_after(lines, index)
        if after.frames:
            return after
        warning = WARNING.search(lines[index].text[:2000])
        if not warning:
            return _code_above(lines, index)
        path, number, code = warning.groups()
        return Traceback((Frame(path, int(number), "", code),), (lines[index],))
    begun = next((i for i, line in enumerate(own) if BEGIN.search(line.text)), None)
    if begun is None:  # cut off above: take the frames that stand directly over the message
        begun = next(i for i, line in enumerate(own) if _frame(line.text))
    return _of_block(own[begun:])


def _block_after(lines: list[Line], index: int) -> list[Line]:
    """What follows a header line up to the error's own line, the next header, or 200 lines."""
    following = lines[index + 1 : index + 200]
    ends = (
        i for i, line in enumerate(following) if BEGIN.search(line.text) or ENDED.match(line.text)
    )
    return following[: next(ends, len(following))]


def _of_block(own: list[Line]) -> Traceback:
    """The frames in these lines, each with its line of code."""
    frames: dict[tuple, Frame] = {}
    kept: list[Line] = []
    for at, line in enumerate(own):
        frame = _frame(line.text)
        if frame is None:
            continue
        code = ""
        for following in own[at + 1 : at + 12]:
            arrow = ARROW.match(following.text)
            if arrow:
                code = arrow.group(1)
                break
            if _frame(following.text):
                break
            if not code and PYTHON.match(line.text) and not MARKS.match(following.text):
                code = following.text.strip()
        key = (frame.path, frame.number, frame.function)
        if key not in frames:
            frames[key] = Frame(frame.path, frame.number, frame.function, code[:300])
            kept.append(line)
    return Traceback(tuple(frames.values()), tuple(kept))


def _traceback_after(lines: list[Line], index: int) -> Traceback:
    """Some loggers print the message first: a traceback of the same rank that follows at once."""
    following = lines[index + 1].rank if index + 1 < len(lines) else None
    rank = lines[index].rank if lines[index].rank is not None else following
    own = [line for line in lines[index + 1 : index + 200] if line.rank == rank]
    if not own or not BEGIN.search(own[0].text):
        return Traceback()
    block = own[:1]
    for line in own[1:]:
        if line.text[:1] not in (" ", "\t", "│", "┃"):
            break
        block.append(line)
    return traceback_before([*block, lines[index]], len(block)) if len(block) > 1 else Traceback()


# A report often quotes only the line of code that failed, or the name of its function.
CODE = re.compile(r"\s+\S.*[(=]|\s*\.{2,3}\s*\w+.*\(|\s+in \w+\s*$|[\w./\\]+\.py\b.*[(=]")
COLLIDED = re.compile(r"Error\s*:\s*(\S[^:]{2,200}\))\s*(?:CUDA|HIP|XPU) out of memory\. Tried")
LOOSE = re.compile(r"\s+in (\w+)\s*$")


def _code_above(lines: list[Line], index: int) -> Traceback:
    """The code above a message that has no frames, or before it on its line where writers collided."""
    collided = COLLIDED.search(lines[index].text[:2000])
    if collided:
        return Traceback((Frame("", None, "", collided.group(1)),), (lines[index],))
    for line in reversed(lines[max(0, index - 3) : index]):
        if line.rank != lines[index].rank or MARKS.match(line.text):
            continue
        if not CODE.match(line.text) or "%|" in line.text:
            break
        loose = LOOSE.match(line.text)
        name, code = (loose.group(1), "") if loose else ("", line.text.strip()[:300])
        return Traceback((Frame("", None, name, code),), (line,))
    return Traceback()


# What a call says about the phase. The first group that any frame matches wins, so that a forward
# inside an evaluation counts as evaluation, and `load_state_dict` never as saving.
PHASES = (
    ("save", r"(?<!load_)(?<!load_optimizer_)(?<!load_model_)\b_?(?:get_)?(?:full_|model_|fsdp_|optim_|consolidated_16bit_|_?zero3_consolidated_16bit_)?(?:optim_)?state_dict\b(?!_into)|_save_to_state_dict|undo_layout|save_checkpoint|_save_checkpoint|save_model|save_pretrained|_save\b|save_16bit_model|torch\.save|get_fp32_state_dict|consolidate_state_dict|optim_state_dict|_optim_utils|_state_dict_utils|_full_post_state_dict_hook"),
    ("load", r"from_pretrained|load_state_dict|load_checkpoint|_load_pretrained|torch\.load|serialization\.py|_move_model_to_device|load_model|load_pretrained\w*|resize_token_embeddings|load_lora|safetensors|_configure_distributed_model|_configure_optimizer|_configure_zero_optimizer|setup_model_and_optimizer|initialize_engine|deepspeed\.initialize|deepspeed/__init__\.py initialize|__init__ .*\.(?:to|cuda)\(|module\.to\(self\.device|model\.to\(|model\.cuda\(|_apply param_applied|nn[/\\]modules[/\\]module\.py (?:convert|to|cuda)\b|bitsandbytes[/\\]nn[/\\]modules\.py (?:to|cuda|_quantize)\b|create_shared_weights|dispatch_model|zero\.Init|partition_parameters\.py _?(?:init|post_init)|replace_with_bnb|quantize_4bit|Params4bit|FlatParamHandle __init__|_init_param_handle|_materialize"),
    ("evaluate", r"evaluation_loop|prediction_loop|prediction_step|\bevaluate\b|\bvalidate\b|validation_step|_evaluate|eval_step|compute_metrics|nested_concat|torch_pad_and_concatenate|EvalLoopContainer|run_validation|_run_evaluation|sanity_check"),
    ("optimizer", r"optimizer\.step\(|/optim/|\\optim\\|fused_adam|cpu_adam|_init_group|exp_avg|initialize_optimizer_states|_optimizer_step|_multi_tensor_|_single_tensor_|scaler\.step|_take_model_step|bitsandbytes.optim|adafactor|clip_grad_norm|unscale_|stage_1_and_2\.py step|stage3\.py (?:step|_optimizer_step|unscale)|bf16_optimizer\.py step"),
    ("generate", r"generation/utils|generation\\utils|\bgenerate\b|_beam_search| _sample\b|sample_sequences|rollout|generate_sequences|greedy_search|cache_utils|model_runner|vllm/(?:worker|v1|engine|model_executor)|sglang/srt"),
    ("backward", r"\.backward\(|_engine_run_backward|run_backward|autograd/__init__|autograd/graph|autograd\\__init__| backward\b|backward_step"),
    ("loss", r"cross_entropy|compute_loss_func|loss_function|ForCausalLMLoss|CrossEntropyLoss|log_softmax|logps|loss_fct|fixed_cross_entropy"),
    ("forward", r"\bforward\b|_call_impl|__call__|training_step|modules\.py|module\.py|rotary|mlp|linear|conv\dd|_?norm\b|embedding|gelu|relu|silu|dropout|attention"),
)  # fmt: skip
_PHASES = tuple((name, re.compile(pattern)) for name, pattern in PHASES)


def phase_of(traceback: Traceback) -> str | None:
    """load, forward, loss, backward, optimizer, evaluate, generate or save; None if unknown."""
    text = traceback.text
    for name, pattern in _PHASES:
        if pattern.search(text):
            return name
    return None
