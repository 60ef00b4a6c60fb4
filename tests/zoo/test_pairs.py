"""The pairs that a shipped reward model is scored by: held out, true against wrong, by task and truth."""

import torch

from labs.evaluation import wilson_ci
from labs.models import load_vlm
from labs.models.scalar_head import RewardModel
from labs.train.reward_run import score_pairs
from labs.zoo.pairs import held_out_pairs, score_row


def test_yes_no_questions_count_together_and_by_what_is_true():
    for language, yes in (("en", "yes"), ("zh", "是")):
        rows = held_out_pairs(None, "existence", language, 80)
        assert set(rows) == {"existence", "existence, yes", "existence, no"}
        assert {p.chosen for p in rows["existence, yes"]} == {yes}
        assert {p.rejected for p in rows["existence, no"]} == {yes}
        apart = sorted(p.id for row in ("existence, yes", "existence, no") for p in rows[row])
        assert apart == sorted(p.id for p in rows["existence"]) and len(apart) == 80
        assert 0.35 < len(rows["existence, yes"]) / 80 < 0.65
    assert set(held_out_pairs(None, "colour", "en", 6)) == {"colour"}


def test_captions_are_the_bases_own_and_true_against_spoilt_ones():
    asked = load_vlm("tiny-sft")
    rows = held_out_pairs(asked, "caption", "en", 16, "val")
    assert set(rows) == {"caption", "caption, corrected"}
    assert all(p.meta["quality"][0] > p.meta["quality"][1] for row in rows.values() for p in row)
    assert not any("corrected" in p.meta for p in rows["caption"]) and rows["caption"]
    assert all(p.chosen == p.meta["facts"] for p in rows["caption, corrected"])
    assert set(held_out_pairs(None, "caption", "en", 2)) == {"caption, corrected"}
    rated = RewardModel(*asked, "tiny-sft", torch.Generator().manual_seed(3)).eval()
    pairs = rows["caption"] + rows["caption, corrected"]
    found, differences = score_row(rated, pairs), score_pairs(rated, asked[1], pairs).differences
    assert found["n"] == len(pairs) and found["correct"] == sum(d > 0 for d in differences)
    assert found["ci"] == list(wilson_ci(found["correct"], len(pairs)))
