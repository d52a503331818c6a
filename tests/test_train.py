"""The loop does what its settings say: precision, learning rate, clipping, accumulation, and what
it leaves behind. Where arithmetic is concerned, a loop of a few lines in plain PyTorch is the
reference."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_checkpoint import TINY
from tiny import has_gradient, records
from tiny_qa import Tiny, results
from torch import Tensor, nn

from minibert import checkpoint, distributed, files, runs
from minibert.errors import UserError
from minibert.model import BertForQuestionAnswering
from minibert.optimization import Recipe, learning_rate, make_optimizer
from minibert.processor import has_unit
from minibert.report import Log
from minibert.train import Training, choose_precision

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture
def calm(tmp_path: Path) -> Tiny:
    """Without dropout: every way of computing a batch gives the same."""
    return Tiny(tmp_path, dropout=0.0)


def weights(training: Training) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in training.model.named_parameters()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def spoil(training: Training, change: Callable[[int, Tensor], Tensor]) -> None:
    """Changes the loss of every batch, counted from 1."""
    loss, count = training.task.loss, 0

    def spoilt(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal count
        count += 1
        value, right = loss(model, batch)
        return change(count, value), right

    training.task.loss = spoilt  # type: ignore[method-assign]


# Against a plain loop.


def plain_loop(tiny: Tiny, training: Training, n: int) -> tuple[list[float], nn.Module]:
    """The first n steps of a training as anybody would write them: losses, and the model."""
    model = tiny.model()
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    no_decay = {id(p) for m in norms for p in m.parameters()}
    no_decay |= {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear)}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if id(p) not in no_decay]},
            {"params": [p for p in model.parameters() if id(p) in no_decay], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01,
        foreach=False,
    )
    batches = [b for epoch in range(training.recipe.epochs) for b in training.batches(epoch)]
    warmup, losses = 0.1 * len(batches), []
    for step, examples in enumerate(batches[:n]):
        rate = float(np.interp(step, [-1, warmup, len(batches)], [0, training.recipe.lr, 0]))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = training.task.batch(examples)
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        hidden = batch["attention_mask"] == 0
        both = [
            F.cross_entropy(x.masked_fill(hidden, -1e9), batch[f"{side}_positions"])
            for side, x in zip(("start", "end"), logits, strict=True)
        ]
        loss = (both[0] + both[1]) / 2
        optimizer.zero_grad()
        loss.backward()
        # Clipping, by its definition.
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, 1.0 / norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def test_losses_and_weights_are_those_of_a_plain_loop(calm: Tiny) -> None:
    training = calm.training(lr=5e-3, save_every=1000)
    shown: list[float] = []
    forward_backward = training.forward_backward

    def noting(examples: list[int]) -> dict[str, float]:
        totals = forward_backward(examples)
        shown.append(totals["loss"] / len(examples))
        return totals

    training.forward_backward = noting  # type: ignore[method-assign]
    training.go()
    losses, model = plain_loop(calm, training, n=10**6)
    assert len(losses) == 20  # 39 windows in batches of 4, twice
    np.testing.assert_allclose(shown, losses, atol=2e-4)
    assert losses[-1] < losses[0] - 0.05
    for name, parameter in model.named_parameters():
        if has_gradient(name):
            ours = training.model.get_parameter(name)
            torch.testing.assert_close(ours, parameter, atol=5e-4, rtol=0.0, msg=name)


def test_gradients_are_clipped_to_norm_1_and_smaller_ones_left_alone(calm: Tiny) -> None:
    for factor, clipped in ((1.0, True), (1e-4, False)):
        training = calm.training()
        spoil(training, lambda _, loss, factor=factor: loss * factor)
        examples = training.batches(0)[0]
        training.forward_backward(examples)
        raw = gradients(training.model)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in raw.values()))
        training.optimizer.zero_grad()
        seen: dict[str, Tensor] = {}
        step = training.optimizer.step
        training.optimizer.step = lambda: (seen.update(gradients(training.model)), step())  # type: ignore[assignment]  # noqa: B023
        training.step(examples)
        assert (norm > 1.0) is clipped
        for name, gradient in raw.items():
            if clipped:
                torch.testing.assert_close(seen[name], gradient / norm, atol=1e-6, rtol=1e-4)
            else:
                assert torch.equal(seen[name], gradient)


@pytest.mark.parametrize("steps", [1, 7, 20, 1000])
def test_the_learning_rate_rises_for_a_tenth_of_the_steps_and_falls_to_0(steps: int) -> None:
    recipe = Recipe(epochs=1, batch_size=1, lr=3e-5)
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    line = np.interp(range(steps), [-1, steps / 10, steps], [0, 3e-5, 0])
    np.testing.assert_allclose(rates, line, rtol=1e-9)
    assert min(rates) > 0
    if steps == 1000:
        assert rates[99] < rates[100] == 3e-5 > rates[101]
        assert rates[-1] == pytest.approx(3e-5 / 900)


def test_biases_and_layer_norms_do_not_decay_and_all_else_does(calm: Tiny) -> None:
    training = calm.training(lr=0.5)
    optimizer = make_optimizer(training.model, training.recipe)
    before = weights(training)
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    norms = {
        f"{name}.weight"
        for name, m in training.model.named_modules()
        if isinstance(m, nn.LayerNorm)
    }
    assert len(norms) == 1 + 2 * TINY["num_hidden_layers"]
    for name, parameter in training.model.named_parameters():
        kept = name in norms or name.endswith(".bias")
        wanted = before[name] if kept else before[name] * (1 - 0.5 * 0.01)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-6, atol=0, msg=name)


def test_adamw_is_fused_and_has_the_papers_numbers(calm: Tiny) -> None:
    optimizer = calm.training().optimizer
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert group["fused"] is True
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-6)


# Accumulation.


@pytest.mark.parametrize("parts", [2, 3, 4, 7, 100])
def test_a_split_batch_has_the_loss_and_the_gradients_of_the_whole(calm: Tiny, parts: int) -> None:
    examples = [0, 5, 11, 3, 30, 8, 21]
    whole, split = calm.training("whole"), calm.training("split", accumulation=parts)
    sizes: list[int] = []
    loss = split.task.loss
    split.task.loss = lambda model, batch: (
        sizes.append(len(batch["input_ids"])),
        loss(model, batch),
    )[1]  # type: ignore[method-assign]
    totals, wanted = split.forward_backward(examples), whole.forward_backward(examples)
    assert len(sizes) == min(parts, 7) or parts == 4  # 7 in 4 parts are 2, 2, 2, 1
    assert sum(sizes) == 7 and max(sizes) == -(-7 // parts)
    assert totals["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert (totals["start"], totals["end"]) == (wanted["start"], wanted["end"])
    there = gradients(whole.model)
    for name, gradient in gradients(split.model).items():
        torch.testing.assert_close(gradient, there[name], atol=1e-6, rtol=1e-4)
    assert max(float(g.abs().max()) for g in there.values()) > 1e-2


# Precision.


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What the processor has is asked once; of another processor it is asked anew."""
    has_unit.cache_clear()
    yield
    has_unit.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True, "bf16": False}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_takes_bf16_on_a_cpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision(torch.device("cpu")) == precision


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_is_bf16_unless_that_would_be_emulated(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert choose_precision(torch.device("cuda")) == precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_matrix_products_are_in_the_precision_and_weights_stay_in_fp32(
    calm: Tiny, precision: str, dtype: torch.dtype
) -> None:
    training = calm.training(precision=precision)
    seen = set()
    for module in training.model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    training.step(training.batches(0)[0])
    assert seen == {dtype}
    seen.clear()
    training.end_epoch()  # the dev set, too
    assert seen == {dtype}
    assert training.scaler.is_enabled() is (precision == "fp16")
    for parameter in training.model.parameters():
        assert parameter.dtype is torch.float32
        state = training.optimizer.state[parameter]
        assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float32}


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.05), ("fp16", 0.01)])
def test_a_run_in_16_bits_has_nearly_the_losses_of_one_in_32(
    calm: Tiny, precision: str, near: float
) -> None:
    calm.training("exact", lr=5e-3).go()
    run = calm.training("short", lr=5e-3, precision=precision)
    run.go()
    ours, exact = (
        [row["loss"] for row in records(calm.folder / name) if "loss" in row]
        for name in ("short", "exact")
    )
    assert ours != exact  # it was another precision
    np.testing.assert_allclose(ours, exact, atol=near)
    assert run.progress.step == 20


