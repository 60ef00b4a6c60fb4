"""Pictures with one text each, in the layouts of Datasets' ImageFolder and of BLIP."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.formats.pairs import ImageText, read_pairs, write_pairs


def written(tmp_path, text, name="metadata.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_image_folder(tmp_path):
    text = '{"file_name": "0001.png", "text": "a red ring"}\n{"file_name": "b/2.png", "text": "两个方块", "source": "x"}\n'
    assert list(read_pairs(written(tmp_path, text))) == [
        ImageText(str(tmp_path / "0001.png"), "a red ring"),
        ImageText(str(tmp_path / "b/2.png"), "两个方块", {"source": "x"}),
    ]


def test_blip(tmp_path):
    """A list; the same picture several times in training, several captions at once in validation."""
    train = '[{"caption": "A woman.", "image": "val2014/a.jpg", "image_id": "coco_522418"}, {"caption": "A cake.", "image": "val2014/a.jpg", "image_id": "coco_522418"}]'
    val = '[{"image": "val2014/a.jpg", "caption": ["A woman.", "A cake."]}]'
    a = [(p.image, p.text) for p in read_pairs(written(tmp_path, train, "train.json"))]
    b = [(p.image, p.text) for p in read_pairs(written(tmp_path, val, "val.json"))]
    assert a == b == [(str(tmp_path / "val2014/a.jpg"), t) for t in ("A woman.", "A cake.")]


def test_conversation(tmp_path):
    (pair,) = read_pairs(written(tmp_path, '{"id": 5, "image": "a.png", "caption": "a ring"}\n'))
    conversation = pair.to_conversation()
    assert conversation.id == "5"
    assert [t.text for t in conversation.turns] == ["<image>\nDescribe the image.", "a ring"]
    assert (
        pair.to_conversation("What is at <image>?").turns[0].text == "What is at <image>?"
    )  # placed by hand


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"text": "t"}, "`image` is missing (there is `text`)"),
        ({"image": "a.png"}, "`text` is missing"),
        ({"image": "a.png", "text": ""}, "`text` must be a text"),
        ({"image": "a.png", "text": 5}, "`text` must be a text"),
        ({"image": ["a.png"], "text": "t"}, "`image` must be a text, not a list"),
        ({"image": "a.png", "caption": []}, "`caption` is an empty list"),
        ({"image": "a.png", "caption": ["x", None]}, "`caption` is missing"),
        ({"image": "a.png", "text": "t", "caption": "c"}, "both `text` and `caption`"),
        ({"image": "a.png", "file_name": "b.png", "text": "t"}, "both `image` and `file_name`"),
        ({"image": "https://example.org/a.png", "text": "t"}, "web address"),
        ({"image": "/a.png", "text": "t"}, "leaves the data folder"),
        ({"id": 1, "image": "a.png", "text": "t"}, "id 1 was used before, at line 1"),
    ],
)
def test_mistakes(tmp_path, record, sentence):
    path = written(tmp_path, '{"id": 1, "image": "a.png", "text": "t"}\n' + json.dumps(record))
    with pytest.raises(InputError) as error:
        list(read_pairs(path))
    assert sentence in str(error.value) and "line 2" in error.value.what


words = st.text(max_size=20).filter(str.strip)
pairs = st.lists(
    st.builds(
        ImageText,
        st.integers(0, 99).map("图/{}.png".format),
        words,
        st.dictionaries(st.sampled_from(["source", "score", "tags"]), st.none() | st.integers() | words | st.lists(words)),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(pairs)
def test_round_trip(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(pairs, folder / "metadata.jsonl")
    back = list(read_pairs(folder / "metadata.jsonl"))
    assert back == [ImageText(str(folder / p.image), p.text, p.meta) for p in pairs]
    write_pairs(back, folder / "again.jsonl")
    assert (folder / "again.jsonl").read_bytes() == (folder / "metadata.jsonl").read_bytes()


def test_datasets_reads_what_was_written(tmp_path):
    """The library whose layout it is, as the oracle."""
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    image = Image.new("RGB", (4, 4), "blue")
    write_pairs([ImageText(image, "蓝")], tmp_path / "set" / "metadata.jsonl")
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert data[0]["text"] == "蓝" and data[0]["image"].getpixel((0, 0)) == (0, 0, 255)


def test_nothing_bad_is_written(tmp_path):
    for bad, sentence in [
        ([], "nothing to write"),
        ([ImageText("a.png", "t", {"caption": "c"})], "`meta` holds `caption`"),
        ([ImageText("a.png", " ")], "must be a text"),
        ([ImageText("a.png", "t", {"id": 1}), ImageText("b.png", "t", {"id": 1})], "id 1 was used"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write_pairs(bad, tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
