"""A simulated service to practise on: people ask for pictures, see a ranked list, click, complain.

Everything that real traffic hides is known here: how relevant each picture is to each query, how likely
each place of the list is to be looked at, what each variant's failures are. So every estimate can be
held against the truth.

What it leaves out: every request is another visitor's. Where one person asks many times, requests are not
independent, and whole persons must be assigned and drawn (`labs.evaluation.clusters`). There are no days
of the week, no novelty, and no learning by the users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labs.errors import InputError
from labs.evaluation.online.checks import check_positive, check_share
from labs.evaluation.online.guardrails import Arm

# How attractive a picture of grade 0 to 4 is: the chance that whoever looks at it clicks it.
ATTRACTIVENESS = (0.08, 0.16, 0.3, 0.5, 0.75)
GRADES = (0.5, 0.2, 0.15, 0.1, 0.05)  # how common the grades are among candidates
FAILED_COMPLAINT = 0.25  # the chance that a person complains who got an error or a refusal
NOT_EXPLORED, SHUFFLED = (
    -1,
    0,
)  # Log.explored; from 1 on: the top was exchanged with that place, or not


@dataclass(frozen=True)
class Variant:
    """One version of the service.

    quality: how much of the ranker's score is relevance, in [0, 1]; the rest is noise that depends on
    query and picture only, so a ranker always gives a query the same list. ranker: its noise; two
    variants with the same `ranker` err on the same pictures, one more than the other. latency_ms: the
    median; its logarithm is normal with standard deviation `latency_spread`. error_rate, refusal_rate:
    requests that end in an error, or that the model declines. complaint_rate: the chance of a thumbs
    down from a person who saw a list and clicked nothing.
    """

    name: str
    quality: float
    ranker: int = 0
    latency_ms: float = 400.0
    latency_spread: float = 0.35
    error_rate: float = 0.002
    refusal_rate: float = 0.005
    complaint_rate: float = 0.02

    def __post_init__(self):
        for what in ("quality", "error_rate", "refusal_rate", "complaint_rate"):
            check_share(f"{what} of variant {self.name}", getattr(self, what), ends=True)
        for what in ("latency_ms", "latency_spread"):
            check_positive(f"{what} of variant {self.name}", getattr(self, what))
        if self.error_rate + self.refusal_rate > 1:
            raise InputError(
                f"Errors and refusals of variant {self.name} are more than all requests.",
                "Pass shares of all requests that sum to at most 1.",
            )


@dataclass(frozen=True, eq=False)
class Log:
    """A day: N requests, k places a list.

    names: of the variants. query [N]: which was asked. variant [N]: which answered (index into names).
    shown [N, k]: pictures by place, the top first, -1 throughout where no list was shown. clicks [N, k].
    latency_ms [N]: until the answer, or the error. error, refused, complaint [N]: thumbs down is a
    complaint. explored [N]: NOT_EXPLORED, SHUFFLED (the list was in random order), or j from 1 on: the
    top was exchanged with place j by the toss of a coin.
    """

    names: tuple[str, ...]
    query: np.ndarray
    variant: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray
    latency_ms: np.ndarray
    error: np.ndarray
    refused: np.ndarray
    complaint: np.ndarray
    explored: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    @property
    def answered(self) -> np.ndarray:
        """[N] whether a list was shown."""
        return ~(self.error | self.refused)

    def where(self, chosen: np.ndarray) -> "Log":
        """The requests for which `chosen` [N] is true."""
        rows = {
            name: value[chosen]
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return Log(names=self.names, **rows)

    def of(self, name: str) -> "Log":
        """The requests that the variant of that name answered."""
        if name not in self.names:
            raise InputError(
                f"No variant is called {name!r}.", f"Variants: {', '.join(self.names)}."
            )
        return self.where(self.variant == self.names.index(name))


@dataclass(frozen=True, eq=False)
class Service:
    """Queries, their candidate pictures, and the people who ask. Same seed, same service.

    queries Q, candidates D of each, shown k of them. examination [k]: the chance that a person looks at a
    place (PBM), from 1 at the top; by default 1/rank. popularity: queries are asked as often as
    1/rank**popularity.
    """

    queries: int = 200
    candidates: int = 30
    shown: int = 10
    examination: tuple[float, ...] | None = None
    popularity: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if not (self.queries >= 1 and 1 <= self.shown <= self.candidates):
            raise InputError(
                f"{self.queries} queries, {self.shown} shown of {self.candidates} candidates make no"
                " service.",
                "Pass at least one query, and at least as many candidates as are shown.",
            )
        if len(self.theta) != self.shown:
            raise InputError(
                f"{len(self.theta)} examination rates were given for {self.shown} places.",
                "Pass one a place, the top first.",
            )
        for rate in self.theta:
            check_share("examination rate", rate, ends=True)

    @cached_property
    def theta(self) -> np.ndarray:
        """[k] the chance that a place is looked at."""
        if self.examination is None:
            return 1 / np.arange(1, self.shown + 1)
        return np.array(self.examination, dtype=np.float64)

    @cached_property
    def grades(self) -> np.ndarray:
        """[Q, D] relevance of each candidate to its query, 0 to 4."""
        rng = np.random.default_rng([self.seed, 0])
        return rng.choice(len(GRADES), size=(self.queries, self.candidates), p=GRADES)

    @cached_property
    def attractiveness(self) -> np.ndarray:
        """[Q, D] the chance of a click by whoever looks at the picture."""
        return np.array(ATTRACTIVENESS)[self.grades]

    def rankings(self, variant: Variant) -> np.ndarray:
        """[Q, k] the candidates that a variant puts on top, the best first; always the same."""
        rng = np.random.default_rng([self.seed, 1, variant.ranker])
        noise = rng.normal(size=(self.queries, self.candidates))
        levels = np.arange(len(GRADES))
        mean = levels @ GRADES
        relevance = (self.grades - mean) / np.sqrt((levels - mean) ** 2 @ GRADES)
        score = variant.quality * relevance + (1 - variant.quality) * noise
        return np.argsort(-score, axis=1, kind="stable")[:, : self.shown]

    def asked(self, requests: int, rng: np.random.Generator) -> np.ndarray:
        """[requests] which queries are asked."""
        chances = 1 / np.arange(1, self.queries + 1) ** self.popularity
        return rng.choice(self.queries, size=requests, p=chances / chances.sum())

    def click(
        self,
        query: np.ndarray,
        shown: np.ndarray,
        rng: np.random.Generator,
        model: str = "position",
    ) -> np.ndarray:
        """What people click in lists shown [N, k] for queries [N].

        position: P(click) = examination of the place · attractiveness of the picture, each place for
        itself (the examination hypothesis, Richardson et al. 2007, doi:10.1145/1242572.1242643).
        cascade: people read from the top and stop at the first click (Craswell et al. 2008,
        doi:10.1145/1341531.1341545); `examination` plays no part.
        """
        attractive = self.attractiveness[query[:, None], shown]
        draws = rng.random(shown.shape)
        if model == "position":
            return draws < self.theta[: shown.shape[1]] * attractive
        if model == "cascade":
            liked = draws < attractive
            return liked & (np.cumsum(liked, axis=1) == 1)
        raise InputError(f"There is no click model {model!r}.", "Pass position or cascade.")

    def day(
        self,
        variants: Sequence[Variant],
        requests: int,
        *,
        shares: Sequence[float] | None = None,
        model: str = "position",
        explore: str = "none",
        explored: float = 0.05,
        seed: int = 0,
    ) -> Log:
        """The log of one day of `requests` requests, assigned to the variants at random by `shares`.

        explore: what happens to a random share `explored` of the requests, so that position bias can be
        measured. "shuffle": the list in random order, which users notice. "swap": the top exchanged with
        one other place, or not, by a coin (Joachims et al. 2017, arXiv:1608.04468, section 5).

        Raises InputError for no variants or requests, two of one name, or shares that do not sum to 1.
        """
        names = tuple(variant.name for variant in variants)
        chances = (
            np.full(len(names), 1 / max(len(names), 1)) if shares is None else np.array(shares)
        )
        if not names or len(set(names)) < len(names) or requests < 1:
            raise InputError(
                f"{requests} requests to {', '.join(names) or 'no variant'} make no day.",
                "Pass at least one request, and variants of different names.",
            )
        if len(chances) != len(names) or (chances < 0).any() or abs(chances.sum() - 1) > 1e-9:
            raise InputError("The shares of the variants do not sum to 1.", "Pass one a variant.")
        check_share("explored share", explored, ends=True)
        rng = np.random.default_rng([self.seed, 2, seed])
        query = self.asked(requests, rng)
        variant = rng.choice(len(names), size=requests, p=chances)
        shown = np.stack([self.rankings(v) for v in variants])[variant, query]
        bucket = _explore(shown, explore, explored, rng)
        clicks = self.click(query, shown, rng, model)

        def each(what: str) -> np.ndarray:
            return np.array([getattr(v, what) for v in variants])[variant]

        latency = each("latency_ms") * np.exp(each("latency_spread") * rng.normal(size=requests))
        fate = rng.random(requests)
        error = fate < each("error_rate")
        refused = ~error & (fate < each("error_rate") + each("refusal_rate"))
        failed = error | refused
        clicks[failed], shown[failed] = False, -1
        bucket[failed] = NOT_EXPLORED
        chance = np.where(
            failed, FAILED_COMPLAINT, np.where(clicks.any(1), 0, each("complaint_rate"))
        )
        complaint = rng.random(requests) < chance
        return Log(
            names=names, query=query, variant=variant, shown=shown, clicks=clicks, latency_ms=latency,
            error=error, refused=refused, complaint=complaint, explored=bucket,
        )  # fmt: skip


def arm_of(log: Log, name: str) -> Arm:
    """One variant's requests as `check_guardrails` takes them; latencies are those of all requests."""
    rows = log.of(name)
    counts = {
        "errors": int(rows.error.sum()),
        "refusals": int(rows.refused.sum()),
        "complaints": int(rows.complaint.sum()),
    }
    return Arm(len(rows), rows.latency_ms, counts)


def _explore(shown: np.ndarray, how: str, share: float, rng: np.random.Generator) -> np.ndarray:
    """Reorders some lists in place; returns Log.explored."""
    requests, places = shown.shape
    bucket = np.full(requests, NOT_EXPLORED)
    if how == "none":
        return bucket
    if how not in ("shuffle", "swap"):
        raise InputError(f"There is no way to explore called {how!r}.", "Pass shuffle or swap.")
    if places < 2:
        raise InputError("A list of one place has no order to explore.", "Show at least two.")
    rows = np.flatnonzero(rng.random(requests) < share)
    if how == "shuffle":
        shown[rows] = rng.permuted(shown[rows], axis=1)
        bucket[rows] = SHUFFLED
    else:
        bucket[rows] = rng.integers(1, places, size=len(rows))
        exchanged = rows[rng.random(len(rows)) < 0.5]
        other = bucket[exchanged]
        top = shown[exchanged, 0].copy()
        shown[exchanged, 0] = shown[exchanged, other]
        shown[exchanged, other] = top
    return bucket