# fp16 that overflows.


def test_a_step_that_overflows_is_skipped_and_the_schedule_waits(tiny: Tiny) -> None:
    training = tiny.training(precision="fp16", save_every=1)
    first, second, third = training.batches(0)[:3]
    assert training.step(first)
    before, rate = weights(training), training.optimizer.param_groups[0]["lr"]
    moments = {
        k: v.clone() for k, v in checkpoint.moments(training.model, training.optimizer).items()
    }
    scale = training.scaler.get_scale()
    spoil(training, lambda count, loss: loss * float("inf") if count == 1 else loss)
    assert not training.step(second)
    assert equal(weights(training), before)
    assert equal(checkpoint.moments(training.model, training.optimizer), moments)
    assert training.scaler.get_scale() == scale / 2
    progress = training.progress
    assert (progress.step, progress.batch, progress.skipped) == (1, 2, 1)
    skipped_rate = training.optimizer.param_groups[0]["lr"]
    assert training.step(third)
    assert training.optimizer.param_groups[0]["lr"] == skipped_rate > rate  # the second's, again
    assert (progress.step, progress.batch, progress.skipped) == (2, 3, 0)
    assert not equal(weights(training), before)
    # What was not learned from is not in the means, which no inf may spoil.
    assert progress.epoch_sums["examples"] == len(first) + len(third)
    assert math.isfinite(progress.epoch_sums["loss"])


