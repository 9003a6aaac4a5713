"""Cutting cells out, and drawing them back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import central_cell, cut, estimate_glass, find_cells, outline
from wsi_pipeline.simulation.sprites import (
    ASSETS_FOLDER,
    Sprite,
    load_sprites,
    multiply_into,
    placed_outline,
    polygon_area_centroid,
    snap,
)

GLASS = (240, 230, 210)


def _image(*discs: tuple[float, float, float, tuple[int, int, int]], side: int = 160) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.tile(np.array(GLASS, float), (side, side, 1)) + rng.normal(0, 1.5, (side, side, 3))
    yy, xx = np.mgrid[:side, :side] + 0.5
    for x, y, radius, colour in discs:
        image[np.hypot(xx - x, yy - y) < radius] = colour
    return np.clip(image, 0, 255).astype(np.uint8)


RED, PURPLE = (205, 165, 175), (90, 50, 150)


def test_glass_is_found_between_cells() -> None:
    image = _image((40, 40, 25, RED), (100, 100, 35, PURPLE))
    np.testing.assert_allclose(estimate_glass(image), GLASS, atol=1.5)


def test_cells_are_told_apart_and_clumps_left_out() -> None:
    image = _image(
        (50, 50, 25, PURPLE), (120, 40, 18, RED), (40, 125, 18, RED), (72, 125, 18, RED), (158, 140, 18, RED)
    )
    found = find_cells(image, 0.198)
    assert sorted(kind for kind, _ in found) == ["red", "white"]
    areas = {kind: mask.sum() for kind, mask in found}
    assert areas["white"] == pytest.approx(math.pi * 25**2, rel=0.1)
    assert areas["red"] == pytest.approx(math.pi * 18**2, rel=0.1)


def test_touching_nucleated_cells_are_split() -> None:
    image = _image((80, 80, 32, PURPLE), (30, 80, 22, PURPLE), (80, 130, 16, RED))
    mask = central_cell(image, 0.198)
    assert mask is not None
    assert mask.sum() == pytest.approx(math.pi * 32**2, rel=0.1)
    assert central_cell(_image((30, 30, 20, PURPLE)), 0.198) is None


def test_cut_keeps_density_and_size_and_leaves_glass_alone() -> None:
    image = _image((80, 80, 30, PURPLE), (130, 80, 15, RED))
    ((_, mask),) = [f for f in find_cells(image, 0.2) if f[0] == "white"]
    piece = cut(image, mask, kind="white", mpp=0.2, target_mpp=0.4)
    area, centre = polygon_area_centroid(outline(piece.alpha))
    assert area == pytest.approx(math.pi * 15**2, rel=0.1)
    middle = piece.transmittance[int(centre[1]), int(centre[0])]
    np.testing.assert_allclose(middle, np.array(PURPLE) / np.array(GLASS), atol=0.02)
    assert (piece.transmittance[piece.alpha == 0] == 1).all()
    assert piece.alpha[0].max() < 0.03


@given(st.floats(3, 30), st.floats(-3, 3), st.floats(-3, 3))
def test_polygon_area_centroid_of_circles(radius: float, x: float, y: float) -> None:
    theta = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    ring = np.stack([x + radius * np.cos(theta), y + radius * np.sin(theta)], axis=1).astype(np.float32)
    area, centre = polygon_area_centroid(ring)
    assert area == pytest.approx(math.pi * radius**2, rel=1e-3)
    np.testing.assert_allclose(centre, (x, y), atol=1e-3)


def test_shipped_sprites_are_what_their_class_says() -> None:
    sprites = load_sprites()
    diameters = {
        name: np.median([2 * s.radius_um for s in sprites if s.class_name == name])
        for name in {s.class_name for s in sprites}
    }
    assert 6.3 < diameters["red_cell"] < 8.2
    assert 1.5 < diameters["platelet"] < 4
    assert 7 < diameters["lymphocyte"] < 12 < diameters["segmented_neutrophil"] < 17
    assert 5 < diameters["nucleus"] < 10 < diameters["megakaryocyte"]
    assert len(sprites) > 250
    for sprite in sprites:
        assert shapely.Polygon(sprite.outline_um).is_valid
        assert sprite.absorbed[0].max() < 0.05, "a cut edge would show as a straight line"


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 300), st.floats(60, 90), st.floats(60, 90), st.sampled_from([0, 1, 2, 3]), st.booleans(),
    st.sampled_from([0.2, 0.25, 0.5]),
)  # fmt: skip
def test_pixels_lie_inside_the_outline(number: int, x: float, y: float, quarter: int, flip: bool, mpp: float) -> None:
    sprite = load_sprites()[number]
    angle = quarter * math.pi / 2 + (0.0 if sprite.kind == "white" else 0.3)
    x, y = snap(sprite, x, y, angle=angle, flip=flip, mpp=mpp)
    canvas = np.ones((150, 150, 3), np.float32)
    multiply_into(canvas, sprite, x, y, angle=angle, flip=flip, gain=1.0, mpp=mpp)
    ring = shapely.Polygon(placed_outline(sprite, x, y, angle=angle, flip=flip, mpp=mpp))
    yy, xx = np.mgrid[:150, :150] + 0.5
    absorbed = (1 - canvas).mean(axis=2)
    soft = sprite.kind in {"nucleus", "megakaryocyte"} or sprite.variant == "smudge"
    margin = (1.6 if soft else 0.8) / mpp
    near = shapely.contains_xy(ring.buffer(margin), xx, yy)
    inside = shapely.contains_xy(ring, xx, yy)
    assert absorbed[~near].max() < 0.06
    assert absorbed[inside].mean() > 0.06
    assert absorbed[inside].sum() > 0.75 * absorbed.sum()


@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(0, 300))
@settings(deadline=None, max_examples=30)
def test_a_pixel_does_not_depend_on_its_canvas(dx: int, dy: int, number: int) -> None:
    sprite: Sprite = load_sprites()[number]
    turn = {"angle": 0.0 if sprite.kind == "white" else 1.1, "flip": True, "mpp": 0.25}
    x, y = snap(sprite, 200.3, 199.9, **turn)
    whole = np.ones((400, 400, 3), np.float32)
    multiply_into(whole, sprite, x, y, gain=1.02, **turn)
    part = np.ones((64, 64, 3), np.float32)
    left, top = 170 + dx, 170 + dy
    multiply_into(part, sprite, x - left, y - top, gain=1.02, **turn)
    np.testing.assert_array_equal(part, whole[top : top + 64, left : left + 64])


def test_damaged_assets_are_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ASSETS\.json"):
        load_sprites(tmp_path)
    (tmp_path / "ASSETS.json").write_text(
        '{"cutouts": [{"atlas": "a.webp", "box": [0, 0, 9, 9], "class": "x", "kind": "red", "source": "s"}]}'
    )
    with pytest.raises(DataError):
        load_sprites(tmp_path)
    (tmp_path / "a.webp").write_bytes((ASSETS_FOLDER / "platelet.webp").read_bytes())
    text = (tmp_path / "ASSETS.json").read_text().replace("[0, 0, 9, 9]", "[0, 0, 99999, 9]")
    (tmp_path / "ASSETS.json").write_text(text)
    load_sprites.cache_clear()
    with pytest.raises(DataError, match="outside"):
        load_sprites(tmp_path)
    load_sprites.cache_clear()


@pytest.mark.data
def test_assets_can_be_made_again_from_the_data(data_root: Path, tmp_path: Path) -> None:
    import shutil

    from wsi_pipeline.simulation.make_assets import make_assets

    shutil.copy(ASSETS_FOLDER / "picks.yaml", tmp_path)
    make_assets(data_root, tmp_path)
    made, shipped = load_sprites(tmp_path), load_sprites()
    assert [(s.class_name, s.source) for s in made] == [(s.class_name, s.source) for s in shipped]
    for ours, theirs in zip(made, shipped, strict=True):
        assert ours.radius_um == pytest.approx(theirs.radius_um, rel=0.02)
    load_sprites.cache_clear()
