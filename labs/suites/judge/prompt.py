"""A judge that is shown both answers and asked which is better."""

from collections.abc import Sequence
from typing import Literal

from labs.errors import InputError
from labs.suites.judge.base import Judge, Request
from labs.suites.judge.model import JudgeModel
from labs.suites.judge.pairs import Pair, is_chinese
from labs.suites.judge.verdicts import read_verdict

# After MT-Bench's "pair-v2" (Zheng et al. 2023, arXiv:2306.05685, figure 5), about a picture.
TEMPLATES = {
    "en": (
        "Two assistants answered a question about the picture. Judge which answer is better: it "
        "says what is in the picture, says more of it, and invents nothing. The order in which the "
        "answers stand and their length must not count.\n\n"
        "Question: {question}\n\n"
        "[Answer A]\n{first}\n[End of answer A]\n\n"
        "[Answer B]\n{second}\n[End of answer B]\n\n"
        "{end}"
    ),
    "zh": (
        "两个助手回答了一个关于图片的问题。请判断哪个答案更好：符合图片内容，说得更全，没有编造。"
        "答案的先后顺序和长短不应影响判断。\n\n"
        "问题：{question}\n\n"
        "[答案A]\n{first}\n[答案A结束]\n\n"
        "[答案B]\n{second}\n[答案B结束]\n\n"
        "{end}"
    ),
}
ENDS = {
    "text": {
        "en": "Explain in one sentence. Then write [[A]] if answer A is better, [[B]] if answer B is "
        "better, [[C]] for a tie.",
        "zh": "用一句话说明理由。然后写出结论：答案A更好写[[A]]，答案B更好写[[B]]，一样好写[[C]]。",
    },
    "logits": {
        "en": "Which answer is better? Write one letter, A or B.",
        "zh": "哪个答案更好？只写一个字母，A或B。",
    },
}


class PromptJudge(Judge):
    """Asks a vision-language model which of two answers, labelled A and B, is better.

    by="text": the model explains and the verdict is read from its words (`read_verdict`); what cannot
    be read has no verdict. by="logits": the letter with the higher next-token probability wins; every
    answer is readable, no explanation is paid for, and a model that was never trained to judge shows
    in the raw what it goes by, which is mostly the place.

    language: "en", "zh", or None for the question's own. model, processor: from `load_vlm`.

    Zheng et al. 2023, arXiv:2306.05685; Wang et al. 2023, arXiv:2305.17926 (position bias). Chapter 7.
    """

    def __init__(
        self,
        model,
        processor,
        model_name: str,
        *,
        by: Literal["text", "logits"] = "text",
        language: Literal["en", "zh"] | None = None,
        max_new_tokens: int = 96,
    ):
        super().__init__()
        if by not in ENDS:
            raise InputError(f"by = {by!r} is unknown.", 'Use "text" or "logits".')
        if language not in (None, *TEMPLATES):
            raise InputError(f"There is no template for {language!r}.", "Use 'en' or 'zh'.")
        self.by, self.language, self.max_new_tokens = by, language, max_new_tokens
        self.name, self.model = f"prompt ({by}) by {model_name}", model_name
        self.asked = JudgeModel(model, processor, model_name)

    def requests(self, pairs: Sequence[Pair]) -> list[Request]:
        new = self.max_new_tokens if self.by == "text" else 0
        return [Request(pair.images, self._prompt(pair), None, new) for pair in pairs]

    def compare(self, pairs, *, batch_size=32, progress=None) -> list[str | None]:
        requests = self.requests(pairs)
        if self.by == "text":
            return [read_verdict(said) for said in self.asked.say(requests, batch_size, progress)]
        scores = self.asked.next_token(requests, "AB", batch_size, progress)
        return ["tie" if a == b else "first" if a > b else "second" for a, b in scores]

    def lengths(self, requests):
        return self.asked.lengths(requests)

    def describe(self) -> dict:
        return {
            "kind": "prompt", "name": self.name, "model": self.model, "by": self.by,
            "language": self.language, "max_new_tokens": self.max_new_tokens,
        }  # fmt: skip

    def _prompt(self, pair: Pair) -> str:
        language = self.language or ("zh" if is_chinese(pair.question) else "en")
        return TEMPLATES[language].format(
            question=self.asked.plain(pair.question),
            first=self.asked.plain(pair.first.strip()),
            second=self.asked.plain(pair.second.strip()),
            end=ENDS[self.by][language],
        )
