"""The section on marrow and megakaryocytes in the report of a trephine: map, gallery, phenotypes, arrangement."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely
from markupsafe import Markup
from PIL import Image, ImageDraw

from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.exports._stream import geometries, iter_cells, polygonal, strings
from wsi_pipeline.exports.phenotype_colours import phenotype_colour, rgb
from wsi_pipeline.exports.region_map import OverviewFrame, Region, bar_of, read_region_features
from wsi_pipeline.exports.report.behind import CellPicture
from wsi_pipeline.exports.report.charts import ClassStyle, Histogram, Styles
from wsi_pipeline.exports.report.cohort_map import cohort_map_svg
from wsi_pipeline.exports.report.curves import Chart, Line, line_chart
from wsi_pipeline.exports.report.pictures import Picture, data_uri, picture_of
from wsi_pipeline.exports.report.select import OutlinedCell
from wsi_pipeline.exports.report.text import title
from wsi_pipeline.exports.report.trephine_summary import PairCorrelation, PhenotypeRow, Trephine
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.sentences import say

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide

TISSUES: tuple[tuple[str, str, str], ...] = (
    ("haematopoietic", "Haematopoietic", "#b04a8a"), ("fat", "Fat", "#e6be28"), ("space", "Gaps", "#c8ccd2"),
    ("other", "Other tissue", "#9a8c7c"), ("bone", "Bone", "#5a8cbe"), ("haemorrhage", "Haemorrhage", "#b3261e"),
    ("crush", "Crushed", "#5b5f97"), ("fold", "Folds", "#3d3d3d"),
)  # fmt: skip
"""Classes of the regions, their names and colours, in the order of the bar; names are translated where shown."""

MEASURES: tuple[tuple[str, str, str], ...] = (
    ("area_um2", "Area", "µm²"), ("diameter_um", "Diameter of the disc of equal area", "µm"),
    ("nucleus_area_um2", "Area of the nucleus", "µm²"), ("nc_ratio", "Nucleus over cell", ""),
    ("nucleus_lobes", "Lobes of the nucleus", ""), ("nucleus_concavities", "Concavities of the nucleus", ""),
    ("nucleus_solidity", "Solidity of the nucleus", ""),
    ("hyperchromasia", "Density of the nucleus over other nuclei", ""),
)  # fmt: skip

_ALL = "megakaryocyte"
_PICTURES, _PICTURES_ALONE = 8, 16
_CROP_UM, _CROP_PX, _CROP_BYTES = 100.0, 140, 12_000
_BINS = 16


@dataclass(frozen=True, kw_only=True)
class TissueBar:
    """A stacked bar of tissue areas: (name, colour, start, length in percent, mm2)."""

    parts: tuple[tuple[str, str, float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class PhenotypeBar:
    """A phenotype's share beside the reference; lengths in percent of the scale."""

    row: PhenotypeRow
    colour: str
    length: float
    low: float
    high: float
    reference: tuple[float, float, float] | None
    by_label: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Pictures of the megakaryocytes of one phenotype, or of all, by rank of their area."""

    name: str
    colour: str
    n: int
    pictures: tuple[CellPicture, ...]


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Distances of ``n`` megakaryocytes as columns; the tallest holds ``most``."""

    histogram: Histogram
    n: int
    most: int


@dataclass(frozen=True, kw_only=True)
class TrephineView:
    """What the section shows beside the figures of the summary."""

    tissues: TissueBar | None
    map: Picture | None
    legend: tuple[tuple[str, str], ...]
    bars: tuple[PhenotypeBar, ...]
    ticks: tuple[tuple[float, str], ...]
    labels: tuple[str, ...]
    galleries: tuple[Cells, ...]
    nearest: Distances | None
    bone: Distances | None
    pairs: Chart | None
    cohort: Markup | None = None
    near: tuple[tuple[str, int], ...] = ()
    side_um: float = _CROP_UM


@dataclass(frozen=True, kw_only=True)
class _Row:
    cell_id: str
    x_um: float
    y_um: float
    area_um2: float | None
    phenotype: str
    nearest_um: float | None
    bone_um: float | None
    truncated: bool


