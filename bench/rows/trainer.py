"""Fine-tuning with transformers' Trainer, as its examples run_qa.py and run_glue.py do it.

Either with their defaults, each text padded to the full length; or with all that makes a Trainer
quick: padding to the longest of a batch, batches of like length.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minibert import files
from minibert.metrics import score_all
from rows import example


class Recipe(NamedTuple):
    """What is trained, on what and how; the rest are the Trainer's defaults."""

    weights: Path
    train: Path  # for questions, a flat file: see material.py
    dev: Path
    out: Path
    lr: float
    batch_size: int
    max_length: int
    precision: str
    is_padded: bool  # to max_length, as the examples do by default

    def arguments(self) -> Any:
        """The Trainer's own settings."""
        from transformers import TrainingArguments

        tuned: dict[str, Any] = {
            "train_sampling_strategy": "group_by_length",
            "per_device_eval_batch_size": 32,
            "save_strategy": "no",
        }
        return TrainingArguments(
            output_dir=str(self.out),
            num_train_epochs=1,
            learning_rate=self.lr,
            per_device_train_batch_size=self.batch_size,
            bf16=self.precision == "bf16",
            use_cpu=True,
            **({} if self.is_padded else tuned),
        )


class Result(NamedTuple):
    """How many updates there were, and how well the model does: F1, or accuracy."""

    steps: int
    score: float


def answer_questions(recipe: Recipe, max_answer_length: int) -> Result:
    """run_qa.py: from the files to the trained weights and the answers to the dev questions."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.weights)
    model = AutoModelForQuestionAnswering.from_pretrained(recipe.weights)
    train, dev = (
        example.load_records(path, recipe.out / "cache") for path in (recipe.train, recipe.dev)
    )
    features = partial(
        example.features,
        tokenizer=tokenizer,
        max_length=recipe.max_length,
        pad=recipe.is_padded,
    )
    names = train.column_names
    trained = train.map(partial(features, training=True), batched=True, remove_columns=names)
    asked = dev.map(partial(features, training=False), batched=True, remove_columns=names)
    trainer = make_trainer(recipe, model, tokenizer, trained)
    trainer.train()
    trainer.save_model()
    starts, ends = trainer.predict(asked).predictions
    n_best = example.answers(list(dev), asked[:], starts, ends, max_answer_length)
    texts = {name: spans[0]["text"] for name, spans in n_best.items()}
    files.write_json(recipe.out / "predict_nbest_predictions.json", n_best)
    files.write_json(recipe.out / "predict_predictions.json", texts)
    golds = {record["id"]: record["answers"]["text"] for record in dev}
    return Result(trainer.state.global_step, score_all(golds, texts, "squad").as_dict()["f1"])


def classify(recipe: Recipe) -> Result:
    """run_glue.py: from the tables to the trained weights and the accuracy on the dev set."""
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.weights)
    model = AutoModelForSequenceClassification.from_pretrained(recipe.weights)
    tables = load_dataset(
        "csv",
        data_files={"train": str(recipe.train), "validation": str(recipe.dev)},
        cache_dir=str(recipe.out / "cache"),
        sep="\t",
        quoting=3,
    )
    text, label = tables["train"].column_names
    numbers = {name: i for i, name in enumerate(sorted(set(tables["train"][label])))}

    def prepare(rows: dict[str, list[Any]]) -> Any:
        padding = "max_length" if recipe.is_padded else False
        encoded = tokenizer(
            rows[text], padding=padding, max_length=recipe.max_length, truncation=True
        )
        encoded["labels"] = [numbers[name] for name in rows[label]]
        return encoded

    encoded = tables.map(prepare, batched=True, remove_columns=[text, label])
    trainer = make_trainer(recipe, model, tokenizer, encoded["train"])
    trainer.train()
    trainer.save_model()
    found = trainer.predict(encoded["validation"])
    right = (found.predictions.argmax(axis=1) == found.label_ids).mean()
    return Result(trainer.state.global_step, float(right))


def make_trainer(recipe: Recipe, model: Any, tokenizer: Any, trained: Any) -> Any:
    from transformers import DataCollatorWithPadding, Trainer, default_data_collator

    return Trainer(
        model=model,
        args=recipe.arguments(),
        train_dataset=trained,
        processing_class=tokenizer,
        data_collator=(
            default_data_collator if recipe.is_padded else DataCollatorWithPadding(tokenizer)
        ),
    )
