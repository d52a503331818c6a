"""How a BERT is pre-trained: hide some words of a text, and learn to guess them.

    python weights/pretrain.py --text corpus.txt.xz --weights DIRECTORY --out runs/mlm

It is task 1 of the BERT paper (section 3.1); task 2, next sentence prediction, is left out, as
RoBERTa showed that it can be (Liu et al. 2019, section 4.2). What is hidden are not single tokens,
which their neighbours give away, but runs of one to four whole words (MacBERT, Cui et al. 2020,
section 3.1). --weights is any checkpoint, with or without the masked-LM head; it is also how a
model is made at home in new texts before it is fine-tuned on them (Gururangan et al. 2020).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from passages import Piece, add_text, check_enough, cut_pieces, read_passages, sources
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert import runs
from minibert.batches import pad, sequential_batches
from minibert.cli import guard
from minibert.model import BertForMaskedLM
from minibert.report import say
from minibert.tokenizer import SPECIAL, check_model, load_tokenizer, save_tokenizer
from minibert.train import Training
from minibert.weights import PreTrainedModel

Ints: TypeAlias = NDArray[np.int64]

MASKED = 0.15  # of all tokens (paper, section 3.1)
AS_MASK, AS_RANDOM = 0.8, 0.1  # shown as [MASK], as any other token; the rest as it is (A.1)
RUNS = (0.4, 0.3, 0.2, 0.1)  # how often 1, 2, 3, 4 words in a row (MacBERT, section 3.1)
HELD_OUT = 100  # every 100th piece is never trained on
RECIPE = {"epochs": 1, "batch_size": 64, "lr": 3e-4, "max_length": 128, "head_only": False}


def choose_runs(starts_word: NDArray[np.bool_], draw: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens of a piece to hide: runs of whole words, until 15% of the tokens are hidden.

    `starts_word` (T,) says which tokens begin a word; a piece may begin inside one. Returns (T,)
    bool; at least one token is hidden, and [CLS] and [SEP] never are.
    """
    words = np.append(1, np.flatnonzero(starts_word[2:-1]) + 2)  # where each word begins
    ends = np.append(words[1:], len(starts_word) - 1)  # and one past its last token
    hidden = np.zeros(len(starts_word), bool)
    goal = max(1, round(MASKED * (len(starts_word) - 2)))
    while hidden.sum() < goal:
        first = draw.integers(len(words))
        last = min(first + draw.choice(len(RUNS), p=RUNS), len(words) - 1)
        hidden[words[first] : ends[last]] = True
    return hidden


class MaskedLMTask:
    """Pre-training as the loop sees it: see `train.Task`."""

    score = "accuracy"

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, pieces: list[Piece]) -> None:
        self.whole, self.tokenizer = model, tokenizer
        self.held_out = pieces[::HELD_OUT]
        self.pieces = [piece for i, piece in enumerate(pieces) if i % HELD_OUT]
        self.lengths: Sequence[int] = [len(piece.input_ids) for piece in self.pieces]
        tokens = tokenizer.get_vocab()
        # A word begins where no ## stands; a Chinese character is a word of its own.
        self.starts_word = np.ones(model.config.vocab_size, bool)
        self.starts_word[[i for token, i in tokens.items() if token.startswith("##")]] = False
        self.plain_ids = np.sort([i for t, i in tokens.items() if t not in SPECIAL.values()])
        self.pad_id, self.mask_id = (tokenizer.get_vocab()[SPECIAL[n]] for n in ("pad", "mask"))

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Pieces with other tokens hidden each time. The draw comes from torch's generator, whose
        state a checkpoint holds."""
        seed = int(torch.randint(2**62, ()).item())
        return self.hide([self.pieces[i] for i in examples], np.random.default_rng(seed))

    def hide(self, pieces: Sequence[Piece], draw: np.random.Generator) -> dict[str, Tensor]:
        """The inputs, (B, T); which places are hidden, (B, T) bool; what stood there, (n)."""
        batch = pad(pieces, self.pad_id)
        ids: Ints = batch["input_ids"].numpy()  # (B, T), shared with the tensor
        hidden = np.zeros(ids.shape, bool)
        for row, piece in enumerate(pieces):
            starts_word = self.starts_word[piece.input_ids]
            hidden[row, : len(starts_word)] = choose_runs(starts_word, draw)
        targets = torch.from_numpy(ids[hidden])  # (B, T) -> (n)
        how = draw.random(len(targets))
        shown = np.where(how < AS_MASK, self.mask_id, ids[hidden])
        at_random = (how >= AS_MASK) & (how < AS_MASK + AS_RANDOM)
        shown[at_random] = draw.choice(self.plain_ids, at_random.sum())
        ids[hidden] = shown
        return batch | {"hidden": torch.from_numpy(hidden), "targets": targets}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `guess_loss`."""
        inputs = {name: x for name, x in batch.items() if name != "targets"}
        loss, right = guess_loss(model(**inputs), batch["hidden"], batch["targets"])
        return loss, {"accuracy": right}

    def names(self, examples: Sequence[int]) -> list[str]:
        return [f"piece {i}" for i in examples]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """Loss (nats) and accuracy on the held-out pieces, the same places hidden each time."""
        model.eval()
        device = next(model.parameters()).device
        sums, draw = np.zeros(2), np.random.default_rng(0)
        for rows in sequential_batches([len(p.input_ids) for p in self.held_out], 64):
            batch = self.hide([self.held_out[row] for row in rows], draw)
            loss, right = self.loss(model, {name: x.to(device) for name, x in batch.items()})
            sums += float(loss), float(right["accuracy"])
        loss, accuracy = sums / len(self.held_out)
        return {"loss": loss, "accuracy": accuracy, "total": len(self.held_out)}, {}

    def save(self, model: nn.Module, directory: Path) -> None:
        self.whole.save_pretrained(directory)
        save_tokenizer(self.tokenizer, directory, self.whole.config.max_position_embeddings)


