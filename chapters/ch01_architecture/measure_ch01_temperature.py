"""InfoNCE's temperature: fixed at six values and learned, three seeds, recall on unseen scenes.

Two cores: about two minutes.
"""

import json

import dual
from dual import BATCH, GALLERY, over_seeds, prepare, run_all

FIXED = (0.01, 0.03, 0.07, 0.2, 0.5, 1.0)
LEARNED_FROM = 0.07


def main() -> None:
    seeds, samples, pool, exam = dual.SEEDS, dual.SAMPLES, dual.POOL, dual.EXAM
    if dual.tiny():
        seeds, samples, pool, exam = dual.SEEDS[:1], 2 * BATCH, 512, 100
    data = prepare(pool, exam)
    ways = [(t, False) for t in FIXED] + [(LEARNED_FROM, True)]
    runs = run_all(
        data,
        [
            {"seed": seed, "temperature": t, "learned": learned, "samples": samples}
            for t, learned in ways
            for seed in seeds
        ],
    )
    sweep = []
    for at, (start, learned) in enumerate(ways):
        own = runs[at * len(seeds) : (at + 1) * len(seeds)]
        row = {"temperature": start, "learned": learned, "steps": own[0]["steps"]}
        for key in ("recall", "cosine_of_pairs", "cosine_of_others"):
            row[key] = over_seeds([run[key] for run in own])
        if learned:
            row["learned_temperature"] = over_seeds([run["temperature"] for run in own])
        sweep.append(row)
    results = {"batch": BATCH, "samples": samples, "gallery": GALLERY, "n": exam, "sweep": sweep}
    code = [*dual.CODE, dual.script(__file__), "chapters/ch01_architecture/dual.py"]
    print(json.dumps({"seed": list(seeds), "code": code, "results": results}))


if __name__ == "__main__":
    main()
