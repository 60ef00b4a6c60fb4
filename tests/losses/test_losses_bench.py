import pytest

from labs.bench.losses import run


@pytest.mark.slow
def test_a_quarter_of_the_memory_at_the_same_loss():
    said = []
    row = run(1, widths=(64,), vocabulary=8000, calls=1, progress=said.append)["widths"][64]
    assert all(any(way in sentence for sentence in said) for way in row["peak_mb"])
    assert row["loss"]["linear"] == pytest.approx(row["loss"]["plain"], rel=1e-6)
    if "trl" in row["loss"]:
        assert row["loss"]["trl"] == pytest.approx(row["loss"]["plain"], rel=1e-6)
    # Three tensors of [B, T, V] in float32 for the plain way: had it measured nothing, this shows.
    assert row["peak_mb"]["plain"] > 2 * 4 * 2048 * 8000 / 2**20
    assert row["memory_against_plain"] <= 0.25
    assert row["time_against_plain"] > 0  # how fast is for `labs bench`: no clock in the tests
