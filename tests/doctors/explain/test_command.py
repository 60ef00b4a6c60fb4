"""`oom_doctor.py explain` as a person runs it: another folder, a bare Python, one zipapp."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labs.doctors import zipapp_build
from tests.doctors.explain.rendering import FULL, error, ranked

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "oom_doctor.py"


def run(*arguments, program=TOOL, python=(sys.executable, "-S", "-I"), cwd, stdin=None):
    """-S -I: no installed package and no environment variable can help."""
    return subprocess.run(
        [*python, str(program), *map(str, arguments)],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(ranked(error("2.4", **FULL), 1) + "\n")
    return path


def test_exit_codes_and_texts(log, tmp_path):
    told = run("explain", log.name, cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "line 1, rank 1" in told.stdout
    untold = run("explain", "-", cwd=tmp_path, stdin="RuntimeError: CUDA out of memory.\n")
    assert untold.returncode == 3
    assert "cannot be told" in untold.stdout
    assert "Collect" in untold.stdout
    quiet = run("explain", "-", cwd=tmp_path, stdin="step 1 loss 2.0\n")
    assert quiet.returncode == 4
    assert quiet.stdout.startswith("No out-of-memory found.")
    missing = run("explain", "none.log", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: The log none.log cannot be read")
    assert "Traceback" not in missing.stderr


def test_json_and_page(log, tmp_path):
    told = run("explain", log, "--json", "--html", "report.html", cwd=tmp_path)
    assert json.loads(told.stdout)["findings"][0]["cause"] == "capacity"
    assert "capacity" in (tmp_path / "report.html").read_text()
    refused = run("explain", "none", "--json", cwd=tmp_path)
    assert "cannot be read" in json.loads(refused.stdout)["error"]
    nowhere = run("explain", log, "--html", "none/report.html", cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "cannot be written" in nowhere.stderr


def test_redaction_can_be_turned_off(tmp_path):
    line = "/home/anna/run/train.py: RuntimeError: CUDA out of memory.\n"
    assert "anna" not in run("explain", "-", "--json", cwd=tmp_path, stdin=line).stdout
    assert "anna" in run("explain", "-", "--json", "--no-redact", cwd=tmp_path, stdin=line).stdout


def test_help_and_mistypes(tmp_path):
    shown = run("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for word in ("predict", "run", "watch", "snapshot", "explain", "exit codes", "examples"):
        assert word in shown.stdout
    shown = run("explain", "--help", cwd=tmp_path)
    assert "--no-redact" in shown.stdout
    assert "examples:" in shown.stdout
    near = run("explan", cwd=tmp_path)
    assert near.returncode == 2
    assert "Did you mean `explain`?" in near.stderr
    assert run(cwd=tmp_path).returncode == 0


def test_a_missing_package_of_one_command_is_one_sentence(tmp_path):
    """`predict` cannot work in a bare Python; it must say so, and `explain` must not notice."""
    shown = run("predict", "x", cwd=tmp_path)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr


def test_nothing_outside_the_standard_library_is_imported(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import labs.doctors.memory.commands.explain, labs.doctors.show_html\n"
        "names = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'labs'}))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    found = set(ast.literal_eval(shown.stdout.strip()))
    # What this Python's start-up itself loads (site hooks of the environment) is not ours.
    bare = subprocess.run([sys.executable, "-c", "import sys; print(sorted({n.split('.')[0] for n in sys.modules}))"],
                          cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert found <= set(ast.literal_eval(bare.stdout.strip())), found
    assert "torch" not in found


def explain_files() -> list[Path]:
    """Every file of the repository that `explain` loads."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import labs.doctors.memory.commands.explain, labs.doctors.show_html\n"
        "print('\\n'.join(m.__file__ for n, m in sys.modules.items() if n.startswith('labs')))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return [TOOL, *map(Path, shown.stdout.split())]


def test_the_files_parse_as_python_3_9():
    files = explain_files()
    assert len(files) > 18
    for path in files:
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


def pythons() -> list[str]:
    """This Python, and one of each other version from 3.9 on that is installed and starts."""
    versions = Path.home() / ".pyenv" / "versions"
    found = {}
    for minor in range(9, 16):
        name = f"3.{minor}"
        for path in (shutil.which(f"python{name}"), *versions.glob(f"{name}.*/bin/python")):
            if path and name not in found:
                answer = subprocess.run([path, "-V"], capture_output=True, text=True)
                if answer.returncode == 0 and f" {name}." in answer.stdout:
                    found[name] = str(path)
    return [sys.executable, *found.values()]


def test_one_file_runs_explain_on_every_python_here(log, tmp_path):
    app = zipapp_build.build(TOOL, tmp_path / "dist")
    assert os.access(app, os.X_OK)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = shutil.copy(app, elsewhere / "doctor.pyz")
    for python in pythons():
        shown = run("explain", log, "--html", "page.html", program=copy, python=(python, "-S", "-I"), cwd=elsewhere)  # fmt: skip
        assert shown.returncode == 0, (python, shown.stderr)
        assert "capacity, likely" in shown.stdout
        assert (elsewhere / "page.html").read_text().startswith("<!doctype html>")


def test_the_zipapps_are_built_by_their_command(tmp_path, capsys):
    assert zipapp_build.main([str(tmp_path)]) == 0
    built = sorted(path.name for path in tmp_path.glob("*.pyz"))
    assert built == sorted(f"{path.stem}.pyz" for path in (ROOT / "tools").glob("*.py"))
    assert "KiB" in capsys.readouterr().out
