"""CLIP score, caption checks, contamination and hard negatives, each against an oracle of its own."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from labs.data.quality import (
    Finder,
    caption_problems,
    clip_scores,
    contamination,
    count_objects,
    keep_best,
)
from labs.data.quality.contamination import COMMON
from labs.errors import InputError
from labs.formats import Conversation, Turn, parse_conversation
from labs.formats.text_signs import words
from labs.models.loading import load_clip
from labs.shapes import add_partner, make_record, mentions, seeded
from labs.shapes.vocabulary import KINDS, PARTNER, SYNONYMS
from labs.suites.retrieval import embed_images, embed_texts

# CLIP score


@pytest.fixture(scope="module")
def clip():
    model, processor = load_clip("tiny-clip")
    return model.eval(), processor


def captioned(count, language="en"):
    records = [make_record("caption", i, "test", language) for i in range(count)]
    return records, [(r["image"], r["conversations"][1]["value"]) for r in records]


def test_scores_are_the_cosines_of_the_suite_whatever_the_batch(clip):
    _, pairs = captioned(30)
    wanted = embed_images(*clip, [i for i, _ in pairs]) * embed_texts(*clip, [t for _, t in pairs])
    done = []
    for size in (1, 7, 64):
        scores = clip_scores(*clip, iter(pairs), batch_size=size, progress=done.append)
        np.testing.assert_allclose(scores, wanted.sum(-1), atol=2e-5)
    assert done == [*range(1, 31), 7, 14, 21, 28, 30, 30]
    assert clip_scores(*clip, []) == []


def test_a_path_scores_as_its_picture(clip, tmp_path):
    _, pairs = captioned(3)
    paths = []
    for number, (image, text) in enumerate(pairs):
        image.save(tmp_path / f"{number}.png")
        paths.append((str(tmp_path / f"{number}.png"), text))
    assert clip_scores(*clip, paths) == clip_scores(*clip, pairs)
    with pytest.raises(InputError, match="does not exist"):
        clip_scores(*clip, [(str(tmp_path / "none.png"), "a ring")])


def test_wrong_captions_score_below_right_ones(clip):
    """Swapped captions, and captions with one object too many (the disease of real ones)."""
    records, pairs = captioned(150)
    right = np.array(clip_scores(*clip, pairs))
    swapped = [(image, pairs[k - 1][1]) for k, (image, _) in enumerate(pairs)]
    wrong = np.array(clip_scores(*clip, swapped))
    assert np.mean(right[:, None] > wrong[None]) > 0.99
    extended, before = [], []
    for number, record in enumerate(records):
        scene, (qa,) = record["meta"]["scene"], record["meta"]["turns"]
        longer = add_partner(seeded("partner", number), scene, "en", qa)
        if longer != qa:
            extended.append((record["image"], longer.answer))
            before.append(right[number])
    assert len(before) > 50
    after = np.array(clip_scores(*clip, extended))
    assert np.mean(after < np.array(before)) > 0.95


def tiny_tokenizer(**names):
    words = ["<pad>", "<end>", "a", "red", "blue", "ring", "star", "large", "small"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


class Pairing:
    """What a Transformers processor is to `clip_scores`: a tokenizer and an image processor."""

    def __init__(self, image_processor, tokenizer):
        self.image_processor, self.tokenizer = image_processor, tokenizer


SMALL = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TEXTS = ["a red ring", "star", "a large blue star a small red ring", "red " * 50]


def test_siglip_scores_are_those_of_its_own_forward_pass():
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 9, "max_position_embeddings": 16, "projection_size": 32}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = SiglipConfig(text_config=text, vision_config=vision)
    model = SiglipModel(config).eval()
    tokenizer = tiny_tokenizer(pad_token="<pad>", eos_token="<end>")
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pictures = [Image.effect_noise((40, 30), 20 + 30 * k).convert("RGB") for k in range(4)]
    with torch.inference_mode():
        ids = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True)["input_ids"]
        out = model(
            input_ids=torch.tensor(ids), **images(pictures, return_tensors="pt").to(model.device)
        )
        cosines = (out.logits_per_image - model.logit_bias) / model.logit_scale.exp()
    scores = clip_scores(
        model, Pairing(images, tokenizer), zip(pictures, TEXTS, strict=True), batch_size=3
    )
    np.testing.assert_allclose(scores, cosines.diagonal(), atol=1e-5)


def test_clip_texts_end_with_one_end_token_also_where_they_are_cut():
    """The pooled token: appended where the tokenizer writes none, not doubled where it does."""
    torch.manual_seed(0)
    text = {
        **SMALL,
        "vocab_size": 9,
        "max_position_embeddings": 16,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = CLIPModel(config).eval()
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    tokenizer = tiny_tokenizer(pad_token="<pad>", eos_token="<end>")
    picture = Image.effect_noise((32, 32), 50).convert("RGB")
    rows = [[*tokenizer(t)["input_ids"][:15], 1] for t in TEXTS]
    wanted = []
    with torch.inference_mode():
        pixels = images([picture], return_tensors="pt")["pixel_values"]
        for row in rows:
            out = model(input_ids=torch.tensor([row]), pixel_values=pixels)
            wanted.append((out.logits_per_image / model.logit_scale.exp()).item())
    pairs = [(picture, text) for text in TEXTS]
    np.testing.assert_allclose(
        clip_scores(model, Pairing(images, tokenizer), pairs), wanted, atol=1e-5
    )
    with_end = [(picture, " ".join(text.split()[:15]) + " <end>") for text in TEXTS]
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    np.testing.assert_allclose(
        clip_scores(model, Pairing(images, tokenizer), with_end), wanted, atol=1e-5
    )


def test_a_model_that_is_no_dual_encoder_is_refused(tiny):
    model, processor = tiny
    with pytest.raises(InputError, match="no dual encoder"):
        clip_scores(model, processor, [(Image.new("RGB", (48, 48)), "a ring")])


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1) | st.just(math.nan), max_size=40),
    st.floats(-1, 1) | st.none(),
    st.floats(0.01, 1),
)
def test_a_filter_keeps_the_best(scores, threshold, share):
    kept = (
        keep_best(scores, threshold=threshold)
        if threshold is not None
        else keep_best(scores, share=share)
    )
    assert sorted([*kept.indices, *kept.dropped]) == list(range(len(scores)))
    assert list(kept.indices) == sorted(kept.indices)
    best = [scores[i] for i in kept.indices]
    worst = [scores[i] for i in kept.dropped if not math.isnan(scores[i])]
    assert not any(map(math.isnan, best))
    assert worst == sorted(worst)
    assert not best or not worst or min(best) >= max(worst)
    if threshold is not None:
        assert all(s >= threshold for s in best) and all(s < threshold for s in worst)
    else:
        usable = sum(not math.isnan(s) for s in scores)
        assert len(best) == min(usable, round(share * len(scores)))
    assert not best or kept.threshold == min(best)


def test_ties_go_to_the_earlier_sample_and_the_share_is_told():
    kept = keep_best([0.5, 0.9, 0.5, 0.5], share=0.5)
    assert kept.indices == (0, 1) and kept.threshold == 0.5 and kept.share == 0.5
    for wrong in ({}, {"threshold": 0.1, "share": 0.3}, {"share": 0}, {"share": 30}):
        with pytest.raises(InputError):
            keep_best([0.1], **wrong)


# Captions


@pytest.mark.parametrize(
    "text, problems",
    [
        ("a large red ring at the top left.", []),
        ("左上角有一个大红色圆环。", []),
        ("红色圆环", []),
        ("   ", ["empty"]),
        ("ring", ["too_short"]),
        ("圆环", ["too_short"]),
        ("a b", ["too_short"]),
        ("IMG_2041.JPG", ["file_name"]),
        ("https://example.com/cat", ["address"]),
        ("<b>a red ring</b>", ["markup"]),
        ("a cat a cat a cat a cat", ["repetition"]),
        ("untitled image", []),
        ("no description available", ["placeholder"]),
        ("cafÃ© by the sea", ["mojibake"]),
        ("a red ring, click to enlarge", ["boilerplate"]),
        ("As an AI language model, I cannot see images.", ["refusal"]),
        ("抱歉，我无法查看图片。", ["refusal"]),
        ("一只狗，版权所有，禁止转载", ["boilerplate"]),
    ],
)
def test_caption_problems(text, problems):
    assert caption_problems(text) == problems


def test_another_script_than_asked_for_is_named():
    assert caption_problems("左上角有一个红色圆环", scripts=["latin"]) == ["other_script"]
    assert caption_problems("left of 左上角有一个红色圆环", scripts=["latin"]) == ["other_script"]
    assert caption_problems("a red ring (圆环) at the top", scripts=["latin"]) == []
    assert caption_problems("a red ring 12", scripts=["han"]) == ["other_script"]
    assert caption_problems("12 + 30 = 42", scripts=["latin"]) == []


# Contamination


def world(task, count, split, language="en"):
    return [parse_conversation(make_record(task, i, split, language)) for i in range(count)]


def renamed(conversation, id, **changes):
    return dataclasses.replace(conversation, id=id, **changes)


def test_the_splits_of_the_world_do_not_leak():
    """Captions made of few words share runs of 13 by chance; nothing else of the splits is shared."""
    for task in ("caption", "existence"):
        train, test = world(task, 150, "train"), world(task, 60, "test")
        report = contamination(train, test)
        assert report.affected("sample", "text", "image") == set(), report.hits
        assert (report.train_samples, report.test_samples) == (150, 60)
        for hit in report.hits["ngram"]:
            heard = " ".join(words(" ".join(turn.text for turn in train[hit.train].turns)))
            assert len(hit.detail.split()) <= 13 and hit.detail in heard


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_kind_of_leak_is_found_and_named(language):
    train = world("caption", 60, "train", language)
    test = world("caption", 20, "test", language)
    louder = Turn("assistant", test[1].turns[1].text.upper() + "!")
    number = (Turn("user", "<image>\nHow many?"), Turn("assistant", "9"))
    leaks = [
        # The same words in other dress, with another picture.
        renamed(test[1], "text", images=train[5].images, turns=(test[1].turns[0], louder)),
        renamed(test[3], "sample"),
        # The same picture, another question; a scaled copy of a picture, another question.
        renamed(test[4], "image", turns=number),
        renamed(test[5], "near", images=(test[5].images[0].resize((96, 96)),), turns=number),
    ]
    report = contamination([*train, *leaks], test)
    names = {kind: [(h.test, h.train_id) for h in hits] for kind, hits in report.hits.items()}
    assert names["sample"] == [(3, "sample")]
    assert names["text"] == [(1, "text"), (3, "sample")]
    assert names["image"] == [(3, "sample"), (4, "image")]
    assert (5, "near") in names["near_image"]
    assert report.counts["image"] == 2
    assert report.affected() >= {1, 3, 4, 5} and report.affected("image") == {3, 4}
    for hits in report.hits.values():
        for hit in hits:
            assert hit.test_id == test[hit.test].id
            assert hit.train_id == [*train, *leaks][hit.train].id


def text_only(id, *texts):
    turns = tuple(Turn("assistant" if k % 2 else "user", text) for k, text in enumerate(texts))
    return Conversation(id, (), turns)


def test_thirteen_words_are_needed_of_a_long_text_and_all_of_a_short_one():
    long = (
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    )
    test = [text_only("t", "Say", long)]
    said = long.split()

    def found(answer):
        return contamination([text_only("a", "Well then", answer)], test).counts["ngram"]

    assert found("and " + " ".join(said[1:14]) + " and") == 1
    assert found("and " + " ".join(said[1:13]) + " and") == 0
    short = [text_only("t", "Who is", "the red king")]
    assert (
        contamination([text_only("a", "x", "so who is the red king of it")], short).counts["ngram"]
        == 1
    )
    assert (
        contamination([text_only("a", "x", "so who is the king of it")], short).counts["ngram"] == 0
    )
    shown = dataclasses.replace(short[0], images=(Image.new("RGB", (9, 9)),))
    assert (
        contamination([text_only("a", "x", "so who is the red king of it")], [shown]).affected()
        == set()
    )
    tiny = [text_only("t", "Who?", "me")]
    report = contamination([text_only("a", "Who?", "me")], tiny)
    assert report.counts == dict.fromkeys(report.counts, 0)


def test_a_phrase_of_many_samples_is_a_template():
    phrase = "answer the question using a single word or phrase and nothing else at all please"
    test = [text_only("t", phrase, "yes")]
    few = [text_only(str(i), f"{phrase} {i}", "no") for i in range(COMMON)]
    assert contamination(few, test).counts["ngram"] == 1
    many = [*few, text_only("more", phrase + " more", "no")]
    assert contamination(many, test).counts["ngram"] == 0


def test_a_merged_conversation_gives_away_its_questions():
    """One conversation of many turns in training holds the one question of the test."""
    record = make_record("dialogue", 3, "test")
    whole = parse_conversation(record)
    first = dataclasses.replace(whole, turns=whole.turns[:2], id="first")
    assert contamination([whole], [first]).counts["sample"] == 1


def test_unreadable_pictures_are_told_and_flat_ones_left_out(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    flat = Image.new("RGB", (48, 48), "white")
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "yes"))
    a = Conversation("a", (str(tmp_path / "bad.png"),), turns)
    b = Conversation("b", (flat,), turns)
    report = contamination([a, b, a], [b])
    assert len(report.unread) == 1 and "bad.png" in report.unread[0]
    assert report.affected() == set()
    assert contamination([a], [a], images=False).unread == []
    with pytest.raises(InputError, match="empty"):
        contamination([a], [])


def test_pictures_by_path_and_by_format_are_the_same_pixels(tmp_path):
    record = make_record("caption", 0, "test")
    conversation = parse_conversation(record)
    record["image"].save(tmp_path / "a.bmp")
    other = Conversation(
        "x", (str(tmp_path / "a.bmp"),), (Turn("user", "<image>\nHm"), Turn("assistant", "ok"))
    )
    report = contamination([other], [conversation])
    assert report.counts["image"] == 1 and report.counts["near_image"] == 0


# Hard negatives


VOCABULARY = {kind: SYNONYMS[kind] for kind in KINDS}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_finder_sees_what_the_oracle_sees(language):
    find = Finder(VOCABULARY)
    for index in range(200):
        text = make_record("caption", index, "train", language)["conversations"][1]["value"]
        assert set(find(text)) == {m.kind for m in mentions(text)}, text


def test_words_are_whole_plural_or_longer_names():
    find = Finder(["truck", "fire truck", "box", "cherry", "bus"])
    assert find("Two trucks and boxes of cherries by a bus") == ["truck", "box", "cherry", "bus"]
    assert find("a fire truck, busy, a boxer") == ["fire truck"]
    assert Finder({"dog": ["dog", "狗"]})("一只狗和一只小狗") == ["dog"]
    with pytest.raises(InputError):
        Finder([])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_captions_alone_give_away_what_goes_together(language):
    """The world's PARTNER table is mined back from its captions by counting."""
    captions = [
        make_record("caption", i, "train", language)["conversations"][1]["value"]
        for i in range(600)
    ]
    counts = count_objects(captions, Finder(VOCABULARY))
    assert counts.pictures == 600
    for kind in KINDS:
        assert counts.absent([kind], 1) == [PARTNER[kind]]
        assert kind not in counts.absent([kind], 10, "popular")


def test_popular_and_adversarial_follow_the_counts():
    counts = count_objects(
        [["a cup and a table", "the chair"], "a table and a cup", "a dog", "a dog", "a dog", "a chair and a cup"],
        Finder(["cup", "table", "chair", "dog"]),
    )  # fmt: skip
    assert counts.single == {"cup": 3, "table": 2, "chair": 2, "dog": 3}
    assert counts.pairs["cup"] == {"table": 2, "chair": 2}
    assert counts.absent(["table"], 2, "popular") == ["cup", "dog"]
    assert counts.absent(["table"], 3, "adversarial") == ["cup", "chair", "dog"]
    assert counts.absent(["cup", "table", "chair", "dog"]) == []
    with pytest.raises(InputError, match="random"):
        counts.absent(["cup"], 1, "random")


def test_a_scene_of_the_world_can_be_asked_about_its_negatives():
    scene = make_record("existence", 1, "test")["meta"]["scene"]
    counts = count_objects(["a ring and a star", "a circle and a square"], Finder(VOCABULARY))
    assert not set(counts.absent(scene.kinds)) & scene.kinds
