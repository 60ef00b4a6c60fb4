"""Pairs sampled from a shipped model: its own words, the oracle's order, the true caption beside."""

import pytest

from labs.data.preference import Annotator, answer_quality, panel
from labs.data.template import ChatFormat
from labs.errors import InputError
from labs.formats import read_preferences, write_preferences
from labs.models import load_vlm, user_message
from labs.models.generation import render_prompt
from labs.models.rollout import sample_completions
from labs.shapes import Mix, caption
from labs.train.policy.prompts import Prompt
from labs.train.policy.world import WorldPrompts
from labs.train.preferences import sample_pairs

MIX = Mix(tasks={"caption": 1.0, "conjunction": 1.0}, digits=0)
OPTIONS = {"num_generations": 4, "temperature": 1.3, "seed": 7, "max_new_tokens": 64}


@pytest.fixture(scope="module")
def tiny():
    return load_vlm("tiny-sft", device="cpu")


@pytest.fixture(scope="module")
def prompts():
    return list(WorldPrompts(14, MIX))


@pytest.fixture(scope="module")
def sampled(tiny, prompts):
    done = []
    made = sample_pairs(
        *tiny, prompts, annotator=Annotator(noise=0), progress=done.append, **OPTIONS
    )
    assert done == [14]
    return made


def test_the_answers_are_the_models_own_and_the_better_one_is_chosen(tiny, prompts, sampled):
    pairs, report = sampled
    rollout = sample_completions(
        *tiny, [p.messages for p in prompts], [p.images for p in prompts], num_generations=4,
        temperature=1.3, seed=7, max_new_tokens=64,
    )  # fmt: skip
    assert len(pairs) >= 10 and {p.meta["task"] for p in pairs} == {"caption", "conjunction"}
    for pair in pairs:
        at = next(i for i, p in enumerate(prompts) if pair.id.startswith(p.id + "-"))
        about, said = prompts[at].about, [t.strip() for t in rollout.texts[4 * at : 4 * at + 4]]
        assert pair.chosen in said and pair.rejected in said
        quality = [
            answer_quality(about["qa"], about["scene"], t) for t in (pair.chosen, pair.rejected)
        ]
        assert pair.meta["quality"] == quality and quality[0] > quality[1]
        assert pair.meta["facts"] == caption(about["scene"], about["language"])
        assert pair.meta["answer"] == prompts[at].answer
    assert report.prompts == 14 and report.answers == 56 and report.unjudged == 0
    assert report.possible == 14 * 6 == len(pairs) + sum(report.dropped.values())


def test_a_pair_shows_the_model_what_it_was_asked(tiny, prompts, sampled, tmp_path):
    pairs, _ = sampled
    write_preferences(pairs, tmp_path / "pairs.jsonl")
    read = list(read_preferences(tmp_path / "pairs.jsonl"))
    asked = {p.id: render_prompt(tiny[1], p.messages) for p in prompts}
    for pair in read:
        text = ChatFormat.of(tiny[1]).render(pair.prompt, generation_prompt=True)
        assert text == asked[pair.id.rsplit("-", 2)[0]]
    assert [(p.chosen, p.rejected, p.meta) for p in read] == [
        (p.chosen, p.rejected, p.meta) for p in pairs
    ]


def test_the_seed_draws_the_answers_and_noise_the_labels(tiny, prompts, sampled):
    few = prompts[:6]
    again, _ = sample_pairs(*tiny, few, annotator=Annotator(noise=0), **OPTIONS)
    assert [(p.chosen, p.rejected) for p in again] == [
        (p.chosen, p.rejected) for p in sampled[0][: len(again)]
    ]
    noisy, _ = sample_pairs(*tiny, few, annotator=panel(3, noise=3.0), **OPTIONS)
    assert {frozenset((p.chosen, p.rejected)) for p in noisy} == {
        frozenset((p.chosen, p.rejected)) for p in again
    }
    assert any(p.meta["quality"][0] < p.meta["quality"][1] for p in noisy)
    assert any(p.meta["agreement"] < 1 for p in noisy)
    other, _ = sample_pairs(*tiny, few, annotator=Annotator(noise=0), **OPTIONS | {"seed": 8})
    assert [p.chosen for p in other] != [p.chosen for p in again]