def guess_loss(logits: Tensor, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy and how many are right, each a text's mean, summed over the B texts.

    logits: (n, V); hidden: (B, T) bool, n of them True; targets: (n).
    """
    weight = 1 / hidden.sum(dim=1, keepdim=True).expand_as(hidden)[hidden]  # (B, T) -> (n)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    right = logits.argmax(dim=1) == targets
    return (losses * weight).sum(), (right * weight).sum()


def expect_frequencies(model: PreTrainedModel, pieces: Sequence[Piece]) -> None:
    """Lets a new head begin with the words' frequencies in its bias. To learn them would take it
    thousands of steps: AdamW moves a number by hardly more than the rate at each."""
    bias = model.get_parameter("mlm.decoder.bias")
    report = model.load_report
    if report is None or "mlm.decoder.bias" in report.newly_initialized:
        ids = np.concatenate([piece.input_ids[1:-1] for piece in pieces])  # not [CLS] and [SEP]
        counts = torch.from_numpy(np.bincount(ids, minlength=len(bias)) + 1.0)  # (V)
        bias.data = (counts / counts.sum()).log().to(bias)


class HiddenPlaces(nn.Module):
    """The model where something is hidden: the head, a quarter of the work in a small model, is
    computed at these places alone (run_pretraining.py, gather_indexes)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.bert, self.mlm = model.get_submodule("bert"), model.get_submodule("mlm")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, hidden: Tensor
    ) -> Tensor:
        x = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
        return self.mlm(x[hidden])  # (B, T, C) -> (n, C) -> (n, V)


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    settings = runs.DEFAULTS | RECIPE | settings
    runs.check_given(settings, "text", "weights")
    paths = [Path(name) for name in settings["text"]]
    data = sources(paths)
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    tokenizer = load_tokenizer(weights)
    passages = [passage for path in paths for passage in read_passages(path)]
    pieces = cut_pieces(passages, tokenizer, settings["max_length"], settings["limit"])
    check_enough(pieces, paths)
    model = BertForMaskedLM.from_pretrained(weights).to(device)
    check_model(model.config, tokenizer, settings["max_length"], told_apart=None)
    # The head's decoder is the word embeddings (paper's code, run_pretraining.py): they stay, too.
    model.bert.requires_grad_(not settings["head_only"])
    task = MaskedLMTask(model, tokenizer, pieces)
    expect_frequencies(model, task.pieces)
    counts = {"pieces": len(task.lengths), "tokens": sum(task.lengths)}
    say(f"{counts['pieces']:,} pieces of text, {counts['tokens']:,} tokens to train on")
    if not resumed:
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(HiddenPlaces(model), task, recipe, directory, resume=resumed is not None)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    return [
        f"best epoch {best['epoch']}: loss {best['loss']:.3f}, accuracy {best['accuracy']:.4f}; "
        f"saved in {run}"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    parser = runs.new_parser(__doc__)
    add_text(parser)
    parser.add_argument("--head-only", action="store_true", help="train the masked-LM head alone, "
        "on layers that stay as they are: what they were trained for is kept")  # fmt: skip
    runs.add_options(parser)
    given = vars(parser.parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("weights/pretrain.py", prepare, closing)))


if __name__ == "__main__":
    sys.exit(main())
