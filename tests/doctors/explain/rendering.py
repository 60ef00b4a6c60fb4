"""PyTorch's out-of-memory sentences as each release prints them, and tracebacks around them.

The layouts follow c10/cuda/CUDACachingAllocator.cpp of the releases named; sizes are formatted as
its `format_size` does.
"""

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

OLD_HINT = (
    " If reserved memory is >> allocated memory try setting max_split_size_mb to avoid "
    "fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
)
HINT_21 = (
    " If reserved but unallocated memory is large try setting max_split_size_mb to avoid "
    "fragmentation.  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
)
HINT_22 = (
    " If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation "
    "for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)
HINT_29 = (
    " If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
    "Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
    "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)


def format_size(size: int) -> str:
    if size <= 1024:
        return f"{size} bytes"
    for unit, scale in (("KiB", KIB), ("MiB", MIB)):
        if size <= scale * 1024:
            return f"{size / scale:.2f} {unit}"
    return f"{size / GIB:.2f} GiB"


# release -> (layout name, whether it has `allowed`, a process list, private pools)
RELEASES = {
    "1.4": "cached",
    "1.8": "reserved in total",
    "1.13": "reserved in total",
    "2.1": "capacty",
    "2.4": "capacity",
    "2.9": "capacity",
    "hip": "capacity",
    "xpu": "capacity",
}


def sentence(
    release: str,
    tried: int,
    total: int,
    free: int,
    allocated: int,
    unallocated: int,
    gpu: int = 0,
    allowed: int | None = None,
    processes: tuple[tuple[int, int], ...] = (),
    own: int | None = None,
    pools: int | None = None,
) -> str:
    """The sentence of one release, without the exception's class."""
    f = format_size
    if release in ("1.4", "1.8", "1.13"):
        text = (
            f"CUDA out of memory. Tried to allocate {f(tried)} (GPU {gpu}; {f(total)} total "
            f"capacity; {f(allocated)} already allocated; {f(free)} free; "
        )
        if release == "1.4":
            return text + f"{f(unallocated)} cached)"
        if allowed is not None and release == "1.13":
            text += f"{f(allowed)} allowed; "
        text += f"{f(allocated + unallocated)} reserved in total by PyTorch)"
        return text + (OLD_HINT if release == "1.13" else "")
    device = {"hip": "HIP", "xpu": "XPU"}.get(release, "CUDA")
    spelled = "capacty" if release == "2.1" else "capacity"
    text = (
        f"{device} out of memory. Tried to allocate {f(tried)}. GPU {gpu} has a total {spelled} of "
        f"{f(total)} of which {f(free)} is free. "
    )
    for pid, used in processes:
        text += f"Process {pid} has {f(used)} memory in use. "
    if own is not None:
        text += f"Including non-PyTorch memory, this process has {f(own)} memory in use. "
    if allowed is not None:
        text += f"{f(allowed)} allowed; "
    text += f"Of the allocated memory {f(allocated)} is allocated by PyTorch, "
    if pools is not None:
        text += f"with {f(pools)} allocated in private pools (e.g., CUDA Graphs), "
    text += f"and {f(unallocated)} is reserved by PyTorch but unallocated."
    return (
        text + {"2.1": HINT_21, "2.4": HINT_22, "hip": HINT_22, "2.9": HINT_29, "xpu": ""}[release]
    )


def error(release: str, **numbers) -> str:
    """The last line of a traceback."""
    name = {
        "1.4": "RuntimeError",
        "1.8": "RuntimeError",
        "1.13": "torch.cuda.OutOfMemoryError",
        "2.1": "torch.cuda.OutOfMemoryError",
    }.get(release, "torch.OutOfMemoryError")
    return f"{name}: {sentence(release, **numbers)}"


PACKAGES = "/opt/conda/lib/python3.11/site-packages"


def traceback(*frames: tuple[str, str, str], last: str) -> str:
    """Python's layout; frames are (path, function, code), paths below site-packages if relative."""
    lines = ["Traceback (most recent call last):"]
    for number, (path, function, code) in enumerate(frames, 11):
        full = path if path.startswith("/") else f"{PACKAGES}/{path}"
        lines += [f'  File "{full}", line {number}, in {function}', f"    {code}"]
    return "\n".join([*lines, last])


def ranked(text: str, rank: int) -> str:
    """As torchrun prints one rank's error since 2.2."""
    return "\n".join(f"[rank{rank}]: {line}" for line in text.split("\n"))


# A full 80 GB GPU: nothing wasted, nobody else.
FULL = {
    "tried": 2 * GIB,
    "total": int(79.15 * GIB),
    "free": int(0.9 * GIB),
    "allocated": int(76.2 * GIB),
    "unallocated": int(0.6 * GIB),
}
