"""`labs judge` on results folders: the estimate first, then verdicts, a report, a file."""

import json

import pytest

from labs.cli.main import main
from labs.errors import InputError
from labs.suites.judge import side_by_side
from labs.suites.results import read_run
from tests.suites.judge_runs import runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return runs(tmp_path_factory.mktemp("runs"))


def labs_judge(capsys, *arguments):
    """(exit code, standard output, standard error)"""
    code = main(["judge", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_runs_stand_side_by_side(folders):
    together = side_by_side(folders)
    assert together.models == ("good-model", "ghostly-model") and together.suite == "captions"
    pairs = together.pairs()
    said = [{row.id: row.said for row in read_run(folder).rows} for folder in folders]
    assert [(p.first, p.second) for p in pairs] == [(said[0][p.id], said[1][p.id]) for p in pairs]
    assert all(p.images[0].size == (48, 48) and p.scene.objects for p in pairs)
    few = together.pairs(5, seed=1)
    assert len(few) == 5 and {p.id for p in few} <= {p.id for p in pairs}
    assert [p.id for p in few] == [p.id for p in together.pairs(5, seed=1)]
    assert [p.id for p in few] != [p.id for p in together.pairs(5, seed=2)]
    assert len(together.pairs(1000)) == 24


def test_runs_that_cannot_be_compared(folders, tmp_path):
    with pytest.raises(InputError, match="nothing to be compared"):
        side_by_side(folders[:1])
    with pytest.raises(InputError, match="given twice"):
        side_by_side([folders[0], folders[0]])
    [other] = runs(tmp_path, n=12, names=("terse-model",))
    with pytest.raises(InputError, match="different questions"):
        side_by_side([folders[0], other])
    with pytest.raises(InputError, match="--n"):
        side_by_side(folders).pairs(0)


def test_two_runs_of_one_model_are_told_apart_by_their_folders(tmp_path):
    [one], [two] = (runs(tmp_path / name, n=6, names=("good-model",)) for name in "ab")
    names = side_by_side([one, two]).models
    assert len(set(names)) == 2 and all("good-model" in name for name in names)


def test_the_report_as_json_and_the_verdicts_in_a_file(folders, tmp_path, capsys):
    file = tmp_path / "verdicts.jsonl"
    code, out, err = labs_judge(capsys, *folders, "--kind", "oracle", "--output", file, "--json")
    assert code == 0
    found = json.loads(out)
    # Every third caption is the same in both runs; in the others one is true and one has a ghost.
    assert found["counts"]["pairs"] == 24 and found["counts"]["identical"] == 8
    assert found["measures"]["win_rate"]["value"] == pytest.approx((16 + 4) / 24)
    assert (found["first"], found["second"]) == ("good-model", "ghostly-model")
    assert found["estimate"]["calls"] == 0
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 24 and sum(line["winner"] == "first" for line in lines) == 16
    assert "0 calls" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--kind", "claims"),
        ("--kind", "claims", "--by", "f1"),
        ("--kind", "likelihood"),
        ("--kind", "likelihood", "--by", "average"),
        ("--kind", "prompt", "--by", "logits"),
        ("--kind", "prompt", "--by", "logits", "--no-swap", "--language", "zh"),
    ],
)
def test_models_judge(folders, capsys, options):
    code, out, _ = labs_judge(
        capsys, *folders, *options, "--judge", "tiny-base", "--n", 6, "--device", "cpu", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["judge"]["kind"] == options[1] and found["judge"]["model"] == "tiny-base"
    assert found["counts"]["pairs"] == found["measures"]["win_rate"]["n"] == 6
    both = "prompt" in options and "--no-swap" not in options
    assert ("consistency" in found["measures"]) == both
    assert found["estimate"]["calls"] > 0


def test_the_report_for_people(folders, capsys):
    code, out, err = labs_judge(capsys, *folders, "--kind", "oracle")
    assert code == 0
    assert "good-model" in out and "A wins over B" in out and "24 pairs" in err


def test_the_estimate_alone_asks_nothing_more(folders, tmp_path, capsys):
    file = tmp_path / "verdicts.jsonl"
    code, out, _ = labs_judge(
        capsys, *folders, "--kind", "likelihood", "--estimate", "--json", "--output", file,
        "--price-in", 3, "--price-out", 15,
    )  # fmt: skip
    found = json.loads(out)["estimate"]
    assert code == 0 and not file.exists()
    assert found["calls"] == 32 and found["orders"] == 1 and found["seconds"] > 0
    assert found["dollars"] == pytest.approx(3 * found["prompt_tokens"] / 1e6)
    code, out, err = labs_judge(capsys, *folders, "--kind", "likelihood", "--estimate")
    assert code == 0 and out == "" and "32 calls" in err and "tokens to read" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-calls", 31), "32 calls, more than the 31 allowed"),
        (("--price-in", 1e6, "--budget", 5), "more than the budget of $5.00"),
        (("--budget", 5), "without prices"),
        (("--price-in", 1e6), "nobody is there to agree"),
        (("--by", "vibes"), "no --by vibes"),
        (("--language", "zh"), "has no prompt"),
    ],
)
def test_refusals_come_before_the_first_verdict(folders, tmp_path, capsys, options, message):
    file = tmp_path / "verdicts.jsonl"
    code, out, err = labs_judge(
        capsys, *folders, "--kind", "likelihood", "--output", file, *options
    )
    assert code == 2 and message in err and out == "" and not file.exists()


def test_money_within_the_budget_is_spent(folders, capsys):
    options = ("--kind", "likelihood", "--n", 4, "--price-in", 1, "--json")
    for agreed in (("--budget", 1), ("--yes",)):
        code, out, _ = labs_judge(capsys, *folders, *options, *agreed)
        assert code == 0 and json.loads(out)["estimate"]["dollars"] > 0


def test_one_run_or_three_are_refused(folders, capsys):
    for given in (folders[:1], [*folders, folders[0]]):
        code, _, err = labs_judge(capsys, *given)
        assert code == 2 and "Two runs are judged" in err


@pytest.mark.parametrize("model, words", [("tiny-lm", "text-only"), ("tiny-clip", "dual encoder")])
def test_what_sees_or_writes_nothing_cannot_judge(capsys, folders, model, words):
    code, out, err = labs_judge(capsys, *folders, "--judge", model)
    assert code == 2 and words in err and model in err and not out
