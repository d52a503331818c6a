"""Our numbers beside those of transformers, layer by layer, on any checkpoint.

This is the one room of the package that imports transformers, and only when it is asked to
compare: it is the reference. The first row that is too large says where a fault begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert import hub
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.model import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)
from minibert.tokenizer import check_vocabulary, load_tokenizer
from minibert.weights import PreTrainedModel

# Pairs of unequal length, so that the batch has padding and both token types.
PAIRS = [
    ("范廷颂是什么时候被任为主教的？", "范廷颂枢机是越南罗马天主教枢机。1963年被任为主教。"),
    ("Who wrote it?", "The Hobbit was written by J. R. R. Tolkien and published in 1937."),
    ("首都", "北京"),
    ("What if a text is much longer than the others in its batch?", "It decides T for all. " * 6),
]
HEADS: tuple[type[PreTrainedModel], ...] = (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForMaskedLM,
    BertForPreTraining,
)
BOUND = 1e-5


class Row(NamedTuple):
    """The largest absolute differences of one tensor from transformers' eager attention.

    explicit: of our explicit attention. fast: of our fast one. theirs: of transformers' own sdpa,
    which says how far apart two right answers can be. None where a path gives no such tensor.
    """

    what: str
    explicit: float | None
    fast: float | None
    theirs: float | None

    @property
    def bound(self) -> float:
        """1e-5, or what transformers' two paths differ by where that is more, up to 1e-4."""
        return max(BOUND, min(self.theirs or 0.0, 10 * BOUND))

    @property
    def holds(self) -> bool:
        return all(d <= self.bound for d in (self.explicit, self.fast) if d is not None)


def import_transformers() -> Any:
    """transformers, or a UserError that says how to get it."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            "the comparison needs transformers: pip install 'minibert-qa[reference]'"
        ) from None
    peer: Any = transformers
    peer.logging.set_verbosity_error()
    peer.logging.disable_progress_bar()
    return peer


def load_peer(peer: Any, directory: Path, attention: str) -> Any:
    """A model of transformers in fp32, or a UserError where it refuses the checkpoint."""
    try:
        return peer.from_pretrained(
            directory, attn_implementation=attention, dtype=torch.float32
        ).eval()
    except Exception as error:  # it has no error class of its own for this
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"transformers cannot load {directory}: {reason}") from None


def text_batch(directory: Path) -> dict[str, Tensor]:
    """`PAIRS` as a checkpoint's own tokenizer sees them: three (B, T) int64 tensors."""
    tokenizer = load_tokenizer(directory)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
    config = BertConfig.from_pretrained(directory)
    check_vocabulary(tokenizer, config, directory)
    tokenizer.enable_truncation(max_length=min(128, config.max_position_embeddings))
    encodings = tokenizer.encode_batch(PAIRS)
    types = torch.tensor([e.type_ids for e in encodings])
    return {
        "input_ids": torch.tensor([e.ids for e in encodings]),
        "attention_mask": torch.tensor([e.attention_mask for e in encodings]),
        "token_type_ids": types.clamp(max=config.type_vocab_size - 1),
    }


@torch.no_grad()
def compare(weights: str | Path, batch: dict[str, Tensor] | None = None) -> list[Row]:
    """Every hidden state, every attention, the pooled output, and the logits of each head.

    Args:
        weights: a checkpoint, as directory or name. Heads that it lacks are left out.
        batch: input_ids, attention_mask and token_type_ids; by default `PAIRS`.

    Raises:
        UserError: transformers is not installed, or the checkpoint cannot be read.
    """
    transformers = import_transformers()
    directory = hub.find(weights)
    batch = batch or text_batch(directory)
    real = batch["attention_mask"].bool()
    eager, sdpa = (load_peer(transformers.BertModel, directory, a) for a in ("eager", "sdpa"))
    ours = BertModel.from_pretrained(directory)
    explicit = ours(**batch, output_hidden_states=True, output_attentions=True)
    fast = ours(**batch, output_hidden_states=True)
    theirs = eager(**batch, output_hidden_states=True, output_attentions=True)
    sdpas = sdpa(**batch, output_hidden_states=True)

    rows = []
    for i, reference in enumerate(theirs.hidden_states):
        values = [run.hidden_states[i][real] for run in (explicit, fast, sdpas)]
        rows.append(_row(f"layer {i}" if i else "embeddings", reference[real], *values))
        if i:
            looking = real[:, None, :, None].expand_as(theirs.attentions[i - 1])
            reference, value = (x.attentions[i - 1][looking] for x in (theirs, explicit))
            rows.append(_row(f"attention {i}", reference, value, None, None))
    if ours.load_report is not None and not ours.load_report.newly_initialized:
        values = [run.pooler_output for run in (explicit, fast, sdpas)]
        rows.append(_row("pooled output", theirs.pooler_output, *values))
    for head in HEADS:
        rows += _compare_head(transformers, head, directory, batch, real)
    return rows


def _compare_head(
    transformers: Any,
    head: type[PreTrainedModel],
    directory: Path,
    batch: dict[str, Tensor],
    real: Tensor,
) -> list[Row]:
    ours = head.from_pretrained(directory)
    if ours.load_report is not None and ours.load_report.newly_initialized:
        return []
    peer = getattr(transformers, head.__name__)
    eager, sdpa = (load_peer(peer, directory, a)(**batch) for a in ("eager", "sdpa"))
    result = ours(**batch)
    named = result._asdict() if hasattr(result, "_asdict") else {"logits": result}
    rows = []
    for name, value in named.items():
        three = (eager[name], value, sdpa[name])
        if value.shape[:2] == real.shape:  # one score or more for each token: leave padding out
            three = tuple(x[real] for x in three)
        reference, fast, theirs = three
        rows.append(_row(f"{head.__name__} {name}", reference, None, fast, theirs))
    return rows


def _row(what: str, reference: Tensor, *values: Tensor | None) -> Row:
    return Row(what, *(None if x is None else max_difference(x, reference) for x in values))


def max_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; infinite where either holds a NaN or another shape."""
    if a.shape != b.shape:
        return float("inf")
    difference = (a.double() - b.double()).abs()
    return float("inf") if bool(difference.isnan().any()) else difference.max().item()


def table(rows: list[Row]) -> str:
    """The rows for people, with a verdict on each."""
    lines = [f"{'':42} {'explicit':>9} {'fast':>9} {'theirs':>9}  {'bound':>8}"]
    for row in rows:
        cells = " ".join(f"{'-' if d is None else f'{d:.1e}':>9}" for d in row[1:4])
        verdict = "" if row.holds else "  TOO LARGE"
        lines.append(f"{row.what:42} {cells}  {row.bound:8.1e}{verdict}")
    return "\n".join(lines)
