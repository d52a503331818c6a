"""The words of `minibert` that belong to question answering: ask, score, peek; its evaluation.

Heavy rooms (torch takes a second) are imported by the command that needs them, so that
`minibert --help` need not wait.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from minibert.errors import UserError
from minibert.metrics import Metric, score_all
from minibert.words import add_device, add_json, add_model, score_table, to_json

if TYPE_CHECKING:
    from minibert.qa.reading import QuestionSet

RUNS = ("train_qa.py", "question-answering")  # whose models are asked here
DATA_HELP = (
    "sample (bundled); cmrc2018, squad, squad2 or drcd (fetched on first use); a file in the "
    "layout of SQuAD or of CMRC; or a directory that holds one"
)
METRICS = list(get_args(Metric))
SHOWN_IDS = 5  # of the questions that something is said about


def add_commands(commands: Any) -> None:
    """Adds the three words to the subparsers of `minibert`."""
    ask = commands.add_parser(
        "ask",
        help="answer questions about a text",
        description="Answers questions about a text of any length. Prints the answer; its "
        "probability, which is the model's preference among its 20 best candidates; its characters "
        "in the text, from the first, counted from 0, to the one after the last; and the sentence "
        "around it with the answer marked. A run of train_qa.py on questions some of which "
        "have no answer, as SQuAD 2.0's, also says that there is none. Without --question it asks "
        "you for one after the other, until an empty line or Ctrl-D.",
        epilog="example: minibert ask --model runs/squad --context article.txt "
        '--question "Who won?" --question "When?"',
    )
    add_model(ask, *RUNS)
    ask.add_argument(
        "--context", required=True, metavar="FILE", help="a text in UTF-8; - reads it from stdin"
    )
    ask.add_argument("--question", action="append", metavar="TEXT", help="repeat it for several")
    add_json(ask, ": a list, an entry for each --question; without --question, one object a line")
    add_device(ask)
    ask.set_defaults(run=_ask)

    add_data_commands(commands)


def add_data_commands(commands: Any) -> None:
    """Those that need no model."""
    score = commands.add_parser(
        "score",
        help="score a file of predictions, whoever made it",
        description="Prints exact match and F1 in percent, as the official scripts do. A question "
        "without a prediction counts as wrong and is reported; the official script for SQuAD v2.0 "
        "leaves it out of the mean instead.",
        epilog="example: minibert score squad predictions.json",
    )
    score.add_argument("data", metavar="DATA", help=f"{DATA_HELP} called dev*.json")
    score.add_argument(
        "predictions", metavar="PREDICTIONS", help="a JSON object from question ids to answers; "
        '"" is: the text holds no answer'
    )  # fmt: skip
    score.add_argument(
        "--metric", choices=METRICS, help="whose rules to score by (default: by the language)"
    )
    add_json(score)
    score.set_defaults(run=_score)

    peek = commands.add_parser(
        "peek",
        help="show a data set as the model will see it",
        description="Shows a few questions, from all over the training part, as the model will "
        "see them: the text, the windows that it is cut into, each token with its id and token "
        "type, and the target, where the answer lies.",
        epilog="example: minibert peek --data cmrc2018 --count 2",
    )
    peek.add_argument("--data", required=True, metavar="NAME|FILE|DIR", help=DATA_HELP)
    peek.add_argument(
        "--weights", metavar="NAME|DIR", help="whose vocabulary (default: as train_qa.py, "
        "tiny-zh for the sample, bert-base-chinese for other Chinese, else bert-base-cased)"
    )  # fmt: skip
    peek.add_argument("--count", type=int, default=3, metavar="N", help="examples (default: 3)")
    peek.add_argument("--max-length", type=int, metavar="TOKENS", help="of a window (default: 384, "
        "for Chinese 512)")  # fmt: skip
    peek.add_argument("--doc-stride", type=int, metavar="TOKENS", help="from one window's start "
        "to the next's (default: 128, for the sample 384)")  # fmt: skip
    peek.set_defaults(run=_peek)


# ask


def _ask(args: argparse.Namespace) -> int:
    if args.context == "-" and not args.question:
        raise UserError("--context - takes all of stdin, so give each question with --question")
    from minibert.prompt import read_input
    from minibert.qa.ask import load_reader
    from minibert.qa.prompt import ask_on, show

    context = read_input(args.context, "a text with the answer in it")
    reader = load_reader(args.model, args.device)
    if not args.question:
        return ask_on(reader, context, args.json)
    replies = reader.ask(context, args.question)
    if args.json:
        print(to_json([reply._asdict() for reply in replies]))
        return 0
    for i, reply in enumerate(replies):
        if len(replies) > 1:
            print("\n" * (i > 0) + f"question     {reply.question}")
        show(reply)
    return 0


# evaluate


def evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores a model on questions: what `QATask.evaluate` returns."""
    from minibert.qa.ask import load_reader
    from minibert.qa.recipes import usual_metric
    from minibert.qa.task import QATask
    from minibert.trained import as_scored, plain_warnings

    if args.text_column or args.pair_column or args.label_column:
        raise UserError(f"columns are named for a classifier's texts; {args.model} is none")
    dev = read_data(args.data)
    reader = load_reader(args.model, args.device)
    settings = reader.settings_for([question.context for question in dev.questions])
    print(dev.summary(), file=sys.stderr)
    usual = usual_metric(dev)
    if args.metric:
        settings = settings._replace(metric=args.metric)
    elif usual != settings.metric:
        print(
            f"note: scored by the rules of {settings.metric}, those that the run was scored by; "
            f"for these texts {usual}'s are usual",
            file=sys.stderr,
        )
    with plain_warnings(), as_scored(reader.model, reader.precision):
        task = QATask(reader.tokenizer, settings, dev, null_threshold=reader.null_threshold)
        if task.has_null and reader.null_threshold is None:
            print(
                "note: the model has no threshold of its own for giving no answer; the best one on "
                "these questions is used, which flatters it",
                file=sys.stderr,
            )
        return task.evaluate(reader.model)


