"""BERT's forward pass in numpy, float64: what a config.json asks for, by formulas and nothing else.

Slow, plain, and written from the paper and google-research/bert rather than from `model.py`.
"""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def encode(
    config: dict[str, Any], tensors: Tensors, ids: np.ndarray, mask: np.ndarray, types: np.ndarray
) -> np.ndarray:
    """The last hidden state (B, T, C) of ids, mask and types (B, T)."""
    embed = "bert.embeddings"
    x = tensors[f"{embed}.word_embeddings.weight"].astype(np.float64)[ids]
    x = x + tensors[f"{embed}.position_embeddings.weight"][: ids.shape[1]]
    x = x + tensors[f"{embed}.token_type_embeddings.weight"][types]
    x = layer_norm(config, tensors, f"{embed}.LayerNorm", x)
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        x = x + attention(config, tensors, f"{layer}.attention", x, mask)
        x = layer_norm(config, tensors, f"{layer}.attention.output.LayerNorm", x)
        hidden = linear(tensors, f"{layer}.intermediate.dense", x)
        hidden = ACTIVATIONS[config["hidden_act"]](hidden)
        x = x + linear(tensors, f"{layer}.output.dense", hidden)
        x = layer_norm(config, tensors, f"{layer}.output.LayerNorm", x)
    return x


def masked_lm(config: dict[str, Any], tensors: Tensors, x: np.ndarray) -> np.ndarray:
    """The logits (B, T, V) of a last hidden state, with the word embeddings as decoder."""
    x = linear(tensors, "cls.predictions.transform.dense", x)
    x = ACTIVATIONS[config["hidden_act"]](x)
    x = layer_norm(config, tensors, "cls.predictions.transform.LayerNorm", x)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    return x @ words.T + tensors["cls.predictions.bias"]


def attention(
    config: dict[str, Any], tensors: Tensors, name: str, x: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """One head after the other, on its own columns of Q, K and V."""
    q, k, v = (linear(tensors, f"{name}.self.{part}", x) for part in ("query", "key", "value"))
    width = config["hidden_size"] // config["num_attention_heads"]
    context = np.empty_like(x)
    for start in range(0, config["hidden_size"], width):
        columns = slice(start, start + width)
        scores = q[..., columns] @ k[..., columns].transpose(0, 2, 1) / np.sqrt(width)
        weights = np.exp(scores) * mask[:, None, :]
        context[..., columns] = weights / weights.sum(axis=2, keepdims=True) @ v[..., columns]
    return linear(tensors, f"{name}.output.dense", context)


def linear(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def layer_norm(config: dict[str, Any], tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(x.var(axis=2, keepdims=True) + config["layer_norm_eps"])
    x = (x - x.mean(axis=2, keepdims=True)) / deviation
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