def test_gradients_too_large_for_fp16_overflow_by_themselves(tiny: Tiny) -> None:
    training = tiny.training(precision="fp16")
    assert training.step(training.batches(0)[0])
    training.scaler.update(2.0**30)
    before = weights(training)
    assert not training.step(training.batches(0)[1])
    assert equal(weights(training), before)
    for number in range(1, 40):
        if training.step(training.batches(0)[number % 10]):
            break
        training.progress.skipped = 0
    assert 2 < number < 30  # the scale was halved until they fitted
    assert not equal(weights(training), before)


def test_20_overflows_in_a_row_stop_the_run_and_19_do_not(tiny: Tiny) -> None:
    training = tiny.training(precision="fp16", epochs=6)
    # 19 overflows, a step, then only overflows
    spoil(training, lambda count, loss: loss if count == 20 else loss * float("nan"))
    with pytest.raises(UserError, match=r"20 times in a row.*--precision bf16"):
        training.go()
    assert training.progress.step == 1
    assert training.progress.epoch * 10 + training.progress.batch == 40
    assert not math.isnan(training.scaler.get_scale())
    # The state is saved; and a resumed run stops at its first overflow.
    again = tiny.training(precision="fp16", epochs=6, resume=True)
    assert equal(weights(again), weights(training))
    assert again.scaler.get_scale() == training.scaler.get_scale() == 65536 / 2**39
    spoil(again, lambda _, loss: loss * float("nan"))
    with pytest.raises(UserError, match="21 times in a row"):
        again.go()
    for row in records(tiny.folder / "run"):  # is JSON, in which there is no NaN
        assert math.isfinite(row.get("loss", 0.0))


def test_a_skipped_step_writes_no_checkpoint(tiny: Tiny) -> None:
    training = tiny.training(precision="fp16", save_every=5)
    spoil(training, lambda count, loss: loss * float("inf") if count <= 8 else loss)
    saved: list[int] = []
    save = training.save
    training.save = lambda: (saved.append(training.progress.batch), save())  # type: ignore[assignment,method-assign]
    training.train_epoch()
    assert saved == [10]  # the epoch's end alone: no step is the fifth


