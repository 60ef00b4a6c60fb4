"""MMBench as a suite: its prompts, its rotations, what counts, and a split that keeps its answers."""

import csv
import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.mmbench import read_mmbench, write_mmbench
from labs.suites.benchmarks import MMBench, write_world
from labs.suites.contract import Answer, row_of
from labs.suites.exports import write_vlmevalkit
from labs.suites.results import Run

N = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return {
        "once": write_world(folder / "once", n=N).mmbench,
        "turned": write_world(folder / "turned", n=N, rotations=True).mmbench,
        "zh": write_world(folder / "zh", n=2, language="zh").mmbench,
    }


def answered(suite, say):
    """Rows of a model that says `say(question)`."""
    return [row_of(suite, q, Answer(say(q), 1, True)) for q in suite.questions()]


def right(question):
    return question.answer


def test_the_prompt_is_llavas(world):
    first = next(iter(MMBench(world["once"]).questions()))
    row = next(iter(read_mmbench(world["once"])))
    lines = first.prompt.split("\n")
    assert lines[0] == row.question
    assert lines[1:-1] == [f"{x}. {o}" for x, o in zip("ABCD", row.options, strict=False)]
    assert lines[-1] == "Answer with the option's letter from the given choices directly."
    assert load_image(first.images[0]).size == (48, 48)
    zh = next(iter(MMBench(world["zh"]).questions()))
    assert zh.prompt.endswith("\n请直接回答选项字母。")
    forced = next(iter(MMBench(world["zh"], language="en").questions()))
    assert forced.prompt.endswith("given choices directly.")
    own = next(iter(MMBench(world["once"], instruction="Letter?").questions()))
    assert own.prompt.endswith("\nLetter?")
    bare = next(iter(MMBench(world["once"], instruction="").questions()))
    assert bare.prompt.split("\n")[-1] == lines[-2]


def test_a_hint_stands_first(tmp_path, world):
    row = replace(next(iter(read_mmbench(world["once"]))), hint="Look well.")
    write_mmbench([row], tmp_path / "a.tsv")
    (*_, last) = MMBench(tmp_path / "a.tsv", circular=False).questions()
    assert last.prompt.startswith(f"Look well.\n{row.question}\nA. ")


def test_rotations_are_made_where_the_file_has_none(world):
    questions = list(MMBench(world["once"]).questions())
    rows = {row.index: row for row in read_mmbench(world["once"])}
    assert {q.id for q in questions} == {str(r.index) for r in read_mmbench(world["turned"])}
    groups = defaultdict(list)
    for q in questions:
        groups[q.group].append(q)
    assert len(groups) == N
    for group, passes in groups.items():
        options = list(rows[int(group)].options)
        assert [q.id for q in passes] == [str(int(group) + k * 1_000_000) for k in range(len(options))]  # fmt: skip
        assert passes[0].about["options"] == options and passes[0].answer == rows[int(group)].answer
        # The same answer every time, at each place once, and each pass a rotation of the last.
        said = {q.about["options"]["ABCD".index(q.answer)] for q in passes}
        assert len(said) == 1 and sorted(q.answer for q in passes) == list("ABCD")[: len(options)]
        for k, q in enumerate(passes):
            assert q.about["options"] == options[k:] + options[:k]
            assert q.images == passes[0].images
            assert "\nA. " + q.about["options"][0] + "\n" in q.prompt


def test_a_file_with_rotations_is_asked_as_it_stands(world):
    made = {q.id: (q.prompt, q.answer, q.group) for q in MMBench(world["once"]).questions()}
    read = {q.id: (q.prompt, q.answer, q.group) for q in MMBench(world["turned"]).questions()}
    assert made == read
    order = [q.id for q in MMBench(world["turned"]).questions()]
    assert order == [str(row.index) for row in read_mmbench(world["turned"])]
    assert MMBench(world["once"]).settings()["rotations"] == "made"
    assert MMBench(world["turned"]).settings()["rotations"] == "file"
    for file in ("once", "turned"):
        once = [q.id for q in MMBench(world[file], circular=False).questions()]
        assert once == [str(i) for i in range(N)]


