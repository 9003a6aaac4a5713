"""Regions over a small picture of the slide: what was looked at, and why the rest was not.

The report and ``wsi-pipeline inspect`` draw with this, so both show the same. Label and macro images are never
read; the picture comes from the slide's own levels.
"""

from __future__ import annotations

import io
import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFont

from wsi_pipeline.atomic import write_bytes
from wsi_pipeline.errors import DataError
from wsi_pipeline.units import Box, FrameTransform

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

OVERVIEW_PX = 1200

_Colour = tuple[int, int, int]

_INCLUDED: _Colour = (0, 140, 50)
"""Green stands out on haematoxylin, eosin and Giemsa alike."""
_QUIET: _Colour = (120, 120, 120)
# Parts that were not scanned are black or white, so neither may stand for them.
_COLOURS: dict[str, _Colour] = {
    "glass": _QUIET,
    "background": _QUIET,
    "outside-drawn": _QUIET,
    "pen": (213, 94, 0),
    "no-data": (0, 100, 220),
    "too-small": (204, 80, 160),
    "ignored-class": (120, 70, 200),
    "out-of-focus": (230, 159, 0),
}
# Okabe and Ito's palette, and others far from it, for reasons that have no colour of their own.
_OTHERS: tuple[_Colour, ...] = ((86, 180, 233), (150, 80, 30), (225, 205, 40), (0, 160, 160), (200, 0, 60))
_HATCH_PX = 9
_TINT, _STRIPE = 56, 190
_QUIET_TINT, _QUIET_STRIPE = 40, 110


@dataclass(frozen=True, kw_only=True)
class Region:
    """A feature of ``regions.geojson``: ``shape`` in level-0 pixels; ``name`` is the reason when not included."""

    shape: shapely.Geometry
    name: str
    included: bool


@dataclass(frozen=True, kw_only=True)
class RegionStyle:
    """How a region is drawn: its colour, and the direction of its hatching (0 to 3; None leaves only the outline)."""

    colour: _Colour
    hatch: int | None

    @property
    def css(self) -> str:
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


