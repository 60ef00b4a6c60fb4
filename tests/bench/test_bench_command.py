"""`labs bench` and the record it writes."""

import json
import re

import pytest

from labs.bench import BENCHES, load_bench
from labs.bench.record import digest, listed, make_record, write_record
from labs.cli.main import main
from labs.errors import InputError


def test_list_names_every_bench(capsys):
    assert main(["bench", "--list"]) == 0
    table = capsys.readouterr().out
    assert main(["bench", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(BENCHES)
    assert {"sft", "losses", "memory"} <= set(BENCHES)
    assert all(name in table for name in BENCHES)


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_what_the_command_uses(name):
    bench = load_bench(name)
    assert callable(bench.run) and callable(bench.tables)
    assert isinstance(bench.SEED, int)
    assert digest(_paths(bench.CODE)) != digest([])


def _paths(code):
    from labs.bench.children import ROOT

    assert all((ROOT / path).exists() for path in code)
    return [ROOT / path for path in code]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench"], "Name one of: sft, losses"),
        (["bench", "loses"], "Did you mean `losses`"),
        (["bench", "losses", "--output", "no/such/folder/x.json"], "no folder no/such/folder"),
    ],
)
def test_bad_input_is_two_sentences_and_exit_code_2(arguments, said, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert said in errors and "Traceback" not in errors


def test_a_record_says_with_what_it_was_made(tmp_path):
    record = make_record("labs bench x", 7, ["labs/errors.py"], {"answer": 42})
    assert record["command"] == "labs bench x" and record["seed"] == 7
    assert re.fullmatch(r"[0-9a-f]{40}|", record["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["hardware"]["cpu"] and record["hardware"]["cores"] >= 1
    assert {"python", "torch", "transformers"} <= record["versions"].keys()
    write_record(tmp_path / "x.json", record)
    assert json.loads((tmp_path / "x.json").read_text()) == record
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_digest_follows_the_code_as_the_book_counts_it(tmp_path):
    from book.builder.cache import digest as digest_of_the_book

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("a = 1\n")
    before = digest([tmp_path / "code"], tmp_path)
    assert before == digest_of_the_book([tmp_path / "code"], tmp_path)
    (tmp_path / "code" / "a.py").write_text("a = 2\n")
    assert digest([tmp_path / "code"], tmp_path) != before


def test_a_record_lists_the_files_of_a_folder(tmp_path):
    for name in ("b.py", "a.py", "deep/c.py", "__pycache__/a.pyc", "deep/.ipynb_checkpoints/c.py"):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text("a = 1\n")
    (tmp_path / "z.py").write_text("z = 1\n")
    files = ["z.py", "code/a.py", "code/b.py", "code/deep/c.py"]
    # A folder once more, and a file in it, add nothing: each file counts once.
    assert listed(["z.py", "code", "code/deep", "code/b.py"], tmp_path) == files
    record = make_record("labs bench x", 7, ["z.py", "code"], {}, tmp_path)
    assert record["code"] == files
    assert record["code_digest"] == digest([tmp_path / file for file in files], tmp_path)
    # In a list of files alone, the digest is the one that the folders had.
    assert record["code_digest"] == digest([tmp_path / "z.py", tmp_path / "code"], tmp_path)


EXPORTS = """\
\"\"\"What it holds.\"\"\"

import logging

from labs.losses import info_nce

__all__ = ["info_nce"]

logging.getLogger("noisy").setLevel(logging.ERROR)
"""


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ("", False),
        ("import torch\n", False),
        ("logging.captureWarnings(True)\n", False),
        ("EPSILON = 1e-8\n", True),
        ("__all__ = SCALE = 2\n", True),
        ("def f():\n    return 1\n", True),
        ("torch.set_num_threads(1)\n", True),
        ("if True:\n    import torch\n", True),
        ("not python\n", True),
    ],
)
def test_an_init_that_only_exports_is_no_code_of_a_folder(tmp_path, more, kept):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "__init__.py").write_text(EXPORTS + more)
    (tmp_path / "code" / "a.py").write_text(EXPORTS)  # of another name: stays whatever it holds
    files = ["code/__init__.py"] * kept + ["code/a.py"]
    assert listed(["code"], tmp_path) == files
    assert "code/__init__.py" in listed(["code/__init__.py"], tmp_path)


def test_the_packages_here_are_told_apart():
    assert "labs/models/__init__.py" not in listed(["labs/models"])
    assert "labs/recipes/__init__.py" in listed(["labs/recipes"])


@pytest.mark.parametrize("name", ["code/absent.py", "empty"])
def test_code_that_is_not_there_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"no code to measure at {name}"):
        listed([name], tmp_path)


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_record(tmp_path / "x.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
