"""Preference pairs from a model's own answers, judged by what is known of the picture. Chapter 5."""

from collections.abc import Callable, Sequence

from labs.data.preference import Annotator, PairReport, Sampled, make_pairs
from labs.errors import InputError
from labs.formats import IMAGE, Preference, Turn, load_image
from labs.models.rollout import sample_completions
from labs.shapes import caption
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
    judge: Reward | None = None,
    max_new_tokens: int = 128,
    keep_equal: bool = False,
    per_prompt: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 256,
) -> tuple[list[Preference], PairReport]:
    """Samples `num_generations` answers a prompt and makes pairs of them.

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
    samples, unjudged = [], 0
    for start in range(0, len(prompts), CHUNK):
        chosen = [prompts[i] for i in range(start, min(start + CHUNK, len(prompts)))]
        rollout = sample_completions(
            model, processor, [p.messages for p in chosen],
            [[load_image(image) for image in p.images] for p in chosen],
            num_generations=num_generations, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed + start, batch_size=batch_size,
        )  # fmt: skip
        asked = [p for p in chosen for _ in range(num_generations)]
        said = [
            Completion(text, tokens, finished)
            for text, tokens, finished in zip(
                rollout.texts, rollout.mask.sum(1).tolist(), rollout.finished.tolist(), strict=True
            )
        ]
        quality = _quality(judge, asked, said)
        for number, prompt in enumerate(chosen):
            own = slice(number * num_generations, (number + 1) * num_generations)
            if any(q is None for q in quality[own]):
                unjudged += 1
            else:
                texts = tuple(c.text for c in said[own])
                samples.append(_sampled(prompt, texts, tuple(quality[own])))
        if progress:
            progress(start + len(chosen))
    tokenizer = getattr(processor, "tokenizer", processor)
    pairs, report = make_pairs(
        samples, annotator, keep_equal=keep_equal, per_prompt=per_prompt, seed=seed,
        tokenize=None if max_tokens is None else lambda text: tokenizer(text)["input_ids"],
        max_tokens=max_tokens,
    )  # fmt: skip
    report.unjudged = unjudged
    return pairs, report


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
