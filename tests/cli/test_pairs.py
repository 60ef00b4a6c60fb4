"""`labs pairs` with the shipped model, and what it tells of a file."""

import json

import pytest

from labs.cli.main import main
from labs.formats import Preference, Turn, read_preferences, write_preferences
from labs.train.policy.world import FilePrompts

WORLD = ("--prompts", "world:8", "--tasks", "caption,existence", "--temperature", "1.3",
         "--max-new-tokens", "64", "--device", "cpu")  # fmt: skip


@pytest.fixture
def pairs(capsys):
    """Runs `labs pairs …`; the exit code, what --json printed, and standard error."""

    def run(*arguments, as_json=True):
        capsys.readouterr()
        code = main(["pairs", *map(str, arguments), *(["--json"] if as_json else [])])
        out, error = capsys.readouterr()
        return code, json.loads(out) if as_json and out.strip() else out, error

    return run


def test_pairs_are_sampled_written_in_both_layouts_and_shown(pairs, tmp_path):
    trl, rlhf = tmp_path / "trl.jsonl", tmp_path / "rlhf.json"
    code, told, _ = pairs(*WORLD, "--noise", 0, "--output", trl)
    assert code == 0 and told["written"] > 0
    written = list(read_preferences(trl))
    assert len(written) == told["written"] == told["report"]["made"] == told["statistics"]["n"]
    assert {p.meta["task"] for p in written} <= {"caption", "existence"}
    assert told["statistics"]["mislabelled"] == 0 and told["statistics"]["useless"] == 0
    # One picture a prompt, however many pairs show it.
    assert len(list((tmp_path / "images").iterdir())) == len({p.images for p in written})
    code, _, _ = pairs(*WORLD, "--noise", 0, "--output", rlhf, "--format", "llava-rlhf")
    assert code == 0 and "output_1" in json.loads(rlhf.read_text())[0]
    assert list(read_preferences(rlhf)) == written
    shown = [pairs("show", path)[1] for path in (trl, rlhf)]
    assert shown == [told["statistics"]] * 2
    code, out, _ = pairs("show", trl, as_json=False)
    assert code == 0 and f"{told['written']}" in out and "share that teaches nothing" in out


def test_corrected_pairs_need_no_answers_of_the_model_but_a_known_picture(pairs, tmp_path):
    output = tmp_path / "pairs.jsonl"
    code, told, _ = pairs(*WORLD, "--noise", 0, "--corrected", 1, "--output", output)
    assert code == 0 and told["written"] == 8
    for pair in read_preferences(output):
        assert pair.chosen == pair.meta["answer"] != pair.rejected
    code, _, error = pairs(
        "--prompts", output, "--corrected", 0.5, "--output", tmp_path / "b.jsonl"
    )
    assert code == 2 and "--corrected" in error


def test_a_files_prompts_are_asked_and_its_pictures_stay(pairs, tmp_path):
    from labs.shapes import Mix
    from labs.train.policy.world import WorldPrompts

    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for i, prompt in enumerate(WorldPrompts(6, Mix(tasks={"conjunction": 1.0}, digits=0))):
        prompt.images[0].save(data / f"{i}.png")
        turns = [{"from": "human", "value": f"<image>\n{prompt.text}"},
                 {"from": "gpt", "value": prompt.answer}]  # fmt: skip
        rows.append({"id": str(i), "image": f"{i}.png", "conversations": turns})
    (data / "prompts.json").write_text(json.dumps(rows))
    output = tmp_path / "out" / "pairs.jsonl"
    arguments = ("--prompts", data / "prompts.json", "--temperature", 3, "--max-new-tokens", 8,
                 "--annotators", 3, "--per-prompt", 1, "--output", output, "--device", "cpu")  # fmt: skip
    code, out, _ = pairs(*arguments, as_json=False)
    assert code == 0 and "--image-root" in out
    written = list(read_preferences(output, data))
    assert written and not (tmp_path / "out" / "images").exists()
    assert {p.images[0] for p in written} <= {str(data / f"{i}.png") for i in range(6)}
    assert all(len(p.meta["votes"]) == 3 for p in written)
    assert len({p.images for p in written}) == len(written)  # one a prompt
    assert FilePrompts(output, data)[0].answer == written[0].meta["answer"]


def test_show_counts_what_truncation_makes_equal(pairs, tmp_path):
    asked = (Turn("user", "Describe."),)
    rows = [Preference("a", (), asked, "a red ring at the top", "a red ring at the left", {}),
            Preference("b", (), asked, "a red ring", "a star", {})]  # fmt: skip
    write_preferences(rows, tmp_path / "p.jsonl")
    assert pairs("show", tmp_path / "p.jsonl")[1]["useless"] == 0
    assert pairs("show", tmp_path / "p.jsonl", "--max-tokens", 3)[1]["truncated"] == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "No file to write"),
        (("--prompts", "world:0", "--output", "x.jsonl"), "names no number"),
        (("--prompts", "none.json", "--output", "x.jsonl"), "does not exist"),
        (("--tasks", "poetry", "--output", "x.jsonl"), "no task 'poetry'"),
        (("--split", "all", "--output", "x.jsonl"), "no split 'all'"),
        (("--temperature", "0", "--output", "x.jsonl"), "give no pairs"),
        (("show", "none.jsonl"), "does not exist"),
        (("show", "none.jsonl", "--model", "tiny-sft"), "--model counts tokens"),
    ],
)
def test_wrong_arguments_are_told_in_two_sentences(pairs, tmp_path, monkeypatch, arguments, match):
    monkeypatch.chdir(tmp_path)
    code, told, error = pairs(*arguments)
    assert code == 2 and match in told["error"] and match in error
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_give_no_pair_are_an_error_with_the_reasons(pairs, tmp_path):
    code, told, _ = pairs("--prompts", "world:1", "--tasks", "existence", "--temperature", 0.01,
                          "--device", "cpu", "--output", tmp_path / "x.jsonl")  # fmt: skip
    assert code == 2 and "6 both answers are the same text" in told["error"]
