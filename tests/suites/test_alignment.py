"""What alignment gained and cost: counts against loops, and differences on the same questions."""

import numpy as np
import pytest

from labs.evaluation import paired_bootstrap, wilson_ci
from labs.models import load_vlm
from labs.shapes import judge, make_record
from labs.suites.alignment import (
    EXISTENCE,
    OTHERS,
    TYPES,
    Answers,
    _row,
    answer_all,
    change,
    pooled,
    summary,
)


def answers_of(name, say, n=80):
    """What `say(record)` answers, read as a model's answers are."""
    task, wanted = TYPES[name]
    records = [make_record(task, i, "test", "en", **wanted) for i in range(n)]
    rows = [_row(task, r, say(r)) for r in records]
    return records, Answers(**{k: np.array([r[k] for r in rows], float) for k in rows[0]})


def truth(record):
    return record["meta"]["turns"][0].answer


@pytest.mark.parametrize("name", TYPES)
def test_the_exact_answer_is_right(name):
    _, found = answers_of(name, truth, 30)
    assert found.right.all()
    assert (found.yes is None) == (name not in (*EXISTENCE, "conjunction"))
    assert (found.invented is None) == (name != "caption")
    if name == "caption":
        assert not found.invented.any() and (found.named == 1).all()


@pytest.mark.parametrize("name", EXISTENCE)
def test_a_yes_sayer_is_right_half_the_time(name):
    _, found = answers_of(name, lambda r: "Yes, there is.")
    row = summary({name: found})[name]
    assert (row["accuracy"], row["yes_rate"], row["n"]) == (0.5, 1.0, 80)
    assert row["ci"] == list(wilson_ci(40, 80)) and row["yes_ci"] == list(wilson_ci(80, 80))


def test_the_types_are_those_of_pope_and_the_rest():
    assert set(EXISTENCE) | set(OTHERS) | {"caption"} == set(TYPES)
    assert not set(EXISTENCE) & set(OTHERS)
    questions = {
        name: [r["meta"]["turns"][0].question for r in answers_of(name, truth, 40)[0]]
        for name in EXISTENCE
    }
    assert len({tuple(q) for q in questions.values()}) == 3, "three kinds of negatives"


def test_a_caption_is_charged_for_each_invented_kind():
    """A ghost or two are added to the exact caption; every third caption says nothing."""
    kinds = ["circle", "square", "triangle", "star", "ring", "cross"]

    def ghosts(record):
        absent = [k for k in kinds if k not in record["meta"]["scene"].kinds]
        number = int(record["id"].rsplit("-", 1)[1]) if record["id"][-1].isdigit() else 0
        return absent[: number % 3]

    def say(record):
        return truth(record) + "".join(f" There is a red {k}." for k in ghosts(record))

    records, found = answers_of("caption", say)
    wanted = [len(ghosts(r)) for r in records]
    assert found.invented.tolist() == wanted and {0, 1, 2} <= set(wanted)
    assert (found.named == 1).all() and not found.right[np.array(wanted) > 0].any()
    row = summary({"caption": found})["caption"]
    assert row["invented"] == pytest.approx(sum(wanted) / 80)
    assert row["hallucinating"] == sum(w > 0 for w in wanted) / 80
    low, high = row["invented_ci"]
    assert low < row["invented"] < high and row["recall"] == 1.0
    _, silent = answers_of("caption", lambda r: "")
    assert not silent.named.any() and not silent.invented.any()


def test_one_too_many_of_what_is_there_is_not_invented():
    """A ring where there is a ring is wrong, and the judge says so; CHAIR counts kinds."""

    def say(record):
        return f"{truth(record)} There is a {min(record['meta']['scene'].kinds)}."

    records, found = answers_of("caption", say, 20)
    assert all(judge(r["meta"]["scene"], say(r)).hallucinated for r in records)
    assert not found.invented.any() and not found.right.any()


def part(record):
    return truth(record).split(",")[0]


def test_what_is_named_is_a_share_of_what_is_there():
    """Only the first object of each caption."""
    records, found = answers_of("caption", part)
    for record, named in zip(records, found.named, strict=True):
        scene = record["meta"]["scene"]
        verdict = judge(scene, part(record))
        assert len(verdict.right) == 1 and named == 1 / len(scene.objects)
    assert 0 < found.named.mean() < 1


