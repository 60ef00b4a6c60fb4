"""`labs chat` with the shipped model: pictures it has never seen, folders, turns, bad pictures."""

import json

import pytest

from labs.cli.main import main
from labs.shapes import Object, Scene, render


def chat(capsys, *arguments):
    code = main(["chat", "--model", "tiny-base", "--json", *map(str, arguments)])
    out = capsys.readouterr().out.strip().splitlines()
    return code, [json.loads(line) for line in out]


@pytest.fixture
def picture(tmp_path):
    scene = Scene(
        (Object("ring", "red", "large", 0), Object("square", "blue", "large", 8)), background=240
    )
    path = tmp_path / "scene.png"
    render(scene, 96).save(path)  # not the size it was trained on
    return path


def test_it_answers_about_a_picture_it_has_never_seen(capsys, picture):
    code, [told] = chat(capsys, "--image", picture, "--prompt", "How many objects are there?")
    assert code == 0
    assert told["turns"] == [{"prompt": "How many objects are there?", "answer": "2"}]


def test_turns_go_on_and_a_folder_is_asked_picture_by_picture(capsys, picture):
    render(Scene((Object("star", "green", "large", 4),)), 48).save(picture.with_name("other.png"))
    code, told = chat(
        capsys, "--image", picture.parent,
        "--prompt", "How many objects are there?", "--prompt", "Describe the image.",
    )  # fmt: skip
    assert code == 0
    assert [t["turns"][0]["answer"] for t in told] == ["1", "2"]
    assert "star" in told[0]["turns"][1]["answer"] and "square" in told[1]["turns"][1]["answer"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "LFS"),
        (b"\x89PNG\r\n\x1a\n and then nothing", "scene.png"),
    ],
)
def test_a_broken_picture_is_named(capsys, picture, content, words):
    picture.write_bytes(content)
    code, [told] = chat(capsys, "--image", picture, "--prompt", "x")
    assert code == 2
    assert words in told["error"] + told["do"]


def test_an_empty_folder_and_no_question(capsys, tmp_path, picture):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert chat(capsys, "--image", empty, "--prompt", "x")[0] == 2
    assert chat(capsys, "--image", picture)[0] == 2
