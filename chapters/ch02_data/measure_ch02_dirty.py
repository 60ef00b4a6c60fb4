"""Dirty against cleaned against never dirty, at equal steps; three seeds.

A collection of captions and questions with the faults of `faults.py` is trained on as it is, after
the cleaning of `cleaning.py`, and as it should have been. One thread: about ten minutes.
"""

import json

import lessons
from cleaning import SHARE, TRUSTED, clean
from faults import COPIES, RATES, collect, rows_of

CODE = [
    *lessons.CODE, "chapters/ch02_data/faults.py", "chapters/ch02_data/cleaning.py",
    "chapters/ch02_data/measure_ch02_dirty.py", "labs/data/quality/captions.py",
    "labs/data/quality/clip.py", "labs/formats/text_signs.py", "labs/formats/fingerprints.py",
    "labs/formats/near.py", "labs/zoo/weights/tiny-clip",
]  # fmt: skip
PAIRS = (("cleaned", "dirty"), ("clean", "dirty"), ("cleaned", "clean"))


def main() -> None:
    size = lessons.size()
    held_out = rows_of(collect(size.held_out, 0, dirty=False, split="val"))
    runs, taken = [], {}
    for seed in size.seeds:
        dirty, never = collect(size.pictures, seed), collect(size.pictures, seed, dirty=False)
        cleaned, taken[seed] = clean(dirty)
        arms = {"dirty": rows_of(dirty), "cleaned": cleaned, "clean": rows_of(never)}
        for arm, rows in arms.items():
            run = lessons.measured(rows, held_out, seed, size.steps, size.questions)
            runs.append({"arm": arm} | run)
            lessons.say_progress(f"{arm}: {lessons.brief(run)}")
    results = {
        "pictures": size.pictures, "steps": size.steps, "batch": lessons.BATCH,
        "rates": RATES, "copies": COPIES, "trusted": TRUSTED, "share": SHARE, "cleaning": taken,
        "runs": lessons.without_answers(runs),
        "summary": lessons.summary(runs),
        "differences": {f"{a} - {b}": lessons.differences(runs, a, b) for a, b in PAIRS},
    }  # fmt: skip
    print(json.dumps({"seed": list(size.seeds), "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
