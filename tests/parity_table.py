"""Prints the parity table of the README: what is compared, how far it may be off, how far it is.

    python tests/parity_table.py

With transformers installed (extra `reference`) it is the reference as it runs here; without, its
stored tensors are. Each row gives the worst of its comparisons, the one nearest to its bound.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import measure
import parity_cases as cases
import stored
import torch
from measure import Measure
from parity_cases import CLASSIFICATION, QA, Case

from minibert.parity import import_transformers, max_difference

LIVE = importlib.util.find_spec("transformers") is not None
MINILM = Path(__file__).resolve().parent.parent / "weights" / "all-MiniLM-L6-v2"


def main() -> int:
    logging.getLogger("minibert").setLevel(logging.ERROR)
    if LIVE:
        import_transformers()
    if not LIVE:
        print("left out, for they need transformers (extra `reference`): saving and loading\n")
    if not (MINILM / "model.safetensors").is_file():
        print("left out: all-MiniLM-L6-v2; run python weights/fetch_minilm.py\n")
    print("| what | bound | measured maximum | where |\n|---|---|---|---|")
    holds = True
    with tempfile.TemporaryDirectory() as folder:
        for what, measures in rows(Path(folder)):
            worst = max(measures, key=lambda m: m.measured / m.bound if m.bound else m.measured)
            holds &= all(m.holds for m in measures)
            print(
                f"| {what} | {worst.bound:.1e} | {worst.measured:.1e} | {worst.what} |", flush=True
            )
    versions = f"transformers {sys.modules['transformers'].__version__}" if LIVE else "stored"
    print(f"\ntorch {torch.__version__}, {versions}; {'all hold' if holds else 'NOT ALL HOLD'}")
    return 0 if holds else 1


def rows(folder: Path) -> Iterator[tuple[str, list[Measure]]]:
    made = {"chinese": cases.chinese(folder / "chinese"), "small": cases.small(folder / "small")}
    if (MINILM / "model.safetensors").is_file():
        made["minilm"] = cases.minilm(folder / "minilm", MINILM)
    names = {
        "chinese": "full bert-base-chinese size, weights from numpy",
        "small": "4 layers of 128, weights from numpy",
        "minilm": "real all-MiniLM-L6-v2, real text",
    }
    for name, case in made.items():
        yield from forward_rows(names[name], name, case)
    for name in ("small", "minilm"):
        if name in made:
            yield from training_rows(names[name], name, made[name])
    for name, head, bound in (("minilm", QA, 0.02), ("chinese", QA, 0.1)):
        if name in made:
            what = f"bf16 autocast against our fp32, share of the largest logit: {names[name]}"
            yield what, measure.bf16(made[name], head, bound)
    if LIVE:
        yield from round_trip_rows(made["small"], folder)


def forward_rows(what: str, name: str, case: Case) -> Iterator[tuple[str, list[Measure]]]:
    if LIVE:
        reference = cases.forward(case, cases.load_transformers("eager"), attentions=True)
        sdpa = cases.forward(case, cases.load_transformers("sdpa"))
        peers = {key: max_difference(reference[key], sdpa[key]) for key in sdpa}
    else:
        reference, facts = stored.load(name)
        peers = facts["eager-sdpa"]
    measures = measure.forward(case, reference, peers)
    for kind, title in (
        ("hidden_states", "hidden states"),
        ("attentions", "attentions"),
        ("pooler_output", "pooled output"),
        ("Bert", "logits of the heads"),
    ):
        group = [m for m in measures if m.what.split()[1].startswith(kind)]
        yield f"{title}: {what}", group


def training_rows(what: str, name: str, case: Case) -> Iterator[tuple[str, list[Measure]]]:
    for head, loss in ((QA, "QA"), (CLASSIFICATION, "classification")):
        peers = None
        if LIVE:
            load = cases.load_transformers("eager")
            gradients = cases.gradients(case, load, head)
            peers = cases.gradients(case, cases.load_transformers("sdpa"), head)
            losses = cases.training_losses(case, load, head)
        else:
            reference, _ = stored.load(name)
            gradients = measure.stored_gradients(reference, head)
            losses = reference[f"losses.{head}"]
        yield f"gradients, {loss} loss: {what}", measure.gradients(case, head, gradients, peers)
        yield f"20 steps, {loss} loss: {what}", [measure.losses(case, head, losses)]


def round_trip_rows(case: Case, folder: Path) -> Iterator[tuple[str, list[Measure]]]:
    ours_to_theirs, theirs_to_ours = [], []
    for head in case.heads:
        ours = cases.load_minibert(head, case.directory)
        ours.save_pretrained(folder / "ours" / head)
        theirs = cases.load_transformers("sdpa")(head, folder / "ours" / head)
        theirs.save_pretrained(folder / "theirs" / head)
        again = cases.load_minibert(head, folder / "theirs" / head)
        for made, source, target in (
            (ours_to_theirs, ours, theirs),
            (theirs_to_ours, theirs, again),
        ):
            with torch.no_grad():
                a, b = (cases.named_logits(m(**case.batch)) for m in (source, target))
            difference = max(max_difference(a[key], b[key]) for key in a)
            # The same kernels, and so the same bits, but where ours computes [CLS] alone.
            bound = 1e-6 if head == CLASSIFICATION else 0.0
            made.append(Measure(f"{head} logits", difference, bound))
        changed = sum(
            not torch.equal(x, again.state_dict()[k]) for k, x in ours.state_dict().items()
        )
        theirs_to_ours.append(Measure(f"{head} tensors changed there and back", changed, 0.0))
    yield "saved by us, loaded by transformers", ours_to_theirs
    yield "saved by transformers, loaded by us", theirs_to_ours


if __name__ == "__main__":
    sys.exit(main())
