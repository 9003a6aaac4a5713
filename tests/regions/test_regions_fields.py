"""Fields: the lattice, the battlement, prefixes, waves, and a score that white cells do not move."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, box

from wsi_pipeline.config import PipelineConfig, RegionsConfig, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.regions import (
    Field,
    FieldChoice,
    FieldLattice,
    FieldSet,
    Regions,
    choose_fields,
    find_regions,
    narrow,
    regions_from_record,
    regions_record,
    shortest_prefix,
    waves,
)
from wsi_pipeline.regions.field_score import field_score
from wsi_pipeline.regions.fields import FIRST_WAVE_FIELDS, STRIP_FIELDS, battlement

GLASS = (238, 236, 240)
RED, NUCLEUS, CYTOPLASM = (205, 160, 165), (110, 70, 140), (190, 180, 215)

some_fields = st.lists(
    st.builds(lambda c, r: Field(column=c, row=r), st.integers(0, 30), st.integers(0, 30)), unique=True, max_size=80
)
axes = st.sampled_from(("x", "y"))


def rectangle(columns: int, rows: int) -> list[Field]:
    return [Field(column=c, row=r) for r in range(rows) for c in range(columns)]


def places(fields: list[Field]) -> list[tuple[int, int]]:
    return [(f.column, f.row) for f in fields]


# Order -------------------------------------------------------------------------------------------------------------


def test_the_battlement_of_a_small_smear() -> None:
    walked = places(battlement(rectangle(4, 3), "x"))
    assert walked == [
        (0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1), (0, 2), (1, 2), (2, 2),
        (3, 2), (3, 1), (3, 0),
    ]  # fmt: skip
    assert [(r, c) for c, r in places(battlement(rectangle(3, 4), "y"))] == walked


@given(some_fields, axes, st.randoms())
def test_every_field_comes_once_however_they_are_given(fields: list[Field], along: Any, random: Any) -> None:
    shuffled = fields[:]
    random.shuffle(shuffled)
    assert sorted(battlement(fields, along)) == sorted(fields)
    assert battlement(shuffled, along) == battlement(fields, along)


@given(some_fields, axes, st.sets(st.integers(0, 79)))
def test_a_field_left_out_moves_no_other(fields: list[Field], along: Any, out: set[int]) -> None:
    left = [field for i, field in enumerate(fields) if i not in out]
    assert battlement(left, along) == [field for field in battlement(fields, along) if field in left]


@given(st.integers(1, 5), st.integers(1, 12))
def test_the_walk_goes_from_field_to_neighbour_and_strip_by_strip_across_the_width(strips: int, width: int) -> None:
    walked = battlement(rectangle(strips * STRIP_FIELDS, width), "x")
    for n, (one, two) in enumerate(itertools.pairwise(walked), start=1):
        step = abs(one.column - two.column) + abs(one.row - two.row)
        # After an even number of lines the walk ends on the strip's near side, and has to cross over.
        assert step == 1 or (n % (STRIP_FIELDS * width) == 0 and one.row == two.row and step <= 2 * STRIP_FIELDS - 1)
    for strip in range(strips):
        part = walked[strip * STRIP_FIELDS * width : (strip + 1) * STRIP_FIELDS * width]
        assert {f.column // STRIP_FIELDS for f in part} == {strip}


# Prefixes and waves ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 120))
def test_the_prefix_is_the_shortest_that_reaches_the_target(counts: list[int], target: int) -> None:
    n = shortest_prefix(counts, target)
    if n is None:
        assert sum(counts) < target
    else:
        assert sum(counts[:n]) >= target > sum(counts[: n - 1])


@given(st.integers(0, 5000))
def test_waves_cover_all_fields_once_and_grow(n: int) -> None:
    cuts = waves(n)
    assert [i for cut in cuts for i in cut] == list(range(n))
    assert len(cuts) < 20
    if n > FIRST_WAVE_FIELDS:
        assert len(cuts[0]) == FIRST_WAVE_FIELDS
        assert all(len(b) >= len(a) for a, b in itertools.pairwise(cuts[:-1]))
    # What n is does not move the waves before the last.
    assert cuts[:-1] == waves(n + 100)[: max(0, len(cuts) - 1)]


# Lattice -----------------------------------------------------------------------------------------------------------

LATTICE = FieldLattice(side_um=64, mpp_x=0.25, mpp_y=0.5)


def test_a_field_is_a_candidate_when_half_of_it_is_inside() -> None:
    width, height = 64 / 0.25, 64 / 0.5
    included = box(0.5 * width, 0, 2.49 * width, 1.5 * height)
    inside = LATTICE.candidates(included)
    assert places(list(inside)) == [(0, 0), (1, 0), (1, 1)]
    assert list(inside.values()) == pytest.approx([0.5, 1, 0.5])
    assert LATTICE.candidates(MultiPolygon()) == {}
    hole = included.difference(box(width, 0, 2 * width, 0.6 * height))
    assert places(list(LATTICE.candidates(hole))) == [(0, 0), (1, 1)]


@given(st.integers(0, 40000), st.integers(0, 40000), st.sampled_from([0.25, 0.2527, 0.5]), st.sampled_from([64, 100.0]))
def test_a_seed_belongs_to_the_field_it_lies_in(x: int, y: int, mpp: float, side: float) -> None:
    column, row = int((x + 0.5) * mpp // side), int((y + 0.5) * mpp // side)
    around = tuple(Field(column=column + i, row=row + j) for i in (0, 1) for j in (0, 1))[::-1]
    fields = FieldSet(fields=around, side_um=side, mpp=mpp)
    assert fields.owner(np.array([x]), np.array([y])).tolist() == [3]
    without = FieldSet(fields=around[:-1], side_um=side, mpp=mpp)
    assert not without.owns(np.array([x]), np.array([y])).any()
    assert not FieldSet(fields=(), side_um=side, mpp=mpp).owns(np.array([x]), np.array([y])).any()


# Score -------------------------------------------------------------------------------------------------------------


def picture(cover: float = 0.4, white: int = 0, side: int = 256) -> np.ndarray:
    """Return a field at 1 um per pixel: red cells, and white ones on top."""
    rng = np.random.default_rng(3)
    fine = np.empty((side * 4, side * 4, 3), np.uint8)
    fine[:] = GLASS
    for x, y in rng.integers(0, side * 4, (int(-np.log(1 - cover) * side * side / 44), 2)).tolist():
        cv2.circle(fine, (x, y), 15, RED, -1)
    for x, y in rng.integers(60, side * 4 - 60, (white, 2)).tolist():
        cv2.circle(fine, (x, y), 28, CYTOPLASM, -1)
        cv2.circle(fine, (x, y), 20, NUCLEUS, -1)
    small = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.clip(small + rng.normal(0, 1.5, small.shape), 0, 255).astype(np.uint8)


def test_a_monolayer_in_focus_scores_full_and_the_rest_little() -> None:
    assert field_score(picture(), 1.0) > 0.95
    assert field_score(picture(0.0), 1.0) == 0
    assert field_score(picture(0.995), 1.0) < 0.1
    blurred = [field_score(cv2.GaussianBlur(picture(), (0, 0), sigma), 1.0) for sigma in (1, 2, 3)]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[-1] < 0.1
    assert field_score(np.zeros((0, 0, 3), np.uint8), 1.0) == 0


@pytest.mark.parametrize("cover", [0.06, 0.4, 0.85])
def test_white_cells_do_not_move_the_score(cover: float) -> None:
    without = field_score(picture(cover), 1.0)
    for white in (1, 5, 20):
        assert field_score(picture(cover, white), 1.0) == pytest.approx(without, abs=0.06)


# Choosing ----------------------------------------------------------------------------------------------------------

FIELDS = RegionsConfig(mode="all", field_um=256)


@pytest.fixture
def smear(open_image: Callable[..., Any]) -> Any:
    """Return a slide at 1 um per pixel of 6 x 3 fields; the second column is empty glass."""
    field = picture()
    image = np.tile(field, (3, 6, 1))
    image[:, 256:512] = picture(0.0)[:1].mean(axis=(0, 1)).astype(np.uint8)
    return open_image(image, mpp=1.0)


def area_by_reason(regions: Regions) -> dict[str, float]:
    return {part.reason: round(part.geometry.area / 256**2, 6) for part in regions.excluded}


def test_poor_fields_are_left_out_and_the_area_limit_cuts_the_walk(smear: Any) -> None:
    regions = find_regions(smear, specimen="blood_smear", config=FIELDS)
    choice = choose_fields(smear, regions.included, FIELDS)
    assert places(list(choice.poor)) == [(1, 0), (1, 1), (1, 2)]
    assert len(choice.fields) == 15
    limited = FIELDS.model_copy(update={"max_area_mm2": 4.5 * 256**2 * 1e-6})
    some = choose_fields(smear, regions.included, limited)
    assert some.fields == choice.fields[:4]
    assert places(list(some.fields)) == [(0, 0), (2, 0), (2, 1), (0, 1)]
    narrowed = narrow(regions, some, smear, limited)
    assert area_by_reason(narrowed) == {"poor-field": 2, "beyond-max-area": 12}
    assert narrowed.area_mm2 == pytest.approx(4 * 256**2 * 1e-6)
    assert narrowed.area_mm2 <= limited.max_area_mm2
    assert narrowed.facts["fields"]["chosen"] == 4
    assert narrowed.facts["fields"]["visited"] == 6


def test_every_part_is_included_or_has_a_reason(smear: Any) -> None:
    drawn = shapely.Polygon([(30, 20), (1500, 60), (1300, 700), (40, 600)])
    regions = dataclasses.replace(
        find_regions(smear, specimen="blood_smear", config=FIELDS), included=MultiPolygon([drawn])
    )
    choice = choose_fields(smear, drawn, FIELDS)
    narrowed = narrow(regions, choice, smear, FIELDS, taken=5)
    assert narrowed.included.within(drawn.buffer(1e-6))
    parts = [narrowed.included, *(part.geometry for part in narrowed.excluded)]
    assert sum(part.area for part in parts) == pytest.approx(drawn.area)
    assert shapely.union_all(parts).symmetric_difference(drawn).area < 1e-6
    assert {part.reason for part in narrowed.excluded} == {"poor-field", "beyond-target", "partial-field"}
    assert narrowed.facts["fields"]["beyond_target"] == len(choice.fields) - 5


def test_a_smear_without_good_fields_is_empty_and_says_why(open_image: Callable[..., Any]) -> None:
    slide = open_image(picture(0.0, side=600), mpp=1.0)
    regions = find_regions(slide, specimen="blood_smear", config=FIELDS)
    narrowed = narrow(regions, choose_fields(slide, regions.included, FIELDS), slide, FIELDS)
    assert narrowed.is_empty
    assert narrowed.empty_reason == "poor-field"


def test_records_are_exact(smear: Any) -> None:
    regions = find_regions(smear, specimen="blood_smear", config=FIELDS)
    odd = dataclasses.replace(regions, included=MultiPolygon([box(0.1, 1 / 3, 700.7, 500.123456789)]))
    choice = choose_fields(smear, odd.included, FIELDS)
    assert FieldChoice.from_record(json.loads(json.dumps(choice.to_record()))) == choice
    narrowed = narrow(odd, choice, smear, FIELDS, taken=1)
    again = regions_from_record(json.loads(json.dumps(regions_record(narrowed))))
    assert again == narrowed


# Configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["all", 100, 137])
def test_targets_that_are_allowed(target: Any) -> None:
    assert load_config("blood_smear", {"regions.target_white_cells": target}).regions.has_target == (target != "all")


@pytest.mark.parametrize("target", [0, -5, True, 99.5, "many"])
def test_targets_that_are_not(target: Any) -> None:
    with pytest.raises(ConfigError, match="target_white_cells"):
        load_config("blood_smear", {"regions.target_white_cells": target})


def test_settings_that_make_no_sense_together() -> None:
    assert not PipelineConfig().regions.chooses_fields
    with pytest.raises(ConfigError, match=r"without cells\.classifier"):
        load_config("blood_smear", {"regions.target_white_cells": 100, "cells.classifier": None})
    for key, value in (("target_white_cells", 100), ("max_area_mm2", 1)):
        with pytest.raises(ConfigError, match="a trephine is read whole"):
            load_config("trephine", {f"regions.{key}": value})
    with pytest.raises(ConfigError, match="less than one field"):
        load_config("blood_smear", {"regions.max_area_mm2": 0.05})
