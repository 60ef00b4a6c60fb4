"""Where the shipped tiny models lie. Paths only: the zoo's builder is above this package."""

from pathlib import Path

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "weights"
TOKENIZER = ZOO / "tokenizer"
NAMES = ("tiny-clip", "tiny-lm", "tiny-base", "tiny-sft", "tiny-sft-clean")
