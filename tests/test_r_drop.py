"""R-Drop: two passes of each text, whose verdicts are to agree."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from forked import forks
from tiny import json_of
from tiny_cls import TinyCls, results
from torch import Tensor

import train_cls
from minibert import files
from minibert.cls.task import r_drop_loss


def by_the_paper(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Half of the loss of Liang et al. 2021, a text at a time, with twice the weight for alpha."""
    texts = len(labels)
    total = torch.zeros((), dtype=logits.dtype)
    for i in range(texts):
        p, q = logits[i].softmax(dim=0), logits[texts + i].softmax(dim=0)
        likelihood = -p[labels[i]].log() - q[labels[i]].log()
        divergence = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
        total = total + (likelihood + 2 * weight * divergence) / 2
    return total


@pytest.mark.parametrize("weight", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("n_labels", [2, 5])
def test_loss_and_gradient_are_those_of_the_paper(weight: float, n_labels: int) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(14, n_labels, dtype=torch.float64)
    logits.requires_grad_()
    labels = torch.randint(n_labels, (7,))
    losses = [f(logits, labels, weight) for f in (r_drop_loss, by_the_paper)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


def test_where_both_passes_agree_it_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.randint(3, (6,))
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(r_drop_loss(logits.repeat(2, 1), labels, 9.0), expected)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCls:
    return TinyCls(tmp_path_factory.mktemp("tiny"))


def test_the_two_passes_have_dropout_of_their_own(tiny: TinyCls) -> None:
    model = tiny.model()
    plain, twice = tiny.task(), tiny.task(r_drop=1.0)
    batch = plain.batch(range(8))
    for apart in (False, True):
        model.train(apart)
        found = []
        for weight in (0.0, 1.0, 100.0):
            torch.manual_seed(3)
            loss, right = tiny.task(r_drop=weight).loss(model, batch)
            found.append((loss.item(), right["accuracy"].item()))
        divergence = found[2][0] - found[1][0]
        assert divergence > 1e-3 if apart else abs(divergence) < 1e-4
        if not apart:
            assert found[0] == pytest.approx(found[1], rel=1e-5)
    model.eval()
    assert twice.loss(model, batch)[1] == plain.loss(model, batch)[1]


def test_a_run_keeps_it_and_goes_on_with_it(tiny: TinyCls) -> None:
    run = functools.partial(forks().run, script="train_cls")
    stop = [("test_train_cls", "stop_at", "4")]
    for name, patches in (("whole", []), ("stopped", stop)):
        ended = run(tiny.arguments(name, r_drop=1), patches=patches)
        assert ended.code == (130 if patches else 0), ended.err
    assert json_of(tiny.folder / "whole/run.json")["settings"]["r_drop"] == 1.0
    assert run(["--resume", str(tiny.folder / "stopped")]).code == 0
    assert results(tiny.folder / "stopped") == results(tiny.folder / "whole")
    assert run(tiny.arguments("without")).code == 0
    learned = [results(tiny.folder / name) for name in ("whole", "without")]
    assert learned[0]["model.safetensors"] != learned[1]["model.safetensors"]


def test_without_dropout_it_is_refused(tmp_path: Path) -> None:
    still = TinyCls(tmp_path, dropout=0.0)
    ended = forks().run(still.arguments("run", r_drop=1), script="train_cls")
    assert ended.code == 2
    assert "has no dropout (config.json), so --r-drop would show" in ended.err[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("accumulation", [2, 5])
def test_computed_in_parts_each_text_meets_itself(tiny: TinyCls, accumulation: int) -> None:
    """Both passes of a text are in one part: without dropout in the parts nothing changes."""
    model, task = tiny.model().eval(), tiny.task(r_drop=1.0)
    whole, _ = task.loss(model, task.batch(range(10)))
    size = 10 // accumulation
    parts = [task.loss(model, task.batch(range(i, i + size)))[0] for i in range(0, 10, size)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_a_run_of_before_goes_on_without_it(tiny: TinyCls) -> None:
    run = functools.partial(forks().run, script="train_cls")
    stop = [("test_train_cls", "stop_at", "4")]
    assert run(tiny.arguments("plain")).code == 0
    assert run(tiny.arguments("before"), patches=stop).code == 130
    path = tiny.folder / "before/run.json"
    facts = json_of(path)
    assert facts["settings"].pop("r_drop") == 0.0
    files.write_json(path, facts)
    assert run(["--resume", str(path.parent)]).code == 0
    assert results(tiny.folder / "before") == results(tiny.folder / "plain")


def test_a_weight_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train_cls.main(["--r-drop", "0", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "'0' is no number above 0" in capsys.readouterr().err
