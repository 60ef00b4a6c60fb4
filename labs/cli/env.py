"""`labs env`: what this machine has, and whether that is enough for a recipe."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from labs.recipes import Needs

GIB = 2**30
# What some part of the book can use and the base installation does not need.
OPTIONAL = {
    "bitsandbytes": "QLoRA, 8-bit optimisers",
    "deepspeed": "ZeRO (pip install -e '.[deepspeed]')",
    "flash-attn": "flash attention (pip install -e '.[gpu]')",
    "liger-kernel": "fused kernels (pip install -e '.[gpu]')",
    "trl": "comparisons with TRL (pip install -e '.[trl]')",
    "jupyterlab": "make lab",
    "myst-nb": "make book",
    "playwright": "browser tests",
}


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gb: float
    capability: str


@dataclass(frozen=True)
class Machine:
    """What was found. Memory and disk in GiB (2^30 bytes)."""

    python: str
    system: str
    cpus: int
    memory_gb: float
    memory_free_gb: float
    disk_free_gb: float
    torch: str | None
    cuda: str | None  # the CUDA release torch was built for; None for a CPU build
    mps: bool
    gpus: tuple[Gpu, ...]
    c_compiler: str | None
    packages: dict[str, str | None]  # name -> version, None when missing


@dataclass(frozen=True)
class Verdict:
    recipe: str
    enough: bool
    missing: list[str] = field(default_factory=list)


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def look(folder: Path, packages: Iterable[str] = ()) -> Machine:
    """Measures this machine; `folder` is where the free disk space counts."""
    import psutil

    cuda, mps, gpus = None, False, ()
    try:
        import torch

        cuda, mps = torch.version.cuda, torch.backends.mps.is_available()
        gpus = tuple(find_gpus(torch))
    except ImportError:
        pass
    memory = psutil.virtual_memory()
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=len(affinity(0)) if affinity else os.cpu_count() or 1,
        memory_gb=memory.total / GIB,
        memory_free_gb=memory.available / GIB,
        disk_free_gb=shutil.disk_usage(folder).free / GIB,
        torch=version_of("torch"),
        cuda=cuda,
        mps=mps,
        gpus=gpus,
        c_compiler=shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"),
        packages={name: version_of(name) for name in dict.fromkeys((*OPTIONAL, *packages))},
    )


def find_gpus(torch):
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Gpu(device.name, device.total_memory / GIB, f"{device.major}.{device.minor}")


def compare(recipe: str, needs: "Needs", machine: Machine) -> Verdict:
    """Lists, one sentence each, what `machine` lacks for `needs`."""
    missing = []
    large = [gpu for gpu in machine.gpus if gpu.memory_gb >= 0.93 * needs.gpu_memory_gb]
    wanted = max(needs.gpus, 1 if needs.gpu_memory_gb else 0)
    if len(large) < wanted:
        size = f" with {needs.gpu_memory_gb:g} GB" if needs.gpu_memory_gb else ""
        have = ", ".join(f"{gpu.name} ({gpu.memory_gb:.0f} GB)" for gpu in machine.gpus) or "none"
        noun = "GPU" if wanted == 1 else "GPUs"
        missing.append(f"It needs {wanted} {noun}{size}; here: {have}.")
        if not machine.gpus and machine.torch and machine.cuda is None:
            missing.append("This torch is a CPU build and would not see a GPU either.")
    if machine.disk_free_gb < needs.disk_gb:
        free = machine.disk_free_gb
        missing.append(f"It needs {needs.disk_gb:g} GB of disk; here {free:.0f} GB are free.")
    for package in needs.packages:
        if machine.packages.get(package) is None:
            missing.append(f"It needs the package {package}; it is not installed.")
    return Verdict(recipe, not missing, missing)


def show(machine: Machine, verdict: Verdict | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    memory = f"{machine.memory_gb:.1f} GB, {machine.memory_free_gb:.1f} GB free"
    table.add_row("Python", f"{machine.python} ({sys.executable})")
    table.add_row("System", machine.system)
    table.add_row("CPU", f"{machine.cpus} cores, {memory}")
    table.add_row("Disk", f"{machine.disk_free_gb:.1f} GB free")
    table.add_row("C compiler", machine.c_compiler or "none (torch.compile needs one)")
    build = f"for CUDA {machine.cuda}" if machine.cuda else "CPU build"
    table.add_row("torch", f"{machine.torch} ({build})" if machine.torch else "not installed")
    for index, gpu in enumerate(machine.gpus):
        facts = f"{gpu.memory_gb:.0f} GB, compute {gpu.capability}"
        table.add_row(f"GPU {index}", f"{gpu.name}, {facts}")
    if not machine.gpus:
        apple = "Apple GPU (MPS)" if machine.mps else "none; pages, exercises and --tiny need none"
        table.add_row("GPU", apple)
    for name, version in machine.packages.items():
        use = escape(OPTIONAL.get(name, "this recipe"))
        table.add_row(name, version or f"[dim]missing; for {use}[/dim]")
    console.print(table)
    if verdict is None:
        return
    console.print()
    if verdict.enough:
        console.print(f"[green]Enough[/green] for {verdict.recipe}.")
    else:
        console.print(f"[red]Not enough[/red] for {verdict.recipe}:")
        for sentence in verdict.missing:
            console.print(f"  - {sentence}")
        console.print(
            f"The small form runs anywhere: labs train … --recipe {verdict.recipe} --tiny"
        )


def command(
    recipe: Annotated[str, typer.Option(help="Compare with what this recipe needs.")] = "",
    folder: Annotated[
        Path, typer.Option(help="Where the free disk space counts.", exists=True, file_okay=False)
    ] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """What this machine has, against what a recipe needs. Exit code 1: not enough for the recipe.

    Example:  labs env --recipe llava_v1.5_lora
    """
    from labs.recipes import load as load_recipe

    needs = load_recipe(recipe).needs if recipe else None
    machine = look(folder, needs.packages if needs else ())
    verdict = compare(recipe, needs, machine) if needs else None
    if as_json:
        answer = {"machine": asdict(machine), "needs": needs and asdict(needs)}
        print(json.dumps(answer | {"verdict": verdict and asdict(verdict)}, indent=2))
    else:
        show(machine, verdict)
    if verdict and not verdict.enough:
        raise typer.Exit(1)
