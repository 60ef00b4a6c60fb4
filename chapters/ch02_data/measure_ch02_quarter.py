"""Few and clean against many and dirty, at equal steps; three seeds.

A quarter of the collection of `faults.py`, looked through by hand (so: true), is seen four times
while the whole of it, as it came, is seen once; and a twentieth, seen twenty times. One thread:
about ten minutes.
"""

import json

import lessons
from faults import COPIES, RATES, collect, rows_of

CODE = [
    *lessons.CODE, "chapters/ch02_data/faults.py", "chapters/ch02_data/measure_ch02_quarter.py",
]  # fmt: skip
DIRTY = "all, dirty"
PARTS = {DIRTY: 1, "a quarter, clean": 4, "a twentieth, clean": 20}


def main() -> None:
    size = lessons.size()
    held_out = rows_of(collect(size.held_out, 0, dirty=False, split="val"))
    runs = []
    for seed in size.seeds:
        for arm, part in PARTS.items():
            rows = rows_of(collect(size.pictures // part, seed, dirty=arm == DIRTY))
            run = lessons.measured(rows, held_out, seed, size.steps, size.questions)
            runs.append({"arm": arm} | run)
            lessons.say_progress(f"{arm}: {lessons.brief(run)}")
    results = {
        "pictures": size.pictures, "steps": size.steps, "batch": lessons.BATCH,
        "rates": RATES, "copies": COPIES, "runs": lessons.without_answers(runs),
        "summary": lessons.summary(runs),
        "differences": {
            f"{arm} - {DIRTY}": lessons.differences(runs, arm, DIRTY)
            for arm in PARTS if arm != DIRTY
        },
    }  # fmt: skip
    print(json.dumps({"seed": list(size.seeds), "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
