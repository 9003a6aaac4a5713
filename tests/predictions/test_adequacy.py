"""The verdict on a slide's quality, at its limits."""

from __future__ import annotations

from typing import Any

import pytest

from wsi_pipeline.config import FibrosisConfig, PredictionsConfig
from wsi_pipeline.predictions.adequacy import fibrosis_adequacy, gallery_adequacy, slide_adequacy
from wsi_pipeline.predictions.fibrosis import fibrosis_index

CONFIG = PredictionsConfig(min_cells=100, target_cells=200)


def judged(**changes: Any) -> tuple[str, list[str]]:
    usual: dict[str, Any] = {
        "n": 200, "config": CONFIG, "n_cells": 1000, "truncated": 100, "searched_mm2": 0.99, "lost_mm2": 0.01,
        "facts": {"film_mm2": 2.0, "excluded_mm2": {"out-of-focus": 0.6, "too-dark": 0.4, "too-thick": 1.0}},
    }  # fmt: skip
    found = slide_adequacy(**{**usual, **changes})
    return found.level, [one.code for one in found.shortcomings]


def test_at_the_limits_it_is_enough() -> None:
    assert judged() == ("enough", [])


@pytest.mark.parametrize(
    ("changes", "level", "code"),
    [
        ({"n": 199}, "caution", "few-cells"),
        ({"n": 99}, "not-enough", "too-few-cells"),
        ({"truncated": 101}, "caution", "truncated"),
        ({"lost_mm2": 0.02}, "caution", "corrupt-tile"),
        ({"lost_mm2": 0.2}, "not-enough", "corrupt-tile"),
        ({"facts": {"film_mm2": 2.0, "excluded_mm2": {"out-of-focus": 1.1}}}, "caution", "out-of-focus"),
    ],
)
def test_beyond_a_limit(changes: dict[str, Any], level: str, code: str) -> None:
    assert judged(**changes) == (level, [code])


def test_the_worst_decides_and_all_are_named() -> None:
    assert judged(n=3, truncated=500) == ("not-enough", ["too-few-cells", "truncated"])


def test_a_section_has_no_denominator_and_an_empty_slide_no_shares() -> None:
    assert judged(n=None) == ("enough", [])
    assert judged(n=None, n_cells=0, truncated=0, searched_mm2=0.0, lost_mm2=0.0, facts={}) == ("enough", [])


@pytest.mark.parametrize(
    ("trephine", "facts", "level", "code"),
    [
        ({"reason": "no-marrow"}, {}, "not-enough", "no-marrow"),
        ({"reason": "too-few-megakaryocytes", "megakaryocytes": {"n": 7}}, {}, "caution", "too-few-megakaryocytes"),
        ({"reason": None}, {"cellularity": {"percent": None}}, "caution", "no-cellularity"),
        ({"reason": None}, {"stain": {"kind": "other"}}, "caution", "other-stain"),
    ],
)
def test_a_trephine(trephine: dict[str, Any], facts: dict[str, Any], level: str, code: str) -> None:
    assert judged(n=None, trephine=trephine, facts=facts) == (level, [code])
    assert judged(n=None, trephine={"reason": None}, facts={"cellularity": {"percent": 40.0}}) == ("enough", [])


@pytest.mark.parametrize(
    ("n", "side", "lost", "level", "codes"),
    [
        (36, 600.0, 0.0, "enough", []),
        (36, 600.0, 0.2, "not-enough", ["corrupt-tile"]),
        (36, 1.0, 0.0, "caution", ["too-few-marrow-spaces"]),
        (29, 600.0, 0.0, "not-enough", ["too-little-marrow"]),
        (0, 600.0, 0.0, "not-enough", ["no-marrow"]),
    ],
)
def test_a_reticulin_slide(n: int, side: float, lost: float, level: str, codes: list[str]) -> None:
    places = [(side * i, 0.0) for i in range(n)]
    share = fibrosis_index([0.1] * n, [0.05] * n, places, min_tiles=30)
    found = fibrosis_adequacy(share, config=FibrosisConfig(min_tiles=30), searched_mm2=1.0, lost_mm2=lost)
    assert (found.level, [one.code for one in found.shortcomings]) == (level, codes)


def test_a_gallery() -> None:
    assert gallery_adequacy(n=200, config=CONFIG, images=100, used=95).level == "enough"
    found = gallery_adequacy(n=200, config=CONFIG, images=100, used=94)
    assert [one.wording for one in found.shortcomings] == ["6 of 100 images could not be used (limit 5 %)"]
    assert found.to_dict()["shortcomings"][0]["level"] == "caution"
