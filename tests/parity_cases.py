"""What a parity test computes, once with minibert and once with transformers.

Both runs give the same thing: tensors by name, parameters under their checkpoint names. A test
compares two of them; `reference/generate.py` stores those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy_checkpoint import CHINESE, SMALL, numpy_tensor, random_batch, write_checkpoint
from safetensors.numpy import load_file
from torch import Tensor, nn

from minibert import model as minibert
from minibert.parity import text_batch
from minibert.weights import checkpoint_name

STEPS = 20
LEARNING_RATE = 5e-5
Tensors = dict[str, Tensor]
# (name of a model class, the directory of its checkpoint) -> the model, without dropout
Load = Callable[[str, Path], nn.Module]

QA, CLASSIFICATION = "BertForQuestionAnswering", "BertForSequenceClassification"


@dataclass(frozen=True)
class Case:
    """A checkpoint, a padded batch of (B, T) tensors, and for each text a span and a class."""

    directory: Path
    batch: Tensors
    heads: tuple[str, ...] = (QA, CLASSIFICATION, "BertForMaskedLM", "BertForPreTraining")
    spans: Tensor = field(init=False)  # (2, B)
    labels: Tensor = field(init=False)  # (B)

    def __post_init__(self) -> None:
        lengths = self.batch["attention_mask"].sum(dim=1)
        object.__setattr__(self, "spans", torch.stack([lengths // 3, 2 * lengths // 3]))
        object.__setattr__(self, "labels", lengths % 2)

    @property
    def real(self) -> Tensor:
        return self.batch["attention_mask"].bool()

    @property
    def layers(self) -> int:
        return minibert.BertConfig.from_pretrained(self.directory).num_hidden_layers


def chinese(directory: Path) -> Case:
    """The full size of bert-base-chinese, every number from numpy."""
    return Case(write_checkpoint(directory, CHINESE), random_batch(CHINESE, [48, 31, 17, 3]))


def small(directory: Path) -> Case:
    """4 layers of 128, every number from numpy."""
    return Case(write_checkpoint(directory, SMALL), random_batch(SMALL, [64, 41, 17, 4]))


def minilm(directory: Path, weights: Path) -> Case:
    """The real all-MiniLM-L6-v2 on real text, with two heads from numpy (it has none)."""
    heads = {
        "qa_outputs.weight": (2, 384),
        "qa_outputs.bias": (2,),
        "classifier.weight": (2, 384),
        "classifier.bias": (2,),
    }
    real = {f"bert.{n}": x for n, x in load_file(weights / "model.safetensors").items()}
    real.pop("bert.embeddings.position_ids")
    tensors: dict[str, np.ndarray] = real | {n: numpy_tensor(n, s) for n, s in heads.items()}
    config = minibert.BertConfig.from_pretrained(weights).to_dict()
    write_checkpoint(directory, config, tensors)
    return Case(directory, text_batch(weights), heads=(QA, CLASSIFICATION))


def load_minibert(name: str, directory: Path) -> nn.Module:
    return getattr(minibert, name).from_pretrained(directory)


def load_transformers(attention: str, dtype: torch.dtype = torch.float32) -> Load:
    import transformers

    def load(name: str, directory: Path) -> nn.Module:
        peer = getattr(transformers, name)
        return peer.from_pretrained(directory, attn_implementation=attention, dtype=dtype).eval()

    return load


# ---- forward --------------------------------------------------------------------------------


@torch.no_grad()
def forward(case: Case, load: Load, attentions: bool = False) -> Tensors:
    """Every hidden state at every real token, the pooled output, all heads' logits; and, if asked
    for, every attention of a real token (which takes the explicit path)."""
    out = load("BertModel", case.directory)(
        **case.batch, output_hidden_states=True, output_attentions=attentions
    )
    tensors = {f"hidden_states.{i}": h[case.real] for i, h in enumerate(out.hidden_states)}
    for i, probabilities in enumerate(out.attentions or ()):
        looking = case.real[:, None, :, None].expand_as(probabilities)
        tensors[f"attentions.{i + 1}"] = probabilities[looking]
    tensors["pooler_output"] = out.pooler_output
    for head in case.heads:
        for name, logits in named_logits(load(head, case.directory)(**case.batch)).items():
            per_token = logits.shape[:2] == case.real.shape
            tensors[f"{head}.{name}"] = logits[case.real] if per_token else logits
    return tensors


def named_logits(out: Any) -> Tensors:
    """The logits by transformers' names: ours are a tensor or a named tuple, theirs a mapping."""
    if isinstance(out, Tensor):
        return {"logits": out}
    return out._asdict() if hasattr(out, "_asdict") else dict(out)


# ---- gradients and training -----------------------------------------------------------------


def loss_of(logits: Tensors, case: Case) -> Tensor:
    """The QA loss (the mean of two cross-entropies) or the classification loss."""
    if "start_logits" in logits:
        start, end = case.spans
        losses = (
            F.cross_entropy(logits["start_logits"], start),
            F.cross_entropy(logits["end_logits"], end),
        )
        return (losses[0] + losses[1]) / 2
    return F.cross_entropy(logits["logits"], case.labels)


def gradients(case: Case, load: Load, head: str) -> Tensors:
    """The gradient of every parameter, under its checkpoint name, without dropout."""
    model = load(head, case.directory)
    loss_of(named_logits(model(**case.batch)), case).backward()
    rename = checkpoint_name if load is load_minibert else plain_name
    return {rename(name): p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain_name(name: str) -> str:
    return name.removeprefix("bert.")


def zero_gradients(head: str, layers: int) -> dict[str, str]:
    """Parameters whose exact gradient is zero, and why: what is computed is rounding noise."""
    keys = "adds one number to all scores of a query, which its softmax does not see"
    names = {f"encoder.layer.{i}.attention.self.key.bias": keys for i in range(layers)}
    if head == QA:
        tokens = (
            "adds one number to the logits of all tokens, which the loss's softmax does not see"
        )
        names["qa_outputs.bias"] = tokens
        names[f"encoder.layer.{layers - 1}.output.LayerNorm.bias"] = tokens
    return names


def training_losses(case: Case, load: Load, head: str) -> Tensor:
    """The loss at each of 20 steps of AdamW, two texts a step, without dropout: (20,)."""
    model = load(head, case.directory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    losses = []
    for step in range(STEPS):
        rows = [(step + i) % len(case.labels) for i in range(2)]
        part = replace(case, batch={name: x[rows] for name, x in case.batch.items()})
        loss = loss_of(named_logits(model(**part.batch)), part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
