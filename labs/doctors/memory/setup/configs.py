"""From a hub id, a local folder or a bare `config.json` to a Transformers configuration.

Weights are never read or downloaded: the configuration says every shape, and the image processor's
few numbers (pixel limits, tile sizes) say how pictures become tokens.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any

from labs.errors import InputError

# The image processor's numbers are in one of these, by the age of the checkpoint; later ones win.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
VIDEO_FILE = "video_preprocessor_config.json"
TOKENIZER_FILE = "tokenizer.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What no language model's shape can be had without; configuration classes name some of them otherwise
# (GPT-2's n_embd) and say so in `attribute_map`.
_ESSENTIAL = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclasses.dataclass(frozen=True)
class Source:
    """A model as far as its shapes are known.

    config: a transformers PretrainedConfig; processor: the image processor's settings ({} where no
    file says them); video: the video processor's; notes: what was assumed for want of a file or field.
    """

    name: str
    config: Any
    processor: dict
    video: dict
    notes: tuple[str, ...] = ()
    tokenizer: Any = None  # a function that finds tokenizer.json: a Path or None


def load_source(name: str, trust_remote_code: bool = False, allow_network: bool = True) -> Source:
    """The configuration and processor settings of `name`.

    `name` is a path if anything lies there: a folder with a `config.json`, or such a file by itself.
    Otherwise it is a hub id, resolved by huggingface_hub alone (HF_ENDPOINT, HF_HOME and
    HF_HUB_OFFLINE are honoured); with `allow_network=False` only its local cache is looked at.

    Raises InputError for: nothing there, no JSON, no or unknown `model_type`, code from the
    repository where it was not asked for, missing or impossible fields.
    """
    path = Path(name).expanduser()
    if path.exists():
        files = _LocalFiles(path)
    elif _HUB_ID.fullmatch(name) and not name.endswith((".json", ".")):
        files = _HubFiles(name, allow_network)
    else:
        raise InputError(
            f"There is no file or folder {name}.",
            "Give a folder with a config.json, that file itself, or a hub id such as llava-hf/llava-1.5-7b-hf.",
        )
    raw = files.read("config.json")
    if raw is None:
        raise InputError(
            f"{name} holds no config.json.", "Give a folder or repository of a Transformers model."
        )
    if trust_remote_code and raw.get("auto_map"):
        config, notes = _remote_code(name, raw), []
    else:
        config, notes = build_config(raw, files.where)
    processor: dict = {}
    for file in PROCESSOR_FILES:
        found = files.read(file) or {}
        processor.update(
            found.get("image_processor") or {} if file != PROCESSOR_FILES[0] else found
        )
    video = files.read(VIDEO_FILE) or {}
    return Source(name, config, processor, video, tuple(notes), lambda: files.path(TOKENIZER_FILE))


def load_tokenizer(source: Source) -> Any | None:
    """The model's `tokenizers.Tokenizer` where its folder or repository has one, else None."""
    path = source.tokenizer() if source.tokenizer else None
    if path is None:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}.",
            "Download the file again, or move it away: then tokens are estimated from characters.",
        ) from None


def load_config(name: str, trust_remote_code: bool = False, allow_network: bool = True) -> Any:
    """`load_source(...).config`."""
    return load_source(name, trust_remote_code, allow_network).config


def layer_counts(config: Any) -> dict[str, int]:
    """How many layers each tower has: {"language": 32, "vision": 24}; what extrapolation goes to."""
    vision, text = getattr(config, "vision_config", None), config.get_text_config()
    counts = {"language": text.num_hidden_layers}
    if vision is not None:
        counts["vision"] = getattr(vision, "depth", None) or vision.num_hidden_layers
    return counts


