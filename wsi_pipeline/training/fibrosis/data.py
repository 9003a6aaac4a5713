"""Graded reticulin tiles for training: a manifest of slides or tile images, cut as a run cuts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.csv_rows import number, read_rows
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.fibrosis.tiles import FibreTile, TileGrid, pixels_inside, see_tile
from wsi_pipeline.regions import find_regions
from wsi_pipeline.regions.masks import glass_colour
from wsi_pipeline.regions.overview import read_overview
from wsi_pipeline.slides import SlideSpec, is_virtual
from wsi_pipeline.units import Box

COLUMNS = ("slide", "tile", "slide_id", "grade", "label", "patient", "specimen", "mpp", "simulated")
DENSITY_SCALE = 170.0
"""Grey levels per unit of optical density in which tiles are held (255 is 1.5)."""
MOST_GRADE = 3.0


@dataclass(frozen=True, kw_only=True)
class GradedTiles:
    """Tiles with the grade of their slide.

    Attributes
    ----------
    density
        Uint8 of shape (n, 3, side, side): optical density times :data:`DENSITY_SCALE`.
    marrow
        Float32 of shape (n, side / 16, side / 16).
    marrow_share, fibre_share
        ``(n,)``, as :class:`~wsi_pipeline.predictions.fibrosis.tiles.FibreTile` has them.
    grade
        ``(n,)`` 0 to 3.
    unit, patient
        ``(n,)`` number of the slide or image, and of the patient.
    units
        Names of the slides or images.
    simulated
        Whether any of them is.
    """

    density: npt.NDArray[np.uint8]
    marrow: npt.NDArray[np.float32]
    marrow_share: npt.NDArray[np.float64]
    fibre_share: npt.NDArray[np.float64]
    grade: npt.NDArray[np.float64]
    unit: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]
    units: tuple[str, ...]
    simulated: bool

    def tile(self, i: int) -> FibreTile:
        """Return a tile as the network takes it."""
        return FibreTile(
            density=self.density[i].astype(np.float32) / np.float32(DENSITY_SCALE),
            marrow=self.marrow[i],
            marrow_share=float(self.marrow_share[i]),
            fibre_share=float(self.fibre_share[i]),
        )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    grade: float
    patient: str
    mpp: float | None
    simulated: bool


def read_graded(manifest: Path, *, per_slide: int, report: Callable[[str], None]) -> GradedTiles:
    """Read the tiles of a manifest.

    Parameters
    ----------
    manifest
        CSV with ``slide`` or ``tile`` (a slide, or an image of one tile or more; relative to the manifest),
        ``grade`` (0 to 3, also between them; or ``label`` such as ``2`` or ``MF-2``), ``patient``, and perhaps ``mpp``
        and ``simulated``.
    per_slide
        Most tiles of a slide, taken evenly over its marrow.
    report
        Told of each slide.

    Raises
    ------
    DataError
        The manifest cannot be used, or a slide has no marrow.
    SlideError
        A slide cannot be read, or is not a reticulin stain.
    """
    entries = _entries(manifest)
    config = load_config("reticulin")
    seen: list[FibreTile] = []
    owner: list[int] = []
    for i, entry in enumerate(entries):
        tiles = _tiles_of(entry, config, per_slide)
        if not tiles:
            raise DataError(f"{entry.path}: no tile of marrow; leave it out of {manifest}, or look at its mpp")
        seen += tiles
        owner += [i] * len(tiles)
        report(f"[{i + 1}/{len(entries)}] {entry.path.name}: {len(tiles)} tiles, grade {entry.grade:g}")
    unit = np.array(owner)
    names = sorted({entry.patient for entry in entries})
    return GradedTiles(
        density=np.stack([np.rint(tile.density * DENSITY_SCALE).astype(np.uint8) for tile in seen]),
        marrow=np.stack([tile.marrow for tile in seen]),
        marrow_share=np.array([tile.marrow_share for tile in seen]),
        fibre_share=np.array([tile.fibre_share for tile in seen]),
        grade=np.array([entry.grade for entry in entries])[unit],
        unit=unit,
        patient=np.array([names.index(entry.patient) for entry in entries])[unit],
        units=tuple(entry.path.name for entry in entries),
        simulated=any(entry.simulated for entry in entries),
    )


def _entries(manifest: Path) -> list[_Entry]:
    header, rows = read_rows(manifest)
    if unknown := sorted(set(header) - set(COLUMNS)):
        raise DataError(f"{manifest}: columns {', '.join(unknown)} are unknown; allowed are {', '.join(COLUMNS)}")
    place = [name for name in ("slide", "tile") if name in header]
    graded = "grade" if "grade" in header else "label"
    if len(place) != 1 or graded not in header or "patient" not in header:
        raise DataError(f"{manifest} needs the columns slide or tile, grade (0 to 3) and patient")
    entries = []
    for line, row in rows:
        where = f"{manifest} line {line}"
        text = row[graded].upper().removeprefix("MF").lstrip("- ")
        grade = number(text, where, graded)
        if not 0 <= grade <= MOST_GRADE:
            raise DataError(f"{where}: {graded} is {row[graded]!r}; grades are 0 to {MOST_GRADE:g}")
        if not row["patient"] or not row[place[0]]:
            raise DataError(f"{where}: {place[0]} and patient are needed; patients keep folds apart")
        path = manifest.parent / row[place[0]]
        if not path.exists():
            raise DataError(f"{where}: {path} does not exist")
        entries.append(
            _Entry(
                path=path,
                grade=grade,
                patient=row["patient"],
                mpp=number(row["mpp"], where, "mpp") if row.get("mpp") else None,
                simulated=row.get("simulated", "").lower() == "true" or is_virtual(path),
            )
        )
    return entries


def _tiles_of(entry: _Entry, config: PipelineConfig, per_slide: int) -> list[FibreTile]:
    mpp, least = config.segmentation.mpp, config.fibrosis.min_marrow_share
    with SlideSpec(path=entry.path, manifest_mpp=entry.mpp).open() as slide:
        regions = find_regions(slide, specimen="trephine", config=config.regions, stain="reticulin")
        frame = slide.frame(mpp)
        region = shapely.transform(regions.included, frame.from_px0)
        glass = glass_colour(read_overview(slide, config.regions.overview_mpp).pixels)
        width, height = slide.size_at(mpp)
        grid = TileGrid(mpp=mpp, width=width, height=height)
        tiles = []
        for column, row in _evenly(grid.tiles(region, least), per_slide):
            box, margin = grid.box(column, row), grid.margin
            wide = Box(x0=box.x0 - margin, y0=box.y0 - margin, x1=box.x1 + margin, y1=box.y1 + margin)
            inside = pixels_inside(region, box)
            tile = see_tile(slide.read(wide, mpp), inside, glass=glass, mpp=mpp, margin=margin)
            if tile.marrow_share >= least:
                tiles.append(tile)
            if len(tiles) == per_slide:
                break
    return tiles


def _evenly(places: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return the places in an order whose beginning is spread evenly: every k-th, then those beside them."""
    step = max(1, -(-len(places) // most))
    return [places[i] for first in range(step) for i in range(first, len(places), step)]
