"""The loss methods of TRL's preference trainers, run on given log-probabilities (TRL 1.16.0).

A trainer is made without its `__init__`, and gets as attributes what its method reads. Only the
model is ours: it answers with the log-probabilities of the test. What follows is TRL's code.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

CPU = SimpleNamespace(
    device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
)


def bare(trainer_class, **attributes):
    trainer = trainer_class.__new__(trainer_class)
    common = {"model": SimpleNamespace(training=True), "accelerator": CPU}
    common |= {"aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1}
    vars(trainer).update(common, _metrics={"train": defaultdict(list)}, **attributes)
    return trainer


def outputs(logprobs):
    """What a fused head returns: zero where there is no label, so the sums are of answers only."""
    other = torch.zeros_like(logprobs)
    return SimpleNamespace(
        log_probs=logprobs, entropy=other, mean_logits=other, is_top1=other.bool()
    )


def shifted(mask):
    """[N, T] of the predicted tokens -> [N, T + 1] of all, the first of which nothing predicts."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)


def dpo(logprobs, mask, reference_chosen, reference_rejected, beta, kinds, weights=None, eps=0.0):
    """(`DPOTrainer._compute_loss`, its metrics): `logprobs` [2B, T], the chosen first."""
    trainer = bare(
        DPOTrainer,
        loss_types=kinds,
        loss_weights=weights or [1.0] * len(kinds),
        beta=beta,
        label_smoothing=eps,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        precompute_ref_logps=True,
        ld_alpha=None,
    )
    ids = shifted(mask)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": ids}
    inputs |= {"ref_chosen_logps": reference_chosen, "ref_rejected_logps": reference_rejected}
    loss = trainer._compute_loss(lambda **_: outputs(logprobs), inputs, False)
    return loss, {name: found[-1] for name, found in trainer._metrics["train"].items()}


def kto(policy, reference, mismatched, reference_mismatched, mask, desirable, beta, weights):
    """(`KTOTrainer._compute_loss`, its metrics): `policy` and `mismatched` are [B, T]."""
    trainer = bare(
        KTOTrainer,
        loss_type="kto",
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        calculate_KL=True,
        precompute_ref_logps=True,
    )
    own, other = shifted(mask), shifted(mask) + 2  # told apart by their ids
    inputs = {"input_ids": own, "attention_mask": own, "completion_mask": own}
    inputs |= {"KL_input_ids": other, "KL_attention_mask": own, "KL_completion_mask": own}
    inputs |= {"label": desirable, "ref_logps": reference, "ref_KL_logps": reference_mismatched}

    def model(input_ids, **_):
        return outputs(mismatched if input_ids.min() > 1 else policy)

    loss = trainer._compute_loss(model, inputs, False)
    return loss, {name: found[-1] for name, found in trainer._metrics["train"].items()}


def _whole(trainer, chosen, rejected, nll):
    """TRL's whole step, the forward pass replaced: on a batch's log-probabilities and its SFT loss."""
    nothing = torch.zeros(1)
    trainer.concatenated_forward = lambda *_: (chosen, rejected, nothing, nothing, nll)
    return trainer.get_batch_loss_metrics(None, {})


def simpo(chosen, rejected, beta, gamma):
    """(loss, metrics) of `CPOTrainer.get_batch_loss_metrics`."""
    settings = {"loss_type": "simpo", "simpo_gamma": gamma, "cpo_alpha": 0.0, "alpha": 0.0}
    trainer = bare(CPOTrainer, beta=beta, label_smoothing=0.0, **settings)
    return _whole(trainer, chosen, rejected, torch.zeros(()))


def cdpo(chosen, rejected, beta, eps):
    """`CPOTrainer.cpo_loss` with label smoothing, a loss for each pair of log-ratios."""
    trainer = bare(CPOTrainer, beta=beta, label_smoothing=eps, loss_type="sigmoid", alpha=0.0)
    return trainer.cpo_loss(chosen, rejected)[0]


def orpo(chosen, rejected, beta, nll):
    """(loss, metrics) of `ORPOTrainer.get_batch_loss_metrics`."""
    return _whole(bare(ORPOTrainer, beta=beta), chosen, rejected, nll)
