"""A trained classifier at work: texts in, for each its class and how sure the model is.

`commands.py` puts it on the command line. How long a text may be and whether it takes pairs, its
run knows (run.json), and what the classes are called, its config.json.

Shapes: N texts, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from minibert.cls.encoding import Encodings, Texts, check_length, encode
from minibert.cls.reading import TextSet
from minibert.cls.task import ClsSettings, class_probabilities, say_cut, texts_of
from minibert.config import BertConfig
from minibert.errors import UserError
from minibert.inference import Floats
from minibert.model import BertForSequenceClassification
from minibert.tokenizer import check_model, special_id
from minibert.trained import as_scored, check_text, damaged, load_trained

USUAL_LENGTH = 512  # for a checkpoint without a run
Given = Literal["words", "lines", "table"]  # of the command, of a file or the prompt, with columns
# What to do where the second text is lacking, and where there is one too many.
ADVICE: dict[Given, tuple[str, str]] = {
    "words": ("give it with --pair", "leave out --pair"),
    "lines": ("write it after a tab", "leave out what stands after the tab"),
    "table": ("name its column with --pair-column", "name the one to take with --text-column"),
}


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
    run: dict[str, Any]  # its run.json; {} for a checkpoint without a run

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @property
    def lower_cases(self) -> bool:
        """Whether the tokenizer does, as that of an uncased model."""
        return self.tokenizer.encode("A").ids == self.tokenizer.encode("a").ids

    @property
    def trained_on(self) -> dict[str, Any]:
        """What run.json says of the data, by part; {} for a checkpoint without a run."""
        data: dict[str, Any] = self.run.get("data", {})
        return data

    @property
    def takes_pairs(self) -> bool | None:
        """None: a checkpoint without a run, which does not say."""
        if not self.run:
            return None
        return self.trained_on.get("train", {}).get("pair_column") is not None

    def classify(
        self, texts: Texts, names: Sequence[str] = (), given: Given = "words"
    ) -> list[Verdict]:
        """The verdict on each text, or pair of texts; says how many were too long.

        names: what to call each text in an error; else it is TEXT 1 and so on.
        given: how, for what an error advises.

        Raises:
            UserError: what `check` raises; the model's scores are NaN.
        """
        self.check(texts, names, given)
        verdicts = []
        found = self.probabilities(self.encode(texts, "note"))  # (N, L)
        for (text, pair), row in zip(texts, found, strict=True):
            by_label = dict(zip(self.labels, row.tolist(), strict=True))
            label = self.labels[row.argmax()]
            verdicts.append(Verdict(text, pair, label, by_label[label], by_label))
        return verdicts

    def check(self, texts: Texts, names: Sequence[str], given: Given) -> None:
        """Raises UserError: a text is empty or no Unicode, stands alone where the model takes
        pairs, or the other way round."""
        names = names or [f"TEXT {i}" if len(texts) > 1 else "" for i in range(1, len(texts) + 1)]
        for (text, pair), name in zip(texts, names, strict=True):
            at = f"{name}: " if name else ""
            check_text(text, f"{at}the text")
            if pair is not None:
                check_text(pair, f"{at}the second text")
            if self.takes_pairs and pair is None:
                raise UserError(
                    f"{at}the model was trained on pairs of texts, but there is no second text; "
                    f"{ADVICE[given][0]}"
                )
            if self.takes_pairs is False and pair is not None:
                raise UserError(
                    f"{at}the model was trained on single texts, but there is a second text; "
                    f"{ADVICE[given][1]}"
                )

    def encode(self, texts: Texts, what: str) -> Encodings:
        """Tokenizes texts as in training, and says how many were cut. what: which texts."""
        encodings = encode(texts, self.tokenizer, *self.settings)
        say_cut(what, encodings, self.settings)
        return encodings

    def probabilities(self, encodings: Encodings) -> Floats:
        """(N, L): the probability of each class for each text. Raises UserError: they are NaN."""
        with as_scored(self.model, self.precision):
            found = class_probabilities(
                self.model, encodings.rows, special_id(self.tokenizer, "pad")
            )
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
        BertForSequenceClassification,
        name,
        device,
        script="train_cls.py",
        needs=ClsSettings._fields,
        purpose="to classify",
    )
    config = trained.model.config
    settings = ClsSettings(min(USUAL_LENGTH, config.max_position_embeddings), False)
    if trained.run:
        settings = ClsSettings(*(trained.facts["settings"][k] for k in ClsSettings._fields))
        if type(settings.max_length) is not int or type(settings.head_tail) is not bool:
            raise damaged(trained.run, settings)
    else:
        check_one_class(name, config)
    found = Classifier(trained.model, trained.tokenizer, settings, trained.precision, trained.facts)
    told_apart = "the two texts of a pair apart" if found.takes_pairs else None
    try:
        check_length(settings.max_length, bool(found.takes_pairs))
        check_model(config, trained.tokenizer, settings.max_length, told_apart)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return found


def check_one_class(name: str, config: BertConfig) -> None:
    """Raises UserError for a checkpoint of transformers whose scores are not of classes of which a
    text has exactly one."""
    kind = config.unread.get("problem_type")
    if kind == "multi_label_classification":
        raise UserError(f"{name} may find several classes in one text; it cannot be asked here")
    if kind == "regression" or config.num_labels == 1:
        raise UserError(f"{name} gives a text a number, no class; it cannot be asked here")


def check_texts(classifier: Classifier, texts: TextSet) -> None:
    """Raises UserError for the first labelled text of a file that a model cannot be scored on."""
    names, labels = lines_of(texts), classifier.labels
    classifier.check(texts_of(texts.examples), names, "table")
    for example, name in zip(texts.examples, names, strict=True):
        if example.label not in labels:
            raise UserError(
                f"{name}: the model does not know the label {example.label!r}; it tells apart "
                f"{', '.join(labels)}"
            )


def lines_of(texts: TextSet) -> list[str]:
    """Where each text stands, for messages."""
    return [f"{texts.path}, line {example.line}" for example in texts.examples]
