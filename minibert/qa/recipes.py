"""Published recipes: what is done with questions where a setting is not given.

The language of the data chooses between them, as it chooses the metric. `train_qa.py` takes the
whole recipe, the commands that ask or show take its lengths and its checkpoint.
"""

from __future__ import annotations

from typing import NamedTuple

from minibert.metrics import Metric, metric_for
from minibert.qa.reading import QuestionSet


class Published(NamedTuple):
    """How somebody fine-tuned a BERT, and where that is written."""

    recipe: str  # the source
    weights: str  # the checkpoint that it starts from
    lr: float
    batch_size: int
    epochs: int
    max_length: int
    doc_stride: int


PUBLISHED: dict[Metric, Published] = {
    "cmrc2018": Published(
        "CMRC 2018 baseline (ymcui/cmrc2018, baseline/README.md)",
        "bert-base-chinese",
        lr=3e-5,
        batch_size=32,
        epochs=2,
        max_length=512,
        doc_stride=128,
    ),
    "squad": Published(
        "BERT paper (section 4.2) and google-research/bert, run_squad.py",
        "bert-base-cased",
        lr=5e-5,
        batch_size=32,
        epochs=3,
        max_length=384,
        doc_stride=128,
    ),
}
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
