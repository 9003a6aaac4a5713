"""Workers, stain and focus: the same slide whoever draws it, other slides with other seeds."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation import load_profile, make_virtual_slide
from wsi_pipeline.simulation.layout import Layout
from wsi_pipeline.simulation.render import GRAIN_PX, Focus, draw_focus, draw_stain, render, restain
from wsi_pipeline.simulation.sprites import load_sprites
from wsi_pipeline.units import Box


def test_workers_draw_the_same_slide(tmp_path: Path) -> None:
    made = [
        make_virtual_slide(
            tmp_path / f"{n}.tiff", profile="reactive", size_px=(1700, 1100), seed=9, tile_px=256, film=True, workers=n
        )
        for n in (1, 3)
    ]
    assert made[0].truth.read_bytes() == made[1].truth.read_bytes()
    pages = [[page.asarray() for page in tifffile.TiffFile(one.path).pages] for one in made]
    assert len(pages[0]) == len(pages[1])
    assert all(np.array_equal(a, b) for a, b in zip(*pages, strict=True))
    assert made[0].counts == made[1].counts


def test_a_slide_of_one_row_of_tiles_has_workers_too(tmp_path: Path) -> None:
    made = [
        make_virtual_slide(tmp_path / f"{n}.tiff", profile="normal", size_px=(1100, 500), seed=2, workers=n)
        for n in (1, 2)
    ]
    assert made[0].truth.read_bytes() == made[1].truth.read_bytes()
    assert made[0].path.read_bytes() == made[1].path.read_bytes()


@pytest.mark.parametrize("options", [{"workers": 0}, {"stain_variation": 2.5}, {"blur_variation": -1.0}])
def test_options_out_of_range(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_virtual_slide(tmp_path / "a.tiff", profile="normal", size_px=512, seed=0, **options)


def _stained(seed: int, variation: float) -> tuple[np.ndarray, ...]:
    stain = draw_stain(seed, "glass", variation)
    return np.array(stain.glass), stain.mix, np.array(stain.gain)


def test_stain_varies_between_seeds_and_not_without_variation() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(_stained(1, 0), _stained(2, 0), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(_stained(1, 1), _stained(2, 1), strict=True))
    sprites = load_sprites()[:5]
    assert restain(sprites, draw_stain(1, "glass", 0.0)) == sprites
    other = restain(sprites, draw_stain(1, "glass"))
    for a, b in zip(sprites, other, strict=True):
        assert np.abs(a.absorbed - b.absorbed).max() > 0.004
        assert np.array_equal(a.outline_um, b.outline_um)
    assert draw_focus(3, 0.0) == Focus(base_um=0.0, patch_um=0.0)


def _sharpness(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels.astype(float)[..., 1], axis=0)).mean())


@pytest.mark.parametrize("background", ["normal", "section"])
def test_blur_knows_no_tiles(background: str) -> None:
    profile = load_profile(background)
    layout = Layout(profile, load_sprites(), 6)
    options = {"seed": 6, "mpp": 0.25, "background": profile.background, "stain": draw_stain(6, profile.background)}
    blurred = {**options, "focus": Focus(base_um=0.45, patch_um=0.6)}
    side = 2 * GRAIN_PX
    whole = render(layout, Box(x0=0, y0=0, x1=side, y1=side), **blurred)
    for y in (0, GRAIN_PX):
        for x in (0, GRAIN_PX):
            part = render(layout, Box(x0=x, y0=y, x1=x + GRAIN_PX, y1=y + GRAIN_PX), **blurred)
            assert np.array_equal(part, whole[y : y + GRAIN_PX, x : x + GRAIN_PX])
    assert _sharpness(whole) < 0.92 * _sharpness(render(layout, Box(x0=0, y0=0, x1=side, y1=side), **options))


def test_a_variant_is_named_in_the_mix(tmp_path: Path) -> None:
    sprites = tuple(replace(s, variant="odd" if i % 2 else "") for i, s in enumerate(load_sprites()))
    normal = load_profile("normal")
    odd = normal.model_copy(
        update={"layers": {"red": normal.layers["red"].model_copy(update={"mix": {"red_cell:odd": 1.0}})}}
    )
    assert {t.sprite.variant for t in Layout(odd, sprites, 1).square(0, 0) if t.sprite} == {"odd"}
    none = odd.model_copy(
        update={"layers": {"red": normal.layers["red"].model_copy(update={"mix": {"red_cell:none": 1.0}})}}
    )
    with pytest.raises(ConfigError, match="red_cell:none"):
        Layout(none, sprites, 1)


def test_platelets_clump() -> None:
    """A clump is several platelets that touch, none of them over a red cell."""
    normal = load_profile("reactive")
    clump = normal.layers["clump"].model_copy(update={"per_mm2": 40.0, "clump": (6, 9)})
    layout = Layout(normal.model_copy(update={"layers": {**normal.layers, "clump": clump}}), load_sprites(), 3)
    things = [t for row in range(4) for column in range(4) for t in layout.square(column, row)]
    members = [t for t in things if t.layer == "clump"]
    assert len(members) > 6
    assert {t.sprite.class_name for t in members if t.sprite} == {"platelet"}
    reds = np.array([(t.x_um, t.y_um, t.radius_um) for t in things if t.layer == "red"])
    touching = 0
    for one in members:
        others = [np.hypot(o.x_um - one.x_um, o.y_um - one.y_um) / (o.radius_um + one.radius_um) for o in members]
        touching += sorted(others)[1] < 1.05
        assert (np.hypot(reds[:, 0] - one.x_um, reds[:, 1] - one.y_um) >= reds[:, 2] + one.radius_um - 1e-6).all()
    assert touching > 0.8 * len(members)


def test_a_clump_is_named_in_the_truth(tmp_path: Path) -> None:
    made = make_virtual_slide(tmp_path / "c.tiff", profile="reactive", size_px=(3000, 2000), seed=4)
    with made.truth.open(newline="") as file:
        clumped = [row for row in csv.DictReader(file) if row["variant"] == "clump"]
    assert len(clumped) >= 4
    assert {(row["class"], row["kind"]) for row in clumped} == {("platelet", "platelet")}
