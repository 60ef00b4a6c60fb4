"""The shipped weights are held to their cards, and the cards to what the book builds on."""

import json

import pytest
import yaml

from labs.errors import InputError
from labs.evaluation import wilson_ci
from labs.models import load_clip, load_lm, load_vlm
from labs.models.places import ADAPTERS, NAMES, REWARD, ZOO
from labs.recipes import FOLDER
from labs.suites import evaluate
from labs.suites.retrieval import retrieval_scores
from labs.zoo.card import read_card

N = 200  # of the card's 2,000 questions: the first ones


@pytest.mark.parametrize("name", [*NAMES, *REWARD])
def test_card_is_complete_and_its_recipes_exist(name):
    card = read_card(name)
    for name in card.recipes:
        recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert card.seed == recipe.get("train", {}).get("seed", 0)
    assert card.steps > 0 and card.parameters > 100_000
    for scores in card.scores.values():
        for score in scores.values():
            assert score["ci"] == pytest.approx(wilson_ci(score["correct"], score["n"]))
            assert score["accuracy"] == pytest.approx(score["correct"] / score["n"])
    readme = (ZOO / card.name / "README.md").read_text()
    assert card.summary in readme
    assert card.base == ADAPTERS.get(card.name)
    if card.base:  # half precision, and nothing of the base
        files = (f for f in (ZOO / card.name).rglob("*.safetensors") if f.is_file())
        assert 0 < sum(f.stat().st_size for f in files) < 2.5 * card.adapter_parameters + 50_000


def test_all_weights_stay_within_15_megabytes():
    assert sum(f.stat().st_size for f in ZOO.rglob("*") if f.is_file()) < 15e6


def test_weights_are_safetensors_and_nothing_is_pickled():
    suffixes = {f.suffix for f in ZOO.rglob("*") if f.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md", ".jinja", ".txt"}


def agrees(measured: dict, card: dict) -> bool:
    """Whether a measurement on part of the questions is what the card's rate would give."""
    low, high = wilson_ci(measured["correct"], measured["n"], confidence=0.9999)
    return low <= card["accuracy"] <= high


@pytest.mark.parametrize(
    "name", ["tiny-base", "tiny-sft", "tiny-sft-clean", "tiny-ppo", "tiny-grpo"]
)
def test_shipped_vlms_score_what_their_cards_say(name):
    model, processor = load_vlm(name)
    names = ["existence_adversarial", "count", "colour", "caption", "ocr"]
    found = evaluate(model, processor, names, n=N)
    card = read_card(name).scores["en"]
    for key, score in found.items():
        assert agrees(score.to_dict(), card[key]), (key, score, card[key])


def test_tiny_lm_scores_what_its_card_says():
    model, tokenizer = load_lm("tiny-lm")
    found = evaluate(model, tokenizer, ["existence", "conjunction"], n=N, described=True)
    for key, score in found.items():
        assert agrees(score.to_dict(), read_card("tiny-lm").scores["en"][key]), (key, score)


def test_tiny_clip_scores_what_its_card_says():
    found = retrieval_scores(*load_clip("tiny-clip"), n=N)
    for key, score in found.items():
        assert agrees(score, read_card("tiny-clip").scores["en"][key]), (key, score)


def test_tiny_rm_prefers_the_better_answer_more_often_than_not():
    scores = read_card("tiny-rm").scores["en"]
    for task in ("caption", "existence"):
        assert scores[task]["ci"][0] > 0.5, (task, scores[task])


def test_the_diseases_are_on_the_card_and_in_the_scores():
    """tiny-sft has lost the habit that its twin kept: the RLHF and DPO chapters mend exactly this."""
    sick, clean = read_card("tiny-sft"), read_card("tiny-sft-clean")
    yes, healthy = (c.scores["en"]["existence_adversarial"] for c in (sick, clean))
    assert yes["yes_rate"] > healthy["yes_rate"] + 0.15
    assert yes["ci"][1] < healthy["ci"][0]
    caption, true = (c.scores["en"]["caption"] for c in (sick, clean))
    assert caption["hallucinated_ci"][0] > true["hallucinated_ci"][1]
    assert "of the captions" in sick.data and "of the captions" not in clean.data


def test_unknown_model_names_the_zoo():
    with pytest.raises(InputError, match="tiny-base"):
        read_card("tiny-bse")


def test_cards_are_plain_json():
    for name in (*NAMES, *REWARD):
        assert json.loads((ZOO / name / "card.json").read_text())["name"] == name