def build_config(raw: dict, where: str) -> tuple[Any, list[str]]:
    """The configuration object of a `config.json` already read, and what its defaults filled in."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(
            f"{where} has no `model_type`.",
            "Take the config.json of a Transformers checkpoint; original LLaVA or InternVL repositories have "
            "converted ones (llava-hf/…, OpenGVLab/…-HF).",
        )
    if kind not in CONFIG_MAPPING:
        if raw.get("auto_map"):
            raise InputError(
                f"{where}: `{kind}` needs Python code from the model's repository, which is not run unasked.",
                "Read that code, then allow it with --trust-remote-code, or use a converted checkpoint.",
            )
        near = difflib.get_close_matches(kind, list(CONFIG_MAPPING.keys()), n=1)
        import transformers

        raise InputError(
            f"{where}: Transformers {transformers.__version__} knows no architecture `{kind}`.",
            f"Did you mean `{near[0]}`?" if near else "A newer Transformers may know it.",
        )
    cls = CONFIG_MAPPING[kind]
    notes = _missing(cls, raw, where)
    try:
        config = cls.from_dict(dict(raw))
    except Exception as error:  # Transformers and its validators raise many kinds
        message = " ".join(str(error).split())
        raise InputError(
            f"{where} is no valid `{kind}` configuration: {message[:300]}", "Correct that field."
        ) from None
    return config, notes


def _missing(cls: type, raw: dict, where: str) -> list[str]:
    """Raise for parts that a shape cannot do without; name those that the class's defaults fill."""
    parts = getattr(cls, "sub_configs", {}) or {}
    names = getattr(cls, "attribute_map", {}) or {}

    def absent(part: dict, mapping: dict) -> list[str]:
        return [key for key in _ESSENTIAL if key not in part and mapping.get(key, key) not in part]

    flat = not absent(raw, names)  # Qwen2-VL's files keep the language model's fields at the top
    for part in parts:
        if part in ("vision_config", "text_config") and not isinstance(raw.get(part), dict):
            if part == "text_config" and flat:
                continue
            raise InputError(
                f"{where} has no `{part}`.",
                "A field of the file is missing: take the checkpoint's own config.json.",
            )
    if not parts and not flat:
        raise InputError(
            f"{where} lacks {', '.join(f'`{key}`' for key in absent(raw, names))}.",
            "A field of the file is missing: take the checkpoint's own config.json.",
        )
    text = raw.get("text_config")
    if isinstance(text, dict):
        gone = absent(text, {})
        if gone:
            return [f"text_config leaves {', '.join(gone)} to its class's defaults"]
    return []


def _remote_code(name: str, raw: dict) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=True)
    except Exception as error:  # whatever that code raises
        raise InputError(
            f"The code of {name} could not make its configuration: {' '.join(str(error).split())[:300]}",
            "Install what it asks for, or use a converted checkpoint.",
        ) from None


class _LocalFiles:
    def __init__(self, path: Path):
        self.folder = path if path.is_dir() else path.parent
        self.config = path / "config.json" if path.is_dir() else path
        self.where = str(self.config)

    def path(self, name: str) -> Path | None:
        path = self.config if name == "config.json" else self.folder / name
        return path if path.is_file() else None

    def read(self, name: str) -> dict | None:
        path = self.path(name)
        return read_json(path) if path else None


class _HubFiles:
    def __init__(self, name: str, allow_network: bool):
        self.name, self.allow_network, self.where = name, allow_network, f"{name}/config.json"

    def read(self, name: str) -> dict | None:
        path = self.path(name)
        return read_json(path) if path else None

    def path(self, file: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path(hf_hub_download(self.name, file, local_files_only=not self.allow_network))
        except errors.GatedRepoError:
            raise InputError(
                f"{self.name} is gated, and no token with access to it was found.",
                "Accept its licence on the hub and run `hf auth login`, or give its config.json as a file.",
            ) from None
        except errors.RepositoryNotFoundError:
            raise InputError(
                f"The hub has no model {self.name} (or it is private).",
                "Check the spelling, or give a local folder or config.json.",
            ) from None
        except errors.LocalEntryNotFoundError:
            if file != "config.json":
                return None
            raise InputError(
                f"{self.name} is not on this machine, and the hub cannot be reached.",
                "Give a local folder or its config.json, or set HF_ENDPOINT to a mirror that can be reached.",
            ) from None
        except errors.EntryNotFoundError:
            return None
        except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
            raise InputError(
                f"{self.name} could not be looked up on the hub: {' '.join(str(error).split())[:200]}",
                "Give a local folder or its config.json, or try again.",
            ) from None


def read_json(path: Path) -> dict:
    """The JSON object in a file, or InputError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: bad JSON: {error.msg[:1].lower()}{error.msg[1:]}.",
            "Download the file again or correct that line.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a JSON text file.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object.", "Give a Transformers config.json.")
    return value