def test_n_counts_questions(world):
    for file in ("once", "turned"):
        ids = {int(q.id) % 1_000_000 for q in MMBench(world[file], n=5).questions()}
        assert ids == set(range(5))
        assert len(list(MMBench(world[file], n=5, circular=False).questions())) == 5


def test_what_counts(world):
    suite = MMBench(world["once"])
    all_right = suite.measures(answered(suite, right))
    assert all_right["circular_accuracy"].value == all_right["accuracy"].value == 1
    assert all_right["circular_accuracy"].n == N and all_right["circular_accuracy"].low > 0.7
    # Always "A": right in one pass of each question, so never in all.
    rows = answered(suite, lambda q: "A")
    found = suite.measures(rows)
    assert found["circular_accuracy"].value == 0
    assert found["accuracy"].value == N / len(rows)
    starts = [q for q in suite.questions() if int(q.id) < 1_000_000]
    assert found["first_pass"].value == sum(q.answer == "A" for q in starts) / N
    # One wrong pass, by the option's text elsewhere, costs the whole question.
    rows = answered(suite, lambda q: "A" if q.id == "1000000" and q.answer != "A" else q.answer)
    wrong = int(rows[1].score == 0)
    assert suite.measures(rows)["circular_accuracy"].value == (N - wrong) / N
    # A guess: of 12 questions 8 have four options and 4 have two.
    assert found["chance"].value == pytest.approx((8 * 0.25**4 + 4 * 0.5**2) / 12)
    once = MMBench(world["once"], circular=False)
    assert once.measures(answered(once, right))["chance"].value == (8 * 0.25 + 4 * 0.5) / 12
    assert once.headline == "accuracy" and suite.headline == "circular_accuracy"
    assert once.measures(answered(once, right))["accuracy"].value == 1


def test_the_texts_of_options_are_answers_too(world):
    suite = MMBench(world["once"])
    rows = answered(suite, lambda q: q.about["options"]["ABCD".index(q.answer)] + ".")
    assert {row.status for row in rows} == {"read"}
    assert suite.measures(rows)["circular_accuracy"].value == 1


def test_abilities_add_up(world):
    suite = MMBench(world["once"])
    rows = answered(suite, lambda q: q.answer if q.about["index"] % 2 else "B")
    found = suite.measures(rows)
    total = found["circular_accuracy"]
    for key in ("category/", "l2_category/"):
        parts = [m for name, m in found.items() if name.startswith(key)]
        assert sum(m.n for m in parts) == total.n
        assert sum(m.n * m.value for m in parts) == pytest.approx(total.n * total.value)
    assert "l2_category/finegrained_perception (cross-instance)" in found
    assert found["category/attribute_recognition"].low < found["category/attribute_recognition"].high  # fmt: skip


def test_unknown_and_missing_abilities_are_kept_by_name(tmp_path, world):
    rows = list(read_mmbench(world["once"]))[:3]
    rows = [replace(rows[0], category="telepathy"), replace(rows[1], category=None), rows[2]]
    write_mmbench(rows, tmp_path / "a.tsv")
    suite = MMBench(tmp_path / "a.tsv")
    found = suite.measures(answered(suite, right))
    names = [name for name in found if name.startswith("category/")]
    assert names == ["category/attribute_comparison", "category/telepathy", "category/none given"]


def test_what_cannot_be_read_scores_nothing_and_is_told(world):
    suite = MMBench(world["once"], n=3)
    said = iter(["", "Мне нечего сказать.", "A or B", *["ABCD"] * 20])
    rows = answered(suite, lambda q: next(said))
    assert [row.status for row in rows[:3]] == ["empty", "script", "several"]
    assert all(row.score == 0 and row.parsed is None for row in rows[:3])


