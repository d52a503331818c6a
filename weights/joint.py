"""Questions, hidden words and perhaps labelled texts at once: one encoder that keeps all of it.

    python weights/joint.py --train questions.json --dev held-out.json --text corpus.txt.xz \\
        --labelled reviews.tsv --weights DIRECTORY --out runs/joint

Trained one after the other, the second task spoils the first: layers that learn to guess hidden
words forget how to read, and a head put on a reader's finished layers guesses badly, since they
keep nothing for it (weights/tiny-zh/README.md has the figures). So with every window of a question
come pieces of text in which words are hidden, and labelled texts, drawn at random; the gradient is
that of all losses (multi-task learning, Caruana 1997; for BERT: Liu et al. 2019, "MT-DNN").

A run answers questions (minibert ask); what bundle.py makes of it, in half the bytes, does all.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from passages import add_text, check_enough, cut_pieces, read_passages, shuffled, sources
from pretrain import HiddenPlaces, MaskedLMTask, expect_frequencies
from tokenizers import Tokenizer
from torch import Tensor, nn

from minibert import runs
from minibert.cli import guard
from minibert.cls.columns import Wanted
from minibert.cls.reading import TextSet, check_classes, drawn, part_of, read_texts
from minibert.cls.task import ClsSettings, ClsTask, fit_head, say_cut
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.metrics import metric_for
from minibert.model import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    MaskedLMHead,
    Pooler,
)
from minibert.parts import say_shared, shares
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import EVERY_NTH, QuestionSet, read_questions
from minibert.qa.task import QASettings, QATask, check_fits
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import Task, Training
from minibert.words import add_columns

PIECE = 128  # tokens of a piece of text; a labelled one is cut to them
RECIPE = {
    "epochs": 1,
    "batch_size": 16,
    "lr": 2e-4,
    "max_length": 320,
    "doc_stride": 128,
    "pieces": 50_000,
    "words_each": 2,
    "texts_each": 2,
}


class BertForBoth(BertForQuestionAnswering):
    """An encoder with two heads: it marks answers, and its masked-LM head guesses hidden words."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.mlm = MaskedLMHead(config)
        self.initialize(self.mlm)
        self.tie_weights()


