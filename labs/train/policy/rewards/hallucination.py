"""Penalties for what is not in the picture. Chapter 5."""

from collections.abc import Sequence

from labs.evaluation.answers import read_yes_no
from labs.evaluation.answers.normal import bare, normal
from labs.evaluation.answers.yes_no import plain_verdict
from labs.shapes import mentions
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt


class HallucinationPenalty:
    """Minus the number of kinds that a completion names and the scene does not show; 0 otherwise.

    Whatever was asked; what is denied ("there is no ring") is not named. None without a scene. This is
    CHAIR's count (Rohrbach et al. 2018, arXiv:1809.02156), one a kind. Chapter 5.
    """

    name = "hallucination"

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        return [
            None if (scene := prompt.about.get("scene")) is None
            else 0.0 - len({m.kind for m in mentions(completion.text)} - scene.kinds)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]  # fmt: skip


class YesBiasBonus:
    """LLaVA-RLHF's asymmetric bonus: where the truth is no, "no" earns +0.5 and "yes" loses 0.5.

    Where the truth is yes nothing is added: a model that already says yes too often needs no more
    reason to. Answers that are neither get 0; questions of another kind get None.

    LLaVA-RLHF (llava-rlhf/LLaVA-RLHF, RLHF/models/ppo_trainer.py, `correct_bonus`; its script
    multiplies it by 2). There an answer is what it starts with; here it is read whole. Chapter 5.
    """

    name = "yes_bias"

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        return [self._score(p, c.text) for p, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, text: str) -> float | None:
        truth = plain_verdict(bare(normal(prompt.answer or "")).lower())
        if truth is None:
            return None
        said = read_yes_no(text).value
        return 0.0 if truth or said is None else (-0.5 if said else 0.5)
