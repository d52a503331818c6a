"""Recipes: what is done with questions where a setting is not given.

The language of the data chooses between the published ones, as it chooses the metric; the bundled
sample has one of its own. `train_qa.py` takes the whole recipe, the commands that ask or show take
its lengths and its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from minibert import hub
from minibert.metrics import Metric, metric_for
from minibert.parts import OWN_RECIPE, takes_own
from minibert.qa.reading import QuestionSet


class QARecipe(NamedTuple):
    """How a BERT is fine-tuned, and where that is written."""

    recipe: str  # the source
    weights: str  # the checkpoint that it starts from
    lr: float
    batch_size: int
    epochs: int
    max_length: int
    doc_stride: int


PUBLISHED: dict[Metric, QARecipe] = {
    "cmrc2018": QARecipe(
        "CMRC 2018 baseline (ymcui/cmrc2018, baseline/README.md)",
        "bert-base-chinese",
        lr=3e-5,
        batch_size=32,
        epochs=2,
        max_length=512,
        doc_stride=128,
    ),
    "squad": QARecipe(
        "BERT paper (section 4.2) and google-research/bert, run_squad.py",
        "bert-base-cased",
        lr=5e-5,
        batch_size=32,
        epochs=3,
        max_length=384,
        doc_stride=128,
    ),
}
OWN = QARecipe(
    OWN_RECIPE,
    hub.BUNDLED,
    lr=2e-5,
    batch_size=4,
    epochs=1,
    max_length=512,
    doc_stride=384,
)
# Data sets whose language we need not look for.
LANGUAGES: dict[str, Metric] = {
    "cmrc2018": "cmrc2018",
    "drcd": "cmrc2018",
    "squad": "squad",
    "squad2": "squad",
}


def usual_metric(data: QuestionSet) -> Metric:
    """The metric for the language of these texts: "cmrc2018" for Chinese, else "squad"."""
    return metric_for(question.context for question in data.questions[:1000])


def recipe_for(questions: QuestionSet, settings: Mapping[str, Any]) -> QARecipe:
    """The sample's own for the sample, the published one of their language for other questions.

    Args:
        settings: "data", "train" and "weights", as given on the command line. From another
            checkpoint than the bundled one the sample is trained on like other data.
    """
    if takes_own(settings):
        return OWN
    name = "" if settings.get("train") else settings.get("data") or ""  # whose questions they are
    return PUBLISHED[LANGUAGES.get(name) or usual_metric(questions)]
