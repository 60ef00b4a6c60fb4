"""Two ranks make the update of one, also where they have unlike numbers of answers."""

import os
import socket

import pytest
import torch
from train_helpers import fork

from labs.models.rollout import Rollout, sample_completions
from labs.train.policy.trainer import PolicyTrainer
from tests.train.policy.policy_runs import prompts, settings, trainer, vowels


class Shared(PolicyTrainer):
    """Samples for all ranks' prompts at once and takes its own: ranks have seeds of their own, one
    process would say something else."""

    def _rollout(self, asked):
        everyone = [self.train_dataset[i] for i in self.sampler.order(self.position.epoch)]
        size = self.policy.num_generations
        whole = sample_completions(
            self.model, self.processor, [p.messages for p in everyone],
            [p.images for p in everyone], num_generations=size, max_new_tokens=8,
            temperature=1.0, seed=self.position.step,
        )  # fmt: skip
        mine = torch.tensor([everyone.index(p) for p in asked])
        rows = torch.cat([torch.arange(size) + size * i for i in mine.tolist()])
        return Rollout(
            whole.prompt_ids[mine], whole.prompt_mask[mine], whole.ids[rows], whole.mask[rows],
            whole.logprobs[rows], whole.finished[rows], [whole.texts[i] for i in rows],
            {k: v[mine] for k, v in whole.images.items()},
        )  # fmt: skip


def holed(asked, completions):
    """To each of three of the six prompts only the first answer counts. However the prompts fall to
    the ranks, these have unlike numbers of answers, and both have some."""
    values = vowels(asked, completions)
    return [
        None if p.id in ("p0", "p1", "p2") and i % 4 else v
        for i, (p, v) in enumerate(zip(asked, values, strict=True))
    ]


def run_of(per_rank, reward, steps, batch, changes):
    run = trainer(
        settings(prompts_per_step=per_rank, num_generations=4, **changes), reward=reward,
        asked=prompts(6, images=1), kind=Shared, max_steps=steps, max_grad_norm=None, seed=1,
        per_device_train_batch_size=batch,
    )  # fmt: skip
    run.reward.skips.allow = True
    gradients = []
    run.optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(
            {n: p.grad.clone() for n, p in run.forward.named_parameters() if p.grad is not None}
        )
    )
    history = run.train().history
    return {
        "gradients": gradients, "history": history, "coef": run.controller.coef,
        "weights": {n: p.detach().clone() for n, p in run.forward.named_parameters()},
    }  # fmt: skip


def _rank(rank, port, folder, arguments):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    from accelerate.state import PartialState

    PartialState._reset_state()
    torch.save(run_of(3, *arguments), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)


def both(folder, *arguments) -> list[dict]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = [fork(_rank, rank, port, folder, arguments) for rank in range(2)]
    for child in children:
        child.join(90)
        assert child.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
def test_grpo_on_two_ranks_is_grpo_on_one(tmp_path, aggregate):
    changes = {"aggregate": aggregate, "kl_target": 1.0, "kl_horizon": 50}
    # Micro-batches of 5: the ranks' prompts fall into pieces of their own.
    one = run_of(6, vowels, 1, 64, changes)
    ranks = both(tmp_path, vowels, 1, 5, changes)
    largest = max(float(g.abs().max()) for g in one["gradients"][0].values())
    assert len(one["gradients"]) == 1 and largest > 0
    for rank in ranks:
        [gradients] = rank["gradients"]
        assert gradients.keys() == one["gradients"][0].keys()
        for name, wanted in one["gradients"][0].items():
            torch.testing.assert_close(
                gradients[name], wanted, atol=1e-5 * largest, rtol=1e-3, msg=name
            )
        for name in ("reward", "response_length", "no_signal", "rewards/vowels", "kl_coef"):
            assert rank["history"][0][name] == pytest.approx(one["history"][0][name]), name
        assert rank["coef"] == pytest.approx(one["coef"], rel=1e-6)


def test_ranks_with_unlike_numbers_of_answers_stay_together(tmp_path):
    """One has more micro-batches, and more minibatches: nobody waits for ever, and weights and KL
    coefficient stay the same on both."""
    changes = {
        "algorithm": "ppo", "kl_in": "reward", "kl_target": 0.01, "kl_horizon": 20,
        "num_epochs": 2, "minibatch_size": 3,
    }  # fmt: skip
    one, other = both(tmp_path, holed, 2, 2, changes)
    assert all(torch.equal(one["weights"][n], w) for n, w in other["weights"].items())
    assert one["coef"] == other["coef"] != 0.1
    clock = "second"
    for mine, theirs in zip(one["history"], other["history"], strict=True):
        assert {k: v for k, v in mine.items() if clock not in k} == {
            k: v for k, v in theirs.items() if clock not in k
        }
        assert mine["skipped/judged by no reward"] > 0
