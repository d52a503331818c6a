"""What a clone does as it is: both scripts without an argument, on what is bundled with them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import simple_answers
import torch
from cloned import REPOSITORY, last_command, typed
from forked import Forks
from tiny import json_of
from tiny_qa import results

import train_cls
import train_qa
from minibert import hub
from minibert.cls.classify import load_classifier
from minibert.cls.reading import read_texts
from minibert.config import BertConfig
from minibert.datasets import QUESTIONS, SAMPLES, TEXTS, find
from minibert.errors import UserError
from minibert.model import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from minibert.parts import OWN_RECIPE, or_sample, takes_own
from minibert.qa.reading import read_questions
from minibert.qa.recipes import OWN, PUBLISHED, recipe_for
from minibert.runs import directory_for, learned_from
from minibert.tokenizer import load_tokenizer

ABOVE = 10  # points of F1 by which the trained model must be above every floor


# What is taken where nothing is named.


def test_without_data_it_is_the_sample_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert or_sample({"seed": 1}) == {"seed": 1, "data": "sample"}
    assert capsys.readouterr().err.startswith("no --data: the bundled sample")
    for given in ({"data": "squad"}, {"data": ""}, {"train": "a.json"}, {"dev": "a.json"}):
        assert or_sample(given) == given
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "weights", "is_own"),
    [
        *(
            ("sample", None, True),
            ("sample", "tiny-zh", True),
            ("sample", "weights/tiny-zh/", True),
        ),
        *(("sample", "bert-base-chinese", False), ("squad", "tiny-zh", False)),
        *((None, "tiny-zh", False), ("./sample", None, False)),
    ],
)
def test_the_own_recipes_are_for_the_bundled_sample_from_the_bundled_checkpoint(
    data: str | None, weights: str | None, is_own: bool
) -> None:
    given = {"data": data} | ({"weights": weights} if weights else {})
    assert takes_own(given) is is_own
    assert not takes_own(given | {"train": "mine.json"})
    questions = read_questions(find("sample")["train"])
    chinese = "squad" if data == "squad" else "cmrc2018"
    assert recipe_for(questions, given) == (OWN if is_own else PUBLISHED[chinese])
    both = {"train": questions, "dev": questions}
    texts = read_texts(SAMPLES / "reviews/train.tsv")
    for filled, own in (
        (train_qa.with_defaults(dict(given), both), OWN._asdict()),
        (train_cls.with_defaults(dict(given), texts), train_cls.OWN),
    ):
        assert (filled["recipe"] == own["recipe"]) is is_own
        assert (filled["batch_size"] == own["batch_size"]) is is_own
        if is_own:
            assert filled["weights"] == weights or filled["weights"] == hub.BUNDLED == "tiny-zh"
            assert {name: filled[name] for name in own if name != "weights"} == {
                name: value for name, value in own.items() if name != "weights"
            }
            assert filled["recipe"] == OWN_RECIPE


def test_the_runs_of_both_samples_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, name in ((QUESTIONS, "qa"), (TEXTS, "reviews")):
        data = {part: {"file": str(file)} for part, file in find("sample", kind=kind).items()}
        for given, out in (
            ({"data": "sample", "weights": "tiny-zh", "seed": 3}, f"runs/{name}-tiny-zh-3"),
            ({"data": "sample", "weights": "a/b", "seed": 0}, f"runs/{name}-b-0"),
            ({"data": "sample", "weights": "b", "seed": 0, "out": "mine"}, "mine"),
            ({"data": "sst2", "weights": "b", "seed": 0}, "runs/sst2-b-0"),
        ):
            assert directory_for(given, data) == Path(out)


@pytest.mark.parametrize("script", [train_qa, train_cls])
def test_help_names_the_own_recipe(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "minibert's own, for the bundled sample" in text and "from tiny-zh" in text
    assert "sample, the bundled one (default)" in text


def test_a_bundled_checkpoint_that_is_not_there_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr(hub, "_cached", None)
    with pytest.raises(UserError, match=f"there is none in {tmp_path}/none; let MINIBERT_WEIGHTS"):
        hub.find("tiny-zh")


def test_the_passage_and_the_review_of_the_last_lines_are_in_neither_part() -> None:
    passage = (SAMPLES / "passage.txt").read_text(encoding="utf-8").strip()
    assert 150 <= len(passage) <= 220
    bundled = "".join(path.read_text(encoding="utf-8") for path in SAMPLES.glob("*/*"))
    assert passage not in bundled and train_cls.REVIEW not in bundled
    assert train_qa.QUESTION[-1] == "？" and train_qa.QUESTION not in bundled


# The runs themselves, in processes of their own, without a network.


@pytest.fixture(scope="module")
def bundled() -> Path:
    folder = REPOSITORY / "weights" / hub.BUNDLED
    if not (folder / "model.safetensors").is_file():
        pytest.fail(f"{folder} is not whole: it has no model.safetensors")
    return folder


@pytest.fixture(scope="module")
def here(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def both(
    bundled: Path, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The default run, and where the same one went from the same shape with weights drawn anew:
    side by side, since they take a minute or more each."""
    folder = tmp_path_factory.mktemp("random")
    copy = folder / hub.BUNDLED
    shutil.copytree(bundled, copy, ignore=lambda _, names: [n for n in names if "safet" in n])
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(bundled)).save_pretrained(copy)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(typed, folder, "train_qa.py", weights=folder, together=2)
        ended = typed(here, "train_qa.py", together=2)
        other.result()
    return ended, folder / "runs/qa-tiny-zh-0"


