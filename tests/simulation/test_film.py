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
from wsi_pipeline.simulation.film import Film
from wsi_pipeline.simulation.layout import SQUARE_UM, Layout
from wsi_pipeline.simulation.sprites import load_sprites


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    width=st.floats(500, 100_000),
    height=st.floats(500, 100_000),
    x=st.floats(-0.1, 1.1),
    y=st.floats(-0.1, 1.1),
)
def test_a_place_has_the_same_zone_on_every_grid(seed: int, width: float, height: float, x: float, y: float) -> None:
    film = Film(width_um=width, height_um=height, seed=seed)
    one = film.at(np.array([x * width]), np.array([y * height]))
    many = film.at(x * width + np.array([-50.0, 0.0, 64.0]), y * height + np.array([0.0, 33.0]))
    for alone, among in zip(one, many, strict=True):
        assert among.shape == (2, 3)
        assert alone[0, 0] == pytest.approx(among[0, 1], abs=1e-9)
    assert 0 <= one.density[0, 0] <= 2.6
    assert 0 <= one.thickness[0, 0] <= 1
    assert (one.density[0, 0] == 0) == (one.white_density[0, 0] == 0)
    if not (0 < x < 1 and 0 < y < 1):
        assert one.density[0, 0] == 0


@pytest.mark.parametrize(("width", "height"), [(20_000.0, 8_000.0), (8_000.0, 20_000.0)])
def test_from_thick_to_feathered_edge_along_the_longer_side(width: float, height: float) -> None:
    film = Film(width_um=width, height_um=height, seed=5)
    steps = np.linspace(0, 1, 401)
    density, _, thickness = film.at(steps * width, steps * height)
    if width < height:
        density, thickness = density.T, thickness.T
    # Rows are now across the film, columns along it.
    assert not density[:, 0].any()
    assert not density[:, -3:].any()
    assert not density[0].any()
    assert not density[-1].any()
    assert thickness[200, 60] > 0.3
    assert density[200, 60] > 1.4
    assert thickness[200, 220] == 0
    assert density[200, 220] == 1
    assert 0 < density[200, 325] < 0.9
    ends = [np.flatnonzero(row)[-1] for row in density[60:340]]
    assert np.ptp(ends) > 0.02 * 400, "the edge is ragged"


def test_the_border_of_the_film_is_no_staircase_of_squares() -> None:
    """Near the border, the cells of a square lie on the side of the film, not all over the square."""
    film = Film(width_um=6400.0, height_um=3200.0, seed=2)
    layout = Layout(load_profile("normal"), load_sprites(), 2, film)
    densities, cut = [], 0
    for row in range(50):
        for column in range(100):
            nodes = np.linspace(1.0, SQUARE_UM - 1.0, 17)
            density = film.at(column * SQUARE_UM + nodes, row * SQUARE_UM + nodes).density
            if not 0.2 < (density == 0).mean() < 0.8:
                continue
            cut += 1
            cells = [t for t in layout.square(column, row) if t.layer == "red"]
            densities += [float(film.at(np.array([t.x_um]), np.array([t.y_um])).density[0, 0]) for t in cells]
    assert cut > 30
    assert len(densities) > 100
    assert np.mean(np.array(densities) == 0) < 0.05


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
