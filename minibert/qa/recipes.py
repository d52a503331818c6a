"""Recipes: what is done with questions where a setting is not given.

The language of the data chooses between the published ones, as it chooses the metric; the bundled
sample has one of its own. `train_qa.py` takes the whole recipe, the commands that ask or show take
its lengths and its checkpoint.
"""

from __future__ import annotations

from typing import NamedTuple

from minibert import hub
from minibert.metrics import Metric, metric_for
from minibert.parts import is_default
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
# For the small checkpoint: a higher rate, and a single epoch of many steps, within two minutes.
OWN = QARecipe(
    "minibert's own, for the bundled sample",
    hub.BUNDLED,
    lr=2e-4,
    batch_size=8,
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


def recipe_for(
    questions: QuestionSet, name: str | None = None, weights: str | None = None
) -> QARecipe:
    """The sample's own for the sample, the published one of their language for other questions.

    Args:
        name, weights: what --data and --weights say. From another checkpoint than the bundled one
            the sample is trained on like other data.
    """
    if is_default(name, weights):
        return OWN
    return PUBLISHED[LANGUAGES.get(name or "") or usual_metric(questions)]
