"""What an answer's process may send back: JSON and safetensors, never a pickle.

A learner's process is not trusted to hold no surprise, and reading neither format runs code.
Anything that cannot be written stays behind and is named by a `Handle`.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

LIMIT = 1 << 30  # bytes of one message


@dataclasses.dataclass(frozen=True)
class Handle:
    """An object that stays in the answer's process: a module, a function, an iterator."""

    number: int
    type: str
    callable: bool = False


class Record:
    """A named tuple or dataclass as it arrives: fields by attribute."""

    def __init__(self, type_name: str, fields: dict[str, Any]):
        self.type_name, self.fields = type_name, fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"{self.type_name}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a record, named tuple or dataclass; None for anything else."""
    if isinstance(value, Record):
        return value.fields
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Handle)):
        return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    return None


def encode(value: Any, keep: Callable[[Any], Handle]) -> bytes:
    """Write `value`; `keep` is called for what cannot be written and returns its handle."""
    tensors: dict[str, torch.Tensor] = {}

    def tree(v: Any) -> Any:
        if v is None or type(v) in (bool, int, float, str):
            return v
        if isinstance(v, torch.Tensor) and v.layout == torch.strided and not v.is_quantized:
            return {"$": "tensor", "key": put(v), "grad": v.requires_grad, "device": str(v.device)}
        if isinstance(v, np.ndarray) and v.dtype.kind in "biuf":
            return {"$": "array", "key": put(torch.from_numpy(v.copy()))}
        if isinstance(v, np.generic):
            return tree(v.item())
        if isinstance(v, Handle):
            return {"$": "handle", **dataclasses.asdict(v)}
        if isinstance(v, torch.dtype):
            return {"$": "dtype", "name": str(v).removeprefix("torch.")}
        fields = fields_of(v)
        if fields is not None and not isinstance(v, torch.nn.Module):
            pairs = {str(k): tree(x) for k, x in fields.items()}
            return {"$": "record", "type": type(v).__name__, "fields": pairs}
        if isinstance(v, (tuple, set, frozenset)):
            return {"$": "tuple" if isinstance(v, tuple) else "set", "items": [tree(x) for x in v]}
        if type(v) is list:
            return [tree(x) for x in v]
        if isinstance(v, dict):
            return {"$": "dict", "items": [[tree(k), tree(x)] for k, x in v.items()]}
        return tree(keep(v))

    def put(t: torch.Tensor) -> str:
        key = str(len(tensors))
        tensors[key] = t.detach().cpu().contiguous().clone()
        return key

    head = json.dumps(tree(value)).encode()
    return struct.pack("<Q", len(head)) + head + save(tensors)


def decode(data: bytes) -> Any:
    """Read what `encode` wrote. Raises ValueError for anything else."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        tensors = load(data[8 + length :])
        return _untree(json.loads(data[8 : 8 + length]), tensors)
    except Exception as error:
        raise ValueError(f"unreadable reply ({type(error).__name__}: {error})") from error


def _untree(v: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(v, list):
        return [_untree(x, tensors) for x in v]
    if not isinstance(v, dict):
        return v
    kind = v["$"]
    if kind == "tensor":
        tensor = tensors[v["key"]]
        tensor.was_differentiable, tensor.was_on = bool(v["grad"]), str(v["device"])
        return tensor
    if kind == "array":
        return tensors[v["key"]].numpy()
    if kind == "handle":
        return Handle(int(v["number"]), str(v["type"]), bool(v["callable"]))
    if kind == "dtype":
        dtype = getattr(torch, v["name"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(v["name"])
        return dtype
    if kind == "record":
        fields = {str(k): _untree(x, tensors) for k, x in v["fields"].items()}
        return Record(str(v["type"]), fields)
    items = v["items"]
    if kind == "dict":
        return {_untree(k, tensors): _untree(x, tensors) for k, x in items}
    items = [_untree(x, tensors) for x in items]
    return {"tuple": tuple, "set": set}[kind](items)


def send(stream: socket.socket, data: bytes) -> None:
    stream.sendall(struct.pack("<Q", len(data)) + data)


def receive(stream: socket.socket, wait: Callable[[], None] = lambda: None) -> bytes:
    """One message; `wait` is called before each read and may raise to give up.

    Raises EOFError where the other side has gone, ValueError where the message is too long.
    """
    (length,) = struct.unpack("<Q", _exactly(stream, 8, wait))
    if length > LIMIT:
        raise ValueError(f"a reply of {length / 1e9:.1f} GB")
    return _exactly(stream, length, wait)


def _exactly(stream: socket.socket, count: int, wait: Callable[[], None]) -> bytes:
    data = bytearray()
    while len(data) < count:
        wait()
        part = stream.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
