"""The settings of a BERT, as they stand in a checkpoint's `config.json`.

Read this first: the few settings here are all that makes one BERT differ from another. `model.py`
builds what they describe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.errors import UserError
from minibert.files import read_json

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

# Fields that would change the result and that this model does not implement, with the one value
# under which they change nothing. Any other value is refused; ignoring it would give wrong numbers.
ONLY_VALUE = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "pooler_type": "first_token_transform",
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and rates of one BERT; the defaults are bert-base-uncased.

    Args:
        vocab_size: entries of the vocabulary, V.
        hidden_size: width of every token's vector, C ("H" in the paper, section 3).
        num_hidden_layers: Transformer layers ("L" in the paper).
        num_attention_heads: heads per layer, H ("A" in the paper); divides hidden_size.
        intermediate_size: width inside the feed-forward part, I (4 x hidden_size in the paper).
        hidden_act: activation of the feed-forward part and of the masked-LM head.
        hidden_dropout_prob: dropout on the embeddings and on the output of each sub-layer.
        attention_probs_dropout_prob: dropout on the attention probabilities.
        classifier_dropout: dropout before the classification head; None means hidden_dropout_prob.
        max_position_embeddings: the longest sequence, in tokens.
        type_vocab_size: how many token types (segments A and B) there are.
        initializer_range: standard deviation of freshly drawn weights.
        layer_norm_eps: added to the variance in every LayerNorm.
        pad_token_id: the id whose embedding gets no gradient; None for none.
        tie_word_embeddings: the masked-LM decoder shares the word embeddings' weight.
        id2label: names of the classes, by class number.
        unread: fields of config.json that do not change the model, kept to be written back.

    Raises:
        UserError: a value is of the wrong type, out of range, or not implemented here.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    id2label: Mapping[int, str] = field(
        default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"}, hash=False
    )
    unread: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "max_position_embeddings", "type_vocab_size",
        ):  # fmt: skip
            self._require(name, int, lambda n: n > 0, "a whole number above 0")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self._require(name, float, lambda p: 0 <= p < 1, "a number from 0 up to, not with, 1")
        for name in ("initializer_range", "layer_norm_eps"):
            self._require(name, float, lambda x: 0 < x < float("inf"), "a number above 0")
        if self.classifier_dropout is not None:
            self._require(
                "classifier_dropout",
                float,
                lambda p: 0 <= p < 1,
                "a number from 0 up to, not with, 1",
            )
        if self.pad_token_id is not None:
            in_vocabulary = f"an id from 0 to {self.vocab_size - 1}, or null"
            self._require("pad_token_id", int, lambda i: 0 <= i < self.vocab_size, in_vocabulary)
        self._require("tie_word_embeddings", bool, lambda _: True, "true or false")
        acts = "one of " + ", ".join(ACTIVATIONS)
        self._require("hidden_act", str, ACTIVATIONS.__contains__, acts)
        heads = f"a multiple of num_attention_heads ({self.num_attention_heads})"
        self._require("hidden_size", int, lambda n: n % self.num_attention_heads == 0, heads)
        if sorted(self.id2label) != list(range(self.num_labels)) or not self.id2label:
            raise UserError(f"id2label must name the classes 0, 1, 2 …, not {dict(self.id2label)}")
        if len(set(self.id2label.values())) < self.num_labels:
            raise UserError(f"id2label gives two classes one name: {dict(self.id2label)}")

    def _require(self, name: str, kind: type, holds: Any, wanted: str) -> None:
        value = getattr(self, name)
        # JSON has one kind of number, Python three: 0 is a fine dropout rate, True is no size.
        fits = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
        if kind is not bool and isinstance(value, bool):
            fits = False
        if not fits or not holds(value):
            raise UserError(f"{name} is {json.dumps(value, default=str)}; it must be {wanted}")

    @classmethod
    def from_pretrained(cls, directory: str | Path, **overrides: Any) -> BertConfig:
        """The settings in `directory/config.json`; overrides replace single fields.

        `num_labels=N` may be given for an id2label of N names without meaning.

        Raises:
            UserError: there is no such file, it holds no JSON, or it describes another model.
            TypeError: an override that is no field.
        """
        path = Path(directory) / "config.json"
        values = read_json(path)
        try:
            config = cls.from_dict(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if "num_labels" in overrides:
            overrides["id2label"] = _labels({"num_labels": overrides.pop("num_labels")})
        if unknown := overrides.keys() - cls.__dataclass_fields__.keys():
            raise TypeError(f"BertConfig has no field {min(unknown)!r} to override")
        return replace(config, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BertConfig:
        """The settings in a config.json's object; a missing field has the default above.

        A missing model_type means bert: the files of the real bert-base-chinese have none.
        """
        for name, only in ONLY_VALUE.items():
            if values.get(name, only) != only and values[name] is not None:
                raise UserError(
                    f"{name} is {json.dumps(values[name])}, which minibert does not implement; "
                    f"it reads checkpoints where it is {json.dumps(only)}"
                )
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        known.pop("unread", None)
        known["id2label"] = _labels(values)
        unread = {k: v for k, v in values.items() if k not in known and k not in WRITTEN}
        return cls(**known, unread=unread)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: every field, in the form that transformers reads."""
        values = asdict(self)
        unread = values.pop("unread")
        values["id2label"] = {str(i): label for i, label in self.id2label.items()}
        values["label2id"] = {label: i for i, label in self.id2label.items()}
        return {**unread, "model_type": "bert", **values}


# Not kept as they were read: they are made anew when a model is saved, or follow from the others.
WRITTEN = ("model_type", "architectures", "dtype", "torch_dtype", "label2id", "num_labels")


def _labels(values: Mapping[str, Any]) -> dict[int, str]:
    """id2label has its numbers as strings (JSON has no others); old files have only num_labels."""
    if values.get("id2label") is None:
        count = values.get("num_labels", 2)
        if not isinstance(count, int) or count < 1:
            raise UserError(f"num_labels is {json.dumps(count)}; it must be a number above 0")
        return {i: f"LABEL_{i}" for i in range(count)}
    try:
        labels = {int(i): str(x) for i, x in sorted(values["id2label"].items(), key=_number)}
    except (AttributeError, ValueError):
        raise UserError(
            f"id2label is {json.dumps(values['id2label'])}; it must be an object of names by number"
        ) from None
    if values.get("num_labels", len(labels)) != len(labels):
        raise UserError(f"num_labels is {values['num_labels']}, but id2label has {len(labels)}")
    return labels


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])
