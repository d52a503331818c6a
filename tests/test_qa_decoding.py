"""Decoding against run_squad.py's loops over token pairs, and against an oracle on real data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from minibert.errors import UserError
from minibert.metrics import Metric, score_all
from minibert.qa.decoding import (
    MAX_ANSWER_LENGTH,
    Span,
    decode,
    find_best_threshold,
    max_context_windows,
)
from minibert.qa.reading import Question, read_questions
from minibert.qa.windows import Windows, make_windows, token_span, tokenize_contexts
from minibert.tokenizer import load_tokenizer

Logits = list[np.ndarray]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder = tmp_path_factory.mktemp("words")
    vocabulary = special + [f"w{i}" for i in range(100)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return load_tokenizer(folder)


def ask(context: str, question: str = "w1 w2", name: str = "q") -> Question:
    return Question(name, question, context, (), (), True, "", "")


def words(n: int) -> str:
    return " ".join(f"w{i % 100}" for i in range(n))


def zeros(windows: Windows) -> Logits:
    return [np.zeros(n, np.float32) for n in windows.lengths]


def draw_logits(windows: Windows, seed: int) -> tuple[Logits, Logits]:
    generator = np.random.default_rng(seed)
    starts, ends = (
        [generator.normal(size=n).astype(np.float32) * 3 for n in windows.lengths] for _ in range(2)
    )
    return starts, ends


# The n-best list, against loops.


def is_max_context(spans: list[tuple[int, int]], current: int, position: int) -> bool:
    """run_squad.py, _check_is_max_context."""
    scores = {}
    for i, (start, length) in enumerate(spans):
        if start <= position < start + length:
            left, right = position - start, start + length - 1 - position
            scores[i] = min(left, right) + 0.01 * length
    return current == max(scores, key=lambda i: scores[i])  # the first of several greatest


def run_squad_n_best(
    windows: Windows, question: int, starts: Logits, ends: Logits, n_best: int, longest: int
) -> list[tuple[str, float]]:
    """run_squad.py, write_predictions, but with all pairs, not only the 20 best of each."""
    own = [i for i, window in enumerate(windows.windows) if window.question == question]
    spans = [(windows.windows[i].first, windows.windows[i].n_context) for i in own]
    context = windows.contexts[question]
    candidates = []
    for current, i in enumerate(own):
        shift = windows.windows[i].context_start - windows.windows[i].first
        first, length = spans[current]
        for start in range(first, first + length):
            if not is_max_context(spans, current, start):
                continue
            for end in range(start, min(start + longest, first + length)):
                score = float(starts[i][start + shift]) + float(ends[i][end + shift])
                text = context.text[context.starts[start] : context.ends[end]]
                candidates.append((text, score))
    candidates.sort(key=lambda candidate: -candidate[1])
    best: dict[str, float] = {}
    for text, score in candidates:
        if len(best) < n_best:
            best.setdefault(text, score)
    return list(best.items())


@pytest.mark.parametrize("allow_null", [False, True])
@pytest.mark.parametrize(
    ("max_length", "doc_stride", "longest", "n_best"),
    [(64, 16, 30, 20), (20, 5, 4, 20), (20, 12, 30, 5), (16, 1, 7, 1), (24, 9, 3, 1000)],
)
def test_n_best_lists_are_those_of_loops_over_all_token_pairs(
    tokenizer: Tokenizer,
    max_length: int,
    doc_stride: int,
    longest: int,
    n_best: int,
    allow_null: bool,
) -> None:
    generator = np.random.default_rng(max_length)
    for trial in range(6):
        # Few different words, so that texts repeat; sometimes only one.
        n_words = 1 if trial == 0 else 4
        questions = [
            ask(" ".join(f"w{i}" for i in generator.integers(n_words, size=n)))
            for n in generator.integers(1, 60, size=4)
        ]
        windows = make_windows(questions, tokenizer, max_length, doc_stride, training=False)
        starts, ends = draw_logits(windows, trial)
        if trial % 2:  # many equal scores, of which the earliest span counts
            starts, ends = [row.round() for row in starts], [row.round() for row in ends]
        predictions = decode(
            windows, starts, ends, max_answer_length=longest, n_best=n_best, allow_null=allow_null
        )
        assert len(predictions) == len(questions)
        for i, prediction in enumerate(predictions):
            expected = run_squad_n_best(windows, i, starts, ends, n_best, longest)
            null_score = min(
                float(starts[row][0]) + float(ends[row][0])
                for row, window in enumerate(windows.windows)
                if window.question == i
            )
            assert prediction.null_score_diff == null_score - expected[0][1]
            if allow_null:
                expected = sorted([*expected, ("", null_score)], key=lambda entry: -entry[1])
            assert [(span.text, span.score) for span in prediction.n_best] == expected
            total = sum(math.exp(score) for _, score in expected)
            probabilities = [math.exp(score) / total for _, score in expected]
            assert [s.probability for s in prediction.n_best] == pytest.approx(probabilities)
            for span in prediction.n_best:
                assert questions[i].context[span.start_char : span.end_char] == span.text


@pytest.mark.parametrize(("max_length", "doc_stride"), [(200, 120), (200, 100), (255, 128)])
def test_the_window_with_most_context_is_that_of_run_squad(
    tokenizer: Tokenizer, max_length: int, doc_stride: int
) -> None:
    for n in range(max_length, max_length + 2 * doc_stride, 13):
        windows = make_windows([ask(words(n))], tokenizer, max_length, doc_stride, training=False)
        spans = [(window.first, window.n_context) for window in windows.windows]
        owner = max_context_windows(windows.windows, n)
        assert all(is_max_context(spans, int(owner[i]), i) for i in range(n))


def test_a_start_counts_in_the_window_with_most_context_only(tokenizer: Tokenizer) -> None:
    windows = make_windows([ask(words(16))], tokenizer, 16, 6, training=False)
    assert [(w.first, w.n_context) for w in windows.windows] == [(0, 11), (6, 10)]
    starts, ends = zeros(windows), zeros(windows)
    starts[0][4 + 10] = 9.0  # token 10: none to its right in this window, in the other four left
    assert decode(windows, starts, ends, max_answer_length=3)[0].n_best[0].score == 0.0
    starts[1][4 + 10 - 6] = 5.0
    best = decode(windows, starts, ends, max_answer_length=3)[0].n_best
    assert [(span.text, span.score) for span in best[:3]] == [
        ("w10", 5.0),
        ("w10 w11", 5.0),
        ("w10 w11 w12", 5.0),
    ]
    assert len({span.text for span in best}) == len(best)


def test_a_text_in_fifty_places_does_not_push_the_others_out(tokenizer: Tokenizer) -> None:
    context = "w0 " * 50 + "w1 w2"
    windows = make_windows([ask(context)], tokenizer, 64, 16, training=False)
    starts = [-np.arange(n, dtype=np.float32) for n in windows.lengths]
    prediction = decode(windows, starts, zeros(windows), max_answer_length=1, n_best=3)[0]
    assert [span.text for span in prediction.n_best] == ["w0", "w1", "w2"]
    assert prediction.n_best[0].start_char == 0


def test_neither_question_nor_special_token_nor_padding_is_ever_an_answer(
    tokenizer: Tokenizer,
) -> None:
    windows = make_windows([ask(words(30))], tokenizer, 16, 6, training=False)
    padded = np.full((2, len(windows.windows), 20), 1e4, np.float32)
    for row, window in enumerate(windows.windows):
        padded[:, row, window.context_start : len(window.input_ids) - 1] = 0.0
    prediction = decode(windows, *padded, max_answer_length=30, n_best=10**6)[0]
    assert {span.score for span in prediction.n_best} == {0.0}


def test_equal_scores_give_the_earliest_and_shortest_span_on_every_machine(
    tokenizer: Tokenizer,
) -> None:
    windows = make_windows([ask(words(60))], tokenizer, 16, 6, training=False)
    starts = [row + 1e4 for row in zeros(windows)]
    best = decode(windows, starts, zeros(windows), max_answer_length=3, n_best=4)[0].n_best
    assert [span.text for span in best] == ["w0", "w0 w1", "w0 w1 w2", "w1"]
    assert [span.probability for span in best] == [0.25] * 4


def test_an_answer_may_be_allowed_more_tokens_than_a_window_has(tokenizer: Tokenizer) -> None:
    windows = make_windows([ask(words(9))], tokenizer, 16, 6, training=False)
    starts, ends = zeros(windows), zeros(windows)
    starts[0][4] = ends[0][4 + 8] = 5.0
    assert decode(windows, starts, ends, max_answer_length=10**12)[0].answer() == words(9)


def test_a_context_without_tokens_still_has_a_prediction(tokenizer: Tokenizer) -> None:
    windows = make_windows([ask("\u200b"), ask("w5")], tokenizer, 16, 6, training=False)
    empty, full = decode(windows, zeros(windows), zeros(windows), max_answer_length=3)
    assert empty == ([Span("", 0, 0, 0.0, 1.0)], 0.0)
    assert (empty.answer(), full.answer()) == ("", "w5")


@pytest.mark.parametrize("option", ["n_best", "max_answer_length"])
def test_a_list_or_answer_of_no_length_is_refused(tokenizer: Tokenizer, option: str) -> None:
    windows = make_windows([ask("w1")], tokenizer, 16, 6, training=False)
    options: Any = {"max_answer_length": 3, option: 0}
    with pytest.raises(UserError, match=option):
        decode(windows, zeros(windows), zeros(windows), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_with_the_question(
    tokenizer: Tokenizer, value: float
) -> None:
    windows = make_windows([ask("w1"), ask("w2", name="BAD")], tokenizer, 16, 6, training=False)
    ends = zeros(windows)
    ends[1][2] = value
    with pytest.raises(UserError, match="question BAD"):
        decode(windows, zeros(windows), ends, max_answer_length=3)


def test_logits_of_other_windows_are_refused(tokenizer: Tokenizer) -> None:
    windows = make_windows([ask("w1"), ask("w2 w3")], tokenizer, 16, 6, training=False)
    logits = zeros(windows)
    with pytest.raises(ValueError, match="2 windows, but 2 rows of start_logits and 1 of"):
        decode(windows, logits, logits[:1], max_answer_length=3)
    with pytest.raises(ValueError, match="window 1 has 7 tokens"):
        decode(windows, logits, logits[:1] * 2, max_answer_length=3)


# No answer.


@pytest.mark.parametrize("n_best", [1, 20])
@pytest.mark.parametrize("allow_null", [False, True])
def test_no_answer_is_given_above_the_threshold_only(
    tokenizer: Tokenizer, allow_null: bool, n_best: int
) -> None:
    windows = make_windows([ask("w5 w6")], tokenizer, 16, 6, training=False)
    starts, ends = zeros(windows), zeros(windows)
    starts[0][0], ends[0][0], starts[0][4], ends[0][4] = 3.0, 2.0, 1.0, 1.5
    prediction = decode(
        windows, starts, ends, max_answer_length=3, n_best=n_best, allow_null=allow_null
    )[0]
    assert prediction.null_score_diff == 2.5
    answers = [prediction.answer(threshold) for threshold in (None, 3.0, 2.5, 2.4, 0.0, -1.0)]
    assert answers == ["w5", "w5", "w5", "", "", ""]
    assert (prediction.n_best[0].text == "") == allow_null


def test_all_windows_must_say_that_there_is_no_answer(tokenizer: Tokenizer) -> None:
    windows = make_windows([ask(words(30))], tokenizer, 16, 6, training=False)
    starts, ends = zeros(windows), zeros(windows)
    for row in range(len(windows.windows)):
        starts[row][0] = 8.0 - row
    prediction = decode(windows, starts, ends, max_answer_length=3)[0]
    assert prediction.null_score_diff == 8.0 - (len(windows.windows) - 1)


def mean_score(
    threshold: float, diffs: np.ndarray, answers: np.ndarray, nulls: np.ndarray
) -> float:
    return float(np.mean(np.where(diffs > threshold, nulls, answers)))


def official_best(diffs: np.ndarray, answers: np.ndarray, has_answer: np.ndarray) -> float:
    """evaluate-v2.0.py, find_best_thresh: only the score, for its threshold begins at 0."""
    current = best = float(np.sum(~has_answer))
    for i in np.argsort(diffs, kind="stable"):
        current += answers[i] if has_answer[i] else answers[i] - 1
        best = max(best, current)
    return best / len(diffs)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_threshold_reaches_the_official_best_score(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 40))
    has_answer = generator.random(n) < (0.0, 0.3, 0.7, 1.0)[seed % 4]
    diffs = generator.normal(size=n) - 2.0 * has_answer
    answers = np.where(has_answer, generator.random(n).round(2), 0.0)
    nulls = (~has_answer).astype(float)
    best, threshold = find_best_threshold(diffs.tolist(), answers.tolist(), nulls.tolist())
    assert best == pytest.approx(official_best(diffs, answers, has_answer))
    assert mean_score(threshold, diffs, answers, nulls) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_threshold_is_right_where_differences_are_equal(seed: int) -> None:
    generator = np.random.default_rng(seed)
    diffs = generator.integers(-2, 3, size=12).astype(float)
    answers, nulls = generator.random(12), (generator.random(12) < 0.5).astype(float)
    best, threshold = find_best_threshold(diffs.tolist(), answers.tolist(), nulls.tolist())
    everywhere = [mean_score(t, diffs, answers, nulls) for t in np.arange(-4, 4, 0.5)]
    assert best == pytest.approx(max(everywhere))
    assert mean_score(threshold, diffs, answers, nulls) == pytest.approx(best)


# An oracle on real data: logits made from the golds, no model.


def oracle_logits(windows: Windows, seed: int = 0) -> tuple[Logits, Logits]:
    """Noise, and on each question's shortest gold answer, wherever it is whole, far more."""
    starts, ends = draw_logits(windows, seed)
    for row, window in enumerate(windows.windows):
        answers = windows.questions[window.question].answers
        answer = min(answers, key=lambda answer: len(answer.text))
        context = windows.contexts[window.question]
        span = token_span(context, answer.start, answer.start + len(answer.text))
        assert span is not None
        if window.first <= span[0] and span[1] < window.first + window.n_context:
            starts[row][window.context_start + span[0] - window.first] = 100.0
            ends[row][window.context_start + span[1] - window.first] = 100.0
    return starts, ends


