"""CLIP scores against the models' own forward pass, and wrong captions of the world found by them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from labs.doctors.data.sample import Place, Sample
from labs.doctors.data.tokens import check_clip, text_to_score
from labs.doctors.data.tokens.clip import FEWEST
from labs.doctors.data.tokens.clip_model import ClipModel
from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.models.loading import load_clip
from labs.models.places import ZOO
from labs.shapes import make_record
from labs.suites.retrieval import embed_images, embed_texts
from tests.data.conftest import train_bpe
from tests.doctors.data.images_helpers import encoded, picture

COUNT = 200


@pytest.fixture(scope="module")
def tiny():
    return ClipModel(ZOO / "tiny-clip")


@pytest.fixture(scope="module")
def records():
    """(key, picture, caption) of the world, half of them in Chinese."""
    found = []
    for i in range(COUNT):
        record = make_record("caption", i, "test", language=("en", "zh")[i % 2])
        found.append((i, record["image"], record["conversations"][1]["value"]))
    return found


def with_wrong_captions(records, share):
    """The captions of the first `share` moved on by two, so that languages stay."""
    count = round(share * len(records))
    texts = [text for _, _, text in records]
    texts[:count] = texts[2:count] + texts[:2]
    return [(key, image, text) for (key, image, _), text in zip(records, texts, strict=True)], count


def test_the_scores_are_those_of_the_zoos_own_evaluation(tiny, records):
    """Which ends every text with the end token that the text tower pools."""
    model, processor = load_clip("tiny-clip")
    images = embed_images(model, processor, [image for _, image, _ in records])
    texts = embed_texts(model, processor, [text for _, _, text in records])
    report = check_clip(records, tiny)
    assert [key for key, _ in report.scores] == list(range(COUNT))
    scores = torch.tensor([score for _, score in report.scores])
    torch.testing.assert_close(scores, (images * texts).sum(-1), atol=1e-5, rtol=0)


def save_clip(path):
    torch.manual_seed(0)
    tokenizer = train_bpe(
        ["<|startoftext|>", "<|endoftext|>"], bos_token="<|startoftext|>",
        eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=32,
    )  # fmt: skip
    # As CLIP's own tokenizer: the end is written too.
    from tokenizers import processors

    ids = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=ids
    )
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 32,
                     "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return CLIPModel(config), CLIPProcessor(images, tokenizer), {"padding": True}


def save_siglip(path):
    torch.manual_seed(0)
    tokenizer = train_bpe(
        ["<pad>", "</s>"], eos_token="</s>", pad_token="</s>", model_max_length=16
    )
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
                     "projection_size": 32},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    # SigLIP's texts are padded to their full length, as its documentation asks for.
    return SiglipModel(config), SiglipProcessor(images, tokenizer), {"padding": "max_length"}


@pytest.mark.parametrize("make", [save_clip, save_siglip])
def test_the_scores_are_those_of_the_models_own_forward_pass(tmp_path, make):
    model, processor, padding = make(tmp_path)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    texts = ["a red ring", "有两个红色的圆环。", "How many rings are there? " * 9, "A chat"]
    images = [picture(seed, (40 + seed, 50)) for seed in range(len(texts))]
    limit = model.config.text_config.max_position_embeddings
    inputs = processor(
        text=texts, images=images, return_tensors="pt", truncation=True, max_length=limit, **padding
    )
    if make is save_siglip:
        inputs.pop("attention_mask", None)
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits_per_image
        bias = model.logit_bias if hasattr(model, "logit_bias") else 0.0
        oracle = ((logits - bias) / model.logit_scale.exp()).diagonal()
    report = check_clip(list(zip(range(4), images, texts, strict=True)), tmp_path)
    scores = torch.tensor([score for _, score in report.scores])
    torch.testing.assert_close(scores, oracle, atol=1e-5, rtol=0)


def test_wrong_captions_score_lower(tiny, records):
    pairs, count = with_wrong_captions(records, 0.5)
    report = check_clip(pairs, tiny)
    scores = np.array([score for _, score in report.scores])
    assert roc_auc_score(np.arange(COUNT) >= count, scores) > 0.98
    assert np.median(scores[:count]) < 0.3 < 0.9 < np.median(scores[count:])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_the_default_threshold_finds_wrong_captions(tiny, records, share):
    pairs, count = with_wrong_captions(records, share)
    report = check_clip(pairs, tiny)
    found = {key for key, _ in report.problems}
    assert wilson_ci(len(found & set(range(count))), count).high > 0.95
    assert len(found - set(range(count))) <= 1
    assert "95% of" in report.how and "judgement" in report.how
    key, problem = report.problems[0]
    assert problem.kind == "low_clip_score"
    score = dict(report.scores)[key]
    assert problem.detail == f"CLIP score {score:.3f}, threshold {report.threshold:.3f}"


def test_clean_data_has_no_finding(tiny, records):
    report = check_clip(records, tiny)
    assert report.problems == []
    assert report.chance[95] == pytest.approx(report.threshold, abs=0.02)
    assert report.quantiles[0] == min(score for _, score in report.scores)
    assert report.quantiles[50] > 0.9 > 0.3 > report.chance[50]


def test_a_threshold_that_is_given(tiny, records):
    report = check_clip(records[:40], tiny, threshold=0.95)
    low = [key for key, score in report.scores if score < 0.95]
    assert [key for key, _ in report.problems] == low and 0 < len(low) < 40
    assert report.threshold == 0.95 and report.how == "given"


def test_the_same_result_twice_and_in_any_batch(tiny, records):
    first, second = (check_clip(records[:60], tiny, batch=batch) for batch in (60, 60))
    assert first == second
    small = check_clip(records[:60], tiny, batch=7)
    assert [key for key, _ in small.scores] == [key for key, _ in first.scores]
    for (_, a), (_, b) in zip(small.scores, first.scores, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_too_few_pairs_to_know_chance(tiny, records):
    report = check_clip(records[: FEWEST - 1], tiny)
    assert report.threshold is None and report.problems == []
    assert "too few" in report.how and len(report.scores) == FEWEST - 1
    assert check_clip(records[:FEWEST], tiny).threshold is not None
    empty = check_clip([], tiny)
    assert (empty.scores, empty.threshold, empty.quantiles) == ([], None, {})


def test_one_caption_for_all_is_no_measure_of_chance(tiny, records):
    """Texts that are the same are no wrong pairs of each other."""
    same = [(key, image, "a ring.") for key, image, _ in records[:50]]
    report = check_clip(same, tiny)
    assert report.threshold is None and report.chance == {}


def test_pictures_from_files_and_those_that_cannot_be_read(tiny, records, tmp_path):
    pairs, told = [], []
    for key, image, text in records[:30]:
        (tmp_path / f"{key}.png").write_bytes(encoded(image, "PNG"))
        pairs.append((key, str(tmp_path / f"{key}.png"), text))
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "4.png").unlink()
    report = check_clip(pairs, tiny, progress=lambda *progress: told.append(progress), batch=8)
    assert report.unread == 2
    assert [key for key, _ in report.scores] == [k for k in range(30) if k not in (3, 4)]
    assert told == [("clip", 8, 30), ("clip", 16, 30), ("clip", 24, 30), ("clip", 30, 30)]
    memory = dict(check_clip(records[:30], tiny).scores)
    for key, score in report.scores:
        assert score == pytest.approx(memory[key], abs=1e-5)


@pytest.mark.parametrize(
    ("turns", "images", "text"),
    [
        ([("user", "<image>"), ("assistant", " a red ring ")], 1, "a red ring"),
        ([("user", "<image>"), ("assistant", "有两个红色圆环。")], 1, "有两个红色圆环。"),
        ([("user", "<image>\nIs it red?"), ("assistant", "yes")], 1, None),
        ([("user", "<image>\nWhere is it?"), ("assistant", "at the top left")], 1, None),
        ([("user", "<image>\nGive the box."), ("assistant", "[1, 2, 3, 4]")], 1, None),
        (
            [("user", "<image>\nWhy?"), ("assistant", "one two three four five six seven eight")],
            1,
            "one two three four five six seven eight",
        ),
        (
            [
                ("user", "<image>\nIs it red?"),
                ("assistant", "yes"),
                ("user", "Describe the image."),
                ("assistant", "a red ring"),
            ],
            1,
            "a red ring",
        ),
        (
            [("user", "<image>\n描述图片。"), ("assistant", "左上方有红色圆环")],
            1,
            "左上方有红色圆环",
        ),
        ([("user", "<image>\n几个？"), ("assistant", "两个")], 1, None),
        ([("user", "<image><image>"), ("assistant", "a red ring")], 2, None),
        ([("user", "Hello"), ("assistant", "a red ring")], 0, None),
        ([("user", "<image>")], 1, None),
    ],
)
def test_which_texts_are_scored(turns, images, text):
    assert text_to_score(Sample(Place("a"), None, ["x.jpg"] * images, turns)) == text


def test_models_that_are_no_dual_encoders(tmp_path):
    with pytest.raises(InputError, match="side by side"):
        ClipModel(ZOO / "tiny-lm")
    with pytest.raises(InputError, match="No CLIP model"):
        ClipModel(tmp_path)
    with pytest.raises(InputError, match="No CLIP model"):
        ClipModel("nobody/no-such-model")


def test_grey_and_transparent_pictures_are_scored_as_training_sees_them(tiny, records):
    image = records[0][1]
    odd = [
        image.convert("L"),
        Image.merge("RGBA", [*image.split(), Image.new("L", image.size, 90)]),
    ]
    report = check_clip([(i, one, "a large red ring.") for i, one in enumerate(odd)], tiny)
    assert len(report.scores) == 2
