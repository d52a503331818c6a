"""The scripts in bench/ measure what they say."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import ablation_qa
import exchange_questions
import measure_tokenisation as tokenisation
import measure_words as words
import numpy as np
import pytest
import simple_answers
import torch
import torch.nn.functional as F
from tiny import command_line, json_of
from tiny_qa import CHARACTERS, SETTINGS, Tiny
from tokenizers import Tokenizer

import train_qa
from minibert.batches import pad
from minibert.model import BertForQuestionAnswering, SpanLogits
from minibert.qa.reading import Answer, Question, QuestionSet, read_questions
from minibert.qa.task import QATask
from minibert.qa.windows import make_windows
from minibert.tokenizer import SPECIAL, load_tokenizer


def question(name: str, text: str, context: str, *answers: tuple[str, int]) -> Question:
    found = tuple(Answer(*answer) for answer in answers)
    return Question(name, text, context, found, tuple(a.text for a in found), False, "", "1.1")


@pytest.fixture
def vocabulary(tmp_path: Path) -> Tokenizer:
    entries = [*SPECIAL.values(), *"年月天地abc", "##b", "##c", "1963", "##x"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return load_tokenizer(tmp_path)


# ablation_qa.py


def test_the_first_hit_is_the_notebooks_question_included() -> None:
    assert ablation_qa.first_hit([1, 7, 8, 2, 7, 8, 9], [7, 8]) == (1, 2)
    assert ablation_qa.first_hit([1, 7, 2, 7, 8, 9, 2], [7, 8]) == (3, 4)
    assert ablation_qa.first_hit([1, 7, 8], [8, 9]) is None


def test_labels_by_search_are_wrong_where_the_text_stands_earlier(tiny: Tiny) -> None:
    asked = [
        question("right", "寒？", "天地玄黄宇宙", ("玄", 2)),
        question("in the question", "玄？", "天地玄黄宇宙", ("玄", 2)),
        question("earlier", "寒？", "玄天地玄黄宇", ("玄", 3)),
        question("nowhere", "寒？", "天地玄黄宇宙", ("玄a", 2)),
    ]
    tokenizer = load_tokenizer(tiny.weights)
    windows = make_windows(asked, tokenizer, 32, 12, training=True)
    searched, counts = ablation_qa.search_labels(windows, tokenizer)
    places = {asked[w.question].id: (w.start_position, w.end_position) for w in searched.windows}
    # [CLS] 寒 ？ [SEP] 天 地 玄: the first token of the context is the fifth
    assert places == {"right": (6, 6), "in the question": (1, 1), "earlier": (4, 4)}
    assert counts == {
        **{"questions": 4, "left_out": 1, "windows": 3, "wrong_questions": 2, "wrong_windows": 2},
        **{"wrong_in_the_question": 1, "wrong_in_the_context": 1},
        **{"left_out_percent": 25, "wrong_percent": 100 * 2 / 3},
    }


def test_labels_by_search_are_right_where_each_text_stands_once(tiny: Tiny) -> None:
    """Also in windows without the answer, which point at [CLS] in either case."""
    task = tiny.task()
    searched, counts = ablation_qa.search_labels(task.windows, task.tokenizer)
    assert len(searched.windows) > len(task.windows.questions)
    for ours, theirs in zip(task.windows.windows, searched.windows, strict=True):
        assert (ours.start_position, ours.end_position) == (
            theirs.start_position,
            theirs.end_position,
        )
    assert "wrong_windows" not in counts and counts["left_out"] == 0


def test_with_the_notebooks_mask_another_question_changes_nothing(tiny: Tiny) -> None:
    context = CHARACTERS[:20]
    asked = [question(str(i), f"{c}？", context) for i, c in enumerate("天霜")]
    task = tiny.task()
    windows = make_windows(asked, task.tokenizer, 32, 12, training=False).windows
    batch = pad(windows, task.pad_id)
    start = windows[0].context_start

    def scores(kind: type[BertForQuestionAnswering]) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            logits = kind.from_pretrained(tiny.weights).eval()(**batch)
        return torch.stack(logits)[:, :, start:]  # (2, B, n)

    hidden, seen = scores(ablation_qa.QuestionHidden), scores(BertForQuestionAnswering)
    # Not to the last bit: several threads may add up the two rows in another order.
    torch.testing.assert_close(hidden[:, 0], hidden[:, 1], atol=1e-6, rtol=0.0)
    assert (seen[:, 0] - seen[:, 1]).abs().max() > 1e-3


class Points(torch.nn.Module):
    """Best start and best end are the same tokens whatever is asked."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.places = start, end
        self.unused = torch.nn.Parameter(torch.zeros(()))  # is on a device, as any model's

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SpanLogits:
        rows = [F.one_hot(torch.tensor(i), input_ids.size(1)).float() for i in self.places]
        return SpanLogits(*(row.expand(input_ids.shape) for row in rows))


