"""Fine-tunes a BERT to answer questions: `python train_qa.py --data cmrc2018`.

Also under torchrun: `torchrun --nproc_per_node=2 train_qa.py --data cmrc2018`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from minibert import checkpoint, datasets, distributed, hub, runs
from minibert.cli import guard
from minibert.errors import UserError
from minibert.memory import keep_freed_memory
from minibert.metrics import metric_for
from minibert.model import BertForQuestionAnswering
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import QuestionSet, read_questions
from minibert.qa.task import QASettings, QATask, check_fits
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import Training

CMRC_BASELINE = {
    "recipe": "CMRC 2018 baseline (ymcui/cmrc2018, baseline/README.md)",
    **{"lr": 3e-5, "batch_size": 32, "epochs": 2, "max_length": 512, "doc_stride": 128},
}
BERT_PAPER = {
    "recipe": "BERT paper, section 4.2, and run_squad.py",
    **{"lr": 5e-5, "batch_size": 32, "epochs": 3, "max_length": 384, "doc_stride": 128},
}
DESCRIPTION = """Fine-tunes a BERT to answer questions about a text (extractive question answering).

Settings that are not given are those of a published recipe, chosen by the language of the data:
  Chinese   3e-5, batch 32, 2 epochs, length 512, stride 128: the CMRC 2018 baseline
            (ymcui/cmrc2018, baseline/README.md), from bert-base-chinese
  other     5e-5, batch 32, 3 epochs, length 384, stride 128: the BERT paper (section 4.2) and
            google-research/bert, run_squad.py, from bert-base-cased
"""


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    given = vars(parser().parse_args(argv))
    return guard(lambda: run(given))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # see runs.add_options
    )
    add = result.add_argument
    add("--data", metavar="NAME|DIR", help="cmrc2018, squad, squad2 or drcd, fetched on first use; "
        "or a directory with train*.json and dev*.json in the layout of SQuAD or CMRC")  # fmt: skip
    add("--train", metavar="FILE", help="the training questions, instead of --data")
    add("--dev", metavar="FILE", help="the questions to score on, instead of --data")
    add("--doc-stride", type=runs.positive(int), metavar="TOKENS", help="from one window's start "
        "to the next's, where a text is longer than --max-length; as in run_squad.py "
        "(transformers' stride is the overlap of two windows instead)")  # fmt: skip
    add("--max-answer-length", type=runs.positive(int), metavar="TOKENS", help="the longest answer "
        "(default: 30, in Chinese 80: its tokens are characters)")  # fmt: skip
    add("--metric", choices=list(MAX_ANSWER_LENGTH), help="whose rules to score by (default: by "
        "the language of the data)")  # fmt: skip
    runs.add_options(result)
    return result


def run(given: dict[str, Any]) -> int:
    """Trains, or goes on with a run; returns the exit code."""
    directory, settings = runs.resumed(given) if "resume" in given else (None, dict(given))
    device = runs.device_of(settings)
    keep_freed_memory()
    with distributed.processes(device.type):
        if directory is not None and checkpoint.is_finished(directory, settings["epochs"]):
            checkpoint.tidy(directory)
            say(f"{directory} is finished: all its epochs are done, nothing is left to do")
            return 0
        questions = read_data(settings)
        settings = with_defaults(settings, questions["dev"])
        training = prepare(settings, questions, device, directory)
        try:
            training.go()
        except KeyboardInterrupt:
            say(f"stopped and saved; go on with: {runs.again('train_qa.py', training.run)}")
            return 130
        best = training.progress.best
        say(
            f"best epoch {best['epoch']}: EM {best['exact_match']:.2f}, F1 {best['f1']:.2f}; "
            f"saved in {training.run}"
        )
        say(f"ask it: minibert ask --model {training.run} --context FILE --question '…'")
    return 0


def prepare(
    settings: dict[str, Any],
    questions: dict[str, QuestionSet],
    device: torch.device,
    resumed: Path | None,
) -> Training:
    """The loop with all that it needs. The directory of a new run comes last: a mistake in the
    settings leaves none behind."""
    recipe = runs.recipe_of(settings, device)
    data = {part: found.as_dict() for part, found in questions.items()}
    directory = resumed or runs.directory_for(settings)
    if resumed:
        runs.check_data(resumed, data)
    runs.make_repeatable(device)
    torch.manual_seed(settings["seed"])  # for the head, which no checkpoint holds
    weights = hub.find(settings["weights"])
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


def read_data(settings: dict[str, Any]) -> dict[str, QuestionSet]:
    """The training and the dev questions that --data, or --train and --dev, name."""
    found = {part: Path(settings[part]) for part in ("train", "dev") if settings.get(part)}
    if settings.get("data") and len(found) < 2:
        found = datasets.find(settings["data"]) | found
    missing = [part for part in ("train", "dev") if part not in found]
    if missing:
        raise UserError(
            "name the data: --data cmrc2018 (or squad, squad2, drcd, or a directory), or "
            f"--train FILE and --dev FILE; there is no {missing[0]} file yet"
        )
    questions = {part: read_questions(found[part]) for part in ("train", "dev")}
    for part in questions.values():
        say(part.summary())
    return questions


def with_defaults(settings: dict[str, Any], dev: QuestionSet) -> dict[str, Any]:
    """The settings with a published recipe for whatever was not given, by the data's language."""
    if "recipe" in settings:  # a resumed run has everything already
        return settings
    language = metric_for(question.context for question in dev.questions[:1000])
    chinese = language == "cmrc2018"
    weights = "bert-base-chinese" if chinese else "bert-base-cased"
    if "weights" not in settings:
        say(f"the texts are {'Chinese' if chinese else 'not Chinese'}: starting from {weights}")
    filled = {
        **{"data": None, "train": None, "dev": None, "weights": weights, "metric": language},
        **runs.DEFAULTS,
        **(CMRC_BASELINE if chinese else BERT_PAPER),
        "max_answer_length": MAX_ANSWER_LENGTH[language],
    }
    return filled | settings


if __name__ == "__main__":
    sys.exit(main())
