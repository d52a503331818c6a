"""Our numbers are the reference's: the stored one, with torch alone.

The references come from `reference/generate.py`. `test_parity_live.py` makes the same comparisons
with transformers as it runs, `test_mutations.py` shows that each of them can fail.
"""

from __future__ import annotations

import measure
import pytest
import stored
import torch
from measure import Measure
from parity_cases import CLASSIFICATION, QA, Case

pytestmark = pytest.mark.usefixtures("quiet")

HEADS = (QA, CLASSIFICATION)


def assert_all_hold(measures: list[Measure]) -> None:
    broken = [f"{m.what}: {m.measured:.1e} > {m.bound:.1e}" for m in measures if not m.holds]
    assert measures
    assert not broken, "the first fault shows where it begins:\n" + "\n".join(broken)


def check_batch(case: Case, facts: dict) -> None:
    for key, tensor in case.batch.items():
        assert tensor.tolist() == facts["batch"][key], "the reference saw another batch"


@pytest.mark.parametrize("case", ["chinese", "small", "minilm"], indirect=True)
def test_every_hidden_state_attention_and_logit_is_the_references(case: Case, request) -> None:
    name = request.node.callspec.params["case"]
    reference, facts = stored.load(name)
    check_batch(case, facts)
    measures = measure.forward(case, reference, facts["eager-sdpa"])
    layers = case.layers
    # Both paths: hidden states with the embeddings, pooled output, logits; one path: attentions.
    logits = {QA: 2, CLASSIFICATION: 1, "BertForMaskedLM": 1, "BertForPreTraining": 2}
    assert len(measures) == 2 * (layers + 2 + sum(logits[h] for h in case.heads)) + layers
    assert_all_hold(measures)
    assert_all_hold(measure.projections(case, reference))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["small", "minilm"], indirect=True)
def test_every_gradient_is_the_references(case: Case, head: str, request) -> None:
    reference, _ = stored.load(request.node.callspec.params["case"])
    assert_all_hold(measure.gradients(case, head, measure.stored_gradients(reference, head)))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["small", "minilm"], indirect=True)
def test_twenty_steps_of_training_lose_what_the_reference_loses(
    case: Case, head: str, request
) -> None:
    reference, _ = stored.load(request.node.callspec.params["case"])
    assert_all_hold([measure.losses(case, head, reference[f"losses.{head}"])])


@pytest.mark.parametrize(
    ("case", "head", "bound"),
    [
        ("minilm", QA, 0.02),
        ("minilm", CLASSIFICATION, 0.02),
        ("small", "BertForMaskedLM", 0.02),
        ("chinese", QA, 0.1),
        ("chinese", "BertForMaskedLM", 0.1),
    ],
    indirect=["case"],
)
def test_bf16_autocast_stays_near_fp32(case: Case, head: str, bound: float) -> None:
    assert_all_hold(measure.bf16(case, head, bound))


def test_references_are_few_and_say_how_they_were_made() -> None:
    files = list(stored.FOLDER.iterdir())
    assert sum(f.stat().st_size for f in files if f.is_file()) < 5_000_000
    for name in ("chinese", "small", "minilm"):
        tensors, facts = stored.load(name)
        assert set(facts["versions"]) == {"transformers", "torch", "python"}
        assert all(torch.isfinite(t.values).all() for t in tensors.values())
