"""Checks of one exercise of each kind."""

import torch

from labs.grading import Check, case, inputs


def starts_as_zero(layer):
    return bool((layer.B == 0).all())


def set_matrices(layer, a, b):
    with torch.no_grad():
        layer.A.copy_(a)
        layer.B.copy_(b)
    return layer.B.sum()


def test_LowRank(check: Check):
    layer = check.call(5, 3, 2, alpha=7.0)
    check.holds("The layer starts as zero.", check.probe(starts_as_zero, target=layer))
    a, b = inputs.normal(2, 5, seed=1), inputs.normal(3, 2, seed=2)
    check.probe(set_matrices, a, b, target=layer)
    check.cases(
        [case("trained", inputs.normal(7, 5, seed=3)), case("one", inputs.normal(1, 5, seed=4))],
        lambda x: x.matmul((3.5 * b @ a).mT),
        target=layer,
        gradient=["x"],
    )
    cost = check.measure(inputs.normal(7, 5, seed=3), target=layer)
    check.cost("A few operations suffice.", cost.operations, at_most=12)


def test_weights_gb(check: Check):
    check.number(sum([2e-9] * 7) * 1e9, rtol=1e-3)


def test_nan_at_step_3(check: Check):
    losses, full = inputs.normal(7, seed=5).abs(), torch.tensor([1.0, 0, 1, 1, 0, 1, 0])
    empty = torch.zeros(7)
    broken = check.exercise.broken
    patch = check.diagnosis(
        "empty_batch", "labels in batch: 0", broken, lambda run: run(losses, empty).isnan()
    )

    def mean(losses, mask):
        kept = [x for x, m in zip(losses, mask, strict=True) if m]
        return torch.stack(kept).mean() if kept else losses.sum() * 0

    check.cases(
        [case("a healthy batch", losses, full), case("a batch without labels", losses, empty)],
        mean,
        target=patch,
        scale=1.0,
        gradient=["losses"],
    )
