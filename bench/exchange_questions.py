"""Does a model read the question? Its scores as the data is, and with the questions exchanged.

    python bench/exchange_questions.py --model runs/squad --data dev.json \\
        --out bench/results/exchanged.json

In the second pass each question is asked with the text of the next one about the same context (the
last with the first one's) and scored against its own answers. A model that answers what was asked
loses most of its F1; one that has only learnt what answers look like loses nothing. A context
with one question has none to exchange it for, so it is left out of both passes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from minibert import files
from minibert.cli import guard
from minibert.errors import UserError
from minibert.qa.ask import load_reader
from minibert.qa.reading import Question, QuestionSet, read_questions
from minibert.qa.task import QATask, check_fits
from minibert.runs import positive
from minibert.trained import as_scored, plain_warnings


def exchange(dev: QuestionSet) -> tuple[QuestionSet, QuestionSet]:
    """The questions about contexts that have several; and the same with each one's text replaced
    by the next one's of its context."""
    by_context: dict[str, list[Question]] = defaultdict(list)
    for question in dev.questions:
        by_context[question.context].append(question)
    groups = [group for group in by_context.values() if len(group) > 1]
    exchanged = [
        replace(question, question=other.question)
        for group in groups
        for question, other in zip(group, [*group[1:], group[0]], strict=True)
    ]
    kept = [question for group in groups for question in group]
    return replace(dev, questions=kept), replace(dev, questions=exchanged)


def main(args: argparse.Namespace) -> int:
    whole = read_questions(args.data)
    as_it_is, exchanged = exchange(whole)
    if not as_it_is.questions:
        raise UserError(f"{args.data} has no context with several questions to exchange")
    reader = load_reader(args.model, args.device)
    settings = reader.settings_for([question.context for question in whole.questions])
    given = {name: getattr(args, name) for name in ("max_length", "doc_stride")}
    settings = settings._replace(**{name: n for name, n in given.items() if n is not None})
    check_fits(reader.model.config, reader.tokenizer, settings)
    with plain_warnings(), as_scored(reader.model, reader.precision):
        before, after = (
            QATask(reader.tokenizer, settings, questions).evaluate(reader.model)[0]
            for questions in (as_it_is, exchanged)
        )
    facts = {
        **{"model": args.model, "data": args.data, "settings": settings._asdict()},
        **{"questions": len(whole.questions), "left_out": len(whole.questions) - before["total"]},
        **{"as_it_is": before, "exchanged": after, "f1_lost": before["f1"] - after["f1"]},
    }
    if args.out:
        files.write_json(Path(args.out), facts)
    print(json.dumps(facts, indent=1))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, metavar="RUN", help="a run of train_qa.py, or a directory that "
        "transformers' save_pretrained wrote, with the tokenizer's files")  # fmt: skip
    add("--data", required=True, metavar="FILE", help="questions in the layout of SQuAD or CMRC")
    add("--out", metavar="FILE", help="write the figures there as JSON, too")
    add("--max-length", type=positive(int), metavar="TOKENS", help="that it was trained with "
        "(default: a run's own; without a run, the published one for the language)")  # fmt: skip
    add("--doc-stride", type=positive(int), metavar="TOKENS", help="likewise")
    add("--device", help="cpu, cuda, … (default: cuda where there is one, else cpu)")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    sys.exit(guard(lambda: main(given)))
