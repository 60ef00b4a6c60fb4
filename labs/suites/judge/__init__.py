"""Models as judges of two answers, their biases, and what they cost."""

from labs.suites.judge.base import Judge, PointwiseJudge, Request
from labs.suites.judge.claims import Claim, ClaimJudge, world_claims
from labs.suites.judge.cost import Estimate, check_budget, estimate
from labs.suites.judge.judging import Judgements, judge_pairs, write_judgements
from labs.suites.judge.length import length_controlled_win_rate
from labs.suites.judge.likelihood import LikelihoodJudge
from labs.suites.judge.oracle import OracleJudge
from labs.suites.judge.pairs import Pair
from labs.suites.judge.prompt import PromptJudge
from labs.suites.judge.report import TITLES, Report, report
from labs.suites.judge.runs import Together, side_by_side
from labs.suites.judge.verdicts import read_verdict

__all__ = [
    "TITLES",
    "Claim",
    "ClaimJudge",
    "Estimate",
    "Judge",
    "Judgements",
    "LikelihoodJudge",
    "OracleJudge",
    "Pair",
    "PointwiseJudge",
    "PromptJudge",
    "Report",
    "Request",
    "Together",
    "check_budget",
    "estimate",
    "judge_pairs",
    "length_controlled_win_rate",
    "read_verdict",
    "report",
    "side_by_side",
    "world_claims",
    "write_judgements",
]
