"""The picture of a run, read back: circles and lines, measured against the axes' own ticks."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from minibert.curves import curves

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]


def draw(folder: Path, records: list[dict[str, Any]]) -> ElementTree.Element:
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return ElementTree.fromstring(curves(metrics))


def texts(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def step(number: int, loss: float) -> dict[str, Any]:
    return {"epoch": 1, "step": number, "lr": 1e-5, "loss": loss, "tokens_per_second": 900.0}


def strokes(picture: ElementTree.Element) -> list[tuple[str, list[Point]]]:
    """(stroke width, points) of every polyline."""
    lines = []
    for line in picture.iter(f"{SVG}polyline"):
        pairs = [pair.split(",") for pair in line.attrib["points"].split()]
        lines.append((line.attrib["stroke-width"], [(float(x), float(y)) for x, y in pairs]))
    return lines


def dots(picture: ElementTree.Element) -> list[Point]:
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in picture.iter(f"{SVG}circle")]


def values(picture: ElementTree.Element, places: list[Point], right: bool) -> list[Point]:
    """What the places in one of the two plots mean, by what is written at the axes' ticks."""
    side = [t for t in picture.iter(f"{SVG}text") if (float(t.attrib["x"]) > 420) == right]
    ticks: dict[str, list[Point]] = {"x": [], "y": []}
    for text in side:
        number = (text.text or "").replace(",", "")
        if not number.replace(".", "").replace("-", "").isdigit():
            continue
        if text.attrib["text-anchor"] == "end":  # 4 below the tick, so that it is centred
            ticks["y"].append((float(text.attrib["y"]) - 4, float(number)))
        else:
            ticks["x"].append((float(text.attrib["x"]), float(number)))
    assert len(ticks["x"]) >= 2 and len(ticks["y"]) >= 2
    return [(between(ticks["x"], x), between(ticks["y"], y)) for x, y in places]


def between(ticks: list[Point], place: float) -> float:
    (p, v), (q, w) = ticks[0], ticks[-1]
    return v + (place - p) * (w - v) / (q - p)


def test_the_picture_is_an_svg_of_800_by_360_on_white(tmp_path: Path) -> None:
    picture = draw(tmp_path, [step(20, 2.5), {"epoch": 1, "f1": 80.0}])
    assert picture.tag == f"{SVG}svg"
    assert (picture.attrib["width"], picture.attrib["height"]) == ("800", "360")
    background = picture[0]
    assert background.tag == f"{SVG}rect" and background.attrib["fill"] == "#fff"
    assert {"training loss", "scores on the dev set", "step", "epoch"} <= set(texts(picture))


def test_every_score_stands_where_the_axes_say(tmp_path: Path) -> None:
    f1 = [(1, 71.5), (2, 83.25), (3, 84.0)]
    exact = [(1, 52.0), (2, 64.5), (3, 63.0)]
    records = [
        {"epoch": epoch, "exact_match": em, "f1": f, "total": 3219}
        for (epoch, em), (_, f) in zip(exact, f1, strict=True)
    ]
    picture = draw(tmp_path, records)
    assert values(picture, dots(picture), right=True) == [
        pytest.approx(point, abs=0.1) for point in [*exact, *f1]
    ]
    assert all(460 <= x <= 784 and 50 <= y <= 312 for x, y in dots(picture))  # in the frame
    assert {x for x, _ in dots(picture)} == {460, 622, 784}
    assert {"exact_match", "f1"} <= set(texts(picture))
    assert "total" not in texts(picture)  # 3,219 is no score


def test_the_loss_stands_where_the_axes_say_and_is_smoothed(tmp_path: Path) -> None:
    losses = [(20 * i, 1 + 4 / i + (-1) ** i * 0.3) for i in range(1, 61)]
    picture = draw(tmp_path, [step(*point) for point in losses])
    (thin, raw), (thick, smoothed) = strokes(picture)
    assert (thin, thick) == ("1", "2")
    found = values(picture, raw, right=False)
    assert [x for x, _ in found] == [pytest.approx(x, abs=0.5) for x, _ in losses]
    assert [y for _, y in found] == [pytest.approx(y, abs=0.01) for _, y in losses]
    assert {"loss", "smoothed"} <= set(texts(picture))

    def roughness(line: list[Point]) -> float:
        return sum(abs(b[1] - a[1]) for a, b in pairwise(line))

    assert len(smoothed) == len(raw)
    assert roughness(smoothed) < roughness(raw) / 2
    middle = values(picture, smoothed, right=False)[30][1]  # means 0.3 up and down away
    assert middle == pytest.approx(1 + 4 / 31, abs=0.1)


def test_the_longer_a_run_the_more_points_are_smoothed(tmp_path: Path) -> None:
    picture = draw(tmp_path, [step(20 * i, 2 + (-1) ** i * 0.5) for i in range(1, 501)])
    (_, smoothed) = strokes(picture)[1]
    inner = [y for _, y in values(picture, smoothed, right=False)[50:-50]]
    assert max(abs(y - 2) for y in inner) < 0.03  # with two neighbours alone it would be 0.17


@pytest.mark.parametrize("name", ["accuracy", "HasAns_f1", "mcc"])
def test_any_score_of_any_name_is_drawn(tmp_path: Path, name: str) -> None:
    records = [{"epoch": epoch, name: 0.8 + epoch / 100} for epoch in (1, 2)]
    picture = draw(tmp_path, records)
    assert name in texts(picture)
    assert [v for _, v in values(picture, dots(picture), right=True)] == [
        pytest.approx(0.81, abs=1e-3),
        pytest.approx(0.82, abs=1e-3),
    ]


