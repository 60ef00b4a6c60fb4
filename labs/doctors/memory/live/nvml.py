"""What the NVIDIA driver says of its GPUs and of who uses them, through libnvidia-ml and ctypes.

Standard library only: `watch` and `run` work where no NVML package is installed. Sizes in bytes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass, field


class NvmlError(Exception):
    """NVML cannot be asked; the message is one sentence for a person."""


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class _Process(ctypes.Structure):  # nvmlProcessInfo_v2_t
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


NOT_AVAILABLE = 2**64 - 1  # the driver does not tell (WSL, MIG, another user's process)
NO_PERMISSION, INSUFFICIENT_SIZE = 4, 7


@dataclass
class Gpu:
    """One GPU: what is used of it, and by which process ids (None: the driver does not tell)."""

    index: int
    name: str
    total: int
    used: int
    processes: dict[int, int | None] = field(default_factory=dict)


class Nvml:
    """A session with the driver. Raises NvmlError where there is none."""

    def __init__(self, library: str | None = None):
        name = library or "libnvidia-ml.so.1"
        try:
            self.library = ctypes.CDLL(name)
        except OSError:
            raise NvmlError(
                "There is no NVML on this machine (no NVIDIA driver, or a container started "
                "without --gpus), so GPU memory cannot be read."
            ) from None
        self._call("nvmlInit_v2")

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self.library, name, None)
        if function is None:
            raise NvmlError(f"This NVIDIA driver is too old: its NVML has no {name}.")
        code = function(*arguments)
        if code not in (0, INSUFFICIENT_SIZE):
            if code == NO_PERMISSION:
                raise NvmlError("The NVIDIA driver denies this user permission to read the GPU.")
            self.library.nvmlErrorString.restype = ctypes.c_char_p
            said = self.library.nvmlErrorString(code)
            raise NvmlError(f"NVML answers: {said.decode() if said else code}.")
        return code

    def gpus(self) -> list[Gpu]:
        """All GPUs that this process may see."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self._gpu(index) for index in range(count.value)]

    def _gpu(self, index: int) -> Gpu:
        handle, memory = ctypes.c_void_p(), _Memory()
        name = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
        self._call("nvmlDeviceGetName", handle, name, 96)
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        gpu = Gpu(index, name.value.decode(), memory.total, memory.used)
        try:
            gpu.processes = self._processes(handle)
        except NvmlError:
            pass  # MIG and old drivers: the totals are still worth having
        return gpu

    def _processes(self, handle: ctypes.c_void_p) -> dict[int, int | None]:
        room = ctypes.c_uint(0)
        question = "nvmlDeviceGetComputeRunningProcesses_v3"
        if not self._call(question, handle, ctypes.byref(room), None):
            return {}
        room = ctypes.c_uint(room.value + 8)  # others may start meanwhile
        found = (_Process * room.value)()
        self._call(question, handle, ctypes.byref(room), found)
        return {p.pid: None if p.used == NOT_AVAILABLE else p.used for p in found[: room.value]}