def view_trephine(
    folder: Path, found: Trephine, classes_mm2: Mapping[str, float], slide: Slide, styles: Styles, words: Words
) -> tuple[TrephineView, list[str]]:
    """Return the section's pictures and charts, and what could not be shown.

    Parameters
    ----------
    folder
        The slide's: ``megakaryocytes.csv``, ``cells.parquet`` and ``regions.geojson`` are read.
    found
        The summary's entry.
    classes_mm2
        Areas of tissue classes by name, of the summary's ``regions``.
    words
        What charts and legends are written in.

    Raises
    ------
    DataError
        A file is damaged.
    """
    rows = _read(folder / "megakaryocytes.csv")
    colours = {row.code: phenotype_colour(i) for i, row in enumerate(found.phenotypes.rows)}
    names = {row.code: words.phenotype(row.name) for row in found.phenotypes.rows}
    problems: list[str] = []
    whole: Picture | None = None
    try:
        whole = _map(folder / "regions.geojson", rows, colours, styles[_ALL], slide)
    except SlideError as error:
        problems.append(say("The map of the marrow could not be shown: {error}", error=str(error)))
    galleries = _galleries(folder / "cells.parquet", rows, names, colours, slide, styles, words, problems)
    bars, ticks, labels = _bars(found, colours, words)
    cohort, classes = (None, {}) if found.map is None else _cohort(folder / "cohort_map.json", words)
    nearest = () if found.map is None else found.map.nearest
    near = Counter(classes.get(neighbour.class_name, neighbour.class_name) for neighbour in nearest)
    told = tuple((words.tr(name), colour) for code in ("fat", "bone") for c, name, colour in TISSUES if c == code)
    dots = tuple((names[code], colour) for code, colour in colours.items())
    lies = found.arrangement
    return (
        TrephineView(
            tissues=_tissues(classes_mm2, words),
            map=whole,
            legend=(*told, *(dots or ((styles[_ALL].name, styles[_ALL].colour),))),
            bars=bars,
            ticks=ticks,
            labels=labels,
            galleries=galleries,
            nearest=None if lies is None else _distances([row.nearest_um for row in rows]),
            bone=None if lies is None or lies.bone is None else _distances([row.bone_um for row in rows]),
            pairs=None if lies is None or lies.pair_correlation is None else _pairs(lies.pair_correlation, words),
            cohort=cohort,
            near=tuple(near.items()),
        ),
        problems,
    )


def _read(path: Path) -> list[_Row]:
    def real(text: str) -> float | None:
        value = float(text) if text else math.nan
        return value if math.isfinite(value) else None

    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                _Row(
                    cell_id=row["cell_id"],
                    x_um=float(row["x_um"]),
                    y_um=float(row["y_um"]),
                    area_um2=real(row["area_um2"]),
                    phenotype=row["phenotype"],
                    nearest_um=real(row["nearest_um"]),
                    bone_um=real(row["bone_um"]),
                    truncated=row["truncated"] == "true",
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); run the slide again") from None