def test_a_models_answers_do_not_depend_on_the_batch():
    pair = load_vlm("tiny-sft")
    types = ("existence_adversarial", "count", "caption")
    said = []
    whole = answer_all(*pair, 10, types, batch_size=10, progress=said.append)
    parts = answer_all(*pair, 10, types, batch_size=4)
    assert list(whole) == list(types) and len(said) == 3
    for name in types:
        for column in ("right", "yes", "invented", "named"):
            one, other = getattr(whole[name], column), getattr(parts[name], column)
            assert (one is None and other is None) or one.tolist() == other.tolist()
        assert len(whole[name].right) == 10
    assert whole["caption"].named.mean() > 0.5, "tiny-sft sees"


# differences


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    n = 400

    def draw(right, ghosts, named):
        return {
            "count": Answers((rng.random(n) < right).astype(float)),
            "caption": Answers(
                (rng.random(n) < right).astype(float), None,
                rng.poisson(ghosts, n).astype(float), (rng.random(n) < named).astype(float),
            ),
        }  # fmt: skip

    return draw(0.7, 0.4, 0.8), draw(0.8, 0.2, 0.7)


def test_changes_are_paired_after_less_before(made):
    before, after = made
    found = change(before, after, seed=3)
    for name in before:
        b, a = before[name].right, after[name].right
        wanted = paired_bootstrap(a, b, seed=3)
        row = found[name]
        assert row["gain"] == pytest.approx(a.mean() - b.mean()) and row["gain"] > 0
        assert row["ci"] == [wanted.low, wanted.high] and row["p_value"] == wanted.p_value
        assert row["ci"][0] < row["gain"] < row["ci"][1]
        assert row["drop_bound"] == max(0.0, -wanted.low)
    row = found["caption"]
    b, a = before["caption"], after["caption"]
    assert row["recall_gain"] == pytest.approx(a.named.mean() - b.named.mean())
    assert row["invented_ratio"] == pytest.approx(a.invented.mean() / b.invented.mean())
    low, high = row["invented_ratio_ci"]
    assert low < row["invented_ratio"] < high < 1
    assert "invented_ratio" not in found["count"]


def test_turned_round_a_gain_is_a_loss(made):
    there, back = change(*made), change(*reversed(made))
    for name in there:
        assert there[name]["gain"] == pytest.approx(-back[name]["gain"])
        assert back[name]["drop_bound"] > 0
        assert back[name]["drop_bound"] == pytest.approx(-back[name]["ci"][0])
    assert back["caption"]["invented_ratio"] == pytest.approx(
        1 / there["caption"]["invented_ratio"]
    )


def test_nothing_changed_is_nothing(made):
    before, _ = made
    for row in change(before, before).values():
        assert row["gain"] == row["drop_bound"] == 0 and row["ci"] == [0, 0]
    caption = change(before, before)["caption"]
    assert caption["invented_ratio"] == 1 and caption["invented_ratio_ci"] == [1, 1]


def test_pairing_is_narrower_than_two_samples(made):
    """Two models that differ in few answers: the interval knows that the questions are the same."""
    before, _ = made
    right = before["count"].right.copy()
    right[:12] = 1 - right[:12]
    row = change({"count": before["count"]}, {"count": Answers(right)})["count"]
    p, n = right.mean(), len(right)
    assert row["ci"][1] - row["ci"][0] < 0.5 * 2 * 1.96 * (2 * p * (1 - p) / n) ** 0.5


def test_without_inventions_before_there_is_no_ratio(made):
    before, after = made
    none = {"caption": Answers(before["caption"].right, None, np.zeros(400), np.ones(400))}
    row = change(none, {"caption": after["caption"]})["caption"]
    assert row["invented_ratio"] is None and row["invented_ratio_ci"] is None


def test_seeds_are_pooled_question_by_question(made):
    together = pooled(made)
    for name in together:
        for column in ("right", "yes", "invented", "named"):
            parts = [getattr(m[name], column) for m in made]
            found = getattr(together[name], column)
            if parts[0] is None:
                assert found is None
            else:
                assert found.tolist() == ((parts[0] + parts[1]) / 2).tolist()
    assert pooled(made[:1])["count"].right.tolist() == made[0]["count"].right.tolist()
