"""Regions over the overview: every reason has its own look, its area, and its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from wsi_pipeline.exports.region_map import (
    OverviewFrame,
    Region,
    region_layer,
    region_legend,
    region_styles,
    write_region_map,
)
from wsi_pipeline.units import Box, FrameTransform

REASONS = (
    "background", "glass", "ignored-class", "no-data", "out-of-focus", "outside-drawn", "pen", "too-small", "a", "b",
)  # fmt: skip
WHERE = OverviewFrame(mpp=2.0, box=Box(x0=10, y0=5, x1=210, y1=105), frame=FrameTransform(scale_x=4.0, scale_y=4.0))


def _box(x0: float, y0: float, x1: float, y1: float) -> shapely.Polygon:
    """Return a rectangle given in pixels of the picture, in level-0 pixels."""
    return shapely.box(4 * (x0 + 10), 4 * (y0 + 5), 4 * (x1 + 10), 4 * (y1 + 5))


def _excluded(shape: shapely.Geometry, reason: str) -> Region:
    return Region(shape=shape, name=reason, included=False)


def test_every_reason_has_its_own_look() -> None:
    regions = [_excluded(_box(0, 0, 1, 1), reason) for reason in REASONS]
    styles = region_styles(regions)
    loud = [styles[r] for r in REASONS if r not in ("background", "glass", "outside-drawn")]
    assert len({style.colour for style in loud}) == len(loud)
    assert region_styles(regions[::-1]) == styles
    assert all(style.hatch in range(4) for style in styles.values())


def test_legend_gives_areas_included_first() -> None:
    regions = [
        _excluded(_box(0, 0, 10, 10), "pen"),
        Region(shape=_box(50, 0, 100, 100), name="Tissue", included=True),
        _excluded(_box(20, 0, 30, 10), "pen"),
    ]
    first, second = region_legend(regions, 0.25)
    assert (first.name, first.included, first.style.hatch, first.n) == ("Tissue", True, None, 1)
    assert (second.name, second.n) == ("pen", 2)
    assert np.isclose(first.area_mm2, 50 * 100 * 16 * 0.25e-6)
    assert np.isclose(second.area_mm2, 2 * 100 * 16 * 0.25e-6)


def test_holes_stay_clear_and_what_lies_in_them_is_drawn() -> None:
    ring = _box(20, 10, 120, 90).difference(_box(40, 30, 100, 70))
    island = _box(60, 45, 80, 55)
    for shapes in ([ring, island], [island, ring], [shapely.MultiPolygon([island, ring])]):
        layer = np.asarray(region_layer(WHERE, [_excluded(shape, "pen") for shape in shapes]))
        covered = layer[..., 3] > 0
        assert covered[20, 30]
        assert covered[50, 70]
        assert not covered[40, 50]
        assert not covered[5, 150]


def test_included_is_outlined_above_what_is_excluded() -> None:
    regions = [Region(shape=_box(50, 20, 150, 80), name="Tissue", included=True), _excluded(_box(0, 0, 50, 100), "pen")]
    layer = np.asarray(region_layer(WHERE, regions))
    assert tuple(layer[50, 50]) == (0, 140, 50, 255)
    assert layer[50, 100, 3] == 0


def test_odd_names_and_many_reasons_fit_the_picture(tmp_path: Path) -> None:
    regions = [_excluded(_box(i, 0, i + 1, 5), f"reason {i} \x1b[31m \u4e2d {'x' * 300}") for i in range(40)]
    pixels = np.full((100, 200, 3), 240, np.uint8)
    target = tmp_path / "new folder" / "map.png"
    write_region_map(target, WHERE, pixels, regions, 0.25, title="\u00e9 \u0000 <b>", words=str)
    with Image.open(target) as image:
        assert image.format == "PNG"
        assert image.width >= 200
        assert image.height < 800
        assert not image.info
