"""Exports against what the other kits' own loaders demand, written down here from their code."""

import csv
import json
import re
from pathlib import Path

import pytest

from labs.suites.benchmarks.write_world import write_world
from labs.suites.contract import Answer
from labs.suites.exports import write_lmms_eval, write_vlmevalkit
from labs.suites.exports.vlmevalkit import dataset_name, file_name
from labs.suites.registry import load_suite
from labs.suites.runner import run
from tests.suites.sums import finished


class Guesser:
    """Says the right answer, the wrong one or neither, by the number of the question it is asked."""

    name = "org/guesser"

    def __init__(self, say):
        self.say, self.count = say, 0

    def describe(self):
        return {"name": self.name, "path": "org/guesser", "dtype": "float32", "device": "cpu"}

    def length(self, question):
        return len(question.prompt)

    def answer(self, questions):
        return [Answer(self.say(q, len(q.id) + sum(q.id.encode())), 2, True) for q in questions]


def yes_no(question, number):
    other = {"yes": "No", "no": "Yes"}[question.answer]
    return [question.answer.capitalize() + ". Surely!", other, "I cannot say."][number % 3]


def letters(question, number):
    """Of every third question some passes are wrong: one wrong pass fails the whole question."""
    fails = sum(question.group.encode()) % 3 == 0
    return "Z" if fails and number % 2 else question.answer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), n=12, rotations=True)


def ask(spec, say, folder, **options):
    return run(Guesser(say), load_suite(spec, **options), folder)


def table(path: Path) -> list[dict]:
    # pandas.read_csv(path, sep="\t"): a header, quoted cells, no ragged line
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert all(len(row) == len(rows[0]) for row in rows) and len(set(rows[0])) == len(rows[0])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def extraction(output: str) -> str:
    """YOrN_Extraction of vlmeval/dataset/utils/yorn.py, punctuation as its process_punctuation."""
    words = re.sub(r"[;/\[\]\"{}()=+\\_\-><@`,?!.]", " ", output.lower()).split()
    if ("yes" in words) != ("no" in words):
        return "Yes" if "yes" in words else "No"
    return "Unknown"


def test_the_prediction_file_lies_where_the_kit_looks(tmp_path):
    done = finished(tmp_path / "run", "org/abacus 7b")
    [path] = write_vlmevalkit(done)
    model, eval_id, file = path.relative_to(tmp_path / "run" / "vlmevalkit").parts
    assert re.fullmatch(r"T\d{8}-\d{6}", eval_id)  # NEW_EVAL_ID_PATTERN
    assert file == f"{model}_{dataset_name(done)}.tsv" == "org_abacus_7b_labs_sums.tsv"
    rows = table(path)
    assert [int(row["index"]) for row in rows] == list(range(40))
    for row, ours in zip(rows, done.rows, strict=True):
        assert row["prediction"] == ours.said and row["question"] == ours.prompt
        assert row["answer"] == str(ours.answer)
    assert write_vlmevalkit(done) == [path]  # the same run, the same place


def test_pope_scored_from_the_file_as_the_kit_scores_it(tmp_path, world):
    done = ask(f"pope:{world.pope}", yes_no, tmp_path / "run")
    assert dataset_name(done) == "POPE"
    rows = table(write_vlmevalkit(done)[0])
    assert {row["category"] for row in rows} == {"random", "popular", "adversarial"}
    truth = [row["answer"] == "Yes" for row in rows]
    assert {row["answer"] for row in rows} == {"Yes", "No"}
    extracted = [extraction(row["prediction"]) for row in rows]
    assert set(extracted) == {"Yes", "No", "Unknown"}
    hits = [row["answer"] == e for row, e in zip(rows, extracted, strict=True)]
    tp = sum(t and e == "Yes" for t, e in zip(truth, extracted, strict=True))
    fp = sum(not t and e == "Yes" for t, e in zip(truth, extracted, strict=True))
    fn = sum(t and e == "No" for t, e in zip(truth, extracted, strict=True))
    assert done.measures["accuracy"].value == pytest.approx(sum(hits) / len(hits))
    assert done.measures["precision"].value == pytest.approx(tp / (tp + fp))
    assert fn > 0 and len(rows) == 36


def test_mme_pairs_by_image_path_and_category(tmp_path, world):
    done = ask(f"mme:{world.mme}", yes_no, tmp_path / "run")
    assert dataset_name(done) == "MME"
    stats: dict = {}
    for row in table(write_vlmevalkit(done)[0]):
        hit = row["answer"] == extraction(row["prediction"])
        stats.setdefault(row["category"], {}).setdefault(row["image_path"], []).append(hit)
    for category, pictures in stats.items():
        assert all(len(pair) == 2 for pair in pictures.values())
        singles = [hit for pair in pictures.values() for hit in pair]
        both = [pair[0] * pair[1] for pair in pictures.values()]
        score = 100 * sum(singles) / len(singles) + 100 * sum(both) / len(both)
        assert done.measures[f"task/{category}"].value == pytest.approx(score)


