"""Preference pairs: a model's own answers, or true against wrong ones, judged by what is known of the
picture. Chapter 5."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from labs.data.preference import Annotator, PairReport, Sampled, answer_quality, make_pairs
from labs.data.preference.corrected import wrong_answer
from labs.errors import InputError
from labs.formats import IMAGE, Preference, Turn, load_image
from labs.models.rollout import sample_completions
from labs.shapes import caption, seeded
from labs.train.policy.completion import Completion, Reward
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards import AnswerReward, WorldReward
from labs.train.policy.rewards.check import run_reward

CHUNK = 128  # prompts whose pictures are open at once


def sample_pairs(
    model,
    processor,
    prompts: Sequence[Prompt],
    num_generations: int = 4,
    temperature: float = 1.0,
    annotator: Annotator | Sequence[Annotator] = Annotator(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    *,
    corrected: float = 0.0,
    judge: Reward | None = None,
    max_new_tokens: int = 128,
    keep_equal: bool = False,
    per_prompt: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 256,
) -> tuple[list[Preference], PairReport]:
    """Samples `num_generations` answers a prompt and makes pairs of them.

    corrected: the share of the prompts, drawn by `seed`, that are not asked: their pair is the true answer
    and a plausible wrong one (`labs.data.preference.corrected.wrong_answer`), with "corrected": true in
    its `meta`, and the annotators vote on it as on any other. They need prompts of the world; others
    are counted as `unjudged`. At 1 the model is not used, and may be None.
    judge: the reward that says how good an answer is. Default: the oracle for prompts of the world,
    the right answer for others; prompts of whose answers it says nothing are counted as `unjudged`.
    annotator: one or a panel; sees the qualities with its noise and its biases.
    max_tokens: drop pairs that are equal when cut to so many tokens, as by a trainer.
    keep_equal, per_prompt: as in `labs.data.preference.make_pairs`. batch_size: answers sampled at
    once. progress: called with the number of prompts done.

    A pair's `meta` has the prompt's task, language and right answer, and as "facts" the true caption of
    the scene (or the prompt's own about["facts"]), beside what `make_pairs` keeps.

    Raises InputError for fewer than 2 generations or a temperature of 0: the answers would all be
    one. Chapter 5.
    """
    if num_generations < 2 or temperature <= 0:
        raise InputError(
            f"{num_generations} answers a prompt at temperature {temperature:g} give no pairs.",
            "Sample 2 or more at a temperature above 0.",
        )
    if not 0 <= corrected <= 1:
        raise InputError(f"A share of {corrected:g} is to be corrected.", "Give 0 to 1.")
    ours = [seeded("source", seed, i).random() < corrected for i in range(len(prompts))]
    asked = [i for i, own in enumerate(ours) if not own]
    written = [(i, _written(prompts[i], seed)) for i, own in enumerate(ours) if own]
    samples = {i: sample for i, sample in written if sample}
    for start in range(0, len(asked), CHUNK):
        numbers = asked[start : start + CHUNK]
        chosen = [prompts[i] for i in numbers]
        rollout = sample_completions(
            model, processor, [p.messages for p in chosen],
            [[load_image(image) for image in p.images] for p in chosen],
            num_generations=num_generations, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed + start, batch_size=batch_size,
        )  # fmt: skip
        repeated = [p for p in chosen for _ in range(num_generations)]
        said = [
            Completion(text, tokens, finished)
            for text, tokens, finished in zip(
                rollout.texts, rollout.mask.sum(1).tolist(), rollout.finished.tolist(), strict=True
            )
        ]
        quality = _quality(judge, repeated, said)
        for place, (number, prompt) in enumerate(zip(numbers, chosen, strict=True)):
            own = slice(place * num_generations, (place + 1) * num_generations)
            if all(q is not None for q in quality[own]):
                texts = tuple(c.text for c in said[own])
                samples[number] = _sampled(prompt, texts, tuple(quality[own]))
        if progress:
            progress(start + len(chosen))
    tokenizer = getattr(processor, "tokenizer", processor)
    pairs, report = make_pairs(
        [samples[i] for i in sorted(samples)], annotator, keep_equal=keep_equal,
        per_prompt=per_prompt, seed=seed,
        tokenize=None if max_tokens is None else lambda text: tokenizer(text)["input_ids"],
        max_tokens=max_tokens,
    )  # fmt: skip
    report.unjudged = len(prompts) - len(samples)
    return pairs, report


def _written(prompt: Prompt, seed: int) -> Sampled | None:
    """The true answer and a wrong one, as if sampled; None where the picture is not known."""
    scene, qa = prompt.about.get("scene"), prompt.about.get("qa")
    if scene is None or qa is None:
        return None
    rng = seeded("corrected", seed, prompt.id)
    wrong = wrong_answer(qa, scene, prompt.about.get("language", "en"), rng)
    if wrong is None:
        return None
    texts = (qa.answer, wrong)
    made = _sampled(prompt, texts, tuple(answer_quality(qa, scene, text) for text in texts))
    return replace(made, meta={**made.meta, "corrected": True})


def _quality(judge, prompts, completions) -> list[float | None]:
    if judge is not None:
        return run_reward(judge, prompts, completions).values
    world = run_reward(WorldReward(), prompts, completions).values
    answers = run_reward(AnswerReward(), prompts, completions).values
    return [a if w is None else w for w, a in zip(world, answers, strict=True)]


def _sampled(prompt: Prompt, texts: tuple[str, ...], quality: tuple[float, ...]) -> Sampled:
    scene, language = prompt.about.get("scene"), prompt.about.get("language")
    facts = prompt.about.get("facts")
    if scene is not None:
        facts = caption(scene, language or "en")
    known = {"task": prompt.task or None, "language": language, "answer": prompt.answer}
    return Sampled(
        prompt.id, prompt.images, tuple(_turn(message) for message in prompt.messages), texts,
        quality, facts, {key: value for key, value in known.items() if value is not None},
    )  # fmt: skip


def _turn(message: dict) -> Turn:
    """The message as LLaVA's data writes it: "<image>" and a line's end where a picture stands."""
    content = message["content"]
    if isinstance(content, str):
        return Turn(message["role"], content)
    pieces = [IMAGE + "\n" if part["type"] == "image" else part["text"] for part in content]
    return Turn(message["role"], "".join(pieces))
