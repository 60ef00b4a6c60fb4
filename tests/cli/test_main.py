"""The command line: fast help, two sentences for bad input, exit code 2, nothing else."""

import json
import subprocess
import sys

import pytest

from labs.cli.main import COMMANDS, main


def test_help_lists_every_command_without_importing_torch():
    code = "import sys; from labs.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("False")
    assert all(f"  {name} " in out.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"labs {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat", "eval", "train", "bench"])
def test_each_example_is_a_line_that_can_be_copied(name, capsys):
    assert main([name, "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("Example"))
    examples = lines[start : lines.index("", start)]
    assert len(examples) > 1
    assert all(line.removeprefix("Examples:").strip().startswith("labs ") for line in examples)


def test_a_misspelt_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "'trian'" in error and "labs train" in error and "Traceback" not in error


def test_an_unknown_option_exits_with_two(capsys):
    assert main(["chat", "--imagine", "x"]) == 2
    assert "--imagine" in capsys.readouterr().err


def test_json_errors_are_json_too(capsys):
    assert main(["chat", "--image", "nowhere.png", "--prompt", "x", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert "nowhere.png" in told["error"] and told["do"]


def test_debug_shows_where_it_happened():
    with pytest.raises(Exception, match=r"nowhere\.png"):
        main(["chat", "--image", "nowhere.png", "--prompt", "x", "--debug"])
