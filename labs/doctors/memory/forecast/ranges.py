"""How sure a prediction is: the bands around the peaks, each with its reasons, and what fits.

Sizes of tensors are exact. The rest (kernels, fragmentation, the context, a process on the host) is
known from tables and models, and the shares of the bands are judgements, not measurements.
"""

from __future__ import annotations

from labs.doctors.memory.cuda import cuda_table
from labs.doctors.memory.forecast.prediction import Fit, Range
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.record import Trace

GIB = 1 << 30
EXACT = ("weights", "gradients", "optimizer", "buffers", "inputs")
# The band, as shares. They are judgements, not measurements: see `uncertainty`.
EXACT_BAND, KERNEL_BAND, FRAGMENT_BAND = 0.005, 0.05, 0.5
# A Python process with torch and CUDA's libraries loaded, and how far that varies. Not measured here.
# One tensor on a GPU cost a process 723 MiB (discuss.pytorch.org/t/73021): the most for the context.
CONTEXT_MOST = 723 << 20
HOST_BASE, HOST_SPREAD = 3 * GIB, 2 * GIB
SHARD = 5 * 10**9  # Transformers' default file size of a checkpoint, read one after the other


def context_of(plan: Plan) -> float:
    """Bytes of CUDA's own context; none on a CPU."""
    return cuda_table.CONTEXT_BYTES if plan.device == "cuda" else 0


def fit(card: str, usable: int, gpu: Range) -> Fit:
    verdict = "yes" if gpu.high <= usable else "no" if gpu.low > usable else "perhaps"
    return Fit(card, usable, verdict)


def gpu_range(breakdown: dict[str, float], plan: Plan) -> Range:
    """The peak and the band that it should lie in. The shares of the band are judgements."""
    exact = sum(breakdown.get(name, 0) for name in EXACT)
    fragments, context = breakdown.get("fragmentation", 0), breakdown.get("context", 0)
    total = sum(breakdown.values())
    kernels = total - exact - fragments - context
    spread = cuda_table.CONTEXT_SPREAD if context else 0
    below = EXACT_BAND * exact + KERNEL_BAND * kernels + FRAGMENT_BAND * fragments + spread
    # Fragmentation has no upper bound that a model of one step could know: a run goes on for days.
    above = (
        below
        + 0.01 * (total - context)
        + (max(0, CONTEXT_MOST - context - spread) if context else 0)
    )
    reasons = [
        "not calibrated: no prediction has been compared with a GPU yet, so the band is a judgement",
        f"kernels' choice and scratch memory on this GPU and these versions: {KERNEL_BAND:.0%} of "
        f"activations, logits, temporary and workspace",
        f"fragmentation comes from a model of PyTorch's allocator: {FRAGMENT_BAND:.0%} of it, and 1 % of all above",
    ]
    if context:
        reasons.append(
            f"CUDA's context: {context / GIB:.2f} GiB assumed, not measured here; it varies with card, driver "
            f"and loaded kernels, and {CONTEXT_MOST / GIB:.2f} GiB was reported (discuss.pytorch.org/t/73021)"
        )
    if plan.sharding != "none":
        reasons.append(
            "NCCL's buffers are not counted: healthy runs show gaps of up to 3.5 GiB with them"
        )
    return Range(total, total - below, total + above, tuple(reasons))


def host_range(trace: Trace | None, weights: float) -> Range:
    """Host memory of one training process, without data loading workers."""
    held = trace.peak_bytes("host") if trace else 0
    total = HOST_BASE + held + min(weights, SHARD)
    return Range(
        total,
        max(held, total - HOST_SPREAD),
        total + HOST_SPREAD,
        (
            f"a process with torch and CUDA's libraries: about {HOST_BASE / GIB:.0f} GiB, not measured here",
            "one file of the checkpoint while it loads (at most 5 GB)",
            "tensors that the plan keeps on the host, traced"
            if held
            else "the plan keeps no tensors on the host",
            "workers, their prefetched batches and pinned copies come on top",
        ),
    )
