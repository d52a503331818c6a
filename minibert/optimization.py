"""How far the weights move at each step: AdamW, a learning rate that rises and then falls, and
gradients that are clipped.

As in the paper, appendix A.2, and google-research/bert, optimization.py. `train.py`, the next
room, has the loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How to train.

    lr is the highest learning rate. accumulation is the number of parts that a batch is computed
    in, one after the other, where it does not fit into memory; the result is the same.
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int = 0
    precision: str = "fp32"
    accumulation: int = 1
    compile: bool = False
    save_every: int = 500  # steps between checkpoints
    warmup: float = 0.1  # of all steps; this and the rest are the paper's and its optimization.py's
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    max_grad_norm: float = 1.0


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """For a step, counted from 0, of so many: linear warm-up over the first tenth of all steps,
    then linear decay; it would be 0 at the step before the first and at the one after the last."""
    warmup = recipe.warmup * steps
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    return recipe.lr * (steps - step) / max(1.0, steps - warmup)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases and LayerNorms do not decay. `fused` updates all weights in one kernel."""
    named = list(model.named_parameters())
    kept = [p for name, p in named if name.endswith(("bias", "norm.weight"))]
    decayed = [p for name, p in named if not name.endswith(("bias", "norm.weight"))]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    fused = named[0][1].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=fused)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales all gradients down together where their norm is above max_norm; returns the norm.

    As torch's `clip_grad_norm_`, which multiplies them by 1 where it is not: on a CPU, to read and
    to write all of them once more is a fiftieth of a step of a small model.
    """
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm > max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
