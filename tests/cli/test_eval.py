"""`labs eval` with the shipped models: asked, gone on with, compared, rated, scored again."""

import json
from pathlib import Path

import pytest

from labs.cli.eval import folder_name
from labs.cli.main import load_command, main
from labs.suites.benchmarks.write_world import write_world


@pytest.fixture
def labs_eval(capsys):
    """Runs `labs eval …`; the exit code, what --json printed, and standard error."""

    def run(*arguments, as_json=True):
        capsys.readouterr()
        code = main(["eval", *map(str, arguments), *(["--json"] if as_json else [])])
        out, error = capsys.readouterr()
        return code, json.loads(out) if as_json and out.strip() else out, error

    return run


def test_a_model_is_asked_two_suites(labs_eval, tmp_path):
    arguments = ("tiny-base", "--suite", "existence", "--suite", "counting", "--n", 6,
                 "--output", tmp_path, "--device", "cpu")  # fmt: skip
    code, told, _ = labs_eval(*arguments)
    assert code == 0 and told["model"] == "tiny-base"
    assert [run["scores"]["suite"] for run in told["runs"]] == ["existence", "counting"]
    assert all(run["scores"]["n"] == 6 for run in told["runs"])
    rows = [json.loads(x) for x in (tmp_path / "counting/items.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {type(row["said"]) for row in rows} == {str}
    assert list((tmp_path / "counting").glob("vlmevalkit/tiny-base/T*/tiny-base_labs_counting.tsv"))
    assert list((tmp_path / "counting").glob("lmms_eval/tiny-base/*_samples_labs_counting.jsonl"))
    # Again: nothing is asked, the result is the same.
    before = (tmp_path / "counting/items.jsonl").stat().st_mtime_ns
    again = labs_eval(*arguments)
    assert again[:2] == (0, told)
    assert (tmp_path / "counting/items.jsonl").stat().st_mtime_ns == before
    # With other settings it is another run.
    code, refused, error = labs_eval(*arguments, "--n", 4)
    assert code == 2 and "suite.settings.n was 6 and now is 4" in refused["error"]
    assert refused["error"] in error


def test_a_person_sees_scores_with_what_could_not_be_read(labs_eval, tmp_path):
    code, out, _ = labs_eval(
        "tiny-base", "--suite", "choice", "--n", 4, "--output", tmp_path, "--examples", 2,
        "--device", "cpu", as_json=False,
    )  # fmt: skip
    assert code == 0
    assert "unparsed" in out and "(none" in out  # it has never learned letters
    assert out.count("  said    ") == 2 and "  read    none" in out
    assert str(tmp_path) in out.replace("\n", "")


def test_runs_are_compared_and_rated_and_scored_again(labs_eval, tmp_path):
    for model in ("tiny-sft", "tiny-sft-clean"):
        code, _, _ = labs_eval(
            model,
            "--suite",
            "existence",
            "--n",
            40,
            "--output",
            tmp_path / model,
            "--device",
            "cpu",
        )
        assert code == 0
    runs = [tmp_path / "tiny-sft", tmp_path / "tiny-sft-clean"]
    code, told, _ = labs_eval("--compare", *runs, "--examples", 3)
    assert code == 0
    [pair] = told["pairs"]
    assert (pair["first"], pair["second"], pair["n"]) == ("tiny-sft", "tiny-sft-clean", 40)
    scores = [
        [json.loads(x)["score"] for x in (run / "existence/items.jsonl").read_text().splitlines()]
        for run in runs
    ]
    differences = [a - b for a, b in zip(*scores, strict=True)]
    assert pair["difference"] == pytest.approx(sum(differences) / 40)
    assert len(pair["examples"]) == min(3, sum(d != 0 for d in differences))
    code, out, _ = labs_eval("--compare", *runs, as_json=False)
    assert code == 0 and "tiny-sft-clean" in out

    page, plot = tmp_path / "board.html", tmp_path / "board.svg"
    code, board, _ = labs_eval("--leaderboard", *runs, "--html", page, "--plot", plot)
    assert code == 0 and {s["model"] for s in board["standings"]} == {"tiny-sft", "tiny-sft-clean"}
    assert "tiny-sft-clean" in page.read_text() and plot.read_text().lstrip().startswith("<?xml")
    code, refused, _ = labs_eval("--leaderboard", *runs, "--plot", tmp_path / "board.docx")
    assert code == 2 and "board.docx" in refused["error"]

    before = (runs[0] / "existence/items.jsonl").read_bytes()
    code, again, _ = labs_eval("--rescore", runs[0])
    assert code == 0 and again["runs"][0]["scores"]["n"] == 40
    assert (runs[0] / "existence/items.jsonl").read_bytes() == before


def test_a_benchmark_writes_the_files_of_its_own_script(labs_eval, tmp_path):
    files = write_world(tmp_path / "files", n=2)
    code, told, _ = labs_eval(
        "tiny-base",
        "--suite",
        f"pope:{files.pope}",
        "--output",
        tmp_path / "run",
        "--device",
        "cpu",
    )
    assert code == 0 and told["runs"][0]["scores"]["n"] == 6
    place = tmp_path / "run" / folder_name(f"pope:{files.pope}")
    assert len(list((place / "answers").iterdir())) == 3


def rows_of(place):
    return [json.loads(x) for x in (Path(place) / "items.jsonl").read_text().splitlines()]


def test_a_benchmark_with_another_instruction_and_pictures_elsewhere(labs_eval, tmp_path):
    files = write_world(tmp_path / "files", n=2)
    pictures = tmp_path / "pictures"
    files.vqa_images.rename(pictures)
    vqa = ("--suite", f"vqav2:{files.vqa_questions.parent}", "--device", "cpu")
    code, refused, _ = labs_eval("tiny-base", *vqa, "--output", tmp_path / "refused")
    assert code == 2 and "COCO_val2014" in refused["error"]
    options = ("--image-root", pictures, "--instruction", "")
    # A suite that is made here has no such option, and is asked beside it as ever.
    beside = ("--suite", "counting", "--n", 2)
    code, told, _ = labs_eval("tiny-base", *vqa, *options, *beside, "--output", tmp_path / "run")
    assert code == 0
    place = told["runs"][0]["folder"]
    rows = rows_of(place)
    assert rows and all(row["prompt"] == row["about"]["question"] for row in rows)
    code, again, _ = labs_eval("--rescore", place)  # knows both options still
    assert code == 0
    assert again["runs"][0]["scores"]["measures"] == told["runs"][0]["scores"]["measures"]
    code, _, _ = labs_eval("tiny-base", *vqa, "--image-root", pictures, "--output", tmp_path / "b")
    rows = rows_of(tmp_path / "b" / folder_name(vqa[1]))
    assert code == 0 and all("single word or phrase" in row["prompt"] for row in rows)


def test_a_leaderboard_is_written_whole_or_not_at_all(labs_eval, tmp_path):
    runs = [tmp_path / "tiny-sft", tmp_path / "tiny-base"]
    for run in runs:
        labs_eval(run.name, "--suite", "counting", "--n", 4, "--output", run, "--device", "cpu")
    page = tmp_path / "board.html"
    board = ("--leaderboard", *runs)
    code, _, _ = labs_eval(*board, "--html", page, "--plot", tmp_path / "board.docx")
    assert code == 2 and not page.exists()
    code, refused, _ = labs_eval(*board, "--html", page, "--plot", tmp_path)
    assert code == 2 and "is a folder" in refused["error"] and not page.exists()


def test_text_only_and_dual_encoders_are_asked_in_their_own_way(labs_eval, tmp_path):
    code, told, _ = labs_eval(
        "tiny-lm", "--described", "--suite", "counting", "--n", 4, "--output", tmp_path / "lm"
    )
    assert code == 0 and told["model"] == "tiny-lm-described"
    code, told, _ = labs_eval(
        "tiny-clip", "--suite", "choice", "--n", 4, "--output", tmp_path / "c"
    )
    assert code == 0 and told["runs"][0]["scores"]["statuses"] == {"read": 4}
    code, refused, _ = labs_eval(
        "tiny-clip", "--suite", "counting", "--n", 4, "--output", tmp_path / "d"
    )
    assert code == 2 and "can only choose among captions" in refused["error"]
    assert not (tmp_path / "d" / "counting").exists()


def test_ctrl_c_says_how_to_go_on(labs_eval, tmp_path, monkeypatch):
    from labs.suites.chat import ChatAnswerer

    real, calls = ChatAnswerer.answer, []

    def stopped(self, questions, *prepared):
        calls.append(len(questions))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, questions, *prepared)

    arguments = ("tiny-base", "--suite", "counting", "--n", 6, "--batch-size", 2,
                 "--output", tmp_path, "--device", "cpu")  # fmt: skip
    monkeypatch.setattr(ChatAnswerer, "answer", stopped)
    code, _, error = labs_eval(*arguments)
    assert code == 130 and "2 of 6 answers are kept" in error and "Go on with:" in error
    code, told, _ = labs_eval(*arguments)
    assert code == 0 and told["runs"][0]["scores"]["n"] == 6
    assert calls == [2, 2, 2, 2]


def test_suites_are_listed(labs_eval):
    code, rows, _ = labs_eval("--list")
    assert code == 0 and {"existence", "captions", "pope", "mmbench"} <= {r["name"] for r in rows}
    code, out, _ = labs_eval("--list", as_json=False)
    assert code == 0 and "pope:PATH" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "One model is asked at a time"),
        (("tiny-sft", "tiny-base", "--suite", "counting"), "not 2"),
        (("tiny-sft",), "Which suite?"),
        (("tiny-sft", "--suite", "countng"), "There is no suite 'countng'"),
        (("tiny-sft", "--suite", "counting", "--suite", "counting"), "one folder"),
        (("tiny-sfd", "--suite", "counting"), "no model 'tiny-sfd'"),
        (("--compare",), "--compare needs results"),
        (("--compare", "--rescore", "x"), "exclude each other"),
        (("--compare", "x", "--suite", "counting"), "asks no suite"),
        (("--compare", "nowhere/at/all"), "There is no results folder"),
        (("tiny-sft", "--suite", "counting", "--html", "x.html"), "--leaderboard"),
        (("tiny-sft", "--suite", "counting", "--language", "xx"), "'en' or 'zh'"),
        (("tiny-sft", "--suite", "mme:nowhere"), "There is no MME folder nowhere"),
        (
            ("tiny-sft", "--suite", "counting", "--instruction", ""),
            "--instruction is for benchmarks",
        ),
        (
            ("tiny-sft", "--suite", "counting", "--image-root", "."),
            "--image-root is for benchmarks",
        ),
    ],
)
def test_bad_input_is_two_sentences(labs_eval, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, told, error = labs_eval(*arguments)
    assert code == 2 and words in f"{told['error']} {told['do']}" and told["error"] in error


def test_a_negative_number_of_examples_is_refused(capsys):
    assert main(["eval", "--compare", "x", "--examples", "-1"]) == 2
    assert "--examples" in capsys.readouterr().err


def test_folder_names():
    assert folder_name("existence") == folder_name("existence", "en") == "existence"
    assert folder_name("existence", "zh") == "existence_zh"
    assert folder_name("pope:data/coco_pope_random.json") == "pope_coco_pope_random"
    assert "/" not in folder_name("pope:/..")


def test_help_has_examples(labs_eval, capsys):
    load_command("eval")(["--help"], prog_name="labs eval", standalone_mode=False)
    text = capsys.readouterr().out
    assert "labs eval tiny-sft --suite existence" in text and "--max-new-tokens" in text
