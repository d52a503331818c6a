"""The metrics against the official scripts' stored scores, and the word tokenizer against NLTK.

The tables here were computed with the official scripts and with NLTK 3.10.4, never with minibert.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibert.errors import UserError
from minibert.metrics import (
    Metric,
    count_longest_run,
    metric_for,
    score_all,
    score_answer,
    tokenize_cmrc,
    tokenize_words,
)


def read_paragraphs(*files: Path) -> Iterator[dict[str, Any]]:
    for file in files:
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
            yield from article["paragraphs"]


def read_golds(*files: Path) -> dict[str, list[str]]:
    return {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for paragraph in read_paragraphs(*files)
        for question in paragraph["qas"]
    }


# Every question's score, against the official scripts.

SQUAD_FILES = ("squad/train.json", "squad/dev.json")


@pytest.mark.parametrize(
    ("scored", "data", "metric", "n_questions"),
    [
        ("cmrc2018_dev_scored.json", ("cmrc2018/cmrc2018_dev.json",), "cmrc2018", 3219),
        ("squad_bert_ensemble_scored.json", SQUAD_FILES, "squad", 9254),
        ("squad_logistic_scored.json", SQUAD_FILES, "squad", 9254),
    ],
)
def test_every_question_has_the_official_score(
    shared: Path, scored: str, data: tuple[str, ...], metric: Metric, n_questions: int
) -> None:
    official = json.loads((shared / "reference" / scored).read_text(encoding="utf-8"))
    golds = read_golds(*(shared / "data" / name for name in data))
    score = score_all(golds, official["predictions"], metric)

    wrong = {
        question_id: (pair, score.per_question[question_id])
        for question_id, pair in official["per_question"].items()
        if tuple(pair) != score.per_question[question_id]
    }
    assert wrong == {}
    assert score.per_question.keys() == official["per_question"].keys() == golds.keys()
    assert score.total == official["total"] == n_questions
    assert score.exact_match == pytest.approx(official["exact"], abs=1e-9)
    assert score.f1 == pytest.approx(official["f1"], abs=1e-9)
    assert set(score.missing) == golds.keys() - official["predictions"].keys()
    assert score.unknown == ()
    assert score.parts == {}


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("broncos", ["Denver Broncos", "Broncos."], 1, 1),  # the best gold, not the first
        ("in the city of light", ["city of light"], 0, 6 / 7),
        ("dog cat", ["cat dog"], 0, 1),  # a bag of words has no order
        ("cat cat cat", ["cat cat dog"], 0, 2 / 3),  # a word counts as often as both have it
        ("the the cat", ["cat cat"], 0, 2 / 3),
        ("co-operate", ["cooperate"], 1, 1),
        ("theatre", ["atre"], 0, 0),  # an article is a whole word
        ("a\u00a0b  c", ["b c"], 1, 1),
        ("“Paris”", ["Paris"], 0, 0),  # only ASCII punctuation goes
        ("naïve", ["naive"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["The", "Paris"], 1, 0),  # v1.1: equal, yet no token to share
    ],
)
def test_squad_scores_an_answer_as_evaluate_v1_1_does(
    prediction: str, golds: list[str], exact: float, f1: float
) -> None:
    assert score_answer(prediction, golds, "squad") == pytest.approx((exact, f1), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        (" 《战国无双》３：", ["战国无双３"], 1, 1),
        ("战国无双", ["战国无双3"], 0, 8 / 9),
        ("a－b：c·「d」", ["ABCD"], 1, 1),  # the official list goes, and case with it
        ("等等……", ["等等"], 0, 4 / 5),  # its entry for the ellipsis never matches
        ("‘好’", ["好"], 0, 2 / 3),  # it has the closing quote, not the opening one
        ("中国北京大学", ["中国的北京大学"], 0, 8 / 13),  # one unbroken run: 北京大学
        ("国王说是", ["国王", "是"], 0, 2 / 3),
        ("New York", ["New York, USA"], 0, 2 / 3),  # a word is one token, and so is the comma
        ("364.6公里", ["全长364.6公里"], 0, 3 / 4),
        ("U.S. Army", ["u.s.army"], 0, 0),
        ("１９３６年", ["1936年"], 0, 1 / 2),
        ("", ["无"], 0, 0),
        ("，。「」", ["答案"], 0, 0),
        ("。", ["。"], 1, 0),
    ],
)
def test_cmrc_scores_an_answer_as_its_official_script_does(
    prediction: str, golds: list[str], exact: float, f1: float
) -> None:
    assert score_answer(prediction, golds, "cmrc2018") == pytest.approx((exact, f1), abs=1e-12)


def test_the_longest_run_is_that_of_a_brute_force_search() -> None:
    rng = random.Random(0)
    for _ in range(500):
        a, b = ("".join(rng.choices("xyz", k=rng.randrange(9))) for _ in range(2))
        runs = {a[i:j] for i in range(len(a)) for j in range(i + 1, len(a) + 1)}
        assert count_longest_run(a, b) == max((len(run) for run in runs if run in b), default=0)
    popular = "的" * 300  # difflib's autojunk would drop a token this frequent
    assert count_longest_run(popular, "是" + popular) == 300


def test_a_metric_without_a_name_we_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"no metric 'cmrc'; choose 'squad' or 'cmrc2018'"):
        score_answer("a", ["a"], "cmrc")  # type: ignore[arg-type]


# Whole data sets: questions without an answer, predictions that are missing, unknown or empty.

V2_GOLDS: dict[str, list[str]] = {"paris": ["Paris, France", "the"], "rome": ["Rome"], "none": []}


@pytest.mark.parametrize(
    ("predictions", "exact", "f1"),
    [
        (("Paris France", "Rome", ""), (1, 1, 1), (1, 1, 1)),
        (("", "", ""), (0, 0, 1), (0, 0, 1)),
        (("Paris", "Rome", "Rome"), (0, 1, 0), (2 / 3, 1, 0)),
        (("the", "Roma", "The!"), (0, 0, 1), (0, 0, 1)),  # v2.0 drops the gold "the"; "The!" is ""
    ],
)
def test_data_with_unanswerable_questions_is_scored_as_evaluate_v2_0_does(
    predictions: tuple[str, ...], exact: tuple[float, ...], f1: tuple[float, ...]
) -> None:
    score = score_all(V2_GOLDS, dict(zip(V2_GOLDS, predictions, strict=True)), "squad")
    assert [pair[0] for pair in score.per_question.values()] == list(exact)
    assert [pair[1] for pair in score.per_question.values()] == pytest.approx(f1)
    assert json.loads(json.dumps(score.as_dict())) == pytest.approx(
        {
            "exact_match": 100 * sum(exact) / 3,
            "f1": 100 * sum(f1) / 3,
            "total": 3,
            "HasAns_exact": 100 * sum(exact[:2]) / 2,
            "HasAns_f1": 100 * sum(f1[:2]) / 2,
            "HasAns_total": 2,
            "NoAns_exact": 100 * exact[2],
            "NoAns_f1": 100 * f1[2],
            "NoAns_total": 1,
        }
    )


def test_without_unanswerable_questions_v1_1_holds_and_there_are_no_parts() -> None:
    golds = {"paris": V2_GOLDS["paris"], "rome": V2_GOLDS["rome"]}
    score = score_all(golds, {"paris": "the", "rome": "Rome"}, "squad")
    assert score.per_question == {"paris": (1, 0), "rome": (1, 1)}  # v1.1 keeps the gold "the"
    assert score.as_dict() == {"exact_match": 100, "f1": 50, "total": 2}


def test_where_no_question_has_an_answer_there_is_one_part() -> None:
    assert score_all({"a": [], "b": [""]}, {"a": "", "b": "x"}, "squad").as_dict() == {
        "exact_match": 50,
        "f1": 50,
        "total": 2,
        "NoAns_exact": 50,
        "NoAns_f1": 50,
        "NoAns_total": 2,
    }


@pytest.mark.parametrize("golds", [[], [""]])
@pytest.mark.parametrize(("prediction", "right"), [("", 1), ("。 。", 1), ("无", 0)])
def test_cmrc_too_can_have_questions_without_an_answer(
    prediction: str, right: int, golds: list[str]
) -> None:
    assert score_answer(prediction, golds, "cmrc2018") == (right, right)
    score = score_all({"q": golds, "a": ["A"]}, {"q": prediction, "a": "a"}, "cmrc2018")
    assert score.per_question == {"q": (right, right), "a": (1, 1)}  # "a" is no article there


def test_a_missing_prediction_is_wrong_and_an_unknown_one_counts_for_nothing() -> None:
    score = score_all(V2_GOLDS, {"rome": "Rome", "elsewhere": "Rome"}, "squad")
    assert score.missing == ("paris", "none")
    assert score.unknown == ("elsewhere",)
    assert score.per_question == {"paris": (0, 0), "rome": (1, 1), "none": (0, 0)}
    assert score.exact_match == pytest.approx(100 / 3)
    assert (score.parts["HasAns_f1"], score.parts["NoAns_f1"]) == (50, 0)


@pytest.mark.parametrize(
    ("golds", "predictions", "message"),
    [
        ({}, {"a": "x"}, "no question to score"),
        ({"a": ["x"]}, {"a": None}, "prediction for question a is None, which is no string"),
        ({"a": ["1936"]}, {"a": 1936}, "prediction for question a is 1936"),
    ],
)
def test_what_cannot_be_scored_is_named_in_one_sentence(
    golds: dict[str, list[str]], predictions: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        score_all(golds, predictions, "squad")


# The metric that goes with a language.


@pytest.mark.parametrize(
    ("texts", "metric"),
    [
        (["《战国无双3》（）是由光荣和ω-force开发的战国无双系列的正统第三续作。"], "cmrc2018"),
        (["1936 1937 1938 (3.5%) …… 年"], "cmrc2018"),  # figures are not letters
        (["The name 北京 means northern capital."], "squad"),
        (["これは日本語の文章です。東京で書きました。"], "squad"),
        (["word", "中文中文", "中"], "cmrc2018"),  # 5 of 9, all texts taken together
        (["word", "中文中文"], "squad"),  # half is not more than half
        (["123 …"], "squad"),
        ([], "squad"),
    ],
)
def test_the_metric_is_cmrcs_where_most_letters_are_chinese(
    texts: list[str], metric: Metric
) -> None:
    assert metric_for(iter(texts)) == metric


def test_each_data_set_gets_its_own_metric(shared: Path) -> None:
    for name, metric in (("cmrc2018/dev.json", "cmrc2018"), ("squad/dev.json", "squad")):
        paragraphs = read_paragraphs(shared / "data" / name)
        assert metric_for(paragraph["context"] for paragraph in paragraphs) == metric


# NLTK's word tokenizer: a table made with NLTK, each rule of which some row needs, and NLTK itself.

NLTK_TABLE = [
    ("", ""),
    ("on march 1, 1936, at 7:30", "on march 1 , 1936 , at 7:30"),
    ("time:now, then,", "time : now , then ,"),
    ("warriors:", "warriors :"),
    ("3,5,x", "3,5 , x"),
    ('he said "yes" ("no"), then', "he said `` yes '' ( `` no '' ) , then"),
    ('"opening" and closing"', "`` opening '' and closing ''"),
    ("``latex'' quotes", "`` latex '' quotes"),
    ("''hi'' (''yo", "'' hi '' ( `` yo"),
    ("«chevrons» ‘single’ „low“", "« chevrons » ‘ single ’ „ low “"),
    ("'quoted' words and rock 'n' roll", "' quoted ' words and rock 'n ' roll"),
    ("it's we'll they've don't i'm he'd've", "it 's we 'll they 've do n't i 'm he'd 've"),
    ("IT'S WE'LL DON'T", "IT 'S WE 'LL DO N'T"),
    ("the players' hall of o'neill", "the players ' hall of o'neill"),
    ("the players'\t", "the players '"),
    ("can's'.", "can 's ' ."),
    ("cannot gimme gonna gotta lemme", "can not gim me gon na got ta lem me"),
    ("i wanna go", "i wan na go"),
    ("i wanna", "i wan na"),
    ("d'ye want more'n this", "d 'ye want more 'n this"),
    ("so 'tis and 'twas", "so ' tis and ' twas"),
    ("gonna'tis gonna'twas", "gon na 't is gon na 't was"),
    ("mr. smith of the u.s. army.", "mr. smith of the u.s. army ."),
    ('the end.") ', "the end . '' )"),
    ("the end.’", "the end . ’"),
    ("wait.. what... vol.2", "wait .. what ... vol.2"),
    ("a;b@c#d$5%e&f", "a ; b @ c # d $ 5 % e & f"),
    ("1914–1918 — war", "1914 – 1918 — war"),
    ("who? me! yes", "who ? me ! yes"),
    ("5*3", "5 * 3"),
    ("f(x)=[a]{c}<d>.", "f ( x ) = [ a ] { c } < d > ."),
    ("semi--detached", "semi -- detached"),
    ("naïve\u3000c++\ncafé", "naïve c++ café"),
]


@pytest.mark.parametrize(("text", "tokens"), NLTK_TABLE)
def test_words_are_split_as_the_table_made_with_nltk_says(text: str, tokens: str) -> None:
    assert tokenize_words(text) == tokens.split()


def test_chinese_is_split_into_characters_and_the_rest_into_words() -> None:
    assert tokenize_cmrc("由光荣和ωforce (koei's) 开发") == [
        *"由光荣和",
        *("ωforce", "(", "koei", "'s", ")"),
        *"开发",
    ]
    assert tokenize_cmrc("一龥龦龧") == ["一", "龥", "龦龧"]  # where the official range ends
    assert tokenize_cmrc("") == []


@pytest.mark.reference
def test_real_text_is_split_as_nltk_splits_it(shared: Path) -> None:
    nltk_tokenize = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer().tokenize
    squad, cmrc = shared / "data/squad/dev.json", shared / "data/cmrc2018/cmrc2018_dev.json"
    texts = {paragraph["context"] for paragraph in read_paragraphs(squad)}
    texts |= {text for golds in read_golds(squad, cmrc).values() for text in golds}
    texts |= set((shared / "data/sst2/dev.tsv").read_text(encoding="utf-8").splitlines())
    assert len(texts) > 7000
    assert [text for text in sorted(texts) if tokenize_words(text) != nltk_tokenize(text)] == []


@pytest.mark.reference
def test_generated_text_is_split_as_nltk_splits_it() -> None:
    nltk_tokenize = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer().tokenize
    rng = random.Random(0)
    pieces = [*"'\"`.,:;@#$%&?!()[]{}<>*—–«»“”‘’„ \t\nxés3", "''", "``", "..", "--", "  ", "U.S."]
    pieces += ["cannot", "gonna", "wanna", "don't", "'tis", "d'ye", "more'n", "'s", "'ll", "N'T"]
    for _ in range(4000):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        assert tokenize_words(text) == nltk_tokenize(text), text
