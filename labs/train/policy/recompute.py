"""Gradient checkpointing for a model in eval mode. Chapter 5."""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from labs.errors import InputError


def recompute_layers(model: nn.Module) -> None:
    """Hold each block's input alone and run the block again in the backward pass.

    Transformers' own switch acts only in training mode, where dropout acts too; a policy trains in
    eval mode. Without gradients (rollouts, the reference) nothing changes. Raises InputError for a
    model whose blocks are not marked as Transformers marks them.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"No block of {type(model).__name__} can be recomputed.",
            "Set gradient_checkpointing=false.",
        )
    for layer in layers:
        layer.forward = functools.partial(_run, layer.forward)


def _run(forward, *inputs, **options):
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
