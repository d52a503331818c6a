"""Questions -> windows: what the model sees of a document that is longer than it can take.

The second room of question answering, between `reading.py` and the batches. A window holds the
question, then a stretch of the context (BERT paper, section 4.2):

    [CLS] question [SEP] context[first : first + room] [SEP]

and the next window's stretch begins `doc_stride` tokens later, so that stretches overlap and an
answer cut by one window's edge is whole in another. Windows are those of google-research/bert,
run_squad.py, convert_examples_to_features: `doc_stride` is the step between two windows' starts,
where transformers' tokenizers call the overlap `stride`. Each context is tokenized once, however
many questions ask about it, and its characters' places are kept for the way back, `decoding.py`.

Shapes:  N  tokens of a whole context         T  tokens of one window
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from minibert.errors import UserError
from minibert.qa.reading import Question
from minibert.tokenizer import special_id, tokenize

Ints: TypeAlias = NDArray[np.int32]

N_SPECIAL = 3  # [CLS] and twice [SEP]
USUAL_QUESTION = 64  # tokens; what run_squad.py reserves for the question, --max_query_length


class Context(NamedTuple):
    """A whole document as tokens; token i is `text[starts[i] : ends[i]]`."""

    text: str
    ids: Ints  # (N,)
    starts: Ints  # (N,) in characters
    ends: Ints  # (N,) in characters, one past the token's last


class Window(NamedTuple):
    """One question with one stretch of its context, and where the answer stands in it."""

    question: int  # index into Windows.questions and .contexts
    input_ids: Ints  # (T,) [CLS] question [SEP] stretch of context [SEP]
    context_start: int  # where in input_ids the stretch begins
    first: int  # which token of the whole context that is
    start_position: int = 0  # the training targets, indices into input_ids; both are 0, [CLS],
    end_position: int = 0  # where the window does not hold the whole answer

    @property
    def n_context(self) -> int:
        """How many tokens of the context there are; 0 if it has none that the tokenizer keeps."""
        return len(self.input_ids) - self.context_start - 1

    @property
    def token_type_ids(self) -> Ints:
        """(T,): 0 for [CLS] question [SEP], 1 for the rest (BERT paper, figure 2)."""
        types = np.ones(len(self.input_ids), np.int32)
        types[: self.context_start] = 0
        return types


@dataclass(frozen=True)
class Windows:
    """All windows of some questions: one or more for each, in the order of the questions."""

    questions: Sequence[Question]
    contexts: list[Context]  # of each question; those about one text share one Context
    windows: list[Window]

    @property
    def lengths(self) -> list[int]:
        """T of each window: what `batches.py` groups by."""
        return [len(window.input_ids) for window in self.windows]


def make_windows(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    max_length: int,
    doc_stride: int,
    *,
    training: bool,
) -> Windows:
    """Cuts every question's context into windows of at most `max_length` tokens.

    Args:
        questions: what `read_questions` gave; for training, its `trainable` part.
        max_length: tokens of a window, with [CLS] and [SEP].
        doc_stride: tokens of the context from one window's start to the next one's.
        training: set the targets, from each question's first answer, which most annotators gave
            (run_squad.py's training data has one answer each). A window without the whole answer
            points at [CLS], as does every window of a question that is impossible.

    Raises:
        UserError: a length or step with which windows would skip tokens of the context.
        ValueError: for training, a question whose answers are not in its context.

    Warns:
        UserWarning: questions so long that they had to be cut, by name.
    """
    check_lengths(max_length, doc_stride)
    contexts = tokenize_contexts([question.context for question in questions], tokenizer)
    question_ids = tokenize_questions(questions, tokenizer, max_length - N_SPECIAL - doc_stride)
    cls_id, sep_id = (special_id(tokenizer, name) for name in ("cls", "sep"))
    sep = np.array([sep_id], np.int32)
    windows: list[Window] = []
    for i, question in enumerate(questions):
        head = np.array([cls_id, *question_ids[i], sep_id], np.int32)
        target = training_target(question, contexts[i]) if training else None
        windows += cut_context(i, head, contexts[i], sep, max_length, doc_stride, target)
    return Windows(questions, contexts, windows)


def cut_context(
    question: int,
    head: Ints,
    context: Context,
    sep: Ints,
    max_length: int,
    doc_stride: int,
    target: tuple[int, int] | None,
) -> Iterator[Window]:
    """The windows of one question; `head` is [CLS] question [SEP], `target` the answer's tokens."""
    room = max_length - len(head) - len(sep)
    for first in window_starts(len(context.ids), room, doc_stride):
        stretch = context.ids[first : first + room]
        shift = len(head) - first  # from a token's place in the context to that in the window
        positions = (0, 0)
        if target is not None and first <= target[0] and target[1] < first + len(stretch):
            positions = (target[0] + shift, target[1] + shift)
        input_ids = np.concatenate((head, stretch, sep))  # (T,)
        yield Window(question, input_ids, len(head), first, *positions)


def check_lengths(max_length: int, doc_stride: int) -> None:
    """Refuses a step that a usual question would leave no room for.

    A question is usual up to 64 tokens, but in short windows up to a quarter of what [CLS] and
    [SEP] leave. It is never cut, so every step that is accepted must fit beside it.

    Raises:
        UserError: this is not so, or the step is no step.
    """
    usable = max_length - N_SPECIAL
    usual = max(min(USUAL_QUESTION, usable // 4), 1)
    room = usable - usual
    if room < 1:
        raise UserError(
            f"max_length {max_length} leaves no room for a question and a context; "
            f"set it to at least {N_SPECIAL + 2}, better to 384 or 512"
        )
    if doc_stride < 1:
        raise UserError(f"doc_stride {doc_stride} is no step forward; set it to at least 1")
    if doc_stride > room:
        raise UserError(
            f"doc_stride {doc_stride} would skip tokens: windows of max_length {max_length} hold "
            f"{room} tokens of context beside a question of {usual}; "
            f"set doc_stride to at most {room}, or max_length higher"
        )


def window_starts(n_tokens: int, room: int, doc_stride: int) -> range:
    """Which token of the context each window begins with.

    The last window is the first that reaches the end: it is shorter than `room`, not moved back
    (run_squad.py, `doc_spans`). A context without tokens gets one window, too.
    """
    assert 1 <= doc_stride <= room, "windows would skip tokens"
    return range(0, max(n_tokens - room, 0) + doc_stride, doc_stride)


def training_target(question: Question, context: Context) -> tuple[int, int] | None:
    """The first and last token of the question's first answer; None if it has none."""
    if not question.answers and not question.is_impossible:
        raise ValueError(
            f"question {question.id} has no answer in its context to train with; "
            "pass QuestionSet.trainable"
        )
    if not question.answers:
        return None
    answer = question.answers[0]
    return token_span(context, answer.start, answer.start + len(answer.text))


def token_span(context: Context, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token of the smallest span of tokens that covers `text[start:end]`.

    It says more than the text where an annotator stopped inside a token ("Japan" of "Japanese").
    None if the tokenizer kept none of these characters.
    """
    first = int(np.searchsorted(context.ends, start, side="right"))  # first that ends after start
    last = int(np.searchsorted(context.starts, end, side="left")) - 1  # last that begins before end
    return (first, last) if first <= last else None


def tokenize_contexts(texts: Sequence[str], tokenizer: Tokenizer) -> list[Context]:
    """The Context of each text. Equal texts are tokenized once and share one."""
    distinct = list(dict.fromkeys(texts))
    encodings = tokenize(distinct, tokenizer)
    contexts = {t: locate_tokens(t, e) for t, e in zip(distinct, encodings, strict=True)}
    return [contexts[text] for text in texts]


def locate_tokens(text: str, encoding: Encoding) -> Context:
    """The tokens of a text with their places in it, in characters as Python counts them.

    An uncased tokenizer drops accents that are characters of their own ("e" + U+0301), and with
    them the vowel signs of Indic scripts. They belong to the letter before, so the token's place
    is made to take them in: no answer ends between a letter and its accent.
    """
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)  # (N, 2), also where N is 0
    starts, ends = offsets[:, 0].copy(), offsets[:, 1].copy()
    accents = {char for char in set(text) if unicodedata.category(char) == "Mn"}
    if accents:
        is_accent = np.array([char in accents for char in text] + [False])
        while (follows := is_accent[ends]).any():
            ends += follows
    return Context(text, np.array(encoding.ids, np.int32), starts, ends)


def tokenize_questions(
    questions: Sequence[Question], tokenizer: Tokenizer, limit: int
) -> list[list[int]]:
    """The ids of each question, cut at `limit` tokens, of which a warning tells."""
    ids = [e.ids for e in tokenize([q.question for q in questions], tokenizer)]
    cut = [q.id for q, tokens in zip(questions, ids, strict=True) if len(tokens) > limit]
    if cut:
        named = ", ".join(cut[:10]) + (f" and {len(cut) - 10} more" if len(cut) > 10 else "")
        warnings.warn(
            f"cut to their first {limit} tokens, to leave room for the context: "
            f"question{'s' if len(cut) > 1 else ''} {named}",
            stacklevel=3,
        )
    return [tokens[:limit] for tokens in ids]
