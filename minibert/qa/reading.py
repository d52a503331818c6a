"""Question files on disk -> `QuestionSet`: the first room of question answering.

Two layouts are read, recognised by what the file holds, never by its name:

- SQuAD's, v1.1 and v2.0 (Rajpurkar et al. 2016, 2018), which DRCD and CMRC's `squad-style-data/`
  share: `{"version", "data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
  "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}`;
- CMRC 2018's own (Cui et al. 2019): `[{"context_id", "context_text", "title",
  "qas": [{"query_id", "query_text", "answers": ["text"]}]}]`.

Contexts are kept character for character (line ends and double spaces too), so that the file's
offsets stay true. What comes out is checked once, here: in the rooms that follow (features,
training, metrics) every located answer is a substring of its context, exactly where it says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minibert.errors import UserError
from minibert.files import read_text
from minibert.parts import HELD_OUT, Part

T = TypeVar("T")

EVERY_NTH = f"every {HELD_OUT}th context"
TAKEN: dict[Part, str] = {"all": "all", "train": f"all but {EVERY_NTH}", "dev": EVERY_NTH}


class Answer(NamedTuple):
    """A span of the context: `context[start : start + len(text)] == text`."""

    text: str
    start: int  # in characters


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one context. Questions about the same paragraph share one context string.

    `answers` are the answers found in the context: what training may use. The one that most
    annotators gave comes first, and is what is trained on. `gold_texts` are all of the file's
    answers as they were written, found or not: what evaluation compares with. Both are empty where
    `is_impossible` (SQuAD v2.0); only `answers` can be empty elsewhere.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    gold_texts: tuple[str, ...]
    is_impossible: bool
    title: str
    paragraph_id: str  # the file's own, else "<article>.<paragraph>", both counted from 1


@dataclass(frozen=True)
class Counts:
    """What was read and what was mended, for the log and for run.json."""

    contexts: int = 0
    questions: int = 0
    impossible: int = 0  # questions marked is_impossible
    answers: int = 0  # all gold texts; absent ones included
    moved: int = 0  # answer_start was wrong: taken to the nearest occurrence
    trimmed: int = 0  # the annotated span began or ended with whitespace
    ambiguous: int = 0  # no answer_start in this layout, several occurrences: the first was taken
    absent: int = 0  # do not occur in the context: kept for evaluation, unusable for training
    unlocated: int = 0  # questions whose answers are all absent: training skips them


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file, in the file's order."""

    path: Path
    layout: str  # "squad" or "cmrc"
    version: str  # the file's own word, "" where it has none
    sha256: str
    questions: list[Question]
    counts: Counts
    part: Part = "all"

    @property
    def trainable(self) -> list[Question]:
        """The questions a reader can learn from: a located answer, or none by intention."""
        return [q for q in self.questions if q.answers or q.is_impossible]

    def summary(self) -> str:
        """The counts in one line; what did not happen is not mentioned."""
        c = self.counts
        notes = {
            "impossible": c.impossible,
            "answers moved to their nearest occurrence": c.moved,
            "trimmed of whitespace": c.trimmed,
            "placed at the first of several occurrences": c.ambiguous,
            "answers not in the context (used for evaluation only)": c.absent,
            "questions without a located answer (skipped in training)": c.unlocated,
        }
        head = f"{c.questions:,} questions on {c.contexts:,} contexts, {c.answers:,} answers"
        noted = [f"{n:,} {what}" for what, n in notes.items() if n]
        taken = "" if self.part == "all" else f" ({TAKEN[self.part]})"
        return f"{self.path.name}{taken}: " + "; ".join([head, *noted])

    def as_dict(self) -> dict[str, str | int]:
        """The file and its counts as JSON values: what run.json records."""
        source = {"file": str(self.path), "layout": self.layout, "version": self.version}
        source |= {
            "sha256": self.sha256,
            "contexts_taken": TAKEN[self.part].removesuffix(" context"),
        }
        return {**source, **asdict(self.counts)}


