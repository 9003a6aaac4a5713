"""Write cells as an OME-NGFF 0.5 label image with a pyramid, for napari and other Zarr viewers."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.exports import ngff_pyramid as pyramid
from wsi_pipeline.exports._stream import ObjectArray, geometries, open_cells, polygonal
from wsi_pipeline.exports.ngff_pyramid import NGFF_VERSION, create_level, level_shapes, replaced_folder, squares
from wsi_pipeline.regions.rasterise import rasterise
from wsi_pipeline.units import Box, FrameTransform

_ROW_GROUPS_KEPT = 4
_NARROW_MAX = 2**32 - 1
"""Largest label that 32 bits hold."""


def write_labels(
    cells: Path,
    out: Path,
    *,
    slide_size_px0: tuple[int, int],
    frame: FrameTransform,
    mpp: float,
    name: str,
    image: str | None = None,
) -> None:
    """Write the outlines of a cell table as an OME-Zarr label pyramid.

    A pixel carries ``row + 1``, where ``row`` counts the rows of the table from 0, if its centre lies inside
    that cell's outline, else 0. Labels are 32-bit while the table's last row fits, else 64-bit. Work goes square by
    square, so memory does not grow with slide or table.

    Parameters
    ----------
    cells
        ``cells.parquet``; outlines in level-0 pixels.
    out
        The folder to write, for example ``labels.ome.zarr``. It appears when complete and replaces an older
        one; a killed run leaves only a folder ending in ``.tmp``.
    slide_size_px0
        Width and height of the slide, level-0 pixels.
    frame
        The working frame, the grid of the labels.
    mpp
        Size of a working pixel, micrometres; the scale of the first level.
    name
        Name of the image in its metadata.
    image
        The image the labels belong to, relative to ``out``; None for labels that stand alone.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column.

    Notes
    -----
    Each level keeps every second pixel of the one before, beginning with the first, so a pixel's position in
    micrometres is its index times the level's scale and no translation is needed. Cells smaller than a
    working pixel may cover no pixel centre.
    """
    # As Slide.size_at: the slack keeps 1000.0000000001 from becoming 1001.
    size = (
        max(1, math.ceil(slide_size_px0[0] / frame.scale_x - 1e-6)),
        max(1, math.ceil(slide_size_px0[1] / frame.scale_y - 1e-6)),
    )
    with replaced_folder(out) as temporary:
        _write(cells, temporary, size=size, frame=frame, mpp=mpp, name=name, image=image)


def label_type(n_cells: int) -> str:
    """Return the type of labels 1 to ``n_cells``: 32 bits only when all fit."""
    return "uint32" if n_cells <= _NARROW_MAX else "uint64"


def _write(
    cells: Path,
    folder: Path,
    *,
    size: tuple[int, int],
    frame: FrameTransform,
    mpp: float,
    name: str,
    image: str | None,
) -> None:
    import zarr

    source = _Outlines(cells, frame)
    dtype = label_type(source.n_cells)
    shapes = level_shapes(size[1], size[0])
    group = zarr.create_group(folder, zarr_format=3, attributes=_attributes(cells, len(shapes), mpp, name, image))
    levels = [create_level(group, str(number), shape, dtype=dtype, fill=0) for number, shape in enumerate(shapes)]
    with source:
        for box in squares(shapes[0]):
            tile = np.zeros((box.height, box.width), dtype=dtype)
            source.draw(tile, box)
            if tile.any():
                levels[0][box.y0 : box.y1, box.x0 : box.x1] = tile
    for finer, coarser, shape in zip(levels, levels[1:], shapes[1:], strict=False):
        for box in squares(shape):
            tile = finer[2 * box.y0 : 2 * box.y1 : 2, 2 * box.x0 : 2 * box.x1 : 2]
            if tile.any():
                coarser[box.y0 : box.y1, box.x0 : box.x1] = tile


def _attributes(cells: Path, levels: int, mpp: float, name: str, image: str | None) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [mpp * 2**level] * 2}],
        }
        for level in range(levels)
    ]
    multiscale = {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "nearest",
        "metadata": {"description": "every second pixel of the level before, from the first"},
    }
    return {
        "ome": {
            "version": NGFF_VERSION,
            "multiscales": [multiscale],
            "image-label": {
                "version": NGFF_VERSION,
                **({} if image is None else {"source": {"image": image}}),
            },
        },
        "cells": {
            "table": cells.name,
            "note": f"Label n is row n - 1 of {cells.name}, counted from 0; its cell_id column names the cell. "
            "Label 0 is background.",
        },
    }


class _Outlines:
    """The table's outlines in working pixels, by row group; the last few stay decoded.

    Row groups follow the lattice, so squares in raster order find most of theirs kept.
    """

    def __init__(self, path: Path, frame: FrameTransform) -> None:
        self._path = path
        self._frame = frame
        self._file = open_cells(path, ("geometry",))
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self.n_cells = sum(counts)
        self._first_rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._kept: OrderedDict[int, tuple[ObjectArray, npt.NDArray[np.float64]]] = OrderedDict()
        self._squares: list[set[tuple[int, int]]] = []

    def __enter__(self) -> _Outlines:
        for number in range(self._file.num_row_groups):
            bounds = self._load(number)[1]
            corners = np.floor(bounds[~np.isnan(bounds[:, 0])] / pyramid.SHARD_PX).astype(np.int64)
            covered: set[tuple[int, int]] = set()
            for x0, y0, x1, y1 in np.unique(corners, axis=0).tolist():
                covered.update((y, x) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1))
            self._squares.append(covered)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._kept.clear()

    def draw(self, tile: npt.NDArray[np.unsignedinteger], box: Box) -> None:
        square = (box.y0 // pyramid.SHARD_PX, box.x0 // pyramid.SHARD_PX)
        for number, covered in enumerate(self._squares):
            if square not in covered:
                continue
            shapes, bounds = self._load(number)
            x0, y0, x1, y1 = bounds.T
            here = np.flatnonzero((x1 > box.x0) & (x0 < box.x1) & (y1 > box.y0) & (y0 < box.y1))
            rasterise(shapes[here], self._first_rows[number] + here + 1, tile, box)

    def _load(self, number: int) -> tuple[ObjectArray, npt.NDArray[np.float64]]:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        column = self._file.read_row_group(number, columns=["geometry"]).column("geometry").combine_chunks()
        shapes = geometries(column, self._path, int(self._first_rows[number]))
        bad = ~(shapely.is_valid(shapes) & (shapely.get_type_id(shapes) == 3))
        for i in np.flatnonzero(bad):
            shapes[i] = polygonal(shapes[i])
        shapes = shapely.transform(shapes, self._frame.from_px0)
        self._kept[number] = shapes, shapely.bounds(shapes)
        while len(self._kept) > _ROW_GROUPS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[number]