@pytest.fixture
def held_back(tmp_path, world):
    rows = [replace(row, answer=None, split="test") for row in read_mmbench(world["once"])]
    write_mmbench(rows, tmp_path / "MMBench_TEST_EN.tsv")
    return tmp_path / "MMBench_TEST_EN.tsv"


def test_a_split_without_answers_is_asked_and_not_scored(held_back, tmp_path):
    suite = MMBench(held_back)
    assert "answers are held back" in suite.title and suite.headline == "answered"
    rows = answered(suite, lambda q: "B" if q.about["index"] else "no idea")
    assert {row.answer for row in rows} == {None} and sum(row.score for row in rows) == 0
    found = suite.measures(rows)
    assert list(found) == ["answered"]
    assert found["answered"].value == sum(r.status == "read" for r in rows) / len(rows) < 1
    # What is handed in: VLMEvalKit's table.
    config = {"model": {"name": "m"}, "suite": {"name": suite.name, "settings": suite.settings()}}
    run = Run(tmp_path, config, rows, {"date": "2026-01-02T03:04:05+00:00"})
    (path,) = write_vlmevalkit(run, tmp_path / "kit")
    assert path.name == "m_MMBench_TEST_EN.tsv"
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert sorted(int(line["index"]) for line in table) == sorted(int(row.id) for row in rows)
    by_index = {row.id: row for row in rows}
    for line in table:
        row = by_index[line["index"]]
        assert line["prediction"] == row.said and not line.get("answer")
        assert line["A"] == row.about["options"][0] and line["split"] == "test"
        assert line["question"] == row.about["question"]


def test_answers_that_are_there_are_scored(tmp_path, world):
    rows = list(read_mmbench(world["once"]))
    rows = [replace(row, answer=None) if row.index % 2 else row for row in rows]
    write_mmbench(rows, tmp_path / "a.tsv")
    suite = MMBench(tmp_path / "a.tsv")
    found = suite.measures(answered(suite, lambda q: q.answer or "A"))
    assert found["circular_accuracy"].value == 1 and found["circular_accuracy"].n == N // 2


def test_mistakes_in_rotations(tmp_path, world):
    rows = list(read_mmbench(world["turned"]))
    lost = [row for row in rows if row.index != 3]
    write_mmbench(lost, tmp_path / "lost.tsv")
    with pytest.raises(InputError, match="index 1000003 is a rotation of question 3, which is not"):
        list(MMBench(tmp_path / "lost.tsv").questions())
    short = [row for row in rows if row.index not in (1_000_003, 2_000_004)]
    write_mmbench(short, tmp_path / "short.tsv")
    suite = MMBench(tmp_path / "short.tsv")
    assert suite.settings()["short_groups"] == 2
    passes = Counter(q.group for q in suite.questions())
    assert passes["3"] == len(rows[3].options) - 1 and len(passes) == N
    with open(tmp_path / "short.tsv", "a") as file:
        file.write((tmp_path / "short.tsv").read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match="index 0 was used before"):
        list(suite.questions())


def test_settings_tell_the_file(world, tmp_path):
    settings = MMBench(world["once"], n=3).settings()
    assert settings["sha256"] == hashlib.sha256(Path(world["once"]).read_bytes()).hexdigest()
    assert settings["file"] == "MMBench_DEV_EN.tsv" and settings["rule"] == "ours"
    assert settings["n"] == 3 and "option's letter" in settings["instruction"]["en"]
    for wrong, sentence in [
        ({"n": 0}, "of 0 questions"),
        ({"rule": "theirs"}, "no rule 'theirs'"),
        ({"language": "de"}, "no language 'de'"),
    ]:
        with pytest.raises(InputError, match=sentence):
            MMBench(world["once"], **wrong)
    with pytest.raises(InputError, match="does not exist"):
        list(MMBench(tmp_path / "none.tsv").questions())
