"""Builds each doctor as one file that any Python 3.9 or newer runs: `make doctors`.

    python -m labs.doctors.zipapp_build [FOLDER]

The archive holds the tool, `labs.doctors` and what those import; nothing is compiled, so one file
serves every platform. What a command needs beyond (torch, transformers) is that of the Python that
runs it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipapp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("labs/__init__.py", "labs/errors.py", "labs/formats", "labs/doctors")


def build(tool: Path, folder: Path) -> Path:
    """Write `folder/<tool's name>.pyz` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{tool.stem}.pyz"
    with tempfile.TemporaryDirectory() as staging:
        root = Path(staging) / "app"
        root.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(
                    source, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
                )
            elif source.exists():
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, root / part)
        shutil.copyfile(tool, root / "__main__.py")
        finished = Path(staging) / target.name
        zipapp.create_archive(root, finished, interpreter="/usr/bin/env python3", compressed=True)
        shutil.move(str(finished), target)
    target.chmod(0o755)
    return target


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    folder = Path(arguments[0]) if arguments else ROOT / "build" / "doctors"
    for tool in sorted((ROOT / "tools").glob("*.py")):
        target = build(tool, folder)
        print(f"{target}  ({target.stat().st_size / 2**10:,.0f} KiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
