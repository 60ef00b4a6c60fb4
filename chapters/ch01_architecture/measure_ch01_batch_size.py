"""InfoNCE's negatives, 3 to 255 of them, at equal samples seen: two sweeps, three seeds.

`batch`: the batch itself is larger, as it would be; a small one takes more steps. `group`: batches
of 256 whose pairs see only the others of their group, so that steps, rate and samples are equal too,
and nothing but the number of negatives differs. Two cores: about five minutes.
"""

import json

import dual
from dual import BATCH, GALLERY, over_seeds, prepare, run_all

SIZES = (4, 8, 16, 32, 64, 128, 256)


def main() -> None:
    seeds, samples, pool, exam, sizes = dual.SEEDS, dual.SAMPLES, dual.POOL, dual.EXAM, SIZES
    if dual.tiny():
        seeds, samples, pool, exam, sizes = dual.SEEDS[:1], 2 * BATCH, 512, 100, (64, 256)
    data = prepare(pool, exam)
    # The slowest first: two processes end at about the same time.
    settings = [{"seed": s, "batch": size, "samples": samples} for size in sizes for s in seeds]
    # A group of the whole batch is the batch: not run twice.
    settings += [
        {"seed": s, "batch": BATCH, "group": size, "samples": samples}
        for size in sizes
        if size < BATCH
        for s in seeds
    ]
    runs = run_all(data, settings)
    sweeps = {"batch": [], "group": []}
    for size in sizes:
        batches = [r for r in runs if r["batch"] == size and "group" not in r]
        groups = [r for r in runs if r.get("group") == size] or batches
        for name, own in (("batch", batches), ("group", groups)):
            sweeps[name].append(
                {
                    "size": size,
                    "negatives": size - 1,
                    "steps": own[0]["steps"],
                    "recall": over_seeds([run["recall"] for run in own]),
                    "learned_temperature": over_seeds([run["temperature"] for run in own]),
                }
            )
    results = {"samples": samples, "gallery": GALLERY, "n": exam, "sweeps": sweeps}
    code = [*dual.CODE, dual.script(__file__), "chapters/ch01_architecture/dual.py"]
    print(json.dumps({"seed": list(seeds), "code": code, "results": results}))


if __name__ == "__main__":
    main()
