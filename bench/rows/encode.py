"""Batches of texts through the encoder, without gradients: beside transformers, and beside ONNX
Runtime, which only computes and is stated.

Shapes:  B  texts   T  tokens of each   C  hidden_size
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.memory import keep_freed_memory
from minibert.model import BertModel, BertOutput
from minibert.products import fix_products
from minibert.train import PRECISIONS, autocast
from rows import material
from rows.products import ALONE, products
from rows.row import Check, Figures, Row, Side, Work, absent, apart, needs, timed

Encoder: TypeAlias = Callable[[dict[str, Tensor]], Tensor]  # (B, T) each -> (B, T, C)


class Shape(NamedTuple):
    """Of the batch, the precision, and how often it is counted in one process."""

    batch: int
    length: int
    precision: str
    counted: int

    def of(self, work: Work) -> Shape:
        return Shape(2, 8 + self.length // 16, self.precision, 1) if work.quick else self


def measure(shape: Shape, work: Work, side: str) -> Figures:
    shape = shape.of(work)
    if side == "products":
        model = ours(material.base(work))
        made_ready(model, shape.precision)
        return timed(products(model, shape.precision, (shape.batch, shape.length)), shape.counted)
    encode, batch = encoder(shape, work, side), batch_of(shape, work)
    return timed(lambda: encode(batch), shape.counted)


def check(shape: Shape, work: Work) -> list[Check]:
    """The last hidden states of the real tokens, by each form of the peer."""
    shape = shape.of(work)
    batch = batch_of(shape, work)
    real = batch["attention_mask"].bool()  # (B, T)
    found = {
        side: encoder(shape, work, side)(batch)[real]  # (B, T, C) -> (real tokens, C)
        for side, facts in {"ours": OURS, **sides_of(shape.precision)}.items()
        if not facts.compiles and not absent(facts.needs)
    }
    ours = found.pop("ours")
    return [
        apart(f"last hidden state, {side}", [ours], [x], shape.precision)
        for side, x in found.items()
    ]


def batch_of(shape: Shape, work: Work) -> dict[str, Tensor]:
    vocab_size = BertConfig.from_pretrained(material.base(work)).vocab_size
    return material.token_ids(shape.batch, shape.length, vocab_size, padded=1)


def encoder(shape: Shape, work: Work, side: str) -> Encoder:
    """What takes a batch to its last hidden state, as one side has it."""
    checkpoint = material.base(work)
    if side == "onnx":
        return onnx_encoder(shape, checkpoint, work.folder)
    model: nn.Module
    if side == "ours":
        model = ours(checkpoint)
        made_ready(model, shape.precision)
    else:
        model = theirs(checkpoint, side)
    if side == "compiled":
        model.compile()

    @torch.inference_mode()
    def encode(batch: dict[str, Tensor]) -> Tensor:
        with autocast(torch.device("cpu"), shape.precision):
            out: Tensor = model(**batch).last_hidden_state
        return out

    return encode


def ours(checkpoint: Path) -> BertModel:
    return BertModel.from_pretrained(checkpoint, add_pooler=False)


def made_ready(model: BertModel, precision: str) -> None:
    """As the commands load a model that is only asked, and keep its memory."""
    keep_freed_memory()
    fix_products(model, torch.device("cpu"), PRECISIONS[precision])


def theirs(checkpoint: Path, side: str) -> nn.Module:
    from transformers import BertModel

    attention = "eager" if side == "eager" else "sdpa"
    model: nn.Module = BertModel.from_pretrained(
        checkpoint, attn_implementation=attention, add_pooling_layer=False
    )
    return model


def onnx_encoder(shape: Shape, checkpoint: Path, folder: Path) -> Encoder:
    """Our model as a graph of this one shape, with as many threads as torch has."""
    import onnxruntime

    path = folder / f"encoder-{shape.batch}x{shape.length}.onnx"
    names = ("input_ids", "attention_mask", "token_type_ids")
    if not path.exists():
        export(ours(checkpoint), shape, names, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: batch[name].numpy() for name in names}
        return torch.from_numpy(session.run(["last_hidden_state"], inputs)[0])

    return encode


class LastHiddenState(nn.Module):
    """The encoder with one output, which is all that is timed."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        out: BertOutput = self.model(input_ids, attention_mask, token_type_ids)
        return out.last_hidden_state


def export(model: BertModel, shape: Shape, names: Sequence[str], path: Path) -> None:
    """Writes the graph; torch needs onnx and onnxscript for it."""
    batch = material.token_ids(shape.batch, shape.length, model.config.vocab_size, padded=1)
    torch.onnx.export(
        LastHiddenState(model).eval(),
        tuple(batch[name] for name in names),
        path,
        input_names=list(names),
        output_names=["last_hidden_state"],
        dynamo=True,
        verbose=False,
    )


OURS = Side("minibert, BertModel, its products and its memory as in the commands", "ours")
ONNX = Side("ONNX Runtime", "beside", needs=("onnxruntime", "onnxscript"))


def sides_of(precision: str) -> dict[str, Side]:
    """The peer's forms; ONNX Runtime computes in fp32."""
    peers = {
        "sdpa": Side("transformers, attention sdpa (its default)"),
        "eager": Side("transformers, attention eager"),
        "compiled": Side("transformers, sdpa, torch.compile", compiles=True),
    }
    return peers | ({"onnx": ONNX} if precision == "fp32" else {})


def row(batch: int, length: int, precision: str) -> Row:
    shape = Shape(batch, length, precision, counted=2)
    return Row(
        name=f"encode-{batch}x{length}-{precision}",
        what=f"encoding a batch, bert-base shape, {batch} x {length}, {precision}",
        sides={"ours": OURS, **sides_of(precision), **ALONE},
        measure=partial(measure, shape),
        check=partial(check, shape),
        target=1.15,
        lacks=needs("transformers", bf16=precision == "bf16"),
        settings=shape._asdict(),
    )


ROWS = [row(*size, precision) for size in ((8, 512), (64, 32)) for precision in ("fp32", "bf16")]