def _cohort(path: Path, words: Words) -> tuple[Markup, dict[str, str]]:
    """Return the map, and the names of its classes by code."""
    try:
        drawing = json.loads(path.read_text(encoding="utf-8"))
        return cohort_map_svg(drawing, words), {entry["code"]: str(entry["name"]) for entry in drawing["classes"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); run the slide again") from None


def _tissues(classes_mm2: Mapping[str, float], words: Words) -> TissueBar | None:
    total = sum(max(classes_mm2.get(name, 0.0), 0.0) for name, _, _ in TISSUES)
    if total <= 0:
        return None
    parts, start = [], 0.0
    for name, english, colour in TISSUES:
        area = max(classes_mm2.get(name, 0.0), 0.0)
        if area > 0:
            length = 100 * area / total
            parts.append((words.tr(english), colour, round(start, 3), round(length, 3), area))
            start += length
    return TissueBar(parts=tuple(parts))


def _map(regions: Path, rows: Sequence[_Row], colours: Mapping[str, str], usual: ClassStyle, slide: Slide) -> Picture:
    where = OverviewFrame.of(slide)
    layer = Image.new("RGBA", (where.box.width, where.box.height))
    if regions.is_file():
        offset = (float(slide.bounds.x0), float(slide.bounds.y0))
        told = dict((name, colour) for name, _, colour in TISSUES)
        parts = read_region_features(regions, offset, inside=True)
        parts += tuple(r for r in read_region_features(regions, offset) if r.name == "bone" and not r.included)
        for part in parts:
            if part.name in told:
                layer.alpha_composite(_filled(part, told[part.name], where))
    draw = ImageDraw.Draw(layer)
    radius = 4 if len(rows) <= 1500 else 2
    for row in rows:
        (x, y), colour = where.to_picture((row.x_um / slide.mpp.x, row.y_um / slide.mpp.y)).tolist(), colours.get(
            row.phenotype, usual.colour
        )  # fmt: skip
        edges = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(edges, fill=(*rgb(colour), 255), outline=(255, 255, 255, 255))
    text, percent = bar_of(where.box.width * where.mpp)
    return Picture(
        uri=data_uri(slide.read(where.box, where.mpp), "jpeg"),
        width=where.box.width,
        height=where.box.height,
        overlay_uri=data_uri(layer, "png"),
        scale_text=text,
        scale_percent=percent,
    )


def _filled(part: Region, colour: str, where: OverviewFrame) -> Image.Image:
    mask = Image.new("L", (where.box.width, where.box.height))
    draw = ImageDraw.Draw(mask)
    for polygon in shapely.get_parts(part.shape):
        for ring, value in ((polygon.exterior, 120), *((hole, 0) for hole in polygon.interiors)):
            draw.polygon([tuple(xy) for xy in where.to_picture(np.asarray(ring.coords)).tolist()], fill=value)
    filled = Image.new("RGBA", mask.size, (*rgb(colour), 255))
    filled.putalpha(mask)
    return filled


def _galleries(
    cells: Path,
    rows: Sequence[_Row],
    names: Mapping[str, str],
    colours: Mapping[str, str],
    slide: Slide,
    styles: Styles,
    words: Words,
    problems: list[str],
) -> tuple[Cells, ...]:
    """Return pictures by phenotype, evenly over the ranks of area, so that none is chosen for its looks."""
    groups = [(names[code], colours[code], [r for r in rows if r.phenotype == code]) for code in names]
    most = _PICTURES
    if not names:
        groups, most = [(words.sentence(say("All megakaryocytes")), styles[_ALL].colour, list(rows))], _PICTURES_ALONE
    chosen = [(name, colour, members, _by_rank(members, most)) for name, colour, members in groups if members]
    outlines = _outlines(cells, {row.cell_id for *_, picked in chosen for row in picked})
    return tuple(
        Cells(
            name=name,
            colour=colour,
            n=len(members),
            pictures=tuple(p for row in picked if (p := _picture(row, outlines, slide, styles, problems)) is not None),
        )
        for name, colour, members, picked in chosen
    )


def _by_rank(rows: Sequence[_Row], most: int) -> list[_Row]:
    ranked = sorted(rows, key=lambda r: (-(r.area_um2 or 0.0), r.y_um, r.x_um))
    if len(ranked) <= most:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (most - 1))] for i in range(most)]


def _outlines(cells: Path, wanted: set[str]) -> dict[str, list[OutlinedCell]]:
    """Return the outlines of cells and of the parts of their nuclei, level-0 pixels."""
    found: dict[str, list[OutlinedCell]] = {}
    for first, batch in iter_cells(cells, ("cell_id", "geometry"), ("nucleus",)) if wanted else ():
        here = [i for i, cell_id in enumerate(strings(batch, "cell_id")) if cell_id in wanted]
        if not here:
            continue
        part = batch.take(here)
        shapes = {
            name: geometries(part.column(name), cells, first)
            for name in ("geometry", "nucleus")
            if name in part.schema.names
        }
        for i, cell_id in enumerate(strings(part, "cell_id")):
            own = [(_ALL, polygonal(shapes["geometry"][i]))]
            nucleus = shapes["nucleus"][i] if "nucleus" in shapes else None
            if nucleus is not None:
                own += [("nucleus", polygonal(lobe)) for lobe in shapely.get_parts(nucleus)]
            found[cell_id] = [
                OutlinedCell(code=code, probability=None, outline=outline)
                for code, outline in own
                if outline is not None
            ]
    return found