def oracle_score(windows: Windows, metric: Metric, longest: int) -> tuple[float, float]:
    logits = oracle_logits(windows)
    predictions = decode(windows, *logits, max_answer_length=longest, n_best=1)
    answers = {}
    for question, prediction in zip(windows.questions, predictions, strict=True):
        assert prediction.answer() in question.context
        answers[question.id] = prediction.answer()
    score = score_all({q.id: q.gold_texts for q in windows.questions}, answers, metric)
    return score.exact_match, score.f1


def real_windows(shared: Path, file: str, model: str, max_length: int) -> Windows:
    questions = read_questions(shared / "data" / file).questions
    return make_windows(questions, load_tokenizer(shared / model), max_length, 128, training=False)


@pytest.fixture(scope="module")
def cmrc_dev(shared: Path) -> Windows:
    return real_windows(shared, "cmrc2018/cmrc2018_dev.json", "bert-base-chinese", 512)


def test_an_oracle_loses_next_to_nothing_on_all_of_cmrc_dev(cmrc_dev: Windows) -> None:
    assert len(cmrc_dev.questions) == 3219
    exact_match, f1 = oracle_score(cmrc_dev, "cmrc2018", MAX_ANSWER_LENGTH["cmrc2018"])
    assert exact_match > 99.8
    assert f1 > 99.9