@pytest.fixture(scope="module")
def ended(
    both: tuple[subprocess.CompletedProcess[str], Path],
) -> subprocess.CompletedProcess[str]:
    return both[0]


@pytest.fixture(scope="module")
def run(here: Path, ended: subprocess.CompletedProcess[str]) -> Path:
    return here / "runs/qa-tiny-zh-0"


@pytest.fixture(scope="module")
def from_random(both: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    return both[1]


def test_the_default_run_is_what_its_help_says(
    run: Path, ended: subprocess.CompletedProcess[str]
) -> None:
    assert ended.stderr.startswith("no --data: the bundled sample")
    assert "starting from tiny-zh" in ended.stderr
    settings = json_of(run / "run.json")["settings"]
    assert {name: settings[name] for name in OWN._fields} == OWN._asdict()
    assert (settings["data"], settings["metric"]) == ("sample", "cmrc2018")


def scored(here: Path, model: str | Path, data: str | Path) -> dict[str, float]:
    """What `minibert evaluate` says of a model."""
    words = ("evaluate", "--model", str(model), "--data", str(data), "--json")
    scores: dict[str, float] = json.loads(typed(here, "-m", "minibert", *words).stdout)
    return scores


def test_it_is_far_above_what_is_answered_without_a_model_and_from_random_weights(
    run: Path, from_random: Path, here: Path, record_property: Callable[[str, object], None]
) -> None:
    train, dev = (read_questions(path) for path in find("sample").values())
    floors = {
        "constant": simple_answers.best_constant(train, dev).score.f1,
        "overlap": simple_answers.best_overlap(dev).score.f1,
        "random weights": json_of(from_random / "eval.json")["f1"],
    }
    f1 = json_of(run / "eval.json")["f1"]
    listed = ", ".join(f"{name} {floor:.2f}" for name, floor in floors.items())
    before = scored(here, hub.BUNDLED, "sample")["f1"]  # it can read: no floor
    record_property("figures", f"F1 {f1:.2f}; {listed}; before the run {before:.2f}")
    assert f1 > 60
    assert f1 >= max(floors.values()) + ABOVE


def test_the_default_run_learns_what_it_is_shown(run: Path, here: Path) -> None:
    """tiny-zh can read before, so only questions that it has learned from tell what a run does."""
    shown = SAMPLES / "qa/train.json"
    before, after = (scored(here, model, shown)["f1"] for model in (hub.BUNDLED, run))
    print(f"F1 on questions that were learned: {before:.2f} before, {after:.2f} after")
    assert after > before + 3


def test_the_command_that_it_shows_last_answers_from_the_passage(
    run: Path, here: Path, ended: subprocess.CompletedProcess[str]
) -> None:
    words = last_command(ended, "ask it")
    assert words[1:5] == ["minibert", "ask", "--model", "runs/qa-tiny-zh-0"]
    shown = typed(here, *words).stdout
    print(shown)
    answer = shown.splitlines()[0].removeprefix("answer       ")
    assert answer and answer in Path(words[words.index("--context") + 1]).read_text("utf-8")


class Short(NamedTuple):
    """A run on 24 questions of the sample, scored on two contexts: dev."""

    flags: list[str]  # all but --out's value
    dev: Path
    environment: dict[str, str]
    run: Path
    seconds: float


@pytest.fixture(scope="module")
def short(bundled: Path, server: Forks, tmp_path_factory: pytest.TempPathFactory) -> Short:
    folder = tmp_path_factory.mktemp("short")
    few = json_of(SAMPLES / "qa/dev.json")
    few["data"] = few["data"][:2]
    dev = folder / "dev.json"
    dev.write_text(json.dumps(few, ensure_ascii=False), encoding="utf-8")
    flags = ["--data", "sample", "--dev", str(dev), "--limit", "24"]
    flags += ["--save-every", "1", "--out"]
    local = {"MINIBERT_WEIGHTS": str(bundled.parent)}
    ended = server.run([*flags, str(folder / "run")], environment=local)
    assert ended.code == 0, ended.err
    return Short(flags, dev, local, folder / "run", ended.seconds)


def test_evaluate_gives_the_scores_of_the_run(short: Short, here: Path) -> None:
    assert scored(here, short.run, short.dev) == json_of(short.run / "eval.json")


@pytest.mark.reference
def test_transformers_loads_a_run_and_gives_the_same_logits(short: Short) -> None:
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        short.run, output_loading_info=True
    )
    assert not any(report.values()), report
    passage = (SAMPLES / "passage.txt").read_text(encoding="utf-8").strip()
    ids = load_tokenizer(short.run).encode(train_qa.QUESTION, passage)
    inputs = {"input_ids": torch.tensor([ids.ids]), "token_type_ids": torch.tensor([ids.type_ids])}
    with torch.no_grad():
        ours = BertForQuestionAnswering.from_pretrained(short.run).eval()(**inputs)
        expected = theirs.eval()(**inputs)
    for name in ("start_logits", "end_logits"):
        logits = getattr(expected, name)
        assert logits.std() > 0.5  # it was trained
        torch.testing.assert_close(getattr(ours, name), logits, atol=1e-4, rtol=0)