def read_questions(path: str | Path, part: Part = "all") -> QuestionSet:
    """Read and check a whole question file.

    Args:
        path: of the file.
        part: "dev" takes every tenth context, from the first, "train" the others. Paragraphs with
            the same text are one context, so no text is in both parts.

    Raises UserError, in one sentence that names the file, article, paragraph and question, for
    the first fault found: a file that is missing, a directory, empty, not UTF-8 or not JSON; an
    unknown layout; a key that is missing or mistyped; an empty context, question or answer; an id
    used twice; a question without answers that is not marked impossible, or with answers that is;
    a part without a question.
    """
    path = Path(path)
    data, sha256 = _load(path)
    layout = _recognise(data, path)
    tally: Counter[str] = Counter()
    questions: list[Question] = []
    places: dict[str, str] = {}  # question id -> where it stands
    numbers: dict[str, int] = {}  # context -> its number
    for paragraph in (_squad_paragraphs if layout == "squad" else _cmrc_paragraphs)(data, path):
        nth = numbers.setdefault(paragraph.context, len(numbers))
        is_taken = part == "all" or (part == "dev") == (nth % HELD_OUT == 0)
        notes: Counter[str] = Counter(contexts=1)
        for number, qa in enumerate(paragraph.qas, 1):
            question = _question(qa, f"question {number}", paragraph, layout, notes)
            if question.id in places:
                first = places[question.id].removeprefix(f"{path}, ")
                raise UserError(
                    f"{paragraph.where}, question {question.id}: this id is already used in "
                    f"{first}; predictions are matched by id, so give each question its own"
                )
            places[question.id] = paragraph.where
            if is_taken:
                questions.append(question)
        if is_taken:
            tally += notes
    if not places:
        raise UserError(f"{path} is in the {layout} layout but holds no question; choose another")
    if not questions:
        raise UserError(
            f"{path} has too few contexts to hold out every {HELD_OUT}th to score on; name other "
            "questions for that with --dev FILE"
        )
    version = str(data.get("version") or "") if layout == "squad" else ""
    counts = Counts(**{field.name: tally[field.name] for field in fields(Counts)})
    return QuestionSet(path, layout, version, sha256, questions, counts, part)


def _load(path: Path) -> tuple[Any, str]:
    """The file's JSON and the sha256 of its bytes."""
    text, sha256 = read_text(path)
    if not text.strip():
        raise UserError(f"{path} is empty; a question file in JSON was expected, so get it again")
    try:
        return json.loads(text), sha256
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise UserError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}; "
            + ("the file seems to be cut off, so get it again" if cut_off else "mend it there")
        ) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        raise UserError(f"{path} is not JSON that can be read: {error}; get it again") from None


def _recognise(data: Any, path: Path) -> str:
    """Which of the two layouts: "squad" or "cmrc"."""
    if type(data) is dict and "data" in data:
        return "squad"
    first = data[0] if type(data) is list and data else None
    if type(first) is dict and ("context_text" in first or "context_id" in first):
        return "cmrc"
    found = f"a list of which the first entry is {_name(first)}" if first else _name(data)
    raise UserError(
        f'{path} is not a question file: expected an object with a list "data" of articles '
        '(SQuAD) or a list of objects with "context_text" and "qas" (CMRC), '
        f"found {found}; convert it to one of the two"
    )


class _Paragraph(NamedTuple):
    """A context and its questions: what both layouts come down to."""

    where: str  # for messages: file, article, paragraph
    title: str
    id: str
    context: str
    qas: list[Any]


def _squad_paragraphs(data: Any, path: Path) -> Iterator[_Paragraph]:
    for a, article in enumerate(_get(data, "data", list, str(path)), 1):
        where = f"{path}, article {a}"
        paragraphs = _get(article, "paragraphs", list, where)
        title = str(article.get("title") or "")
        where += f" ({title})" if title else ""
        for p, paragraph in enumerate(paragraphs, 1):
            here = f"{where}, paragraph {p}"
            context = _text(paragraph, "context", here)
            qas = _get(paragraph, "qas", list, here)
            yield _Paragraph(here, title, str(paragraph.get("id") or f"{a}.{p}"), context, qas)


def _cmrc_paragraphs(data: Any, path: Path) -> Iterator[_Paragraph]:
    for number, record in enumerate(data, 1):
        where = f"{path}, context {number}"
        name = _text(record, "context_id", where)
        where += f" ({name})"
        context = _text(record, "context_text", where)
        qas = _get(record, "qas", list, where)
        yield _Paragraph(where, str(record.get("title") or ""), name, context, qas)


