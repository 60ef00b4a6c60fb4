"""Any dual encoder of Transformers (CLIP, SigLIP and their kin) as unit-length features.

Needs torch and Transformers, imported when one is loaded. Python 3.9 or newer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from labs.errors import InputError


class ClipModel:
    """model: a folder written by `save_pretrained`, or a hub name, for which the network is used
    unless HF_HUB_OFFLINE is set. Runs on the GPU where there is one.

    Raises InputError where it cannot be loaded or is no dual encoder.
    """

    def __init__(self, model: str | os.PathLike):
        name = os.fspath(model)
        try:
            import torch
            from transformers import AutoModel, AutoProcessor
            from transformers.utils import logging
        except ImportError:
            raise InputError(
                "The CLIP score needs torch and Transformers, which are not installed.",
                "pip install torch transformers, or leave --clip out.",
            ) from None
        options = {"local_files_only": True} if Path(name).is_dir() else {}
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            # Nothing of a model's own code is run, no pickle is trusted.
            found = AutoModel.from_pretrained(
                name, trust_remote_code=False, weights_only=True, **options
            )
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False, **options)
        except Exception as error:  # Transformers raises nearly anything
            words = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"No CLIP model could be loaded from {name}: {words}",
                "Give a folder written by save_pretrained, or check the name, the network and HF_ENDPOINT.",
            ) from None
        finally:
            if bars:
                logging.enable_progress_bar()
        if not (hasattr(found, "get_image_features") and hasattr(found, "get_text_features")):
            raise InputError(
                f"{name} is a {type(found).__name__}, which does not put pictures and texts side by side.",
                "Give a CLIP or SigLIP model.",
            )
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = found.float().eval().to(self._device)
        self._images = processor.image_processor
        self._tokenizer = processor.tokenizer
        text = getattr(found.config, "text_config", found.config)
        self._limit = int(getattr(text, "max_position_embeddings", 77))
        # SigLIP was trained on texts padded to the full length, and without a mask.
        self._fill = found.config.model_type.startswith("siglip")
        eos = self._tokenizer.eos_token_id
        ids = self._tokenizer("a")["input_ids"]
        # The feature of a text is the state of its end token, which not every tokenizer writes.
        self._end = eos if eos is not None and (not ids or ids[-1] != eos) else None

    def embed_images(self, images: list[Any]) -> Any:
        """RGB pictures -> features of unit length [N, D], on the CPU."""
        batch = self._images(images=images, return_tensors="pt")
        with self._torch.inference_mode():
            return self._unit(self._model.get_image_features(**batch.to(self._device)))

    def embed_texts(self, texts: list[str]) -> Any:
        """Texts, cut to what the model takes -> features of unit length [N, D], on the CPU."""
        room = self._limit - (self._end is not None)
        ids = self._tokenizer(texts, truncation=True, max_length=room)["input_ids"]
        if self._end is not None:
            ids = [[*row, self._end] for row in ids]
        padding = (
            {"padding": "max_length", "max_length": self._limit}
            if self._fill
            else {"padding": True}
        )
        batch = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt", **padding)
        inputs = {"input_ids": batch["input_ids"].to(self._device)}
        if not self._fill:
            inputs["attention_mask"] = batch["attention_mask"].to(self._device)
        with self._torch.inference_mode():
            return self._unit(self._model.get_text_features(**inputs))

    def _unit(self, features: Any) -> Any:
        features = getattr(features, "pooler_output", features)  # Transformers 5 wraps it
        return self._torch.nn.functional.normalize(features.float(), dim=-1).cpu()
