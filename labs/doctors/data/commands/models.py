"""Model names as a person writes them. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

from pathlib import Path

import labs
from labs.errors import InputError

# Inside the repository, or where labs is installed, the tiny models lie here; in a zipapp they do not.
ZOO = Path(labs.__file__).resolve().parent / "zoo" / "weights"


def model_folder(name: str, option: str) -> str:
    """A folder as it is, a zoo name ("tiny-sft") as its folder, a hub id ("org/name") as it is.

    Raises InputError for a name that is none of these, and for a folder without a configuration.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        shipped = ZOO / name
        if name.replace("-", "").isalnum() and (shipped / "config.json").is_file():
            return str(shipped)
        if path.exists():
            raise InputError(
                f"{option} {name} is a file, not a model folder.",
                "Give the folder that holds config.json and the tokenizer.",
            )
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            here = ", ".join(sorted(p.parent.name for p in ZOO.glob("*/config.json")))
            raise InputError(
                f"There is no model folder {name} ({option}).",
                f"Give a folder written by save_pretrained, a hub id such as org/name"
                f"{f', or one of {here}' if here else ''}.",
            )
        return name
    if not any((path / file).is_file() for file in CONFIGURATIONS):
        raise InputError(
            f"{option} {name} holds no model: there is neither config.json nor a tokenizer.",
            "Give a folder written by save_pretrained.",
        )
    return str(path)


CONFIGURATIONS = ("config.json", "tokenizer_config.json", "tokenizer.json", "processor_config.json")
