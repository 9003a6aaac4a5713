"""Pixels of a bag's cells, read again: from the images of a gallery or from the slide, as the classifier saw them."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from wsi_pipeline.cells.measure import CELL_NAMESPACE
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.units import Box

MAX_PIXELS = 4096 * 4096
"""Of the image of one cell."""
_ADVICE = "bring them back to where the run found them, or use a model trained with --encoder frozen"


@dataclass(frozen=True, kw_only=True)
class CellWindows:
    """Windows of ``n`` cells: uint8 ``(n, side, side, 3)``, and the colour of empty glass ``(n, 3)``."""

    images: npt.NDArray[np.uint8]
    background: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)


def read_windows(bag: CellBag, rows: npt.ArrayLike, *, mpp: float, side: int) -> CellWindows:
    """Return the windows of some cells of a bag, the cell in the middle.

    Parameters
    ----------
    rows
        Of the cells, in the order wanted.
    mpp, side
        Resolution of the windows, um per pixel, and their side, pixels.

    Raises
    ------
    DataError
        An image or the slide is no longer where the run found it, cannot be read, or is another one now.
    """
    chosen = np.asarray(rows, np.int64)
    images = np.zeros((len(chosen), side, side, 3), np.uint8)
    background = np.zeros((len(chosen), 3), np.uint8)
    for number, folder in enumerate(bag.sources):
        own = np.flatnonzero(bag.slide[chosen] == number)
        if not len(own):
            continue
        summary = _summary(folder)
        if bag.images is not None:
            for i in own.tolist():
                cell = int(chosen[i])
                path = Path(bag.images[cell])
                pixels = _image(path, str(bag.cell_ids[cell]), bag.subject_id)
                images[i] = _middle(pixels, mpp / float(summary["mpp"]["x"]), side)
                background[i] = estimate_background(pixels)
        else:
            images[own] = _of_slide(summary, folder, bag.cell_ids[chosen[own]], mpp=mpp, side=side)
            background[own] = _glass(summary, folder)
    return CellWindows(images=images, background=background)


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        float(summary["mpp"]["x"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the summary of a slide ({type(error).__name__}: {error})") from None
    return summary


def _image(path: Path, cell_id: str, subject: str) -> npt.NDArray[np.uint8]:
    try:
        content = path.read_bytes()
    except OSError:
        raise DataError(
            f"{path}, an image of {subject}, cannot be read any more; this model needs the cells' pixels: {_ADVICE}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    # The number counts identical images of a patient; hardly any patient has more than a few.
    if not any(str(uuid.uuid5(CELL_NAMESPACE, f"image/{digest}/{k}")) == cell_id for k in range(100)):
        raise DataError(f"{path}, an image of {subject}, is not the one that was run; run the gallery again")
    return read_image(path, max_pixels=MAX_PIXELS)


def _middle(pixels: npt.NDArray[np.uint8], scale: float, side: int) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return resample(pixels, width / 2, height / 2, side=side, scale=scale)


def _of_slide(
    summary: dict[str, Any], folder: Path, ids: npt.NDArray[np.str_], *, mpp: float, side: int
) -> npt.NDArray[np.uint8]:
    table = pq.read_table(folder / "cells.parquet", columns=["cell_id", "x_px0", "y_px0"])
    place = {name: i for i, name in enumerate(table.column("cell_id").to_pylist())}
    where = [place[str(name)] for name in ids.tolist()]
    centres = np.stack([table.column(name).to_numpy()[where] for name in ("x_px0", "y_px0")], axis=1)
    windows = np.empty((len(ids), side, side, 3), np.uint8)
    given = summary["mpp"]["source"] != "slide"
    try:
        with open_slide(summary["path"], mpp=float(summary["mpp"]["x"]) if given else None, force_mpp=given) as slide:
            corners = np.floor(slide.frame(mpp).from_px0(centres) - side / 2 + 0.5).astype(int)
            for i, (x, y) in enumerate(corners.tolist()):
                windows[i] = slide.read(Box(x0=x, y0=y, x1=x + side, y1=y + side), mpp)
    except SlideError as error:
        raise DataError(f"{folder}: this model needs the pixels of the slide: {error}; {_ADVICE}") from None
    return windows


def _glass(summary: dict[str, Any], folder: Path) -> npt.NDArray[np.uint8]:
    """Return the colour of empty glass that the run balanced the slide's white by."""
    said = str(summary.get("provenance", {}).get("empty glass, RGB", ""))
    try:
        red, green, blue = (int(v) for v in said.split(","))
    except ValueError:
        raise DataError(
            f"{folder / 'summary.json'} does not say the colour of empty glass; run the slide again"
        ) from None
    return np.array([red, green, blue], np.uint8)