@pytest.mark.parametrize(
    ("start", "end", "exact", "swapped"), [(6, 6, 50, 0), (6, 5, 0, 2), (1, 1, 0, 0), (0, 6, 0, 0)]
)
def test_the_notebook_takes_the_best_start_and_end_by_themselves(
    tiny: Tiny, start: int, end: int, exact: float, swapped: int
) -> None:
    """Only the first gold counts, so one of the two answers at token 6 is wrong."""
    golds = [("玄", 2), ("宇", 4)]
    asked = [question(str(i), "寒？", "天地玄黄宇宙", *golds[:: 1 - 2 * i]) for i in range(2)]
    dev = replace(tiny.dev, questions=asked)
    task = QATask(load_tokenizer(tiny.weights), SETTINGS, dev)
    scores = ablation_qa.score_as_the_notebook(Points(start, end), task)
    assert (scores["exact_match"], scores["end_before_start"]) == (exact, swapped)


def ablation(tiny: Tiny, out: Path, fault: str) -> dict[str, Any]:
    arguments = tiny.arguments(out, max_answer_length=None, epochs=1, fault=fault)
    assert ablation_qa.main(arguments) == 0
    facts: dict[str, Any] = json_of(out / "ablation.json")
    return facts


def test_without_a_fault_it_is_the_run_of_train_qa(tiny: Tiny, tmp_path: Path) -> None:
    facts = ablation(tiny, tmp_path / "none", "none")
    flags = {"epochs": 1, "metric": "squad", "max_answer_length": 30}
    assert train_qa.main(tiny.arguments("usual", **flags)) == 0
    ours, usual = tmp_path / "none", tiny.folder / "usual"
    for name in ("model.safetensors", "eval.json", "predictions.json"):
        assert (ours / name).read_bytes() == (usual / name).read_bytes()
    assert json_of(usual / "eval.json").items() <= facts["scores"].items()


def test_the_hidden_question_changes_what_is_learnt(tiny: Tiny, tmp_path: Path) -> None:
    ablation(tiny, tmp_path / "none", "none")
    facts = ablation(tiny, tmp_path / "mask", "mask")
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("none", "mask")]
    assert weights[0] != weights[1]
    assert facts["scored_as_the_notebook"]["total"] == len(tiny.dev.questions)


