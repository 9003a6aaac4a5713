"""The main job does not care which format a slide has, nor whether its pixels are square."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
import zarr

from wsi_pipeline import cohort
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.slides import open_slide
from wsi_pipeline.units import Box

SETTINGS = {"cells.classifier": None, "exports.report": False}


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the pixels of a virtual slide at 0.25 um."""
    path = tmp_path_factory.mktemp("virtual") / "virtual.tiff"
    make_virtual_slide(path, profile="normal", size_px=(480, 400), seed=3)
    with open_slide(path) as slide:
        return slide.read(Box(x0=0, y0=0, x1=720, y1=600), 0.25)


def run(path: Path, out: Path) -> Path:
    """Run one slide in this process; return the folder of its results."""

    @contextmanager
    def serial(_cluster: str, _config: Any) -> Iterator[SerialExecutor]:
        yield SerialExecutor()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "open_executor", serial)
        result = cohort.run_cohort([path], out, overrides=SETTINGS)
    assert [summary["status"] for summary in result.summaries] == ["ok"], result.summaries
    (folder,) = (out / "slides").iterdir()
    return folder


@pytest.fixture(scope="module")
def square(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Return the cells of the slide as a TIFF of square pixels."""
    folder = tmp_path_factory.mktemp("square")
    return pq.read_table(run(write_tiff(folder / "slide.tiff", pixels, (0.25, 0.25)), folder / "out") / "cells.parquet")


def write_tiff(path: Path, pixels: np.ndarray, mpp: tuple[float, float]) -> Path:
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), compression="deflate", metadata=None,
        resolution=(1e4 / mpp[0], 1e4 / mpp[1]), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def write_zarr(path: Path, pixels: np.ndarray, mpp: float) -> Path:
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1.0, mpp, mpp]}]
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.open_group(path, mode="w", zarr_format=2, attributes={"multiscales": [image]})
    group.create_array("0", data=np.ascontiguousarray(pixels.transpose(2, 0, 1)), chunks=(1, 200, 300))
    return path


def test_an_ome_zarr_gives_the_cells_of_the_same_tiff(pixels: np.ndarray, square: pa.Table, tmp_path: Path) -> None:
    folder = run(write_zarr(tmp_path / "slide.zarr", pixels, 0.25), tmp_path / "out")
    provenance = json.loads((folder / "summary.json").read_text())["provenance"]
    assert (provenance["backend asked"], provenance["backend used"]) == ("auto", "zarr")
    found = pq.read_table(folder / "cells.parquet")
    assert len(square) > 20
    for column in ("geometry", "area_um2", "x_um", "kind"):
        assert found.column(column).equals(square.column(column)), column


def test_pixels_that_are_not_square_change_no_cell_in_micrometres(
    pixels: np.ndarray, square: pa.Table, tmp_path: Path
) -> None:
    """Every column twice at half the width: the same slide but for the resampler's blur along x."""
    stretched = pixels.repeat(2, axis=1)
    folder = run(write_tiff(tmp_path / "wide.tiff", stretched, (0.125, 0.25)), tmp_path / "out")
    found = pq.read_table(folder / "cells.parquet")
    assert len(found) == pytest.approx(len(square), rel=0.08)
    areas = [np.asarray(table["area_um2"]) for table in (square, found)]
    assert np.median(areas[1]) == pytest.approx(np.median(areas[0]), rel=0.03)
    assert np.asarray(found["x_um"]).max() == pytest.approx(np.asarray(square["x_um"]).max(), abs=2)
    # Outlines are in pixels of the slide, in cells.parquet as in QuPath; both axes together give the area.
    shapes = shapely.from_wkb(np.asarray(found["geometry"]))
    assert np.median(shapely.area(shapes) * 0.125 * 0.25 / areas[1]) == pytest.approx(1, abs=0.03)
    shown = json.loads(gzip.decompress((folder / "qupath.geojson.gz").read_bytes()))["features"]
    drawn = [shapely.geometry.shape(feature["geometry"]).area * 0.125 * 0.25 for feature in shown]
    assert np.median(drawn) == pytest.approx(np.median(areas[1]), rel=0.03)