def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bytes(
    short: Short, server: Forks, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    for share in (0.5, 0.35, 0.65, 0.2, 0.8):  # until it is hit between a checkpoint and the end
        shutil.rmtree(killed, ignore_errors=True)
        broken = server.run(
            [*short.flags, str(killed)],
            environment=short.environment,
            send=signal.SIGKILL,
            after=share * short.seconds,
        )
        is_between = any((killed / "checkpoints").glob("*")) and not (killed / "eval.json").exists()
        if broken.code == -signal.SIGKILL and is_between:
            break
    assert broken.code == -signal.SIGKILL and is_between
    resumed = server.run(["--resume", str(killed)], environment=short.environment)
    assert resumed.code == 0, resumed.err
    assert results(killed) == results(short.run)


def test_the_bundled_checkpoint_has_three_heads_and_says_what_it_learned_from(
    bundled: Path,
) -> None:
    assert sum(path.stat().st_size for path in bundled.iterdir()) < 30e6
    for kind in (BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification):
        report = kind.from_pretrained(bundled).load_report
        assert report and not report.newly_initialized
    note, *learned = learned_from(bundled)
    assert "no score on either is to be reported" in note["note"]
    assert {Path(part["file"]).name for part in learned} == {
        *("short.json", "train.json", "zh-modern.txt.xz", "questions.json", "reviews.tsv")
    }
    assert all(len(part["sha256"]) == 64 for part in learned)
    assert not [part for i, part in enumerate(learned) if part in learned[:i]]
    questions = [part for part in learned if Path(part["file"]).name == "questions.json"]
    assert [part["questions"] for part in questions] == [3072, 6144]  # of steps 5 and 7


def test_the_head_for_classes_tells_plain_praise_from_plain_blame(bundled: Path) -> None:
    plain = {
        "positive": ("房间很干净，服务员也很热情，下次还会来。", "这本书写得很好，孩子非常喜欢。"),
        "negative": (
            "房间又脏又旧，服务态度很差，不会再来了。",
            "电池不耐用，屏幕还有坏点，非常失望。",
        ),
    }
    classifier = load_classifier(str(bundled))
    for label, texts in plain.items():
        found = classifier.classify([(text, None) for text in texts])
        assert [verdict.label for verdict in found] == [label] * 2


def test_the_head_for_hidden_words_reads_what_stands_around_them(bundled: Path) -> None:
    """It guesses better than by the frequencies that its bias began with, which it keeps nearly."""
    model, tokenizer = BertForMaskedLM.from_pretrained(bundled).eval(), load_tokenizer(bundled)
    mask_id = tokenizer.token_to_id("[MASK]")
    losses: dict[str, list[float]] = {"read": [], "frequent": []}
    for question in read_questions(find("sample")["dev"]).questions[::8]:
        ids = torch.tensor([tokenizer.encode(question.context).ids[:128]])
        hidden = torch.arange(ids.shape[1])[1:-1:7]
        masked = ids.clone()
        masked[0, hidden] = mask_id
        with torch.no_grad():
            read = model(masked)[0, hidden]  # (1, T, V) -> (n, V)
        frequent = model.mlm.decoder.bias.detach().expand_as(read)
        for name, logits in (("read", read), ("frequent", frequent)):
            losses[name].append(float(torch.nn.functional.cross_entropy(logits, ids[0, hidden])))
    read_loss, frequent_loss = (sum(x) / len(x) for x in losses.values())
    print(f"{read_loss:.2f} nats; by frequencies {frequent_loss:.2f}")
    assert read_loss < frequent_loss - 0.3
