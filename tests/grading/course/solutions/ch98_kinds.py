"""One exercise of each kind: exercises."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labs.grading import exercise

BYTES = {"float32": 4, "bfloat16": 2}


@exercise(
    kind="implement",
    points=6,
    minutes=10,
    section="A class",
    hints=("What is the size of each matrix?", "x A^T B^T", "Scale by alpha / rank."),
)
class LowRank(nn.Module):
    r"""$y = \frac{\alpha}{r} x A^\top B^\top$ with A `[rank, inputs]`, B `[outputs, rank]` zero."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float = 8.0):
        super().__init__()
        # --- answer
        self.A = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = alpha / rank
        # --- end

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        """The update's output."""
        # --- answer
        return x @ self.A.T @ self.B.T * self.scale
        # --- end


@LowRank.alternative
class OneMatrix(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, inputs).uniform_(-0.5, 0.5))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        self.factor = alpha / rank

    def forward(self, x):
        return nn.functional.linear(x, self.factor * (self.B @ self.A))


@LowRank.mistake("The scale is alpha, not alpha / rank.")
class Unscaled(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        self.alpha = alpha

    def forward(self, x):
        return self.alpha * (x @ self.A.T @ self.B.T)


@Unscaled.again
class AlphaOnly(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.ones(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        self.weight = alpha

    def forward(self, x):
        return torch.einsum("ni,ri,or->no", x, self.A, self.B).mul(self.weight)


@LowRank.mistake("The scale is missing.")
class NoScale(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return x @ self.A.T @ self.B.T


@NoScale.again
class PlainProduct(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.register_parameter("A", nn.Parameter(torch.rand(rank, inputs)))
        self.register_parameter("B", nn.Parameter(torch.zeros(outputs, rank)))

    def forward(self, x):
        hidden = nn.functional.linear(x, self.A)
        return nn.functional.linear(hidden, self.B)


@LowRank.mistake("B does not start at zero: the adapter changes the model before any training.")
class RandomB(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, inputs))
        self.B = nn.Parameter(torch.randn(outputs, rank))
        self.scale = alpha / rank

    def forward(self, x):
        return x @ self.A.T @ self.B.T * self.scale


@RandomB.again
class BothRandom(nn.Module):
    def __init__(self, inputs, outputs, rank, alpha=8.0):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, inputs))
        self.B = nn.Parameter(torch.empty(outputs, rank))
        for matrix in (self.A, self.B):
            nn.init.normal_(matrix)
        self.s = alpha / rank

    def forward(self, x):
        return (self.B @ (self.A @ x.mT)).mT * self.s


@exercise(
    kind="compute",
    points=2,
    minutes=3,
    section="A number",
    hints=("How many bytes has a bfloat16?", "Parameters times bytes.", "1 GB is 1000³ bytes."),
)
def weights_gb() -> float:
    """How many GB (1 GB = 1000³ bytes) do the weights of a 7,000,000,000-parameter model take in
    bfloat16?
    """
    # --- answer
    return 7e9 * BYTES["bfloat16"] / 1000**3
    # --- end


@weights_gb.alternative
def in_words():
    return 14


@weights_gb.mistake("That is GiB: the question asks for GB of 1000³ bytes.")
def in_gib():
    return 14e9 / 1024**3


@in_gib.again
def binary():
    return 7 * 10**9 * 16 / 8 / 2**30


@weights_gb.mistake("That is float32, four bytes a weight.")
def in_float32():
    return 28.0


@in_float32.again
def four_bytes():
    return 7 * 4


@weights_gb.mistake("That is bytes, not GB.")
def in_bytes():
    return 14e9


@in_bytes.again
def plain_bytes():
    return 2 * 7_000_000_000


LOG = """
step 1  loss 2.31  grad norm 1.2
step 2  loss 2.08  grad norm 1.1
step 3  loss nan   grad norm nan   labels in batch: 0
step 4  loss nan   grad norm nan   labels in batch: 57
"""


def masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean of the losses where the mask is set."""
    return (losses * mask).sum() / mask.sum()


@exercise(
    kind="debug",
    points=4,
    minutes=10,
    section="A fault",
    diagnoses={
        "learning_rate": "the learning rate is too high",
        "empty_batch": "a batch without labels divides by zero",
        "bad_pixels": "an image holds NaN",
    },
    log=LOG,
    broken=masked_mean,
    hints=("Which step is the first?", "What is its mean of nothing?", "clamp(min=1)"),
)
def nan_at_step_3() -> dict:
    """Find the fault of `masked_mean` and mend it: an empty batch gives a loss of zero."""

    # --- answer
    def patched(losses, mask):
        return (losses * mask).sum() / mask.sum().clamp(min=1)

    line = LOG.strip().splitlines()[2]
    return {"diagnosis": "empty_batch", "evidence": line, "patch": patched}
    # --- end


@nan_at_step_3.alternative
def by_branch():
    def patch(losses, mask):
        if not mask.any():
            return (losses * 0).sum()
        return losses[mask.bool()].mean()

    return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": patch}


@nan_at_step_3.mistake("nan_to_num hides the fault: the gradient stays NaN.")
def hidden():
    def patch(losses, mask):
        return torch.nan_to_num((losses * mask).sum() / mask.sum())

    return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": patch}


@hidden.again
def where_nan():
    def mended(losses, mask):
        mean = (losses * mask).sum() / mask.sum()
        return torch.where(torch.isnan(mean), torch.zeros_like(mean), mean)

    return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": mended}


@nan_at_step_3.mistake("Dividing by all positions changes the healthy run too.")
def over_everything():
    def patch(losses, mask):
        return (losses * mask).mean()

    return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": patch}


@over_everything.again
def by_numel():
    def patch(losses, mask):
        return torch.sum(losses * mask) / losses.numel()

    return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": patch}


@nan_at_step_3.mistake("The loss was fine before step 3: a learning rate shows earlier.")
def blames_the_rate():
    return {"diagnosis": "learning_rate", "evidence": "loss nan", "patch": masked_mean}


@blames_the_rate.again
def too_fast():
    def same(losses, mask):
        return (losses * mask).sum() / mask.sum()

    return {"patch": same, "diagnosis": "learning_rate", "evidence": "loss nan"}


@exercise(kind="explain", minutes=5, section="A question")
def why_zero():
    """Why does B start at zero?"""
    # --- answer
    # So that the adapted model starts as the base model:
    #
    # - the product is zero
    # --- end
