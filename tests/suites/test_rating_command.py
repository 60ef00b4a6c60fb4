"""`labs rate`: sheets from results folders, votes back to a table, JSON and preferences."""

import json

import pytest

from labs.cli.main import main
from labs.formats import read_preferences
from labs.suites.rating import read_key, simulated_votes
from tests.suites.judge_runs import runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    names = ("good-model", "ghostly-model", "terse-model")
    return runs(tmp_path_factory.mktemp("runs"), names=names)


def better(comparison):
    """good-model is right; of the other two neither."""
    models = comparison["models"]
    if "good-model" not in models:
        return "both_bad"
    return "first" if models[0] == "good-model" else "second"


def test_from_runs_to_preferences(folders, tmp_path, capsys):
    out = tmp_path / "rating"
    arguments = ["rate", "sheet", *map(str, folders), "--n", "18", "--raters", "2", "--gold", "2"]
    assert main([*arguments, "--output", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["items"] == [20, 20] and made["comparisons"] == 18 and made["gold"] == 2
    assert made["left_out"]["identical"] == 8, "every third caption is the same in two runs"
    assert [p.name for p in sorted(out.glob("*.html"))] == ["rater-1.html", "rater-2.html"]
    key = read_key(out / "key.json")
    assert key.models == ("good-model", "ghostly-model", "terse-model")
    files = []
    for number, sheet in enumerate(key.sheets):
        path = tmp_path / f"votes-{number}.json"
        votes = simulated_votes(key, sheet, better, accuracy=1.0)
        path.write_text(json.dumps(votes), encoding="utf-8")
        files.append(str(path))

    target = tmp_path / "preferences.jsonl"
    read = ["rate", "read", *files, "--key", str(out / "key.json"), "--preferences", str(target)]
    assert main([*read, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measures"]["alpha"]["value"] == 1.0
    assert next(iter(found["ratings"])) == "good-model"
    assert found["preferences"] == {"written": 12, "left_out": {"both_bad": 6}}
    assert {pair.meta["chosen_model"] for pair in read_preferences(target)} == {"good-model"}
    assert [r["gold"] for r in found["raters"]] == [[2, 2], [2, 2]]

    assert main(read) == 0
    shown = capsys.readouterr().out
    for words in ("good-model better", "Krippendorff", "Bradley-Terry", "rater-2", "2 of 2"):
        assert words in shown
    assert "12 preference pairs" in shown

    assert main(["rate", "read", files[0], "--key", str(out / "key.json")]) == 0
    shown = capsys.readouterr().out
    assert "no file of rater-2" in shown and "votes not shared" in " ".join(shown.split())


def test_the_summary_for_people(folders, tmp_path, capsys):
    out = str(tmp_path / "rating")
    arguments = ["rate", "sheet", *map(str, folders[:2]), "--n", "10", "--output", out]
    assert main([*arguments, "--overlap", "2", "--language", "zh"]) == 0
    shown = capsys.readouterr().out
    assert "15 comparisons and 0 checks for 3 raters" in shown and "rater-3.html" in shown
    assert "key.json" in shown
    assert main([*arguments, "--seed", "1"]) == 2
    assert "key of other sheets" in capsys.readouterr().err


def test_bad_input_is_two_sentences(folders, tmp_path, capsys):
    assert main(["rate", "sheet", str(folders[0]), "--output", str(tmp_path / "x")]) == 2
    assert "nothing to be compared" in capsys.readouterr().err
    assert main(["rate", "read", str(tmp_path / "no.json"), "--key", str(tmp_path / "k.json")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_help_tells_the_commands_in_whole_sentences(capsys):
    main(["rate", "--help"])
    out = capsys.readouterr().out
    assert "one a rater." in out and "win rates, ratings." in out
