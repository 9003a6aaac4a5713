"""Pixels and outlines for a report: overview, fields and single cells as ``data:`` URIs and SVG paths."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw

from wsi_pipeline.exports._stream import polygonal
from wsi_pipeline.exports.region_map import OverviewFrame, Region, bar_of, region_layer
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.select import Dots, OutlinedCell
from wsi_pipeline.units import Box, FrameTransform

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide


_OVERVIEW_BYTES, _FIELD_BYTES = 500_000, 200_000


@dataclass(frozen=True, kw_only=True)
class Outline:
    """An SVG path over a picture, in its pixels, with what a pointer shows."""

    path: str
    colour: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as a ``data:`` URI, its size, what is drawn over it, and its scale bar (percent of the width)."""

    uri: str
    width: int
    height: int
    outlines: tuple[Outline, ...] = ()
    overlay_uri: str = ""
    scale_text: str = ""
    scale_percent: float = 0.0

    @property
    def weight_bytes(self) -> int:
        """Bytes that it takes in the page."""
        return len(self.uri) + len(self.overlay_uri) + sum(60 + len(o.path) for o in self.outlines)


def data_uri(pixels: npt.NDArray[np.uint8] | Image.Image, form: Literal["jpeg", "png"], quality: int = 84) -> str:
    """Encode an image as a ``data:`` URI."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if form == "jpeg":
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


_QUALITIES = (84, 70, 55, 40, 25)


def small_uri(pixels: npt.NDArray[np.uint8], most_bytes: int) -> str:
    """Encode a picture as JPEG, at the best quality that keeps the URI under ``most_bytes``, or else at the lowest."""
    uri = ""
    for quality in _QUALITIES:
        uri = data_uri(pixels, "jpeg", quality)
        if len(uri) <= most_bytes:
            break
    return uri


def overview(slide: Slide, where: OverviewFrame, regions: Sequence[Region], dots: Dots, styles: Styles) -> Picture:
    """Return the overview, and over it regions and nucleated cells on a transparent layer."""
    box = where.box
    pixels = slide.read(box, where.mpp)
    layer = region_layer(where, regions)
    draw = ImageDraw.Draw(layer)
    radius = 4 if dots.n <= 1500 else 2 if dots.n <= 8000 else 1 if dots.n <= 40_000 else 0
    rows, columns = np.nonzero(dots.image >= 0)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        colour = (*styles[dots.codes[dots.image[row, column]]].rgb, 255)
        if radius:
            edges = (column - radius, row - radius, column + radius, row + radius)
            draw.ellipse(edges, fill=colour, outline=(255, 255, 255, 255) if radius > 1 else None)
        else:
            draw.point((column, row), fill=colour)
    layer_uri = data_uri(layer, "png")
    text, percent = bar_of(box.width * where.mpp)
    return Picture(
        uri=small_uri(pixels, _OVERVIEW_BYTES),
        width=box.width,
        height=box.height,
        overlay_uri=layer_uri,
        scale_text=text,
        scale_percent=percent,
    )


def picture_of(
    slide: Slide,
    box_px0: tuple[float, float, float, float],
    mpp: float,
    cells: Sequence[OutlinedCell],
    styles: Styles,
    *,
    most_bytes: int = _FIELD_BYTES,
    scale_bar: bool = False,
) -> Picture:
    """Return a rectangle of level-0 pixels at ``mpp`` with the outlines of ``cells`` over it."""
    frame = slide.frame(mpp)
    box = frame.box_from_px0(*box_px0)
    pixels = slide.read(box, mpp)
    text, percent = bar_of(box.width * mpp) if scale_bar else ("", 0.0)
    return Picture(
        scale_text=text,
        scale_percent=percent,
        uri=small_uri(pixels, most_bytes),
        width=box.width,
        height=box.height,
        outlines=tuple(_outline(cell, frame, box, styles) for cell in cells),
    )


def _outline(cell: OutlinedCell, frame: FrameTransform, box: Box, styles: Styles) -> Outline:
    shape = shapely.transform(cell.outline, lambda xy: frame.from_px0(xy) - (box.x0, box.y0))
    simple = polygonal(shapely.simplify(shape, 0.2)) or shape
    rings = (shapely.get_coordinates(ring).round(1).tolist() for ring in shapely.get_rings(simple))
    path = "".join("M" + " ".join(f"{x:g} {y:g}" for x, y in ring[:-1]) + "Z" for ring in rings)
    style = styles[cell.code]
    title = style.name if cell.probability is None else f"{style.name} {cell.probability:.2f}"
    return Outline(path=path, colour=style.colour, title=title)
