"""`labs bench connectors`: equal compute by a count that is right, the same data, honest intervals."""

import json

import pytest
import torch

from labs.bench import connectors
from labs.bench.connectors import _all, _here, _in_children, run, tables
from labs.bench.connectors_models import (
    OPTIMIZER,
    OPTIONS,
    batches_of,
    build,
    dataset,
    step_flops,
    trainer,
)
from labs.bench.connectors_score import score
from labs.cli.main import main
from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.models.connectors import CONNECTORS


@pytest.fixture(scope="module")
def quick():
    said = []
    return run(quick=True, progress=said.append), said


def test_every_connector_runs_and_gets_the_same_compute(quick):
    result, said = quick
    rows = result["connectors"]
    assert list(rows) == list(CONNECTORS) == list(OPTIONS)
    assert rows["mlp"]["steps"] == result["setting"]["steps"]
    for way, row in rows.items():
        # As near to the budget as whole steps come.
        assert abs(row["total_flops"] - result["budget_flops"]) <= row["step_flops"] / 2, way
        assert row["total_flops"] == row["steps"] * row["step_flops"]
        assert row["loss"][0][-1]["step"] == row["steps"]
        assert row["step_time"] > 0
    assert rows["mlp"]["step_time"] == 1
    json.dumps(result)
    assert len([s for s in said if s.startswith("run ")]) == len(rows)


def test_the_table_says_what_each_connector_is(quick):
    result, _ = quick
    rows = result["connectors"]
    for way, row in rows.items():
        model, _ = build(way, 0)
        frozen = sum(p.numel() for p in model.vision_tower.parameters())
        assert row["trainable"] == sum(p.numel() for p in model.parameters()) - frozen
    tokens = {way: (row["visual_tokens"], row["placeholders"]) for way, row in rows.items()}
    assert tokens["mlp"] == tokens["linear"] == (36, 36)
    assert tokens["pixel_shuffle"] == tokens["resampler"] == tokens["q_former"] == (9, 9)
    assert tokens["gated_cross_attention"] == (9, 1)
    # The same text: only the image's share of the sequence differs.
    texts = {row["tokens_per_sample"] - row["placeholders"] for row in rows.values()}
    assert len(texts) == 1
    assert rows["pixel_shuffle"]["step_flops"] < rows["mlp"]["step_flops"]


def test_tables_show_every_connector_and_type(quick, capsys):
    from rich.console import Console

    result, _ = quick
    for table in tables(result):
        Console(width=200).print(table)
    shown = capsys.readouterr().out
    assert all(way in shown for way in result["connectors"])
    assert all(name in shown for name in result["setting"]["types"])
    assert "mean nothing" in shown and "less the MLP" in shown


def closed_form(batch, images, patches=36):
    """Operations of a step of tiny-base with an MLP, by hand: 2 for a multiply-add."""
    tokens, length, width, wide = batch.numel(), batch.shape[1], 128, 384
    d, tower_tokens = 96, images * (patches + 1)
    patch_embedding = images * patches * d * 3 * 8 * 8
    attention = 2 * images * (patches + 1) ** 2 * d
    tower = patch_embedding + 3 * (tower_tokens * (4 * d * d + 2 * d * 256) + attention)
    first, second = images * patches * d * width, images * patches * width * width
    connector = 2 * first + 3 * second  # the features of a frozen tower need no gradient
    linear = tokens * (2 * width * width + 2 * width * 64 + 3 * width * wide)
    attention = 2 * len(batch) * length**2 * width
    language = 3 * (3 * (linear + attention) + tokens * width * 543)
    return 2 * (tower + connector + language)


def test_operations_are_counted_as_by_hand():
    made, processor = trainer("mlp", 0, 1, 3)
    [batch] = batches_of(processor, 1, 3, 0)
    counted = step_flops(made.objective, [batch])
    assert counted == pytest.approx(closed_form(batch["input_ids"], 3), rel=2e-3)
    # Nothing is left behind for the run that follows.
    assert all(p.grad is None for p in made.model.parameters())


