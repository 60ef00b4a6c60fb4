"""`labs data tokens`: the table, the JSON, and what it says of bad input."""

import json

import pytest
from PIL import Image

from labs.cli.main import main
from labs.models.resolution import FAMILIES, family


@pytest.fixture
def told(capsys):
    """The JSON that the command prints."""

    def run(*arguments) -> dict:
        assert main(["data", "tokens", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_a_size_costs_what_the_functions_say(told):
    answer = told("--size", "1344x896", "--context", 1000)
    [picture] = answer["pictures"]
    assert (picture["width"], picture["height"]) == (1344, 896)
    assert [row["family"] for row in picture["families"]] == [f.title for f in FAMILIES.values()]
    for row, one in zip(picture["families"], FAMILIES.values(), strict=True):
        cut = one.cut((896, 1344))
        assert (row["tokens"], row["markers"]) == (cut.tokens, cut.markers)
        assert row["share"] == (cut.tokens + cut.markers) / 1000
        assert row["resized"] == [cut.picture[1], cut.picture[0]]
        assert row["tiles"] == list(cut.tiles)


def test_files_and_folders_are_measured_the_right_way_up(told, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a phone held upright: 60 x 40 pixels to be shown as 40 x 60
    (tmp_path / "album" / "inner").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "album" / "inner" / "b.jpg", exif=turned)
    Image.new("L", (30, 90)).save(tmp_path / "album" / "a.png")
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    Image.new("RGB", (50, 50)).save(tmp_path / "one.webp")
    answer = told(tmp_path / "album", tmp_path / "one.webp", "--size", "7x9", "--model", "qwen2-vl")
    sizes = [(p["picture"].split("/")[-1], p["width"], p["height"]) for p in answer["pictures"]]
    assert sizes == [("a.png", 30, 90), ("b.jpg", 40, 60), ("one.webp", 50, 50), ("7x9", 7, 9)]


def test_two_names_of_one_family_are_one_row(told):
    answer = told("--size", "640x480", "--model", "internvl2", "--model", "InternVL3")
    assert [row["family"] for row in answer["pictures"][0]["families"]] == ["InternVL2, InternVL3"]


def test_the_table_shows_the_cut_and_the_share(capsys, wide):
    assert main(["data", "tokens", "--size", "640x480", "--model", "llava-next"]) == 0
    out = capsys.readouterr().out
    for part in ("640 x 480", "672 x 504 on 672 x 672", "2 x 2 tiles + overview", "2,340", "57.1%"):
        assert part in out


def test_many_pictures_get_a_line_each_and_their_mean(capsys, wide):
    sizes = ["224x224", "448x448", "1920x1080", "10x4000"]
    options = [part for size in sizes for part in ("--size", size)]
    assert main(["data", "tokens", *options, "--model", "qwen2-vl", "--model", "internvl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("│")[1].strip(): line for line in lines if line.startswith("│")}
    assert set(cells) == {*sizes, "mean", "of 4,096"}
    assert "2,693" in cells["1920x1080"]
    assert "refused" in cells["10x4000"]
    mean = sum(family("qwen2-vl").cut(s).tokens + 2 for s in [(224, 224), (448, 448), (1080, 1920)])
    assert f"{mean / 3:,.0f}" in cells["mean"]


def test_a_family_that_refuses_says_so_beside_the_others(capsys, wide):
    assert main(["data", "tokens", "--size", "10x4000"]) == 0
    out = capsys.readouterr().out
    assert "refused" in out and "200 times" in out and "3,328" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "There is no picture"),
        (["nowhere.png"], "nowhere.png"),
        (["--size", "3"], "'3' is not a width and a height"),
        (["--size", "0x3"], "'0x3'"),
        (["--size", "3x3", "--model", "quen2-vl"], "Did you mean qwen2-vl?"),
        (["--size", "10x4000", "--model", "qwen2-vl", "--model", "qwen3-vl"], "200 times"),
    ],
)
def test_bad_input_is_two_sentences_and_exit_code_two(arguments, named, capsys):
    assert main(["data", "tokens", *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error


def test_an_unreadable_picture_is_named(tmp_path, capsys):
    (tmp_path / "page.png").write_text("<html>not found</html>")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    for name in ("page.png", "half.png"):
        assert main(["data", "tokens", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["data", "tokens", str(tmp_path / "empty")]) == 2
    assert "holds no picture" in capsys.readouterr().err


def test_help_has_an_example_on_a_line_of_its_own(capsys):
    assert main(["data", "tokens", "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "labs data tokens photos/ --json" in lines