def _question(
    qa: Any, number: str, paragraph: _Paragraph, layout: str, tally: Counter[str]
) -> Question:
    """One checked question; what had to be mended in it is added to `tally`."""
    id_key, text_key = ("id", "question") if layout == "squad" else ("query_id", "query_text")
    name = _text(qa, id_key, f"{paragraph.where}, {number}")
    where = f"{paragraph.where}, question {name}"
    text = _text(qa, text_key, where).strip()  # some annotators leaned on the space bar
    is_impossible = _get(qa, "is_impossible", bool, where) if "is_impossible" in qa else False
    annotated = _annotations(qa, layout, where)
    if is_impossible:  # some v2.0 look-alikes write "no answer" as one empty answer
        annotated = [(answer, start) for answer, start in annotated if answer.strip()]
    if is_impossible and annotated:
        raise UserError(f"{where} is marked impossible but has answers; remove one or the other")
    if not annotated and not is_impossible:
        raise UserError(f'{where} has no answers; add one, or mark it "is_impossible": true')
    if any(not answer.strip() for answer, _ in annotated):
        raise UserError(f"{where} has an empty answer; write its text or remove it")
    located = [_locate(paragraph.context, answer, start, tally) for answer, start in annotated]
    found = [answer for answer in located if answer is not None]
    answers = tuple(sorted(found, key=found.count, reverse=True))  # a sort keeps the order of ties
    tally["questions"] += 1
    tally["impossible"] += is_impossible
    tally["answers"] += len(annotated)
    tally["unlocated"] += not answers and not is_impossible
    return Question(
        id=name,
        question=text,
        context=paragraph.context,
        answers=answers,
        gold_texts=tuple(answer for answer, _ in annotated),
        is_impossible=is_impossible,
        title=paragraph.title,
        paragraph_id=paragraph.id,
    )


def _annotations(qa: Any, layout: str, where: str) -> list[tuple[str, int | None]]:
    """The answers as the file has them: text, and its start where the layout has one."""
    answers = _get(qa, "answers", list, where)
    if layout == "squad":
        return [
            (_get(answer, "text", str, where), _get(answer, "answer_start", int, where))
            for answer in answers
        ]
    # A spreadsheet on the way turned 29 answers of CMRC's dev set into numbers (dates too:
    # 39764.0). The official squad-style file spells them as Python does, and so do we.
    texts = [str(answer) if type(answer) in (int, float) else answer for answer in answers]
    return [(_get({"answers": text}, "answers", str, where), None) for text in texts]


def _locate(context: str, text: str, start: int | None, tally: Counter[str]) -> Answer | None:
    """The span of an answer, or None where the context does not hold it.

    The text is looked for as written first, since its spaces may tell one occurrence from another,
    then without surrounding whitespace; the span returned never begins or ends with whitespace,
    because no token does. Without a start (CMRC's layout) the first occurrence is taken, which is
    also what CMRC's own conversion to SQuAD's layout did.
    """
    for candidate in (text, text.strip()):
        at = _nearest(context, candidate, max(start or 0, 0))
        if at >= 0:
            break
    else:
        tally["absent"] += 1
        return None
    bare = candidate.strip()
    tally["moved"] += start is not None and at != start
    tally["trimmed"] += bare != text
    tally["ambiguous"] += start is None and context.find(candidate, at + 1) >= 0
    return Answer(bare, at + candidate.index(bare))


def _nearest(context: str, text: str, start: int) -> int:
    """Where `text` occurs nearest to `start` (the earlier of two as near), -1 if it does not."""
    after = context.find(text, start)
    before = context.rfind(text, 0, start + len(text) - 1)  # the last that begins before `start`
    if after < 0 or before < 0:
        return max(after, before)
    return after if after - start < start - before else before


_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number with a fraction",
    bool: "true or false",
    type(None): "null",
}


def _name(value: Any) -> str:
    """What a JSON value is, in words; of an object its first keys too."""
    if type(value) is dict and value:
        keys = ", ".join(f'"{key[:40]}"' for key in list(value)[:5])
        return f"an object with the keys {keys}{', ...' if len(value) > 5 else ''}"
    return f"{_NAMES[type(value)]} that is empty" if value in ("", [], {}) else _NAMES[type(value)]


def _get(record: Any, key: str, kind: type[T], where: str) -> T:
    """`record[key]`, which must be there and of this JSON type (so True is not an int)."""
    if type(record) is not dict:
        raise UserError(f'{where}: expected an object with "{key}", found {_name(record)}; mend it')
    if key not in record:
        raise UserError(f'{where}: the key "{key}" is missing; add it ({_NAMES[kind]})')
    value: T = record[key]
    if type(value) is not kind:
        raise UserError(f'{where}: "{key}" must be {_NAMES[kind]}, not {_name(value)}; mend it')
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{where}: "{key}" holds half a character (a lone surrogate) at {error.start:,}; '
                "write the whole character"
            ) from None
    return value


def _text(record: Any, key: str, where: str) -> str:
    """A string that is not blank."""
    value = _get(record, key, str, where)
    if not value.strip():
        raise UserError(f'{where}: "{key}" is empty; fill it or remove the entry')
    return value