def test_an_ablation_is_a_run_that_says_if_it_is_finished_or_in_the_way(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "both"
    facts = ablation(tiny, run, "both")
    assert facts["settings"]["fault"] == "both" and facts["labels_by_search"]["left_out"] == 0
    assert json.dumps(facts) in capsys.readouterr().err
    assert ablation_qa.main(["--resume", str(run)]) == 0
    assert "both is finished" in capsys.readouterr().err
    assert ablation_qa.main(tiny.arguments(run, max_answer_length=None)) == 2
    assert "both exists already" in capsys.readouterr().err


def test_labels_are_counted_without_a_run(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"count_labels": True, "train": tiny.train.path, "weights": tiny.weights}
    lengths = {"max_length": 32, "doc_stride": 12, "json": tmp_path / "labels.json"}
    assert ablation_qa.main(command_line(flags | lengths)) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts == json_of(tmp_path / "labels.json")
    assert counts["all_windows"]["windows"] == 39
    assert counts["first_windows_only"]["windows"] + counts["first_windows_only"]["left_out"] == 24


# exchange_questions.py


@pytest.fixture
def pairs(tiny: Tiny, tmp_path: Path) -> Path:
    """The tiny dev questions, with a second one about each context but the last."""
    data = json.loads(tiny.dev.path.read_text(encoding="utf-8"))
    for paragraph in data["data"][0]["paragraphs"][:-1]:
        context = paragraph["context"]
        answer = {"text": context[1:4], "answer_start": 1}
        other = {"id": paragraph["qas"][0]["id"] + "b", "question": f"{context[0]}？"}
        paragraph["qas"].append({**other, "answers": [answer]})
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def test_each_question_gets_the_next_text_of_its_context_and_keeps_its_answers(
    pairs: Path,
) -> None:
    whole = read_questions(pairs)
    as_it_is, exchanged = exchange_questions.exchange(whole)
    assert as_it_is.questions == whole.questions[:-1]  # the last context has one question
    texts = [q.question for q in as_it_is.questions]
    swapped = [text for pair in zip(texts[1::2], texts[::2], strict=True) for text in pair]
    assert [q.question for q in exchanged.questions] == swapped
    for before, after in zip(as_it_is.questions, exchanged.questions, strict=True):
        assert (before.id, before.gold_texts, before.context) == (
            after.id,
            after.gold_texts,
            after.context,
        )


def exchanged(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    args = Namespace(model=str(model), data=str(data), out=None, device="cpu")
    args.max_length, args.doc_stride = 32, 12
    capsys.readouterr()
    assert exchange_questions.main(args) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


@pytest.mark.reference
def test_a_run_and_a_checkpoint_of_transformers_are_scored_alike(
    tiny: Tiny, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    assert train_qa.main(tiny.arguments(tmp_path / "run", epochs=1, max_answer_length=80)) == 0
    model = transformers.BertForQuestionAnswering.from_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "theirs")
    facts = exchanged(tmp_path / "theirs", pairs, capsys)
    assert facts["as_it_is"]["total"] == facts["exchanged"]["total"] == 14
    assert facts["left_out"] == 1
    assert facts["f1_lost"] == facts["as_it_is"]["f1"] - facts["exchanged"]["f1"]
    ours = exchanged(tmp_path / "run", pairs, capsys)
    assert {**ours, "model": ""} == {**facts, "model": ""}


# measure_tokenisation.py and measure_words.py


@pytest.fixture
def texts(vocabulary: Tokenizer) -> tokenisation.Texts:
    """Tokens: 1963 年 / a ##b 天 / [UNK] for the vocabulary has no z; and 地 年."""
    asked = [
        question("1", "年", "1963年ab天", ("1963年", 0), ("63年", 2), ("天", 7)),
        question("2", "z地", "z地年", ("z", 0), ("地年", 1), ("地年", 1)),
    ]
    return tokenisation.Texts("CMRC", "small", asked, vocabulary)


def test_tokens_and_unknown_ones_are_counted(texts: tokenisation.Texts) -> None:
    contexts, questions, answers = tokenisation.lengths(texts)
    assert (contexts["characters"], contexts["tokens"], contexts["[UNK]"]) == (11, 8, 1)
    assert contexts["texts with [UNK] %"] == 50
    assert (questions["characters"], questions["tokens"], questions["[UNK]"]) == (3, 3, 1)
    assert answers["texts"] == 5  # the same answer twice is one
    (row,) = tokenisation.unknown_words(texts)
    assert (row["kind"], row["[UNK]"], row["most frequent"]) == ("Latin word", 1, "z 1")


def test_an_answer_that_begins_inside_a_token_is_counted(texts: tokenisation.Texts) -> None:
    row = tokenisation.edges(texts)
    assert (row["answers"], row["begin inside a token"], row["end inside a token"]) == (5, 1, 0)
    assert row["EM of the tokens, cut from the text"] == 80
    # Decoded, z is [UNK], 地年 is 地 年 and 1963年 is 1963 年; 63年 is 1963 年 as well.
    assert row["EM of the tokens, ids decoded"] == 20
    assert row["and without spaces"] == 60
    assert row["for instance"] == "63年 (1963年)"


def test_letters_change_the_tokens_of_a_cased_vocabulary_alone(vocabulary: Tokenizer) -> None:
    asked = [question("1", "abc", "年", ("年", 0))]
    uncased = tokenisation.cases(tokenisation.Texts("SQuAD", "small", asked, vocabulary))
    assert uncased["tokens, as written"] == uncased["tokens, UPPER CASE"] == 3
    normalizer: Any = vocabulary.normalizer
    normalizer.lowercase = False
    vocabulary.normalizer = normalizer
    cased = tokenisation.cases(tokenisation.Texts("SQuAD", "small", asked, vocabulary))
    assert (cased["tokens, UPPER CASE"], cased["[UNK], UPPER CASE"]) == (1, 1)


def test_an_answer_outside_the_first_window_is_counted(vocabulary: Tokenizer) -> None:
    asked = [question("1", "年", "天地" * 10, ("天地", 16)), question("2", "年", "天", ("天", 0))]
    row = tokenisation.too_long(tokenisation.Texts("CMRC", "small", asked, vocabulary), 12, 4)
    assert row["need several windows %"] == row["answer not whole in the first %"] == 50
    assert row["answer in no window"] == 0
    assert row["context in front leaves no question %"] == 50


def test_words_of_several_tokens_show_when_masked_one_by_one(texts: tokenisation.Texts) -> None:
    row = words.masking(texts, "## pieces", words.by_pieces(texts))
    assert (row["tokens"], row["tokens per word"]) == (8, 8 / 7)
    assert row["tokens in such words %"] == 25
    assert row["masked tokens whose word shows %"] == pytest.approx(25 * 0.85)
    assert row["the same, runs hidden %"] == 0  # a word's pieces are hidden together


def test_a_run_of_characters_may_leave_a_part_of_a_word(vocabulary: Tokenizer) -> None:
    """Of words of 2 characters, runs of 1 to 4 characters hide many whole, but not all."""
    asked = [question("1", "年", "天地" * 500, ("天", 0))]
    texts = tokenisation.Texts("CMRC", "small", asked, vocabulary)

    def segment(text: str) -> list[str]:
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    row = words.masking(texts, "pairs", words.by_segmenter(segment))
    assert row["masked tokens whose word shows %"] == pytest.approx(85)
    assert 25 < row["the same, runs hidden %"] < 60


def test_tokens_belong_to_the_word_that_they_begin_in(texts: tokenisation.Texts) -> None:
    def segment(text: str) -> list[str]:
        return {"1963年ab天": ["1963年", "ab", "天"], "z地年": ["z", "地年"]}[text]

    first, second = (words.by_segmenter(segment)(context) for context in texts.contexts)
    np.testing.assert_array_equal(first, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(second, [0, 1, 1])
    row = words.word_edges(texts, segment)
    assert row["words each"] == 2.5
    assert (row["answers"], row["begin or end inside a word"]) == (5, 1)  # 63年


def test_jieba_takes_apart_a_sentence() -> None:
    pytest.importorskip("jieba")
    found = list(words.jieba_words()("教宗任命范廷颂为主教"))
    assert found == ["教宗", "任命", "范廷颂", "为主", "教"]  # 主教 is a word, and is cut


# simple_answers.py


def questions_of(tmp_path: Path, name: str, *qas: tuple[str, str, str]) -> QuestionSet:
    """Questions, each with its text and its one answer, read from a file."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    **{"id": f"{name}{i}", "question": asked},
                    "answers": [{"text": answer, "answer_start": context.index(answer)}],
                }
            ],
        }
        for i, (context, asked, answer) in enumerate(qas)
    ]
    data = {"version": "", "data": [{"title": "", "paragraphs": paragraphs}]}
    (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    return read_questions(tmp_path / name)


def test_the_best_constant_is_a_run_that_many_answers_share(tmp_path: Path) -> None:
    years = [("一九年", "九"), ("二八年", "八"), ("三七年", "七")]
    dev = questions_of(tmp_path, "dev", *((text, f"{n}？", text) for text, n in years))
    train = questions_of(tmp_path, "train", ("天地玄黄", "天？", "玄黄"))
    found = simple_answers.candidates(train, dev)
    assert found == ["一九年", "三七年", "二八年", "玄黄", "年"]
    floor = simple_answers.best_constant(train, dev)
    # 年 has a third of each answer (F1 1/2); a year all of its own, and 1/3 of two others.
    assert floor.way == "一九年"
    assert floor.score.f1 == pytest.approx(100 * (1 + 1 / 3 + 1 / 3) / 3)


def test_the_overlap_is_with_the_piece_that_is_nearest_to_the_question(tmp_path: Path) -> None:
    context = "天在上，地在下。日出东方，月落西山的水边；星多。"
    asked = question("q", "月落在哪里？", context, ("西山的水边", context.index("西山")))
    asked_characters = simple_answers.characters(asked.question)
    assert asked_characters == set("月落在哪里")

    def answers(piece: str) -> list[str]:
        pattern = simple_answers.PIECES[piece]
        return [simple_answers.overlap(pattern, cut)(asked) for cut in simple_answers.LEFT.values()]

    assert answers("clause") == ["月落西山的水边", "西山的水边", "西山的水边"]
    sentence = "日出东方，月落西山的水边；星多"
    assert answers("sentence") == [sentence, "西山的水边；星多", "西山的水边；星多"]
    dev = questions_of(tmp_path, "dev", (context, asked.question, "西山的水边"))
    floor = simple_answers.best_overlap(dev)
    assert floor.way == "the longest stretch between the question's characters of the clause"
    assert floor.score.exact_match == floor.score.f1 == 100.0


def test_questions_without_letters_and_texts_without_any_have_an_overlap_too() -> None:
    for asked in (question("q", "？", "天地。"), question("q", "天？", "。。")):
        for cut in simple_answers.LEFT.values():
            simple_answers.overlap(simple_answers.PIECES["clause"], cut)(asked)


def test_both_floors_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions_of(tmp_path, "train", ("天地玄黄", "天？", "玄黄"))
    far = ("天地地地玄黄宇。", "天玄？", "黄宇")
    questions_of(tmp_path, "dev", far, ("日月盈昃。", "月？", "盈昃"))
    files = {name: str(tmp_path / name) for name in ("train", "dev")}
    assert simple_answers.main(Namespace(**files, json=str(tmp_path / "json"))) == 0
    facts = json_of(tmp_path / "json")
    assert facts["constant"]["way"] == "盈昃" and facts["constant"]["exact_match"] == 50
    assert facts["overlap"]["exact_match"] == facts["overlap"]["f1"] == 100
    assert facts["overlap"]["way"] == "what follows the question's last character of the sentence"
    for line, name in zip(
        capsys.readouterr().out.splitlines(), ("constant", "overlap"), strict=True
    ):
        assert line.startswith(name) and f"F1 {facts[name]['f1']:5.2f}" in line
