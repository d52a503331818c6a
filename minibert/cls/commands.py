"""The words of `minibert` that belong to classification: classify, probe-case; its evaluation.

Heavy rooms (torch takes a second) are imported by the command that needs them, so that
`minibert --help` need not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibert.errors import UserError
from minibert.words import add_columns, add_device, add_json, add_model, directory_for, to_json

if TYPE_CHECKING:
    from minibert.cls.classify import Classifier, Given, Verdict
    from minibert.cls.columns import Wanted
    from minibert.cls.encoding import Texts
    from minibert.cls.probe import Case

RUNS = ("train_cls.py", "classification")  # whose models are asked here
DATA_HELP = (
    "sample (bundled); sst2 (fetched on first use); a file of labelled texts (TSV, CSV or JSON "
    "Lines); or a directory with one called dev*"
)
AS_TRAINED = "as in training, else "
SHOWN_LABELS = 5  # of a text's classes
SHOWN_FLIPS = 20
TABLES = (".tsv", ".csv", ".jsonl", ".json")


def add_commands(commands: Any) -> None:
    """Adds the two words to the subparsers of `minibert`."""
    add_classify(commands)
    add_probe_case(commands)


def add_classify(commands: Any) -> None:
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
        f"reads stdin; or, by the ending of its name, a table ({', '.join(TABLES)}) as "
        "train_cls.py reads it, without labels if need be"
    )  # fmt: skip
    add_columns(words, ("text", "pair"), AS_TRAINED)
    add_json(words, ": a list, an entry for each text; where it asks, one object a line")
    add_device(words)
    words.set_defaults(run=_classify)


def add_probe_case(commands: Any) -> None:
    probe = commands.add_parser(
        "probe-case",
        help="does the verdict hang on capital letters?",
        description="Scores a dev set as written, in lower case, UPPER CASE and rAnDoM case, and "
        'lists the texts whose label flips ("I dO nOT LOVE YOU!"). With an uncased model none can.',
        epilog="example: minibert probe-case --model runs/sst2 --data sst2",
    )
    add_model(probe, *RUNS)
    probe.add_argument("--data", required=True, metavar="NAME|FILE|DIR", help=DATA_HELP)
    add_columns(probe, default=AS_TRAINED)
    probe.add_argument("--seed", type=int, default=0, help="of the random case (default: 0)")
    probe.add_argument("--out", metavar="DIR", help="write probe_case.json and flips.tsv there")
    add_json(probe, ", with every flip")
    add_device(probe)
    probe.set_defaults(run=_probe_case)


def asked_columns(args: argparse.Namespace) -> Wanted:
    """The columns that the flags name."""
    from minibert.cls.columns import Wanted

    return Wanted.of(vars(args))


# classify


def _classify(args: argparse.Namespace) -> int:
    if args.texts and args.file:
        raise UserError("give the texts as words of the command or as --file, not both")
    if args.pair and args.file:
        way = "has a column, see --pair-column" if is_table(args.file) else "stands after a tab"
        raise UserError(f"--pair goes with TEXT; of a pair in --file the second text {way}")
    if args.pair and len(args.pair) != len(args.texts):
        raise UserError(
            f"give one --pair for each TEXT: TEXT is there {len(args.texts)} times, --pair "
            f"{len(args.pair)}"
        )
    if (args.text_column or args.pair_column) and not is_table(args.file):
        raise UserError(
            "--text-column and --pair-column are for a table that --file names "
            f"({', '.join(TABLES)})"
        )
    from minibert.cls.classify import load_classifier

    classifier = load_classifier(args.model, args.device)
    if args.file:
        verdicts = classifier.classify(
            *read_file(args.file, asked_columns(args), classifier.trained_on.get("train", {}))
        )
    elif args.texts:
        pairs = args.pair or [None] * len(args.texts)
        verdicts = classifier.classify([*zip(args.texts, pairs, strict=True)])
    else:
        return ask_on(classifier, args.json)
    if args.json:
        print(to_json([verdict._asdict() for verdict in verdicts]))
    elif len(verdicts) == 1:
        print("\n".join(verdict_lines(verdicts[0])))
    else:
        print("\n".join(verdict_table(verdicts)))
    return 0


def is_table(name: str | None) -> bool:
    """Whether a file, by the ending of its name, has columns."""
    return Path(name or "").suffix.lower() in TABLES


def read_file(
    name: str, asked: Wanted, trained: Mapping[str, Any]
) -> tuple[Texts, list[str], Given]:
    """The texts of a table, or of a file or stdin with one a line, where each stands and how they
    are given; blank lines are left out. asked, trained: columns, see `read_texts`."""
    if is_table(name):
        from minibert.cls.classify import lines_of
        from minibert.cls.reading import read_texts
        from minibert.cls.task import texts_of

        found = read_texts(name, asked, trained=trained, labelled=None)
        print(found.summary(), file=sys.stderr)
        return texts_of(found.examples), lines_of(found), "table"
    from minibert.prompt import read_input

    lines = (
        read_input(name, "one text a line").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    )
    what = "stdin" if name == "-" else name
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    where = [f"{what}, line {i}" for i, _ in numbered]
    return [split_pair(line) for _, line in numbered], where, "lines"


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
        [verdict] = classifier.classify([(text, pair)], given="lines")
        if as_json:
            print(json.dumps(verdict._asdict(), ensure_ascii=False))
        else:
            print("\n".join(verdict_lines(verdict)))

    kinds = f"One text after the other, to be told apart as {', '.join(classifier.labels)}"
    return converse(kinds, "text", reply)


def verdict_lines(verdict: Verdict) -> list[str]:
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


def verdict_table(verdicts: Sequence[Verdict]) -> list[str]:
    """A line a text."""
    width = max(len(verdict.label) for verdict in verdicts)
    return [f"{v.label:{width}}  {v.probability:.4f}  {shown(v.text, v.pair)}" for v in verdicts]


def shown(text: str, pair: str | None) -> str:
    """A text, or the two of a pair, on one line."""
    from minibert.report import on_one_line

    return on_one_line(text if pair is None else f"{text} | {pair}")


# evaluate


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores a classifier on labelled texts: what `ClsTask.evaluate` returns."""
    from minibert.cls.classify import check_texts, load_classifier
    from minibert.cls.sets import read_dev
    from minibert.cls.task import ClsTask, say_cut
    from minibert.trained import as_scored

    if args.metric:
        raise UserError(f"--metric is for questions; {args.model} tells classes of texts apart")
    classifier = load_classifier(args.model, args.device)
    texts = read_dev(args.data, asked_columns(args), classifier.trained_on)
    check_texts(classifier, texts)
    task = ClsTask(classifier.tokenizer, classifier.settings, classifier.labels, texts)
    say_cut(texts.path.name, task.dev_encoded, classifier.settings)
    with as_scored(classifier.model, classifier.precision):
        return task.evaluate(classifier.model)


# probe-case


def _probe_case(args: argparse.Namespace) -> int:
    from minibert import files
    from minibert.cls.classify import load_classifier
    from minibert.cls.probe import Flip, probe
    from minibert.cls.sets import read_dev
    from minibert.cls.task import tsv

    out = directory_for(args.out)
    classifier = load_classifier(args.model, args.device)
    texts = read_dev(args.data, asked_columns(args), classifier.trained_on)
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
        lines += ["", shown(flip.text, flip.pair), f"  {flip.case}: {verdict}"]
    if len(flips) > SHOWN_FLIPS:
        lines += ["", f"and {len(flips) - SHOWN_FLIPS:,} more: --json or --out gives all"]
    return lines
