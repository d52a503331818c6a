"""Questions and hidden words at once: a reader that keeps guessing, or a guesser that reads.

    python weights/joint.py --train questions.json --dev held-out.json --text corpus.txt.xz \\
        --weights DIRECTORY --out runs/joint

Trained one after the other, the second task spoils the first: layers that learn to guess hidden
words forget how to read, and a head put on a reader's finished layers guesses badly, since they
keep nothing for it (weights/tiny-zh/README.md has the figures). So every question comes with two
pieces of text, drawn at random, in which words are hidden, and the gradient is that of both losses
(multi-task learning, Caruana 1997; for BERT: Liu et al. 2019, "MT-DNN").
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from passages import add_text, check_enough, cut_pieces, read_passages, shuffled, sources
from pretrain import HiddenPlaces, MaskedLMTask, expect_frequencies, guess_loss
from torch import Tensor, nn

from minibert import runs
from minibert.cli import guard
from minibert.config import BertConfig
from minibert.metrics import metric_for
from minibert.model import BertForQuestionAnswering, MaskedLMHead, SpanLogits
from minibert.parts import say_shared, shares
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import EVERY_NTH, read_questions
from minibert.qa.task import QASettings, QATask, check_fits, span_loss
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import Training

PIECE = 128  # tokens of a piece of text
EACH = 2  # pieces of text to each window of a question
RECIPE = {
    "epochs": 1,
    "batch_size": 16,
    "lr": 2e-4,
    "max_length": 320,
    "doc_stride": 128,
    "pieces": 50_000,
}


class BertForBoth(BertForQuestionAnswering):
    """An encoder with two heads: it marks answers, and its masked-LM head guesses hidden words."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.mlm = MaskedLMHead(config)
        self.initialize(self.mlm)
        self.tie_weights()


class Both(nn.Module):
    """The model asked in both ways at once; the parts share all that they have in common."""

    def __init__(self, model: BertForBoth) -> None:
        super().__init__()
        self.reader, self.guesser = model, HiddenPlaces(model)

    def forward(
        self, questions: dict[str, Tensor], words: dict[str, Tensor]
    ) -> tuple[SpanLogits, Tensor]:
        """Two of (B, T) for the questions; (n, V) for the n hidden words."""
        return self.reader(**questions), self.guesser(**words)


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class JointTask:
    """Both tasks as the loop sees them: see `train.Task`."""

    score = "f1"

    def __init__(self, questions: QATask, words: MaskedLMTask) -> None:
        self.questions, self.words = questions, words
        self.lengths: Sequence[int] = [n + EACH * PIECE for n in questions.lengths]

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Windows of questions, and pieces of text, whose tensors' names begin with "text."."""
        drawn = torch.randint(len(self.words.lengths), (EACH * len(examples),)).tolist()
        pieces = {f"text.{name}": x for name, x in self.words.batch(drawn).items()}
        return self.questions.batch(examples) | pieces

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`span_loss` and the mean of a question's `guess_loss`es, both summed over questions."""
        text = {k.removeprefix("text."): x for k, x in batch.items() if k.startswith("text.")}
        targets = text.pop("targets")
        spans, guesses = model({name: batch[name] for name in INPUTS}, text)
        read_loss, right = span_loss(spans, batch)
        words_loss, guessed = guess_loss(guesses, text["hidden"], targets)
        return read_loss + words_loss / EACH, right | {"words": guessed / EACH}

    def names(self, examples: Sequence[int]) -> list[str]:
        return self.questions.names(examples)

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """The scores on the dev questions; loss (nats) and accuracy on held-out text."""
        assert isinstance(model, Both)
        scores, results = self.questions.evaluate(model.reader)
        words, _ = self.words.evaluate(model.guesser)
        return scores | {f"words_{name}": x for name, x in words.items()}, results

    def save(self, model: nn.Module, directory: Path) -> None:
        assert isinstance(model, Both)
        self.questions.save(model.reader, directory)


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    settings = runs.DEFAULTS | RECIPE | settings
    runs.check_given(settings, "train", "text", "weights")
    named = {name: Path(settings[name]) for name in settings if name in ("train", "dev")}
    shared = shares(named)
    train, dev = (read_questions(*shared[part]) for part in ("train", "dev"))
    say_shared(named, "questions", EVERY_NTH)
    for found in (train, dev):
        say(found.summary())
    paths = [Path(name) for name in settings["text"]]
    data = {"train": train.as_dict(), "dev": dev.as_dict(), **sources(paths)}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    tokenizer = load_tokenizer(weights)
    model = BertForBoth.from_pretrained(weights).to(device)
    metric = metric_for([question.context for question in dev.questions])
    settings |= {"metric": metric, "max_answer_length": MAX_ANSWER_LENGTH[metric]}  # to be asked
    qa_settings = QASettings(**{name: settings[name] for name in QASettings._fields})
    check_fits(model.config, tokenizer, qa_settings)
    questions = QATask(tokenizer, qa_settings, dev, train, limit=settings["limit"])
    passages = [passage for path in paths for passage in read_passages(path)]
    longest = min(PIECE, model.config.max_position_embeddings)
    drawn = shuffled(passages, settings["seed"])
    pieces = cut_pieces(drawn, tokenizer, longest, settings["pieces"])
    check_enough(pieces, paths)
    task = JointTask(questions, MaskedLMTask(model, tokenizer, pieces))
    expect_frequencies(model, task.words.pieces)
    counts = {"windows": len(task.lengths), "pieces": len(task.words.lengths)}
    say(f"{counts['windows']:,} windows, {counts['pieces']:,} pieces of text to draw from")
    if not resumed:
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(Both(model), task, recipe, directory, resume=resumed is not None)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    return [
        f"best epoch {best['epoch']}: EM {best['exact_match']:.2f}, F1 {best['f1']:.2f}; hidden "
        f"words: loss {best['words_loss']:.3f}, accuracy {best['words_accuracy']:.4f}; saved in "
        f"{run}"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    parser = runs.new_parser(__doc__)
    add = parser.add_argument
    add("--train", metavar="FILE", help="questions to learn from")
    add("--dev", metavar="FILE", help=f"questions to be scored on; without it {EVERY_NTH}, of "
        "--train's is held out for that")  # fmt: skip
    add_text(parser)
    add(
        "--doc-stride",
        type=runs.positive(int),
        help=f"tokens between windows ({RECIPE['doc_stride']})",
    )
    add("--pieces", type=runs.positive(int), help="how many pieces of text to draw from, chosen by "
        f"--seed ({RECIPE['pieces']:,})")  # fmt: skip
    runs.add_options(parser)
    given = vars(parser.parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("weights/joint.py", prepare, closing)))


if __name__ == "__main__":
    sys.exit(main())
