"""M-RoPE positions against Transformers' models on mixtures at random, and against a slow loop."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen2VLConfig, Qwen2VLModel

from labs.errors import InputError
from labs.models.resolution import grid_positions, mrope_position_ids
from labs.models.resolution.mrope import IMAGE, TEXT, VIDEO

MERGE = 2
TOKENS_PER_SECOND = 2
VISUALS = st.one_of(
    st.tuples(st.just(IMAGE), st.just(1), st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.just(VIDEO), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
)


@st.composite
def samples(draw):
    """One sample as parts: (TEXT, length) or (kind, frames, rows, columns), text between visuals."""
    parts = []
    for visual in draw(st.lists(VISUALS, max_size=4)):
        least = 1 if parts else 0  # <|vision_start|> at the least
        parts += [(TEXT, draw(st.integers(least, 5))), visual]
    parts.append((TEXT, draw(st.integers(0 if parts else 1, 5))))
    return [part for part in parts if part[1]]


BATCHES = st.lists(samples(), min_size=1, max_size=3)


def length(part) -> int:
    return functools.reduce(int.__mul__, part[1:])


def tensors(batch, side: str) -> dict:
    """The batch as a processor hands it over: types, mask, and grids in patches."""
    rows = [[part[0] for part in sample for _ in range(length(part))] for sample in batch]
    longest = max(map(len, rows))
    padding = [[0] * (longest - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]

    def pad(lines):
        pairs = zip(lines, padding, strict=True)
        return torch.tensor([z + x if side == "left" else x + z for x, z in pairs])

    grids = {IMAGE: [], VIDEO: []}
    for part in (part for sample in batch for part in sample if part[0] != TEXT):
        grids[part[0]].append([part[1], part[2] * MERGE, part[3] * MERGE])
    return {
        "types": pad(rows),
        "attention_mask": pad(ones),
        "image_grid_thw": torch.tensor(grids[IMAGE]) if grids[IMAGE] else None,
        "video_grid_thw": torch.tensor(grids[VIDEO]) if grids[VIDEO] else None,
    }


@functools.cache
def model(kind, config_kind):
    """Positions need the configuration alone: no weight is made."""
    text = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16, "num_attention_heads": 1,
            "num_key_value_heads": 1, "intermediate_size": 8}  # fmt: skip
    vision = {"depth": 1, "spatial_merge_size": MERGE}
    if config_kind is Qwen2_5_VLConfig:
        vision["tokens_per_second"] = TOKENS_PER_SECOND
    with torch.device("meta"):
        return kind(config_kind(text_config=text, vision_config=vision))


@pytest.mark.parametrize("side", ["left", "right", "none"])
@settings(max_examples=60)
@given(batch=BATCHES)
def test_positions_are_qwen2_vls(side, batch):
    got = tensors(batch[:1] if side == "none" else batch, side)
    types, mask = got.pop("types"), got.pop("attention_mask") if side != "none" else None
    got.pop("attention_mask", None)
    want, deltas = model(Qwen2VLModel, Qwen2VLConfig).get_rope_index(
        torch.zeros_like(types), types, attention_mask=mask, **got
    )
    ids, shift = mrope_position_ids(types, attention_mask=mask, merge=MERGE, **got)
    assert torch.equal(ids, want)
    assert torch.equal(shift, deltas)


@settings(max_examples=60)
@given(batch=BATCHES, data=st.data())
def test_positions_are_qwen25_vls_with_seconds(batch, data):
    got = tensors(batch, "left")
    types, mask = got.pop("types"), got.pop("attention_mask")
    videos = sum(part[0] == VIDEO for sample in batch for part in sample)
    seconds = data.draw(
        st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0]), min_size=videos, max_size=videos)
    )
    want, deltas = model(Qwen2_5_VLModel, Qwen2_5_VLConfig).get_rope_index(
        torch.zeros_like(types),
        types,
        second_per_grid_ts=torch.tensor(seconds),
        attention_mask=mask,
        **got,
    )
    intervals = [TOKENS_PER_SECOND * s for s in seconds]
    ids, shift = mrope_position_ids(types, attention_mask=mask, intervals=intervals, **got)
    assert torch.equal(ids, want)
    assert torch.equal(shift, deltas)


def slowly(sample) -> list[tuple[int, int, int]]:
    """The paper's rule, token by token: each part starts one past the largest position so far."""
    positions = []
    for part in sample:
        start = max((max(p) for p in positions), default=-1) + 1
        if part[0] == TEXT:
            positions += [(start + i,) * 3 for i in range(part[1])]
            continue
        for frame in range(part[1]):
            for row in range(part[2]):
                for column in range(part[3]):
                    positions.append((start + frame, start + row, start + column))
    return positions


