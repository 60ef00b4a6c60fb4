"""A prompt's answers in one row give every number and every gradient that they give alone."""

import pytest
import torch

from labs.models import build_tiny_llava
from labs.models.lora import add_lora
from labs.train.policy.forward import PolicyForward
from labs.train.policy.packed import pack
from tests.train.policy.policy_runs import made_rollout, prompts, rows_of, shake

LENGTHS = [1, 5, 3, 2, 7, 4, 1, 6]
# All answers; one each of some prompts; all of one, none or one of the others; in no order.
CHOICES = {
    "all": range(18),
    "one each": [1, 5, 6],
    "uneven": [0, 1, 2, 4, 15, 16],
    "shuffled": [14, 2, 9, 0, 12, 1, 8, 10, 5],
    "one": [3],
    "one-token answers": [0, 6, 8],
}


@pytest.fixture(scope="module", params=["lora", "all", "tower"])
def policy(request):
    """A tiny LLaVA: adapters on the language model; all of it; adapters on the tower too."""
    model, processor = build_tiny_llava(seed=0)
    if request.param == "lora":
        model.requires_grad_(False)
        add_lora(model, 4)
    elif request.param == "tower":
        model.requires_grad_(False)
        add_lora(model, 4, parts=("language_model", "vision_tower"))
    shake(model, 0.05)
    return model.eval(), processor


@pytest.fixture(scope="module")
def both(policy):
    """The same weights and head, packed and unpacked."""
    model, _ = policy
    packed = PolicyForward(model, 0.7, value_head=True)
    alone = PolicyForward(model, 0.7, value_head=True, shared_prefix=False)
    alone.value_head = packed.value_head
    assert packed.packs and not alone.packs
    return packed, alone


def outputs(forward, processor, asked, rollout, chosen):
    forward.zero_grad()
    rows = rows_of(processor, rollout).select(torch.tensor(list(chosen)))
    pictures = forward.pictures(processor, asked, rollout)
    out = forward(rows, **pictures.of(rows, forward.packs))
    weights = torch.linspace(-1, 1, rows.mask.numel()).view(rows.mask.shape)
    (((out.logprobs + out.values) * weights)[rows.mask]).sum().backward()
    gradients = {n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None}
    return rows, out, gradients


@pytest.mark.parametrize("choice", CHOICES)
def test_packed_and_alone_are_the_same(both, policy, choice):
    asked = prompts(6)
    rollout = made_rollout(policy[1], asked, LENGTHS, 3)
    results = [outputs(f, policy[1], asked, rollout, CHOICES[choice]) for f in both]
    (rows, packed, ours), (_, alone, theirs) = results
    for name in ("logprobs", "entropy", "values"):
        one, other = getattr(packed, name)[rows.mask], getattr(alone, name)[rows.mask]
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert ours.keys() == theirs.keys()
    reached = {n for n, g in ours.items() if g.abs().max() > 0}
    assert len(reached) > 10
    if choice == "all":
        trainable = {n for n, p in policy[0].named_parameters() if p.requires_grad}
        # CLIP's last layer and final norm stand behind the layer that LLaVA reads.
        assert {n for n in trainable if "vision" not in n} <= {n[6:] for n in reached}
        assert any("vision" in n for n in reached) == any("vision" in n for n in trainable)
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name in ours:  # a key's bias has a gradient of 0, but for rounding
        atol = 1e-4 * float(theirs[name].abs().max()) + 1e-6 * largest
        torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=1e-3)


def test_both_are_a_plain_forward_of_one_answer(both, policy):
    model, processor = policy
    asked = prompts(6)
    rollout = made_rollout(processor, asked, LENGTHS, 3)
    rows, out, _ = outputs(both[0], processor, asked, rollout, range(18))
    counts = [len(p.images) for p in asked]
    for r in range(18):
        p = r // 3
        first = sum(counts[:p])
        shown = {"pixel_values": rollout.images["pixel_values"][first : first + counts[p]]}
        with torch.no_grad():
            logits = model(
                input_ids=rows.input_ids[r : r + 1, : rows.lengths[r]],
                **shown if counts[p] else {},
            ).logits[0, rows.starts[r] - 1 : -1]
        answer = rows.ids[r][rows.mask[r]]
        wanted = (logits / 0.7).log_softmax(-1)
        found = out.logprobs[r][rows.mask[r]]
        torch.testing.assert_close(
            found, wanted.gather(-1, answer[:, None])[:, 0], atol=1e-4, rtol=0
        )
        entropy = -(wanted.exp() * wanted).sum(-1)
        torch.testing.assert_close(out.entropy[r][rows.mask[r]], entropy, atol=1e-4, rtol=0)


def test_a_prompt_is_held_once(policy):
    rollout = made_rollout(policy[1], prompts(2), LENGTHS, 3)
    rows = rows_of(policy[1], rollout)
    packed = pack(rows, torch.float32)
    answers = rows.mask.sum(1).view(2, 3) - 1  # the last token of each predicts nothing
    for p in range(2):
        prompt = int(rows.starts[3 * p])
        assert packed.asked[p].sum() == prompt
        used = prompt + int(answers[p].sum())
        assert (packed.attention_mask[p, 0, :used] == 0).any(1).all()
        # What an answer sees: the prompt, and its own past. Never another answer.
        first = prompt
        for a in range(3):
            for t in range(int(answers[p, a])):
                seen = (packed.attention_mask[p, 0, first + t] == 0).nonzero().flatten().tolist()
                assert seen == [*range(prompt), *range(first, first + t + 1)]
                assert packed.position_ids[p, first + t] == prompt + t
            first += int(answers[p, a])


def test_the_placeholder_in_an_answer_is_a_word(both, policy):
    """It takes no feature, shifts none, and changes nothing before it and in other answers."""
    model, processor = policy
    asked, image = prompts(6), model.config.image_token_id
    plain = made_rollout(processor, asked, LENGTHS, 3)
    # In the middle of an answer, at its end, in one without a picture, and alone.
    places = [(1, 2), (4, 6), (7, 0), (0, 0)]
    said = made_rollout(processor, asked, LENGTHS, 3, tokens=dict.fromkeys(places, image))
    rows, before, _ = outputs(both[0], processor, asked, plain, range(18))
    _, after, _ = outputs(both[0], processor, asked, said, range(18))
    _, alone, _ = outputs(both[1], processor, asked, said, range(18))
    torch.testing.assert_close(
        after.logprobs[rows.mask], alone.logprobs[rows.mask], atol=1e-5, rtol=1e-4
    )
    untouched = rows.mask.clone()
    for row, place in places:
        untouched[row, place:] = False
    assert torch.equal(after.logprobs[untouched], before.logprobs[untouched])
    later = rows.mask & ~untouched
    assert not torch.allclose(after.logprobs[later], before.logprobs[later])
