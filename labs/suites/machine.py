"""What a run was made with: versions, processor, GPUs, and weights."""

import functools
import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import labs

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
SAMPLE = 4096  # numbers of each weight that go into a model's digest


@functools.cache
def versions() -> dict[str, str]:
    """The installed versions of what answers may depend on."""
    found = {"labs": labs.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """The processor in words, its cores, the threads in use, and the GPUs."""
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        told = []
    names = [line.split(":", 1)[1].strip() for line in told if line.startswith("model name")]
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in gpus],
    }


def identity(model: torch.nn.Module) -> dict:
    """Class, size and digest of the weights: a model of the same name may have been trained again.

    The digest is of up to 4,096 numbers of each weight, evenly spaced, so that it takes no time on a
    large model either. Any training moves them.
    """
    total, numbers = hashlib.sha256(), 0
    for name, weight in sorted(model.named_parameters()):
        numbers += weight.numel()
        total.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type != "meta" and weight.numel():
            flat = weight.detach().flatten()
            total.update(flat[:: -(-len(flat) // SAMPLE)].float().cpu().numpy().tobytes())
    kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    return {"class": kind, "parameters": numbers, "weights": total.hexdigest()[:16]}
