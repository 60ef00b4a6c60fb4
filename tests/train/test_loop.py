"""What the loop must keep: sums, ranks, groups, schedules, phases, early stop."""

import os
import socket

import pytest
import torch
from train_helpers import Samples, fork, quiet, weights

from labs.errors import InputError
from labs.losses import generation_loss
from labs.models import build_tiny_llava
from labs.train import TrainConfig, Unfreeze, prepare, train
from labs.train.sampler import StepSampler


def trained(samples, processor, stage="sft", **changes):
    model, _ = build_tiny_llava(seed=0)
    result = train(model, processor, samples, config=quiet(**changes), stage=stage)
    return weights(model), result


def close(a, b, tolerance=2e-6):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=name)


def test_the_loss_is_the_mean_over_the_labelled_tokens(model, processor, samples, collate):
    batch = collate([samples[i] for i in range(4)])
    labels = batch.pop("labels")
    with torch.no_grad():
        expected = generation_loss(model(**batch).logits, labels).item()
    for loss in ("chunked", "plain"):
        _, result = trained(samples, processor, max_steps=1, shuffle=False, loss=loss)
        assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_chunked_and_plain_loss_train_alike(samples, processor):
    plain, one = trained(samples, processor, loss="plain")
    chunked, two = trained(samples, processor, loss="chunked")
    assert one.losses()[1] == pytest.approx(two.losses()[1], rel=1e-5)
    # Adam divides by the gradient's own size, so rounding in tiny gradients shows in full steps.
    close(plain, chunked, 1e-4)


@pytest.mark.parametrize("size,accumulation", [(4, 2), (2, 4), (3, 3)])
def test_accumulation_equals_the_large_batch(samples, processor, size, accumulation):
    # SGD-like check on gradients: one step from the same weights, unequal token counts.
    large = gradients(samples, processor, size * accumulation, 1)
    small = gradients(samples, processor, size, accumulation)
    scale = max(g.abs().max() for g in large.values())
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=0, atol=2e-6 * scale.item())
    # and the mean of the micro-batches' means, the classic mistake, is another number
    counts = [int((s["labels"][1:] != -100).sum()) for s in samples.items[: size * accumulation]]
    parts = [sum(counts[i : i + size]) for i in range(0, len(counts), size)]
    assert len(set(parts)) > 1, "equal counts would prove nothing"


def gradients(samples, processor, size, accumulation):
    model, _ = build_tiny_llava(seed=0)
    config = quiet(
        max_steps=1,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        shuffle=False,
        max_grad_norm=None,
    )
    trainer, _ = prepare(model, processor, samples, config=config)
    kept = {}

    def keep(step):
        kept.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    trainer.after_step = keep
    trainer.train()
    assert kept
    return kept


def _rank(rank, ranks, port, samples, processor, size, folder, changes):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )
    from accelerate.state import PartialState

    PartialState._reset_state()
    model, _ = build_tiny_llava(seed=0)
    config = quiet(per_device_train_batch_size=size, max_steps=7, **changes)
    trainer, _ = prepare(model, processor, samples, config=config)
    assert trainer.ranks == ranks
    result = trainer.train()
    if rank == 0:
        torch.save({"weights": weights(model), "losses": result.losses()[1]}, folder / "out.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # the store's end, when this frame lets go of it, may wait for the other rank


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {
            "trainable": {"language_model": "frozen"},
            "unfreeze": [Unfreeze(3, {"language_model": "all", "vision_tower": "last:1"})],
        },
    ],
    ids=["plain", "accumulated", "unfreezing"],
)
def test_two_ranks_equal_one(tmp_path, samples, processor, changes):
    # 24 samples in steps of 10: the third step of each epoch is a smaller one, 2 samples a rank.
    accumulation = changes.get("gradient_accumulation_steps", 1)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    size = 4 if accumulation == 2 else 5
    children = [
        fork(_rank, r, 2, port, samples, processor, size, tmp_path, changes) for r in range(2)
    ]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    two = torch.load(tmp_path / "out.pt", weights_only=True)
    one, result = trained(
        samples, processor, max_steps=7, per_device_train_batch_size=2 * size, **changes
    )
    assert two["losses"] == pytest.approx(result.losses()[1], rel=2e-5)
    close(two["weights"], one, 3e-4)


def test_text_only_batches_train_too(processor):
    mixed = Samples(12, processor, text_every=2)
    _, result = trained(mixed, processor, max_steps=6, per_device_train_batch_size=1)
    assert all(loss > 0 for loss in result.losses()[1])


