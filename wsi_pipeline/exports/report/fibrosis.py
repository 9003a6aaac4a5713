"""The section on fibrosis in the report of a reticulin slide: map, spread over tiles, tiles to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.exports.fibrosis_map import SCALE_END, TITLES, colour_of, palette, tile_layer
from wsi_pipeline.exports.region_map import OverviewFrame, bar_of
from wsi_pipeline.exports.report.behind import CellPicture
from wsi_pipeline.exports.report.charts import Histogram, Styles
from wsi_pipeline.exports.report.pictures import Picture, data_uri, picture_of
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.sentences import say

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

TILE_GROUPS = ("most fibrous", "middle", "least fibrous")
"""Which tiles are shown; translated where shown."""
_SHOWN = 6
_BINS = 20
_TILE_PX, _TILE_BYTES = 256, 40_000


@dataclass(frozen=True, kw_only=True)
class FibrosisView:
    """What the section shows.

    Attributes
    ----------
    map
        The overview, with the tiles over it.
    title, end
        What colours stand for, and what the brightest one does.
    gradient
        Colours from few to many fibres, for the legend (CSS).
    histogram
        Tiles by their value.
    n_tiles
        How many.
    tiles
        The most, the middle and the least fibrous tiles.
    """

    map: Picture | None
    title: str
    end: float
    gradient: tuple[str, ...]
    histogram: Histogram
    n_tiles: int
    tiles: tuple[tuple[str, tuple[CellPicture, ...]], ...]


def view_fibrosis(path: Path, slide: Slide, styles: Styles, words: Words) -> tuple[FibrosisView | None, list[str]]:
    """Return the section, None where no tile is marrow, and what could not be shown.

    Parameters
    ----------
    path
        ``fibrosis.parquet``.

    Raises
    ------
    DataError
        The table is damaged.
    """
    try:
        tiles = pq.read_table(path)
        values = {name: np.asarray(tiles.column(name).to_pylist(), dtype=float) for name in SCALE_END}
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slide again") from None
    if not tiles.num_rows:
        return None, []
    name = "score" if np.isfinite(values["score"]).any() else "fibre_share"
    value = values[name]
    problems: list[str] = []
    whole: Picture | None = None
    try:
        whole = _map(tiles, slide, name)
    except SlideError as error:
        problems.append(say("The map of fibrosis could not be shown: {error}", error=str(error)))
    order = np.argsort(-value, kind="stable")
    middle = len(order) // 2 - min(_SHOWN, len(order)) // 2
    groups = []
    for title, rows in zip(
        TILE_GROUPS, (order[:_SHOWN], order[middle : middle + _SHOWN], order[::-1][:_SHOWN]), strict=True
    ):
        shown = []
        for row in rows.tolist():
            try:
                shown.append(_tile(tiles, row, words.decimals(value[row]), slide, styles))
            except SlideError as error:
                problems.append(say("A tile could not be shown: {error}", error=str(error)))
        groups.append((title, tuple(shown)))
    return (
        FibrosisView(
            map=whole,
            title=TITLES[name],
            end=SCALE_END[name],
            gradient=tuple("#{:02x}{:02x}{:02x}".format(*palette()[i].tolist()) for i in range(0, 256, 51)),
            histogram=_histogram(value, SCALE_END[name], words),
            n_tiles=len(value),
            tiles=tuple(groups),
        ),
        problems,
    )


def _map(tiles: pa.Table, slide: Slide, name: str) -> Picture:
    where = OverviewFrame.of(slide)
    text, percent = bar_of(where.box.width * where.mpp)
    return Picture(
        uri=data_uri(slide.read(where.box, where.mpp), "jpeg"),
        width=where.box.width,
        height=where.box.height,
        overlay_uri=data_uri(tile_layer(tiles, where, name), "png"),
        scale_text=text,
        scale_percent=percent,
    )


def _tile(tiles: pa.Table, row: int, caption: str, slide: Slide, styles: Styles) -> CellPicture:
    shape = shapely.from_wkb(tiles.column("geometry")[row].as_py())
    x0, y0, x1, y1 = shape.bounds
    side_um = (x1 - x0) * slide.mpp.x
    mpp = max(slide.mpp.x, slide.mpp.y, side_um / _TILE_PX)
    picture = picture_of(slide, (x0, y0, x1, y1), mpp, [], styles, most_bytes=_TILE_BYTES)
    return CellPicture(picture=picture, caption=caption, where=f"x {x0:.0f}, y {y0:.0f}", truncated=False)


def _histogram(values: np.ndarray, end: float, words: Words) -> Histogram:
    counts, edges = np.histogram(np.clip(values[np.isfinite(values)], 0, end), bins=_BINS, range=(0, end))
    most = max(int(counts.max()), 1)
    columns = tuple(
        (round(100 * float(left) / end, 3), round(100 / _BINS, 3), round(100 * int(n) / most, 2))
        for left, n in zip(edges[:-1], counts, strict=True)
        if n
    )
    ticks = tuple((round(100 * share, 1), words.number(share * end)) for share in (0, 0.25, 0.5, 0.75, 1))
    return Histogram(columns=columns, ticks=ticks)


def bar_colour(start: float, width: float) -> str:
    """Return the colour of a column of the histogram, as on the map."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(start + width / 2, 100.0))
