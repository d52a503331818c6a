"""Logits -> answers: the best spans of the document, as text, over all its windows.

Between the model and the metrics. A span's score is its first token's start logit plus its last
token's end logit (BERT paper, section 4.2); every span of at most `max_answer_length` tokens is
scored, none is left out beforehand. Which spans count follows google-research/bert, run_squad.py,
write_predictions:

- both ends lie in the context, not in the question or [SEP];
- a token that stands in several windows may begin an answer only in the window that has most
  context around it ("max context"), and the answer ends in that window. So each span is scored
  once. That window may not hold the end of a very long answer: of the 9,464 answers in CMRC's dev
  set that happens to none with windows of 512 tokens and a step of 128, to 3 with 256 and 128;
- "no answer" scores the start and end logit of [CLS], the least over the windows: all must say so.

Shapes:  N  tokens of a whole context         T  tokens of one window
         n  tokens of the context in it       L  max_answer_length
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from minibert.errors import UserError
from minibert.qa.windows import Context, Window, Windows

Floats: TypeAlias = NDArray[np.float64]
Logits: TypeAlias = Sequence[NDArray[np.float32]]  # one row for each window, (T,) or longer

# The longest answer, in tokens, by metric. SQuAD's is run_squad.py's default. Chinese tokens are
# single characters, and 5.4% of the 7,813 answers in the training part of CMRC 2018 have more than
# 30. Half have at most 6, 95% at most 32, 99% 50, 99.5% 57, 99.9% 72, and the longest has 85. With
# 80 an oracle, which always picks the gold, has EM 99.85 on that part, with 30 it has 95.07.
MAX_ANSWER_LENGTH = {"squad": 30, "cmrc2018": 80}


class Span(NamedTuple):
    """A candidate for the answer: `context[start_char:end_char] == text`, `""` for no answer."""

    text: str
    start_char: int
    end_char: int
    score: float  # start logit + end logit
    # Softmax of the scores over the candidates in the same n-best list, as in run_squad.py: how
    # the model's preference divides among these, not how likely the answer is to be right. The
    # longer the list, the smaller each probability.
    probability: float


class Prediction(NamedTuple):
    """What the model answers to one question."""

    n_best: list[Span]  # best first, different texts, never empty
    null_score_diff: float  # score of "no answer" minus score of the best span

    def answer(self, null_threshold: float | None = None) -> str:
        """The text of the best span; `""` if a threshold is given and null_score_diff above it."""
        if null_threshold is not None and self.null_score_diff > null_threshold:
            return ""
        return next((span.text for span in self.n_best if span.text), "")


def decode(
    windows: Windows,
    start_logits: Logits,
    end_logits: Logits,
    *,
    max_answer_length: int,
    n_best: int = 20,
    allow_null: bool = False,
) -> list[Prediction]:
    """The best answers to each question.

    Args:
        windows: what `make_windows` gave.
        start_logits, end_logits: for each window in its order the logits of its tokens, float32;
            a row may go on with those of padding, which are not read. Sums are float64.
        max_answer_length: in tokens, see MAX_ANSWER_LENGTH.
        n_best: how many candidates to keep of each question.
        allow_null: let "no answer" be a candidate (SQuAD v2.0), in addition to the n_best.

    Returns:
        One Prediction for each question, in the order of `windows.questions`.

    Raises:
        UserError: max_answer_length or n_best below 1, or logits that are not finite.
        ValueError: logits that do not belong to these windows.
    """
    check_options(max_answer_length, n_best)
    if not len(windows.windows) == len(start_logits) == len(end_logits):
        raise ValueError(
            f"{len(windows.windows)} windows, but {len(start_logits)} rows of start_logits "
            f"and {len(end_logits)} of end_logits"
        )
    predictions = []
    rows = range(len(windows.windows))
    for index, group in groupby(rows, key=lambda row: windows.windows[row].question):
        own = list(group)
        starts = [read_row(windows, row, start_logits[row]) for row in own]
        ends = [read_row(windows, row, end_logits[row]) for row in own]
        own_windows = [windows.windows[row] for row in own]
        context = windows.contexts[index]
        scores = score_spans(own_windows, starts, ends, len(context.ids), max_answer_length)
        null_score = min(float(s[0] + e[0]) for s, e in zip(starts, ends, strict=True))
        predictions.append(rank(best_spans(context, scores, n_best), null_score, allow_null))
    return predictions


def check_options(max_answer_length: int, n_best: int) -> None:
    for name, value in (("max_answer_length", max_answer_length), ("n_best", n_best)):
        if value < 1:
            raise UserError(f"{name} is {value}; set it to at least 1")


def read_row(windows: Windows, row: int, logits: NDArray[np.float32]) -> Floats:
    """The logits of one window's T tokens, checked."""
    window = windows.windows[row]
    logits = np.asarray(logits)[: len(window.input_ids)]
    if logits.shape != window.input_ids.shape:
        raise ValueError(f"window {row} has {len(window.input_ids)} tokens, {logits.shape} logits")
    if not np.isfinite(logits).all():
        raise UserError(
            f"the model's scores for question {windows.questions[window.question].id} are not "
            "finite numbers; its training diverged or its weights are damaged: use other weights"
        )
    return logits.astype(np.float64)


