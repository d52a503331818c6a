"""The command `minibert` (also `python -m minibert`): one function for each of its words."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from minibert.cls import commands as cls_commands
from minibert.errors import UserError
from minibert.memory import keep_freed_memory
from minibert.qa import commands as qa_commands
from minibert.words import (
    add_columns,
    add_device,
    add_json,
    add_model,
    directory_for,
    score_table,
    to_json,
)

WEIGHTS_HELP = (
    "a directory, a name in weights/, or a checkpoint on the Hugging Face hub, as bert-base-chinese"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, or 2 for a user's mistake."""
    args = parser().parse_args(argv)
    # These commands say themselves what matters; the report on every loading is for programs.
    logging.getLogger("minibert").setLevel(logging.ERROR)
    keep_freed_memory()
    return guard(lambda: args.run(args))


def guard(run: Callable[[], int]) -> int:
    """Runs a command, and turns what its user can mend into one line instead of a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):  # ASCII or cp1252 has no Chinese: show its numbers
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()  # here, where a closed pipe is caught
        return code
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `minibert … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="minibert", description="A minimal BERT: look at it, check it, ask it."
    )
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND")

    fill = commands.add_parser(
        "fill-mask",
        help="guess the words behind [MASK]",
        description="Prints the likeliest entries of the vocabulary for every [MASK] in a text.",
        epilog='example: minibert fill-mask "中国的首都是[MASK]京。" --weights bert-base-chinese',
    )
    fill.add_argument("text", help="a text with at least one [MASK]; - reads it from stdin")
    fill.add_argument("--weights", required=True, help=f"{WEIGHTS_HELP}; with a masked-LM head")
    fill.add_argument("--top", type=_positive, default=5, metavar="N", help="how many (default: 5)")
    add_json(fill)
    fill.set_defaults(run=_fill_mask)

    parity = commands.add_parser(
        "parity",
        help="compare a checkpoint's numbers with those of transformers, layer by layer",
        description=(
            "Runs a checkpoint in minibert and in transformers on the same padded batch and prints "
            "the largest absolute difference of every hidden state, every attention, the pooled "
            "output and each head's logits, from transformers' eager attention. Exits with 1 if "
            "one is above 1e-5 and above what transformers' own sdpa differs by. Needs the extra "
            "`reference`."
        ),
    )
    parity.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS_HELP)
    add_json(parity)
    parity.set_defaults(run=_parity)
    _add_evaluate(commands)
    _add_average(commands)
    qa_commands.add_commands(commands)
    cls_commands.add_commands(commands)
    return result


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="score a trained model on a data set",
        description="Answers all questions of a data set and prints exact match and F1, in "
        "percent, by the official rules; or, with a classifier, tells the classes of its texts and "
        "prints accuracy, macro F1 and Matthews' correlation. A run is asked as it was trained, "
        "and scored by the rules that it was scored by then.",
        epilog="example: minibert evaluate --model runs/squad --data squad --out scores",
    )
    add_model(evaluate, "train_qa.py or train_cls.py", "question-answering or classification")
    evaluate.add_argument(
        "--data", required=True, metavar="NAME|FILE|DIR", help="for questions "
        f"{qa_commands.DATA_HELP} called dev*.json; for a classifier {cls_commands.DATA_HELP}"
    )  # fmt: skip
    evaluate.add_argument(
        "--out", metavar="DIR", help="write there what a training run writes of its dev set: "
        "eval.json, predictions.json, nbest.json and failures.jsonl (wrong answers the model was "
        "surest of); of a classifier eval.json, predictions.tsv, failures.tsv and confusion.svg"
    )  # fmt: skip
    evaluate.add_argument(
        "--metric", choices=qa_commands.METRICS, help="whose rules to score answers by (default: "
        "the run's; for a checkpoint from elsewhere by the language)"
    )  # fmt: skip
    add_columns(evaluate, default=cls_commands.AS_TRAINED)
    add_json(evaluate, ": what is in eval.json")
    add_device(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_average(commands: Any) -> None:
    average = commands.add_parser(
        "average",
        help="make one model of several runs: the mean of their weights",
        description="Averages the weights of runs that differ in their seed or recipe alone "
        "(Wortsman et al. 2022, Model soups, the uniform one): a model as fast as one of them, and "
        "at times better than the best. It is asked and scored like a run.",
        epilog="example: minibert average runs/sst2-0 runs/sst2-1 --out runs/sst2-mean",
    )
    average.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs of one "
        "training script, from the same checkpoint and data; or RUN/last, for the last epoch's "
        "model")  # fmt: skip
    average.add_argument("--out", required=True, metavar="DIR", help="where the model goes")
    average.set_defaults(run=_average)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _fill_mask(args: argparse.Namespace) -> int:
    from minibert.fill_mask import fill_mask  # torch takes a second to import: --help need not wait

    text = args.text
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape")
    places = fill_mask(args.weights, text, args.top)
    if args.json:
        print(to_json([[candidate._asdict() for candidate in place] for place in places]))
        return 0
    for number, place in enumerate(places, 1):
        if len(places) > 1:
            print(f"[MASK] {number}:")
        for candidate in place:
            print(f"{candidate.probability:.4f}  {candidate.token}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from minibert import files
    from minibert.trained import is_classifier

    out = directory_for(args.out)
    classifies = is_classifier(args.model)
    scores, results = (cls_commands if classifies else qa_commands).evaluate(args)
    shown = (
        results["eval.json"].rstrip() if args.json else score_table(scores, 4 if classifies else 2)
    )
    print(shown, flush=True)
    if out:
        files.write_whole({out / name: files.as_text(text) for name, text in results.items()})
        print(f"written: {', '.join(str(out / name) for name in results)}", file=sys.stderr)
    return 0


def _average(args: argparse.Namespace) -> int:
    from minibert.averaging import average

    average(args.runs, Path(args.out))
    score = f"minibert evaluate --model {shlex.quote(args.out)} --data NAME"
    print(f"the mean of {len(args.runs)} models is in {args.out}; score it: {score}")
    return 0


def _parity(args: argparse.Namespace) -> int:
    from minibert import parity

    rows = parity.compare(args.weights)
    if args.json:
        print(to_json([row._asdict() | {"bound": row.bound} for row in rows]))
    else:
        print(parity.table(rows))
    return 0 if all(row.holds for row in rows) else 1
