"""Our numbers are those of transformers as it runs here (extra `reference`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import parity_cases as cases
import parity_table
import pytest
import torch
from parity_cases import CLASSIFICATION, QA, Case, load_transformers
from test_parity import assert_all_hold

from minibert import parity
from minibert.model import BertModel, BertOutput

FORWARD = BertModel.forward
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
pytestmark = [pytest.mark.reference, pytest.mark.usefixtures("quiet")]


@pytest.mark.parametrize("case", ["chinese", "small", "minilm"], indirect=True)
def test_every_hidden_state_attention_and_logit_is_that_of_transformers(case: Case) -> None:
    eager = cases.forward(case, load_transformers("eager"), attentions=True)
    sdpa = cases.forward(case, load_transformers("sdpa"))
    peers = {name: parity.max_difference(eager[name], sdpa[name]) for name in sdpa}
    assert_all_hold(measure.forward(case, eager, peers))


def whole_layers(
    self: BertModel, *given: Any, first_token_only: bool = False, **named: Any
) -> BertOutput:
    """The plain form of `first_token_only`. Where gradients are smaller than what fp32 rounds away,
    those of the two forms have nothing in common; that they are the same in float64, says
    test_first_token.py."""
    return FORWARD(self, *given, **named)


@pytest.mark.parametrize("head", [QA, CLASSIFICATION])
@pytest.mark.parametrize(
    ("case", "attention"),
    # At full size random weights leave gradients that are rounding noise (numpy_checkpoint.SMALL),
    # so there only the path that rounds as ours does can be compared.
    [
        ("small", "eager"),
        ("small", "sdpa"),
        ("minilm", "eager"),
        ("minilm", "sdpa"),
        ("chinese", "sdpa"),
    ],
    indirect=["case"],
)
def test_every_gradient_is_that_of_transformers(
    case: Case,
    attention: str,
    head: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if request.node.callspec.params["case"] == "chinese" and head == CLASSIFICATION:
        monkeypatch.setattr(BertModel, "forward", whole_layers)
    reference = cases.gradients(case, load_transformers(attention), head)
    # Ours has the formula of eager and, in fp32 without dropout, the kernel of sdpa.
    sdpa = cases.gradients(case, load_transformers("sdpa"), head)
    assert_all_hold(measure.gradients(case, head, reference, peers=sdpa))


@pytest.mark.parametrize("head", [QA, CLASSIFICATION])
@pytest.mark.parametrize("case", ["small", "minilm"], indirect=True)
def test_twenty_steps_of_training_lose_what_transformers_loses(case: Case, head: str) -> None:
    reference = cases.training_losses(case, load_transformers("eager"), head)
    assert_all_hold([measure.losses(case, head, reference)])


@pytest.mark.parametrize("case", ["small"], indirect=True)
def test_what_one_side_saves_the_other_reads_as_it_was(case: Case, tmp_path: Path) -> None:
    rows = dict(parity_table.round_trip_rows(case, tmp_path))
    assert [len(measures) for measures in rows.values()] == [4, 8]
    for measures in rows.values():
        assert_all_hold(measures)


def test_the_command_compares_a_checkpoint_layer_by_layer(
    minilm_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from minibert.cli import main

    assert main(["parity", str(minilm_weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 7 + 6 + 1  # heading; embeddings and 6 layers; 6 attentions; pooled
    assert not any("TOO LARGE" in line for line in lines)


def test_the_command_exits_with_1_and_marks_the_first_faulty_layer(
    small: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minibert.model import BertModel

    original = BertModel.from_pretrained

    def faulty(*args: object, **kwargs: object) -> BertModel:
        model = original(*args, **kwargs)
        with torch.no_grad():
            model.layers[2].attention.output.bias[0] += 0.01
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", faulty)
    rows = parity.compare(small.directory, small.batch)
    assert next(row.what for row in rows if not row.holds) == "layer 3"
    assert "TOO LARGE" in parity.table(rows)
