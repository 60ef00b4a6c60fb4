"""How full rows get: padding, cutting, and two ways of packing, on lengths like those of LLaVA's mix.

The number of samples of each kind is that of llava_v1_5_mix665k.json, counted by image folder by a
reader of it (github.com/haotian-liu/LLaVA/issues/657) and split within COCO by table 7 of the paper
(arXiv:2310.03744). A picture is 576 tokens (336 / 14 squared), and text is cut at 2,048 tokens (the
paper's appendix). How long the texts of each kind are is published nowhere that we know: the medians
and spreads below are assumed, and the table is repeated with texts half and one and a half times
as long, so that one sees what hangs on it.

Efficiency is the share of a row's places that hold a token. `bound` is what no packing of whole samples
can exceed at these lengths, by dual feasible functions (Fekete and Schepers 2001): a sample that
takes more than k / (n + 1) of a row counts k / n of one.
"""

import numpy as np

VISUAL_TOKENS = 576
SYSTEM_TOKENS = 35  # Vicuna's system prompt
MAX_TEXT = 2048
# kind: (samples, pictures, median text tokens, sigma of the logarithm); the last two are assumed.
MIX = {
    "llava instruct": (158_000, 1, 170, 0.6),
    "vqav2, merged": (83_000, 1, 110, 0.4),
    "okvqa, a-okvqa": (75_000, 1, 90, 0.3),
    "refcoco": (48_100, 1, 260, 0.4),
    "vg": (86_417, 1, 420, 0.25),
    "gqa, merged": (72_140, 1, 260, 0.5),
    "ocr_vqa": (80_000, 1, 130, 0.25),
    "textcaps": (21_953, 1, 110, 0.4),
    "sharegpt, text only": (40_688, 0, 900, 0.8),
}
CAPACITIES = (2048, 4096)
TEXT_SCALES = (0.5, 1.0, 1.5)
PADDED_BATCH = 16  # LLaVA-1.5's, a GPU
CODE = (
    "labs/bench/packing.py",
    "labs/data/knapsack.py",
    "labs/data/packing.py",
    "labs/data/grouping.py",
)


def llava_lengths(
    count: int, seed: int = 0, text_scale: float = 1.0
) -> tuple[list[int], list[str]]:
    """Lengths in tokens of `count` samples drawn from the mix, and "image" or "text" for each."""
    rng = np.random.default_rng(seed)
    samples, pictures, medians, sigmas = (
        np.array(column) for column in zip(*MIX.values(), strict=True)
    )
    kinds = rng.choice(len(MIX), count, p=samples / samples.sum())
    text = np.exp(rng.normal(np.log(medians[kinds] * text_scale), sigmas[kinds])).astype(int)
    lengths = np.minimum(VISUAL_TOKENS * pictures[kinds] + SYSTEM_TOKENS + text + 1, MAX_TEXT)
    modalities = np.where(pictures[kinds] > 0, "image", "text")
    return lengths.tolist(), modalities.tolist()


def packing_rows(count: int = 20_000, buffer: int | None = None, seed: int = 0) -> list[dict]:
    """For each length of text and capacity what each way makes of the same samples.

    {"text_scale", "capacity", "mean_tokens", "efficiency": {"padding", "grouping", "cutting",
    "first_fit_decreasing", "knapsack", "bound"}, "cut": share of samples that cutting cuts in two}
    """
    from labs.data import (
        LengthGroupedSampler,
        first_fit_decreasing,
        knapsack_pack,
        packing_efficiency,
        padding_efficiency,
    )
    from labs.data.knapsack import BUFFER

    found = []
    for scale in TEXT_SCALES:
        lengths, modalities = llava_lengths(count, seed, scale)
        order = list(LengthGroupedSampler(lengths, modalities, PADDED_BATCH, seed))
        total = sum(lengths)
        for capacity in CAPACITIES:
            streamed = knapsack_pack(lengths, capacity, buffer or BUFFER, length=int)
            decreasing = first_fit_decreasing(lengths, capacity)
            found.append(
                {
                    "text_scale": scale,
                    "capacity": capacity,
                    "mean_tokens": total / count,
                    "efficiency": {
                        "padding": padding_efficiency(lengths, PADDED_BATCH),
                        "grouping": padding_efficiency([lengths[i] for i in order], PADDED_BATCH),
                        "cutting": packing_efficiency(lengths, -(-total // capacity), capacity),
                        "first_fit_decreasing": packing_efficiency(
                            lengths, len(decreasing), capacity
                        ),
                        "knapsack": packing_efficiency(lengths, sum(1 for _ in streamed), capacity),
                        "bound": efficiency_bound(lengths, capacity),
                    },
                    "cut": cut_share(lengths, capacity),
                }
            )
    return found


def cut_share(lengths: list[int], capacity: int) -> float:
    """Of samples laid end to end and cut every `capacity` tokens: the share that a cut runs through."""
    ends = np.cumsum(lengths)
    first, last = (ends - lengths) // capacity, (ends - 1) // capacity
    return float((first != last).mean())


def efficiency_bound(lengths: list[int], capacity: int) -> float:
    """No packing of these whole samples into rows of `capacity` is fuller than this.

    For n = 1, 2, …: u(x) = floor((n + 1) x) / n, and x itself where (n + 1) x is whole (x = length /
    capacity). The u of the samples of one row never sum to more than 1, so rows >= sum of u.
    """
    x = np.asarray(lengths, dtype=np.int64)
    rows = x.sum() / capacity
    for n in range(1, 40):
        whole, rest = np.divmod((n + 1) * x, capacity)
        rows = max(rows, np.where(rest == 0, x / capacity, whole / n).sum())
    return float(x.sum() / capacity / max(rows, 1e-9))


def packing_table(rows: list[dict]):
    """The rows as a rich table."""
    from rich.table import Table

    table = Table(
        title="Share of places that hold a token, on lengths like LLaVA-665k's (text lengths assumed)",
        caption=f"padding: batches of {PADDED_BATCH}; grouping: the same by length and modality; "
        "cut: samples that concatenating and cutting tears; bound: no packing of whole samples exceeds it",
    )
    for column in (
        "text",
        "row",
        "mean",
        "padding",
        "grouping",
        "first fit",
        "knapsack",
        "bound",
        "cut",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        shares = row["efficiency"]
        ways = ("padding", "grouping", "first_fit_decreasing", "knapsack", "bound")
        table.add_row(
            f"x {row['text_scale']:g}",
            f"{row['capacity']:,}",
            f"{row['mean_tokens']:.0f}",
            *(f"{shares[way]:.1%}" for way in ways),
            f"{row['cut']:.0%}",
        )
    return table
