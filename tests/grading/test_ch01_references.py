"""Chapter 1's reference answers are second implementations: equal to the library's own."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings

from labs.errors import InputError
from labs.grading.course import chapter
from labs.losses import itm_loss
from labs.models import merge
from labs.models.connectors.gated import GatedCrossAttentionBlock
from labs.models.fused import ITMHead
from labs.models.resolution import llava_next, mrope, qwen2_vl
from labs.models.resolution.families import family

CHAPTER = chapter("ch01")
ANSWERS, CHECKS = CHAPTER.solutions, CHAPTER.checks


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 4), max_size=6),
    fit=st.booleans(),
)
def test_merge_image_features(rows, sizes, fit):
    """Both give the same batch, or both refuse it."""
    places = torch.tensor(rows)
    if fit:  # images of one place each always fit
        sizes = [1] * int(places.sum())
    ids = torch.where(places, 3, 5)
    embeds = torch.randn(*ids.shape, 2, generator=torch.Generator().manual_seed(2))
    images = [torch.full((n, 2), float(i)) for i, n in enumerate(sizes)]
    try:
        wanted = merge.merge_image_features(embeds, ids, images, 3)
    except InputError:
        with pytest.raises(ValueError, match=f"{int(places.sum())} placeholders"):
            ANSWERS.merge_image_features(embeds, ids, images, 3)
    else:
        assert torch.equal(ANSWERS.merge_image_features(embeds, ids, images, 3), wanted)


def test_visual_tokens():
    found = ANSWERS.visual_tokens()
    for picture, size in (("photo", (800, 600)), ("icon", (200, 200))):
        for name, tokens in found[picture].items():
            assert tokens == family(name).cut(size).tokens, (picture, name)


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 4096), width=st.integers(1, 4096))
def test_llava_next_grid(height, width):
    size, canvases = (height, width), list(llava_next.CANVASES)
    found = ANSWERS.llava_next_grid(size, canvases)
    canvas = llava_next.select_best_resolution(size)
    assert found == {
        "canvas": canvas,
        "cells": llava_next.unpadded(size, canvas[0] // 14, canvas[1] // 14),
        "tokens": llava_next.llava_next_tokens(size),
    }
    assert CHECKS.exact_grid(size, canvases) == found


SIDES = st.integers(1, 4096)


@settings(max_examples=300, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    factor=st.sampled_from([7, 28, 32]),
    least=st.integers(1, 400),
    more=st.integers(10, 16000),
)
@example(height=1, width=200, factor=28, least=4, more=16380)
@example(height=201, width=1, factor=28, least=4, more=16380)
@example(height=4096, width=4096, factor=28, least=4, more=16380)
def test_smart_resize(height, width, factor, least, more):
    """Both give the same size, or both refuse the picture; limits in tokens of factor² pixels."""
    limits = {"min_pixels": least * factor**2, "max_pixels": (least + more) * factor**2}
    try:
        wanted = qwen2_vl.smart_resize(height, width, factor, **limits)
    except InputError:
        with pytest.raises(ValueError, match="more than 200 times"):
            ANSWERS.smart_resize(height, width, factor, **limits)
    else:
        assert ANSWERS.smart_resize(height, width, factor, **limits) == wanted


def test_smart_resize_has_the_defaults_of_the_library():
    for size in ((800, 600), (7016, 4961), (3, 5)):
        assert ANSWERS.smart_resize(*size) == qwen2_vl.smart_resize(*size)


@pytest.mark.parametrize("pairs", [1, 3])
def test_matching_loss(pairs):
    """The reference is `itm_loss` of what `ITMHead` says: value and all gradients."""
    torch.manual_seed(5)
    head = ITMHead(6).double()
    plain = torch.nn.Linear(6, 2).double()
    plain.load_state_dict(head.state_dict())
    lengths = (7, 4, 7)  # tokens of right pairs, wrong texts, wrong images
    batches = [torch.randn(pairs, n, 6, dtype=torch.float64, requires_grad=True) for n in lengths]

    found = ANSWERS.matching_loss(plain, *batches)
    labels = torch.tensor([1] * pairs + [0] * 2 * pairs)
    wanted = itm_loss(torch.cat([head(states) for states in batches]), labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, [*batches, plain.weight, plain.bias]),
        torch.autograd.grad(wanted, [*batches, head.weight, head.bias]),
    )


def test_gated_cross_attention():
    torch.manual_seed(3)
    ours, theirs = ANSWERS.GatedCrossAttention(6, 5, 2), GatedCrossAttentionBlock(6, 5, 2)
    with torch.no_grad():
        for gate, value in (("attention_gate", 0.7), ("ffw_gate", -1.3)):
            getattr(ours, gate).fill_(value)
    own = {name.removeprefix("attention."): p for name, p in theirs.named_parameters()}
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            own.pop(name).copy_(parameter)
    assert not own
    batch = CHECKS.looking_batch(4)
    torch.testing.assert_close(ours(*batch), theirs(*batch))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(
        st.lists(
            st.integers(1, 4) | st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=3,
    ),
    side=st.sampled_from(["left", "right"]),
    merge=st.integers(1, 3),
)
def test_mrope_position_ids(samples, side, merge):
    types, grids, mask = CHECKS.batch_of([(pieces, side) for pieces in samples], merge)
    ours = ANSWERS.mrope_position_ids(types, grids, mask, merge)
    theirs, _ = mrope.mrope_position_ids(
        types, grids, attention_mask=mask, merge=merge, after_time=True
    )
    assert torch.equal(ours, theirs)


def test_only_clip_has_a_class_token():
    """What the exercise `first_patch` rests on, in the towers of Transformers themselves."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    size = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    size |= {"image_size": 12, "patch_size": 4}
    pixels = torch.zeros(1, 3, 12, 12)
    places = [
        model(config(**size))(pixels).last_hidden_state.shape[1]
        for model, config in (
            (CLIPVisionModel, CLIPVisionConfig),
            (SiglipVisionModel, SiglipVisionConfig),
        )
    ]
    assert places == [3 * 3 + 1, 3 * 3]
