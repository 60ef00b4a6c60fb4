"""Causes outside PyTorch's allocator: host memory, shared memory, NCCL, inference engines, kills."""

from __future__ import annotations

import re
from collections.abc import Iterator

from labs.doctors.memory.log.guess import Guess
from labs.doctors.memory.log.lines import Line
from labs.doctors.memory.log.pasted import Pasted
from labs.doctors.memory.log.signs import Sign

# Reasons for a kill that are not memory.
OTHER_REASON = re.compile(
    r"DUE TO TIME LIMIT|PREEMPT|CANCELLED|KeyboardInterrupt|Interrupted system call|scancel"
    r"|(?i:watchdog (?:caught|got)|heartbeat.{0,30}(?:timed out|timeout)|collective operation timeout)"
    r"|NCCL (?:error|WARN)|Segmentation fault|SIGSEGV|Signal 11|SIGABRT|SIGTERM.{0,20}received"
)
KILLED_NAME = re.compile(r"Kill(?:ed)? process \d+ \(([^)]+)\)|task=([\w.\-]+)")
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
# A launcher's own report of a child that died: a consequence, not an error of its own.
LAUNCHER = re.compile(
    r"ChildFailedError|CalledProcessError|elastic/(?:multiprocessing|agent)|torchrun|launch\.py|SubprocessError"
    r"|torch/distributed/(?:run|launch|launcher)|subprocess\.py"
)


def _lines(signs: list[Sign], *ids: str) -> tuple[Line, ...]:
    return tuple(sign.line for sign in signs if sign.id in ids)[:3]


def own_errors(lines: list[Line], before: int) -> list[Line]:
    """Tracebacks above this line number that are an error of the program, not of its launcher."""
    found = []
    for index, line in enumerate(lines):
        if line.number >= before:
            break
        if TRACEBACK.search(line.text):
            body = "\n".join(following.text for following in lines[index : index + 60])
            if not LAUNCHER.search(body):
                found.append(line)
    return found


def certain(signs: list[Sign], pasted: Pasted) -> Iterator[Guess]:
    """What the kernel, a scheduler or an allocator itself said."""
    ids = {sign.id for sign in signs}
    if "descriptors" in ids and ("shm" in ids or any(
        re.search(r"shared memory|ancdata|torch_", line.text) for line in _lines(signs, "descriptors")
    )):  # fmt: skip
        yield Guess("file_descriptors", "certain", "The error number says that the process may not open "
                    "more files. Every tensor that workers share is one; memory was not short.",
                    _lines(signs, "descriptors"))  # fmt: skip
        return
    if "kernel_cgroup" in ids or "slurm_oom" in ids or "k8s_oom" in ids:
        lines = _lines(signs, "kernel_cgroup", "slurm_oom", "k8s_oom")
        usage = ""
        if pasted.cgroup:
            used, limit, line = pasted.cgroup
            usage = f" It used {used / 2**30:,.1f} of {limit / 2**30:,.1f} GiB."
            lines = (*lines, line)
        yield Guess("container_memory_limit", "certain", "The limit of the job (cgroup, Slurm, "
                    "Kubernetes) was reached and the kernel killed a process of it. Host memory is "
                    "meant: GPU memory never counts there, /dev/shm does." + usage + _who(lines),
                    lines)  # fmt: skip
        return
    if "kernel_oom" in ids:
        lines = _lines(signs, "kernel_oom")
        yield Guess("host_memory", "certain", "The kernel's out-of-memory killer ended a process "
                    "because the whole machine had no memory left." + _who(lines), lines)  # fmt: skip
        return
    if "ray_oom" in ids:
        yield Guess("host_memory", "certain", "Ray's memory monitor killed a worker because the node's "
                    "host memory passed its threshold; the GPU is not meant.", _lines(signs, "ray_oom"))  # fmt: skip
        return
    if "notebook_oom" in ids:
        yield Guess("host_memory", "certain", "The hosted notebook ended its kernel because the machine's "
                    "memory (not the GPU's) was used up.", _lines(signs, "notebook_oom"))  # fmt: skip
        return
    if "shm" in ids:
        lines = _lines(signs, "shm")
        percent = ""
        if pasted.shm:
            percent = f" The pasted `df` shows {pasted.shm[0]} at {pasted.shm[1]} %."
            lines = (*lines, pasted.shm[2])
        yield Guess("shared_memory", "certain", "/dev/shm had no room for a segment. Containers give it "
                    "64 MiB unless told otherwise, and data loader workers and NCCL both use it."
                    + percent, lines)  # fmt: skip
        return
    if "page_file" in ids:
        yield Guess("page_file", "certain", "Windows must be able to back everything a process "
                    "reserves; each worker process loads the CUDA libraries anew.", _lines(signs, "page_file"))  # fmt: skip
        return
    if "cpu_alloc" in ids:
        yield Guess("host_memory", "certain", "An allocation on the CPU failed: the host's memory, or "
                    "the limit of this process, ran out.", _lines(signs, "cpu_alloc"))  # fmt: skip


