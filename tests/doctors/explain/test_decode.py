"""Requests decoded into shapes: what the allocator would print comes back as the product it was."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.memory.log.decode import Shape, decode
from labs.doctors.memory.log.dims import dims_of, read_config
from labs.doctors.memory.log.explain import explain_text
from labs.doctors.memory.log.messages import parse_messages
from labs.errors import InputError
from tests.doctors.explain.rendering import FULL, GIB, error, sentence

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 2048,
    "vocab_size": 151936,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "tie_word_embeddings": True,
}


def printed(count: int):
    """The sentence for a request of this many bytes, rounded as the allocator does."""
    rounded = -(-count // (2 << 20)) * (2 << 20)
    return parse_messages(sentence("2.4", **{**FULL, "tried": rounded}))[0]


def best(count: int, **known) -> Shape:
    return decode(printed(count), QWEN, **known)[0]


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 16),
    length=st.sampled_from([512, 1024, 2048, 4096]),
    width=st.sampled_from([2, 4]),
)
def test_logits_are_found_when_the_log_shows_batch_and_length(batch, length, width):
    found = best(
        batch * length * 151936 * width,
        settings={"batch": str(batch), "length": str(length)},
        calls="ForCausalLMLoss logits.float()",
    )
    assert found.what == "logits"
    tokens = int(found.formula.split(" tokens")[0].replace(",", ""))
    # Twice the tokens at half the width is the same number of bytes.
    assert tokens in (batch * length, batch * length // 2, batch * length * 2)
    assert found.bytes == batch * length * 151936 * width


def test_the_product_is_exact_and_prints_as_the_request():
    for shape in decode(printed(205_312 * 76_032 * 4), {**QWEN, "vocab_size": 76_032}):
        if shape.what in ("logits", "mlp", "hidden", "attention"):
            assert abs(shape.bytes - 58.15 * GIB) < 0.01 * GIB


def test_the_issue_in_words():
    shapes = decode(
        parse_messages("CUDA out of memory. Tried to allocate 58.15 GiB.")[0],
        {**QWEN, "vocab_size": 76_032},
    )
    assert shapes[0].formula.startswith("205,")
    assert "76,032 vocabulary × 4 bytes: logits in float32" in shapes[0].formula


def test_attention_matrix():
    found = best(16 * 8192 * 8192 * 2, calls="eager_attention_forward attn_weights = torch.matmul")
    assert found.what == "attention"
    assert "8,192 × 8,192" in found.formula


def test_one_weight_in_the_optimizer():
    found = best(151936 * 2048 * 4, phase="optimizer")
    assert (found.what, found.bytes) == ("weight", 151936 * 2048 * 4)


def test_one_shard_of_the_whole_model():
    total = dims_of(QWEN).parameters
    assert total == pytest.approx(3.09e9, rel=0.01)  # Qwen2.5-3B has 3.09e9
    found = decode(printed(total * 4 // 8), QWEN, {"world": "8"}, "optimizer")
    assert any(shape.what == "parameters" and "/ 8 ranks" in shape.formula for shape in found)


def test_deepspeed_bucket():
    assert best(int(5e8) * 2, calls="deepspeed/runtime/zero/stage_1_and_2.py").what == "bucket"


def test_what_fits_nothing_says_so():
    odd = 777 * (1 << 20)
    shapes = decode(printed(odd), QWEN)
    assert (shapes[0].what, shapes[0].fit) == ("none", "no product of this model's sizes fits well")


@pytest.mark.parametrize("count", [100, 2 << 20, 20 << 20])
def test_the_allocators_own_block_decodes_to_nothing(count):
    m = parse_messages(sentence("2.4", **{**FULL, "tried": count}))[0]
    assert decode(m, QWEN) == []


def test_random_requests_rarely_fit_well():
    """A request made of nothing must not be decoded with confidence."""
    import random

    draw = random.Random(0)
    sizes = [int(2 ** draw.uniform(26, 36)) for _ in range(400)]
    wrong = sum(best(size).score >= 9 for size in sizes)
    assert wrong < 0.06 * len(sizes)


def test_sizes_under_other_families_names():
    gpt = dims_of({"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257})
    assert (gpt.hidden, gpt.layers, gpt.head_dim, gpt.intermediate) == (768, 12, 64, 3072)
    vlm = dims_of(
        {
            "text_config": QWEN,
            "vision_config": {"num_attention_heads": 16, "image_size": 336, "patch_size": 14},
        }
    )
    assert (vlm.vocabulary, vlm.vision_heads, vlm.vision_patches) == (151936, 16, 576)


def test_model_makes_the_cause_and_not_against_a_traceback(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN))
    log = "per_device_train_batch_size=4\nmax_seq_length=4096\n" + error(
        "2.4", **{**FULL, "tried": int(9.28 * GIB)}
    )
    assert explain_text(log).findings[0].cause == "capacity"
    for model in (path, tmp_path):
        report = explain_text(log, model)
        assert report.findings[0].cause == "logits"
        assert "4 × 4,096" in report.facts["decoded 1"]


def test_bad_configurations(tmp_path):
    cases = {
        "no.json": (None, "no model configuration"),
        "text.json": ("not json", "not JSON"),
        "list.json": ("[1]", "no JSON object"),
        "deep.json": ("[" * 100_000, "not JSON"),
        "adapter.json": ('{"r": 16}', "no hidden_size"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match=words):
            explain_text(error("2.4", **FULL), path)
    assert read_config.__doc__


TINY = {
    "hidden_size": 192,
    "vocab_size": 6007,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 520,
    "vision_config": {
        "hidden_size": 96,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    },
}


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 8),
    length=st.integers(100, 2000),
    width=st.sampled_from([2, 4]),
    kind=st.sampled_from(["logits", "mlp", "hidden", "attention"]),
    model=st.sampled_from([QWEN, TINY]),
)
def test_a_small_request_names_what_it_was_among_its_candidates(batch, length, width, kind, model):
    """Byte budgets do not round to 2 MiB, so a size of some MiB is nearly exact."""
    count = {
        "logits": batch * length * model["vocab_size"],
        "mlp": batch * length * model["intermediate_size"],
        "hidden": batch * length * model["hidden_size"],
        "attention": model["num_attention_heads"] * length * length,
    }[kind] * width
    text = sentence("2.4", **{**FULL, "tried": count})
    if count < 2 << 20 or " GiB. GPU" in text or count % (2 << 20) < 1 << 14:
        return  # too small, printed too coarsely, or looks rounded
    shapes = decode(parse_messages(text)[0], model)
    same = [
        shape for shape in shapes if shape.what != "none" and abs(shape.bytes - count) < 1 << 14
    ]
    assert same
    if len(shapes) < 5:  # nothing was left off
        assert kind in [shape.what for shape in shapes]
    assert [s.score for s in shapes[1:]] == sorted((s.score for s in shapes[1:]), reverse=True)


def test_a_request_of_27_mib_lists_candidates_without_a_verdict(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN))
    report = explain_text(error("2.4", **{**FULL, "tried": 27 * (1 << 20)}), path)
    candidates = [value for name, value in report.facts.items() if name.startswith("decoded ")]
    assert len(candidates) >= 2
    assert any("hidden" in text for text in candidates)
    assert report.findings[0].cause == "capacity"  # several readings: none becomes the cause
    assert "the request may be" in report.findings[0].why
    assert "--model" not in report.findings[0].why


def test_the_calls_decide_between_candidates():
    m = parse_messages(sentence("2.4", **{**FULL, "tried": 300 * 151936 * 2}))[0]
    assert decode(m, QWEN, calls="ForCausalLMLoss logits")[0].what == "logits"
