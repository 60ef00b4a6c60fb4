"""Scenes: seeded, inside the picture, apart from each other, never in two splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.shapes import Object, Scene, render, sample_digit_scene, sample_scene, seeded, split_of
from labs.shapes.scene import SPLITS

seeds = st.integers(0, 10**6)


@given(seeds, st.sampled_from(SPLITS))
def test_a_scene_belongs_to_its_split_and_no_other(seed, split):
    scene = sample_scene(seeded(seed), split)
    assert split_of(scene) == split
    assert 1 <= len(scene.objects) <= 4


def test_splits_share_no_content():
    """The same content with other jitter and grain must stay on its side of the fence."""
    contents = {
        split: {sample_scene(seeded(split, i), split).content() for i in range(3000)}
        for split in SPLITS
    }
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["val"]
    assert not contents["val"] & contents["test"]


def test_digit_images_never_appear_in_two_splits():
    seen = {
        split: {d for i in range(400) for d in sample_digit_scene(seeded(i), split, 3).digits}
        for split in SPLITS
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


@given(seeds)
def test_objects_lie_inside_the_picture_and_do_not_touch(seed):
    objects = sample_scene(seeded(seed)).objects
    for obj in objects:
        assert all(0 < v < 1 for v in obj.box)
    for k, a in enumerate(objects):
        for b in objects[k + 1 :]:
            apart = (
                a.box[2] <= b.box[0] or b.box[2] <= a.box[0]
                or a.box[3] <= b.box[1] or b.box[3] <= a.box[1]
            )  # fmt: skip
            assert apart


@pytest.mark.parametrize("resolution", [16, 48, 97, 336])
def test_render_is_seeded_and_any_size(resolution):
    scene = sample_scene(seeded("render"))
    first, second = render(scene, resolution), render(scene, resolution)
    assert first.size == (resolution, resolution)
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("kind", ["circle", "square", "triangle", "cross", "star"])
def test_the_pixel_in_the_middle_of_a_shape_has_its_colour(kind):
    scene = Scene((Object(kind, "red", "large", 4),), background=240)
    r, g, b = np.asarray(render(scene, 96))[48, 48].astype(int)
    assert r > 180 and g < 90 and b < 90


def test_a_ring_has_a_hole():
    scene = Scene((Object("ring", "red", "large", 4),), background=240)
    assert np.asarray(render(scene, 96))[48, 48].min() > 200


def test_equal_seed_equal_scene_other_seed_other_scene():
    scenes = [sample_scene(seeded(i)) for i in range(200)]
    assert scenes == [sample_scene(seeded(i)) for i in range(200)]
    assert len({s.content() for s in scenes}) > 180
