"""Fine-tunes a BERT to tell classes of texts apart: `python train_cls.py`, on the bundled sample,
or with `--data sst2`.

Also under torchrun: `torchrun --nproc_per_node=2 train_cls.py --data sst2`.
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

from minibert import hub, runs
from minibert.cli import guard
from minibert.cls.encoding import check_length
from minibert.cls.reading import TAKEN, TextSet
from minibert.cls.sets import read_sets
from minibert.cls.task import ClsSettings, ClsTask, load_model, say_cut
from minibert.config import BertConfig
from minibert.datasets import SAMPLE
from minibert.errors import UserError
from minibert.metrics import is_chinese
from minibert.parts import OWN_RECIPE, add_files, or_sample, rate_in_words, takes_own
from minibert.report import say
from minibert.tokenizer import check_model, load_tokenizer
from minibert.train import Training
from minibert.words import add_columns

# The paper chose the learning rate for each task on its dev set, among 5e-5, 4e-5, 3e-5 and 2e-5;
# one of them and the length are those of the example in the README of google-research/bert.
BERT_PAPER = {
    "recipe": "BERT paper, section 4.1, and google-research/bert, run_classifier.py",
    "lr": 2e-5,
    "batch_size": 32,
    "epochs": 3,
    "max_length": 128,
    "head_tail": False,
    "r_drop": 0.0,
}
OWN: dict[str, Any] = {
    "recipe": OWN_RECIPE,
    "weights": hub.BUNDLED,
    "lr": 3e-5,
    "batch_size": 8,
    "epochs": 4,
    "max_length": 128,
    "head_tail": False,
    "r_drop": 0.0,
}
DESCRIPTION = f"""Fine-tunes a BERT to tell classes of texts, or of pairs of texts, apart.

Without --data it is trained on the bundled sample, from {OWN["weights"]}:
{rate_in_words(OWN["lr"])}, batch {OWN["batch_size"]}, {OWN["epochs"]} epochs, length
{OWN["max_length"]}, {OWN["recipe"]}.

Of other data, and of the sample from other --weights, settings that are not given are those of the
published recipe for GLUE's tasks: 2e-5, batch 32, 3 epochs, length 128, from the BERT paper
(section 4.1: batch 32, 3 epochs, and the best on the dev set of 5e-5, 4e-5, 3e-5 and 2e-5) and
google-research/bert, run_classifier.py. It starts from bert-base-chinese where most letters of the
texts are Chinese, else from bert-base-cased.

Under torchrun (torchrun --nproc_per_node=2 train_cls.py …) several processes share each batch.