# A loss that is no number.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["nan loss", "inf loss", "inf gradient"])
def test_a_loss_that_is_not_finite_stops_at_once_with_the_state_before_it_saved(
    tiny: Tiny, precision: str, kind: str
) -> None:
    recipe = {"precision": precision, "save_every": 100, "epochs": 1}
    clean = tiny.training("clean", **recipe)
    clean.model.train()
    batches = clean.batches(0)
    for examples in batches[:4]:
        clean.step(examples)
    before, random_before = weights(clean), checkpoint.random_states()

    training = tiny.training("run", **recipe)
    change = {
        "nan loss": lambda loss: loss * float("nan"),
        "inf loss": lambda loss: loss + float("inf"),
        # (x - x) is 0, the slope of its root without end
        "inf gradient": lambda loss: loss + (loss - loss.detach()).abs().sqrt(),
    }[kind]
    spoil(training, lambda count, loss: change(loss) if count == 5 else loss)
    what = "the gradients' norm is" if kind == "inf gradient" else f"the loss is {kind[:3]}"
    with pytest.raises(UserError, match=f"^{what}.* at step 5") as caught:
        training.go()
    named = re.findall(r"Q1-\d+", str(caught.value))
    assert sorted(named) == sorted(set(training.task.names(batches[4])))
    assert equal(weights(training), before)

    again = tiny.training("run", resume=True, **recipe)
    assert equal(weights(again), before)
    assert torch.equal(checkpoint.random_states()["cpu"], random_before["cpu"])
    assert (again.progress.step, again.progress.batch) == (4, 4)
    again.go()  # and with the fault mended, it comes to the same end
    tiny.training("unspoilt", **recipe).go()
    assert results(tiny.folder / "run") == results(tiny.folder / "unspoilt")


# torch.compile.