def score_spans(
    windows: Sequence[Window],
    start_logits: Sequence[Floats],
    end_logits: Sequence[Floats],
    n_tokens: int,
    max_answer_length: int,
) -> Floats:
    """Scores all spans of one context.

    Returns:
        (N, L): row i, column j is the span from token i to token i + j; -inf if it is none.
    """
    L = max(1, min(max_answer_length, max(window.n_context for window in windows)))
    scores = np.full((n_tokens, L), -np.inf)
    owner = max_context_windows(windows, n_tokens)
    for w, window in enumerate(windows):
        context = slice(window.context_start, window.context_start + window.n_context)
        beyond = np.full(L, -np.inf)  # no answer ends after the window
        padded = np.concatenate((end_logits[w][context], beyond))  # (n + L,)
        ends = sliding_window_view(padded, L)[:-1]  # (n + L,) -> (n + 1, L) -> (n, L), no copy
        spans = start_logits[w][context][:, None] + ends  # (n, 1) + (n, L) -> (n, L)
        owned = owner[window.first : window.first + window.n_context] == w  # (n,)
        scores[window.first : window.first + window.n_context][owned] = spans[owned]
    return scores


def max_context_windows(windows: Sequence[Window], n_tokens: int) -> NDArray[np.intp]:
    """(N,): for each token of the context, the window with most context around it.

    That is the greatest minimum of the tokens to its left and to its right, with a slight favour
    for long windows; the first of several as good (run_squad.py, _check_is_max_context).
    """
    owner = np.zeros(n_tokens, np.intp)
    most = np.full(n_tokens, -1.0)
    for w, window in enumerate(windows):
        n = window.n_context
        stretch = slice(window.first, window.first + n)
        around = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.01 * n
        better = around > most[stretch]
        owner[stretch][better] = w
        most[stretch][better] = around[better]
    return owner


def best_spans(context: Context, scores: Floats, n_best: int) -> list[Span]:
    """The n_best spans with different texts, best first; of equal scores the earlier, then shorter.

    A text that stands in several places counts once, with its best place (run_squad.py,
    `seen_predictions`). Probabilities are still to be filled in.
    """
    flat = scores.ravel()  # (N, L) -> (N * L,)
    n_looked_at = 0
    best: dict[str, Span] = {}
    while n_looked_at < flat.size:
        # Sorting all spans would take far longer than finding the few that are worth sorting.
        k = min(max(2 * n_best, 4 * n_looked_at), flat.size)
        least = np.partition(flat, flat.size - k)[flat.size - k]  # the k-th greatest
        top = np.flatnonzero(flat >= least)  # k of them, or more where some are equal
        top = top[np.argsort(-flat[top], kind="stable")]
        for i in top[n_looked_at:]:
            first, length = divmod(int(i), scores.shape[1])
            if flat[i] == -np.inf or len(best) == n_best:
                return list(best.values())
            start, end = int(context.starts[first]), int(context.ends[first + length])
            text = context.text[start:end]
            best.setdefault(text, Span(text, start, end, float(flat[i]), 0.0))
        n_looked_at = len(top)
    return list(best.values())


def rank(spans: list[Span], null_score: float, allow_null: bool) -> Prediction:
    """Puts "no answer" in its place among the spans, if it may be one, and fills in probabilities.

    A context without tokens has no span; then "no answer" is all there is to say.
    """
    null_score_diff = null_score - spans[0].score if spans else 0.0
    if allow_null or not spans:
        spans = sorted([*spans, Span("", 0, 0, null_score, 0.0)], key=lambda span: -span.score)
    scores = np.array([span.score for span in spans])
    weights = np.exp(scores - scores[0])
    probabilities = weights / weights.sum()
    return Prediction(
        [span._replace(probability=float(p)) for span, p in zip(spans, probabilities, strict=True)],
        null_score_diff,
    )


def find_best_threshold(
    null_score_diffs: Sequence[float],
    answer_scores: Sequence[float],
    null_scores: Sequence[float],
) -> tuple[float, float]:
    """The threshold with which `Prediction.answer` scores best.

    It is that of evaluate-v2.0.py, find_best_thresh, with two differences: questions whose
    null_score_diffs are equal are answered together, as the threshold will answer them; and where
    no answer at all is best, the threshold is one that gives none (there it is 0).

    Args:
        null_score_diffs: of each question.
        answer_scores: EM or F1 of each question if its best span is the answer.
        null_scores: the same if the answer is `""`: 1 for an impossible question, else 0.

    Returns:
        (mean score, threshold). The least threshold of several as good: it answers least.
    """
    diffs = np.asarray(null_score_diffs, np.float64)
    order = np.argsort(diffs, kind="stable")
    diffs = diffs[order]
    gains = (np.asarray(answer_scores, np.float64) - np.asarray(null_scores, np.float64))[order]
    # Answering the first k questions, those least inclined to "no answer", for k = 0, 1, ...
    totals = np.sum(null_scores) + np.concatenate(([0.0], np.cumsum(gains)))  # (questions + 1,)
    splits = np.concatenate(([False], diffs[1:] == diffs[:-1], [False]))  # equals go together
    best = int(np.argmax(np.where(splits, -np.inf, totals)))
    threshold = diffs[best - 1] if best > 0 else diffs[0] - 1.0  # below all: answer nothing
    return float(totals[best] / len(diffs)), float(threshold)
