"""The official metrics of extractive question answering: SQuAD's and CMRC 2018's.

The last room of the house. Before it, a model's logits became the text of an answer; here that
text is compared with the answers people gave, the golds, and two numbers come out:

- exact match (EM): 1 if the answer equals a gold once case, punctuation and the like are set aside;
- F1: how many tokens the two share, the harmonic mean of precision and recall.

Both metrics take the best score over a question's golds, then the mean over the questions. They
differ in three steps only, which `score_answer` puts side by side: how a text is normalized, what
a token is, and what sharing means. Every score equals that of the official scripts,
`evaluate-v1.1.py` and `evaluate-v2.0.py` (rajpurkar/SQuAD-explorer) and `cmrc2018_evaluate.py` v5
(ymcui/cmrc2018).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from minibert.errors import UserError

Metric = Literal["squad", "cmrc2018"]

# One answer against its golds.


def score_answer(prediction: str, golds: Sequence[str], metric: Metric) -> tuple[float, float]:
    """Score one answer against the golds of its question; the best gold counts.

    Args:
        prediction: the answer; `""` says that the context holds none.
        golds: every answer people gave. None (or only `""`) means that the question has no
            answer; then a prediction is right, with EM and F1 of 1, if it has no token
            (evaluate-v2.0.py, `compute_f1`; CMRC 2018 has no such question).
        metric: whose rules to follow.

    Returns:
        (exact, f1): exact is 0 or 1, f1 lies between 0 and 1.

    Raises:
        UserError: there is no such metric.
    """
    if metric == "squad":
        normalize, tokenize, count_shared = normalize_squad, tokenize_squad, count_shared_words
    elif metric == "cmrc2018":
        normalize, tokenize, count_shared = normalize_cmrc, tokenize_cmrc, count_longest_run
    else:
        raise UserError(f"there is no metric {metric!r}; choose 'squad' or 'cmrc2018'")

    predicted = normalize(prediction)
    predicted_tokens = tokenize(predicted)
    if not any(golds):
        says_none = float(not predicted_tokens)
        return says_none, says_none
    exact = f1 = 0.0
    for gold in {normalize(gold) for gold in golds}:  # annotators often agree: score that once
        gold_tokens = tokenize(gold)
        exact = max(exact, float(predicted == gold))
        n_shared = count_shared(predicted_tokens, gold_tokens)
        if n_shared > 0:
            precision = n_shared / len(predicted_tokens)
            recall = n_shared / len(gold_tokens)
            f1 = max(f1, 2 * precision * recall / (precision + recall))
    return exact, f1


# SQuAD: tokens are words, and sharing is having the same words, in whatever order.

SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_squad(text: str) -> str:
    """Lower the text and drop ASCII punctuation, articles and surplus spaces, in this order."""
    text = text.lower().translate(SQUAD_PUNCTUATION)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def tokenize_squad(normalized: str) -> list[str]:
    """Split at the spaces, the only ones that normalizing left."""
    return normalized.split()


def count_shared_words(predicted: Sequence[str], gold: Sequence[str]) -> int:
    """How many words two bags of words have in common, repetitions counted."""
    return (Counter(predicted) & Counter(gold)).total()


# CMRC 2018: tokens are Chinese characters and, between them, words; sharing is one unbroken run of
# tokens. The official list of punctuation also has the ellipsis "……", as one entry of two
# characters, which no single character equals: an ellipsis stays, and so it does here.

CHINESE = re.compile("([\u4e00-\u9fa5])")
CMRC_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def normalize_cmrc(text: str) -> str:
    """Lower and strip the text and drop CMRC's own list of punctuation; spaces inside it stay."""
    return text.lower().strip().translate(CMRC_PUNCTUATION)


def tokenize_cmrc(normalized: str) -> list[str]:
    """Split into single Chinese characters and the words of each stretch between them."""
    tokens: list[str] = []
    for i, piece in enumerate(CHINESE.split(normalized)):  # stretch, character, stretch, ...
        if i % 2 == 1:
            tokens.append(piece)
        elif piece:  # nothing lies between two Chinese characters side by side
            tokens += tokenize_words(piece)
    return tokens


def count_longest_run(predicted: Sequence[str], gold: Sequence[str]) -> int:
    """The length of the longest common substring of two lists of tokens (official `find_lcs`)."""
    return SequenceMatcher(None, predicted, gold, autojunk=False).find_longest_match().size


# All questions of a data set.


@dataclass(frozen=True)
class Score:
    """The score of a set of predictions.

    Attributes:
        exact_match, f1: means over all questions, in percent.
        total: the number of questions.
        parts: where the data has questions without an answer, the same three figures for those
            that have one and those that have none, under the names of evaluate-v2.0.py:
            `HasAns_exact`, `HasAns_f1`, `HasAns_total`, `NoAns_exact`, ...; else empty.
        per_question: id -> (exact, f1), between 0 and 1.
        missing: ids of questions without a prediction; they count as wrong.
        unknown: ids of predictions without a question; they count for nothing.
    """

    exact_match: float
    f1: float
    total: int
    parts: dict[str, float]
    per_question: dict[str, tuple[float, float]]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    def as_dict(self) -> dict[str, float]:
        """The figures to write as JSON: `exact_match`, `f1`, `total` and the parts."""
        return {"exact_match": self.exact_match, "f1": self.f1, "total": self.total, **self.parts}


