"""Reference tensors in a file: small ones whole, large ones as a norm and samples.

A sample is the value at a place; the places are drawn at random once and stored beside it, and
always include the place of the largest absolute value.
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


class Sampled(NamedTuple):
    """What is kept of a tensor: its norm, the largest absolute value, and values at places."""

    size: int
    norm: float
    largest: float
    places: Tensor  # (S) int64, into the flattened tensor
    values: Tensor  # (S) float64

    def difference(self, tensor: Tensor) -> float:
        """The largest absolute difference at the places; infinite for a NaN or another size."""
        if tensor.numel() != self.size:
            return float("inf")
        got = tensor.detach().flatten()[self.places].double()
        difference = (got - self.values).abs().max().item()
        return difference if difference == difference else float("inf")

    def norm_difference(self, tensor: Tensor) -> float:
        """The difference of the norms, relative: sees a fault at any place."""
        return abs(tensor.detach().double().norm().item() - self.norm) / max(self.norm, 1e-300)


def sample(tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.detach().double().flatten()
    places = np.random.RandomState(0).permutation(flat.numel())[:SAMPLES]
    at = torch.tensor(np.union1d(places, int(flat.abs().argmax())))
    measures = torch.tensor([flat.numel(), flat.norm().item(), flat.abs().max().item()])
    return {"places": at.int(), "values": flat[at].float(), "measures": measures.double()}


def save(name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes `reference/NAME.safetensors` with the samples, `NAME.json` with how it was made."""
    parts = {f"{k}|{part}": x for k, v in tensors.items() for part, x in sample(v).items()}
    FOLDER.mkdir(exist_ok=True)
    save_file(parts, FOLDER / f"{name}.safetensors")
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(name: str) -> tuple[dict[str, Sampled], dict[str, Any]]:
    parts = load_file(FOLDER / f"{name}.safetensors")
    sampled = {}
    for key in sorted({k.rpartition("|")[0] for k in parts}):
        size, norm, largest = parts[f"{key}|measures"].tolist()
        places, values = parts[f"{key}|places"].long(), parts[f"{key}|values"].double()
        sampled[key] = Sampled(int(size), norm, largest, places, values)
    return sampled, json.loads((FOLDER / f"{name}.json").read_text())
