"""How far minibert is from a reference, and how far it may be: one measure for each claim.

The reference is transformers as it runs (tensors) or as it was stored (samples of tensors). The
tests assert that every measure is within its bound; `parity_table.py` prints the largest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import parity_cases as cases
import torch
from parity_cases import Case, load_minibert
from stored import Sampled
from torch import Tensor

from minibert.parity import max_difference

Reference = Mapping[str, Tensor] | Mapping[str, Sampled]


class Measure(NamedTuple):
    """One comparison; it holds if `measured` is at most `bound`."""

    what: str
    measured: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound


def difference(reference: Tensor | Sampled, tensor: Tensor) -> float:
    """The largest absolute difference, infinite for a NaN or another shape."""
    if isinstance(reference, Sampled):
        return reference.difference(tensor)
    return max_difference(reference, tensor) if reference.shape == tensor.shape else float("inf")


def forward(case: Case, reference: Reference, peers: Mapping[str, float]) -> list[Measure]:
    """Every hidden state and head on the fast path, every hidden state and attention on the other.

    The bound is 1e-5, or for a tensor in which transformers' eager and sdpa differ by more, what
    they differ by, up to 1e-4; twice that where the reference was stored, for then another machine
    rounded.
    """
    measures = []
    for path, attentions in (("fast", False), ("explicit", True)):
        for name, tensor in cases.forward(case, load_minibert, attentions).items():
            peer = peers.get(name, 0.0)
            slack = 2.0 if isinstance(reference[name], Sampled) else 1.0
            bound = max(1e-5, min(slack * peer, 1e-4) if peer > 1e-5 else 0.0)
            measures.append(Measure(f"{path} {name}", difference(reference[name], tensor), bound))
    return measures


def projections(case: Case, reference: Mapping[str, Sampled]) -> list[Measure]:
    """The projections of every whole tensor: samples cannot see a fault between them."""
    tensors = cases.forward(case, load_minibert, attentions=True)
    return [
        Measure(f"projection {name}", reference[name].projected_difference(tensor), 1e-5)
        for name, tensor in tensors.items()
    ]


def gradients(
    case: Case, head: str, reference: Reference, peers: Mapping[str, Tensor] | None = None
) -> list[Measure]:
    """The gradient of each parameter: within 1e-5 of the tensor's largest value, plus 1e-8.

    Where transformers' other attention (peers) gives it another gradient than the reference's by
    more, the bound is what they differ by, up to 1e-4: sums over all tokens that nearly cancel.
    A gradient that is exactly zero (`cases.zero_gradients`) is rounding noise on both sides and has
    no largest value to measure by: it must be tiny beside the largest gradient of all.
    """
    ours = cases.gradients(case, load_minibert, head)
    assert ours.keys() == reference.keys()
    zero = cases.zero_gradients(head, case.layers)
    largest_of_all = max(gradient.abs().max().item() for gradient in ours.values())
    measures = []
    for name, gradient in ours.items():
        expected = reference[name]
        if name in zero:
            noise = gradient.abs().max().item() / largest_of_all
            measures.append(Measure(f"zero gradient {name}", noise, 1e-3))
        else:
            sampled = isinstance(expected, Sampled)
            largest = expected.largest if sampled else expected.abs().max().item()
            measured = max(0.0, difference(expected, gradient) - 1e-8) / largest
            peer = 0.0 if peers is None else difference(expected, peers[name]) / largest
            bound = max(1e-5, min(peer, 1e-4))
            measures.append(Measure(f"gradient {name}", measured, bound))
            if sampled:  # sees a fault between the samples; its rounding errors add up
                measured = expected.projected_difference(gradient)
                measures.append(Measure(f"projected gradient {name}", measured, 1e-4))
    return measures


def stored_gradients(reference: Mapping[str, Sampled], head: str) -> dict[str, Sampled]:
    """The stored gradients of one head, by parameter."""
    prefix = f"gradient.{head}."
    return {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}


def losses(case: Case, head: str, reference: Tensor | Sampled) -> Measure:
    """20 steps of training: the largest relative difference of the loss at any step."""
    ours = cases.training_losses(case, load_minibert, head).double()
    theirs = reference.values if isinstance(reference, Sampled) else reference.double()
    return Measure(f"losses {head}", ((ours - theirs).abs() / theirs.abs()).max().item(), 1e-4)


@torch.no_grad()
def bf16(case: Case, head: str, bound: float) -> list[Measure]:
    """Logits under bf16 autocast against our own in fp32, relative to the largest fp32 logit."""
    model = load_minibert(head, case.directory)
    exact = cases.named_logits(model(**case.batch))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cases.named_logits(model(**case.batch))
    measures = []
    for name, logits in exact.items():
        assert rounded[name].dtype == torch.bfloat16
        where = case.real if logits.shape[:2] == case.real.shape else slice(None)
        distance = max_difference(logits[where], rounded[name][where])
        measures.append(
            Measure(f"bf16 {head} {name}", distance / logits[where].abs().max().item(), bound)
        )
    return measures
