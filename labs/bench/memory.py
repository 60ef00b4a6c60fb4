"""How much memory this process has, and has had at most."""

import contextlib
import sys
from pathlib import Path

import psutil


def reset_peak() -> int:
    """Forget the high-water mark where the system allows it; return the level to measure from, in bytes.

    Linux forgets it (clear_refs). Elsewhere the mark stays, so take the level where memory has not
    been higher before: after the imports.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak() -> int:
    """The high-water mark of resident memory in bytes."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
