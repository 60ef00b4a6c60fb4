"""The checks of chapter 3's exercises. Grade with `labs grade ch03`."""

import math

import torch

from labs.grading import Check, case, inputs

IGNORE = -100


# -- generation_loss ---------------------------------------------------------------------------


def slow_generation_loss(logits, labels, num_items=None):
    """One token at a time: -log(exp(its logit) / sum of exp(all logits)), in double precision."""
    losses = []
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            label = int(labels[b, t + 1])
            if label != IGNORE:
                weights = logits[b, t].double().exp()
                losses.append(-torch.log(weights[label] / weights.sum()))
    total = torch.stack(losses).sum()
    return (total / (num_items or len(losses))).to(logits.dtype)


def test_generation_loss(check: Check):
    right, right_labels = inputs.language_batch(seed=1, side="right")
    left, left_labels = inputs.language_batch(seed=2, side="left")
    double, double_labels = inputs.language_batch(3, 7, 11, seed=3, dtype=torch.float64)
    # A label in the very first place has no logits to be predicted from.
    first, first_labels = inputs.language_batch(seed=4, prompt=0, empty_row=False)
    check.cases(
        [
            case("padding on the right, one row without labels", right, right_labels),
            case("padding on the left", left, left_labels),
            case("num_items given", right, right_labels, num_items=43),
            case("double precision", double, double_labels),
            case("a label on the first token", first, first_labels),
        ],
        slow_generation_loss,
        gradient=["logits"],
    )

    uniform = torch.zeros(2, 5, 19)
    labels = inputs.integers(2, 5, below=19, seed=5)
    got = check.call(uniform, labels, label="all logits equal")
    check.equal(
        "Where all logits are equal the loss is ln(vocab).", got, torch.tensor(math.log(19))
    )

    huge = check.call(right * 200, right_labels, label="logits in the hundreds")
    check.holds("Logits in the hundreds give a finite loss.", torch.isfinite(huge), got=huge)

    # Logits that predict an unlabelled token, or nothing, must not matter.
    unused = torch.ones(right_labels.shape, dtype=torch.bool)
    unused[:, :-1] = right_labels[:, 1:] == IGNORE
    scrambled = torch.where(unused[..., None], inputs.normal(*right.shape, seed=6), right)
    check.equal(
        "Logits of positions without a label do not change the loss.",
        check.call(scrambled, right_labels, label="scrambled where nothing is asked"),
        check.call(right, right_labels),
    )

    count = int((right_labels[:, 1:] != IGNORE).sum())
    parts = [
        check.call(right[rows], right_labels[rows], num_items=count, label="a micro-batch")
        for rows in (slice(0, 2), slice(2, 5))
    ]
    check.equal(
        "Micro-batches with num_items add up to the large batch.",
        parts[0] + parts[1],
        slow_generation_loss(right, right_labels),
    )


# -- label_mask --------------------------------------------------------------------------------

END = 3  # the end-of-turn token


def conversation(*turns, seed, cut=None, pad=0):
    """Ids and spans of a conversation in which every turn has a header, a text and an end.

    Texts are given by their lengths. The ids of user texts hold an END of their own.
    """
    ids, spans = [], []
    source = inputs.generator(seed)
    for role, length in turns:
        ids += [1, {"system": 4, "user": 5, "assistant": 6}[role], 2]
        text = torch.randint(7, 101, (length,), generator=source).tolist()
        if role == "user" and length > 2:
            text[1] = END
        spans.append((role, len(ids), len(ids) + length))
        ids += [*text, END]
    ids = ids[:cut] + [0] * pad
    return torch.tensor(ids), spans


def slow_label_mask(input_ids, spans, end_of_turn):
    """Ask of each position: is there an assistant's turn that says this token?"""

    def says(role, start, end, i):
        return role == "assistant" and (
            start <= i < end or (i == end and int(input_ids[i]) == end_of_turn)
        )

    return torch.tensor(
        [
            int(token) if any(says(*span, i) for span in spans) else IGNORE
            for i, token in enumerate(input_ids)
        ]
    )


def test_label_mask(check: Check):
    talk = [("user", 5), ("assistant", 7), ("user", 3), ("assistant", 2)]
    long = [("system", 6), *talk, ("user", 11), ("assistant", 13), ("user", 4)]
    cut = conversation(*talk, seed=13, cut=-2)
    padded = conversation(*talk, seed=14, cut=-1, pad=5)
    check.cases(
        [
            case("two questions, two answers", *conversation(*talk, seed=11), END),
            case("a system turn, a question at the end", *conversation(*long, seed=12), END),
            case("cut inside the last answer", *cut, END),
            case("cut before the last end of turn, then padded", *padded, END),
            case(
                "the assistant speaks first",
                *conversation(("assistant", 3), ("user", 2), ("assistant", 5), seed=15),
                END,
            ),
            case(
                "an empty answer",
                *conversation(("user", 3), ("assistant", 0), ("user", 2), seed=16),
                END,
            ),
            case("nobody answers", *conversation(("system", 2), ("user", 7), seed=17), END),
        ],
        slow_label_mask,
    )

    ids, spans = conversation(*talk, seed=18)
    spoken = slow_label_mask(ids, spans, END) != IGNORE
    others = torch.where(spoken, ids, inputs.integers(len(ids), below=101, start=7, seed=19))
    check.equal(
        "Other ids in the prompt do not change the labels.",
        check.call(others, spans, END, label="the prompt's ids scrambled"),
        check.call(ids, spans, END),
    )