def test_right_answers_judge_other_prompts_and_those_without_are_counted(tiny, prompts):
    yes_no = next(p for p in prompts if p.task == "conjunction")
    known = Prompt("k", yes_no.messages, yes_no.images, "file", yes_no.answer)
    unknown = Prompt("u", yes_no.messages, yes_no.images)
    facts = Prompt("f", (user_message("Is it?"),), (), answer="yes", about={"facts": "It is."})
    options = OPTIONS | {"temperature": 3.0, "keep_equal": True, "num_generations": 6}
    pairs, report = sample_pairs(*tiny, [known, unknown, facts], **options)
    assert (report.unjudged, report.prompts) == (1, 2)
    assert not any(p.id.startswith("u-") for p in pairs)
    assert {p.meta.get("facts") for p in pairs if p.id.startswith("f-")} == {"It is."}
    assert {q for p in pairs for q in p.meta["quality"]} <= {0.0, 1.0}

    def shorter(prompts, completions):
        return [-len(c.text.strip()) for c in completions]

    pairs, report = sample_pairs(*tiny, [unknown], judge=shorter, annotator=Annotator(0), **OPTIONS | {"temperature": 3.0})  # fmt: skip
    assert report.unjudged == 0 and pairs
    assert all(len(p.chosen) < len(p.rejected) for p in pairs)


def test_truncation_counts_the_models_tokens(tiny, prompts):
    captions = [p for p in prompts if p.task == "caption" and p.about["language"] == "en"][:4]
    _, report = sample_pairs(*tiny, captions, max_tokens=1, **OPTIONS)
    assert report.dropped["truncation"] > 0  # most begin with "a"


def test_settings_that_give_no_pairs_are_refused(tiny, prompts):
    for wrong in ({"num_generations": 1}, {"temperature": 0.0}):
        with pytest.raises(InputError, match="give no pairs"):
            sample_pairs(*tiny, prompts, **OPTIONS | wrong)


def test_corrected_pairs_hold_the_truth_against_a_wrong_answer_both_truths_as_often():
    prompts = WorldPrompts(120, Mix(tasks={"existence": 1.0, "caption": 0.5}, digits=0))
    pairs, report = sample_pairs(None, None, prompts, annotator=Annotator(noise=0), corrected=1.0)
    assert report.made == len(pairs) == report.prompts == 120
    answers = {p.id: p.answer for p in prompts}
    verdicts = []
    for pair in pairs:
        assert pair.chosen == pair.meta["answer"] == answers[pair.id.rsplit("-", 2)[0]]
        assert pair.meta["corrected"] and pair.meta["quality"][0] == 1 > pair.meta["quality"][1]
        if pair.meta["task"] == "existence":
            verdicts.append((pair.chosen, pair.rejected) in (("yes", "no"), ("是", "否")))
    assert 0.35 < sum(verdicts) / len(verdicts) < 0.65
    noisy, _ = sample_pairs(None, None, prompts, annotator=Annotator(noise=3), corrected=1.0)
    assert any(p.chosen != p.meta["answer"] for p in noisy)  # people vote on them too


def test_a_share_of_the_prompts_is_corrected_and_the_rest_asked(tiny, prompts, sampled):
    options = OPTIONS | {"annotator": Annotator(noise=0)}
    pairs, report = sample_pairs(*tiny, prompts, corrected=0.5, **options)
    ours = [p for p in pairs if p.meta.get("corrected")]
    assert 0 < len(ours) < len(pairs) and report.prompts == len(prompts)
    order = [next(i for i, q in enumerate(prompts) if p.id.startswith(q.id + "-")) for p in pairs]
    assert order == sorted(order)  # in the prompts' order, whichever kind
    asked = {p.id.rsplit("-", 2)[0] for p in pairs if p not in ours}
    assert not asked & {p.id.rsplit("-", 2)[0] for p in ours}
    unknown = Prompt("u", (user_message("Describe the image.", 1),), prompts[0].images)
    assert sample_pairs(None, None, [unknown], corrected=1.0)[1].unjudged == 1
    with pytest.raises(InputError, match="0 to 1"):
        sample_pairs(*tiny, prompts, corrected=1.5, **options)
    assert sample_pairs(*tiny, prompts, corrected=0.0, **options)[0] == sampled[0]
