"""Sharding's arithmetic against numbers worked out by hand, and cards by their sizes."""

import pytest

from labs.doctors.memory.cards import CARDS, capacity
from labs.doctors.memory.forecast.sharding import Model, largest_layer, model_of, shard
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.record import Event
from labs.errors import InputError

GB = 10**9
# Seven billion parameters in bfloat16, all trained; AdamW's states as the plain optimizer has them.
PARTS = {"weights": 14 * GB, "gradients": 14 * GB, "optimizer": 28 * GB, "activations": 5 * GB}
MODEL = Model(14 * GB, 14 * GB, 0.4 * GB)


def held(sharding: str, world_size: int = 8, **fields) -> dict:
    return shard(PARTS, Plan("x", sharding=sharding, world_size=world_size, **fields), MODEL)


def test_one_gpu_and_none_divide_nothing():
    assert held("none") == PARTS
    assert held("zero3", world_size=1) == PARTS


def test_ddp_adds_a_copy_of_the_gradients():
    assert held("ddp") == {**PARTS, "communication": 14 * GB}


def test_zero_divides_more_with_each_stage():
    # 12 bytes a parameter in float32: master, mean, variance. Buckets of 5e8 elements in bfloat16.
    assert held("zero1") == {**PARTS, "optimizer": 84 * GB / 8, "communication": GB}
    two = held("zero2")
    assert two == {**held("zero1"), "gradients": 14 * GB / 8}
    three = held("zero3")
    assert three == {**two, "weights": 14 * GB / 8 + 2 * 0.4 * GB}


def test_fsdp_keeps_the_dtypes_of_the_plan():
    assert held("fsdp") == {
        "weights": 14 * GB / 8 + 0.8 * GB,
        "gradients": 14 * GB / 8,
        "optimizer": 28 * GB / 8,
        "activations": 5 * GB,
        "communication": 0.4 * GB,
    }


def test_what_is_gathered_is_never_more_than_the_model():
    small = shard({"weights": 100}, Plan("x", sharding="fsdp", world_size=2), Model(100, 0, 90))
    assert small["weights"] == 150


def test_the_model_is_the_fullest_of_each_and_the_largest_layer_counts_whole():
    moments = [{"weights": 5.0}, {"weights": 5.0, "gradients": 4.0}, {"gradients": 1.0}]
    assert model_of(moments, 2) == Model(5.0, 4.0, 2)
    events = [
        Event("alloc", size, i, "weights", module, "load", "empty")
        for i, (size, module) in enumerate(
            [(30, "m.layers.0.a"), (40, "m.layers.0.b"), (50, "m.layers.1.a"), (60, "m.embed")]
        )
    ]
    assert largest_layer(events) == 70
    assert largest_layer([]) == 0


@pytest.mark.parametrize(
    ("size", "name", "gib"),
    [("24", "24 GB", 22.19), (80, "80 GB", 79.15), ("24GB", "24 GB", 22.19),
     ("23.6 GiB", "23.6 GiB", 23.6), ("32", "32 GB", 32 * 0.95), ("20000 MiB", "20000 MiB", 20000 / 1024)],
)  # fmt: skip
def test_cards(size, name, gib):
    assert capacity(size)[0] == name
    assert capacity(size)[1] == pytest.approx(gib * 2**30, abs=1)


@pytest.mark.parametrize("size", ["", "big", "0", "-3", "1 KiB", "9999999999"])
def test_no_card(size):
    with pytest.raises(InputError, match="is no size of a GPU"):
        capacity(size)


def test_no_card_offers_more_than_its_name():
    assert all(offered <= nominal for nominal, (offered, _) in CARDS.items())
