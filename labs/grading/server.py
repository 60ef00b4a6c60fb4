"""The process that learner code is forked from: one thread, PyTorch and Transformers imported.

Importing them takes seconds and a fork takes milliseconds. Python's own forkserver does not do:
its children send pickles, and it cannot hand a child its limits before the first line runs.

Run as `python -m labs.grading.server FD`; the grader holds the other end of the socket. When it
goes away, the server kills every child that is left and ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import socket
import sys
import time

# torch._dynamo comes with the first optimizer or dispatch mode: better once than in every child.
PRELOAD = (
    "torch",
    "torch._dynamo",
    "numpy",
    "safetensors.torch",
    "jaxtyping",
    "transformers",
)


def main(fd: int) -> None:
    control = socket.socket(fileno=fd)
    for name in PRELOAD:
        importlib.import_module(name)
    import torch

    from labs.grading import worker  # noqa: F401  (children start with it)

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector would otherwise touch, and so copy, every inherited page
    control.sendall(json.dumps({"ready": os.getpid()}).encode() + b"\n")
    children: set[int] = set()
    ended: dict[int, int] = {}
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(control, 1 << 16, 1)
            if not data:
                break
            request = json.loads(data)
            if request["do"] == "fork":
                pid = os.fork()
                if pid == 0:
                    control.close()
                    _child(fds[0], request)
                os.close(fds[0])
                children.add(pid)
                reply = {"pid": pid}
            else:
                reply = {"status": _reap(request["pid"], children, ended)}
            control.sendall(json.dumps(reply).encode() + b"\n")
    finally:
        for pid in children:
            _kill(pid)


def _reap(pid: int, children: set[int], ended: dict[int, int]) -> int:
    """The exit status of a child that has ended, is ending, or is helped to end after a second."""
    if pid in children:
        for _ in range(100):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        else:
            _kill(pid)
            _, status = os.waitpid(pid, 0)
        children.discard(pid)
        ended[pid] = status
    return ended.pop(pid)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may not have its own group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _child(fd: int, request: dict) -> None:
    """Become the answer's process: its own group, folder, limits; then serve calls until EOF."""
    from labs.grading.guard import guard_writes
    from labs.grading.wire import encode, receive, send
    from labs.grading.worker import Worker

    code = 1
    try:
        os.setsid()
        output = os.open(os.path.join(request["folder"], "output.txt"), os.O_WRONLY | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        stream = socket.socket(fileno=fd)
        _limit_address_space(request["memory_mb"])
        guard_writes(request["folder"])
        sys.argv = ["exercises.py"]
        worker = Worker()
        name, path, text, forbid = pickle.loads(receive(stream))
        error = None
        try:
            worker.load(name, path, text, forbid)
        except (Exception, SystemExit) as problem:
            error = worker.describe(problem)
        send(stream, encode({"value": None, "error": error, "mutated": []}, worker._keep))
        while error is None:
            send(stream, worker.handle(pickle.loads(receive(stream))))
    except (EOFError, BrokenPipeError):
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _limit_address_space(memory_mb: int) -> None:
    """Make one huge allocation fail at once; the grader's watch on RSS does the rest."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        limit = now + 4 * memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (OSError, ValueError):
        pass  # not Linux: the watch alone


if __name__ == "__main__":
    main(int(sys.argv[1]))