def test_mmbench_groups_as_circular_eval_does(tmp_path, world):
    done = ask(f"mmbench:{world.mmbench}", letters, tmp_path / "run")
    assert dataset_name(done) == "MMBench_DEV_EN"
    rows = table(write_vlmevalkit(done)[0])
    assert [int(row["index"]) for row in rows] == sorted(int(row["index"]) for row in rows)
    groups: dict = {}
    for row in rows:
        assert row["A"] and row["B"] and row["answer"] in "ABCD"
        hit = row["prediction"] == row["answer"]
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(hit)
    right = [all(hits) for hits in groups.values()]
    assert 0 < sum(right) < len(right)
    assert done.measures["circular_accuracy"].value == pytest.approx(sum(right) / len(right))


def test_a_circular_suite_of_ours_has_the_kits_indices_and_a_data_set(tmp_path):
    done = ask("choice_circular", letters, tmp_path / "run", n=8)
    predictions, data = write_vlmevalkit(done)
    assert data.name == "labs_choice_circular.tsv"  # "circular" in its name: scored as circular
    assert "prediction" not in table(data)[0] and "image" not in table(data)[0]
    groups: dict = {}
    for row, known in zip(table(predictions), table(data), strict=True):
        assert row["index"] == known["index"] and row["question"] == known["question"]
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    assert {len(rows) for rows in groups.values()} == {4}
    assert all(any(int(r["index"]) == g for r in rows) for g, rows in groups.items())
    for rows in groups.values():  # one question, its options moved on by one each time
        assert len({row[row["answer"]] for row in rows}) == 1
        assert {row["answer"] for row in rows} == set("ABCD")
    right = [all(r["prediction"] == r["answer"] for r in rows) for rows in groups.values()]
    assert 0 < sum(right) < len(right)
    assert done.measures["circular_accuracy"].value == pytest.approx(sum(right) / len(right))


def score_of(sample: dict) -> float | None:
    """_extract_score_from_sample of lmms_eval/baselines/loader.py, its first way."""
    for key, value in sample.items():
        if "score" in key.lower() and isinstance(value, int | float):
            return float(value)
    return None


def test_samples_and_results_are_what_lmms_eval_reads(tmp_path):
    done = finished(tmp_path / "run", "org/abacus")
    results, samples = write_lmms_eval(done)
    # load_baseline: the results lie beside the samples, under the same date.
    before, task = samples.name.removesuffix(".jsonl").split("_samples_")
    assert results == samples.with_name(f"{before}_results.json")
    assert re.fullmatch(r"\d{8}_\d{6}", before) and results.parent.name == "org__abacus"
    assert re.fullmatch(r"\w+", task)
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {s["doc_id"]: score_of(s) for s in found} == {
        i: row.score for i, row in enumerate(done.rows)
    }
    for sample, row in zip(found, done.rows, strict=True):
        assert sample["filtered_resps"] == [row.said] and "resps" not in sample
        assert sample["input"] == row.prompt and isinstance(sample["target"], str)
        assert re.fullmatch("[0-9a-f]{64}", sample["doc_hash"])
    assert len({s["doc_hash"] for s in found}) == len(found)
    told = json.loads(results.read_text())
    # make_table takes "metric,filter" keys; LogRunSummary model_name, tasks, n-samples, config.
    metrics = told["results"][task]
    assert metrics.pop("alias") == task
    assert metrics["accuracy,none"] == done.measures["accuracy"].value
    p = metrics["accuracy,none"]
    assert metrics["accuracy_stderr,none"] == pytest.approx((p * (1 - p) / 39) ** 0.5)
    assert all(key.count(",") == 1 for key in metrics)
    assert told["n-samples"][task] == {"original": 40, "effective": 40}
    assert isinstance(told["config"], dict) and told["model_name"] == "org/abacus"
    assert told["n-shot"] == {task: 0} and told["higher_is_better"] == {task: {"accuracy": True}}


def test_an_unchanged_question_keeps_its_hash_and_another_gets_its_own(tmp_path):
    def hashes(name, **options):
        path = write_lmms_eval(finished(tmp_path / name, name, **options))[1]
        return [json.loads(line)["doc_hash"] for line in path.read_text().splitlines()]

    assert hashes("a") == hashes("b", wrong=2)
    assert hashes("a") != hashes("c", n=39)


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b/../../..", "x\0y", "/etc", "n" * 400])
def test_a_name_never_leaves_the_folder(tmp_path, name):
    done = finished(tmp_path / "run")
    done.config["model"]["name"] = done.config["suite"]["name"] = name
    for path in (*write_vlmevalkit(done), *write_lmms_eval(done)):
        assert path.resolve().is_relative_to((tmp_path / "run").resolve())
        assert path.exists()
    assert "/" not in file_name(name)
