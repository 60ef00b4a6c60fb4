"""How strongly the policy is held to the reference. Chapter 5."""


class KLController:
    """A constant coefficient, or one that follows a target.

        coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon)

    kl: nats a sequence, measured over `n` completions. Ziegler et al. 2019, arXiv:1909.08593,
    section 2.2.
    """

    def __init__(self, coef: float, target: float | None = None, horizon: int = 10_000):
        self.coef, self.target, self.horizon = coef, target, horizon

    def update(self, kl: float, n: int) -> None:
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * min(n / self.horizon, 1.0)
