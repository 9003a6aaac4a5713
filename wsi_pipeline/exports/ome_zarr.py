"""Write a slide as an OME-NGFF 0.5 image with its cells as a label image in it, for napari and other Zarr viewers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.exports.ngff_pyramid import NGFF_VERSION, create_level, level_shapes, replaced_folder, squares
from wsi_pipeline.units import Box

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

LABELS = "cells"
"""Name of the label image in the image's group ``labels``."""

_CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
_WHITE = 255


def write_image(
    slide: Slide,
    cells: Path,
    out: Path,
    *,
    mpp: float,
    name: str,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Write the pixels of a slide at a resolution as an image pyramid, and its cells as labels on the same grid.

    Work goes square by square, so memory does not grow with the slide.

    Parameters
    ----------
    slide
        Open.
    cells
        Its ``cells.parquet``; outlines in level-0 pixels.
    out
        The folder to write, for example ``image.ome.zarr``. It appears when complete and replaces an older one; a
        killed run leaves only a folder ending in ``.tmp``.
    mpp
        Micrometres per pixel of the first level.
    name
        Name of the image in its metadata.
    progress
        Called with the squares of the first level that are written, and how many there are.

    Raises
    ------
    CorruptTileError
        A part of the slide cannot be decoded.
    DataError
        The table cannot be read or lacks a column.

    Notes
    -----
    Axes are c, y, x: red, green, blue, uint8, compressed without loss. Each pixel of a coarser level is the rounded
    mean of the four (at an odd edge two or one) below it, so its centre lies half a pixel of the finer level further;
    the levels' translations say so. Labels keep every second pixel, and need none.
    """
    import zarr

    width, height = slide.size_at(mpp)
    shapes = level_shapes(height, width)
    with replaced_folder(out) as temporary:
        group = zarr.create_group(temporary, zarr_format=3, attributes={"ome": _attributes(len(shapes), mpp, name)})
        levels = [
            create_level(group, str(number), shape, dtype="uint8", fill=_WHITE, channels=len(_CHANNELS))
            for number, shape in enumerate(shapes)
        ]
        boxes = list(squares(shapes[0]))
        for number, box in enumerate(boxes, start=1):
            _put(levels[0], box, slide.read(box, mpp))
            progress(number, len(boxes))
        for finer, coarser, shape in zip(levels, levels[1:], shapes[1:], strict=False):
            for box in squares(shape):
                pixels = finer[:, 2 * box.y0 : 2 * box.y1, 2 * box.x0 : 2 * box.x1]
                _put(coarser, box, halved(np.moveaxis(pixels, 0, 2)))
        group.create_group("labels", attributes={"ome": {"version": NGFF_VERSION, "labels": [LABELS]}})
        write_labels(
            cells,
            temporary / "labels" / LABELS,
            slide_size_px0=slide.dimensions,
            frame=slide.frame(mpp),
            mpp=mpp,
            name=LABELS,
            image="../../",
        )


def halved(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return ``(h, w, c)`` pixels at half the size, rounded up: means of two by two; an odd edge is repeated."""
    odd_y, odd_x = pixels.shape[0] % 2, pixels.shape[1] % 2
    even = np.pad(pixels, ((0, odd_y), (0, odd_x), (0, 0)), mode="edge").astype(np.uint16)
    total = even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _put(level: Any, box: Box, pixels: npt.NDArray[np.uint8]) -> None:
    if not (pixels == _WHITE).all():  # what is not written is white
        level[:, box.y0 : box.y1, box.x0 : box.x1] = np.moveaxis(pixels, 2, 0)


def _attributes(levels: int, mpp: float, name: str) -> dict[str, Any]:
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = []
    for level in range(levels):
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, mpp * 2**level, mpp * 2**level]}]
        if level:
            shift = mpp * (2**level - 1) / 2
            steps.append({"type": "translation", "translation": [0.0, shift, shift]})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    window = {"min": 0, "max": _WHITE, "start": 0, "end": _WHITE}
    return {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": "c", "type": "channel"}, *space],
                "datasets": datasets,
                "type": "mean",
                "metadata": {"description": "mean of two by two pixels of the level before, rounded"},
            }
        ],
        "omero": {
            "name": name,
            "channels": [
                {"label": label, "color": colour, "active": True, "window": window} for label, colour in _CHANNELS
            ],
            "rdefs": {"model": "color"},
        },
    }
