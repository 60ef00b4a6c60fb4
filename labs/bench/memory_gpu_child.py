"""One case of `labs bench memory_gpu`, run for real: the child.

Nothing of the doctor's trace runs here: the model is built as a training script builds it, by
Transformers, PEFT and bitsandbytes, and stepped by PyTorch's own loop. Only what a plan *means* is
shared with the doctor: its batch, and which part of the model a weight belongs to. So a prediction is
held against what a user's process takes, and a slip in how the doctor builds a model would show.

The child imports first and says so; it touches the device only when it is its turn, so that the next
one can get ready while this one measures.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

STEPS = 3
VERSIONS = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def measure(settings: dict) -> dict:
    """Build the model of a case, take three steps, and say what that held; see `memory_gpu_meter`."""
    import torch

    from labs.bench.memory_gpu_meter import make_meter
    from labs.doctors.memory.plan import Plan

    plan = Plan.from_dict(settings["plan"])
    meter = make_meter(settings["device"], settings["limit"])
    answer: dict[str, Any] = {"outcome": "done", "steps": 0}
    start = time.monotonic()
    try:
        with meter:
            run(plan, settings["device"], meter, answer)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        # Libraries that ask the driver themselves say it in words of their own.
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            words in said for words in ("out of memory", "ALLOC_FAILED")
        ):
            raise
        answer |= {"outcome": "out of memory", "said": said[:400]}
    return answer | {
        "seconds": round(time.monotonic() - start, 2),
        "memory": meter.readings(),
        "versions": versions(),
    }


def run(plan: Any, device: str, meter: Any, answer: dict) -> None:
    """Fill `answer` while going, so that it says how far a run came that has run out of memory."""
    import torch

    from labs.bench.memory_gpu_model import build, count, make_optimizer
    from labs.doctors.memory.setup.configs import load_source
    from labs.doctors.memory.trace.tracing import batch_maker

    torch.manual_seed(0)
    source = load_source(plan.model, allow_network=False)
    made = time.monotonic()
    model = build(plan, source.config, device)
    answer["parameters"] = count(model)
    reference = None
    if plan.objective == "dpo" and plan.method not in ("lora", "qlora"):
        reference = build(plan, source.config, device).requires_grad_(False).eval()
    meter.mark("load")
    answer["build_seconds"] = round(time.monotonic() - made, 2)
    optimizer = make_optimizer(plan, model)
    rows = plan.batch * (2 if plan.objective == "dpo" else 1)
    batch = batch_maker(source, torch.randn, [])(plan.replace(batch=rows))
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    models = [model] if reference is None else [model, reference]
    answer["parts"] = {
        "weights": held((p for m in models for p in m.parameters()), device),
        "buffers": held((b for m in models for b in m.buffers()), device),
    }
    loss_of = dpo_loss if plan.objective == "dpo" else language_loss
    with Kernels() as kernels:
        for step in range(STEPS):
            for _ in range(plan.grad_accumulation):
                with autocast(plan, device):
                    loss = loss_of(model, reference, batch)
                meter.mark("forward")
                loss.backward()
                answer["loss"] = float(loss.detach())
                del loss
                meter.mark("backward")
            kernels.stop()
            answer["parts"]["gradients"] = held((p.grad for p in trained), device)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            meter.mark("optimizer_step")
            states = (value for state in optimizer.state.values() for value in state.values())
            answer["parts"]["optimizer"] = held(states, device)
            answer["steps"] = step + 1
    answer["attention"] = kernels.seen


def held(values: Iterable[Any], device: str) -> int:
    """Bytes of the distinct storages of the tensors among `values` that lie on the device."""
    import torch

    seen = {}
    for value in values:
        quantised = getattr(value, "quant_state", None)
        inside = [quantised.absmax, quantised.code] if quantised is not None else []
        if quantised is not None and quantised.nested:
            inside += [quantised.offset, quantised.state2.absmax, quantised.state2.code]
        for tensor in (value, *inside):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == device:
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def autocast(plan: Any, device: str) -> Any:
    """The context of the forward pass, as Transformers' Trainer has it."""
    import torch

    dtype = getattr(torch, plan.compute_dtype) if plan.uses_autocast else torch.bfloat16
    return torch.autocast(device, dtype=dtype, enabled=plan.uses_autocast)


def language_loss(model: Any, reference: Any, batch: dict) -> Any:
    """The model's own loss."""
    return model(**batch).loss


def dpo_loss(model: Any, reference: Any, batch: dict) -> Any:
    """-log sigmoid(0.1 x the margin of chosen over rejected), one batch of both, as TRL's DPOTrainer."""
    import torch

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    policy = log_probability(model, inputs)
    with torch.no_grad():
        if reference is not None:
            base = log_probability(reference, inputs)
        else:
            with model.disable_adapter():
                base = log_probability(model, inputs)
    chosen, rejected = (policy - base).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()


def log_probability(model: Any, inputs: dict) -> Any:
    """[rows] log-probability of each row; the next tokens' one by one as TRL's selective_log_softmax."""
    import torch

    logits = model(**inputs).logits[:, :-1]
    targets = inputs["input_ids"][:, 1:].unsqueeze(-1)
    if logits.dtype == torch.float32:
        chosen = logits.gather(-1, targets).squeeze(-1)
        return (chosen - torch.stack([row.logsumexp(-1) for row in logits])).sum(1)
    rows = [
        row.log_softmax(-1).gather(-1, target).squeeze(-1)
        for row, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(rows).sum(1)


class Kernels:
    """Which attention kernel PyTorch chooses, counted over the first step: cuDNN's, flash, efficient …

    Asked in the words of the call itself, so it holds no memory and changes nothing.
    """

    def __init__(self):
        self.seen: dict[str, int] = {}

    def __enter__(self) -> "Kernels":
        from torch.nn import functional as F

        self.original = original = F.scaled_dot_product_attention

        def watched(query, key, value, *args, **kwargs):
            kind = self._choice(query, key, value, *args, **kwargs)
            self.seen[kind] = self.seen.get(kind, 0) + 1
            return original(query, key, value, *args, **kwargs)

        F.scaled_dot_product_attention = watched
        return self

    @staticmethod
    def _choice(query, key, value, *args, **kwargs) -> str:
        import torch
        from torch.nn.attention import SDPBackend

        if query.dtype == torch.float32 and torch.is_autocast_enabled(query.device.type):
            return "cast by autocast"  # the choice falls after the cast
        try:
            return SDPBackend(
                torch._fused_sdp_choice(query, key, value, *args, **kwargs)
            ).name.lower()
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            return type(error).__name__

    def stop(self) -> None:
        """Count no more."""
        from torch.nn import functional as F

        F.scaled_dot_product_attention = self.original

    def __exit__(self, *_) -> None:
        self.stop()


def versions() -> dict[str, str]:
    """What the measurement ran on."""
    import importlib.metadata
    import platform

    import torch

    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def main() -> None:
    settings = json.loads(sys.argv[1])
    if settings["plan"]["expandable_segments"]:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # before torch is imported
    from labs.bench.children import Turns

    turns = Turns()
    start = time.monotonic()
    import torch
    import transformers

    import labs.bench.memory_gpu_model
    import labs.doctors.memory.trace.tracing  # noqa: F401

    # Not PEFT, which imports bitsandbytes, which looks at the GPU: that is another child's now.
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    turns.ready({"seconds": round(time.monotonic() - start, 2)})
    turns.wait()
    turns.report(measure(settings))
    turns.wait()


if __name__ == "__main__":
    main()
