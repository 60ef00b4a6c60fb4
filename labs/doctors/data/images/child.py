"""The child that opens pictures: a batch a line on standard input, verdicts on standard output.

It is its own guard. A timer kills it when one picture takes too long, wherever the decoder hangs;
the limit of memory is the kernel's. Before each picture it writes that picture's number into a file
that the parent has mapped, so that whatever kills it, the parent knows which picture it was on.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import struct
import sys
import time

from labs.doctors.data.images.look import Limits, look

NOBODY = -1  # the number of no picture
MARK = struct.Struct("=q")
FLUSH_SECONDS = 0.1  # how long a finished verdict may wait for others


def serve(settings: str) -> None:
    """Look at pictures until standard input ends. settings: JSON with `limits`, `seconds`, `mark`.

    A line in is a list of [number, source]; a line out is a list of [number, verdict].
    """
    told = json.loads(settings)
    limits, seconds = Limits(**told["limits"]), told["seconds"]
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a decoder prints is no answer
    mark = mmap.mmap(told["mark"], MARK.size)
    _prepare(limits)
    gc.freeze()  # the libraries' objects stay: a collection need not walk them each time
    limit_memory(limits.megabytes)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, in C code too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with open(os.devnull, "wb") as nowhere:  # decoders warn a lot; what start-up said is kept
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)

    for line in sys.stdin.buffer:
        done, last = [], time.monotonic()
        for number, source in json.loads(line):
            MARK.pack_into(mark, 0, number)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            done.append([number, look(source, limits).to_list()])
            if time.monotonic() - last > FLUSH_SECONDS:
                _answer(answers, mark, done)
                done, last = [], time.monotonic()
        _answer(answers, mark, done)


def _answer(pipe: int, mark: mmap.mmap, done: list) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    MARK.pack_into(mark, 0, NOBODY)
    if done:
        data = json.dumps(done).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]


def _prepare(limits: Limits) -> None:
    """Import all that decoding needs, so that it counts as the level at start."""
    from PIL import Image

    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # the limit is the option's, and is looked at first
    try:
        from PIL import AvifImagePlugin

        # As many threads as cores would each reserve address space, and take others' cores.
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    except ImportError:
        pass
    if limits.fingerprint:
        from labs.formats.fingerprints import picture_hash

        picture_hash(Image.new("RGB", (16, 16)))  # NumPy, where it is used, is in then


def limit_memory(megabytes: int) -> None:
    """Let this process grow by so much; where the kernel cannot (macOS), the limit of pixels does."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = now + megabytes * 1_000_000
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        pass
