"""The library behind the book: losses, trainers, graders and doctors for vision-language models."""

__version__ = "0.1.0"