@dataclass(frozen=True, kw_only=True)
class RegionEntry:
    """A row of the legend: all regions of one name.

    Attributes
    ----------
    name
        The region's name, or the reason code of what was not looked at.
    n
        Pieces.
    area_mm2
        Their area together.
    """

    name: str
    included: bool
    style: RegionStyle
    n: int
    area_mm2: float


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

    def to_picture(self, xy_px0: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Map ``(..., 2)`` level-0 coordinates to pixels of the picture."""
        return self.frame.from_px0(xy_px0) - (self.box.x0, self.box.y0)


def parse_regions(
    features: Sequence[Mapping[str, Any]], offset_px0: tuple[float, float], *, inside: bool = False
) -> tuple[Region, ...]:
    """Return the regions of GeoJSON features in QuPath's frame, moved back to level-0 pixels.

    Parameters
    ----------
    features
        As :meth:`wsi_pipeline.regions.Regions.to_features` makes them.
    offset_px0
        Origin of QuPath's frame, level-0 pixels.
    inside
        Return what was told apart inside the searched area (fat) instead.
    """
    regions = []
    for feature in features:
        status = ((feature.get("properties") or {}).get("metadata") or {}).get("status")
        if (status == "inside") is not inside:
            continue
        shape = shapely.transform(shapely.geometry.shape(feature["geometry"]), lambda xy: xy + offset_px0)
        properties = feature.get("properties") or {}
        classification = properties.get("classification") or {}
        name = str(properties.get("name") or classification.get("name") or "region")
        regions.append(Region(shape=shape, name=name, included=status != "excluded" and not inside))
    return tuple(regions)


def read_region_features(path: Path, offset_px0: tuple[float, float], *, inside: bool = False) -> tuple[Region, ...]:
    """Read ``regions.geojson``, in QuPath's frame, back to level-0 pixels; ``inside``: see :func:`parse_regions`.

    Raises
    ------
    DataError
        The file is not the FeatureCollection that the regions step writes.
    """
    try:
        return parse_regions(json.loads(path.read_text(encoding="utf-8"))["features"], offset_px0, inside=inside)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise DataError(
            f"{path} is not a regions file ({type(error).__name__}: {error}); run the slide again"
        ) from None


def region_styles(regions: Sequence[Region]) -> dict[str, RegionStyle]:
    """Return a style for every reason among the excluded regions; the same reasons always get the same styles."""
    styles: dict[str, RegionStyle] = {}
    others = 0
    for name in sorted({region.name for region in regions if not region.included}):
        if name in _COLOURS:
            colour, place = _COLOURS[name], list(_COLOURS).index(name)
        else:
            colour, place = _OTHERS[others % len(_OTHERS)], others + 1
            others += 1
        styles[name] = RegionStyle(colour=colour, hatch=place % 4)
    return styles


def region_legend(regions: Sequence[Region], px0_um2: float) -> list[RegionEntry]:
    """Return one row for every name, included first.

    Parameters
    ----------
    regions
        What is drawn.
    px0_um2
        Area of a level-0 pixel, um2.
    """
    styles = region_styles(regions)
    groups: dict[tuple[bool, str], list[Region]] = {}
    for region in sorted(regions, key=lambda r: not r.included):
        groups.setdefault((region.included, region.name), []).append(region)
    return [
        RegionEntry(
            name=name,
            included=included,
            style=RegionStyle(colour=_INCLUDED, hatch=None) if included else styles[name],
            n=len(found),
            area_mm2=sum(region.shape.area for region in found) * px0_um2 * 1e-6,
        )
        for (included, name), found in groups.items()
    ]


def region_layer(where: OverviewFrame, regions: Sequence[Region]) -> Image.Image:
    """Return a transparent RGBA layer over the overview: excluded parts hatched, included ones outlined."""
    size = (where.box.width, where.box.height)
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    for name, style in region_styles(regions).items():
        mask = _mask(size, [r.shape for r in regions if not r.included and r.name == name], where)
        _hatch(rgba, mask, style)
    layer = Image.fromarray(rgba)
    draw = ImageDraw.Draw(layer)
    for colour, width in (((255, 255, 255, 210), 5), ((*_INCLUDED, 255), 3)):
        for region in regions:
            if region.included:
                for line in _rings(region.shape, where):
                    draw.line(line, fill=colour, width=width, joint="curve")
    return layer


def _rings(shape: shapely.Geometry, where: OverviewFrame) -> list[list[tuple[float, float]]]:
    rings = (where.to_picture(shapely.get_coordinates(ring)) for ring in shapely.get_rings(shape))
    return [[(x, y) for x, y in ring.tolist()] for ring in rings]


def _mask(size: tuple[int, int], shapes: Sequence[shapely.Geometry], where: OverviewFrame) -> npt.NDArray[np.bool_]:
    image = Image.new("1", size)
    draw = ImageDraw.Draw(image)
    pieces = shapely.get_parts(shapely.get_parts(np.array(shapes, dtype=object)))
    # A piece may lie in the hole of another; that one encloses it, so it is painted first.
    for piece in sorted(pieces, key=lambda p: -shapely.Polygon(p.exterior).area):
        outer, *holes = _rings(piece, where)
        draw.polygon(outer, fill=1)
        for hole in holes:
            draw.polygon(hole, fill=0)
    return np.asarray(image, dtype=bool)


def _hatch(rgba: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], style: RegionStyle) -> None:
    """Tint what the mask covers, with stripes in the style's direction, in place."""
    y, x = np.nonzero(mask)
    along = (x + y, x - y, y, x)[style.hatch or 0]
    quiet = style.colour == _QUIET
    tint, stripe = (_QUIET_TINT, _QUIET_STRIPE) if quiet else (_TINT, _STRIPE)
    rgba[y, x, :3] = style.colour
    rgba[y, x, 3] = np.where(along % _HATCH_PX < (1 if quiet else 2), stripe, tint)


def bar_of(width_um: float) -> tuple[str, float]:
    """Return a round length of at most a quarter of the width, in words and as percent of the width."""
    power = 10 ** math.floor(math.log10(width_um / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_um / 4)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    return text, round(100 * length / width_um, 2)


_MARGIN, _ROW, _SWATCH, _TEXT_PX = 16, 26, 30, 17
_MAX_ROWS = 16
_LEAST_WIDTH = 560


def write_region_map(
    path: Path, where: OverviewFrame, pixels: npt.NDArray[np.uint8], regions: Sequence[Region], px0_um2: float,
    *, title: str, words: Callable[[str], str],
) -> None:  # fmt: skip
    """Write a PNG: the overview with its regions, and under it scale bar and legend with areas.

    Parameters
    ----------
    path
        The PNG; it appears by an atomic rename.
    where, pixels
        The overview and its ``(h, w, 3)`` uint8 pixels.
    px0_um2
        Area of a level-0 pixel, um2.
    title
        First line of the legend.
    words
        Says a reason code in words.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    entries = region_legend(regions, px0_um2)
    height, width = pixels.shape[:2]
    rows = min(len(entries), _MAX_ROWS + 1)
    page = Image.new("RGB", (max(width, _LEAST_WIDTH), height + 2 * _MARGIN + (rows + 2) * _ROW), "white")
    picture = Image.fromarray(pixels).convert("RGBA")
    page.paste(Image.alpha_composite(picture, region_layer(where, regions)).convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(_TEXT_PX)
    y = height + _MARGIN
    draw.text((_MARGIN, y), _fitting(title, font, page.width - 2 * _MARGIN), fill="black", font=font)
    y += _ROW
    text, percent = bar_of(width * where.mpp)
    end = _MARGIN + round(width * percent / 100)
    draw.line([(_MARGIN, y + 10), (end, y + 10)], fill="black", width=3)
    for x in (_MARGIN, end):
        draw.line([(x, y + 4), (x, y + 16)], fill="black", width=2)
    draw.text((end + 10, y), _fitting(text, font, page.width), fill="black", font=font)
    for number, entry in enumerate(entries[: _MAX_ROWS + 1]):
        y += _ROW
        if number == _MAX_ROWS:
            draw.text((_MARGIN, y), f"and {len(entries) - _MAX_ROWS} other reasons", fill="black", font=font)
            break
        page.paste(_swatch(entry.style), (_MARGIN, y + 1))
        what = entry.name if entry.included else f"not looked at: {words(entry.name)}"
        text = f"{entry.area_mm2:.3g} mm2  {what} ({entry.n} {'piece' if entry.n == 1 else 'pieces'})"
        left = _MARGIN + _SWATCH + 10
        draw.text((left, y), _fitting(text, font, page.width - left - _MARGIN), fill="black", font=font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def _swatch(style: RegionStyle) -> Image.Image:
    size = (_SWATCH, _ROW - 8)
    page = Image.new("RGBA", size, (255, 255, 255, 255))
    if style.hatch is None:
        ImageDraw.Draw(page).rectangle((1, 1, size[0] - 2, size[1] - 2), outline=style.colour, width=3)
    else:
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        _hatch(rgba, np.ones((size[1], size[0]), bool), style)
        page = Image.alpha_composite(page, Image.fromarray(rgba))
    return page.convert("RGB")


def _fitting(text: str, font: Any, width: int) -> str:
    """Return the text on one line in what Pillow's own font has, cut where it is wider than ``width`` pixels."""
    plain = unicodedata.normalize("NFKD", text.replace("\u00b5", "u"))[:400]
    line = "".join(c if " " <= c <= "~" else "?" for c in plain if not unicodedata.combining(c))
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