def _who(lines: tuple[Line, ...]) -> str:
    for line in lines:
        match = KILLED_NAME.search(line.text)
        name = match and (match.group(1) or match.group(2))
        if name and not re.search("python|pt_|ray|torch|train|conda|worker|VLLM|accelerate", name):
            return f" Mind that the killed process is called {name}: check that it is yours."
    return ""


def engines(signs: list[Sign]) -> Iterator[Guess]:
    """Inference engines and the GPU they share."""
    if lines := _lines(signs, "cumem"):
        yield Guess("inference_engine_share", "certain", "The request came from the inference engine's "
                    "own allocator (sleep mode): it wants its share of the GPU back while the trainer "
                    "holds it. PyTorch's allocator was not asked.", lines)  # fmt: skip
    elif lines := _lines(signs, "engine_no_blocks"):
        yield Guess("inference_engine_share", "certain", "After weights and a profiling run the engine's "
                    "share of the GPU left nothing, or too little, for its KV cache: its share is too "
                    "small for this model and length, or others hold the rest.", lines)  # fmt: skip
    elif lines := _lines(signs, "engine_warm_up"):
        yield Guess("inference_engine_share", "certain", "The engine had taken its share and found no "
                    "memory beside it to try its sampler with as many requests as it may get at once "
                    "(max_num_seqs × vocabulary × 4 bytes, several times).", lines)  # fmt: skip
    elif lines := _lines(signs, "engine_no_share"):
        yield Guess("inference_engine_share", "certain", "When the engine started, less of the GPU was "
                    "free than the share it was told to take: something else is on the GPU already.",
                    lines, first=("close_other_process",))  # fmt: skip


def outside(signs: list[Sign], steps: int | None) -> Iterator[Guess]:
    """CUDA refused someone else than PyTorch's allocator; no numbers are printed then."""
    if lines := _lines(signs, "nccl_oom"):
        yield Guess("nccl_memory", "likely", "NCCL asks the driver directly, mostly at its first "
                    "collective, and the driver had nothing left.", lines)  # fmt: skip
    elif lines := _lines(signs, "bnb_oom"):
        yield Guess("outside_pytorch", "likely", "bitsandbytes allocates (paged) states by itself; the "
                    "line names its C source, not yours.", lines, first=("adam8bit",))  # fmt: skip
    elif lines := _lines(signs, "cublas_alloc"):
        yield Guess("outside_pytorch", "likely", "cuBLAS or cuDNN could not make its handle or "
                    "workspace. It does so lazily, when PyTorch's cache has filled the GPU.", lines)  # fmt: skip
    elif lines := _lines(signs, "pinned"):
        yield Guess("host_memory", "possible", "Page-locked host memory was asked for; it is limited "
                    "separately from GPU memory although the error reads the same.", lines)  # fmt: skip


def kills(signs: list[Sign], pasted: Pasted, lines: list[Line]) -> Iterator[Guess]:
    """Exit code 137, signal 9: memory is the usual reason, but the line does not say so."""
    kill = [sign for sign in signs if sign.id in ("exit_137", "signal_9", "worker_killed")]
    if not kill:
        if bus := _lines(signs, "bus_error"):
            yield Guess("shared_memory", "possible", "A bus error (signal 7) ends a process that writes "
                        "to a mapped file with no room behind it: /dev/shm when it is full, more "
                        "rarely a file that was cut while it was read.", bus)  # fmt: skip
        elif lost := _lines(signs, "ray_lost"):
            yield Guess("host_memory", "possible", "Ray lost a worker and lists why that happens; a kill "
                        "for memory is the first of its guesses, not a finding. Ray's own log "
                        "(raylet.out) and `dmesg` on that node say which.", lost)  # fmt: skip
        elif gone := _lines(signs, "worker_gone"):
            yield Guess("host_memory", "possible", "A data loader worker vanished. Often the kernel took "
                        "it for memory; a crash in native code looks the same.", gone)  # fmt: skip
        return
    first = kill[0].line
    shown = tuple(sign.line for sign in kill)[:2]
    earlier = own_errors(lines, first.number)
    other = [line for line in lines if OTHER_REASON.search(line.text)]
    if earlier or other:
        return  # the process was ended after something else had gone wrong
    host = pasted.host_percent
    if host:
        gigabytes, percent, line = host[-1]
        if percent < 70:
            yield Guess("container_memory_limit", "likely", "Signal 9 without a traceback is a kill from "
                        f"outside, and the last usage line shows the host at {percent:g} % "
                        f"({gigabytes:g} GB): not the machine but a limit of this job (container, "
                        "cgroup, scheduler), or its /dev/shm, was full.", (*shown, line))  # fmt: skip
        else:
            yield Guess("host_memory", "likely", "Signal 9 without a traceback is a kill from outside, "
                        f"and the last usage line shows the host at {percent:g} %.", (*shown, line))  # fmt: skip
        return
    yield Guess("host_memory", "likely", "The process was killed (signal 9; 137 = 128 + 9) without a "
                "traceback, a time limit or an earlier error in this log. That is how the kernel's or a "
                "container's out-of-memory killer ends a process; the GPU's memory was not the reason. "
                "`dmesg -T | grep -i -E 'oom|killed'` on that host, or the pod's last state, proves it.",
                shown)  # fmt: skip
