"""Lines that speak of memory without PyTorch's sentence: other libraries, the kernel, schedulers.

Each sign is one pattern on one line. What a sign means together with others is decided in
`causes.py`. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labs.doctors.memory.log.lines import Line

# id -> pattern. A line may carry several. The comment names who prints it.
PATTERNS: dict[str, str] = {
    # CUDA itself refused: no numbers, no word on what was asked for.
    "cuda_oom": r"(?i:CUDA (?:runtime |driver )?error(?: \(2\))?\s?:\s*out of memory)"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|hipErrorOutOfMemory"
    r"|(?i:HIP error: out of memory)|Triton Error \[CUDA\]: out of memory",
    # PyTorch's allocator refused, but the sentence was cut off or replaced.
    "bare_oom": r"(?:CUDA|HIP|XPU|NPU) out of memory|OutOfMemoryError\b(?!.*(?:ray\.|Task was killed|Java|java))"
    r"|(?i:RESOURCE_EXHAUSTED: Out of memory)"
    # The sentence could not be made, because the driver's library did not answer.
    r"|NVML_SUCCESS ==.{0,200}INTERNAL ASSERT FAILED.{0,200}CUDACachingAllocator",
    # PyTorch 2.10: a warning, printed also where giving back cached blocks then helped.
    "allocator_warning": r"memory allocation failed with OOM on device \d+",
    "fsdp_clone": r"Failed to clone\(\) tensor with name",  # torch FSDP, while saving
    "nccl_oom": r"NCCL WARN .*(?i:out of memory)|(?i:Cuda failure(?: \d+)? 'out of memory')"
    r"|ncclUnhandledCudaError.*out of memory",
    "cublas_alloc": r"(?:CUBLAS|CUDNN|CUSOLVER|CUFFT)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED",
    "bnb_oom": r"Error out of memory at line \d+ in file",  # bitsandbytes' pythonInterface
    "accelerate_zero": r"No executable batch size found, reached zero",
    "cumem": r"cumem_allocator",  # vLLM's sleep mode
    "engine_no_blocks": r"No available memory for the cache blocks"
    r"|is larger than the (?:maximum number of tokens that can be stored in KV cache|available KV cache memory)"
    r"|KV cache is needed, which is larger than the available KV cache memory"
    r"|max seq len \(\d+\) is larger than the maximum number of tokens"
    r"|# (?:GPU|cuda|CUDA) blocks: 0\b|(?i:KV cache(?: memory)?(?: is|:) -\d)"
    r"|Not enough memory\. Please try (?:to increase|increasing) --mem-fraction-static",
    "engine_warm_up": r"out of memory occurred when warming up \w+",
    "engine_no_share": r"Free memory on device .{0,200}(?:is )?less than desired GPU memory utilization"
    r"|Error in memory profiling\. Initial free memory"
    r"|memory profiling.{0,80}(?:GPU memory was not properly cleaned up|other processes)",
    "triton_shared": r"OutOfResources: out of resource: shared memory",
    # Host memory.
    "kernel_cgroup": r"(?i:memory cgroup out of memory)|constraint=CONSTRAINT_MEMCG",
    "kernel_oom": r"Out of memory: Kill(?:ed)? process \d+|invoked oom-killer|oom_reaper: reaped"
    r"|constraint=CONSTRAINT_NONE|systemd-oomd?.{0,60}[Kk]illed|earlyoom.{0,80}SIGTERM",
    "slurm_oom": r"Detected \d+ oom[-_ ]?kill event|: Out Of Memory\b|\bOUT_OF_ME(?:MORY|\+)"
    r"|Exceeded (?:job|step) memory limit|cgroup out-of-memory handler|oom-kill event"
    r"|CANCELLED.{0,60}DUE TO MEMORY LIMIT|PBS: job killed: v?mem|TERM_MEMLIMIT",
    "k8s_oom": r"\bOOMKilled\b|low on resource: memory|(?i:Container .{0,80}exceeded (?:its )?memory limit)",
    "ray_oom": r"ray\.exceptions\.OutOfMemoryError|node running low on memory"
    r"|(?i:[1-9]\d* workers? \(?.{0,20}killed due to memory pressure)|ray.{0,40}memory monitor"
    r"|Memory on the node \(IP: |exceeds the memory usage threshold of|Ray killed this worker",
    # Hosted notebooks end the kernel themselves and say so.
    "notebook_oom": r"session crashed after using all available RAM"
    r"|tried to allocate more memory than is available",
    "ray_lost": r"killed by SIGKILL by OOM killer due to high memory usage",
    "exit_137": r"(?i:exit(?:ed)?(?: with)?(?: (?:status|code))?\s*[:=]?\s*\(?137\b)|(?i:exit code 137)"
    r"|(?i:exitcode\s*[:=]?\s*137)|(?i:return ?code\s*[:=]?\s*137)",
    "signal_9": r"(?i:exit ?code\s*[:=]?\s*-9\b)|(?i:return ?code\s*[:=]?\s*-9\b)|Signal 9 \(SIGKILL\)"
    r"|Signals\.SIGKILL: 9|(?i:terminated (?:with|by) signal (?:9|SIGKILL|KILL))"
    r"|^\s*Killed\s*$|\d+ Killed\s{2,}|signal 9 \(Killed|received signal SIGKILL|SIGKILL \(9\)",
    "worker_killed": r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) is killed by signal: Killed",
    "worker_gone": r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) exited unexpectedly",
    "shm": r"(?:[Bb]us error.{0,200}shared memory|out of shared memory|killed by signal: Bus error)"
    r"|unable to (?:open|write to|mmap|allocate) (?:shared memory|file </?torch_|shared memory object)"
    r"|(?i:no space left on device.{0,120}(?:/dev/shm|shared memory|shm))"
    r"|(?:/dev/shm|shared memory|shm).{0,160}(?i:no space left on device)"
    r"|Error while creating shared memory segment|Call to (?:posix_fallocate|ftruncate) failed",
    "bus_error": r"\bBus error\b|Signal(?:s\.SIGBUS)?:? ?7 ?\(?(?:SIGBUS)?|exit ?code\s*[:=]?\s*-7\b|SIGBUS",
    "descriptors": r"(?i:too many open files)|received 0 items of ancdata",
    "cpu_alloc": r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|\balloc_cpu\.cpp"
    r"|_ArrayMemoryError|Unable to allocate [\d.]+ [KMGT]iB for an array"
    r"|^(?:\w+\.)*MemoryError\b|std::bad_alloc|\[Errno 12\] Cannot allocate memory"
    r"|unable to mmap \d+ bytes from file.{0,300}Cannot allocate memory|ArrowMemoryError",
    "page_file": r"os error 1455|\[WinError 1455\]|paging file is too small",
    "pinned": r"cudaHostAlloc|cudaErrorHostMemory|hostAlloc.{0,60}(?:fail|out of memory)"
    r"|pin_memory\.py|CachingHostAllocator",
}  # fmt: skip
_PATTERNS = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}

# One cheap question before the thirty expensive ones: is any of these in the line, in lower case?
WORDS = (
    *(
        "memory",
        "oom",
        "kill",
        "bus error",
        "sigbus",
        "137",
        "-9",
        "-7",
        "alloc",
        "batch size found",
    ),
    *("failed to clone", "1455", "cudahost", "ancdata", "open files", "cache blocks", "no space"),
    *(
        "profiling",
        "unexpectedly",
        "cumem",
        "shm",
        "ftruncate",
        "signal",
        "kv cache",
        "max seq len",
        "blocks: 0",
        "ray killed",
        "available ram",
        "memlimit",
        "mmap",
        "[cuda]",
        "nvml_success",
    ),
)

# Signs that an out-of-memory (of the GPU, of the host, of shared memory) happened, and those that
# only may mean one.
GPU = ("cuda_oom", "bare_oom", "nccl_oom", "cublas_alloc", "bnb_oom", "accelerate_zero", "cumem",
       "engine_no_blocks", "engine_warm_up", "engine_no_share", "fsdp_clone")  # fmt: skip
HOST = ("kernel_cgroup", "kernel_oom", "slurm_oom", "k8s_oom", "ray_oom", "notebook_oom", "cpu_alloc",
        "page_file")  # fmt: skip
MAYBE_HOST = ("exit_137", "signal_9", "worker_killed")
SHM = ("shm",)

# Someone asks, hopes or explains: not an event.
TALK = re.compile(
    r"(?i)\b(?:to avoid|avoid(?:s|ing)?|prevents?|preventing|in case of|if you (?:get|see|run|encounter|hit)"
    r"|may (?:cause|lead|result)|might (?:cause|lead|result)|could (?:cause|lead|result)|can (?:cause|lead to)"
    r"|reduces? the risk|retry on|will retry|in order not to|help with|without running|try_?oom|oom_(?:retry|observer|score_adj))"
)


@dataclass(frozen=True)
class Sign:
    """A pattern met on a line; `index` is the line's place in its region."""

    id: str
    line: Line
    region: int
    index: int


def signs_of(lines: list[Line], region: int = 0) -> list[Sign]:
    """All signs in these lines, in order."""
    found = []
    for index, line in enumerate(lines):
        text = line.text if len(line.text) < 20000 else line.text[-20000:]
        lower = text.lower()
        if not any(word in lower for word in WORDS):
            continue
        for name, pattern in _PATTERNS.items():
            match = pattern.search(text)
            if match and not TALK.search(text[max(0, match.start() - 80) : match.start()]):
                found.append(Sign(name, line, region, index))
    return found