def read_data(name: str, *parts: str) -> QuestionSet:
    """The questions of the first of these parts (of dev, if none is named) that NAME has."""
    from minibert import datasets
    from minibert.qa.reading import read_questions

    found = datasets.find(name, parts or ("dev",))
    return read_questions(next(iter(found.values())))


# score


def _score(args: argparse.Namespace) -> int:
    from minibert.qa.recipes import usual_metric

    path = Path(args.predictions)
    predictions = read_predictions(path)
    data = read_data(args.data)
    golds = {question.id: question.gold_texts for question in data.questions}
    metric = args.metric or usual_metric(data)
    if predictions and not golds.keys() & predictions.keys():
        raise UserError(
            f"none of the {len(predictions):,} predictions in {path} is for a question of "
            f"{data.path}; are they for other data?"
        )
    score = score_all(golds, predictions, metric)
    for ids, what in (
        (score.missing, "questions without a prediction, counted as wrong"),
        (score.unknown, "predictions for no question of the data, ignored"),
    ):
        if ids:
            print(f"{len(ids):,} {what}: {some(ids)}", file=sys.stderr)
    if args.json:
        print(to_json(score.as_dict() | {"missing": score.missing, "unknown": score.unknown}))
    else:
        print(score_table(score.as_dict(), digits=2))
    return 0


def read_predictions(path: Path) -> dict[str, str]:
    """Question id -> answer. Raises UserError: no JSON, no object, or an answer that is no text."""
    from minibert import files

    predictions = files.read_json(path)
    for name, text in predictions.items():
        if not isinstance(text, str):
            raise UserError(
                f"{path}: the prediction for question {name} is no string; "
                'write the text of its answer, or "" for no answer'
            )
    return predictions


def some(names: tuple[str, ...]) -> str:
    """The first few of many."""
    more = f" and {len(names) - SHOWN_IDS:,} more" if len(names) > SHOWN_IDS else ""
    return ", ".join(names[:SHOWN_IDS]) + more


# peek


def _peek(args: argparse.Namespace) -> int:
    from minibert import hub
    from minibert.datasets import MANIFEST
    from minibert.qa.peek import describe
    from minibert.qa.recipes import recipe_for
    from minibert.tokenizer import load_tokenizer
    from minibert.trained import plain_warnings

    if args.count < 1:
        raise UserError(f"--count {args.count} shows nothing; set it to at least 1")
    # A data set with a name has a training part: dev need not be fetched, too.
    parts = ("train",) if args.data in MANIFEST else ("train", "dev")
    data = read_data(args.data, *parts)
    usual = recipe_for(data, vars(args))
    weights = args.weights or usual.weights
    tokenizer = load_tokenizer(hub.find(weights))
    trainable = data.trainable
    n = min(args.count, len(trainable))
    if not n:
        raise UserError(f"{data.path} has no question whose answer is in its text, so none to show")
    chosen = [trainable[i * len(trainable) // n] for i in range(n)]
    max_length = usual.max_length if args.max_length is None else args.max_length
    doc_stride = usual.doc_stride if args.doc_stride is None else args.doc_stride
    with plain_warnings():
        lines = describe(chosen, tokenizer, max_length, doc_stride)
    print(f"{data.summary()}\ntokens of {weights}\n")
    print("\n".join(lines))
    return 0
