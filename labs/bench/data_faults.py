"""The data doctor against planted faults: precision and recall of each kind, and a clean set.

Faults of fourteen kinds, twelve structural and two that are judged by a score, are planted into 20,000
samples of the world. Their variants come from three hands, counted apart:

- known: written by someone who knows what is looked for;
- blind: by someone who had not read the detector;
- unseen: by a third, who had read neither it nor the other variants.

What was missed of the last two at first contact was mended afterwards. The first run with the third hand's
variants is kept: `book/measurements/bench_data_faults_first_contact.json`.

A planted fault is *found* where a finding of its kind (or of
one that means the same, see `SAME`) stands at its line. A finding at a line that carries no planted
fault is a *false alarm*; one of another kind at a planted line is counted, and is neither.
"""

import importlib
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from labs.bench.children import Progress
from labs.bench.data_plant import Planted, plant
from labs.bench.record import READING

SAMPLES, SHARE, SEED = 20_000, 0.1, 0
MODEL, CLIP, MAX_LENGTH = "tiny-sft", "tiny-clip", 512
HANDS = ("known", "blind", "unseen")
SEMANTIC = ("low_clip_score", "near_duplicate_image")
# One fault, two right names.
SAME = {
    "empty_answer": {"no_answer"},  # an answer that is null is none
    "answer_cut_off": {"later_answer_cut_off"},  # the first ones of a long chat are within
    "special_token_in_text": {"foreign_special_token"},  # "</s>" is none of tiny-sft's
    "leaked_sample": {"leaked_image"},
    "near_duplicate_image": {"duplicate_sample"},
}
CODE = (
    "labs/bench/data_faults.py",
    "labs/bench/data_faults_known.py",
    "labs/bench/data_faults_blind.py",
    "labs/bench/data_faults_unseen.py",
    "labs/bench/data_plant.py",
    "labs/doctors/data",
    *READING,
    "labs/zoo/weights/tiny-clip",
)


def run(repeats: int = 1, quick: bool = False, progress: Progress | None = None) -> dict:
    """Plant, check, compare; `repeats` sets, each of another seed.

    Returns {"setting": …, "kinds": {kind: {"planted", "found", "recall", "recall_interval",
    "false_alarms", "precision", "precision_interval", "known": [found, planted], "blind": […],
    "unseen": […]}},
    "missed": {variant: count}, "clean": {kind: count, the findings in a set without faults}}.
    """
    hands = {
        name: importlib.import_module(f"labs.bench.data_faults_{name}").VARIANTS for name in HANDS
    }
    say = progress or (lambda _: None)
    samples = 1500 if quick else SAMPLES
    hand_of = {
        v.__name__: hand for hand, kinds in hands.items() for ways in kinds.values() for v in ways
    }
    variants = {
        kind: [v for kinds in hands.values() for v in kinds[kind]] for kind in hands["known"]
    }
    if len(hand_of) != sum(map(len, variants.values())):
        raise ValueError("two variants have one name")
    rounds, clean = [], defaultdict(int)
    for seed in range(repeats):
        for name, ways in (("planted", variants), ("clean", {})):
            with tempfile.TemporaryDirectory() as folder:
                say(f"set {seed + 1} of {repeats}, {name}: writing {samples:,} samples")
                truth = plant(Path(folder), ways, samples, SHARE, seed=SEED + seed)
                say(f"set {seed + 1} of {repeats}, {name}: checking")
                findings = check_folder(Path(folder), samples)
            if name == "planted":
                rounds.append((truth, findings))
            else:
                for kind, places in findings.items():
                    clean[kind] += len(places)
    return {
        "setting": {
            "samples": samples,
            "share": SHARE,
            "repeats": repeats,
            "max_length": MAX_LENGTH,
            "model": MODEL,
            "clip": CLIP,
            "variants": dict(Counter(hand_of.values())),
        },
        **score(rounds, hand_of),
        "clean": dict(clean),
    }


def check_folder(folder: Path, most: int) -> dict[str, list[int | None]]:
    """The lines of train.jsonl at which each kind was found; None for a finding that has no line."""
    from labs.doctors.data.check import check
    from labs.doctors.data.options import Options
    from labs.models.places import ZOO

    report = check(
        Options(
            path=folder / "train.jsonl",
            against=(folder / "test.jsonl",),
            model=str(ZOO / MODEL),
            clip=str(ZOO / CLIP),
            max_length=MAX_LENGTH,
            examples=most,
        )
    )
    return {
        finding.kind: [e.line for e in finding.examples if e.file == "train.jsonl"]
        for finding in report.findings
    }


def score(rounds: list[tuple[list[Planted], dict]], hand_of: dict[str, str]) -> dict:
    """Counts and intervals by kind over all rounds, and the variants that were missed."""
    from labs.evaluation import wilson_ci

    planted, found, alarms = defaultdict(list), defaultdict(list), defaultdict(int)
    besides, missed = defaultdict(int), defaultdict(int)
    for truth, findings in rounds:
        lines = {kind: set(places) for kind, places in findings.items()}
        faulty = {fault.line for fault in truth}
        for fault in truth:
            names = {fault.kind, *SAME.get(fault.kind, ())}
            hit = any(fault.line in lines.get(name, ()) for name in names)
            group = hand_of[fault.variant]
            planted[fault.kind].append(group)
            if hit:
                found[fault.kind].append(group)
            else:
                missed[f"{fault.kind}: {fault.variant}"] += 1
        own = {fault.line: {fault.kind, *SAME.get(fault.kind, ())} for fault in truth}
        for kind, places in lines.items():
            alarms[kind] += len(places - faulty)
            besides[kind] += sum(kind not in own[line] for line in places & faulty)
    kinds = {}
    for kind in sorted(set(planted) | set(alarms)):
        hits, total, false = len(found[kind]), len(planted[kind]), alarms[kind]
        kinds[kind] = {
            "planted": total,
            "found": hits,
            "false_alarms": false,
            "at_other_faults": besides[kind],
            "semantic": kind in SEMANTIC,
        }
        if total:
            kinds[kind] |= {"recall": hits / total, "recall_interval": list(wilson_ci(hits, total))}
            for group in HANDS:
                kinds[kind][group] = [found[kind].count(group), planted[kind].count(group)]
        if hits + false:
            kinds[kind] |= {
                "precision": hits / (hits + false),
                "precision_interval": list(wilson_ci(hits, hits + false)),
            }
    return {"kinds": kinds, "missed": dict(missed)}


def tables(result: dict) -> list:
    """Recall and precision by kind, as a rich table."""
    from rich.table import Table

    setting = result["setting"]
    table = Table(
        title=f"faults planted into {setting['repeats']} x {setting['samples']:,} samples",
        caption=f"clean set: {result['clean'] or 'nothing found'}; missed: {result['missed'] or 'none'}",
    )
    for column in (
        "kind",
        "planted",
        "recall",
        "95 %",
        *HANDS,
        "false alarms",
        "precision",
    ):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind, row in result["kinds"].items():
        if not row["planted"]:
            continue
        low, high = row["recall_interval"]
        table.add_row(
            kind + (" (by score)" if row["semantic"] else ""),
            f"{row['planted']:,}",
            f"{100 * row['recall']:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            *("{}/{}".format(*row[hand]) for hand in HANDS),
            str(row["false_alarms"]),
            f"{100 * row['precision']:.1f} %" if "precision" in row else "",
        )
    return [table]
