"""Sizes in micrometres: pixels that are not square, and slides of which only a part was scanned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.errors import ImplausibleMppError, RegionError
from wsi_pipeline.regions import find_regions
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.backends.openslide_backend import OpenSlideBackend
from wsi_pipeline.units import Box

MPP = (0.25, 0.4)
RADIUS_UM = 30.0
DISC_UM2 = np.pi * RADIUS_UM**2
CENTRE_PX0 = (500.0, 300.0)


def disc_image(width: int = 1000, height: int = 600) -> np.ndarray:
    """Return a light image with a dark disc, round in micrometres and so an ellipse in these pixels."""
    y, x = np.mgrid[:height, :width] + 0.5
    away_um = np.hypot((x - CENTRE_PX0[0]) * MPP[0], (y - CENTRE_PX0[1]) * MPP[1])
    image = np.full((height, width, 3), 240, np.uint8)
    image[away_um <= RADIUS_UM] = 60
    return image


def write_tiff(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> Path:
    resolution = (1e4 / mpp[0], 1e4 / mpp[1])
    tifffile.imwrite(
        path, image, photometric="rgb", tile=(256, 256), compression="deflate", metadata=None,
        resolution=resolution, resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def write_ome(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> Path:
    metadata = {"axes": "YXS", "PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1]}
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), ome=True, metadata=metadata)
    return path


def write_zarr(path: Path, image: np.ndarray, mpp: tuple[float, float]) -> Path:
    import zarr

    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1.0, mpp[1], mpp[0]]}]
    image_of = {"version": "0.5", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes={"ome": {"multiscales": [image_of]}})
    group.create_array("0", data=np.ascontiguousarray(image.transpose(2, 0, 1)), chunks=(3, 256, 256))
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray, tuple[float, float]], Path]] = {
    "slide.tiff": write_tiff,
    "slide.ome.tif": write_ome,
    "slide.ome.zarr": write_zarr,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5, 1.0])
def test_a_disc_has_its_area_where_pixels_are_not_square(tmp_path: Path, name: str, mpp: float) -> None:
    path = WRITERS[name](tmp_path / name, disc_image(), MPP)
    with open_slide(path) as slide:
        assert (slide.mpp.x, slide.mpp.y) == pytest.approx(MPP)
        width, height = slide.size_at(mpp)
        assert (width * mpp, height * mpp) == pytest.approx((1000 * MPP[0], 600 * MPP[1]), abs=mpp)
        dark = slide.read(Box(x0=0, y0=0, x1=width, y1=height), mpp)[..., 0] < 150
        assert dark.sum() * mpp**2 == pytest.approx(DISC_UM2, rel=0.01)
        rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
        for found in (rows, columns):  # round again
            assert (found[-1] - found[0] + 1) * mpp == pytest.approx(2 * RADIUS_UM, abs=1.5 * mpp)
        frame = slide.frame(mpp)
        middle = frame.to_px0(((columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2))
        assert middle == pytest.approx(CENTRE_PX0, abs=2 * mpp / MPP[0])
        outline = frame.to_px0(shapely.get_coordinates(shapely.Point(middle * (0, 0)).buffer(RADIUS_UM / mpp, 64)))
        area_px0 = shapely.Polygon(outline).area
        assert area_px0 * slide.mpp.x * slide.mpp.y == pytest.approx(DISC_UM2, rel=0.002)


def test_regions_count_both_axes(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tiff", disc_image(), MPP)
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps(shapely.geometry.mapping(shapely.box(100, 100, 300, 200))))
    with open_slide(path) as slide:
        whole = find_regions(slide, specimen="trephine", config=RegionsConfig(mode="all"))
        assert whole.area_mm2 == pytest.approx(1000 * 0.25 * 600 * 0.4 * 1e-6)
        part = find_regions(slide, specimen="trephine", config=RegionsConfig(), regions_file=drawn)
        assert part.area_mm2 == pytest.approx(200 * 0.25 * 100 * 0.4 * 1e-6)
        searched = find_regions(
            slide,
            specimen="trephine",
            config=RegionsConfig(all_below_mm2=0, min_area_mm2=0.0005, overview_mpp=1, check_stain=False),
        )
    x0, y0, x1, y1 = searched.included.bounds  # with a margin, which is the same to all sides
    assert (x1 - x0) * MPP[0] == pytest.approx((y1 - y0) * MPP[1], rel=0.03)
    assert searched.area_mm2 == pytest.approx(searched.included.area * MPP[0] * MPP[1] * 1e-6)


@pytest.mark.parametrize("mpp", [(0.04, 0.04), (6.0, 6.0), (0.25, 6.0), (0.01, 0.25)])
@pytest.mark.parametrize("name", ["slide.ome.tif", "slide.ome.zarr"])
def test_an_absurd_mpp_of_either_axis_is_implausible(tmp_path: Path, name: str, mpp: tuple[float, float]) -> None:
    path = WRITERS[name](tmp_path / name, disc_image(), mpp)
    with pytest.raises(ImplausibleMppError, match=r"0\.05 to 5"):
        open_slide(path)
    with open_slide(path, manifest_mpp=0.25) as slide:
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.25, 0.25, "manifest")


SCANNED = Box(x0=300, y0=100, x1=900, y1=500)


@pytest.fixture
def partly_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A slide of which OpenSlide says that only ``SCANNED`` was scanned, as it does of MIRAX; dark outside."""
    image = disc_image()
    image[:80] = 60
    monkeypatch.setattr(OpenSlideBackend, "_bounds", lambda *_: SCANNED)
    return write_tiff(tmp_path / "slide.tiff", image, MPP)


@pytest.mark.parametrize("settings", [{"mode": "all"}, {"all_below_mm2": 0, "min_area_mm2": 5e-4, "overview_mpp": 1}])
def test_regions_stay_in_what_was_scanned(partly_scanned: Path, settings: dict) -> None:
    with open_slide(partly_scanned) as slide:
        assert (slide.backend, slide.bounds) == ("tiff", SCANNED)
        regions = find_regions(slide, specimen="trephine", config=RegionsConfig(**settings, check_stain=False))
    scanned = shapely.box(300, 100, 900, 500)
    assert regions.bounds_offset_px0 == (300, 100)
    assert regions.included.area > 0
    for part in (regions.included, *(excluded.geometry for excluded in regions.excluded)):
        assert part.difference(scanned).area == pytest.approx(0, abs=1e-6)


def test_drawn_regions_are_in_the_frame_of_qupath_and_cut_to_what_was_scanned(
    partly_scanned: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps(shapely.geometry.mapping(shapely.box(500, 50, 700, 250))))  # from 300, 100
    outside = tmp_path / "outside.geojson"
    outside.write_text(json.dumps(shapely.geometry.mapping(shapely.box(620, 10, 690, 90))))
    with open_slide(partly_scanned) as slide:
        regions = find_regions(slide, specimen="trephine", config=RegionsConfig(), regions_file=drawn)
        with pytest.raises(RegionError, match="miss"):
            find_regions(slide, specimen="trephine", config=RegionsConfig(), regions_file=outside)
    assert regions.included.bounds == (800, 150, 900, 350)
    assert "cut off" in regions.note