class Compiled(nn.Module):
    """As torch.compile's: another module around the model, so that parameters get other names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self._orig_mod(*args, **kwargs)


def test_compile_is_off_unless_asked_for_and_changes_no_name(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Compiled] = []
    # The real one takes 15 seconds for a model of this size, too.
    monkeypatch.setattr(
        torch, "compile", lambda m, dynamic: compiled.append(Compiled(m)) or compiled[-1]
    )
    tiny.training("plain", epochs=1).go()
    assert compiled == []
    tiny.training("compiled", epochs=1, compile=True).go()
    assert [module.calls for module in compiled] == [10]  # the training steps
    assert results(tiny.folder / "compiled") == results(tiny.folder / "plain")


def test_what_is_compiled_is_one_graph_for_batches_of_all_sizes(calm: Tiny) -> None:
    """torch.compile as it is, but for the last step, from its graph to machine code."""
    graphs: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    model = BertForQuestionAnswering.from_pretrained(calm.weights).train()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=backend)
    task = calm.task()
    by_length = sorted(range(len(task.lengths)), key=lambda i: task.lengths[i])
    for examples in (by_length[:4], by_length[5:12:2], by_length[-3:], [by_length[0]] * 2):
        batch = {k: x for k, x in task.batch(examples).items() if "positions" not in k}
        for ours, theirs in zip(compiled(**batch), model(**batch), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.compiler.reset()
    assert len(graphs) == 1


# What is shown.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def pseudo_terminal(columns: int) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A file that is a terminal, and what has been written to it once the file is closed."""
    main, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    pieces: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # Linux says so that nobody writes any more
            while piece := os.read(main, 1 << 16):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()

    def everything() -> str:
        reader.join()
        return b"".join(pieces).decode()

    with os.fdopen(side, "w", encoding="utf-8") as file:
        yield file, everything
    reader.join()
    os.close(main)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_a_bar_with_all_that_the_run_is_judged_by(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    training = tiny.training(epochs=1)
    batches, sums = training.batches(0), {"loss": 0.0, "start": 0.0, "end": 0.0}
    with pseudo_terminal(columns) as (terminal, everything):
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        with training.log.bar(batches):
            for examples in batches[:5]:
                training.step(examples)
            training.log.bar_now.refresh()
            sums = dict(training.progress.epoch_sums)
            terminal.flush()
            monkeypatch.undo()
        terminal.close()
        shown = everything()
    n = sum(map(len, batches[:5]))
    assert sums["examples"] == n
    assert "\n" not in shown.strip()  # no plain line beside it
    bar = shown.split("\r")[-1].strip() or shown.split("\r")[-2].strip()
    assert len(bar) < columns
    lr = training.optimizer.param_groups[0]["lr"]
    assert bar.startswith(
        f"epoch 1/1 loss {sums['loss'] / n:#.3g} start {sums['start'] / n:.0%} "
        f"end {sums['end'] / n:.0%} lr {lr:.1e} "
    )
    done = sum(training.task.lengths[i] for batch in batches[:5] for i in batch)
    percent = 100 * done / sum(training.task.lengths)
    assert re.search(rf" {percent:.0f}%\|.+\| +[\d.]+k?tok/s \d\d:\d\d left$", bar)


def test_a_bar_of_many_hours_fits_80_columns(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    training = tiny.training(epochs=3)
    training.progress.epoch_sums = {"examples": 1000, "loss": 3123.4, "start": 571, "end": 569}
    with pseudo_terminal(80) as (terminal, everything):
        monkeypatch.setattr(sys, "stderr", terminal)
        with training.log.bar([[0]] * 10):
            bar = training.log.bar_now
            bar.total, bar.start_t = 10**8, bar.start_t - 3600
            training.log.step([0], {}, 3e-5)
            bar.n = 5_000_000
            bar.refresh()
        monkeypatch.undo()
        terminal.close()
        shown = everything()
    assert "lr 3.0e-05 5%|" in shown and re.search(r"k?tok/s \d\d:\d\d:\d\d left", shown)


def test_the_means_on_the_bar_begin_anew_with_each_epoch(tiny: Tiny) -> None:
    training = tiny.training(epochs=2)
    for _ in range(2):
        training.train_epoch()
        assert training.progress.epoch_sums["examples"] == len(training.task.lengths)
        training.end_epoch()


@pytest.mark.parametrize("terminal", ["stdout", "stderr", "neither"])
def test_plain_lines_are_printed_where_stdout_or_stderr_is_no_terminal(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, terminal: str
) -> None:
    out, err = (Terminal() if terminal == name else io.StringIO() for name in ("stdout", "stderr"))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    tiny.training(epochs=1).go()
    step, evaluation = out.getvalue().splitlines()
    row, scores = records(tiny.folder / "run")
    assert step.startswith(f"epoch 1  step 10  lr {row['lr']:.1e}  loss {row['loss']:.3f}  start")
    assert re.search(rf"end {row['end']:.3f}  [\d,]+ tokens/s  \d\d:\d\d left$", step)
    assert evaluation.startswith(f"epoch 1  exact_match {scores['exact_match']:#.4g}  f1")
    assert ("\r" in err.getvalue()) is (terminal == "stderr")


@pytest.mark.parametrize("done", [0, 1])
def test_the_time_left_is_that_of_the_tokens_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    """At a token a second, and also where a resumed run begins inside the epoch."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("minibert.report.GROUP", 1)
    batches = [[0, 1], [2, 3], [4, 5]]
    progress = checkpoint.Progress(batch=done, step=done)
    log = Log(tmp_path, progress, [10, 10, 15, 15, 20, 20], epochs=1)
    with log.bar(batches):
        for examples in batches[done:]:
            clock[0] += sum(log.lengths[i] for i in examples)
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            log.step(examples, {"loss": 2.0}, 1e-3)
    ends = [line.split("  ", 4)[4] for line in capsys.readouterr().out.splitlines()]
    assert ends == [f"1 tokens/s  {left} left" for left in ("01:10", "00:40", "00:00")[done:]]


def test_metrics_have_a_line_for_each_20_steps_the_rest_and_each_evaluation(tiny: Tiny) -> None:
    training = tiny.training(batch_size=1, epochs=2)
    steps: list[dict[str, float]] = []
    forward_backward = training.forward_backward

    def noting(examples: list[int]) -> dict[str, float]:
        steps.append(forward_backward(examples))
        return steps[-1]

    training.forward_backward = noting  # type: ignore[method-assign]
    training.go()
    rows = records(tiny.folder / "run")
    places = [(row["epoch"], row.get("step")) for row in rows]
    assert places == [(1, 20), (1, 39), (1, None), (2, 40), (2, 60), (2, 78), (2, None)]
    assert len(steps) == 78
    for row, (first, last) in zip(
        [row for row in rows if "step" in row],
        [(0, 20), (20, 39), (39, 40), (40, 60), (60, 78)],
        strict=True,
    ):
        for name in ("loss", "start", "end"):
            mean = sum(step[name] for step in steps[first:last]) / (last - first)
            assert row[name] == pytest.approx(mean, rel=1e-9)
        assert row["lr"] == learning_rate(training.recipe, last - 1, 78)
    times = [json.loads(line) for line in (tiny.folder / "run/metrics.jsonl").open()]
    assert all(row["tokens_per_second"] > 0 for row in times if "step" in row)
    assert set(rows[2]) == {"epoch", "exact_match", "f1", "total", "token_efficiency"}


def test_an_evaluation_says_how_long_its_epoch_was_trained_and_how_little_was_padding(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second here and an evaluation 500; a run that was stopped counts all steps."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def slow(training: Training, stop_at: int = 0) -> Training:
        forward_backward, evaluate = training.forward_backward, training.task.evaluate

        def one_second(examples: list[int]) -> dict[str, float]:
            clock[0] += 1
            training.stop = training.progress.step + 1 == stop_at
            return forward_backward(examples)

        def much_longer(model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
            clock[0] += 500
            return evaluate(model)

        training.forward_backward = one_second  # type: ignore[method-assign]
        training.task.evaluate = much_longer  # type: ignore[method-assign]
        return training

    training = slow(tiny.training(), stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        training.go()
    clock[0] += 3600
    slow(tiny.training(resume=True)).go()
    lines = (tiny.folder / "run/metrics.jsonl").read_text().splitlines()
    evaluations = [row for row in map(json.loads, lines) if "f1" in row]
    assert [row["train_seconds"] for row in evaluations] == [10.0, 10.0]
    for epoch, row in enumerate(evaluations):
        batches = [[training.task.lengths[i] for i in b] for b in training.batches(epoch)]
        computed = sum(len(batch) * max(batch) for batch in batches)
        assert row["token_efficiency"] == round(sum(training.task.lengths) / computed, 4) < 1


# What is kept.


def test_the_best_epoch_is_kept_and_the_last(tiny: Tiny) -> None:
    training = tiny.training(epochs=4)
    scores = iter([10.0, 30.0, 20.0, 30.0])
    states: list[dict[str, Tensor]] = []

    def evaluate(model: nn.Module) -> tuple[dict[str, Any], dict[str, str]]:
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"f1": next(scores)}, {"predictions.json": f"{len(states)}"}

    training.task.evaluate = evaluate  # type: ignore[method-assign]
    training.go()
    run = tiny.folder / "run"
    assert {path.name for path in (run / "last").iterdir()} == set(files.MODEL)
    for folder, state in ((run, states[1]), (run / "last", states[3])):  # of equals the earlier
        assert equal(dict(BertForQuestionAnswering.from_pretrained(folder).state_dict()), state)
    assert (run / "predictions.json").read_text() == "2"
    assert training.progress.best == {"epoch": 2, "f1": 30.0}
    assert not equal(states[1], states[3])


def test_evaluation_leaves_the_random_numbers_and_the_model_as_they_were(tiny: Tiny) -> None:
    training = tiny.training()
    training.model.train()
    before, random_before = weights(training), torch.get_rng_state()
    training.end_epoch()
    assert torch.equal(torch.get_rng_state(), random_before)
    assert equal(weights(training), before)
    assert training.model.training


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tiny: Tiny, precision: str
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(5)  # what was drawn before does not matter
        tiny.training(name, epochs=1, seed=seed, precision=precision).go()
    a, b, c = (results(tiny.folder / name) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_gpu_is_told_to_add_up_in_one_order(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", told.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    runs.make_repeatable(torch.device(kind))
    assert told == ([True] if kind == "cuda" else [])
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if kind == "cuda" else None)


def test_each_process_has_its_own_dropout(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        tiny.training(seed=7)
        seeds.append(torch.initial_seed())
    assert seeds == [7, 8, 9]


def test_every_example_is_learned_from_once_an_epoch(tiny: Tiny) -> None:
    training = tiny.training(epochs=3)
    seen: list[int] = []
    batch = training.task.batch
    training.task.batch = lambda examples: (seen.extend(examples), batch(examples))[1]  # type: ignore[method-assign]
    training.go()
    n = len(training.task.lengths)
    epochs = [seen[i * n : (i + 1) * n] for i in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(n))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3  # in another order each time
