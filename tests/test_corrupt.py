"""A slide with a damaged tile: it fails by default, and with slides.on_corrupt=mask loses that tile and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from test_pipeline import run_here

from wsi_pipeline import pipeline
from wsi_pipeline.regions import read_regions
from wsi_pipeline.runtime.worker import slide_of
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.units import Box

SETTINGS: dict[str, Any] = {"cells.classifier": None, "exports.report": False, "tiling.core_px": 512}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, shapely.Polygon]:
    """Return a sound slide, its copy with a tile of zeros, and that tile in level-0 pixels."""
    folder = tmp_path_factory.mktemp("slides")
    sound, broken = folder / "sound.tiff", folder / "broken.tiff"
    make_virtual_slide(sound, profile="normal", size_px=(2400, 1100), seed=3)
    shutil.copy(sound, broken)
    with tifffile.TiffFile(sound) as tiff:
        page = tiff.pages.first
        width, height = page.tilewidth, page.tilelength
        index = -(-page.imagewidth // width) + 1  # the second tile of the second row
        place, count = page.dataoffsets[index], page.databytecounts[index]
    with broken.open("r+b") as file:
        file.seek(place)
        file.write(b"\x00" * count)
    return sound, broken, shapely.box(width, height, 2 * width, 2 * height)


def summary_of(out: Path) -> dict[str, Any]:
    (folder,) = (out / "slides").iterdir()
    return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def test_it_fails_by_default_and_names_the_tile(slides: tuple[Path, Path, Any], tmp_path: Path) -> None:
    run_here([slides[1]], tmp_path / "run", SETTINGS)
    summary = summary_of(tmp_path / "run")
    assert (summary["status"], summary["reason"]) == ("failed", "corrupt-tile")
    assert "tile 1, 1" in summary["warnings"][0]


def test_masked_it_loses_the_tile_and_nothing_else(slides: tuple[Path, Path, Any], tmp_path: Path) -> None:
    sound, broken, tile = slides
    run_here([sound], tmp_path / "sound", SETTINGS)
    run_here([broken], tmp_path / "masked", {**SETTINGS, "slides.on_corrupt": "mask"})
    summary = summary_of(tmp_path / "masked")
    mpp = summary["mpp"]
    lost = tile.area * mpp["x"] * mpp["y"] / 1e6
    assert summary["status"] == "ok"
    assert summary["quality"]["area that could not be decoded, mm2"] == pytest.approx(lost)
    assert summary["area_mm2"] == pytest.approx(summary_of(tmp_path / "sound")["area_mm2"] - lost)
    assert any("could not be decoded" in warning for warning in summary["warnings"])
    areas = read_regions(tmp_path / "masked" / "slides" / "broken" / "regions.geojson")
    assert [area.geometry.equals(tile) for area in areas if area.reason == "corrupt-tile"] == [True]

    cells = pq.read_table(tmp_path / "masked" / "slides" / "broken" / "cells.parquet")
    whole = pq.read_table(tmp_path / "sound" / "slides" / "sound" / "cells.parquet")
    outlines = shapely.from_wkb(cells.column("geometry").to_numpy(zero_copy_only=False))
    over = shapely.intersects(outlines, tile.buffer(-1))
    assert np.asarray(cells.column("truncated"))[over].all()
    # A network sees as far as its tiles. Further away only the slide's colour statistics lack that tile.
    near = tile.buffer(2 * 256 + 8, join_style="mitre")

    def far(table: Any) -> np.ndarray:
        shapes = shapely.from_wkb(table.column("geometry").to_numpy(zero_copy_only=False))
        kept = table.filter(~shapely.intersects(shapes, near))
        return np.stack([kept.column("x_um").to_numpy(), kept.column("y_um").to_numpy()], axis=1)

    ours, theirs = far(cells), far(whole)
    assert len(theirs) > 50
    assert abs(len(ours) - len(theirs)) <= 0.02 * len(theirs)
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=-1).min(axis=1)
    assert np.mean(distance < 0.5) > 0.95


def test_what_else_a_worker_has_read_changes_nothing(tmp_path: Path) -> None:
    """A damaged tile of a coarse level is met by the worker that looks for regions, and by no other."""
    make_virtual_slide(tmp_path / "made.tiff", profile="normal", size_px=(1000, 700), seed=5)
    with tifffile.TiffFile(tmp_path / "made.tiff") as tiff:
        image = tiff.pages.first.asarray()
    path = tmp_path / "slide.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for level, step in enumerate((1, 4, 16)):
            tiff.write(
                np.ascontiguousarray(image[::step, ::step]),
                tile=(256, 256),
                photometric="rgb",
                compression="zlib",
                resolution=(4e4 / step, 4e4 / step),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
                metadata=None,
            )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        place, count = page.dataoffsets[0], page.databytecounts[0]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x00" * count)
    settings = {**SETTINGS, "slides.on_corrupt": "mask", "slides.backend": "openslide", "slides.chunk_px": 256}
    run_here([path], tmp_path / "usual", settings)

    original = pipeline.find_cells

    def find_cells_after(job: Any, key: str, block: Any) -> Any:
        slide_of(job.spec).read(Box(x0=0, y0=0, x1=64, y1=64), 1.0)
        return original(job, key, block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "find_cells", find_cells_after)
        run_here([path], tmp_path / "busy", settings)
    usual, busy = (tmp_path / out / "slides" / "slide" for out in ("usual", "busy"))
    assert pq.read_table(usual / "cells.parquet").equals(pq.read_table(busy / "cells.parquet"))
    assert (usual / "regions.geojson").read_bytes() == (busy / "regions.geojson").read_bytes()
