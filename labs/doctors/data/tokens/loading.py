"""Processors and tokenizers of Transformers, by a folder or a hub name. No code of a model's is run.

Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from labs.errors import InputError

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(model: str | os.PathLike) -> Any:
    """The processor of a vision-language model, or the tokenizer of a language model.

    model: a folder written by `save_pretrained` (weights are not needed), or a hub name, for which the
    network is used unless HF_HUB_OFFLINE is set. Raises InputError where neither can be had.
    """
    name = os.fspath(model)
    try:
        from transformers import AutoProcessor, AutoTokenizer
    except ImportError:
        raise InputError(
            "The token checks need Transformers, which is not installed.",
            "pip install transformers, or leave --model out.",
        ) from None
    local = Path(name).is_dir()
    options = {"local_files_only": True} if local else {}
    reasons = []
    for load in (AutoProcessor.from_pretrained, _without_video, AutoTokenizer.from_pretrained):
        try:
            found = load(name, trust_remote_code=False, **options)
        except Exception as error:  # Transformers raises nearly anything
            reasons.append(_first_line(error))
            continue
        if load == AutoTokenizer.from_pretrained and local and _has_pictures(Path(name)):
            break  # half a processor would count no picture, and say nothing
        if hasattr(found, "tokenizer") or hasattr(found, "all_special_tokens"):
            return found
        reasons.append(f"it is a {type(found).__name__}, without a tokenizer")
    where = "" if local else " from the hub"
    raise InputError(
        f"No processor or tokenizer could be loaded{where} from {name}: {reasons[0]}",
        "Give a folder written by save_pretrained, or check the name, the network and HF_ENDPOINT.",
    )


def _without_video(name: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """A processor less its part for videos, which needs torchvision: pictures do not."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    folder = Path(name)
    told = [json.loads((folder / f).read_text()) for f in _FILES if (folder / f).is_file()]
    classes = [c["processor_class"] for c in told if "processor_class" in c]
    if not classes:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        classes = [PROCESSOR_MAPPING_NAMES[config.model_type]]
    whole = getattr(transformers, classes[0])
    if "video_processor" not in whole.get_attributes():
        raise ValueError(f"{classes[0]} has no part for videos")

    class WithoutVideo(whole):
        def check_argument_for_proper_class(self, argument_name, argument):
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def _get_arguments_from_pretrained(cls, *_, **__):
            parts = {
                "tokenizer": lambda: AutoTokenizer.from_pretrained(name, **options),
                "image_processor": lambda: AutoImageProcessor.from_pretrained(name, **options),
                "video_processor": lambda: None,
            }
            return [parts[attribute]() for attribute in cls.get_attributes()]

    WithoutVideo.__name__ = whole.__name__  # Transformers looks a class's defaults up by its name
    return WithoutVideo.from_pretrained(name, **options)


def _has_pictures(folder: Path) -> bool:
    return (folder / "preprocessor_config.json").is_file() or (
        folder / "processor_config.json"
    ).is_file()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."
