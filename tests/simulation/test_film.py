"""The film of a smear: all zones are there, each follows from place and seed alone, and cells follow the zones."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation import load_profile, make_virtual_slide
from wsi_pipeline.simulation.film import GLASS, Film
from wsi_pipeline.simulation.layout import SQUARE_UM, Layout
from wsi_pipeline.simulation.sprites import load_sprites


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    width=st.floats(500, 100_000),
    height=st.floats(500, 100_000),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
)
def test_every_place_has_one_zone(seed: int, width: float, height: float, x: float, y: float) -> None:
    zone = Film(width_um=width, height_um=height, seed=seed).at(x * width, y * height)
    assert zone == Film(width_um=width, height_um=height, seed=seed).at(x * width, y * height)
    assert 0 <= zone.density <= 2.6
    assert 0 <= zone.thickness <= 1
    assert (zone.density == 0) == (zone.white_density == 0) == (zone == GLASS)


@pytest.mark.parametrize(("width", "height"), [(20_000.0, 8_000.0), (8_000.0, 20_000.0)])
def test_from_thick_to_feathered_edge_along_the_longer_side(width: float, height: float) -> None:
    film = Film(width_um=width, height_um=height, seed=5)

    def at(along: float, across: float = 0.5):
        return film.at(along * width, across * height) if width > height else film.at(across * width, along * height)

    assert at(0.0) == at(0.995) == GLASS
    assert at(0.5, 0.0) == at(0.5, 1.0) == GLASS
    assert at(0.15).thickness > 0.3
    assert at(0.15).density > 1.4
    assert at(0.55).thickness == 0
    assert at(0.55).density == 1
    assert 0 < at(0.84).density < 0.9
    ends = [next(a for a in np.linspace(0.7, 1, 200) if at(a, c) == GLASS) for c in np.linspace(0.15, 0.85, 40)]
    assert np.ptp(ends) > 0.02, "the edge is ragged"


def test_cells_follow_the_film() -> None:
    film = Film(width_um=6400.0, height_um=3200.0, seed=2)
    layout = Layout(load_profile("normal"), load_sprites(), 2, film)
    row = 24

    def cells(along: float) -> int:
        column = int(along * 6400 / SQUARE_UM)
        squares = [(column + i, row + j) for i in range(3) for j in range(3)]
        return sum(thing.layer == "red" for square in squares for thing in layout.square(*square))

    assert cells(0.0) == 0
    assert cells(0.12) > 1.25 * cells(0.55) > 0
    assert cells(0.55) > 1.2 * cells(0.86)


def test_a_slide_with_a_film(tmp_path: Path) -> None:
    made = make_virtual_slide(tmp_path / "film.tiff", profile="normal", size_px=(3000, 1500), seed=4, film=True)
    with openslide.OpenSlide(str(made.path)) as slide:
        thumb = np.asarray(slide.get_thumbnail((300, 150)).convert("L")).astype(float)
    columns = thumb[30:-30].mean(axis=0)
    assert columns[:8].mean() > columns[40:70].mean() + 15, "glass is brighter than the thick end"
    with made.truth.open(newline="") as file:
        x = [float(row["x_px0"]) for row in csv.DictReader(file)]
    assert min(x) > 60


def test_a_section_has_no_film(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no film"):
        make_virtual_slide(tmp_path / "a.tiff", profile="section", size_px=512, seed=0, film=True)
