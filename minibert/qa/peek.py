"""What the model will see: a few questions as text, tokens, windows, token types and targets.

For looking only. `reading.py` and `windows.py` make what is shown here; nothing comes after.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence

from tokenizers import Tokenizer

from minibert.qa.ask import sentence_around
from minibert.qa.reading import Question
from minibert.qa.windows import Window, make_windows
from minibert.report import on_one_line

OPENING = 160  # characters of a context that are shown
COLUMN = 16  # for tokens


def describe(
    questions: Sequence[Question], tokenizer: Tokenizer, max_length: int, doc_stride: int
) -> list[str]:
    """Lines for people about some questions that could be trained on.

    Raises:
        UserError: a length or step with which windows would skip tokens of the context.
    """
    made = make_windows(questions, tokenizer, max_length, doc_stride, training=True)
    lines = []
    for i, (question, context) in enumerate(zip(questions, made.contexts, strict=True)):
        own = [window for window in made.windows if window.question == i]
        n_question = own[0].context_start - 2
        lines += [
            f"example {i + 1} of {len(questions)}: {question.id}  {question.title}".rstrip(),
            *describe_text(question),
            f"  tokens    {n_question} of the question, {len(context.ids)} of the text",
            f"  windows   {len(own)} of at most {max_length} tokens, with [CLS] and both [SEP]; "
            f"a new one begins every {doc_stride} tokens of the text",
            "",
            *describe_windows(own, tokenizer),
        ]
    return lines


def describe_text(question: Question) -> list[str]:
    """The question, how its text begins, and the answer that is trained on."""
    text = question.context
    opening = on_one_line(text[:OPENING]) + (" …" if len(text) > OPENING else "")
    lines = [
        f"  question  {on_one_line(question.question)}",
        f"  text      {opening}  ({len(text):,} characters)",
    ]
    if not question.answers:
        return [*lines, "  answer    none: the question is marked impossible"]
    answer = question.answers[0]
    end = answer.start + len(answer.text)
    first, last = sentence_around(text, answer.start, end)
    marked = f"{text[first : answer.start]}【{answer.text}】{text[end:last]}"
    place = f"at characters {answer.start} to {end}"
    return [
        *lines,
        f"  answer    {on_one_line(answer.text)}  ({place})",
        f"  sentence  {on_one_line(marked)}",
    ]


def describe_windows(windows: Sequence[Window], tokenizer: Tokenizer) -> list[str]:
    """A line for each window; all tokens' columns for the first one and the first with the answer.

    Of many windows, those in the middle are left out.
    """
    with_answer = [i for i, window in enumerate(windows) if window.end_position > 0]
    in_full = {0, *with_answer[:1]}

    def block(i: int) -> list[str]:
        table = describe_window(windows[i], tokenizer) if i in in_full else []
        return [f"  window {i + 1} of {len(windows)}: {summary(windows[i])}", *table]

    wanted = {0, 1, *with_answer[:3], len(windows) - 1}
    return abridged(len(windows), wanted, block, "windows")


def summary(window: Window) -> str:
    stretch = f"tokens {window.first} to {window.first + window.n_context - 1} of the text"
    if window.end_position == 0:
        return f"{stretch}; without the whole answer, so the target is [CLS]"
    return f"{stretch}; the answer is at {window.start_position} to {window.end_position}"


def describe_window(window: Window, tokenizer: Tokenizer) -> list[str]:
    """One token a line, in columns: place, token, its id and type, and the target."""
    T, start, end = len(window.input_ids), window.start_position, window.end_position
    types = window.token_type_ids

    def row(i: int) -> list[str]:
        token = tokenizer.id_to_token(int(window.input_ids[i])) or "?"
        marks = ["start"] * (i == start) + ["end"] * (i == end)
        mark = " and ".join(marks) or ("·" if start < i < end else "")
        padding = " " * (COLUMN - columns(token))
        return [f"  {i:>6}  {token}{padding}  {window.input_ids[i]:>6}  {types[i]:>4}  {mark}"]

    near = [i + n for i in (window.context_start, start, end) for n in (-2, -1, 0, 1, 2)]
    wanted = {*range(8), *near, T - 2, T - 1}
    head = f"  {'place':>6}  {'token':{COLUMN}}  {'id':>6}  {'type':>4}  target"
    return [head, *abridged(T, wanted, row, "tokens"), ""]


def abridged(
    n: int, wanted: Iterable[int], block: Callable[[int], list[str]], of: str
) -> list[str]:
    """The blocks of lines that are wanted among n, and how many are left out between them."""
    lines: list[str] = []
    before = -1
    for i in sorted(i for i in set(wanted) if 0 <= i < n):
        if i - before == 2:  # saying that one is left out takes as much room as it does
            lines += block(i - 1)
        elif i - before > 2:
            lines.append(f"  {'⋮':>6}  {i - before - 1} more {of}")
        lines += block(i)
        before = i
    return [line.rstrip() for line in lines]


def columns(text: str) -> int:
    """How wide a text is on a terminal: Chinese characters take two columns."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