@settings(max_examples=100)
@given(batch=BATCHES)
def test_after_time_is_the_papers_rule(batch):
    got = tensors(batch, "right")
    ids, shift = mrope_position_ids(got.pop("types"), after_time=True, **got)
    for number, sample in enumerate(batch):
        want = slowly(sample)
        assert ids[:, number, : len(want)].T.tolist() == [list(p) for p in want]
        assert shift[number].item() == max(map(max, want)) + 1 - len(want)


@settings(max_examples=100)
@given(sample=samples())
def test_both_rules_agree_unless_a_video_is_longer_than_wide(sample):
    got = tensors([sample], "right")
    types = got.pop("types")
    plain, _ = mrope_position_ids(types, **got)
    paper, _ = mrope_position_ids(types, after_time=True, **got)
    # Only what comes after a visual can differ, and only when its time reaches furthest.
    if all(part[0] == TEXT or part[1] <= max(part[2:]) for part in sample[:-1]):
        assert torch.equal(plain, paper)


def test_text_after_a_long_video_shares_its_positions():
    """What `after_time` is about: 8 frames of one token, then text."""
    types = torch.tensor([[VIDEO] * 8 + [TEXT] * 2])
    grid = torch.tensor([[8, 2, 2]])
    plain, _ = mrope_position_ids(types, video_grid_thw=grid)
    assert plain[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2]
    paper, _ = mrope_position_ids(types, video_grid_thw=grid, after_time=True)
    assert paper[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@given(st.integers(1, 50))
def test_text_alone_is_ordinary_rope(tokens):
    ids, shift = mrope_position_ids(torch.zeros(1, tokens, dtype=torch.long))
    assert torch.equal(ids, torch.arange(tokens).expand(3, 1, -1))
    assert shift.tolist() == [[0]]


def test_a_picture_saves_positions():
    """64 tokens of 8 x 8 move the text on by 8: the delta says so to the generation."""
    types = torch.tensor([[TEXT] * 3 + [IMAGE] * 64 + [TEXT] * 2])
    ids, shift = mrope_position_ids(types, image_grid_thw=torch.tensor([[1, 16, 16]]))
    assert ids[0, 0, 3:67].unique().tolist() == [3]  # one time
    assert ids[:, 0, 66].tolist() == [3, 10, 10] and ids[:, 0, 67].tolist() == [11] * 3
    assert shift.tolist() == [[8 - 64]]


def test_pictures_side_by_side_need_no_text_between():
    types = torch.tensor([[IMAGE] * 6])
    ids, _ = mrope_position_ids(types, image_grid_thw=torch.tensor([[1, 2, 4], [1, 4, 4]]))
    want = torch.cat([grid_positions((1, 1, 2), 0), grid_positions((1, 2, 2), 2)], dim=1)
    assert torch.equal(ids[:, 0], want)


@pytest.mark.parametrize(
    ("types", "grids", "message"),
    [
        ([0, 1, 1, 0], [[1, 2, 2], [1, 2, 2], [1, 2, 2]], "1 more than the tokens of an image"),
        ([0, 1, 1, 0], [[1, 4, 4]], "Sample 0 has tokens of an image at 1, fewer than the 4"),
        ([0, 1, 1, 0], [[1, 2, 2]], "Sample 0 has tokens of an image at 2, and no grid is left"),
        ([0, 2, 1, 0], [[1, 2, 2]], "Sample 0 has tokens of a video at 1, and no grid is left"),
    ],
)
def test_tokens_and_grids_that_disagree_are_named(types, grids, message):
    with pytest.raises(InputError, match=message):
        mrope_position_ids(torch.tensor([types]), image_grid_thw=torch.tensor(grids))
