"""Models and pairs off the fast way: pixels of any size, no picture, two, a language model alone."""

import copy
import math

import pytest
import torch
from train_helpers import quiet

from labs.data.encode import encode
from labs.formats import Preference, Turn
from labs.models import build_tiny_lm
from labs.shapes import make_record
from labs.train.preference.config import PreferenceConfig
from labs.train.preference.objective import PreferenceObjective
from labs.train.preference.stored import compute_reference
from labs.train.preference.trainer import train_preference
from tests.models.test_rollout import qwen  # noqa: F401 - a fixture
from tests.train.preference.preference_runs import batch_of, fresh

PICTURES = [make_record("caption", i, "val")["image"] for i in range(3)]


def mixed(pictured=True) -> list[Preference]:
    """Pairs with one, no and two pictures of unequal sizes."""
    shown = [(PICTURES[0].resize((112, 56)),), (), (PICTURES[1], PICTURES[2].resize((56, 84)))]
    return [
        Preference(
            f"mixed-{i}",
            images if pictured else (),
            (Turn("user", ("<image>" * len(images) if pictured else "") + "What is it?"),),
            "a ring." if i else "a small blue star.",
            "no." * (i + 1),
        )
        for i, images in enumerate(shown)
    ]


def slow(model, processor, given, side):
    made = encode(given.to_conversation(side), processor)
    pixels = {k: v for k, v in made.items() if k not in ("input_ids", "labels", "num_image_tokens")}
    if "mm_token_type_ids" in pixels:
        pixels["mm_token_type_ids"] = pixels["mm_token_type_ids"][None]
    logits = model(input_ids=made["input_ids"][None], **pixels).logits[0, :-1]
    labels = made["labels"][1:]
    end = processor.convert_tokens_to_ids("<|im_end|>") if not hasattr(processor, "tokenizer") else processor.tokenizer.convert_tokens_to_ids("<|im_end|>")  # fmt: skip
    stop = int((labels == end).nonzero()[-1]) + 1  # the line break behind it nobody says
    said = torch.arange(len(labels)) < stop
    said &= labels != -100
    return logits.log_softmax(-1)[said].gather(-1, labels[said][:, None]).sum()


@pytest.mark.parametrize("kind", ["qwen", "llava", "language model"])
def test_every_family_sees_its_own_pairs(kind, qwen, processor):  # noqa: F811
    if kind == "qwen":
        model, reader = copy.deepcopy(qwen[0]), qwen[1]
    elif kind == "llava":
        model, reader = fresh(), processor
    else:
        model, reader = build_tiny_lm(seed=0)
    model.eval()
    pairs = mixed(kind != "language model")
    made = PreferenceObjective(model, PreferenceConfig())
    assert made.policy.packs == (kind != "qwen")
    with torch.no_grad():
        found = made.answers(batch_of(reader, pairs)).logprobs
        wanted = [slow(model, reader, p, side) for side in (True, False) for p in pairs]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)
    known = compute_reference(model, reader, pairs, batch_size=2)
    torch.testing.assert_close(known.T.flatten(), found, atol=1e-4, rtol=1e-4)

    config = quiet(method="lora", max_steps=3, learning_rate=3e-3, per_device_train_batch_size=3)
    losses = train_preference(model, reader, pairs, None, config).losses()[1]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses[-1] < losses[0]


def test_bfloat16_starts_at_log_2_with_a_live_and_a_stored_reference(processor):
    for how in ("adapter_off", "stored"):
        config = quiet(method="lora", max_steps=2, mixed_precision="bf16", per_device_train_batch_size=3)  # fmt: skip
        losses = train_preference(fresh(), processor, mixed(), None, config, PreferenceConfig(reference=how)).losses()[1]  # fmt: skip
        assert losses[0] == pytest.approx(math.log(2), abs=5e-3), how
