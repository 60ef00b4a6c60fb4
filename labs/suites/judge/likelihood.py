"""A judge that never sees two answers at once: the one that it would sooner have said itself wins."""

from collections.abc import Sequence

from labs.suites.judge.base import PointwiseJudge, Request
from labs.suites.judge.model import JudgeModel
from labs.suites.judge.pairs import Pair


class LikelihoodJudge(PointwiseJudge):
    """The answer with the higher log-probability under a model, given picture and question.

        mark(y) = log p(y | picture, question)      divided by the tokens of y, with `average`

    No prompt and no place, so no position bias. But the sum punishes every further word (each token
    costs), the average rewards text that goes on as expected, and a model finds what it wrote itself
    most likely of all: length bias and self-preference, which `labs.suites.judge.report` measures.

    model, processor: from `load_vlm`. Chapter 7.
    """

    def __init__(self, model, processor, model_name: str, *, average: bool = False):
        super().__init__()
        self.average = average
        self.name = f"likelihood ({'average' if average else 'sum'}) by {model_name}"
        self.model = model_name
        self.asked = JudgeModel(model, processor, model_name)

    def requests(self, pairs: Sequence[Pair]) -> list[Request]:
        return [request for pair in pairs for request in self._both(pair)]

    def marks(self, pairs, *, batch_size=32, progress=None):
        values = self.asked.logprobs(self.requests(pairs), self.average, batch_size, progress)
        return list(zip(values[::2], values[1::2], strict=True))

    def lengths(self, requests):
        return self.asked.lengths(requests)

    def describe(self) -> dict:
        return {
            "kind": "likelihood", "name": self.name, "model": self.model, "average": self.average,
        }  # fmt: skip

    def _both(self, pair: Pair) -> list[Request]:
        question = self.asked.plain(pair.question)
        return [
            Request(pair.images, question, self.asked.plain(answer.strip()))
            for answer in (pair.first, pair.second)
        ]
