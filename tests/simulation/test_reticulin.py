"""Drawn reticulin slides hold the fibres that were asked for, and say that they are drawn."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.simulation.reticulin import MPP, ReticulinShape, draw_reticulin, grade_of
from wsi_pipeline.simulation.reticulin_cohort import draw_shape, make_reticulin_cohort
from wsi_pipeline.slides import is_virtual, open_slide


def test_density_is_as_planted_and_pixels_repeat():
    shape = ReticulinShape(density=60.0)
    drawn, again = (draw_reticulin(shape, width=700, height=600, seed=4) for _ in range(2))
    assert drawn.density == pytest.approx(60.0, rel=0.01)
    assert np.array_equal(drawn.pixels, again.pixels)
    other = draw_reticulin(shape, width=700, height=600, seed=5)
    assert not np.array_equal(drawn.pixels, other.pixels)


def test_more_fibres_are_darker_and_without_any_none_are_drawn():
    means = []
    for density in (0.0, 20.0, 200.0):
        drawn = draw_reticulin(ReticulinShape(density=density), width=600, height=600, seed=2)
        assert drawn.density == pytest.approx(density, abs=1.0)
        means.append(float((drawn.pixels[drawn.marrow].max(axis=-1) < 120).mean()))
    assert means[0] < 0.001 < means[1] < means[2]


@pytest.mark.parametrize("wrong", [{"density": -1}, {"density": 10, "fat_share": 0.9}, {"density": 1, "silver": 9}])
def test_shapes_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="a reticulin slide has"):
        ReticulinShape(**wrong)


def test_sizes_out_of_range_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="sides are 512"):
        draw_reticulin(ReticulinShape(density=1), width=100, height=600, seed=0)
    for wrong in ({"slides": 3}, {"area_mm2": 99}, {"seed": -1}):
        with pytest.raises(ConfigError):
            make_reticulin_cohort(tmp_path, **{"slides": 4, "seed": 0, "area_mm2": 0.5, **wrong})


def test_a_cohort_has_slides_of_several_grades_and_says_it_is_simulated(tmp_path: Path):
    made = make_reticulin_cohort(tmp_path, slides=4, seed=1, area_mm2=0.5)
    entries = read_manifest(made.manifest)
    assert len({entry.label for entry in entries}) >= 3
    assert all(entry.simulated for entry in entries)
    with made.truth.open() as file:
        truth = {row["slide_id"]: row for row in csv.DictReader(file)}
    for entry in entries:
        assert is_virtual(entry.path)
        row = truth[entry.slide_id]
        assert int(row["grade"]) == grade_of(float(row["density_mm_per_mm2"])) == int(entry.label)
        with open_slide(entry.path) as slide:
            assert slide.mpp.x == pytest.approx(MPP)


def test_what_else_differs_does_not_follow_the_density():
    shapes = [draw_shape(i, 200, 0) for i in range(200)]
    density = np.argsort(np.argsort([s.density for s in shapes]))
    for name in ("thickness_um", "silver", "counterstain", "fat_share", "ground"):
        other = np.argsort(np.argsort([getattr(s, name) for s in shapes]))
        assert abs(np.corrcoef(density, other)[0, 1]) < 0.2


def test_an_uneven_stain_changes_the_stain_and_no_fibre():
    even = [draw_shape(i, 200, 0) for i in range(200)]
    uneven = [draw_shape(i, 200, 0, uneven_stain=True) for i in range(200)]
    stain = {"silver": 0.0, "nuclear_silver": 0.0, "grains_per_mm2": 0.0}
    assert [replace(s, **{**stain, "silver": 1.0}) for s in even] == [
        replace(s, **{**stain, "silver": 1.0}) for s in uneven
    ]
    for name in stain:
        follows = spearmanr([s.density for s in uneven], [getattr(s, name) for s in uneven]).statistic
        assert abs(follows) < 0.2


def test_silver_in_nuclei_and_grains_are_dark_without_fibres():
    plain, nuclei, grains = (
        draw_reticulin(ReticulinShape(density=0.0, **more), width=600, height=600, seed=2)
        for more in ({}, {"nuclear_silver": 0.8}, {"grains_per_mm2": 2000.0})
    )
    dark = [float((d.pixels[d.marrow].max(axis=-1) < 120).mean()) for d in (plain, nuclei, grains)]
    assert dark[0] < 0.001
    assert dark[1] > 0.05
    assert 0.002 < dark[2] < 0.05
    assert nuclei.density == grains.density == 0.0
