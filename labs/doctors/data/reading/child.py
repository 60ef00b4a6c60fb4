"""The child's side of `labs.doctors.data.reading.pool`. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import BinaryIO

from labs.doctors.data.reading.pool import HEADER
from labs.errors import InputError


def serve() -> None:
    """Do the jobs that come on standard input until it ends."""
    source = sys.stdin.buffer
    with open(os.dup(1), "wb") as target:
        os.dup2(2, 1)  # whatever a library prints is no answer
        work = None
        while True:
            data = _receive(source)
            if data is None:
                return
            try:
                if work is None:
                    work = pickle.loads(data)()
                    continue
                right, answer = 1, work(pickle.loads(data))
            except (InputError, OSError) as error:
                right, answer = 0, error
            except Exception:
                right, answer = 0, traceback.format_exc()
            if work is None:  # each job is answered with why there is no work
                failure = answer
                work = _failing(failure)
                continue
            _send(target, pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL), right)


def _failing(failure: object):
    def work(_: object) -> None:
        raise failure if isinstance(failure, Exception) else RuntimeError(failure)

    return work


def _receive(source: BinaryIO) -> bytes | None:
    head = source.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    length, _ = HEADER.unpack(head)
    data = source.read(length)
    return data if len(data) == length else None


def _send(target: BinaryIO, data: bytes, right: int) -> None:
    target.write(HEADER.pack(len(data), right))
    target.write(data)
    target.flush()
