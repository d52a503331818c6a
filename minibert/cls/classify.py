"""A trained classifier at work: texts in, for each its class and how sure the model is.

`commands.py` puts it on the command line. How long a text may be and whether it takes pairs, its
run knows (run.json), and what the classes are called, its config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

from minibert.cls.encoding import Encodings, Texts, check_length, encode
from minibert.cls.task import ClsSettings, Floats, classify
from minibert.errors import UserError
from minibert.model import BertForSequenceClassification
from minibert.report import say
from minibert.tokenizer import SPECIAL, check_model
from minibert.train import autocast
from minibert.trained import check_text, damaged, load_trained

USUAL_LENGTH = 512  # for a checkpoint without a run


class Verdict(NamedTuple):
    """What the model says of one text."""

    text: str
    pair: str | None  # the second text, where there are two
    label: str
    probability: float
    probabilities: dict[str, float]  # of every class


@dataclass(frozen=True)
class Classifier:
    """A model that was trained to tell classes apart, and how it must be asked."""

    model: BertForSequenceClassification
    tokenizer: Tokenizer
    settings: ClsSettings
    precision: str
    takes_pairs: bool | None  # None: a checkpoint without a run, which does not say

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @property
    def lower_cases(self) -> bool:
        """Whether the tokenizer does, as that of an uncased model."""
        return self.tokenizer.encode("A").ids == self.tokenizer.encode("a").ids

    def classify(self, texts: Texts) -> list[Verdict]:
        """The verdict on each text, or pair of texts; says how many were too long.

        Raises:
            UserError: a text is empty or no Unicode, stands alone where the model takes pairs, or
                the other way round; the model's scores are NaN.
        """
        probabilities = self.probabilities(self.encode(texts))
        return [
            Verdict(
                *(text, pair, self.labels[row.argmax()], float(row.max())),
                dict(zip(self.labels, row.tolist(), strict=True)),
            )
            for (text, pair), row in zip(texts, probabilities, strict=True)
        ]

    def encode(self, texts: Texts) -> Encodings:
        """Checks the texts, and tokenizes them as in training."""
        for i, (text, pair) in enumerate(texts, 1):
            which = "the text" if len(texts) == 1 else f"text {i}"
            check_text(text, which)
            if pair is not None:
                check_text(pair, f"the second text of {which}")
            if self.takes_pairs is not None and self.takes_pairs != (pair is not None):
                wants = "pairs of texts" if self.takes_pairs else "single texts"
                got = "no second text" if pair is None else "a second text"
                raise UserError(f"the model was trained on {wants}, but {which} has {got}")
        has_pairs = any(pair is not None for _, pair in texts)
        check_length(self.settings.max_length, has_pairs)
        encodings = encode(texts, self.tokenizer, *self.settings)
        if encodings.n_cut:
            say(
                f"note: {encodings.n_cut:,} of {len(texts):,} texts had more than "
                f"{self.settings.max_length} tokens and were cut, as in training"
            )
        return encodings

    def probabilities(self, encodings: Encodings) -> Floats:
        """(N, L): the probability of each class for each text."""
        pad_id = self.tokenizer.get_vocab()[SPECIAL["pad"]]
        with autocast(next(self.model.parameters()).device, self.precision):
            found = classify(self.model, encodings.rows, pad_id)
        if not (found >= 0).all():
            raise UserError("the model's scores are no numbers (NaN): its weights are damaged")
        return found


def load_classifier(name: str, device: str | None = None) -> Classifier:
    """The model of a run, or a classification checkpoint that transformers made.

    Raises:
        UserError: there is none of that name, it was not trained to classify, or its files do not
            belong together.
    """
    trained = load_trained(
        *(BertForSequenceClassification, name, device),
        script="train_cls.py",
        needs=ClsSettings._fields,
        purpose="to classify",
    )
    config = trained.model.config
    settings = ClsSettings(min(USUAL_LENGTH, config.max_position_embeddings), False)
    takes_pairs = None
    if trained.run:
        settings = ClsSettings(*(trained.facts["settings"][k] for k in ClsSettings._fields))
        if type(settings.max_length) is not int or type(settings.head_tail) is not bool:
            raise damaged(trained.run, settings)
        train = trained.facts.get("data", {}).get("train", {})
        takes_pairs = train.get("pair_column") is not None
    told_apart = "the two texts of a pair apart" if takes_pairs else None
    try:
        check_model(config, trained.tokenizer, settings.max_length, told_apart)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Classifier(trained.model, trained.tokenizer, settings, trained.precision, takes_pairs)