def test_a_right_padded_mask_changes_nothing(model, samples, collate):
    from labs.train.objectives import GenerationObjective

    objective = GenerationObjective(model).eval()
    batch = collate(samples.items[:5])
    assert not bool(batch["attention_mask"].all()), "no padding would prove nothing"
    assert "attention_mask" not in objective.prepare(batch)
    with torch.no_grad():
        torch.testing.assert_close(
            objective(objective.prepare(batch), 10), objective(batch, 10), rtol=1e-6, atol=1e-6
        )
    left = {**batch, "attention_mask": batch["attention_mask"].flip(1)}
    assert "attention_mask" in objective.prepare(left)


def test_learning_rates_by_part_and_no_decay_on_norms_and_biases(model, processor, samples):
    config = quiet(
        learning_rate=1e-4,
        learning_rates={"connector": 2e-5, "vision_tower": 2e-6},
        trainable={"vision_tower": "all"},
        weight_decay=0.1,
    )
    trainer, _ = prepare(model, processor, samples, config=config)
    wanted = {"connector": 2e-5, "vision_tower": 2e-6, "language_model": 1e-4}
    own = dict(model.named_parameters())
    seen = set()
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == wanted[group["part"]]
        for name in group["names"]:
            assert group["weight_decay"] == (0.1 if own[name].ndim >= 2 else 0.0), name
        seen.update(group["names"])
    assert seen == set(own)


