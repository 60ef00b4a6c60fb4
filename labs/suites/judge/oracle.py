"""The judge that knows what the picture shows: the truth to which the others are held."""

from labs.errors import InputError
from labs.shapes import Scene, judge
from labs.suites.judge.base import PointwiseJudge


class OracleJudge(PointwiseJudge):
    """The answer that is right about more of the scene, and wrong about less.

        mark = right - mistaken - hallucinated - missing        in objects (`labs.shapes.judge`)

    An object described without a contradiction earns one; one described wrongly, invented or left out
    costs one. Wording, order and length count for nothing.

    Raises InputError for a pair whose scene is not known. Chapter 7.
    """

    name = "oracle"

    def requests(self, pairs):
        return []

    def marks(self, pairs, *, batch_size=32, progress=None):
        return [(_mark(pair, pair.first), _mark(pair, pair.second)) for pair in pairs]

    def describe(self) -> dict:
        return {"kind": "oracle", "name": self.name, "model": None}


def _mark(pair, answer: str) -> float:
    if not isinstance(pair.scene, Scene):
        raise InputError(
            f"The oracle does not know what the picture of {pair.id} shows.",
            "Give it answers about the offline world, or judge with a model.",
        )
    found = judge(pair.scene, answer)
    faults = len(found.mistaken) + len(found.hallucinated) + len(found.missing)
    return float(len(found.right) - faults)
