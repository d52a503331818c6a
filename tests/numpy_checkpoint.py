"""Test checkpoints whose every number comes from numpy, by the tensor's name.

Neither minibert nor transformers takes part in making them, so both can be held against them. Every
parameter is perturbed by N(0, 0.05), biases and LayerNorms too: as they are initialised (biases 0,
gains 1), a bias that is swapped with another or left out would change nothing.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

CHINESE = {  # bert-base-chinese
    "model_type": "bert",
    "vocab_size": 21128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
    "initializer_range": 0.02,
}
# Narrow enough that perturbed weights keep the tokens apart through all layers. At width 768 the
# attention of random weights averages them away after four layers: fine for outputs, which are
# compared layer by layer, but the gradients that are left in depth are rounding noise.
SMALL = CHINESE | {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
TINY = CHINESE | {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an encoder with all four heads, as Hugging Face checkpoints have them."""
    C, I, V = config["hidden_size"], config["intermediate_size"], config["vocab_size"]  # noqa: E741
    modules = {
        "bert.embeddings.LayerNorm": (C,),
        "bert.pooler.dense": (C, C),
        "cls.predictions.transform.dense": (C, C),
        "cls.predictions.transform.LayerNorm": (C,),
        "cls.seq_relationship": (2, C),
        "qa_outputs": (2, C),
        "classifier": (2, C),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value"):
            modules[f"{layer}.{name}"] = (C, C)
        modules[f"{layer}.attention.output.dense"] = (C, C)
        modules[f"{layer}.attention.output.LayerNorm"] = (C,)
        modules[f"{layer}.intermediate.dense"] = (I, C)
        modules[f"{layer}.output.dense"] = (C, I)
        modules[f"{layer}.output.LayerNorm"] = (C,)
    tensors: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (V, C),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], C),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], C),
        "cls.predictions.bias": (V,),
    }
    for name, shape in modules.items():
        tensors[f"{name}.weight"] = shape
        tensors[f"{name}.bias"] = shape[:1]
    return tensors


def numpy_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The usual initial value plus N(0, 0.05); RandomState is the stream numpy promises to keep."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        return (1 + 0.05 * noise).astype(np.float32)
    if name.endswith("bias"):
        return (0.05 * noise).astype(np.float32)
    # N(0, 0.02) and N(0, 0.05) added are one normal of this deviation.
    return (np.hypot(0.02, 0.05) * noise).astype(np.float32)


def numpy_tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: numpy_tensor(name, shape) for name, shape in shapes(config).items()}


def write_checkpoint(
    directory: Path, config: dict[str, Any], tensors: dict[str, np.ndarray] | None = None
) -> Path:
    """config.json and model.safetensors, in one directory that every class can be loaded from."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if tensors is None:
        tensors = numpy_tensors(config)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def random_batch(
    config: dict[str, Any], lengths: list[int], seed: int = 0
) -> dict[str, torch.Tensor]:
    """A padded batch of mixed lengths with both token types, from numpy."""
    random = np.random.RandomState(seed)
    T = max(lengths)
    ids = random.randint(5, config["vocab_size"], (len(lengths), T))
    real = np.arange(T) < np.array(lengths)[:, None]
    second = np.arange(T) >= np.array([random.randint(1, n + 1) for n in lengths])[:, None]
    return {
        "input_ids": torch.tensor(np.where(real, ids, config["pad_token_id"])),
        "attention_mask": torch.tensor(real.astype(np.int64)),
        "token_type_ids": torch.tensor((second & real).astype(np.int64)),
    }