Columns are found by the names that people give them, as sentence or text, text_a and text_b, and
label; docs/labelled-texts.md has the rules. A run leaves the model as transformers loads it
(config.json, model.safetensors, tokenizer.json, tokenizer_config.json, vocab.txt), its scores and
verdicts on the dev texts (eval.json, predictions.tsv, failures.tsv, confusion.svg) and on a test
set (test_predictions.tsv, test.json), and how it went (run.json, metrics.jsonl, curves.svg).
"""
# To be tried on a model of the sample, which does not hold it.
REVIEW = "这家店的面很好吃，老板也热情，下次还来。"


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    given = vars(parser().parse_args(argv))
    return guard(lambda: runs.fine_tune(given, runs.Goal("train_cls.py", prepare, closing)))


def parser() -> argparse.ArgumentParser:
    result = runs.new_parser(DESCRIPTION)
    add = result.add_argument
    add("--data", metavar="NAME|FILE|DIR", help="sample, the bundled one (default); sst2, "
        "fetched on first use; a file of labelled texts (TSV, CSV or JSON Lines) to train on; or a "
        "directory with such files, called train*, dev* and perhaps test*")  # fmt: skip
    add_files(result, "texts", f"{TAKEN['dev']}, of the training file's texts is held out for "
        "that: equal texts together, and never the only one of a class")  # fmt: skip
    add_columns(result)
    add("--head-tail", action="store_true", help="of a text that is longer than --max-length keep "
        "the first quarter and, for the rest, the end, instead of the beginning alone (Sun et al. "
        "2019, How to Fine-Tune BERT for Text Classification?)")  # fmt: skip
    add("--r-drop", type=runs.positive(float), metavar="WEIGHT", help="show each text twice, with "
        "other dropout, and add to the loss, also as it is printed, so many times how far the two "
        "verdicts are apart: twice the time, and more memory, against which --accumulation helps "
        "(Liang et al. 2021, R-Drop; 1 is their alpha of 2; default: off)")  # fmt: skip
    runs.add_options(result)
    return result


def prepare(settings: dict[str, Any], device: torch.device, resumed: Path | None) -> Training:
    """The loop with all that it needs."""
    settings = or_sample(settings)
    texts = read_sets(settings)
    settings = with_defaults(settings, texts["train"])
    labels = texts["train"].labels
    data = {part: found.as_dict() for part, found in texts.items()}
    recipe, directory, weights = runs.open_run(settings, data, device, resumed)
    model = load_model(weights, labels).to(device)
    r_drop = settings.get("r_drop", 0.0)  # runs that were begun before there was one lack it
    if r_drop:
        check_dropout(model.config, settings["weights"])
    tokenizer = load_tokenizer(weights)
    cls_settings = ClsSettings(**{name: settings[name] for name in ClsSettings._fields})
    has_pairs = texts["train"].columns.pair is not None
    check_length(cls_settings.max_length, has_pairs)
    told_apart = "the two texts of a pair apart" if has_pairs else None
    check_model(model.config, tokenizer, cls_settings.max_length, told_apart)
    task = ClsTask(
        tokenizer,
        cls_settings,
        labels,
        texts["dev"],
        texts["train"],
        texts.get("test"),
        limit=settings["limit"],
        r_drop=r_drop,
    )
    counts = say_what_is_cut(task)
    if not resumed:
        runs.start(directory, settings, data, counts, weights, task.lengths)
    return Training(model, task, recipe, directory, resume=resumed is not None)


def check_dropout(config: BertConfig, name: str) -> None:
    """Raises UserError where both passes of R-Drop would be the same."""
    rates = config.hidden_dropout_prob, config.attention_probs_dropout_prob
    if not any((*rates, config.classifier_dropout)):
        raise UserError(
            f"{name} has no dropout (config.json), so --r-drop would show each text twice for "
            "nothing; leave it out"
        )


def say_what_is_cut(task: ClsTask) -> dict[str, int]:
    """How many texts there are, and how many were too long, also as counts for run.json."""
    parts = {"train": task.encoded, "dev": task.dev_encoded}
    if task.test:
        parts["test"] = task.test_encoded
    counts: dict[str, int] = {}
    for part, encoded in parts.items():
        counts |= {f"{part}_texts": len(encoded.rows), f"{part}_texts_cut": encoded.n_cut}
        say_cut(part, encoded, task.settings)
    return counts


def closing(run: Path, best: Mapping[str, Any]) -> list[str]:
    """What a finished run says last."""
    facts = runs.read_run_json(run)
    texts = [REVIEW if facts["settings"]["data"] == SAMPLE else "a text of your own"]
    if facts["data"]["train"]["pair_column"] is not None:
        texts += ["--pair", "and its second one"]
    return [
        f"best epoch {best['epoch']}: accuracy {best['accuracy']:.4f}, macro F1 "
        f"{best['macro_f1']:.4f}; saved in {run}",
        f"try it: {shlex.join(['minibert', 'classify', '--model', str(run), *texts])}",
    ]


def with_defaults(settings: dict[str, Any], train: TextSet) -> dict[str, Any]:
    """The settings with a recipe for whatever was not given: the sample's own or the published."""
    if "recipe" in settings:  # a resumed run has everything already
        return settings
    usual, texts_are = OWN, "the sample's"
    if not takes_own(settings):
        chinese = is_chinese(example.text for example in train.examples[:1000])
        usual = BERT_PAPER | {"weights": "bert-base-chinese" if chinese else "bert-base-cased"}
        texts_are = "Chinese" if chinese else "not Chinese"
    if "weights" not in settings:
        say(f"the texts are {texts_are}: starting from {usual['weights']}")
    columns = dict.fromkeys(("text_column", "pair_column", "label_column"))
    unnamed = {"data": None, "train": None, "dev": None, **columns}
    return unnamed | runs.DEFAULTS | usual | settings


if __name__ == "__main__":
    sys.exit(main())
