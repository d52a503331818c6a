"""Fine-tunes a BERT to answer questions: `python train_qa.py --data cmrc2018`.

Also under torchrun: `torchrun --nproc_per_node=2 train_qa.py --data cmrc2018`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minibert import runs
from minibert.cli import guard
from minibert.datasets import MANIFEST
from minibert.metrics import Metric
from minibert.model import BertForQuestionAnswering
from minibert.parts import add_files, find_files, say_shared, shares
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import EVERY_NTH, QuestionSet, read_questions
from minibert.qa.recipes import LANGUAGES, PUBLISHED, usual_metric
from minibert.qa.task import QASettings, QATask, check_fits
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import Training

DESCRIPTION = """Fine-tunes a BERT to answer questions about a text (extractive question answering).

Settings that are not given are those of a published recipe, chosen by the data:
"""


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    given = vars(parser().parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("train_qa.py", prepare, closing)))


def parser() -> argparse.ArgumentParser:
    result = runs.new_parser(DESCRIPTION + "".join(map(recipe_in_words, PUBLISHED)))
    add = result.add_argument
    add("--data", metavar="NAME|FILE|DIR", help="cmrc2018, squad, squad2 or drcd, fetched on first "
        "use; a file of questions to train on, in the layout of SQuAD or CMRC; or a directory with "
        "train*.json and dev*.json")  # fmt: skip
    add_files(result, "questions", f"{EVERY_NTH} of the training file is held out for that, from "
        "the first one on")  # fmt: skip
    add("--doc-stride", type=runs.positive(int), metavar="TOKENS", help="from one window's start "
        "to the next's, where a text is longer than --max-length; as in run_squad.py "
        "(transformers' stride is the overlap of two windows instead)")  # fmt: skip
    add("--max-answer-length", type=runs.positive(int), metavar="TOKENS", help="the longest answer "
        "(default: 30, in Chinese 80: its tokens are characters)")  # fmt: skip
    add("--metric", choices=list(MAX_ANSWER_LENGTH), help="whose rules to score by (default: by "
        "the language of the data)")  # fmt: skip
    runs.add_options(result)
    return result


def recipe_in_words(metric: Metric) -> str:
    """Two lines of the help."""
    names = ", ".join(name for name, language in LANGUAGES.items() if language == metric)
    usual = PUBLISHED[metric]
    lr = f"{usual.lr:.0e}".replace("e-0", "e-")
    kind = "in Chinese" if metric == "cmrc2018" else "in another language"
    return (
        f"  {names}, other data {kind}: {usual.recipe}\n"
        f"      {lr}, batch {usual.batch_size}, {usual.epochs} epochs, length {usual.max_length}, "
        f"stride {usual.doc_stride}, from {usual.weights}\n"
    )


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    questions = read_data(settings)
    settings = with_defaults(settings, questions)
    data = {part: found.as_dict() for part, found in questions.items()}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    model = BertForQuestionAnswering.from_pretrained(weights).to(device)
    tokenizer = load_tokenizer(weights)
    qa_settings = QASettings(**{name: settings[name] for name in QASettings._fields})
    check_fits(model.config, tokenizer, qa_settings)
    task = QATask(
        tokenizer, qa_settings, questions["dev"], questions["train"], limit=settings["limit"]
    )
    if not resumed:
        counts = {"train_windows": len(task.lengths), "dev_windows": len(task.dev_windows.windows)}
        runs.start(directory, settings, data, counts)
    return Training(model, task, recipe, directory, resume=resumed is not None)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    em, f1 = best["exact_match"], best["f1"]
    return [
        f"best epoch {best['epoch']}: EM {em:.2f}, F1 {f1:.2f}; saved in {run}",
        f"ask it: minibert ask --model {run} --context FILE --question '…'",
    ]


def read_data(settings: dict[str, Any]) -> dict[str, QuestionSet]:
    """The questions to train on and those to score on, which --data, --train and --dev name."""
    files = find_files(settings, MANIFEST, parts=("train", "dev"), suffixes=(".json",))
    shared = shares(files)
    questions = {part: read_questions(path, share) for part, (path, share) in shared.items()}
    say_shared(files, "questions", EVERY_NTH)
    for found in questions.values():
        say(found.summary())
    return questions


def with_defaults(settings: dict[str, Any], questions: dict[str, QuestionSet]) -> dict[str, Any]:
    """The settings with a published recipe for whatever was not given, by the data."""
    if "recipe" in settings:  # a resumed run has everything already
        return settings
    language = LANGUAGES.get(settings.get("data", "")) or usual_metric(questions["train"])
    usual = PUBLISHED[language]
    if "weights" not in settings:
        is_chinese = "Chinese" if language == "cmrc2018" else "not Chinese"
        say(f"the texts are {is_chinese}: starting from {usual.weights}")
    metric = usual_metric(questions["dev"])
    filled = {
        **{"data": None, "train": None, "dev": None, "metric": metric},
        **runs.DEFAULTS,
        **usual._asdict(),
        "max_answer_length": MAX_ANSWER_LENGTH[metric],
    }
    return filled | settings


if __name__ == "__main__":
    sys.exit(main())
