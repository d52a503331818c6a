"""Reference tensors in a file: small ones whole, large ones as samples and projections.

A sample is the value at a place; the places are drawn at random once and stored beside it, and
always include the place of the largest absolute value. A projection is the dot product with a
fixed vector of ones and minus ones: it changes with any value at any place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "reference"
SAMPLES = 200
PROJECTIONS = 4


class Sampled(NamedTuple):
    """What is kept of a tensor of `size` values; norm and largest (absolute) are its scale."""

    size: int
    norm: float
    largest: float
    projections: list[float]
    places: Tensor  # (S) int64, into the flattened tensor
    values: Tensor  # (S) float64

    def difference(self, tensor: Tensor) -> float:
        """The largest absolute difference at the places; infinite for a NaN or another size."""
        if tensor.numel() != self.size:
            return float("inf")
        got = tensor.detach().flatten()[self.places].double()
        difference = (got - self.values).abs().max().item()
        return difference if difference == difference else float("inf")

    def projected_difference(self, tensor: Tensor) -> float:
        """The largest difference of a projection, as a share of the norm: sees every place.

        Infinite for a NaN or another size. Rounding errors are as likely up as down, so they add
        up to about their own norm, whatever the size of the tensor.
        """
        if tensor.numel() != self.size:
            return float("inf")
        pairs = zip(project(tensor), self.projections, strict=True)
        difference = max(abs(got - expected) for got, expected in pairs) / self.norm
        return difference if difference == difference else float("inf")


def project(tensor: Tensor) -> list[float]:
    """Dot products of the flattened tensor with PROJECTIONS fixed vectors of +1 and -1."""
    flat = tensor.detach().flatten().double()
    random = np.random.RandomState(flat.numel() % 2**32)
    projections = []
    for _ in range(PROJECTIONS):
        bits = np.frombuffer(random.bytes(flat.numel() // 8 + 1), np.uint8)
        signs = torch.from_numpy(np.unpackbits(bits)[: flat.numel()].astype(np.float64) * 2 - 1)
        projections.append(torch.dot(flat, signs).item())
    return projections


def sample(tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.detach().double().flatten()
    places = np.random.RandomState(0).permutation(flat.numel())[:SAMPLES]
    at = torch.tensor(np.union1d(places, int(flat.abs().argmax())))
    measures = [flat.numel(), flat.norm().item(), flat.abs().max().item(), *project(flat)]
    return {
        "places": at.int(),
        "values": flat[at],
        "measures": torch.tensor(measures, dtype=torch.float64),
    }


def save(name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes what is kept of them to `reference/NAME.safetensors`, the facts to `NAME.json`."""
    parts = {f"{k}|{part}": x for k, v in tensors.items() for part, x in sample(v).items()}
    FOLDER.mkdir(exist_ok=True)
    save_file(parts, FOLDER / f"{name}.safetensors")
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(name: str) -> tuple[dict[str, Sampled], dict[str, Any]]:
    parts = load_file(FOLDER / f"{name}.safetensors")
    sampled = {}
    for key in sorted({k.rpartition("|")[0] for k in parts}):
        size, norm, largest, *projections = parts[f"{key}|measures"].tolist()
        places, values = parts[f"{key}|places"].long(), parts[f"{key}|values"]
        sampled[key] = Sampled(int(size), norm, largest, projections, places, values)
    return sampled, json.loads((FOLDER / f"{name}.json").read_text())
