"""Merged, single and interleaved conversations at equal tokens; three seeds.

All questions about a picture in one conversation; one question a conversation; two questions about
each of three pictures in one conversation. Real tokens are counted, those of the pictures among
them. Each model answers the same unseen questions alone and at the end of a conversation of either
other form. One thread: about fifteen minutes.
"""

import json

import lessons
import turns

CODE = [
    *lessons.CODE, "chapters/ch02_data/turns.py", "chapters/ch02_data/measure_ch02_turns.py",
]  # fmt: skip
STEPS, TOKENS = 300, 2146
SHORT = ("count", "position")
EXAM = {"single": lessons.EXAM, "merged": SHORT, "interleaved": SHORT}

PAIRS = (("merged", "single"), ("interleaved", "single"), ("merged", "interleaved"))


def measured(form: str, seed: int, steps: int, per_step: int, questions: int) -> dict:
    """One run on one form: what it cost, its losses, and the exams in all forms."""
    model, processor = lessons.start(seed)
    samples, batch, cost = turns.budget(form, processor, steps, per_step, seed)
    losses = lessons.fit(model, processor, samples, steps, batch, seed)
    found = {
        asked: {
            name: lessons.graded(
                name, turns.answered(model, processor, asked, name, questions, seed * questions)
            )
            for name in names
        }
        for asked, names in EXAM.items()
    }
    return {"arm": form, "seed": seed, "losses": lessons.smoothed(losses)} | cost | found


def main() -> None:
    size = lessons.size()
    full = size.questions == lessons.QUESTIONS
    steps, per_step = (STEPS, TOKENS) if full else (6, 700)
    runs = []
    for seed in size.seeds:
        for form in turns.FORMS:
            run = measured(form, seed, steps, per_step, size.questions)
            runs.append(run)
            for asked in EXAM:
                right = ", ".join(f"{n} {e['accuracy']:.3f}" for n, e in run[asked].items())
                lessons.say_progress(f"seed {seed}, {form}, asked {asked}: {right}")
            lessons.say_progress(f"    {run['tokens']} tokens, {run['pictures_encoded']} pictures")
    results = {
        "steps": steps, "tokens_a_step": per_step, "questions_a_picture": turns.PER_PICTURE,
        "pictures_together": turns.TOGETHER, "runs": lessons.without_answers(runs),
        "summary": {asked: lessons.summary(runs, asked) for asked in EXAM},
        "differences": {
            asked: {f"{a} - {b}": lessons.differences(runs, a, b, asked) for a, b in PAIRS}
            for asked in EXAM
        },
    }  # fmt: skip
    print(json.dumps({"seed": list(size.seeds), "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
