"""Where the shipped tiny models lie. Paths only: the zoo's builder is above this package."""

from pathlib import Path

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "weights"
TOKENIZER = ZOO / "tokenizer"
# What ships and answers; what ships and scores answers (labs.models.scalar_head).
NAMES = (
    "tiny-clip", "tiny-lm", "tiny-base", "tiny-sft", "tiny-sft-clean", "tiny-ppo", "tiny-grpo",
)  # fmt: skip
REWARD = ("tiny-rm",)
# Stored as an adapter in PEFT's format: name -> the zoo model that it belongs on.
ADAPTERS = {"tiny-rm": "tiny-sft", "tiny-ppo": "tiny-sft", "tiny-grpo": "tiny-sft"}
EVERY = tuple(dict.fromkeys((*NAMES, *REWARD, *ADAPTERS)))  # also what may not be built here
