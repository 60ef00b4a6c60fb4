"""Which exceptions are about memory. Standard library only; loaded into observed processes."""

from __future__ import annotations

HOST_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "no space left on device",
    "bus error",
    "killed by signal",
    "shared memory",
)


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception is about memory: of a GPU, of the host, of /dev/shm."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "out of memory" in text
        or (isinstance(error, (RuntimeError, OSError)) and any(w in text for w in HOST_WORDS))
    )
