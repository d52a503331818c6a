"""`minibert classify` and `minibert probe-case`, on a model of which it is known what it must say.

It is a real checkpoint, built to count the words "good" and "bad", spelled so. Its attention takes
the mean of all tokens, and what is more of it is the class; where there is neither, it says "good".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy_checkpoint import TINY, numpy_tensors, write_checkpoint
from safetensors.torch import load_file, save_file
from tiny import json_of
from typed import Capture, Stdin, fails, minibert

from minibert.cls.classify import load_classifier
from minibert.cls.commands import SHOWN_FLIPS
from minibert.cls.probe import lower, probe, upper
from minibert.cls.reading import read_texts
from minibert.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "good", "bad", "a", "film", "not", "so", "but", ".", "!"]
CONFIG = TINY | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}


def judge(
    folder: Path,
    *,
    lower_case: bool = False,
    labels: Sequence[str] = ("bad", "good"),
    changed: dict[str, Any] | None = None,
    **run: Any,
) -> Path:
    """Writes the checkpoint, with a config that is changed, and a run.json if there are facts for
    one. Further labels than two are never the likeliest."""
    named = {str(i): label for i, label in enumerate(labels)}
    config = CONFIG | {"architectures": ["BertForSequenceClassification"], "id2label": named}
    config |= changed or {}
    C = config["hidden_size"]
    tensors = numpy_tensors(config)
    for name, tensor in tensors.items():
        tensor[:] = 1 if "LayerNorm.weight" in name else 0
        if "self.value.weight" in name or "attention.output.dense.weight" in name:
            tensor[:] = 3 * np.eye(C, dtype=np.float32)
        if name == "bert.pooler.dense.weight":
            tensor[:] = np.eye(C, dtype=np.float32)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    for i, word in enumerate(VOCABULARY):
        words[i, {"bad": 0, "good": 1}.get(word, 2)] = 1
    tensors["classifier.weight"] = np.zeros((len(labels), C), np.float32)
    tensors["classifier.weight"][:2] = 4 * np.eye(2, C)
    tensors["classifier.bias"] = np.array([0, 0.1, *[-9] * (len(labels) - 2)], np.float32)
    write_checkpoint(folder, config, tensors)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
    if run:
        (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def run_facts(
    pair: str | None = None, columns: Mapping[str, str | int] | None = None, **settings: Any
) -> dict[str, Any]:
    """run.json; columns: what it says of those of the training set."""
    usual = {"max_length": 12, "head_tail": False, "precision": "fp32"}
    train = {"pair_column": pair, **(columns or {})}
    return {"settings": usual | settings, "data": {"train": train}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge(tmp_path_factory.mktemp("judge"))


# classify


def test_one_text_has_its_label_its_probability_and_the_others(
    model: Path, capsys: Capture
) -> None:
    assert minibert("classify", "--model", model, "a good film") == 0
    label, probability, others = capsys.readouterr().out.splitlines()
    assert label == "label        good"
    p = float(probability.removeprefix("probability  "))
    assert 0.5 < p < 1
    assert others == f"others       bad {1 - p:.4f}"


def test_several_texts_are_a_line_each_in_their_order(model: Path, capsys: Capture) -> None:
    texts = ["a good film", "bad", "so so", "good good but bad\x07 .", "a bad bad film but good"]
    assert minibert("classify", "--model", model, *texts) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["good", "bad", "good", "good", "bad"]
    assert lines[3][2] == "good good but bad ."  # nothing that steers a terminal
    assert minibert("classify", "--model", model, "--json", *texts) == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert [verdict["text"] for verdict in verdicts] == texts
    for verdict, line in zip(verdicts, lines, strict=True):
        assert verdict["label"] == line[0] and f"{verdict['probability']:.4f}" == line[1]
        assert verdict["probabilities"][verdict["label"]] == verdict["probability"]
        assert sum(verdict["probabilities"].values()) == pytest.approx(1)


def test_files_stdin_and_tables(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\ufeffa good, film\r\n\r\na bad film\n"
    (tmp_path / "texts.txt").write_text(lines, encoding="utf-8", newline="")
    command = ("classify", "--model", model, "--json", "--file")
    assert minibert(*command, tmp_path / "texts.txt") == 0
    from_file = json.loads(capsys.readouterr().out)
    assert [v["text"] for v in from_file] == ["a good, film", "a bad film"]
    assert [v["label"] for v in from_file] == ["good", "bad"]
    monkeypatch.setattr(sys, "stdin", Stdin(lines.encode()))
    assert minibert(*command, "-") == 0
    assert json.loads(capsys.readouterr().out) == from_file
    table = tmp_path / "test.tsv"
    table.write_text("index\tsentence\n0\ta good film\n1\tso bad\n", encoding="utf-8")
    assert minibert(*command, table) == 0
    captured = capsys.readouterr()
    assert [v["text"] for v in json.loads(captured.out)] == ["a good film", "so bad"]
    assert "text: column 2 'sentence'" in captured.err


def test_it_asks_until_an_empty_line_and_an_error_does_not_end_it(
    model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"a good film\nbad\n\nnot read\n"))
    assert minibert("classify", "--model", model) == 0
    assert capsys.readouterr().out.count("label        ") == 2
    monkeypatch.setattr(sys, "stdin", Stdin(b"good\tbad\nbad\n"))
    pair_free = judge(model.parent / "single", **run_facts())
    assert minibert("classify", "--model", pair_free, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.count("error: the model was trained on single texts, but there is") == 1
    assert [json.loads(line)["label"] for line in captured.out.splitlines()] == ["bad"]


def test_pairs_are_given_with_pair_or_a_tab(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paired = judge(tmp_path / "run", **run_facts(pair="column 2 'text_b'"))
    command = ("classify", "--model", paired, "--json")
    assert minibert(*command, "a film", "good", "--pair", "so bad", "--pair", "a film") == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert [(v["text"], v["pair"], v["label"]) for v in verdicts] == [
        ("a film", "so bad", "bad"),
        ("good", "a film", "good"),
    ]
    monkeypatch.setattr(sys, "stdin", Stdin(b"a film\tso bad\n"))
    assert minibert(*command) == 0
    assert json.loads(capsys.readouterr().out)["pair"] == "so bad"
    error = fails(capsys, *command, "a")
    assert "trained on pairs of texts, but there is no second text; give it with --pair" in error
    error = fails(capsys, *command, "a", "--pair", "b", "--pair", "c")
    assert "TEXT is there 1 times, --pair 2" in error
    assert "error: the second text is empty" in fails(capsys, *command, "a", "--pair", " ")


class Terminal(Stdin):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_asks_for_the_second_text_of_a_pair(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paired = judge(tmp_path / "run", **run_facts(pair="column 2 'text_b'"))
    monkeypatch.setattr(sys, "stdin", Terminal(b"a film\nso bad\ngood\tgood\n\n"))
    assert minibert("classify", "--model", paired, "--json") == 0
    captured = capsys.readouterr()
    verdicts = [json.loads(line) for line in captured.out.splitlines()]
    assert [(v["text"], v["pair"]) for v in verdicts] == [("a film", "so bad"), ("good", "good")]
    assert captured.err.count("second? ") == 1
    monkeypatch.setattr(sys, "stdin", Terminal(b"a film\n\n"))
    assert minibert("classify", "--model", judge(tmp_path / "single", **run_facts())) == 0
    assert "second? " not in capsys.readouterr().err


def test_a_text_of_a_file_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = judge(tmp_path / "single", **run_facts())
    command = ("classify", "--model", single, "--file")
    path = tmp_path / "texts.txt"
    path.write_text("good\n\nbad\tgood\n", encoding="utf-8")
    error = fails(capsys, *command, path)
    assert f"{path}, line 3: the model was trained on single texts, but there is a second" in error
    monkeypatch.setattr(sys, "stdin", Stdin(path.read_bytes()))
    assert "stdin, line 3: the model" in fails(capsys, *command, "-")
    path.write_text("\u2028a film\u2028so bad\n", encoding="utf-8")  # a line as editors count them
    assert minibert(*command, path, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_what_to_do_about_a_second_text_is_said_for_how_it_was_given(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = judge(tmp_path / "single", **run_facts())
    paired = judge(tmp_path / "paired", **run_facts(pair="column 2 'text_b'"))
    texts = labelled(tmp_path / "texts.csv", [("so bad", "bad"), ("a film", "good")])
    pairs = labelled(tmp_path / "pairs.tsv", [("a film", "so", "bad"), ("good", "a", "good")])
    monkeypatch.setattr(sys, "stdin", Stdin(b"good\n"))
    words = ("classify", "--model")
    for command, advice in (
        ((*words, single, "a", "so", "--pair", "a", "--pair", "so"), "leave out --pair"),
        ((*words, paired, "a", "so"), "give it with --pair"),
        ((*words, paired, "--file", "-"), "write it after a tab"),
        ((*words, paired, "--file", texts), "name its column with --pair-column"),
        ((*words, single, "--file", pairs), "name the one to take with --text-column"),
        (("evaluate", "--model", paired, "--data", texts), "name its column with --pair-column"),
        (("evaluate", "--model", single, "--data", pairs), "to take with --text-column"),
    ):
        assert minibert(*command) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "the model was trained on" in error and error.endswith(advice), error


def test_columns_are_those_asked_for_else_those_of_the_run(tmp_path: Path, capsys: Capture) -> None:
    rows = "mood,utter,other\nbad,so bad,a good film\ngood,a film so,a bad film\n"
    path = tmp_path / "odd.csv"
    path.write_text(rows, encoding="utf-8")
    columns = {"text_column": "column 7 'utter'", "label_column": "column 8 'mood'"}
    named = judge(tmp_path / "named", **run_facts(columns=columns))
    plain = judge(tmp_path / "plain", **run_facts())
    for words, texts in (
        ((named,), ["so bad", "a film so"]),
        ((plain, "--text-column", "utter"), ["so bad", "a film so"]),
        ((named, "--text-column", "other"), ["a good film", "a bad film"]),
    ):
        assert minibert("classify", "--json", "--file", path, "--model", *words) == 0
        assert [v["text"] for v in json.loads(capsys.readouterr().out)] == texts
    for command in ("evaluate", "probe-case"):
        for words, accuracy in (
            ((named,), 1.0),
            ((plain, "--text-column", "utter", "--label-column", "mood"), 1.0),
            ((named, "--text-column", "other"), 0.0),
        ):
            assert minibert(command, "--json", "--data", path, "--model", *words) == 0
            printed = json.loads(capsys.readouterr().out)
            assert (printed if command == "evaluate" else printed[0])["accuracy"] == accuracy
    flags = ("--text-column", "other", "--pair-column", "utter", "--label-column", "mood")
    assert minibert("evaluate", "--json", "--data", path, "--model", judge(tmp_path), *flags) == 0
    assert "second text: column 2 'utter'" in capsys.readouterr().err
    (tmp_path / "lines.txt").write_text("good\n", encoding="utf-8")
    for words in (("good",), ("--file", tmp_path / "lines.txt"), ("--file", "-")):
        for flag in ("--text-column", "--pair-column"):
            error = fails(capsys, "classify", "--model", plain, *words, flag, "1")
            assert "are for a table that --file names (.tsv, .csv, " in error


def test_columns_of_the_run_that_a_file_lacks_are_found(tmp_path: Path, capsys: Capture) -> None:
    columns = {"text_column": "column 1 'utter'", "label_column": "column 2 'verdict'"}
    model = judge(tmp_path / "run", **run_facts(columns=columns))
    usual = labelled(tmp_path / "usual.tsv", [("so bad", "bad"), ("a film", "good")] * 3)
    assert minibert("evaluate", "--json", "--data", usual, "--model", model) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
    assert minibert("classify", "--json", "--file", usual, "--model", model) == 0
    assert [v["text"] for v in json.loads(capsys.readouterr().out)][:2] == ["so bad", "a film"]
    other = tmp_path / "other.csv"  # it has one of the two, in another case
    other.write_text("text,label,UTTER\nx,good,a film\nx,bad,so bad\n", encoding="utf-8")
    assert minibert("probe-case", "--json", "--data", other, "--model", model) == 0
    assert json.loads(capsys.readouterr().out)[0]["accuracy"] == 1.0
    flags = ("--text-column", "utter")  # what is asked for now must be there
    assert "has no column 'utter'" in fails(
        capsys, "evaluate", "--data", usual, "--model", model, *flags
    )


def test_numbers_of_a_run_are_for_files_without_a_header_alone(
    tmp_path: Path, capsys: Capture
) -> None:
    columns = {"text_column": "column 1", "label_column": "column 3", "width": 3}
    model = judge(tmp_path / "run", **run_facts(columns=columns))
    rows = [("a film", "so bad", "good"), ("so bad", "a film", "bad")] * 3
    bare = tmp_path / "bare.tsv"
    bare.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    wide = tmp_path / "wide.tsv"  # of another width: the content tells
    lines = [f"x{i}\t{i}.5\t{a}\t{c}" for i, (a, _, c) in enumerate(rows)]
    wide.write_text("\n".join(lines), encoding="utf-8")
    other = tmp_path / "other.tsv"  # the same, in another order, under names
    lines = ["label\tid\ttext", *("\t".join((c, b, a)) for a, b, c in rows)]
    other.write_text("\n".join(lines), encoding="utf-8")
    for path in (bare, wide, other):
        assert minibert("evaluate", "--json", "--data", path, "--model", model) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
        assert minibert("classify", "--json", "--file", path, "--model", model) == 0
        found = [v["text"] for v in json.loads(capsys.readouterr().out)]
        assert found == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"problem_type": "regression"}, "gives a text a number, no class"),
        ({"id2label": {"0": "LABEL_0"}}, "gives a text a number, no class"),
        ({"problem_type": "multi_label_classification"}, "may find several classes in one text"),
    ],
)
def test_a_checkpoint_whose_scores_are_not_of_one_class_is_refused(
    tmp_path: Path, capsys: Capture, config: dict[str, Any], says: str
) -> None:
    model = judge(tmp_path / "model")
    settings = json_of(model / "config.json") | config
    tensors = load_file(model / "model.safetensors")
    for name in [name for name in tensors if name.startswith("classifier")]:
        tensors[name] = tensors[name][: len(settings["id2label"])].contiguous()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    settings["label2id"] = {label: int(i) for i, label in settings["id2label"].items()}
    (model / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert says in fails(capsys, "classify", "--model", model, "a film")


def test_a_run_is_asked_as_it_was_trained(tmp_path: Path, capsys: Capture) -> None:
    long = "good good good " + "so " * 30 + "bad bad bad bad"
    head = judge(tmp_path / "head", **run_facts(max_length=8))
    both = judge(tmp_path / "both", **run_facts(max_length=8, head_tail=True))
    assert load_classifier(str(both)).settings == (8, True)
    for run, label in ((head, "good"), (both, "bad")):
        assert minibert("classify", "--model", run, long) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"label        {label}\n")
        kept = "the beginning" if run == head else "what is at both ends"
        said = f"note: 1 of 1 texts had more than 8 tokens and were cut; {kept} was kept"
        assert said in captured.err


def test_a_run_is_asked_in_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.trained.choose_precision", lambda device: "bf16")
    dtypes = []
    for name in ("fp32", "bf16"):
        classifier = load_classifier(str(judge(tmp_path / name, **run_facts(precision=name))))
        classifier.model.classifier.register_forward_hook(lambda _, __, x: dtypes.append(x.dtype))
        classifier.classify([("a good film", None)])
    assert dtypes == [torch.float32, torch.bfloat16]


def test_a_run_is_scored_in_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dev: Path
) -> None:
    monkeypatch.setattr("minibert.trained.choose_precision", lambda device: "bf16")
    classifier = load_classifier(str(judge(tmp_path / "run", **run_facts(precision="bf16"))))
    monkeypatch.setattr("minibert.cls.classify.load_classifier", lambda *_: classifier)
    dtypes = set()
    classifier.model.classifier.register_forward_hook(lambda _, __, x: dtypes.add(x.dtype))
    assert minibert("evaluate", "--model", tmp_path / "run", "--data", dev) == 0
    assert dtypes == {torch.bfloat16}


def test_of_many_classes_the_likeliest_are_shown(tmp_path: Path, capsys: Capture) -> None:
    labels = ["bad", "good", *"cdefgh"]
    assert minibert("classify", "--model", judge(tmp_path, labels=labels), "good") == 0
    others = capsys.readouterr().out.splitlines()[2]
    assert others.startswith("others       bad ") and others.endswith(" and 2 more")
    assert others.count(",") == 4


def test_a_checkpoint_without_a_run_is_asked_with_all_its_positions_up_to_512(
    model: Path, tmp_path: Path
) -> None:
    assert load_classifier(str(model)).settings == (40, False)
    long = judge(tmp_path, changed={"max_position_embeddings": 600})
    assert load_classifier(str(long)).settings == (512, False)


@pytest.mark.reference
def test_a_checkpoint_that_transformers_saved_is_asked_and_scored(
    model: Path, dev: Path, tmp_path: Path, capsys: Capture
) -> None:
    transformers = pytest.importorskip("transformers")
    for kind in ("AutoModelForSequenceClassification", "AutoTokenizer"):
        getattr(transformers, kind).from_pretrained(model).save_pretrained(tmp_path / "theirs")
    printed = []
    for folder in (model, tmp_path / "theirs"):
        assert minibert("classify", "--model", folder, "--json", "so bad", "Good", "a film") == 0
        printed.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*printed, strict=True):
        assert theirs["label"] == ours["label"]
        assert theirs["probability"] == pytest.approx(ours["probability"], abs=1e-6)
    assert minibert("evaluate", "--model", tmp_path / "theirs", "--data", dev) == 0
    assert capsys.readouterr().out.startswith("accuracy  0.8333\n")


def test_what_is_no_classifier_or_no_text_is_one_sentence(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ("classify", "--model")
    assert "the text is empty" in fails(capsys, *command, model, " ")
    assert "TEXT 2: the text is empty" in fails(capsys, *command, model, "good", "")
    assert "not both" in fails(capsys, *command, model, "good", "--file", "x.txt")
    assert "does not exist" in fails(capsys, *command, model, "--file", tmp_path / "x.txt")
    headless = judge(tmp_path / "headless")
    write_checkpoint(
        headless,
        CONFIG,
        {k: x for k, x in numpy_tensors(CONFIG).items() if not k.startswith("classifier")},
    )
    error = fails(capsys, *command, headless, "good")
    assert "has not been trained to classify" in error and "python train_cls.py" in error
    qa = judge(tmp_path / "qa", settings={"doc_stride": 1, "precision": "fp32"})
    error = fails(capsys, *command, qa, "good")
    assert error.endswith("qa is a run of train_qa.py; use minibert ask\n")
    other = judge(tmp_path / "other", settings={"max_length": 12, "precision": "fp32"})
    error = fails(capsys, *command, other, "good")
    assert error.endswith("is no run of train_cls.py: its run.json lacks head_tail\n")
    for name, value in (("max_length", "long"), ("head_tail", "yes")):
        torn = judge(tmp_path / "torn", **run_facts(**{name: value}))
        assert "is damaged" in fails(capsys, *command, torn, "good")
    longer = judge(tmp_path / "longer", **run_facts(max_length=100))
    assert "--max-length 100 is more than the model's 40" in fails(capsys, *command, longer, "good")
    shorter = judge(tmp_path / "shorter", **run_facts(pair="column 2", max_length=4))
    error = fails(capsys, *command, shorter, "good", "--pair", "bad")
    assert "shorter: --max-length 4" in error
    one_type = {"changed": {"type_vocab_size": 1}}
    unable = judge(tmp_path / "unable", **one_type, **run_facts(pair="column 2"))
    error = fails(capsys, *command, unable, "good", "--pair", "bad")
    assert "cannot tell the two texts of a pair apart" in error
    able = judge(tmp_path / "able", **one_type, **run_facts())
    assert minibert(*command, able, "good") == 0
    capsys.readouterr()
    (able / "config.json").unlink()
    error = fails(capsys, *command, able, "good")
    assert "has no model yet" in error and f"python train_cls.py --resume {able}\n" in error
    broken = load_classifier(str(model))
    torch.nn.init.constant_(broken.model.classifier.bias, torch.nan)
    with pytest.raises(UserError, match="are no numbers"):
        broken.classify([("good", None)])


# probe-case


ROWS = [
    *(("a good film .", "good"), ("so bad !", "bad"), ("a film", "good"), ("not so good", "bad")),
    *(("bad but so", "bad"), ("...", "good")),
]


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in ROWS), encoding="utf-8")
    return path


def test_a_cased_model_flips_and_the_flips_are_listed(
    model: Path, dev: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ("probe-case", "--model", model, "--data", dev)
    assert minibert(*command, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == [
        *("case", "accuracy", "macro", "F1", "flips", "texts", "with", "other", "tokens")
    ]
    # In capitals it knows no word and always says "good": 3 of 6, where 5 were right as written.
    assert lines[1].split() == ["as", "written", "0.8333", "0.8286", "0", "0"]
    assert lines[2].split() == ["lower", "case", "0.8333", "0.8286", "0", "0"]
    assert lines[3].split() == ["UPPER", "CASE", "0.5000", "0.3333", "2", "5"]
    at = lines.index("SO BAD !")
    verdict = lines[at + 1]
    assert verdict.startswith("  UPPER CASE: bad -> good (") and verdict.endswith("), gold bad")
    assert "lower-cases" not in out
    facts = json.loads((tmp_path / "out/probe_case.json").read_text(encoding="utf-8"))
    assert [len(case["flips"]) for case in facts[:3]] == [0, 0, 2]
    table = read_texts(tmp_path / "out/flips.tsv")
    n_flips = sum(len(case["flips"]) for case in facts)
    assert len(table.examples) == n_flips <= SHOWN_FLIPS
    assert minibert(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts
    assert minibert(*command, "--json", "--seed", "1") == 0
    assert json.loads(capsys.readouterr().out) != facts


def test_an_uncased_model_cannot_flip_and_it_says_so(
    dev: Path, tmp_path: Path, capsys: Capture
) -> None:
    uncased = judge(tmp_path / "uncased", lower_case=True)
    assert minibert("probe-case", "--model", uncased, "--data", dev) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[1:5]] == [["0", "0"]] * 4
    assert len({line.split()[-4] for line in lines[1:5]}) == 1  # one accuracy
    assert lines[-1].endswith("no label can flip.")


@pytest.mark.parametrize("cased", [True, False])
def test_every_flip_is_one_that_the_model_itself_makes(
    dev: Path, tmp_path: Path, cased: bool
) -> None:
    classifier = load_classifier(str(judge(tmp_path / "model", lower_case=not cased)))
    cases = probe(classifier, read_texts(dev), seed=5)
    assert [case.name for case in cases] == [
        "as written",
        "lower case",
        "UPPER CASE",
        "rAnDoM case",
    ]
    written = {text: classifier.classify([(text, None)])[0].label for text, _ in ROWS}
    for case in cases:
        for flip in case.flips:
            [verdict] = classifier.classify([(flip.text, None)])
            assert verdict.label == flip.flipped != flip.label
            assert verdict.probability == pytest.approx(flip.probability, abs=1e-5)
            assert written[flip.text.lower()] == flip.label
    assert (sum(len(case.flips) for case in cases) > 0) is cased


def labelled(path: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    lines = [("text", "label") if len(rows[0]) == 2 else ("text_a", "text_b", "label"), *rows]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_both_texts_of_a_pair_are_spelled_and_shown(tmp_path: Path, capsys: Capture) -> None:
    path = labelled(tmp_path / "dev.tsv", [("a film", "so bad", "bad"), ("good", "but", "good")])
    model = judge(tmp_path / "run", **run_facts(pair="column 2 'text_b'"))
    assert minibert("probe-case", "--model", model, "--data", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[-2:] == ["1", "2"]  # in capitals one flips, both have other tokens
    at = lines.index("A FILM | SO BAD")
    assert lines[at + 1].startswith("  UPPER CASE: bad -> good (")


def test_the_surest_flips_come_first_and_the_rest_are_counted(
    tmp_path: Path, capsys: Capture
) -> None:
    rows = [(" ".join(["bad"] * (i % 5 + 2) + ["good"] * (i % 3 + 1)), "bad") for i in range(40)]
    rows += [("good", "good")]
    model, path = judge(tmp_path), labelled(tmp_path / "dev.tsv", rows)
    cases = probe(load_classifier(str(model)), read_texts(path))
    sure = [[flip.probability for flip in case.flips] for case in cases]
    assert len({*sure[3]}) > 5
    for probabilities in sure:
        assert probabilities == sorted(probabilities, reverse=True)
    assert minibert("probe-case", "--model", model, "--data", path) == 0
    lines = capsys.readouterr().out.splitlines()
    n = sum(map(len, sure))
    assert lines[-1] == f"and {n - SHOWN_FLIPS} more: --json or --out gives all"
    shown = [line.partition("(")[2][:6] for line in lines if " -> " in line]
    assert shown == [f"{p:.4f}" for p in sorted(chain(*sure), reverse=True)[:SHOWN_FLIPS]]


def test_it_says_in_which_spelling_texts_are_cut(
    tmp_path: Path, dev: Path, capsys: Capture
) -> None:
    model = judge(tmp_path / "run", **run_facts(max_length=5))
    assert minibert("probe-case", "--model", model, "--data", dev) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "were cut" in line]
    named = [note.partition(": ")[0] for note in notes]
    assert named == ["as written", "lower case", "UPPER CASE", "rAnDoM case"]


@pytest.mark.parametrize("command", ["evaluate", "probe-case"])
def test_of_texts_that_a_run_was_trained_on_those_held_out_are_scored(
    tmp_path: Path, capsys: Capture, command: str
) -> None:
    path = labelled(tmp_path / "all.tsv", [(f"so good {'a ' * i}", "good") for i in range(60)])
    texts = read_texts(path)
    held_out = read_texts(path, part="dev")
    assert 0 < len(held_out.examples) < 60
    rest, whole = read_texts(path, part="train").as_dict(), texts.as_dict()
    older = {"texts_taken": "by another rule"}
    says_little = (60, "its scores there say little")
    for train, dev, total, says in (
        (rest, held_out.as_dict(), len(held_out.examples), "the texts held out of it are scored"),
        (whole, whole | {"sha256": "another"}, *says_little),
        (whole, whole, *says_little),
        (rest, held_out.as_dict() | older, *says_little),
        (rest | older, held_out.as_dict(), *says_little),
        ({"sha256": texts.sha256}, {"sha256": texts.sha256}, *says_little),
    ):
        facts = run_facts()
        facts["data"] = {"train": train | {"pair_column": None}, "dev": dev}
        model = judge(tmp_path / "run", **facts)
        assert minibert(command, "--model", model, "--data", path, "--json") == 0
        captured = capsys.readouterr()
        printed = json.loads(captured.out)
        assert (printed if command == "evaluate" else printed[0])["total"] == total
        assert "note: the model was trained on all.tsv" in captured.err and says in captured.err
    other = judge(tmp_path / "other", **run_facts())
    assert minibert(command, "--model", other, "--data", path) == 0
    assert "note: the model was trained" not in capsys.readouterr().err


def test_lower_casing_undoes_every_spelling(minilm_weights: Path) -> None:
    """So that "zero by construction" holds for all letters there are."""
    from minibert.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(minilm_weights)
    letters = [chr(i) for i in range(0x20, 0x2FA20) if chr(i).isalpha()]
    changed = [c for c in letters if upper(c) != c or lower(c) != c]
    assert {"a", "Z", "é", "Ж", "ω"} <= set(changed) and not {"ß", "ı", "İ", "ς", "中"} & set(
        changed
    )
    for spell in (upper, lower):
        spelled = tokenizer.encode_batch([f"x{spell(c)}y" for c in changed])
        plain = tokenizer.encode_batch([f"x{c}y" for c in changed])
        differ = [c for c, a, b in zip(changed, spelled, plain, strict=True) if a.ids != b.ids]
        assert differ == []
    assert upper("I dO nOT") == "I dO nOT"  # it is for one letter


def test_data_that_the_model_does_not_know_is_one_sentence(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("text\tlabel\ngood film\tgood\nbad film\tugly\n", encoding="utf-8")
    error = fails(capsys, "probe-case", "--model", model, "--data", path, "--out", path)
    assert "is a file; name a directory" in error
    for command in ("probe-case", "evaluate"):
        assert minibert(command, "--model", model, "--data", path) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{path}, line 3: the model does not know the label 'ugly'; it tells" in error
        single = judge(tmp_path / "single", **run_facts())
        pairs = labelled(tmp_path / "pairs.tsv", [("a film", "so", "bad"), ("good", "a", "good")])
        assert minibert(command, "--model", single, "--data", pairs) == 2
        assert "line 2: the model was trained on single texts" in capsys.readouterr().err


def test_flags_of_the_other_task_are_refused(model: Path, dev: Path, capsys: Capture) -> None:
    error = fails(capsys, "evaluate", "--model", model, "--data", dev, "--metric", "squad")
    assert "--metric is for questions" in error


def test_the_model_is_what_the_docstring_says(model: Path) -> None:
    classifier = load_classifier(str(model))
    assert classifier.labels == ["bad", "good"] and classifier.takes_pairs is None
    with torch.no_grad():
        ties = [v.probability for v in classifier.classify([("GOOD", None), ("film so", None)])]
    assert ties == pytest.approx([1 / (1 + np.exp(-0.1))] * 2, abs=1e-3)
