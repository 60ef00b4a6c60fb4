"""`labs bench rlhf`: trained and asked for real, only shorter; verdict and tables on made-up runs."""

import copy
import io

import numpy as np
import pytest
from rich.console import Console

from labs.bench import rlhf
from labs.errors import InputError
from labs.suites.alignment import OTHERS, TYPES, Answers, change, pooled, summary


@pytest.fixture(scope="module")
def result():
    said = []
    short = [
        "train.max_steps=2", "policy.prompts_per_step=4", "policy.num_generations=2",
        "policy.max_new_tokens=12",
    ]  # fmt: skip
    found = rlhf.run(seeds=1, questions=8, overrides=short, progress=said.append, workers=1)
    return found, said


def test_each_recipe_is_trained_and_asked_what_the_start_was_asked(result):
    found, said = result
    assert len(said) == 3 and all("adversarial existence" in line for line in said)
    assert found["setting"]["seeds"] == 1 and found["setting"]["questions"] == 8
    assert set(found["before"]) == set(TYPES)
    assert set(found["after"]) == {"ppo", "grpo"}
    for name, after in found["after"].items():
        [run] = after["seeds"]
        assert run["steps"] == 2 and run["history"]["step"] == [1, 2] and run["seconds"] > 0
        assert all(v is not None for v in run["history"]["reward"])
        critic = run["history"]["value_explained_variance"]
        assert all((v is None) == (name == "grpo") for v in critic)
        for kind in TYPES:
            row = after["summary"][kind]
            assert row["n"] == 8 and row["accuracy"] == run["summary"][kind]["accuracy"]
            assert after["change"][kind]["gain"] == pytest.approx(
                row["accuracy"] - found["before"][kind]["accuracy"]
            )
        assert after["verdict"] == rlhf.verdict(after)


def test_its_tables_show_every_type(result):
    text = drawn(result[0])
    for kind in TYPES:
        assert kind in text
    assert "Targets" in text and "8 held-out questions" in text


def test_nothing_to_train_or_ask_is_refused():
    for wrong in ({"seeds": 0}, {"questions": 1}):
        with pytest.raises(InputError, match="questions and"):
            rlhf.run(**wrong)


# made-up runs


def drawn(result) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in rlhf.tables(result):
        console.print(table)
    return console.export_text()


def models(right=0.75, yes=0.7, invented=0.4, named=0.8, n=200, **types):
    """Answers with exactly these rates; `types` has other shares right by type."""

    def ones(share):
        return (np.arange(n) < round(share * n)).astype(float)

    found = {}
    for name in TYPES:
        a = Answers(ones(types.get(name, right)))
        if name.startswith("existence") or name == "conjunction":
            a.yes = ones(yes)
        if name == "caption":
            a.invented, a.named = ones(invented), ones(named)
        found[name] = a
    return found


def made(after: list[dict], before: dict | None = None) -> dict:
    before = before or models()
    together = pooled(after)
    row = {"summary": rlhf._pooled_summary(after), "change": change(before, together), "seeds": []}
    row["verdict"] = rlhf.verdict(row)
    setting = {"questions": 200, "seeds": len(after), "start": "tiny-sft"}
    return {"setting": setting, "before": summary(before), "after": {"ppo": row}}


HEALED = {"yes": 0.5, "invented": 0.2, "existence_adversarial": 0.8}
ALL = {"adversarial_accuracy", "yes_rate", "invented", "recall", "others"}


def test_a_healed_model_reaches_every_target():
    verdict = made([models(**HEALED)])["after"]["ppo"]["verdict"]
    assert set(verdict) == ALL and all(verdict.values())


@pytest.mark.parametrize(
    "spoilt, missed",
    [
        ({"existence_adversarial": 0.795}, "adversarial_accuracy"),
        ({"yes": 0.61}, "yes_rate"),
        ({"yes": 0.39}, "yes_rate"),
        ({"invented": 0.21}, "invented"),
        ({"named": 0.7}, "recall"),
        *(({name: 0.7}, "others") for name in OTHERS),
    ],
)
def test_each_target_can_be_missed_alone(spoilt, missed):
    verdict = made([models(**HEALED | spoilt)])["after"]["ppo"]["verdict"]
    assert [name for name, reached in verdict.items() if not reached] == [missed]


def test_a_drop_counts_at_its_upper_bound():
    """One point lost is inside two; but 200 questions cannot rule out that it is more than two."""
    after = made([models(**HEALED, count=0.74)])["after"]["ppo"]
    assert after["change"]["count"]["gain"] == pytest.approx(-0.01)
    assert after["change"]["count"]["drop_bound"] > 0.02 and not after["verdict"]["others"]
    # A tenth of that, on sixteen times the questions, is inside.
    right = (np.arange(3200) < 2400).astype(float)
    less = np.where(np.arange(3200) < 3, 0.0, right)
    after["change"] |= change({"count": Answers(right)}, {"count": Answers(less)})
    assert after["change"]["count"]["gain"] < 0 and rlhf.verdict(after)["others"]


def test_nothing_invented_before_is_no_target_reached():
    verdict = made([models(**HEALED)], models(invented=0.0))["after"]["ppo"]["verdict"]
    assert not verdict["invented"]


def test_seeds_count_together():
    """One seed below the target and one above: the mean decides."""
    low, high = models(**HEALED | {"existence_adversarial": 0.74}), models(**HEALED)
    high["existence_adversarial"].right[:180] = 1
    found = made([low, high])["after"]["ppo"]
    assert found["summary"]["existence_adversarial"]["accuracy"] == pytest.approx(0.82)
    assert found["verdict"]["adversarial_accuracy"]
    caption = found["summary"]["caption"]
    assert caption["hallucinating"] == pytest.approx(0.2) == caption["invented"]


def test_the_tables_say_what_was_reached():
    result = made([models(**HEALED | {"named": 0.7})])
    text = drawn(result)
    assert "80.0 (yes 50)" in text and "75.0 (yes 70)" in text
    assert "x 0.50" in text and "0.400" in text and "0.200" in text
    assert "reached" in text and "missed" in text
    none = copy.deepcopy(result)
    none["after"]["ppo"]["change"]["caption"]["invented_ratio"] = None
    assert "x 0.50" not in drawn(none)
