"""COCO's caption annotations and results, as published and as written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.formats.coco import (
    CocoCaption,
    CocoImage,
    read_coco,
    read_coco_results,
    write_coco,
    write_coco_results,
)

PUBLIC = {
    "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
    "images": [
        {"license": 3, "file_name": "COCO_val2014_000000391895.jpg", "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg",
         "height": 360, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": 391895},
        {"license": 4, "file_name": "COCO_val2014_000000522418.jpg", "height": 480, "width": 640, "id": 522418},
    ],
    "licenses": [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "x"}],
    "annotations": [
        {"image_id": 522418, "id": 681330, "caption": "A woman cutting a large white sheet cake."},
        {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet on a small moped."},
        {"image_id": 391895, "id": 771687, "caption": "Man riding a motor bike on a dirt road. "},
    ],
}  # fmt: skip


def written(tmp_path, data, name="captions_val2014.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def changed(change):
    data = json.loads(json.dumps(PUBLIC))
    change(data)
    return data


def test_public_layout(tmp_path):
    first, second = read_coco(written(tmp_path, PUBLIC), tmp_path / "val2014")
    assert first.image == str(tmp_path / "val2014" / "COCO_val2014_000000391895.jpg")
    assert (first.id, first.width, first.height, first.meta["license"]) == (391895, 640, 360, 3)
    assert first.captions == (
        CocoCaption(770337, "A man with a red helmet on a small moped."),
        CocoCaption(771687, "Man riding a motor bike on a dirt road. "),
    )
    assert [c.id for c in second.captions] == [681330]


def test_one_conversation_for_each_caption(tmp_path):
    first, _ = read_coco(written(tmp_path, PUBLIC))
    conversations = list(first.to_conversations("What is this?"))
    assert [c.id for c in conversations] == ["770337", "771687"]
    assert conversations[1].turns[0].text == "<image>\nWhat is this?"
    assert conversations[1].turns[1].text == first.captions[1].text
    assert all(c.images == (first.image,) for c in conversations)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("", "zero bytes"),
        ('{"images": [', "line 1: bad JSON"),
        ('{\n"images": [}', "line 2: bad JSON"),
        ([{"image_id": 1, "caption": "x"}], "one JSON object, not a list"),
        ({"images": []}, "`annotations` is missing"),
        ({"annotations": []}, "`images` is missing"),
        ({"images": {}, "annotations": []}, "`images` must be a list of objects"),
        ({"images": 5, "annotations": []}, "`images` must be a list of objects"),
        ({"images": [], "annotations": []}, "not even a picture"),
        (changed(lambda d: d["images"][1].update(id=391895)), "image 2: the image id 391895 was used before, at image 1"),
        (changed(lambda d: d["annotations"][2].update(id=681330)), "annotation 3: the annotation id 681330 was used"),
        (changed(lambda d: d["annotations"][1].update(image_id=5)), "annotation 2: the caption is for image 5"),
        (changed(lambda d: d["annotations"][1].update(caption="")), "annotation 2: `caption` must be a text"),
        (changed(lambda d: d["annotations"][1].pop("caption")), "annotation 2: the field `caption` is missing"),
        (changed(lambda d: d["annotations"].append({"id": 1, "image_id": 522418, "bbox": [], "category_id": 3})), "this is an instances file"),
        (changed(lambda d: d["images"][0].pop("file_name")), "image 1: the field `file_name` is missing"),
        (changed(lambda d: d["images"][0].update(file_name="../a.jpg")), "leaves the data folder"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, data, sentence):
    path = written(tmp_path, data)
    with pytest.raises(InputError) as error:
        list(read_coco(path))
    assert sentence in error.value.what and str(path) in error.value.what


captions = st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=3)
sizes = st.none() | st.integers(1, 5000)


@given(st.lists(st.tuples(captions, sizes, sizes), min_size=1, max_size=4), st.booleans())
def test_round_trip(tmp_path_factory, images, licensed):
    folder = tmp_path_factory.mktemp("coco")
    ids = iter(range(1000))
    records = [
        CocoImage(
            i * 7, f"val/{i}.jpg", tuple(CocoCaption(next(ids), t) for t in texts), width, height,
            {"license": 3} if licensed else {},
        )
        for i, (texts, width, height) in enumerate(images)
    ]  # fmt: skip
    assert write_coco(records, folder / "a.json") == len(records)
    back = list(read_coco(folder / "a.json"))
    assert [b.image for b in back] == [str(folder / r.image) for r in records]
    strip = [CocoImage(b.id, r.image, b.captions, b.width, b.height, b.meta) for b, r in zip(back, records, strict=True)]  # fmt: skip
    assert strip == records


def test_results(tmp_path):
    path = written(tmp_path, '[{"image_id": 391895, "caption": "Man riding."}, {"image_id": 522418, "caption": ""}]')  # fmt: skip
    assert read_coco_results(path) == {391895: "Man riding.", 522418: ""}
    assert write_coco_results(read_coco_results(path), tmp_path / "again.json") == 2
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    for text, sentence in [
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "image_id 1 was used before"),
        ('[{"image_id": 1}]', "`caption` is missing"),
        ('[{"image_id": 1, "caption": 3}]', "`caption` must be a text"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            read_coco_results(written(tmp_path, text))
    with pytest.raises(InputError, match="no caption to write"):
        write_coco_results({}, tmp_path / "none.json")


def test_nothing_bad_is_written(tmp_path):
    image = CocoImage(1, "a.jpg", (CocoCaption(1, "c"),))
    other = CocoImage(2, "b.jpg", (CocoCaption(1, "c"),))
    for bad, sentence in [
        ([], "no picture"),
        ([image, image], "image id 1 was used before"),
        ([image, other], "annotation id 1 was used before"),
        ([CocoImage(1, "a.jpg", (CocoCaption(1, ""),))], "must be a text"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write_coco(bad, tmp_path / "bad.json")
    assert not list(tmp_path.iterdir())
