"""The worst batch of a data set that holds one of each trouble."""

import json

import pytest
from PIL import Image

from labs.doctors.memory.forecast.data import estimate_tokens, image_size, worst_batch
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.configs import Source, load_source
from labs.doctors.memory.setup.inputs import make_batch
from labs.errors import InputError


def record(number: int, words: int, image: str | None = None) -> dict:
    ask = "<image>\nWhat is this?" if image else "What is this?"
    made = {
        "id": f"s{number}",
        "conversations": [
            {"from": "human", "value": ask},
            {"from": "gpt", "value": "word " * words},
        ],
    }
    return {**made, "image": image} if image else made


@pytest.fixture
def folder(tmp_path):
    for name, size in {"small": (28, 28), "tall": (28, 110), "large": (120, 120)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    return tmp_path


def data(folder, records) -> str:
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return str(path)


def test_the_longest_sample_meets_those_with_most_to_see(tiny, folder):
    config, _ = tiny("llava_next")
    records = [record(i, 5, "small.png") for i in range(20)]
    records[7] = record(7, 100)  # the longest, without a picture
    records[11] = record(11, 10, "large.png")
    records[12] = record(12, 10, "tall.png")
    worst = worst_batch(data(folder, records), Source("", config, {}, {}), Plan("x", batch=3))
    assert [row.id for row in worst.rows] == ["s7", "s11", "s12"]
    assert worst.lengths["longest"] == worst.rows[0].length > worst.lengths["median"]
    batch = make_batch(config, worst.plan(Plan("x", batch=3)))
    assert batch.lengths == tuple(row.length for row in worst.rows)
    assert batch.visual_tokens == tuple(row.visual_tokens for row in worst.rows)
    assert batch.inputs["input_ids"].shape == (3, worst.rows[0].length)


def test_the_model_s_own_tokenizer_counts(tiny, folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.pre_tokenizers import Whitespace

    assert pre_tokenizers.Whitespace is Whitespace
    tokenizer = Tokenizer(models.WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    model = folder / "model"
    model.mkdir()
    config, _ = tiny("llava")
    config.save_pretrained(model)
    tokenizer.save(str(model / "tokenizer.json"))
    path = data(folder, [record(0, 50)])
    exact = worst_batch(path, load_source(str(model)), Plan("x"))
    # "What is this ?" is four tokens here, fifty words, and six a turn for the template.
    assert (exact.exact, exact.rows[0].length) == (True, 4 + 50 + 2 * 6)
    assert not worst_batch(path, Source("", config, {}, {}), Plan("x")).exact


def test_overlong_samples_are_cut_and_counted(tiny, folder):
    config, _ = tiny("llava")
    path = data(folder, [record(0, 500, "small.png"), record(1, 3)])
    worst = worst_batch(path, Source("", config, {}, {}), Plan("x", sequence_length=64))
    assert (worst.rows[0].length, worst.cut) == (64, 1)


def test_unusable_samples_stop_it_unless_they_are_few_or_allowed(tiny, folder):
    source = Source("", tiny("llava")[0], {}, {})
    records = [record(i, 5) for i in range(300)]
    records[3] = record(3, 5, "gone.png")
    worst = worst_batch(data(folder, records), source, Plan("x"))
    ((reason, (count, example)),) = worst.skipped.items()
    assert (reason, count) == ("an image that is missing or broken", 1)
    assert "record 4" in example and "gone.png" in example
    for i in range(10, 20):
        records[i] = {"id": i, "conversations": []}
    with pytest.raises(InputError, match=r"11 of 300 .* 10 for a broken record") as error:
        worst_batch(data(folder, records), source, Plan("x"))
    assert "--allow-skips" in error.value.do
    assert worst_batch(data(folder, records), source, Plan("x"), allow_skips=True).count == 289


def test_a_picture_with_more_tokens_than_the_sequence_cannot_be_used(tiny, folder):
    source = Source("", tiny("llava_next")[0], {}, {})
    path = data(folder, [record(0, 5, "large.png")])
    with pytest.raises(InputError, match=r"No sample .* 88 visual tokens"):
        worst_batch(path, source, Plan("x", sequence_length=64))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_sizes_are_read_from_headers_alone_and_turned(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn, as phones write it
    Image.effect_noise((400, 200), 50).convert("RGB").save(path, exif=exif)
    content = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) // 2])  # no decoder gets through this
    assert image_size(str(path)) == image_size(str(cut)) == (200, 400)


def test_the_estimate_errs_upwards():
    assert estimate_tokens("a" * 35) == 10
    assert estimate_tokens("图片里有什么") == 8
    assert estimate_tokens("") == 0