def test_counts_and_thresholds_and_words_are_no_scores(tmp_path: Path) -> None:
    record = {"epoch": 1, "f1": 80.0, "HasAns_total": 5928, "null_threshold": -3.5, "note": "best"}
    record |= {"train_seconds": 404.2, "token_efficiency": 0.96}
    picture = draw(tmp_path, [record])
    assert len(dots(picture)) == 1
    assert not (record.keys() - {"epoch", "f1"}) & {*texts(picture)}


def test_shares_are_drawn_as_percentages_beside_percentages_and_losses_are_left_out(
    tmp_path: Path,
) -> None:
    record = {"epoch": 1, "exact_match": 0.6, "f1": 60.0, "words_accuracy": 0.17}
    record |= {"words_loss": 5.7, "words_total": 500}
    picture = draw(tmp_path, [record])
    assert [v for _, v in values(picture, dots(picture), right=True)] == [
        pytest.approx(0.6, abs=0.2),
        pytest.approx(60, abs=0.2),
        pytest.approx(17, abs=0.2),
    ]
    assert not {"words_loss", "words_total"} & {*texts(picture)}


def test_a_run_without_a_point_says_so_in_both_plots(tmp_path: Path) -> None:
    picture = draw(tmp_path, [])
    assert texts(picture).count("nothing recorded yet") == 2
    assert not dots(picture) and not strokes(picture)


def test_one_point_is_a_dot(tmp_path: Path) -> None:
    picture = draw(tmp_path, [step(20, 2.5), {"epoch": 1, "f1": 80.0}])
    assert not strokes(picture)
    loss = [place for place in dots(picture) if place[0] < 420]
    score = [place for place in dots(picture) if place[0] > 420]
    assert set(loss) == {loss[0]} and len(loss) == 2  # the loss, and the same smoothed
    assert values(picture, loss[:1], right=False) == [pytest.approx((20, 2.5), abs=0.02)]
    assert values(picture, score, right=True) == [pytest.approx((1, 80.0), abs=0.1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_gap_and_is_counted(tmp_path: Path, bad: float) -> None:
    losses = [3.0, 2.5, 2.0, bad, 1.5, 1.2, 1.0]
    picture = draw(tmp_path, [step(20 * i, loss) for i, loss in enumerate(losses, 1)])
    raw = [points for width, points in strokes(picture) if width == "1"]
    assert [len(points) for points in raw] == [3, 3]
    assert "loss (1 not finite)" in texts(picture)
    coordinates = [c for points in raw for point in points for c in point]
    assert all(0 <= c <= 800 for c in coordinates)


def test_losses_of_which_none_is_finite_are_no_error(tmp_path: Path) -> None:
    picture = draw(tmp_path, [step(20, math.nan), step(40, math.inf), {"epoch": 1, "f1": math.nan}])
    assert texts(picture).count("nothing recorded yet") == 2
    assert "loss (2 not finite)" in texts(picture)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 12345.0, 1e30])
@pytest.mark.parametrize("n", [1, 2, 500])
def test_ticks_are_few_round_and_within_the_plot(tmp_path: Path, scale: float, n: int) -> None:
    picture = draw(tmp_path, [step(20 * i, scale * (1 + 1 / i)) for i in range(1, n + 1)])
    left = [t for t in picture.iter(f"{SVG}text") if float(t.attrib["x"]) < 420]
    for axis, anchor in (("y", "end"), ("x", "middle")):
        ticks = [t for t in left if t.attrib.get("text-anchor") == anchor]
        ticks = [t for t in ticks if t.text not in ("step", "nothing recorded yet")]
        assert 2 <= len(ticks) <= 8
        assert len({t.text for t in ticks}) == len(ticks)
        assert all(len(t.text or "") <= 7 for t in ticks)
        assert all(10 < float(t.attrib[axis]) < 400 for t in ticks)


def test_epochs_have_whole_numbers_for_ticks(tmp_path: Path) -> None:
    picture = draw(tmp_path, [{"epoch": epoch, "f1": 80.0 + epoch} for epoch in (1, 2)])
    ticks = [t for t in picture.iter(f"{SVG}text") if t.attrib.get("y") == "330"]
    assert [t.text for t in ticks if float(t.attrib["x"]) > 420] == ["1", "2"]


def test_many_scores_have_a_legend_in_rows_that_fits(tmp_path: Path) -> None:
    names = [f"{part}{score}" for part in ("", "HasAns_", "NoAns_") for score in ("exact", "f1")]
    picture = draw(tmp_path, [{"epoch": 1, **dict.fromkeys(names, 50.0)}])
    written = {t.text: t for t in picture.iter(f"{SVG}text") if t.text in names}
    assert list(written) == names
    ends = [float(t.attrib["x"]) + 6.5 * len(name) for name, t in written.items()]
    assert max(ends) <= 800
    assert len({t.attrib["y"] for t in written.values()}) == 2


def test_names_are_escaped_and_a_line_cut_off_is_left_out(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    good = json.dumps({"epoch": 1, "<f1> & more": 80.0})
    metrics.write_bytes(good.encode() + b'\n[1]\n{"epoch": 2, "<f1> \xff')
    picture = ElementTree.fromstring(curves(metrics))
    assert "<f1> & more" in texts(picture)
    assert len(dots(picture)) == 1
