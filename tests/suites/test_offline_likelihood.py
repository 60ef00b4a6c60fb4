"""Choosing by likelihood: the numbers are those of a loop over tokens, whatever the batches."""

from dataclasses import replace

import pytest
import torch

from labs.errors import InputError
from labs.models import build_tiny_llava, build_tiny_lm
from labs.models.generation import encode_prompts, render_prompt, user_message
from labs.suites.contract import Question, row_of
from labs.suites.likelihood import LikelihoodAnswerer
from labs.suites.offline import Choice, Ocr, Thinking

questions_of = {
    language: list(Choice(n=8, language=language).questions()) for language in ("en", "zh")
}


@pytest.fixture(scope="module")
def llava():
    return build_tiny_llava(seed=1)


@torch.inference_mode()
def token_by_token(model, processor, message, images, candidate):
    """log p of the candidate and its end, asked one token after the other, without any padding."""
    tokenizer = getattr(processor, "tokenizer", processor)
    batch = encode_prompts(processor, [render_prompt(processor, [message])], [images])
    wanted = tokenizer(candidate, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    total = 0.0
    for token in wanted:
        logits = model(**batch).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        for key, value in (("input_ids", token), ("attention_mask", 1)):
            batch[key] = torch.cat([batch[key], torch.tensor([[value]])], dim=1)
        if "token_type_ids" in batch:
            batch.pop("token_type_ids")
    return total, len(wanted)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_log_probabilities_are_those_of_a_loop_over_tokens(llava, language):
    model, processor = llava
    questions = questions_of[language][:2]  # whole captions, and colours
    found = LikelihoodAnswerer(model, processor, "x").log_probabilities(questions)
    mean = LikelihoodAnswerer(model, processor, "x", average=True).log_probabilities(questions)
    for question, scores, averages in zip(questions, found, mean, strict=True):
        message = user_message(question.about["question"], images=1)
        for candidate, score, average in zip(
            question.about["candidates"][:2], scores, averages, strict=False
        ):
            total, tokens = token_by_token(model, processor, message, question.images, candidate)
            assert score == pytest.approx(total, abs=2e-3)
            assert average == pytest.approx(total / tokens, abs=1e-3)


def test_a_text_only_model_reads_the_description():
    model, tokenizer = build_tiny_lm(seed=1)
    answerer = LikelihoodAnswerer(model, tokenizer, "x")
    assert answerer.described and answerer.describe()["pictures"] == "described"
    [question] = questions_of["en"][1:2]
    [scores] = answerer.log_probabilities([question])
    text = question.about["description"] + "\n" + question.about["question"]
    candidate = question.about["candidates"][0]
    total, _ = token_by_token(model, tokenizer, user_message(text), [], candidate)
    assert scores[0] == pytest.approx(total, abs=2e-3)
    other = replace(
        question, about=question.about | {"description": "a small blue star at the top."}
    )
    assert answerer.log_probabilities([other])[0] != scores


def test_batches_and_order_change_nothing(llava):
    questions = questions_of["en"]
    small, large = (LikelihoodAnswerer(*llava, "x", batch_size=size) for size in (1, 32))
    once, again = small.log_probabilities(questions), large.log_probabilities(questions)
    assert torch.tensor(once) == pytest.approx(torch.tensor(again), abs=1e-3)
    backwards = large.log_probabilities(questions[::-1])[::-1]
    assert torch.tensor(backwards) == pytest.approx(torch.tensor(again), abs=1e-3)


def test_the_likeliest_candidates_letter_is_the_answer_with_its_margin(llava):
    answerer = LikelihoodAnswerer(*llava, "x")
    questions = questions_of["en"]
    for answer, scores in zip(
        answerer.answer(questions), answerer.log_probabilities(questions), strict=True
    ):
        best, second = sorted(scores, reverse=True)[:2]
        assert answer.text == "ABCD"[scores.index(best)]
        assert (answer.tokens, answer.finished) == (0, True)
        [thought] = answer.thoughts
        assert float(thought.split("margin ")[1]) == pytest.approx(best - second, abs=2e-3)
        for letter, score in zip("ABCD", scores, strict=True):
            assert f"{letter} {score:.3f}" in thought


def test_answers_are_read_by_the_suite(llava):
    suite = Choice(n=8)
    questions = list(suite.questions())
    answers = LikelihoodAnswerer(*llava, "x").answer(questions)
    rows = [row_of(suite, q, a) for q, a in zip(questions, answers, strict=True)]
    assert {row.status for row in rows} == {"read"}
    assert [row.parsed for row in rows] == [answer.text for answer in answers]


def test_a_candidate_that_begins_with_another_is_not_beaten_by_length_alone(llava):
    """Without the end of the turn "at the top" is at least as likely as anything that goes on."""
    about = {
        "question": "Where is the ring?",
        "candidates": ["at the top", "at the top left"],
        "letters": ["A", "B"],
    }
    question = Question("q", "", "A", questions_of["en"][0].images, about)
    model, processor = llava
    [[short, long]] = LikelihoodAnswerer(model, processor, "x").log_probabilities([question])
    end = processor.tokenizer.eos_token_id
    with torch.inference_mode():
        message = [user_message("Where is the ring?", images=1)]
        batch = encode_prompts(processor, [render_prompt(processor, message)], [question.images])
        ids = processor.tokenizer("at the top", add_special_tokens=False)["input_ids"]
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([ids])], 1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        after = model(**batch).logits[0, -1].log_softmax(-1)
    ending = float(after[end])
    left = processor.tokenizer(" left", add_special_tokens=False)["input_ids"]
    going_on = float(after[left[0]])
    assert long - short <= going_on - ending + 2e-3


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda first: next(Ocr(n=1).questions()), "no question"),
        (lambda first: next(Thinking(n=2).questions()), "no question"),
        (
            lambda first: replace(first, about=first.about | {"letters": ["A"]}),
            "4 candidates and 1",
        ),
        (lambda first: replace(first, before=("Describe the image.",)), "turn before"),
    ],
)
def test_questions_without_candidates_are_named(llava, make, wrong):
    question = make(questions_of["en"][0])
    with pytest.raises(InputError, match=wrong) as error:
        LikelihoodAnswerer(*llava, "x").answer([question])
    assert question.id in error.value.what


def test_a_text_only_model_needs_a_description():
    model, tokenizer = build_tiny_lm(seed=1)
    about = {k: v for k, v in questions_of["en"][0].about.items() if k != "description"}
    with pytest.raises(InputError, match="no description"):
        LikelihoodAnswerer(model, tokenizer, "x").answer(
            [replace(questions_of["en"][0], about=about)]
        )
    with pytest.raises(InputError, match="text-only"):
        LikelihoodAnswerer(model, tokenizer, "x", described=False)


def test_a_broken_picture_is_named(llava):
    question = replace(questions_of["en"][0], images=("data:image/png;base64,AAAA",))
    with pytest.raises(InputError, match=question.id):
        LikelihoodAnswerer(*llava, "x").answer([question])


def test_it_tells_what_a_reader_needs_to_ask_again(llava):
    answerer = LikelihoodAnswerer(*llava, "x", average=True, told={"kind": "vlm"})
    told = answerer.describe()
    assert (told["name"], told["average"], told["answers"]) == ("x", True, "likelihood")
    assert (told["pictures"], told["kind"], told["class"]) == (
        "seen", "vlm", "LlavaForConditionalGeneration",
    )  # fmt: skip
    [longest] = sorted(questions_of["en"], key=answerer.length)[-1:]
    assert answerer.length(longest) > 10
