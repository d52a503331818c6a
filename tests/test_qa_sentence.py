"""The sentence around an answer, in Chinese and in English."""

from __future__ import annotations

import pytest

from minibert.qa.ask import sentence_around


@pytest.mark.parametrize(
    ("text", "answer", "sentence"),
    [
        ("他来了。“甲在此！”他说。完", "甲", "“甲在此！”"),
        ("一。二？三甲四！五", "甲", "三甲四！"),
        ("他问什么?甲说!好", "甲", "甲说!"),
        ("One. Two is alpha. Three.", "alpha", "Two is alpha."),
        ("Dull. He met Dr. J. R. Ray. Then he left.", "R. Ray", "He met Dr. J. R. Ray."),
        ("Dull. A U.S. Navy had 3.14, as No. 5. End.", "3.14", "A U.S. Navy had 3.14, as No. 5."),
        ("Take e.g. alpha, etc. and beta. End.", "alpha", "Take e.g. alpha, etc. and beta."),
        ('He said "No alpha!" Then he left.', "alpha", 'He said "No alpha!"'),
        ("A heading\n\nThe alpha\nof lines. More", "alpha", "The alpha\nof lines."),
        ("alpha", "alpha", "alpha"),
        ("One ends. Two. Three begins", "ends. Two", "One ends. Two."),
        ("Born in 1745. He died.", "1745.", "Born in 1745."),
        ("  Zuerst alpha  ", "alpha", "Zuerst alpha"),
    ],
)  # fmt: skip
def test_the_sentence_around_an_answer(text: str, answer: str, sentence: str) -> None:
    start = text.index(answer)
    first, last = sentence_around(text, start, start + len(answer))
    assert text[first:last] == sentence


def test_a_sentence_without_end_is_cut_at_a_distance() -> None:
    text = "字" * 5000 + "甲" + "字" * 5000
    first, last = sentence_around(text, 5000, 5001)
    assert 0 < 5000 - first <= 1000 and 0 < last - 5001 <= 1000
