"""Fine-tuning from text on disk to weights on disk, evaluation included: beside transformers'
model in a loop that has our windows, batches and recipe, and beside its Trainer."""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from minibert import files
from minibert.model import BertForQuestionAnswering, BertForSequenceClassification
from rows import material, trainer
from rows.row import Check, Figures, Row, Side, Work, apart, needs, watch

RECIPES: dict[str, dict[str, Any]] = {
    "qa": {"lr": 1e-4, "batch_size": 16},
    "cls": {"lr": 5e-5, "batch_size": 64},
}
TRIAL = 4  # a quarter of the texts is enough to choose among the peer's forms


class Size(NamedTuple):
    """How many texts are trained on, and how many scored on."""

    train: int
    dev: int


FULL = {"qa": Size(1000, 200), "cls": Size(5000, 872)}
# The example's defaults take ten times as long, so they are held beside ours on a quarter.
DEFAULTS = {"qa": Size(250, 50), "cls": Size(1250, 218)}
EPOCH = Size(67_349, 872)  # all of SST-2
QUICK = {"qa": Size(24, 8), "cls": Size(160, 32)}


def measure(task: str, size: Size, work: Work, side: str) -> Figures:
    """How long it took and how well the model does; all programs are loaded before."""
    size = QUICK[task] if work.quick else size
    if work.trial:
        size = Size(size.train // TRIAL, size.dev // TRIAL)
    once = ready(task, side, weights_of(task, work), size, work)
    seconds: list[float] = []
    with watch(seconds):
        result = once()
    return {"seconds": seconds[0], "score": result.score}


def weights_of(task: str, work: Work) -> Path:
    return material.small(work) if task == "qa" else material.classifier(work)


class Result(NamedTuple):
    """The folder of the trained weights, F1 or accuracy, and how many updates were made."""

    weights: Path
    score: float
    steps: int


def ready(task: str, side: str, weights: Path, size: Size, work: Work) -> Callable[[], Result]:
    """One side before the clock starts: its programs are imported, its folder is there."""
    out = Path(tempfile.mkdtemp(prefix=f"{task}-{side}-", dir=work.folder))
    flags = flags_of(task, weights, size, work)
    if side == "ours":
        import torch._dynamo  # noqa: F401  of torch's optimizer; transformers imports it, too

        main = runpy.run_path(str(material.ROOT / f"train_{task}.py"))["main"]
        return lambda: ours(main, flags, out / "run")
    if side in ("trainer", "defaults"):
        import transformers.trainer  # noqa: F401

        recipe = trainer_recipe(task, flags, out, work, is_padded=side == "defaults")
        longest = material.qa_settings(work).max_answer_length
        return lambda: by_trainer(task, recipe, longest)
    main = reference(task)
    return lambda: by_loop(main, flags | {"attention": side.removeprefix("loop-")}, out)


def flags_of(task: str, weights: Path, size: Size, work: Work) -> dict[str, Any]:
    """The recipe as ours and the references spell it."""
    flags = {**RECIPES[task], "weights": weights, "epochs": 1, "precision": work.precision}
    flags |= {"batch_size": 8} if work.quick else {}
    if task == "cls":
        data = {part: material.sentences(work, part, n) for part, n in size._asdict().items()}
        return flags | data | {"max_length": 64 if work.quick else 128}
    data = {part: material.questions(work, part, n) for part, n in size._asdict().items()}
    settings = material.qa_settings(work)
    lengths = {"max_length": settings.max_length, "doc_stride": settings.doc_stride}
    return flags | data | lengths | {"metric": "squad"}


def words(flags: Mapping[str, Any]) -> list[str]:
    return [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def ours(main: Callable[[list[str]], int], flags: Mapping[str, Any], run: Path) -> Result:
    if main(words({**flags, "out": run})):
        raise RuntimeError("training failed; see above")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = max(json.loads(line).get("step", 0) for line in lines)
    return Result(run, score_in(files.read_json(run / "eval.json")), steps)


def score_in(scores: Mapping[str, float]) -> float:
    return scores["f1"] if "f1" in scores else scores["accuracy"]


def reference(task: str) -> Callable[[], None]:
    """The program of bench/ that trains transformers' model in the plain loop."""
    import reference_cls
    import reference_qa

    return reference_qa.main if task == "qa" else reference_cls.main


def by_loop(main: Callable[[], None], flags: Mapping[str, Any], out: Path) -> Result:
    given = words({**flags, "out": out / "scores.json", "save": out})
    with patch.object(sys, "argv", ["reference", *given]):
        main()
    facts = files.read_json(out / "scores.json")
    return Result(out, score_in(facts["scores"]), facts.get("steps", 0))


def trainer_recipe(
    task: str, flags: Mapping[str, Any], out: Path, work: Work, is_padded: bool
) -> trainer.Recipe:
    """The same recipe; the example reads questions from flat files, which are written now."""
    data = flags["train"], flags["dev"]
    if task == "qa":
        cut = flags["weights"], flags["max_length"], flags["doc_stride"]
        data = material.flat(data[0], *cut, work), material.flat(data[1], *cut, work)
    return trainer.Recipe(
        flags["weights"],
        *data,
        out,
        flags["lr"],
        flags["batch_size"],
        flags["max_length"],
        flags["precision"],
        is_padded,
    )


def by_trainer(task: str, recipe: trainer.Recipe, max_answer_length: int) -> Result:
    if task == "qa":
        found = trainer.answer_questions(recipe, max_answer_length)
    else:
        found = trainer.classify(recipe)
    return Result(recipe.out, found.score, found.steps)


def check(task: str, sides: Mapping[str, Side], work: Work) -> list[Check]:
    """A short training without dropout: what the loops have learnt, in logits, and how many
    updates the Trainer made. What it learns is its own: it draws its own batches, and its loss
    for questions counts padding."""
    weights = material.without_dropout(weights_of(task, work), work)
    found = {side: ready(task, side, weights, QUICK[task], work)() for side in sides}
    ours = found.pop("ours")
    checks = []
    for side, theirs in found.items():
        if side in ("trainer", "defaults"):
            checks.append(Check(f"updates, {side}", abs(theirs.steps - ours.steps), 0.0))
            continue
        learnt = logits_of(task, ours.weights), logits_of(task, theirs.weights)
        checks.append(apart(f"logits after training, {side}", *learnt, work.precision))
        checks.append(Check(f"score, {side}", abs(theirs.score - ours.score), 0.0))
    return checks


@torch.no_grad()
def logits_of(task: str, weights: Path) -> list[Tensor]:
    """What trained weights say to some tokens."""
    kind = BertForQuestionAnswering if task == "qa" else BertForSequenceClassification
    model = kind.from_pretrained(weights)
    out = model(**material.token_ids(8, 32, model.config.vocab_size))
    return list(out) if task == "qa" else [out]


OURS = Side("the training script, as a user runs it", "ours")
BEST = {
    "ours": OURS,
    "loop-sdpa": Side("transformers' model, sdpa, in a plain loop with our windows and batches"),
    "loop-eager": Side("the same, eager"),
    "trainer": Side("transformers' Trainer, batches of like length, padded to the longest"),
}
AS_PUBLISHED = {"ours": OURS, "defaults": Side("transformers' example with its defaults")}


def row(task: str, name: str, size: Size, sides: Mapping[str, Side], **facts: Any) -> Row:
    """One task at one size. facts: the target, how many turns, whether it stands apart."""
    texts = {"qa": "questions of SQuAD", "cls": "rows of SST-2"}[task]
    return Row(
        name=name,
        what=f"fine-tuning on {size.train:,} {texts}, all-MiniLM-L6-v2, text to weights",
        sides=sides,
        measure=partial(measure, task, size),
        check=partial(check, task, sides),
        lacks=needs("transformers", "datasets", "accelerate"),
        left_out="torch.compile: batches of many lengths, each compiled anew",
        settings=RECIPES[task] | size._asdict(),
        **facts,
    )


ROWS = [
    *(row(task, task, size, BEST, target=1.25, turns=3) for task, size in FULL.items()),
    *(
        row(task, f"{task}-defaults", size, AS_PUBLISHED, target=3.0, turns=1)
        for task, size in DEFAULTS.items()
    ),
    row("cls", "cls-epoch", EPOCH, BEST, turns=1, is_apart=True),
]