class BertForAll(BertForBoth):
    """An encoder with three heads: it tells the class of a text, too."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert.pooler = Pooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.initialize(self.bert.pooler)
        self.initialize(self.classifier)


def class_teller(model: BertForAll) -> BertForSequenceClassification:
    """The model as one that tells classes alone, of the same layers and the same head."""
    teller = BertForSequenceClassification(model.config)
    teller.bert, teller.classifier = model.bert, model.classifier
    return teller


class Together(nn.Module):
    """The model asked in all ways at once; the parts share all that they have in common.

    What it returns are the losses, not the logits: each task knows its own loss, and under torchrun
    the gradients must come from a single call.
    """

    def __init__(self, model: BertForBoth, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.tasks = tasks
        self.parts = nn.ModuleDict({"questions": model, "words": HiddenPlaces(model)})
        if isinstance(model, BertForAll):
            self.parts["texts"] = class_teller(model)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        found = {}
        for name, part in self.parts.items():
            own = {
                k.removeprefix(f"{name}."): x for k, x in batch.items() if k.startswith(f"{name}.")
            }
            found[name] = self.tasks[name].loss(part, own)
        return found


class JointTask:
    """All tasks as the loop sees them: see `train.Task`."""

    score = "f1"

    def __init__(self, tasks: Mapping[str, Task], each: Mapping[str, int]) -> None:
        """tasks: "questions", "words" and perhaps "texts"; each: how many examples of the others
        come with each window of a question."""
        self.tasks, self.each = tasks, each
        usual = {name: float(np.mean(tasks[name].lengths)) for name in each}
        with_each = round(sum(each[name] * usual[name] for name in each))
        self.lengths: Sequence[int] = [n + with_each for n in tasks["questions"].lengths]

    def batch(self, examples: Sequence[int]) -> dict[str, Tensor]:
        """Windows of questions, and what comes with them, drawn at random; each tensor's name
        begins with its task's: "words.input_ids"."""
        batch: dict[str, Tensor] = {}
        for name, task in self.tasks.items():
            rows = examples
            if name in self.each:
                count = self.each[name] * len(examples)
                rows = torch.randint(len(task.lengths), (count,)).tolist()
            batch |= {f"{name}.{key}": tensor for key, tensor in task.batch(rows).items()}
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses, each the mean of what comes with a question, over the batch."""
        found = model(batch)
        loss, right = found.pop("questions")
        for name, (added, share) in found.items():
            loss = loss + added / self.each[name]
            right |= {name: share["accuracy"] / self.each[name]}
        return loss, right

    def names(self, examples: Sequence[int]) -> list[str]:
        return self.tasks["questions"].names(examples)

    def evaluate(self, model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        """The scores of all tasks on what is held out of each: those of the questions, and
        "words_loss" (nats), "words_accuracy", "texts_accuracy" and so on. The files are those of
        the questions."""
        assert isinstance(model, Together)
        scores, results = self.tasks["questions"].evaluate(model.parts["questions"])
        for name in self.each:
            found, _ = self.tasks[name].evaluate(model.parts[name])
            scores |= {f"{name}_{key}": figure for key, figure in found.items()}
        return scores, results

    def save(self, model: nn.Module, directory: Path) -> None:
        assert isinstance(model, Together)
        self.tasks["questions"].save(model.parts["questions"], directory)


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    settings = runs.DEFAULTS | RECIPE | settings
    runs.check_given(settings, "train", "text", "weights")
    asked, labelled = read_asked(settings), read_labelled(settings)
    data = {name: part.as_dict() for name, part in asked.items()}
    data |= sources([Path(name) for name in settings["text"]])
    data |= {"labelled": labelled["train"].as_dict()} if labelled else {}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    tokenizer = load_tokenizer(weights)
    model = load_model(weights, labelled).to(device)
    metric = metric_for([question.context for question in asked["dev"].questions])
    settings |= {"metric": metric, "max_answer_length": MAX_ANSWER_LENGTH[metric]}  # to be asked
    tasks: dict[str, Task] = {
        "questions": make_questions(model, settings, tokenizer, asked),
        "words": make_words(model, settings, tokenizer),
    }
    if labelled:
        tasks["texts"] = make_texts(model, tokenizer, labelled)
    each = {name: settings[f"{name}_each"] for name in tasks if name != "questions"}
    task = JointTask(tasks, each)
    counted = {"questions": "windows", "words": "pieces", "texts": "texts"}
    counts = {counted[name]: len(part.lengths) for name, part in tasks.items()}
    say(", ".join(f"{count:,} {name}" for name, count in counts.items()) + " to learn from")
    if not resumed:
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(Together(model, tasks), task, recipe, directory, resume=resumed is not None)


def read_asked(settings: Mapping[str, Any]) -> dict[str, QuestionSet]:
    """The questions to learn from and those to be scored on; says what was read."""
    named = {name: Path(settings[name]) for name in settings if name in ("train", "dev")}
    shared = shares(named)
    found = {part: read_questions(*shared[part]) for part in ("train", "dev")}
    say_shared(named, "questions", EVERY_NTH)
    for part in found.values():
        say(part.summary())
    return found


def read_labelled(settings: Mapping[str, Any]) -> dict[str, TextSet]:
    """The texts to learn from and a tenth of them, held out; {} without --labelled.

    Raises:
        UserError: what `read_texts` and `check_classes` raise; there are too few; --texts-each is
            given without them.
    """
    if not settings.get("labelled"):
        if settings["texts_each"] != RECIPE["texts_each"]:
            raise UserError("--texts-each says how many of --labelled's texts are taken; name them")
        return {}
    path = Path(settings["labelled"])
    texts = read_texts(path, Wanted.of(settings))
    say(texts.summary())
    check_classes(texts)
    if not drawn(texts.examples):
        raise UserError(f"{path} has too few texts to hold out a tenth to score on; add some")
    return {"train": part_of(texts, "train"), "dev": part_of(texts, "dev")}


def load_model(weights: Path, labelled: Mapping[str, TextSet]) -> BertForBoth:
    """A checkpoint, with a new head for each task that it has none for."""
    if not labelled:
        return BertForBoth.from_pretrained(weights)
    model = BertForAll.from_pretrained(weights)
    fit_head(model, weights, labelled["train"].labels)
    return model


def make_questions(
    model: BertForBoth,
    settings: Mapping[str, Any],
    tokenizer: Tokenizer,
    asked: Mapping[str, QuestionSet],
) -> QATask:
    """The questions, the first --limit of them, in windows."""
    qa_settings = QASettings(**{name: settings[name] for name in QASettings._fields})
    check_fits(model.config, tokenizer, qa_settings)
    return QATask(tokenizer, qa_settings, asked["dev"], asked["train"], limit=settings["limit"])


def make_words(
    model: BertForBoth, settings: Mapping[str, Any], tokenizer: Tokenizer
) -> MaskedLMTask:
    """The pieces of text that the seed draws; a new head begins with their frequencies."""
    paths = [Path(name) for name in settings["text"]]
    passages = [passage for path in paths for passage in read_passages(path)]
    pieces = cut_pieces(
        shuffled(passages, settings["seed"]), tokenizer, longest(model), settings["pieces"]
    )
    check_enough(pieces, paths)
    task = MaskedLMTask(model, tokenizer, pieces)
    expect_frequencies(model, task.pieces)
    return task


def make_texts(
    model: BertForBoth, tokenizer: Tokenizer, labelled: Mapping[str, TextSet]
) -> ClsTask:
    """The labelled texts, cut where they are too long; says how many are."""
    settings, train = ClsSettings(longest(model), head_tail=False), labelled["train"]
    task = ClsTask(tokenizer, settings, train.labels, labelled["dev"], train)
    say_cut(train.path.name, task.encoded, settings)
    return task


def longest(model: BertForBoth) -> int:
    """Tokens of a piece of text and of a labelled text, at most."""
    return min(PIECE, model.config.max_position_embeddings)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    texts = f"texts: accuracy {best['texts_accuracy']:.4f}; " if "texts_accuracy" in best else ""
    return [
        f"best epoch {best['epoch']}: EM {best['exact_match']:.2f}, F1 {best['f1']:.2f}; hidden "
        f"words: loss {best['words_loss']:.3f}, accuracy {best['words_accuracy']:.4f}; {texts}"
        f"saved in {run}"
    ]


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    parser = runs.new_parser(__doc__)
    add = parser.add_argument
    add("--train", metavar="FILE", help="questions to learn from")
    add("--dev", metavar="FILE", help=f"questions to be scored on; without it, {EVERY_NTH} of "
        "--train's is held out for that")  # fmt: skip
    add_text(parser)
    add("--labelled", metavar="FILE", help="texts with classes to be told apart as well, "
        "TSV, CSV or JSON Lines; a tenth is held out")  # fmt: skip
    add(
        "--doc-stride",
        type=runs.positive(int),
        help=f"tokens between windows ({RECIPE['doc_stride']})",
    )
    add("--pieces", type=runs.positive(int), help="how many pieces of text to draw from, chosen by "
        f"--seed ({RECIPE['pieces']:,})")  # fmt: skip
    for name, what in (("words", "pieces of text"), ("texts", "labelled texts")):
        add(f"--{name}-each", type=runs.positive(int), metavar="N", help=f"{what} to each "
            f"window of a question ({RECIPE[f'{name}_each']})")  # fmt: skip
    add_columns(parser)
    runs.add_options(parser)
    given = vars(parser.parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("weights/joint.py", prepare, closing)))


if __name__ == "__main__":
    sys.exit(main())