def score_all(
    golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str], metric: Metric
) -> Score:
    """Score the predictions for all questions of a data set.

    Args:
        golds: question id -> its answers; an empty list is a question that has none, and data
            with such a question is scored by SQuAD v2.0's rules, other data by v1.1's.
        predictions: question id -> answer. A question without one counts as wrong, with or
            without a gold (evaluate-v2.0.py leaves it out of the mean).
        metric: whose rules to follow.

    Raises:
        UserError: there is no question, a prediction is no string, or there is no such metric.
    """
    if not golds:
        raise UserError("there is no question to score: the data holds none")
    for question_id, prediction in predictions.items():
        if not isinstance(prediction, str):
            raise UserError(
                f"the prediction for question {question_id} is {prediction!r}, which is no string; "
                'write its text, or "" for no answer'
            )
    is_v2 = metric == "squad" and not all(any(answers) for answers in golds.values())
    per_question = {}
    for question_id, answers in golds.items():
        if is_v2:  # v2.0 drops a gold of which normalizing leaves nothing, as "The"; v1.1 does not
            answers = [answer for answer in answers if normalize_squad(answer)]
        per_question[question_id] = (
            score_answer(predictions[question_id], answers, metric)
            if question_id in predictions
            else (0.0, 0.0)
        )
    exact_match, f1 = mean_percent(list(per_question.values()))
    return Score(
        exact_match=exact_match,
        f1=f1,
        total=len(golds),
        parts=score_parts(golds, per_question),
        per_question=per_question,
        missing=tuple(question_id for question_id in golds if question_id not in predictions),
        unknown=tuple(question_id for question_id in predictions if question_id not in golds),
    )


def score_parts(
    golds: Mapping[str, Sequence[str]], per_question: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """The figures of the questions with and without an answer; none if all have one."""
    has_answer = [per_question[key] for key, answers in golds.items() if any(answers)]
    no_answer = [per_question[key] for key, answers in golds.items() if not any(answers)]
    parts: dict[str, float] = {}
    if no_answer:
        for name, scores in (("HasAns", has_answer), ("NoAns", no_answer)):
            if scores:
                parts[f"{name}_exact"], parts[f"{name}_f1"] = mean_percent(scores)
                parts[f"{name}_total"] = len(scores)
    return parts


def mean_percent(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The means of (exact, f1) pairs, as percentages."""
    exacts, f1s = zip(*scores, strict=True)
    return 100.0 * sum(exacts) / len(scores), 100.0 * sum(f1s) / len(scores)


def metric_for(language_text: Iterable[str]) -> Metric:
    """Choose the metric by the language of the contexts: `cmrc2018` for Chinese, else `squad`."""
    return "cmrc2018" if is_chinese(language_text) else "squad"


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether more than half of all letters are Chinese characters.

    Those are U+4E00 to U+9FA5, which CMRC's metric takes one by one. Digits, spaces and punctuation
    are not letters, so figures do not tip the balance; Japanese kana and Korean hangul are letters
    but not Chinese. Text without a letter is not Chinese.
    """
    n_letters = n_chinese = 0
    for text in texts:
        n_letters += sum(map(str.isalpha, text))
        n_chinese += len(CHINESE.findall(text))
    return 2 * n_chinese > n_letters


# NLTK's word tokenizer, which CMRC's official script calls for whatever is not Chinese. These are
# the rules of `NLTKWordTokenizer` (nltk/tokenize/destructive.py, NLTK Project, Apache License 2.0,
# by Liling Tan and Tom Aarsen after Robert MacIntyre's Treebank script), less its second rule for
# the final period, to which the first leaves nothing. Their order matters: each pads something with
# spaces for the next, and at last the text splits at the spaces. They are here so that scoring
# does not need NLTK; the tests hold them against NLTK itself.


def compile_rules(*rules: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


WORD_RULES = compile_rules(
    # Opening quotes; a straight one becomes `` where it opens.
    (r"([«“‘„]|[`]+)", r" \1 "),
    (r'^"', r"``"),
    (r"(``)", r" \1 "),
    (r"""([ (\[{<])("|'{2})""", r"\1 `` "),
    (r"(?i)(?<!\w)(')(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", r"\1 "),
    # Punctuation; a period only where it ends the text, a comma not before a digit.
    (r"""([^.])(\.)([\])}>"'»”’ ]*)\s*$""", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&]", r" \g<0> "),
    (r"[\u2012-\u2015]", r" \g<0> "),
    (r"[?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*]", r" \g<0> "),
    # Brackets and the double dash.
    (r"[\]\[(){}<>]", r" \g<0> "),
    (r"--", r" -- "),
)

ENDING_RULES = compile_rules(
    # Closing quotes, and the endings that an apostrophe sets off: it 's, we 'll, do n't.
    (r"([»”’])", r" \1 "),
    (r"''", r" '' "),
    (r'"', r" '' "),
    (r"\s+", r" "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    # MacIntyre's contractions.
    (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
    (r"(?i)\b(gim)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
    (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
    (r"(?i)\b(lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(more)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is)\b", r" \1 \2 "),
    (r"(?i) ('t)(was)\b", r" \1 \2 "),
)


def tokenize_words(text: str) -> list[str]:
    """Split text, taken as one sentence, into words and punctuation as NLTK does."""
    for pattern, replacement in WORD_RULES:
        text = pattern.sub(replacement, text)
    text = f" {text} "  # so that an ending at the end of the text is followed by a space, too
    for pattern, replacement in ENDING_RULES:
        text = pattern.sub(replacement, text)
    return text.split()
