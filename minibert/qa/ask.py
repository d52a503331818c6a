"""A trained model at work: a text and a question in; the answer, its place and its sentence out.

`commands.py` puts it on the command line. What the model was trained with, its run knows: run.json
holds the lengths it must be asked with, eval.json from where on it says that there is no answer.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from minibert import files, hub, runs
from minibert.errors import UserError
from minibert.metrics import metric_for
from minibert.model import BertForQuestionAnswering
from minibert.qa.decoding import MAX_ANSWER_LENGTH, Prediction
from minibert.qa.reading import Question
from minibert.qa.recipes import PUBLISHED
from minibert.qa.task import QASettings, answer, check_fits
from minibert.qa.windows import check_lengths, make_windows
from minibert.report import say
from minibert.tokenizer import SPECIAL, load_tokenizer
from minibert.train import PRECISIONS, autocast, choose_precision


class Reply(NamedTuple):
    """The answer to one question: `context[start:end] == answer`, in characters from 0."""

    question: str
    answer: str  # "" where the model finds none; then there is no place and no sentence
    probability: float  # see decoding.Span: among the 20 best candidates
    start: int | None
    end: int | None
    sentence: str  # the sentence around the answer, as it stands in the context
    sentence_start: int | None

    def marked(self, before: str, after: str) -> str:
        """The sentence with marks around the answer, on one line, without control characters."""
        if self.start is None or self.end is None or self.sentence_start is None:
            return ""
        start, end = self.start - self.sentence_start, self.end - self.sentence_start
        parts = self.sentence[:start], self.sentence[start:end], self.sentence[end:]
        left, middle, right = map(on_one_line, parts)
        return left + before + middle + after + right


@dataclass(frozen=True)
class Reader:
    """A model that was trained for questions, and how it must be asked."""

    model: BertForQuestionAnswering
    tokenizer: Tokenizer
    settings: QASettings | None  # of its run; None for a checkpoint from elsewhere
    precision: str
    null_threshold: float | None  # None: trained on questions that all have an answer

    def ask(self, context: str, questions: Sequence[str]) -> list[Reply]:
        """Answers questions about one text of any length.

        Raises:
            UserError: the text or a question is empty or no Unicode; the model's scores are NaN.
        """
        check_text(context, "the context")
        for question in questions:
            check_text(question, "the question")
        asked = [
            Question(f"{i}", question.strip(), context, (), (), False, "", "")
            for i, question in enumerate(questions, 1)
        ]
        settings = self.settings_for([context])
        allow_null = self.null_threshold is not None
        pad_id = self.tokenizer.get_vocab()[SPECIAL["pad"]]
        with plain_warnings(), self.autocast():
            cut = (settings.max_length, settings.doc_stride)
            windows = make_windows(asked, self.tokenizer, *cut, training=False)
            predictions = answer(self.model, windows, pad_id, settings, allow_null)
        return [
            self.reply(question, prediction)
            for question, prediction in zip(asked, predictions, strict=True)
        ]

    def reply(self, question: Question, prediction: Prediction) -> Reply:
        text = prediction.answer(self.null_threshold)
        span = next(span for span in prediction.n_best if span.text == text)
        if not text:
            return Reply(question.question, "", span.probability, None, None, "", None)
        place = span.start_char, span.end_char
        first, last = sentence_around(question.context, *place)
        sentence = question.context[first:last]
        return Reply(question.question, text, span.probability, *place, sentence, first)

    def settings_for(self, texts: Sequence[str]) -> QASettings:
        """Those of the run; for a checkpoint without one the usual ones for the texts' language."""
        if self.settings is not None:
            return self.settings
        metric = metric_for(texts)
        usual = PUBLISHED[metric]
        max_length = min(usual.max_length, self.model.config.max_position_embeddings)
        doc_stride = max(1, min(usual.doc_stride, max_length // 3))
        return QASettings(max_length, doc_stride, MAX_ANSWER_LENGTH[metric], metric)

    def autocast(self) -> torch.autocast:
        """The precision that the run was scored with, so that its scores come out again."""
        return autocast(next(self.model.parameters()).device, self.precision)


def load_reader(name: str, device: str | None = None) -> Reader:
    """The model of a run, or a question-answering checkpoint that transformers made.

    Raises:
        UserError: there is none of that name, it was not trained for questions, or its files do
            not belong together.
    """
    directory = hub.find(name)
    run = directory.parent if directory.name == "last" else directory
    facts = read_run(run) if (run / "run.json").is_file() else None
    if facts and not (directory / "config.json").is_file():
        raise UserError(f"{name} has no model yet: its first epoch was not finished; resume it")
    model = BertForQuestionAnswering.from_pretrained(directory)
    if model.load_report is not None and model.load_report.newly_initialized:
        raise UserError(
            f"{name} has not been trained for questions: it holds no "
            f"{model.load_report.newly_initialized[0]}; train it: "
            f"python train_qa.py --data NAME --weights {name}"
        )
    tokenizer = load_tokenizer(directory)
    on = runs.device_of({"device": device})
    settings, precision, threshold = facts or (None, "fp32", None)
    if on.type != "cuda" and precision != choose_precision(on):  # it would be emulated, slowly
        precision = "fp32"
    reader = Reader(model.to(on), tokenizer, settings, precision, threshold)
    try:
        check_fits(model.config, tokenizer, reader.settings_for([]))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return reader


def read_run(run: Path) -> tuple[QASettings, str, float | None]:
    """What a run was trained with: settings, precision and the threshold of "no answer".

    Raises:
        UserError: its files are damaged, or it is a run of another task.
    """
    values = files.read_json(run / "run.json").get("settings")
    names = QASettings._fields
    if not isinstance(values, dict) or not all(name in values for name in names):
        raise UserError(f"{run} is no run of train_qa.py: its run.json lacks {', '.join(names)}")
    settings = QASettings(*(values[name] for name in names))
    whole = all(type(value) is int for value in settings[:3])
    precision = values.get("precision")
    if not whole or settings.metric not in MAX_ANSWER_LENGTH or precision not in PRECISIONS:
        raise UserError(f"{run / 'run.json'} is damaged: its settings are {settings}, {precision}")
    check_lengths(settings.max_length, settings.doc_stride)
    scores = files.read_json(run / "eval.json") if (run / "eval.json").is_file() else {}
    threshold = scores.get("null_threshold")
    return settings, precision, threshold if isinstance(threshold, float) else None


def check_text(text: str, what: str) -> None:
    if not text.strip():
        raise UserError(f"{what} is empty; there is nothing to answer")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is not valid UTF-8") from None


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as lines for the user, without their place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        say(f"note: {warning.message}")


# The sentence around an answer.

REACH = 400  # characters to look for a sentence's beginning and end; longer ones are cut there
ENDING = re.compile(
    r"""[。！？]+[”’」』）》】"']*          # Chinese: wherever it stands
    |[!?]+["'”’)\]]*(?=\s|[\u4e00-\u9fff]|\Z)
    |(?<!\b[A-Za-z])                      # no initial (J. R. R.), nor U.S. or e.g.
     (?<!\b(?:Mr|Ms|Dr|St|No|Jr|vs))(?<!\b(?:Mrs|Gen|Col|Rev))(?<!\b(?:Prof|Capt))
     \.+["'”’)\]]*(?=\s+[^a-z\s]|\s*\Z)    # a sentence does not go on in lower case
    |\n\s*\n                              # a paragraph
    """,
    re.VERBOSE,
)


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the sentence (or the sentences) begins and ends that holds `text[start:end]`.

    A rule of thumb for showing, in Chinese and English; what is answered does not depend on it.
    """
    first, last = max(0, start - REACH), min(len(text), end + REACH)
    for ending in ENDING.finditer(text, first, last):
        if ending.end() <= start:
            first = ending.end()
        elif ending.end() >= end:
            last = ending.end()
            break
    while first < start and text[first].isspace():
        first += 1
    while last > end and text[last - 1].isspace():
        last -= 1
    return first, last


def on_one_line(text: str) -> str:
    """Spaces for line ends and the like; what could steer a terminal is left out."""
    return "".join(c for c in re.sub(r"\s+", " ", text) if unicodedata.category(c) != "Cc")
