"""A trained model at work: a text and a question in; the answer, its place and its sentence out.

`commands.py` puts it on the command line. What the model was trained with, its run knows: run.json
holds the lengths it must be asked with, eval.json from where on it says that there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from minibert import files
from minibert.errors import UserError
from minibert.metrics import metric_for
from minibert.model import BertForQuestionAnswering
from minibert.qa.decoding import MAX_ANSWER_LENGTH, Prediction
from minibert.qa.reading import Question
from minibert.qa.recipes import PUBLISHED
from minibert.qa.task import QASettings, answer, check_fits
from minibert.qa.windows import check_lengths, make_windows
from minibert.report import on_one_line
from minibert.tokenizer import special_id
from minibert.trained import as_scored, check_text, damaged, load_trained, plain_warnings


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
        pad_id = special_id(self.tokenizer, "pad")
        with plain_warnings(), as_scored(self.model, self.precision):
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


def load_reader(name: str, device: str | None = None) -> Reader:
    """The model of a run, or a question-answering checkpoint that transformers made.

    Raises:
        UserError: there is none of that name, it was not trained for questions, or its files do
            not belong together.
    """
    trained = load_trained(
        BertForQuestionAnswering,
        name,
        device,
        script="train_qa.py",
        needs=QASettings._fields,
        purpose="for questions",
    )
    settings, threshold = None, None
    if trained.run:
        settings, threshold = settings_of(trained.run, trained.facts)
    reader = Reader(trained.model, trained.tokenizer, settings, trained.precision, threshold)
    try:
        check_fits(trained.model.config, trained.tokenizer, reader.settings_for([]))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return reader


def settings_of(run: Path, facts: Mapping[str, Any]) -> tuple[QASettings, float | None]:
    """What a run was trained with: its settings and the threshold of "no answer".

    Raises:
        UserError: its files are damaged.
    """
    settings = QASettings(*(facts["settings"][name] for name in QASettings._fields))
    whole = all(type(value) is int for value in settings[:3])
    if not whole or settings.metric not in MAX_ANSWER_LENGTH:
        raise damaged(run, settings)
    check_lengths(settings.max_length, settings.doc_stride)
    scores = files.read_json(run / "eval.json") if (run / "eval.json").is_file() else {}
    threshold = scores.get("null_threshold")
    return settings, threshold if isinstance(threshold, float) else None


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
