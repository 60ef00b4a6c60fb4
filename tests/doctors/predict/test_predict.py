"""The prediction as a whole, on a tiny model whose parts do not vanish beside CUDA's own memory."""

import json

import pytest

from labs.doctors.memory.forecast.advise import COST, changes
from labs.doctors.memory.forecast.observed import compare, read_observed
from labs.doctors.memory.forecast.page import page_of
from labs.doctors.memory.forecast.predict import check_fits, predict
from labs.doctors.memory.forecast.prediction import Range
from labs.doctors.memory.forecast.ranges import GIB, fit
from labs.doctors.memory.forecast.show import headline_lines, lines_of
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.remedies import remedy
from labs.doctors.memory.setup.inputs import Sample
from labs.errors import InputError
from tests.doctors.predict.conftest import RAW

LARGE = {"vocab_size": 20_000, "hidden_size": 512, "intermediate_size": 1024}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    raw = {"model_type": "llama", **RAW["llama"], **LARGE, "num_hidden_layers": 5}
    (folder / "config.json").write_text(json.dumps(raw))
    return str(folder)


@pytest.fixture(scope="module")
def seen() -> list:
    return []


@pytest.fixture(scope="module")
def answer(model, seen, pool):
    plan = Plan(model, batch=8, sequence_length=2048, images=())
    return predict(plan, card="2 GiB", pool=pool, headline=seen.append)


def test_the_breakdown_adds_up_to_the_peak(answer):
    assert sum(answer.breakdown.values()) == pytest.approx(answer.gpu.bytes)
    assert answer.gpu.low < answer.gpu.bytes < answer.gpu.high
    assert answer.allocated <= answer.reserved
    assert max(answer.phases.values()) == pytest.approx(answer.allocated)
    assert any("not calibrated" in reason for reason in answer.gpu.reasons)


def test_weights_and_states_are_what_arithmetic_says(answer):
    shapes = 2 * 20_000 * 512 + 512  # embedding, head, last norm
    head = 512 // 4
    shapes += 5 * (2 * 512 * 512 + 2 * 512 * 2 * head + 3 * 512 * 1024 + 2 * 512)
    assert answer.breakdown["weights"] == pytest.approx(2 * shapes, rel=1e-6)
    assert answer.breakdown["optimizer"] == pytest.approx(4 * shapes, rel=0.001)
    assert answer.breakdown["logits"] >= 8 * 2048 * 20_000 * 4  # in float32, at least once


def test_the_headline_comes_before_and_agrees(answer, seen):
    (first,) = seen
    assert first.timeline is None and first.seconds <= answer.seconds
    assert first.allocated == pytest.approx(answer.allocated, rel=0.005)


def test_every_remedy_saves_and_the_best_come_first(answer):
    assert len(answer.remedies) >= 4
    for tried in answer.remedies:
        assert tried.gpu == pytest.approx(answer.gpu.bytes - tried.saves)
        assert tried.saves > 0.01 * answer.gpu.bytes
        assert tried.fits == (tried.gpu <= answer.target.usable)
    ids = [tried.id for tried in answer.remedies]
    assert {"chunked_loss", "smaller_batch"} <= set(ids)
    fits = [tried.fits for tried in answer.remedies]
    assert fits == sorted(fits, reverse=True)


def test_what_fits_is_monotone_in_the_card(answer):
    batches = [one.largest_batch for one in answer.fits]
    assert batches == sorted(batches) and batches[-1] > batches[0] > 0
    assert answer.target.card == "2 GiB"
    assert not check_fits(answer)
    assert answer.target.largest_batch < 8


def test_the_largest_batch_fits_and_one_more_does_not(answer, pool):
    for batch, fits in (
        (answer.target.largest_batch, True),
        (answer.target.largest_batch + 1, False),
    ):
        plan = answer.plan.replace(batch=batch)
        again = predict(plan, remedies=False, card="2 GiB", batches=False, pool=pool)
        # Fragmentation is that of the first plan, which may differ a little here.
        need = again.allocated * (answer.reserved / answer.allocated) + answer.breakdown["context"]
        assert (need <= answer.target.usable) == fits


def test_it_becomes_json_text_and_a_page(answer, tmp_path):
    made = json.loads(answer.to_json())
    assert made["schema"] == "oom-predict/1"
    assert made["gpu"]["bytes"] == answer.gpu.bytes
    text = "\n".join([*headline_lines(answer, None, 100), *lines_of(answer, [], 100)])
    assert "not calibrated" in text and "Remedies" in text
    page = page_of(answer)
    assert page.count("<svg") >= 4 and answer.remedies[0].title in page


def test_beside_what_was_measured(answer, tmp_path):
    file = tmp_path / "observed.json"
    file.write_text(
        json.dumps({"reserved": "3 GiB", "categories": {"weights": 1, "logits": 2**30}})
    )
    lines = compare(answer, read_observed(file))
    assert [line.name for line in lines] == ["reserved", "logits", "weights"]
    assert lines[0].error == pytest.approx(answer.reserved / (3 * GIB) - 1)


@pytest.mark.parametrize(
    ("content", "what"),
    [("{}", "holds no measurement"), ('{"reservd": 3}', "unknown key `reservd`"),
     ('{"reserved": "lots"}', "`reserved`: 'lots' is not a size"), ('{"categories": 3}', "is no object")],
)  # fmt: skip
def test_measurements_that_are_none_are_said(tmp_path, content, what):
    file = tmp_path / "observed.json"
    file.write_text(content)
    with pytest.raises(InputError, match=what):
        read_observed(file)


def test_three_verdicts():
    need = Range(10.0, 9.0, 12.0)
    assert [fit("x", usable, need).verdict for usable in (12, 11, 9, 8)] == [
        "yes",
        "perhaps",
        "perhaps",
        "no",
    ]


def test_each_remedy_is_in_the_catalogue_and_changes_the_plan():
    plans = [
        Plan("x", batch=4, attention="eager", precision="fp32", world_size=8),
        Plan("x", objective="dpo", images=()),
        Plan("x", objective="grpo", rollout="vllm"),
        Plan("x", objective="evaluate", eval_keeps_logits=True),
    ]
    ids = set()
    for plan in plans:
        for change in changes(plan, [Sample(plan.sequence_length)]):
            assert remedy(change.id).title
            assert plan.replace(**change.fields) != plan
            ids.add(change.id)
    assert ids == set(COST) - {"fewer_visual_tokens"}
