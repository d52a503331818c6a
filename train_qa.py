"""Fine-tunes a BERT to answer questions: `python train_qa.py`, on the bundled sample, or with
`--data cmrc2018`.

Also under torchrun: `torchrun --nproc_per_node=2 train_qa.py --data cmrc2018`.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minibert import runs
from minibert.cli import guard
from minibert.datasets import QUESTIONS, SAMPLE, SAMPLES
from minibert.files import from_here
from minibert.model import BertForQuestionAnswering
from minibert.parts import add_files, find_files, or_sample, rate_in_words, say_shared, shares
from minibert.qa.decoding import MAX_ANSWER_LENGTH
from minibert.qa.reading import EVERY_NTH, QuestionSet, read_questions
from minibert.qa.recipes import LANGUAGES, OWN, PUBLISHED, QARecipe, recipe_for, usual_metric
from minibert.qa.task import QASettings, QATask, check_fits
from minibert.qa.windows import check_lengths
from minibert.report import say
from minibert.tokenizer import load_tokenizer
from minibert.train import Training
from minibert.trained import plain_warnings

DESCRIPTION = """Fine-tunes a BERT to answer questions about a text (extractive question answering).

Under torchrun (torchrun --nproc_per_node=2 train_qa.py …) several processes share each batch.

A run leaves the best epoch's model as transformers loads it (config.json, model.safetensors,
tokenizer.json, tokenizer_config.json, vocab.txt), the last epoch's in last/, answers to the dev
questions (predictions.json, nbest.json) and their scores (eval.json), the wrong answers that the
model was surest of (failures.jsonl), and how it went (run.json, metrics.jsonl, curves.svg). Two
checkpoints to go on from stay in it, each three times the size of the model in fp32.

Without --data it is trained on the bundled sample. Settings that are not given are those of a
recipe, chosen by the data:
"""
# To be asked about the passage beside the sample, which does not hold it.
QUESTION = "黄河发源于哪里？"


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    given = vars(parser().parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("train_qa.py", prepare, closing)))


def parser() -> argparse.ArgumentParser:
    result = runs.new_parser(DESCRIPTION + recipes_in_words())
    add = result.add_argument
    add("--data", metavar="NAME|FILE|DIR", help="sample, the bundled one (default); cmrc2018, "
        "squad, squad2 or drcd, fetched on first use; a file of questions to train on, in the "
        "layout of SQuAD or CMRC; or a directory with train*.json and dev*.json")  # fmt: skip
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


def recipes_in_words() -> str:
    """Two lines of the help for each."""
    words = described("sample, from no other --weights than tiny-zh", OWN)
    for metric, usual in PUBLISHED.items():
        names = ", ".join(name for name, language in LANGUAGES.items() if language == metric)
        kind = "in Chinese" if metric == "cmrc2018" else "in another language"
        words += described(f"{names}, other data {kind}", usual)
    return words


def described(data: str, usual: QARecipe) -> str:
    epochs = "1 epoch" if usual.epochs == 1 else f"{usual.epochs} epochs"
    return (
        f"  {data}: {usual.recipe}\n"
        f"      {rate_in_words(usual.lr)}, batch {usual.batch_size}, {epochs}, "
        f"length {usual.max_length}, stride {usual.doc_stride}, from {usual.weights}\n"
    )


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    settings = or_sample(settings)
    questions = read_data(settings)
    settings = with_defaults(settings, questions)
    check_lengths(settings["max_length"], settings["doc_stride"])  # before a model is fetched
    data = {part: found.as_dict() for part, found in questions.items()}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    model = BertForQuestionAnswering.from_pretrained(weights).to(device)
    tokenizer = load_tokenizer(weights)
    qa_settings = QASettings(**{name: settings[name] for name in QASettings._fields})
    check_fits(model.config, tokenizer, qa_settings)
    sets = questions["dev"], questions["train"]
    with plain_warnings():  # of questions that are cut
        task = QATask(tokenizer, qa_settings, *sets, limit=settings["limit"])
    if not resumed:
        counts = {"train_windows": len(task.lengths), "dev_windows": len(task.dev_windows.windows)}
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(model, task, recipe, directory, resume=resumed is not None)


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    em, f1 = best["exact_match"], best["f1"]
    asked = ["FILE", "--question", "…"]
    if runs.read_run_json(run)["settings"]["data"] == SAMPLE:
        asked = [from_here(SAMPLES / "passage.txt"), "--question", QUESTION]
    ask = shlex.join(["minibert", "ask", "--model", str(run), "--context", *asked])
    return [
        f"best epoch {best['epoch']}: EM {em:.2f}, F1 {f1:.2f}; saved in {run}",
        f"ask it: {ask}",
    ]


def read_data(settings: dict[str, Any]) -> dict[str, QuestionSet]:
    """The questions to train on and those to score on, which --data, --train and --dev name."""
    files = find_files(settings, QUESTIONS, ("train", "dev"))
    shared = shares(files)
    questions = {part: read_questions(path, share) for part, (path, share) in shared.items()}
    say_shared(files, "questions", EVERY_NTH)
    for found in questions.values():
        say(found.summary())
    return questions


def with_defaults(settings: dict[str, Any], questions: dict[str, QuestionSet]) -> dict[str, Any]:
    """The settings with a recipe for whatever was not given, by the data."""
    if "recipe" in settings:  # a resumed run has everything already
        return settings
    usual = recipe_for(questions["train"], settings)
    if "weights" not in settings:
        texts_are = {OWN: "the sample's", PUBLISHED["squad"]: "not Chinese"}.get(usual, "Chinese")
        say(f"the texts are {texts_are}: starting from {usual.weights}")
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
