"""`data_doctor.py check` as a person runs it: another folder, a bare Python, one zipapp, Ctrl-C."""

import ast
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from labs.cli.main import main as labs_main
from labs.doctors import zipapp_build
from labs.doctors.data.commands.arguments import options_of, parser
from labs.doctors.data.commands.models import ZOO, model_folder
from labs.doctors.data.commands.progress import Progress
from labs.doctors.data.options import Options
from labs.errors import InputError
from tests.doctors.data.sets import clean_set, read_records, record, write_images, write_records
from tests.doctors.explain.test_command import pythons

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "data_doctor.py"
BARE = (sys.executable, "-I", "-S")  # no installed package and no environment variable can help


def run(*arguments, program=TOOL, python=(sys.executable,), cwd, **options):
    return subprocess.run(
        [*python, str(program), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


@pytest.fixture
def broken(tmp_path) -> Path:
    """Twelve samples with their pictures; line 3 has no answer, line 5 shows half a picture."""
    path = clean_set(tmp_path / "data")
    records = read_records(path)
    records[2]["conversations"].pop()
    write_records(path, records)
    half = tmp_path / "data" / "images" / "4.png"
    half.write_bytes(half.read_bytes()[:-40])
    return path


def test_what_a_person_sees(broken, tmp_path):
    told = run("check", "data/train.jsonl", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (1, "")
    lines = told.stdout.splitlines()
    assert lines[0] == "Not fit to train on: 2 kinds of error, found 2 times. 12 samples checked."
    assert "train.jsonl, line 3 (id 0002)" in told.stdout
    assert "train.jsonl, line 5 (id 0004)" in told.stdout
    assert lines[-1] == "  data_doctor.py check data/train.jsonl --fix cleaned"
    assert "\x1b" not in told.stdout
    fixed = run("check", "data/train.jsonl", "--fix", "cleaned", cwd=tmp_path)
    assert fixed.returncode == 1, "the faults are still in what was checked"
    assert "cleaned: 10 samples as they were, 0 mended, 2 removed" in fixed.stdout
    following = fixed.stdout.splitlines()[-1].split()
    assert following[:3] == ["data_doctor.py", "check", "cleaned"]
    again = run(*following[1:], cwd=tmp_path)
    assert (again.returncode, again.stdout.splitlines()[0]) == (
        0,
        "Nothing found. 10 samples checked.",
    )


def test_json_is_all_there_is(broken, tmp_path):
    told = run("check", broken, "--json", "--html", "page.html", "--fix", "out", cwd=tmp_path)
    report = json.loads(told.stdout)
    assert report["schema"] == "data-doctor/1"
    assert [f["kind"] for f in report["findings"]] == ["no_answer", "truncated_image"]
    assert report["fixed"]["removed"] == 2
    assert str(tmp_path) not in told.stdout, "a folder of this machine"
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    assert str(tmp_path) not in page
    open_ = run("check", broken, "--json", "--fix", "out2", "--no-redact", cwd=tmp_path / "data")
    assert json.loads(open_.stdout)["fixed"]["image_root"] == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("faults", "level", "code"),
    [
        (["no_answer"], "error", 1), (["no_answer"], "never", 0), (["duplicate"], "error", 0),
        (["duplicate"], "warning", 1), ([], "warning", 0),
    ],
)  # fmt: skip
def test_exit_codes(tmp_path, faults, level, code, capsys):
    records = read_records(clean_set(tmp_path, 4))
    if "no_answer" in faults:
        records[0]["conversations"].pop()
    if "duplicate" in faults:
        records.append(records[1])
    path = write_records(tmp_path / "a.json", records)
    (tmp_path / "train.jsonl").unlink()
    assert labs_main(["data", "check", str(path), "--no-images", "--fail-on", level]) == code
    capsys.readouterr()


BAD = {
    "nothing there": (["none.json"], "There is no file or folder none.json."),
    "empty folder": (["empty"], "holds no data file"),
    "no format": (["unknown.json"], "no format that is known"),
    "no model": (["a.json", "--model", "./none"], "There is no model folder ./none"),
    "no zoo model": (["a.json", "--model", "tiny-sfft"], "There is no model folder tiny-sfft"),
    "no model in it": (["a.json", "--clip", "empty"], "holds no model"),
    "out exists": (["a.json", "--fix", "full"], "is not empty"),
    "out is the input": (["a.json", "--fix", "a.json"], "exists already"),
    "no image root": (["a.json", "--image-root", "none"], "There is no folder none"),
    "no against": (["a.json", "--against", "none"], "There is no file or folder none"),
    "unknown option": (["a.json", "--htlm", "x.html"], "Did you mean --html?"),
    "abbreviation": (["a.json", "--no-im"], "Did you mean --no-images?"),
    "two paths": (["a.json", "unknown.json"], "unknown.json"),
    "no number": (["a.json", "--max-pixels", "many"], "invalid whole number"),
    "nought": (["a.json", "--workers", "0"], "less than 1"),
    "no path": ([], "required: PATH"),
    "a limit alone": (["a.json", "--max-length", "512"], "--model"),
    "a way of nothing": (["a.json", "--copy-images"], "--fix"),
    "page nowhere": (["a.json", "--html", "none/page.html"], "cannot be written"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    write_records(folder / "a.json", [record(i) for i in range(2)])
    write_records(folder / "unknown.json", [{"a": 1}, {"b": 2}])
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_two_sentences(case, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    arguments, said = BAD[case]
    before = sorted(place.rglob("*"))
    assert labs_main(["data", "check", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    first, second = shown.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("       ")
    assert sorted(place.rglob("*")) == before
    assert labs_main(["data", "check", *arguments, "--json"]) == 2
    assert set(json.loads(capsys.readouterr().out)) == {"error", "do"}


def test_the_tool_says_the_same_as_labs(place):
    for arguments, said in (BAD["unknown option"], BAD["nothing there"]):
        shown = run("check", *arguments, cwd=place)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert said in shown.stderr
        assert "Traceback" not in shown.stderr
    shown = run("chekc", "a.json", cwd=place)
    assert (shown.returncode, "Did you mean `check`?" in shown.stderr) == (2, True)
    shown = run("a.json", cwd=place)
    assert "data_doctor.py check a.json" in shown.stderr


def test_help(capsys, tmp_path):
    assert run(cwd=tmp_path).stdout == run("--help", cwd=tmp_path).stdout
    helped = run("check", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    options = set(re.findall(r"--[a-z-]+", "".join(parser("x").format_help())))
    assert len(options) > 20
    with pytest.raises(SystemExit) as left:
        labs_main(["data", "check", "--help"])
    assert left.value.code in (0, None)
    shown = capsys.readouterr().out
    for text in (helped.stdout, shown):
        for word in (*options, "examples:", "exit codes:", "130"):
            assert word in text
    assert "labs data check train.json --fix" in shown
    assert labs_main(["data", "--help"]) == 0
    assert "check" in capsys.readouterr().out


def test_every_option_reaches_the_check(tmp_path):
    (tmp_path / "images").mkdir()
    path = write_records(tmp_path / "a.json", [record(0)])
    words = (
        f"{path} --against {tmp_path} --against {path} --image-root {tmp_path / 'images'} --model tiny-sft "
        "--max-length 2,048 --clip tiny-clip --clip-threshold -0.1 --no-images --no-near-duplicates "
        "--max-pixels 1_000 --seconds 2.5 --memory 99 --workers 3 --examples 4 --follow-links"
    )
    given = parser("x").parse(words.split())
    assert options_of(given) == Options(
        path, (tmp_path, path), tmp_path / "images", str(ZOO / "tiny-sft"), 2048, False, False,
        str(ZOO / "tiny-clip"), -0.1, 1000, 2.5, 99, 3, examples=4, follow_links=True,
    )  # fmt: skip
    assert options_of(parser("x").parse([str(path)])) == Options(path)


def test_model_names(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    assert model_folder(str(tmp_path / "model"), "--model") == str(tmp_path / "model")
    assert model_folder("Qwen/Qwen2-VL-2B-Instruct", "--model") == "Qwen/Qwen2-VL-2B-Instruct"
    assert model_folder("tiny-clip", "--clip") == str(ZOO / "tiny-clip")
    for name in ("tiny-nothing", "../weights", "a/b/c", str(tmp_path / "model" / "tokenizer.json")):
        with pytest.raises(InputError, match="--model"):
            model_folder(name, "--model")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_and_in_a_log(monkeypatch):
    log = io.StringIO()
    with Progress(log) as progress:
        for done in range(5):
            progress("images", done, 5)
        assert log.getvalue() == "", "a quick check says nothing"
        progress.last -= 60
        progress("images", 4_000, 5_000)
        progress("images", 4_001, 5_000)
    assert log.getvalue() == "images: 4,000 of 5,000\n"
    drawn = Terminal()
    with Progress(drawn) as progress:
        progress("text", 1, 2)
        progress("images", 1, 7)
        progress.last -= 60
        progress("images", 7, 7)
    assert "images" in drawn.getvalue()
    assert "7/7" in drawn.getvalue()


def test_colours_on_a_terminal_only(broken, monkeypatch):
    from labs.doctors.data.check import check
    from labs.doctors.data.report import terminal

    report = check(Options(broken, workers=1))
    drawn, plain = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    command = "data_doctor.py check " + "a/very/long/path" * 10
    terminal.show(report, command, drawn)
    terminal.show(report, command, plain)
    assert "\x1b[" in drawn.getvalue()
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", drawn.getvalue())
    assert [line.rstrip() for line in stripped.splitlines()] == plain.getvalue().splitlines()


def children_of(mark: str) -> list[int]:
    """Processes that carry the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("stage", ["text", "images"])
def test_ctrl_c_ends_it_and_its_children(tmp_path, stage):
    mark = f"LABS_MARK_{os.getpid()}_{stage}"
    write_images(tmp_path, range(40))
    count = 120_000 if stage == "text" else 4_000
    line = json.dumps(record(0, turns=3))
    with open(tmp_path / "train.jsonl", "w") as file:
        for i in range(count):
            file.write(line.replace('"0000"', f'"{i}"').replace("/0.png", f"/{i % 40}.png") + "\n")
    for i in range(40, 4_000 if stage == "images" else 40):
        os.link(tmp_path / "images" / f"{i % 40}.png", tmp_path / "images" / f"{i}.png")
    if stage == "images":
        write_records(tmp_path / "train.jsonl", (record(i) for i in range(4_000)))
    child = subprocess.Popen(
        [sys.executable, str(TOOL), "check", "train.jsonl", "--workers", "2", "--fix", "out"],
        cwd=tmp_path, env={**os.environ, mark: "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    wanted = {"text": b"reading", "images": b"images.child"}[stage]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        others = [pid for pid in children_of(mark) if pid != child.pid]
        lines = [_command(pid) for pid in others]
        if any(wanted in line for line in lines):
            break
        assert child.poll() is None, (child.communicate(), lines)
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)  # as the terminal does, to the whole group
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert (out, err) == (b"", b"")
    deadline = time.monotonic() + 5
    while children_of(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(mark) == []
    assert not (tmp_path / "out").exists()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_nothing_outside_the_standard_library_is_imported(tmp_path):
    """Of text: a bare Python is enough, and says what it could not look at."""
    path = clean_set(tmp_path, 3)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from labs.doctors.data.commands.check import run\n"
        f"run([{str(path)!r}, '--no-images', '--workers', '1', '--fix', 'out'], 'x')\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'labs'}))\n"
        "print([m.__file__ for n, m in sorted(sys.modules.items()) if n.startswith('labs')])"
    )
    shown = run("-c", program, program="-I", python=(sys.executable, "-S"), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    *_, found, files = shown.stdout.splitlines()
    assert set(ast.literal_eval(found)) <= {"__main__"}
    files = [Path(name) for name in ast.literal_eval(files) if name]
    assert len(files) > 40
    for path in [*files, TOOL]:
        tree = ast.parse(path.read_text(), str(path), feature_version=(3, 9))
        future = any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body
        )
        unions = [
            node for node in ast.walk(tree)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
            and isinstance(node.right, ast.Constant) and node.right.value is None
        ]  # fmt: skip
        assert future or not unions, path


def test_one_file_runs_on_every_python_here(broken, tmp_path):
    app = zipapp_build.build(TOOL, tmp_path / "dist")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = shutil.copy(app, elsewhere / "doctor.pyz")
    for number, python in enumerate(pythons()):
        options = () if number % 2 else ("--no-images",)
        shown = run(
            "check", broken, "--html", "page.html", "--fix", f"out{number}", "--workers", 2, *options,
            program=copy, python=(python, "-I", "-S"), cwd=elsewhere,
        )  # fmt: skip
        assert shown.returncode == 1, (python, shown.stderr)
        assert "train.jsonl, line 3 (id 0002)" in shown.stdout
        why = "Pillow is not installed" if number % 2 else "--no-images was given"
        assert why in shown.stdout
        assert "A second look finds no error in it." in shown.stdout
        assert (elsewhere / "page.html").read_text().startswith("<!doctype html>")
        written = elsewhere / f"out{number}" / "train.jsonl"
        lines = broken.read_bytes().splitlines(keepends=True)
        assert written.read_bytes() == b"".join(lines[:2] + lines[3:])


def test_a_reader_that_has_left_is_no_error(broken, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)  # `… | true`: every write fails
    shown = subprocess.run(
        [sys.executable, TOOL, "check", broken, "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    os.close(writing)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_an_old_locale_loses_letters_not_the_report(tmp_path):
    records = [record(i) for i in range(2)]
    records[0]["id"] = "编号"
    records[0]["conversations"].pop()
    write_records(tmp_path / "a.jsonl", records)
    shown = run(
        "check", "a.jsonl", "--no-images", cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
    )  # fmt: skip
    assert shown.returncode == 1
    assert "(id ??)" in shown.stdout


def test_links_out_of_the_folder_are_followed_only_on_demand(tmp_path):
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    elsewhere.mkdir()
    Image.new("RGB", (48, 48), "red").save(elsewhere / "a.png")
    data.mkdir()
    (data / "images").symlink_to(elsewhere)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    rows = [{"id": "1", "image": "images/a.png", "conversations": turns}]
    (data / "train.json").write_text(json.dumps(rows))
    refused = run("check", data / "train.json", cwd=tmp_path)
    assert refused.returncode == 1 and "--follow-links" in refused.stdout
    assert run("check", data / "train.json", "--follow-links", cwd=tmp_path).returncode == 0
