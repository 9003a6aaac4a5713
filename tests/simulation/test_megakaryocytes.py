"""Drawn megakaryocytes: what was asked for is what is drawn, from cut-outs of two halves that share no field."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.simulation.megakaryocyte_textures import TEXTURES_FOLDER, load_textures
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape, draw_megakaryocyte
from wsi_pipeline.simulation.sprites import Sprite
from wsi_pipeline.training.segmentation.data import split_of


def nucleus_of(sprite: Sprite) -> shapely.Geometry:
    nucleus = shapely.Polygon()
    for ring in sprite.nucleus_um:
        nucleus = nucleus.symmetric_difference(shapely.make_valid(shapely.Polygon(ring)))
    return nucleus


@settings(max_examples=25, deadline=None)
@given(
    diameter=st.floats(12, 50), nc=st.floats(0.12, 0.6), lobes=st.integers(1, 9), cut=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_areas_are_those_asked_for(diameter: float, nc: float, lobes: int, cut: float, seed: int) -> None:
    shape = MegakaryocyteShape(diameter_um=diameter, nc_ratio=nc, lobes=lobes, lobulation=cut)
    sprite = draw_megakaryocyte(shape, np.random.default_rng(seed))
    asked = math.pi * diameter**2 / 4
    cell, nucleus = shapely.make_valid(shapely.Polygon(sprite.outline_um)), nucleus_of(sprite)
    assert cell.area == pytest.approx(asked, rel=0.06)
    assert nucleus.area == pytest.approx(asked * nc, rel=0.2 if asked * nc < 40 else 0.1)
    assert nucleus.difference(cell.buffer(0.3)).area < 0.02 * nucleus.area
    assert np.isfinite(sprite.absorbed).all()
    assert sprite.absorbed.max() < 1


def test_deeper_lobulation_is_less_solid() -> None:
    rng = np.random.default_rng(3)
    solidity = []
    for cut in (0.0, 0.5, 1.0):
        nuclei = [
            nucleus_of(draw_megakaryocyte(MegakaryocyteShape(diameter_um=30, lobes=6, lobulation=cut), rng))
            for _ in range(12)
        ]
        solidity.append(np.mean([n.area / n.convex_hull.area for n in nuclei]))
    assert solidity[0] > 0.93
    assert solidity[0] > solidity[1] + 0.02 > solidity[2] + 0.04


def test_darkness_is_in_units_of_the_other_nuclei() -> None:
    textures = load_textures("test")
    for darkness in (0.5, 1.0, 1.5):
        shape = MegakaryocyteShape(diameter_um=24, darkness=darkness, bare=True)
        sprite = draw_megakaryocyte(shape, np.random.default_rng(1))
        inside = sprite.absorbed.sum(axis=2) > 0.6 * np.median(
            sprite.absorbed.sum(axis=2)[sprite.absorbed[..., 1] > 0.2]
        )
        density = -np.log(1 - sprite.absorbed[inside]).mean()
        assert density / textures.nucleus_density.mean() == pytest.approx(darkness, rel=0.12)


def test_a_bare_nucleus_is_the_cell() -> None:
    shape = MegakaryocyteShape(diameter_um=16, lobes=5, lobulation=1.0, bare=True)
    sprite = draw_megakaryocyte(shape, np.random.default_rng(5))
    cell = shapely.make_valid(shapely.Polygon(sprite.outline_um))
    assert nucleus_of(sprite).area / cell.area > 0.9


def test_the_same_state_draws_the_same_cell() -> None:
    shape = MegakaryocyteShape(diameter_um=22, lobes=4, lobulation=0.7)
    first, second = (draw_megakaryocyte(shape, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first.absorbed, second.absorbed)
    assert all(np.array_equal(a, b) for a, b in zip(first.nucleus_um, second.nucleus_um, strict=True))


def test_the_halves_share_no_field_and_keep_to_the_splits() -> None:
    entries = json.loads((TEXTURES_FOLDER / "textures.json").read_text())["cutouts"]
    fields = {half: {e["source"] for e in entries if e["variant"] == half} for half in ("train", "test")}
    assert not fields["train"] & fields["test"]
    chromatin = {
        half: {e["source"] for e in entries if (e["variant"], e["class"]) == (half, "chromatin")} for half in fields
    }
    assert {split_of(name) for name in chromatin["train"]} == {"train"}
    assert {split_of(name) for name in chromatin["test"]} == {"test"}


def test_bad_shapes_and_missing_textures(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="diameter_um is 6 to 90"):
        MegakaryocyteShape(diameter_um=200)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_textures("test", tmp_path)
