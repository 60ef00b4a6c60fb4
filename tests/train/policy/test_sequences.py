"""Rows end to end, against a loop over tokens."""

import pytest
import torch

from tests.train.policy.policy_runs import made_rollout, prompts, rows_of

LENGTHS = [1, 5, 3, 2, 4, 1, 6]


@pytest.fixture(scope="module")
def rollout(processor):
    return made_rollout(processor, prompts(5), LENGTHS, 3)


@pytest.fixture(scope="module")
def rows(processor, rollout):
    return rows_of(processor, rollout)


def said(rollout, row: int) -> tuple[list[int], list[int]]:
    """(prompt, answer) of a completion, padding taken off."""
    p = row // rollout.num_generations
    asked = rollout.prompt_ids[p][rollout.prompt_mask[p].bool()].tolist()
    return asked, rollout.ids[row][rollout.mask[row].bool()].tolist()


def test_a_row_is_its_prompt_and_its_answer_end_to_end(processor, rollout, rows):
    assert len({len(said(rollout, r)[0]) for r in range(len(rows))}) > 2, "prompts of many lengths"
    for r in range(len(rows)):
        asked, answer = said(rollout, r)
        n = len(asked) + len(answer)
        assert rows.input_ids[r, :n].tolist() == asked + answer
        assert (rows.input_ids[r, n:] == processor.tokenizer.pad_token_id).all()
        assert (rows.starts[r], rows.lengths[r]) == (len(asked), n)
        assert rows.attention_mask[r].tolist() == [1] * n + [0] * (rows.input_ids.shape[1] - n)
        assert rows.asked[r].tolist() == [True] * len(asked) + [False] * (
            rows.input_ids.shape[1] - len(asked)
        )
        assert rows.prompt[r] == r // 3


def test_a_token_is_predicted_by_the_position_before_it(rollout, rows):
    for r in range(len(rows)):
        for t in range(int(rows.mask[r].sum())):
            assert rows.input_ids[r, rows.places[r, t] + 1] == rollout.ids[r, t]


def test_padding_reads_a_position_that_exists(rows):
    assert rows.places.min() >= 0 and rows.places.max() < rows.input_ids.shape[1]


def test_selected_rows_are_the_same_without_the_others_padding(rollout, rows):
    for chosen in ([0], [4, 1], [9, 3, 12, 7]):
        part = rows.select(torch.tensor(chosen))
        longest = max(sum(map(len, said(rollout, r))) for r in chosen)
        assert part.input_ids.shape == (len(chosen), longest)
        assert part.ids.shape[1] == max(len(said(rollout, r)[1]) for r in chosen)
        for i, r in enumerate(chosen):
            asked, answer = said(rollout, r)
            assert part.input_ids[i, : part.lengths[i]].tolist() == asked + answer
            assert part.ids[i][part.mask[i]].tolist() == answer
            assert part.prompt[i] == r // 3
            at = part.places[i, : len(answer)].tolist()
            assert at == list(range(len(asked) - 1, len(asked) + len(answer) - 1))