def test_the_same_conversations_in_the_same_order_and_others_for_another_seed():
    _, mlp = build("mlp", 0)
    _, gated = build("gated_cross_attention", 0)
    image = mlp.image_token_id
    for index in range(4):
        a, b = dataset(mlp, 4, 0)[index], dataset(gated, 4, 0)[index]
        texts = [x["input_ids"][x["input_ids"] != image] for x in (a, b)]
        assert torch.equal(*texts) and torch.equal(a["pixel_values"], b["pixel_values"])
        assert int((a["input_ids"] == image).sum()) == 36 * len(a["num_image_tokens"])
        assert int((b["input_ids"] == image).sum()) == len(a["num_image_tokens"])
        other = dataset(mlp, 4, 1)[index]
        assert not torch.equal(other["pixel_values"], a["pixel_values"])


def test_all_start_from_one_tower_and_language_model_and_the_tower_stays():
    made, _ = trainer("pixel_shuffle", 1, 2, 2)
    start, _ = build("mlp", 0)
    tower = {n: p.clone() for n, p in start.vision_tower.named_parameters()}
    words = dict(start.language_model.named_parameters())
    model = made.objective.model
    assert all(torch.equal(p, words[n]) for n, p in model.language_model.named_parameters())
    made.train()
    assert all(torch.equal(p, tower[n]) for n, p in model.vision_tower.named_parameters())
    moved = [not torch.equal(p, words[n]) for n, p in model.language_model.named_parameters()]
    assert sum(moved) > 20
    rates = {group["part"]: group["lr"] for group in made.optimizer.param_groups}
    assert set(rates) == {"connector", "language_model"} and OPTIMIZER["learning_rates"]


def test_a_child_trains_and_answers_as_this_process_does():
    job = {"way": "resampler", "seed": 1, "steps": 2, "batch": 2, "questions": 2,
           "types": ["existence_adversarial"]}  # fmt: skip
    said = []
    [child], [here] = _in_children([job], said.append, 1), _here([job], said.append, 1)
    assert child["history"] == here["history"] and len(here["history"]) == 2
    assert child["right"] == here["right"] and child["steps"] == 2


def test_after_a_failure_no_new_run_is_begun():
    begun = []

    def one(job):
        begun.append(job)
        if job == 1:
            raise RuntimeError("no")
        return job

    assert _all(one, [3, 5], workers=2) == [3, 5]
    begun.clear()
    with pytest.raises(RuntimeError):
        _all(one, [1, 2, 3, 4, 5, 6], workers=1)
    assert len(begun) < 6


def test_seeds_are_pooled_and_compared_question_by_question():
    mine = [{"count": [1, 1, 0, 1], "colour": [1, 0]}, {"count": [1, 1, 1, 1], "colour": [0, 0]}]
    theirs = [{"count": [1, 0, 0, 1], "colour": [0, 0]}, {"count": [0, 1, 1, 1], "colour": [0, 0]}]
    found = score(mine, theirs)
    assert found["types"]["count"] == {
        "n": 8, "correct": 7, "accuracy": 7 / 8, "ci": list(wilson_ci(7, 8)), "by_seed": [0.75, 1.0]
    }  # fmt: skip
    overall = found["overall"]
    assert (overall["n"], overall["correct"]) == (12, 8)
    assert overall["by_seed"] == [4 / 6, 4 / 6]
    against = overall["against_mlp"]
    assert against["difference"] == pytest.approx(3 / 12)
    assert against["ci"][0] <= 3 / 12 <= against["ci"][1]
    assert "against_mlp" not in score(mine, None)["overall"]
    same = score(mine, mine)["overall"]["against_mlp"]
    assert same["difference"] == 0 and same["p_value"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ways": ("mlp", "magic")}, "`magic`"),
        ({"ways": ("linear",)}, "`mlp` is missing"),
        ({"stepps": 3}, "`stepps`"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        run(quick=True, **settings)


def test_the_command_writes_a_record_of_the_short_form(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(connectors, "WAYS", ("linear", "mlp"))
    monkeypatch.setattr(
        connectors, "QUICK", connectors.QUICK | {"steps": 1, "batch": 2, "questions": 1}
    )
    output = tmp_path / "bench_connectors.json"
    assert main(["bench", "connectors", "--quick", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["command"] == "labs bench connectors --quick"
    assert record["results"]["setting"]["quick"] and record["results"]["connectors"]["mlp"]
    shown = capsys.readouterr().out
    assert f"{record['results']['connectors']['mlp']['parameters']:,}" in shown


def test_a_bench_without_a_short_form_says_so(capsys):
    assert main(["bench", "sft", "--quick"]) == 2
    assert "`sft` has no short form" in capsys.readouterr().err