def test_the_schedule_is_transformers_own(samples, processor):
    _, result = trained(
        samples, processor, max_steps=6, lr_scheduler_type="linear", warmup_ratio=0.33
    )
    # 0.33 · 6 steps, rounded up: two steps of warm-up, then down to zero over four
    expected = [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    assert result.losses("learning_rate")[1] == pytest.approx([1e-3 * e for e in expected])


def test_clipping_bounds_the_step(samples, processor, model):
    trainer, _ = prepare(model, processor, samples, config=quiet(max_steps=1, max_grad_norm=1e-3))
    norms = []

    def measure(step):
        grads = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        norms.append(torch.stack(grads).norm().item())

    trainer.after_step = measure
    result = trainer.train()
    assert result.history[0]["grad_norm"] > 1e-2  # the norm before clipping is what is logged
    assert norms[0] == pytest.approx(1e-3, rel=1e-2)


def test_progressive_unfreezing(samples, processor):
    start = weights(build_tiny_llava(seed=0)[0])
    changes = {
        "trainable": {"language_model": "frozen"},
        "unfreeze": [Unfreeze(2, {"language_model": "last:1"})],
    }
    before, _ = trained(samples, processor, max_steps=2, **changes)
    after, _ = trained(samples, processor, max_steps=4, **changes)
    last = [n for n in start if "language_model.layers.2." in n]
    others = [n for n in start if "language_model" in n and n not in last]
    assert last and others
    assert all(torch.equal(start[n], before[n]) for n in last + others)
    assert all(torch.equal(start[n], after[n]) for n in others)
    assert all(not torch.equal(start[n], after[n]) for n in last if "bias" not in n)


def test_early_stop_stops_and_gives_back_the_best(processor, samples):
    # Trained hard on 4 samples, the loss on others rises soon.
    few, others = Samples(4, processor), Samples(8, processor, seed=9)
    model, _ = build_tiny_llava(seed=0)
    config = quiet(
        max_steps=200,
        learning_rate=5e-3,
        eval_steps=5,
        early_stopping_patience=2,
        load_best_model_at_end=True,
    )
    trainer, _ = prepare(model, processor, few, others, config)
    result = trainer.train()
    assert result.stopped == "early stop" and result.steps < 200
    evals = result.losses("eval_loss")[1]
    assert min(evals) == result.best_eval_loss == evals[-3]
    assert trainer.evaluate() == pytest.approx(min(evals), rel=1e-6)


def test_evaluation_is_the_mean_over_tokens_not_over_batches(processor, samples, model, collate):
    trainer, _ = prepare(model, processor, samples, samples, quiet(per_device_eval_batch_size=5))
    batch = collate(samples.items)
    labels = batch.pop("labels")
    model.eval()
    with torch.no_grad():
        whole = generation_loss(model(**batch).logits, labels).item()
    assert trainer.evaluate() == pytest.approx(whole, rel=1e-5)


def test_bf16_trains_nearly_alike(samples, processor):
    half, result = trained(samples, processor, mixed_precision="bf16", max_steps=4)
    _, exact = trained(samples, processor, max_steps=4)
    assert result.losses()[1] == pytest.approx(exact.losses()[1], rel=2e-2)
    assert result.losses()[1] != exact.losses()[1], "the products ran in float32"
    assert all(w.dtype == torch.float32 for w in half.values())


def test_fp16_without_a_gpu_is_an_error(model, processor, samples, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which is what a machine without one does
    with pytest.raises(InputError, match=r"fp16.* needs a GPU"):
        train(model, processor, samples, config=quiet(mixed_precision="fp16"))


def test_gradient_checkpointing_changes_no_gradient(samples, processor):
    plain, _ = trained(samples, processor, max_steps=2)
    saved, _ = trained(samples, processor, max_steps=2, gradient_checkpointing=True)
    close(plain, saved, 1e-6)


def test_workers_give_the_same_batches(samples, processor):
    alone, _ = trained(samples, processor, max_steps=8, gradient_accumulation_steps=2)
    workers, _ = trained(
        samples, processor, max_steps=8, gradient_accumulation_steps=2, dataloader_num_workers=1
    )
    close(alone, workers, 0)


class TestSampler:
    def test_every_sample_once_an_epoch_whatever_the_split(self):
        for ranks, accumulation in [(1, 1), (2, 1), (3, 2)]:
            steps = [
                StepSampler(53, 4, accumulation, ranks, rank, seed=3).epoch(1)
                for rank in range(ranks)
            ]
            seen = [i for rank in steps for step in rank for micro in step for i in micro]
            assert sorted(seen) == list(range(53))
            assert len({len(rank) for rank in steps}) == 1

    def test_a_step_holds_the_same_samples_on_one_rank_and_on_two(self):
        one = StepSampler(50, 6, seed=1).epoch(0)
        two = [StepSampler(50, 3, 1, 2, rank, seed=1).epoch(0) for rank in range(2)]
        for step, whole in enumerate(one):
            both = [i for rank in two for micro in rank[step] for i in micro]
            assert sorted(both) == sorted(i for micro in whole for i in micro)

    def test_starting_late_is_skipping(self):
        sampler = StepSampler(50, 4, seed=1)
        assert sampler.epoch(2, 5) == sampler.epoch(2)[5:]
        assert sampler.epoch(2) != sampler.epoch(3)

    def test_lengths_are_grouped_and_text_kept_apart(self):
        lengths = [(-1 if i % 3 == 0 else 1) * (5 + i % 40) for i in range(120)]
        sampler = StepSampler(120, 5, seed=1, lengths=lengths)
        steps = [[i for m in step for i in m] for step in sampler.epoch(0)]
        assert sorted(i for step in steps for i in step) == list(range(120))
        assert all(len({lengths[i] > 0 for i in step}) == 1 for step in steps)
        spread = [max(abs(lengths[i]) for i in s) - min(abs(lengths[i]) for i in s) for s in steps]
        assert sum(spread) / len(spread) < 5 < 20  # random steps of five spread over about 27

    def test_even_shares_for_losses_that_gather(self):
        counts = {
            sum(len(m) for step in StepSampler(53, 4, 1, 2, r, even=True).epoch(0) for m in step)
            for r in range(2)
        }
        assert counts == {26}


@pytest.mark.parametrize(
    "changes,word",
    [
        ({"trainable": {"vision_towr": "all"}}, "vision_tower"),
        ({"trainable": {"vision_tower": "last:99"}}, "3"),
        ({"trainable": {"vision_tower": "sometimes"}}, "frozen, all, last:N"),
        ({"learning_rates": {"conector": 1e-4}}, "connector"),
        ({"lr_scheduler_type": "cosin"}, "cosine"),
        (
            {"trainable": {"language_model": "frozen", "connector": "frozen"}},
            "Nothing is left to train",
        ),
        ({"early_stopping_patience": 2}, "eval"),
        ({"group_by_length": True}, "lengths"),
        ({"max_steps": 0}, "max_steps"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_bad_settings_are_named(model, processor, samples, changes, word):
    with pytest.raises(InputError, match=word):
        config = quiet()
        for key, value in changes.items():  # as a notebook would; checked when the run is prepared
            setattr(config, key, value)
        prepare(model, processor, samples.items, config=config)


def test_bad_data_is_named(model, processor, samples, collate):
    with pytest.raises(InputError, match="training data set is empty"):
        train(model, processor, [], config=quiet())
    with pytest.raises(InputError, match="validation data set is empty"):
        train(model, processor, samples, [], config=quiet())
    blank = [{**s, "labels": torch.full_like(s["labels"], -100)} for s in samples.items[:4]]
    with pytest.raises(InputError, match=r"carries? a label"):
        train(model, processor, blank, config=quiet())
    collate_any = type(collate)(processor, require_labels=False)
    with pytest.raises(InputError, match="No tokens of step 1 carry a label"):
        train(model, processor, blank, config=quiet(), collate=collate_any)


def test_a_loss_that_is_not_finite_is_an_error(model, processor, samples):
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="nan at step 1"):
        train(model, processor, samples, config=quiet())


def test_defaults_are_a_valid_configuration():
    assert TrainConfig().checked() == TrainConfig()
