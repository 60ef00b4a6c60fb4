"""The zoo's tokenizer: trained on what the world says in 4,000 conversations, half of each language."""

from pathlib import Path

from labs.models.places import TOKENIZER
from labs.models.tokenizer import train_tokenizer
from labs.shapes import Mix, stream_record


def corpus(count: int = 4000):
    """Every turn of `count` described conversations (the description is text too)."""
    mix = Mix(described=1.0, digits=0.0, chinese=0.5)
    for index in range(count):
        for message in stream_record(mix, index, "train")["conversations"]:
            yield message["value"]
        yield "system\nuser\nassistant\n"


def build_tokenizer(folder: Path = TOKENIZER) -> None:
    """Trains the tokenizer and saves it where the models look for it."""
    train_tokenizer(corpus()).save_pretrained(folder)
