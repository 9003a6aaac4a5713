"""Pixels and outlines for a report: overview, fields and single cells as ``data:`` URIs and SVG paths."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports._stream import polygonal
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.select import Dots, OutlinedCell
from wsi_pipeline.units import Box, FrameTransform

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

OVERVIEW_PX = 1200
_REGION_COLOURS = {True: (0, 110, 200), False: (200, 60, 0)}


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


@dataclass(frozen=True, kw_only=True)
class Region:
    """A feature of ``regions.geojson``, level-0 pixels."""

    shape: shapely.Geometry
    name: str
    included: bool
    colour: tuple[int, int, int]


def data_uri(pixels: npt.NDArray[np.uint8] | Image.Image, form: Literal["jpeg", "png"], quality: int = 84) -> str:
    """Encode an image as a ``data:`` URI."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if form == "jpeg":
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True, kw_only=True)
class OverviewFrame:
    """Where the overview lies: its resolution, its box at that resolution, and the map to level 0."""

    mpp: float
    box: Box
    frame: FrameTransform

    @classmethod
    def of(cls, slide: Slide) -> OverviewFrame:
        """Fit the scanned part of the slide into 1200 pixels."""
        bounds = slide.bounds
        longest = max(bounds.width * slide.mpp.x, bounds.height * slide.mpp.y)
        mpp = max(longest / OVERVIEW_PX, slide.mpp.x, slide.mpp.y)
        frame = slide.frame(mpp)
        box = frame.box_from_px0(bounds.x0, bounds.y0, bounds.x1, bounds.y1)
        return cls(mpp=mpp, box=box, frame=frame)

    @property
    def origin_px0(self) -> tuple[float, float]:
        x, y = self.frame.to_px0((self.box.x0, self.box.y0))
        return float(x), float(y)


def overview(slide: Slide, where: OverviewFrame, regions: Sequence[Region], dots: Dots, styles: Styles) -> Picture:
    """Return the overview, and over it regions and nucleated cells on a transparent layer."""
    box = where.box
    pixels = slide.read(box, where.mpp)
    layer = Image.new("RGBA", (box.width, box.height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for region in sorted(regions, key=lambda r: not r.included):
        for ring in shapely.get_rings(region.shape):
            line = where.frame.from_px0(shapely.get_coordinates(ring)) - (box.x0, box.y0)
            draw.line([tuple(p) for p in line.tolist()], fill=(*region.colour, 255), width=3 if region.included else 1)
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
    text, percent = _scale_bar(box.width * where.mpp)
    return Picture(
        uri=data_uri(pixels, "jpeg"),
        width=box.width,
        height=box.height,
        overlay_uri=layer_uri,
        scale_text=text,
        scale_percent=percent,
    )


def _scale_bar(width_um: float) -> tuple[str, float]:
    """Return a round length of at most a quarter of the width, in words and as percent of the width."""
    power = 10 ** math.floor(math.log10(width_um / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_um / 4)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return text, round(100 * length / width_um, 2)


def read_region_features(path: Path, offset_px0: tuple[float, float]) -> tuple[Region, ...]:
    """Read ``regions.geojson``, which is in QuPath's frame, back to level-0 pixels.

    Raises
    ------
    DataError
        The file is not the FeatureCollection that the regions step writes.
    """
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        regions = []
        for feature in features:
            shape = shapely.transform(shapely.geometry.shape(feature["geometry"]), lambda xy: xy + offset_px0)
            properties = feature.get("properties") or {}
            classification = properties.get("classification") or {}
            name = str(properties.get("name") or classification.get("name") or "region")
            included = (properties.get("metadata") or {}).get("status") != "excluded"
            red, green, blue = (int(c) & 255 for c in classification.get("color") or _REGION_COLOURS[included])
            regions.append(Region(shape=shape, name=name, included=included, colour=(red, green, blue)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise DataError(
            f"{path} is not a regions file ({type(error).__name__}: {error}); run the slide again"
        ) from None
    return tuple(regions)


def picture_of(
    slide: Slide,
    box_px0: tuple[float, float, float, float],
    mpp: float,
    cells: Sequence[OutlinedCell],
    styles: Styles,
    *,
    quality: int = 84,
    scale_bar: bool = False,
) -> Picture:
    """Return a rectangle of level-0 pixels at ``mpp`` with the outlines of ``cells`` over it."""
    frame = slide.frame(mpp)
    box = frame.box_from_px0(*box_px0)
    pixels = slide.read(box, mpp)
    text, percent = _scale_bar(box.width * mpp) if scale_bar else ("", 0.0)
    return Picture(
        scale_text=text,
        scale_percent=percent,
        uri=data_uri(pixels, "jpeg", quality),
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
