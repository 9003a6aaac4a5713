"""Where fibres are dense on a reticulin slide: a picture, and tiles for QuPath."""

from __future__ import annotations

import json
import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from PIL import Image, ImageDraw, ImageFont

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.exports.qupath import GRID_PX, feature_collection
from wsi_pipeline.exports.region_map import OverviewFrame

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

SCALE_END = {"score": 1.0, "fibre_share": 0.3}
"""What the brightest colour stands for: a score of 1, or 30 % dark pixels."""
TITLES = {"score": "fibrosis score of a tile", "fibre_share": "share of dark pixels of a tile"}

_NAMESPACE = uuid.UUID("2f6c1a34-0d5a-5bb1-8f0a-6f2f3b1c9d70")
_OPACITY = 170
_BAR_PX = 46
_MEASUREMENTS = (
    ("Fibrosis score", "score", 4),
    ("Dark fibre share", "fibre_share", 4),
    ("Marrow share", "marrow_share", 3),
)


@lru_cache(maxsize=1)
def palette() -> npt.NDArray[np.uint8]:
    """Return 256 colours from few to many fibres, uint8 of shape (256, 3): matplotlib's ``viridis``."""
    import matplotlib

    return np.rint(matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def colour_of(value: float, end: float) -> tuple[int, int, int]:
    """Return the colour of a value on a scale from 0 to ``end``."""
    red, green, blue = palette()[int(np.clip(round(255 * value / end), 0, 255))].tolist()
    return red, green, blue


def tile_layer(tiles: pa.Table, where: OverviewFrame, value: str) -> Image.Image:
    """Return the tiles in the colours of a column, on a transparent layer over the overview.

    Parameters
    ----------
    tiles
        ``fibrosis.parquet``.
    value
        ``score`` or ``fibre_share``.
    """
    layer = Image.new("RGBA", (where.box.width, where.box.height))
    draw = ImageDraw.Draw(layer)
    shapes = shapely.from_wkb(np.asarray(tiles.column("geometry").to_pylist(), dtype=object))
    for shape, number in zip(shapes, tiles.column(value).to_pylist(), strict=True):
        if number is None or not np.isfinite(number):
            continue
        x0, y0, x1, y1 = shape.bounds
        (left, top), (right, bottom) = where.to_picture([(x0, y0), (x1, y1)]).tolist()
        colour = (*colour_of(number, SCALE_END[value]), _OPACITY)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=colour)
    return layer


def write_fibrosis_map(tiles: pa.Table, path: Path, *, slide: Slide, value: str) -> None:
    """Write the overview with the tiles over it and a colour bar below, as PNG.

    Parameters
    ----------
    tiles
        ``fibrosis.parquet``.
    value
        ``score`` or ``fibre_share``; the bar says which, and what its end stands for.
    """
    where = OverviewFrame.of(slide)
    picture = Image.fromarray(slide.read(where.box, where.mpp)).convert("RGBA")
    picture.alpha_composite(tile_layer(tiles, where, value))
    width, height = picture.size
    whole = Image.new("RGB", (max(width, 360), height + _BAR_PX), "white")
    whole.paste(picture.convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(whole)
    for x in range(256):
        draw.line((10 + x, height + 8, 10 + x, height + 20), fill=tuple(palette()[x].tolist()))
    text = f"0 to {SCALE_END[value]:g}: {TITLES[value]}"
    draw.text((10, height + 26), text, fill="black", font=ImageFont.load_default(size=13))
    with atomic_path(path) as temporary:
        whole.quantize(192).save(temporary, "PNG", optimize=True)


def write_tile_objects(
    tiles: pa.Table, out: Path, *, offset_px0: tuple[float, float], fingerprint: str, value: str
) -> None:
    """Write tiles as GeoJSON for QuPath: objects of type *tile* with measurements, coloured like the map.

    Parameters
    ----------
    tiles
        ``fibrosis.parquet``; outlines in level-0 pixels.
    offset_px0
        Level-0 position of QuPath's origin.
    fingerprint
        The slide's; ids are made of it and the tile's place.
    value
        Column that colours the tiles.
    """
    shapes = shapely.from_wkb(np.asarray(tiles.column("geometry").to_pylist(), dtype=object))
    features = []
    for shape, row in zip(shapes, tiles.drop_columns("geometry").to_pylist(), strict=True):
        x0, y0, x1, y1 = (
            float(v) for v in np.rint((np.array(shape.bounds) - (*offset_px0, *offset_px0)) / GRID_PX) / 100
        )
        measured = {
            name: round(row[key], digits)
            for name, key, digits in _MEASUREMENTS
            if row[key] is not None and np.isfinite(row[key])
        }
        features.append(
            json.dumps(
                {
                    "type": "Feature",
                    "id": str(uuid.uuid5(_NAMESPACE, f"{fingerprint}/{row['column']}/{row['row']}")),
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
                    },
                    "properties": {
                        "objectType": "tile",
                        "color": list(colour_of(row[value] or 0.0, SCALE_END[value])),
                        "measurements": measured,
                    },
                },
                separators=(",", ":"),
                allow_nan=False,
            )
        )
    with feature_collection(out, "trephine") as add:
        add(features)