def _picture(
    row: _Row, outlines: Mapping[str, list[OutlinedCell]], slide: Slide, styles: Styles, problems: list[str]
) -> CellPicture | None:
    x, y = row.x_um / slide.mpp.x, row.y_um / slide.mpp.y
    half_x, half_y = _CROP_UM / 2 / slide.mpp.x, _CROP_UM / 2 / slide.mpp.y
    mpp = max(slide.mpp.x, slide.mpp.y, _CROP_UM / _CROP_PX)
    where = f"x {x:.0f}, y {y:.0f}"
    try:
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        picture = picture_of(slide, box, mpp, outlines.get(row.cell_id, []), styles, most_bytes=_CROP_BYTES)
    except SlideError as error:
        name = styles[_ALL].name
        problems.append(say("{name} at {where} could not be shown: {error}", name=name, where=where, error=str(error)))
        return None
    caption = "" if row.area_um2 is None else f"{row.area_um2:.0f} µm²"
    return CellPicture(picture=picture, caption=caption, where=where, truncated=row.truncated)


def _bars(
    found: Trephine, colours: Mapping[str, str], words: Words
) -> tuple[tuple[PhenotypeBar, ...], tuple[tuple[float, str], ...], tuple[str, ...]]:
    rows, references = found.phenotypes.rows, found.phenotypes.reference
    usual = next((r for r in references if r.label == "all"), None)
    others = tuple(r for r in references if r.label != "all")
    highest = max(
        [row.upper or 0.0 for row in rows] + [s.q90 for r in references for s in r.percent.values()], default=0
    )
    step = next(s for s in (5, 10, 20, 25) if s * 5 >= min(highest, 100) or s == 25)
    top = float(min(100, step * max(1, math.ceil(highest / step))))

    def at(value: float | None) -> float:
        return round(100 * min(max(value or 0.0, 0.0), top) / top, 2)

    bars = []
    for row in rows:
        own = None if usual is None else usual.percent.get(row.code)
        bars.append(
            PhenotypeBar(
                row=row.model_copy(update={"name": words.phenotype(row.name)}),
                colour=colours[row.code],
                length=at(row.percent),
                low=at(row.lower),
                high=at(row.upper),
                reference=None if own is None else (at(own.q10), at(own.mean), at(own.q90)),
                by_label=tuple(r.percent[row.code].mean if row.code in r.percent else None for r in others),
            )
        )
    ticks = tuple((at(value), f"{value:g}") for value in range(0, int(top) + 1, step))
    return tuple(bars), ticks, tuple(f"{title(r.label)} (n {r.n_samples})" for r in others)


def _distances(values: Sequence[float | None]) -> Distances | None:
    """Return distances in bins of a round width, from 0 to the 98th percentile; the last bin holds what is beyond."""
    known: npt.NDArray[np.float64] = np.array([v for v in values if v is not None])
    if not len(known):
        return None
    top = max(float(np.percentile(known, 98)), 1.0)
    step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 500, 1000, 5000) if s * _BINS >= top or s == 5000)
    end = step * max(2, math.ceil(top / step))
    counts, edges = np.histogram(np.minimum(known, end * (1 - 1e-9)), bins=np.arange(0, end + step / 2, step))
    most = max(int(counts.max()), 1)
    columns = tuple(
        (round(100 * float(left) / end, 3), round(100 * step / end, 3), round(100 * int(n) / most, 2))
        for left, n in zip(edges[:-1], counts, strict=True)
        if n
    )
    every = max(1, math.ceil(len(counts) / 5)) * step
    ticks = tuple((round(100 * at / end, 2), f"{at:g}") for at in np.arange(0, end + 1, every).tolist())
    return Distances(histogram=Histogram(columns=columns, ticks=ticks), n=len(known), most=most)


def _pairs(found: PairCorrelation, words: Words) -> Chart:
    points = [(r, g) for r, g in zip(found.r_um, found.g, strict=True) if g is not None]
    band = []
    if found.random_lower is not None and found.random_upper is not None:
        band = list(zip(found.r_um, found.random_lower, found.random_upper, strict=True))
    highest = max([g for _, g in points] + [high for _, _, high in band] + [1.5])
    end = 50.0 * math.ceil(max(found.r_um, default=1.0) / 50)
    return line_chart(
        [
            Line(name=words.sentence(say("this slide")), points=points),
            Line(
                name=words.sentence(say("random points, range of 39 patterns") if band else say("random points")),
                points=[(0.0, 1.0), (end, 1.0)],
                reference=True,
                band=band,
            ),
        ],
        title=words.sentence(say("Pair correlation g(r)")),
        x_label=words.sentence(say("Distance r, µm")),
        y_label="g(r)",
        x_range=(0.0, end),
        y_range=(0.0, math.ceil(highest * 2) / 2),
    )
