"""PyTorch's sentences, every layout: what is printed comes back, also torn and wrapped."""

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.memory.log.messages import parse_messages
from tests.doctors.explain.rendering import FULL, GIB, MIB, RELEASES, error, format_size, sentence

sizes = st.integers(0, 200 * GIB)
some = st.one_of(st.none(), sizes)
numbers = st.fixed_dictionaries(
    {
        "tried": st.integers(1, 400 * GIB),
        "total": st.integers(GIB, 200 * GIB),
        "free": sizes,
        "allocated": sizes,
        "unallocated": sizes,
        "gpu": st.integers(0, 15),
    }
)
newer = st.fixed_dictionaries(
    {
        "allowed": some,
        "own": some,
        "pools": some,
        "processes": st.lists(st.tuples(st.integers(1, 4_000_000), sizes), max_size=4).map(tuple),
    }
)


def near(value: int | None, truth: int | None) -> bool:
    """Equal as far as two printed decimals go."""
    if truth is None or value is None:
        return value is truth
    return format_size(value) == format_size(truth) or abs(value - truth) <= 0.011 * GIB


@settings(max_examples=300, deadline=None)
@given(release=st.sampled_from(sorted(RELEASES)), values=numbers, more=newer)
def test_every_layout_parses_back(release, values, more):
    extra = {} if release in ("1.4", "1.8", "1.13") else more
    if release == "1.13":
        extra = {"allowed": more["allowed"]}
    line = f"noise before {error(release, **values, **extra)} noise after"
    (found,) = parse_messages(line)
    truth = {**values, **extra}
    for name in ("tried", "total", "free", "allocated", "unallocated", "allowed", "own", "pools"):
        # Old layouts print the sum of two sizes: one more rounding.
        assert near(getattr(found, name), truth.get(name)), (name, line)
    assert found.gpu == values["gpu"]
    assert found.layout == RELEASES[release]
    assert [pid for pid, _ in found.processes] == [pid for pid, _ in extra.get("processes", ())]
    assert all(
        near(a, b)
        for (_, a), (_, b) in zip(found.processes, extra.get("processes", ()), strict=True)
    )
    assert near(found.reserved, values["allocated"] + values["unallocated"]) or release == "1.4"
    assert line[found.start :].startswith(("CUDA out", "HIP out", "XPU out"))


@pytest.mark.parametrize("tried", [1, 512, 1024, 1025, 20 * MIB, GIB, GIB + 1])
def test_every_unit_comes_back_within_its_last_digit(tried):
    (found,) = parse_messages(sentence("2.4", **{**FULL, "tried": tried}))
    assert abs(found.tried - tried) <= found.step
    assert found.step <= max(tried // 100, 1)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(1, 420), release=st.sampled_from(["1.8", "1.13", "2.1", "2.4", "2.9"]))
def test_a_sentence_printed_into_another_leaves_both_whole(cut, release):
    one = error(release, **{**FULL, "gpu": 0, "tried": 3 * GIB})
    two = error(release, **{**FULL, "gpu": 5, "tried": 7 * GIB, "free": 123 * MIB})
    cut = min(cut, len(one) - 1)
    found = parse_messages(f"{one[:cut]}{two}\n{one[cut:]}\n")
    assert sorted((m.gpu, m.tried) for m in found if m.complete) == [(0, 3 * GIB), (5, 7 * GIB)]
    free = {m.gpu: m.free for m in found}
    assert free[5] == 123 * MIB
    assert near(free[0], FULL["free"])


def test_three_ranks_nested_with_prefixes():
    texts = [error("2.4", **{**FULL, "gpu": gpu, "tried": (gpu + 1) * GIB}) for gpu in range(3)]
    inner = f"{texts[1][:90]}[rank2]: {texts[2]}\n{texts[1][90:]}"
    whole = f"{texts[0][:150]}[rank1]: {inner}\n{texts[0][150:]}"
    assert [(m.gpu, m.tried) for m in parse_messages(whole)] == [
        (gpu, (gpu + 1) * GIB) for gpu in range(3)
    ]


def test_two_class_names_printed_into_each_other():
    text = sentence("1.13", **FULL)
    line = f"torch.cudatorch.cuda..OutOfMemoryErrorOutOfMemoryError: : {text}{text}"
    assert [m.tried for m in parse_messages(line)] == [2 * GIB, 2 * GIB]


def test_wrapped_by_a_terminal_and_boxed():
    text = error("2.4", **FULL, processes=((4242, 78 * GIB),))
    for width in (30, 60, 80):
        wrapped = "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
        (found,) = parse_messages(wrapped)
        assert found.complete
        assert found.processes == ((4242, 78 * GIB),)
        (found,) = parse_messages("\n".join(f"│ {line} │" for line in wrapped.split("\n")))
        assert found.complete


@pytest.mark.parametrize("keep", range(40, 330, 7))
def test_cut_off_sentences_say_what_they_still_say(keep):
    text = error("2.4", **FULL)[:keep]
    found = parse_messages(text)
    if "Tried to allocate 2.00 GiB" in text:
        assert found[0].tried == 2 * GIB
        assert (found[0].total is not None) == ("79.15 GiB" in text)
    else:
        assert not found or found[0].total is None


def test_garbage_size():
    (found,) = parse_messages("CUDA out of memory. Tried to allocate more than 1EB memory.")
    assert found.garbage


def test_apple_mps():
    (found,) = parse_messages(
        "RuntimeError: MPS backend out of memory (MPS allocated: 17.50 GB, other allocations: "
        "384.00 MB, max allowed: 18.13 GB). Tried to allocate 512.00 MB on private pool. Use "
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations."
    )
    assert (found.device, found.layout) == ("MPS", "mps")
    assert found.allowed == round(18.13 * GIB)
    assert found.allocated == round(17.5 * GIB)


def test_cuda_malloc_async_table():
    (found,) = parse_messages(
        "torch.cuda.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)\n"
        "Currently allocated     : 21.07 GiB\nRequested               : 46.00 MiB\n"
        "Device limit            : 23.68 GiB\nFree (according to CUDA): 10.62 MiB\n"
        "PyTorch limit (set by user-supplied memory fraction)\n"
        "                        : 17179869184.00 GiB\n"
    )
    assert (found.total, found.tried) == (round(23.68 * GIB), 46 * MIB)
    assert found.allowed is None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_parses_without_error(text):
    parse_messages(text)
    parse_messages(f"CUDA out of memory. Tried to allocate {text}")
