"""What the book will hold, in reading order. A chapter without a page.md yet is "planned"."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Chapter:
    folder: str
    title: str
    about: str

    @property
    def page(self) -> Path:
        return ROOT / "chapters" / self.folder / "page.md"

    @property
    def docname(self) -> str:
        return f"chapters/{self.folder}/{self.folder}"


CHAPTERS = (
    Chapter("ch01_architecture", "Architecture and alignment", "build a VLM from its parts"),
    Chapter("ch02_data", "Data", "collect, clean, mix and load image-text data"),
    Chapter("ch03_sft", "Instruction tuning", "label masks, training stages, LoRA and its kin"),
    Chapter("ch04_distributed", "Distributed training", "DDP, FSDP, ZeRO and pipelines, measured"),
    Chapter(
        "ch05_rlhf", "Learning from feedback", "reward models, PPO, GRPO against hallucination"
    ),
    Chapter("ch06_dpo", "Preference optimisation", "DPO, IPO, KTO, SimPO, ORPO: when each wins"),
    Chapter("ch07_evaluation", "Evaluation", "benchmarks, intervals, judges and A/B tests"),
    Chapter("ch08_deployment", "Deployment", "quantise, cache, batch and serve"),
    Chapter("ch09_oom", "Out of memory", "find where memory goes and get it back"),
    Chapter("ch10_nan", "NaN and divergence", "find the first bad number and keep training"),
    Chapter("ch11_speed", "Speed", "from a starved GPU to a full one, step by step"),
    Chapter("ch12_multinode", "Many machines", "hangs, slow links, killed ranks, launch files"),
)

PROJECTS = (
    Chapter("project_search", "Search", "a reranker and a dense retriever for notes with pictures"),
    Chapter("project_from_scratch", "From scratch", "a small VLM with mixture-of-experts"),
    Chapter("project_bilingual", "Two languages", "English and Chinese, LoRA, two learning rates"),
)


def table(chapters: tuple[Chapter, ...], head: str) -> str:
    """A Markdown table with a link for each written chapter and "planned" for each other one."""
    lines = [f"| {head} | You learn to | |", "|:--|:--|:--|"]
    for number, chapter in enumerate(chapters, 1):
        name = f"{number}. {chapter.title}" if chapters is CHAPTERS else chapter.title
        if chapter.page.exists():
            name, state = f"[{name}](/{chapter.docname}.ipynb)", "**written**"
        else:
            state = "planned"
        lines.append(f"| {name} | {chapter.about} | {state} |")
    return "\n".join(lines)


def toctree(chapters: tuple[Chapter, ...], caption: str) -> str:
    """A hidden toctree of the written chapters; nothing when there is none."""
    written = [f"/{chapter.docname}" for chapter in chapters if chapter.page.exists()]
    if not written:
        return ""
    entries = "\n".join(written)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"
