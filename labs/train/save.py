"""What a finished run leaves in its output folder: `model/`, and `adapter/` where there is one."""

import copy
from pathlib import Path

from torch import nn

from labs.models.adapters import adapter_state_dict
from labs.models.lora import lora_layers, merged_state_dict, save_lora
from labs.models.parts import part_of
from labs.train.checkpoint import write_folder
from labs.train.config import TrainConfig


def save_result(
    model: nn.Module,
    processor,
    config: TrainConfig,
    peft_model: nn.Module | None = None,
    trained: set[str] | None = None,
    base_model: str | None = None,
) -> list[Path]:
    """Write the result of a run under `config.output_dir`; each folder appears whole.

    Full training: `model/`. Adapters: `adapter/` in PEFT's format, `adapter/other_trainables.safetensors`
    with what else was trained (LLaVA ships its projector so), and `model/`, merged, where merging is
    possible: not on 4-bit weights, and not bottlenecks.
    """
    root = Path(config.output_dir)
    if config.method == "full":
        return [write_folder(root / "model", lambda f: _pretrained(model, processor, f))]

    def write_adapter(folder: Path) -> None:
        from safetensors.torch import save_file

        if peft_model is not None:
            peft_model.save_pretrained(folder)
        elif lora_layers(model):
            save_lora(model, folder, base_model)
        else:
            state = {k: v.contiguous() for k, v in adapter_state_dict(model).items()}
            save_file(state, folder / "bottleneck.safetensors", metadata={"format": "pt"})
        own = dict(model.named_parameters())
        others = {n: own[n].detach() for n in trained or () if part_of(n) != "lora"}
        if others:
            save_file(others, folder / "other_trainables.safetensors", metadata={"format": "pt"})
        if processor is not None:
            processor.save_pretrained(folder)

    written = [write_folder(root / "adapter", write_adapter)]
    if config.method in ("lora", "rslora", "dora", "adalora"):
        written.append(
            write_folder(root / "model", lambda f: _merged(model, processor, peft_model, f))
        )
    return written


def _pretrained(model: nn.Module, processor, folder: Path, **options) -> None:
    model.save_pretrained(folder, **options)
    if processor is not None:
        processor.save_pretrained(folder)


def _merged(model: nn.Module, processor, peft_model: nn.Module | None, folder: Path) -> None:
    if peft_model is None:
        _pretrained(model, processor, folder, state_dict=merged_state_dict(model))
    else:  # merging and unmerging would round the weights of the model in use: merge a copy
        _pretrained(copy.deepcopy(peft_model).merge_and_unload(), processor, folder)
