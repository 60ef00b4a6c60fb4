"""Image features stand where the placeholders were, and nowhere else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.errors import InputError
from labs.models.merge import images_of_samples, merge_image_features

IMAGE, WIDTH = 7, 5


@st.composite
def batches(draw):
    """(input_ids [B, T], sizes of the images of each sample): ragged, with text in between."""
    samples = draw(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4))
    rows = []
    for sizes in samples:
        row = []
        for size in sizes:
            row += [draw(st.integers(0, 6))] * draw(st.integers(0, 2)) + [IMAGE] * size
        rows.append(row + [draw(st.integers(8, 9))] * draw(st.integers(1, 3)))
    longest = max(map(len, rows))
    left = draw(st.booleans())
    padded = [[0] * (longest - len(r)) + r if left else r + [0] * (longest - len(r)) for r in rows]
    return torch.tensor(padded), samples


def slow_merge(embeds, ids, features):
    """The oracle: one position after the other."""
    merged, rows = embeds.clone(), iter([row for image in features for row in image])
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            if ids[b, t] == IMAGE:
                merged[b, t] = next(rows)
    assert next(rows, None) is None
    return merged


@settings(max_examples=25)
@given(batches(), st.integers(0, 999))
def test_equals_the_slow_loop_and_sends_gradients_to_both(batch, seed):
    ids, samples = batch
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(*ids.shape, WIDTH, generator=generator)
    features = [torch.randn(n, WIDTH, generator=generator) for sizes in samples for n in sizes]
    weight = torch.randn(*ids.shape, WIDTH, generator=generator)
    found = []
    for merge in (slow_merge, lambda e, i, f: merge_image_features(e, i, f, IMAGE)):
        leaves = [embeds.clone().requires_grad_(), *(f.clone().requires_grad_() for f in features)]
        merged = merge(leaves[0], ids, leaves[1:])
        (merged * weight).sum().backward()
        found.append([merged.detach(), *(leaf.grad for leaf in leaves)])
    for slow, fast in zip(*found, strict=True):
        assert torch.equal(slow, fast)
    # What stood at a placeholder is lost; everything else is passed on.
    assert torch.equal(found[1][1] == 0, (ids == IMAGE)[..., None].expand_as(embeds))


@settings(max_examples=25)
@given(batches())
def test_a_list_of_images_and_all_rows_at_once_are_the_same(batch):
    ids, samples = batch
    embeds = torch.zeros(*ids.shape, WIDTH)
    features = [torch.randn(n, WIDTH) for sizes in samples for n in sizes]
    rows = torch.cat(features) if features else torch.zeros(0, WIDTH)
    listed = merge_image_features(embeds, ids, features, IMAGE)
    assert torch.equal(listed, merge_image_features(embeds, ids, rows, IMAGE))


def test_the_embeddings_are_not_written_to():
    ids, embeds = torch.tensor([[1, IMAGE, 2]]), torch.zeros(1, 3, WIDTH)
    merged = merge_image_features(embeds, ids, [torch.ones(1, WIDTH)], IMAGE)
    assert embeds.sum() == 0 and merged[0, 1].sum() == WIDTH


def test_features_take_the_dtype_of_the_embeddings():
    ids, embeds = torch.tensor([[IMAGE, 2]]), torch.zeros(1, 2, WIDTH, dtype=torch.bfloat16)
    merged = merge_image_features(embeds, ids, [torch.ones(1, WIDTH)], IMAGE)
    assert merged.dtype == torch.bfloat16


IDS = torch.tensor([[1, 1, 1, 1, 1], [1, IMAGE, IMAGE, IMAGE, 2], [IMAGE, IMAGE, 4, 5, 6]])


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([3, 1], r"Sample 2 has 2 image placeholders, and its 1 image has 1 features \(5 place"),
        ([2, 2], r"Sample 1 has 3 .* its 2 images have 4 features \(5 placeholders and 4 features"),
        ([3], "Sample 2 has 2 image placeholders, and its 0 images have 0 features"),
        ([3, 2, 4], r"Sample 2 is the last, and 1 left image has 4 .*\(5 placeholders and 9 feat"),
        ([2, 3], "Sample 1 has 3"),  # the totals agree, the borders do not
    ],
)
def test_images_that_do_not_fit_are_named_by_number_and_sample(sizes, said):
    features = [torch.zeros(n, WIDTH) for n in sizes]
    with pytest.raises(InputError, match=said):
        merge_image_features(torch.zeros(*IDS.shape, WIDTH), IDS, features, IMAGE)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (4, r"Sample 2 has 2 image placeholders, and 1 features are left \(5 placeholders and 4"),
        (2, "Sample 1 has 3 image placeholders, and 2 features are left"),
        (7, r"Sample 2 is the last, and 2 features are left over \(5 placeholders and 7"),
    ],
)
def test_rows_that_run_out_or_over_are_named_too(rows, said):
    with pytest.raises(InputError, match=said):
        merge_image_features(torch.zeros(*IDS.shape, WIDTH), IDS, torch.zeros(rows, WIDTH), IMAGE)


def test_a_feature_of_another_width_names_the_image():
    features = [torch.zeros(3, WIDTH), torch.zeros(2, WIDTH + 1)]
    with pytest.raises(InputError, match=r"features of image 1 have shape \[2, 6\].* width 5"):
        merge_image_features(torch.zeros(*IDS.shape, WIDTH), IDS, features, IMAGE)


@given(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=5))
def test_images_go_to_the_sample_whose_placeholders_they_fill(samples):
    owners = images_of_samples([sum(s) for s in samples], [n for s in samples for n in s])
    numbers = iter(range(100))
    assert owners == [[next(numbers) for _ in s] for s in samples]
