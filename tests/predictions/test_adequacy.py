"""The verdict on a slide's quality, at its limits."""

from __future__ import annotations

from typing import Any

import pytest

from wsi_pipeline.config import PredictionsConfig
from wsi_pipeline.predictions.adequacy import gallery_adequacy, slide_adequacy

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


def test_a_gallery() -> None:
    assert gallery_adequacy(n=200, config=CONFIG, images=100, used=95).level == "enough"
    found = gallery_adequacy(n=200, config=CONFIG, images=100, used=94)
    assert [one.wording for one in found.shortcomings] == ["6 of 100 images could not be used (limit 5 %)"]
    assert found.to_dict()["shortcomings"][0]["level"] == "caution"
