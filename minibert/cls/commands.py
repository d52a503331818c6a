"""The words of `minibert` that belong to classification: classify, probe-case.

Heavy rooms (torch takes a second) are imported by the command that needs them, so that
`minibert --help` need not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibert.errors import UserError
from minibert.words import add_device, add_json, add_model, directory_for, to_json

if TYPE_CHECKING:
    from minibert.cls.classify import Classifier, Verdict
    from minibert.cls.encoding import Texts
    from minibert.cls.probe import Case

RUNS = ("train_cls.py", "classification")  # whose models are asked here
SHOWN_LABELS = 5  # of a text's classes
SHOWN_FLIPS = 20
TABLES = (".tsv", ".csv", ".jsonl", ".json")


def add_commands(commands: Any) -> None:
    """Adds the two words to the subparsers of `minibert`."""
    words = commands.add_parser(
        "classify",
        help="tell the class of a text",
        description="Prints the class of each text and the model's probability for it. Without a "
        "text and without --file it asks you for one after the other, until an empty line or "
        "Ctrl-D.",
        epilog='example: minibert classify --model runs/sst2 "a film to love" "I DO NOT LOVE YOU!"',
    )
    words.add_argument("texts", nargs="*", metavar="TEXT")
    add_model(words, *RUNS)
    words.add_argument(
        "--pair", action="append", metavar="TEXT", help="the second text, for a model that was "
        "trained on pairs; one for each TEXT, after all of them"
    )  # fmt: skip
    words.add_argument(
        "--file", metavar="FILE", help="one text a line, of a pair the two with a tab between; - "
        "reads stdin; or, by the ending of its name, a table (.tsv, .csv, .jsonl) as train_cls.py "
        "reads it, without labels if need be"
    )  # fmt: skip
    add_json(words, ": a list, an entry for each text; where it asks, one object a line")
    add_device(words)
    words.set_defaults(run=_classify)

    probe = commands.add_parser(
        "probe-case",
        help="does the verdict hang on capital letters?",
        description="Scores a dev set as written, in lower case, UPPER CASE and rAnDoM case, and "
        'lists the texts whose label flips ("I dO nOT LOVE YOU!"). With an uncased model none can.',
        epilog="example: minibert probe-case --model runs/sst2 --data sst2",
    )
    add_model(probe, *RUNS)
    probe.add_argument("--data", required=True, metavar="NAME|FILE|DIR", help="sst2; a file of "
        "labelled texts (TSV, CSV or JSON Lines); or a directory with one called dev*")  # fmt: skip
    probe.add_argument("--text-column", metavar="NAME|N", help="as for train_cls.py")
    probe.add_argument("--pair-column", metavar="NAME|N", help="likewise")
    probe.add_argument("--label-column", metavar="NAME|N", help="likewise")
    probe.add_argument("--seed", type=int, default=0, help="of the random case (default: 0)")
    probe.add_argument("--out", metavar="DIR", help="write probe_case.json and flips.tsv there")
    add_json(probe, ", with every flip")
    add_device(probe)
    probe.set_defaults(run=_probe_case)


# classify


def _classify(args: argparse.Namespace) -> int:
    if args.texts and args.file:
        raise UserError("give the texts as words of the command or as --file, not both")
    if args.pair and len(args.pair) != len(args.texts):
        raise UserError(f"{len(args.texts)} texts and {len(args.pair)} --pair: give one for each")
    from minibert.cls.classify import load_classifier

    texts: Texts = [*zip(args.texts, args.pair or [None] * len(args.texts), strict=True)]
    if args.file:
        texts = read_file(args.file)
    classifier = load_classifier(args.model, args.device)
    if not texts:
        return ask_on(classifier, args.json)
    verdicts = classifier.classify(texts)
    if args.json:
        print(to_json([verdict._asdict() for verdict in verdicts]))
    elif len(verdicts) == 1:
        print("\n".join(described(verdicts[0])))
    else:
        print("\n".join(table(verdicts)))
    return 0


def read_file(name: str) -> Texts:
    """The texts of a table, or of a file or stdin with one a line; blank lines are left out."""
    if Path(name).suffix.lower() in TABLES:
        from minibert.cls.reading import read_texts

        found = read_texts(name, labelled=False)
        print(found.summary(), file=sys.stderr)
        return [(example.text, example.pair) for example in found.examples]
    from minibert.prompt import read_input

    lines = read_input(name, "one text a line").replace("\r\n", "\n").split("\n")
    return [split_pair(line) for line in lines if line.strip()]


def split_pair(line: str) -> tuple[str, str | None]:
    """The text of a line, or the two that a tab divides."""
    text, tab, pair = line.strip().partition("\t")
    return (text, pair) if tab else (text, None)


def ask_on(classifier: Classifier, as_json: bool) -> int:
    """Classifies one text after the other."""
    from minibert.prompt import converse, next_line

    def reply(line: str) -> None:
        text, pair = split_pair(line)
        if classifier.takes_pairs and pair is None and sys.stdin.isatty():
            pair = next_line("text", "second?")
        [verdict] = classifier.classify([(text, pair)])
        if as_json:
            print(json.dumps(verdict._asdict(), ensure_ascii=False))
        else:
            print("\n".join(described(verdict)))

    kinds = f"One text after the other, to be told apart as {', '.join(classifier.labels)}"
    return converse(kinds, "text", reply)


def described(verdict: Verdict) -> list[str]:
    """A verdict for people: a few aligned lines."""
    others = sorted(verdict.probabilities.items(), key=lambda item: -item[1])
    others = [(label, p) for label, p in others if label != verdict.label]
    shown = ", ".join(f"{label} {p:.4f}" for label, p in others[:SHOWN_LABELS])
    more = f" and {len(others) - SHOWN_LABELS} more" if len(others) > SHOWN_LABELS else ""
    return [
        f"label        {verdict.label}",
        f"probability  {verdict.probability:.4f}",
        f"others       {shown}{more}",
    ]


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """A line a text."""
    width = max(len(verdict.label) for verdict in verdicts)
    return [f"{v.label:{width}}  {v.probability:.4f}  {shown(v.text, v.pair)}" for v in verdicts]


def shown(text: str, pair: str | None) -> str:
    """A text, or the two of a pair, on one line."""
    from minibert.report import on_one_line

    return on_one_line(text if pair is None else f"{text} | {pair}")


# probe-case


def _probe_case(args: argparse.Namespace) -> int:
    from minibert import files
    from minibert.cls.classify import load_classifier
    from minibert.cls.columns import Wanted
    from minibert.cls.probe import Flip, probe
    from minibert.cls.sets import read_dev
    from minibert.cls.task import tsv

    out = directory_for(args.out)
    texts = read_dev(args.data, Wanted(args.text_column, args.pair_column, args.label_column))
    print(texts.summary(), file=sys.stderr)
    classifier = load_classifier(args.model, args.device)
    cases = probe(classifier, texts, args.seed)
    lines = report(cases, classifier.lower_cases)
    print(to_json(facts_of(cases)) if args.json else "\n".join(lines), flush=True)
    if out:
        flips = [
            ["" if value is None else str(value) for value in flip]
            for case in cases
            for flip in case.flips
        ]
        written = {
            out / "probe_case.json": files.as_json(facts_of(cases)),
            out / "flips.tsv": files.as_text(tsv(Flip._fields, flips)),
        }
        files.write_whole(written)
        print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def facts_of(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Every figure and every flip, as JSON values."""
    return [
        {
            "case": case.name,
            **case.scores.as_dict(),
            "texts_with_other_tokens": case.changed,
            "flips": [flip._asdict() for flip in case.flips],
        }
        for case in cases
    ]


def report(cases: Sequence[Case], lower_cases: bool) -> list[str]:
    """A table of the four spellings, and the flips that the model is surest of."""
    lines = [f"{'case':12}  accuracy  macro F1  flips  texts with other tokens"]
    for case in cases:
        figures = f"{case.scores.accuracy:8.4f}  {case.scores.macro_f1:8.4f}"
        lines.append(f"{case.name:12}  {figures}  {len(case.flips):5}  {case.changed:23}")
    if lower_cases:
        lines += [
            "",
            "The tokenizer lower-cases: the model sees the same tokens in every spelling, so no "
            "label can flip.",
        ]
    flips = sorted((flip for case in cases for flip in case.flips), key=lambda f: -f.probability)
    for flip in flips[:SHOWN_FLIPS]:
        verdict = f"{flip.label} -> {flip.flipped} ({flip.probability:.4f}), gold {flip.gold}"
        lines += ["", shown(flip.text, flip.pair), f"  {verdict}"]
    if len(flips) > SHOWN_FLIPS:
        lines += ["", f"and {len(flips) - SHOWN_FLIPS:,} more: --json or --out gives all"]
    return lines