def test_with_the_limit_of_squad_an_oracle_would_lose_five_points_there(cmrc_dev: Windows) -> None:
    exact_match, _ = oracle_score(cmrc_dev, "cmrc2018", MAX_ANSWER_LENGTH["squad"])
    assert exact_match == pytest.approx(95.15, abs=0.1)


@pytest.mark.parametrize(
    ("file", "model", "metric", "max_length"),
    [
        ("cmrc2018/dev.json", "bert-base-chinese", "cmrc2018", 256),
        ("squad/dev.json", "bert-base-cased", "squad", 384),
    ],
)
def test_an_oracle_loses_next_to_nothing_in_shorter_windows(
    shared: Path, file: str, model: str, metric: Metric, max_length: int
) -> None:
    windows = real_windows(shared, file, model, max_length)
    exact_match, f1 = oracle_score(windows, metric, MAX_ANSWER_LENGTH[metric])
    assert exact_match > 99.5
    assert f1 > 99.8


def test_the_longest_answer_was_measured_on_the_training_part(shared: Path) -> None:
    questions = read_questions(shared / "data/cmrc2018/train.json").questions
    tokenizer = load_tokenizer(shared / "bert-base-chinese")
    contexts = tokenize_contexts([question.context for question in questions], tokenizer)
    lengths = []
    for question, context in zip(questions, contexts, strict=True):
        for text, start in question.answers:
            span = token_span(context, start, start + len(text))
            assert span is not None
            lengths.append(span[1] - span[0] + 1)
    assert len(lengths) == 7813
    percentiles = np.percentile(lengths, [50, 95, 99, 99.5, 99.9, 100])
    assert percentiles.round().tolist() == [6, 32, 50, 57, 72, 85]
    assert np.mean(np.array(lengths) > 30) == pytest.approx(0.054, abs=5e-4)
    assert np.mean(np.array(lengths) > MAX_ANSWER_LENGTH["cmrc2018"]) < 1e-3
