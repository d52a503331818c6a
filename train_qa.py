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
from minibert.metrics import Metric
from minibert.model import BertForQuestionAnswering
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import HELD_OUT, QuestionSet, read_questions
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
    return guard(lambda: run(given))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=DESCRIPTION + "".join(map(recipe_in_words, PUBLISHED)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # see runs.add_options
    )
    add = result.add_argument
    add("--data", metavar="NAME|FILE|DIR", help="cmrc2018, squad, squad2 or drcd, fetched on first "
        "use; a file of questions to train on, in the layout of SQuAD or CMRC; or a directory with "
        "train*.json and dev*.json")  # fmt: skip
    add("--train", metavar="FILE", help="the questions to train on, instead of those of --data")
    add("--dev", metavar="FILE", help="the questions to score on, instead of those of --data; "
        f"where there are none, every {HELD_OUT}th context of the training file is held out for "
        "that, from the first one on")  # fmt: skip
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
        settings = with_defaults(settings, questions)
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
    """The questions to train on and those to score on, which --data, --train and --dev name."""
    files = find_data(settings)
    if "dev" in files:
        questions = {part: read_questions(files[part]) for part in ("train", "dev")}
    else:
        say(
            f"no questions to score on are named: every {HELD_OUT}th context of "
            f"{files['train'].name} is held out for that (--dev FILE names others)"
        )
        questions = {
            "train": read_questions(files["train"], "train"),
            "dev": read_questions(files["train"], "dev"),
        }
    for part in questions.values():
        say(part.summary())
    return questions


def find_data(settings: dict[str, Any]) -> dict[str, Path]:
    """The file of the training questions, and that of the dev questions where one is named."""
    files = {part: Path(settings[part]) for part in ("train", "dev") if settings.get(part)}
    if settings.get("data"):
        if len(files) == 2:
            raise UserError("--train and --dev name all data there is to name; leave out --data")
        found = datasets.find(settings["data"])
        if "data" in found:  # a single file
            found = {"train": found["data"]}
            if "train" in files:
                raise UserError(
                    f"--data {settings['data']} and --train both name a file to train on; leave "
                    "one out, and name the questions to score on with --dev"
                )
        files = found | files
    if "train" not in files:
        raise UserError(
            "name the data: --data cmrc2018 (or squad, squad2, drcd, a file or a directory), or "
            "--train FILE and --dev FILE; there is no file to train on yet"
        )
    return files


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
