"""The report of one slide."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import SlideError
from wsi_pipeline.exports.region_map import OverviewFrame, Region, read_region_features, region_legend
from wsi_pipeline.exports.report import curves
from wsi_pipeline.exports.report.behind import CellPicture, behind_answers, cells_asked, told_apart
from wsi_pipeline.exports.report.charts import Styles, diameter_chart, differential_chart
from wsi_pipeline.exports.report.evidence import MAP_PX, explain_cells, slide_windows
from wsi_pipeline.exports.report.fibrosis import bar_colour, view_fibrosis
from wsi_pipeline.exports.report.pictures import Picture, overview, picture_of
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.select import (
    FieldPick,
    Gallery,
    OutlinedCell,
    Picked,
    cells_by_id,
    cells_in_fields,
    select,
    shown,
)
from wsi_pipeline.exports.report.summary import SlideSummary, read_summary
from wsi_pipeline.exports.report.text import KINDS, SPECIMENS, cellularity, count, reason, seams
from wsi_pipeline.exports.report.trephine import MEASURES, view_trephine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wsi_pipeline.cells.evidence import Evidence
    from wsi_pipeline.slides import Slide
    from wsi_pipeline.taxonomies import Taxonomy

_log = logging.getLogger(__name__)

# Side of a cell's picture, um, and the pixels it is read with.
_CROP_UM = {"white": 28.0, "red": 14.0, "platelet": 10.0, "nucleus": 22.0, "megakaryocyte": 100.0}
_CROP_PX = 112
_FIELD_UM = {"blood_smear": (160.0, 120.0), "marrow_smear": (160.0, 120.0), "trephine": (240.0, 180.0)}
_WORKING_MPP = {"blood_smear": 0.25, "marrow_smear": 0.25, "trephine": 0.5}
_LARGEST_CELL_UM = 160.0


@dataclass(frozen=True, kw_only=True)
class GalleryView:
    """A class of the gallery; ``side_um`` is the side of every picture."""

    code: str
    name: str
    colour: str
    n: int
    kind: str
    classified: bool
    side_um: float
    high: tuple[CellPicture, ...]
    low: tuple[CellPicture, ...]


@dataclass(frozen=True, kw_only=True)
class FieldView:
    """A field with its outlines."""

    picture: Picture
    why: str
    where: str
    n_cells: int


@dataclass(frozen=True, kw_only=True)
class RegionRow:
    """A row of the overview's legend; ``hatch`` is the direction of its stripes, None for what was looked at."""

    name: str
    colour: str
    hatch: int | None
    n: int
    area_mm2: float


def write_slide_report(
    slide_dir: Path,
    *,
    slide: Slide,
    taxonomy: Taxonomy,
    specimen: str,
    also: Taxonomy | None = None,
    evidence: Evidence | None = None,
    background: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Write ``report.html`` of a slide: answers, counts, pictures, quality and provenance in one file.

    Parameters
    ----------
    slide_dir
        Folder of the slide's results. Read are ``summary.json`` (see
        :class:`~wsi_pipeline.exports.report.summary.SlideSummary`), ``cells.parquet`` and
        ``regions.geojson``; the latter two may be missing when no cell was looked for.
    slide
        The open slide, for the pictures.
    taxonomy
        Names and colours of the classes.
    specimen
        ``blood_smear``, ``marrow_smear`` or ``trephine``.
    also
        Names and colours of further classes: the shapes of red cells.
    evidence, background
        Evidence of the classifier that typed the cells, and the colour ``(3,)`` of the slide's empty glass; None
        leaves the section out.

    Raises
    ------
    DataError
        A result file is damaged, or ``summary.json`` lacks what the report needs.

    Notes
    -----
    Which cells and fields are shown is decided by the table alone. A picture whose pixels cannot be read is
    left out and listed under what the run could not do.
    """
    summary = read_summary(slide_dir / "summary.json")
    styles = Styles(taxonomy, *(() if also is None else (also,)))
    pages = _Pictures(slide, styles, specimen, summary.working_mpp)
    regions_path, cells = slide_dir / "regions.geojson", slide_dir / "cells.parquet"
    offset = (float(slide.bounds.x0), float(slide.bounds.y0))
    regions = read_region_features(regions_path, offset) if regions_path.is_file() else ()
    if cells.is_file():
        pages.make(cells, regions)
    else:
        pages.problems.append("There is no cell table, so there are no pictures of cells.")
    asked = cells_asked(summary.predictions)
    behind = behind_answers(summary.predictions, pages.named(cells, asked) if asked and cells.is_file() else {})
    explained = None
    if evidence is not None and background is not None and cells.is_file():
        explained, problems = explain_cells(cells, slide_windows(slide, background, evidence), evidence, styles)
        pages.problems += problems
    fibres = None
    if summary.fibrosis is not None and (slide_dir / "fibrosis.parquet").is_file():
        fibres, problems = view_fibrosis(slide_dir / "fibrosis.parquet", slide, styles)
        pages.problems += problems
    marrow = None
    if summary.trephine is not None and (slide_dir / "megakaryocytes.csv").is_file():
        marrow, problems = view_trephine(slide_dir, summary.trephine, summary.classes_mm2, slide, styles)
        pages.problems += problems
    render(
        "slide.html.j2",
        slide_dir / "report.html",
        summary=summary,
        specimen_name=SPECIMENS.get(specimen, specimen),
        chart=differential_chart(summary.differential, styles),
        red_names={} if summary.red_cells is None else {row.name: styles[row.name] for row in summary.red_cells.rows},
        diameters=None if summary.red_cells is None else diameter_chart(summary.red_cells.size.histogram),
        kinds=[(KINDS.get(kind, kind), n) for kind, n in summary.counts.by_kind.items()],
        overview=pages.overview,
        legend=pages.legend,
        regions=_region_rows(regions, slide),
        fields=pages.fields,
        galleries=pages.galleries,
        behind=behind,
        differences=told_apart(summary.predictions),
        evidence=explained,
        fibres=fibres,
        marrow=marrow,
        trephine_measures=MEASURES,
        frame=curves,
        bar_colour=bar_colour,
        map_px=MAP_PX,
        cellularity=None if summary.cellularity is None else cellularity(summary.cellularity),
        seams=None if summary.seams is None else seams(summary.seams),
        could_not=_could_not(summary, pages.problems),
    )


def pictures_by_id(
    cells: Path, ids: Collection[str], slide: Slide, styles: Styles, problems: list[str]
) -> dict[str, CellPicture]:
    """Return pictures of cells by their ids, with the class in the caption.

    A picture whose pixels cannot be read is left out and becomes a sentence of ``problems``.
    """
    pages = _Pictures(slide, styles, "", None)
    pictures = pages.named(cells, ids)
    problems += pages.problems
    return pictures


class _Pictures:
    """Everything that needs pixels. A picture that cannot be read becomes a sentence in ``problems``."""

    def __init__(self, slide: Slide, styles: Styles, specimen: str, working_mpp: float | None) -> None:
        self._slide = slide
        self._styles = styles
        self._specimen = specimen
        native = max(slide.mpp.x, slide.mpp.y)
        self._mpp = max(native, working_mpp or _WORKING_MPP.get(specimen, 0.25))
        self._native = native
        self.overview: Picture | None = None
        self.legend: list[tuple[str, str]] = []
        self.fields: list[FieldView] = []
        self.galleries: list[GalleryView] = []
        self.problems: list[str] = []

    def make(self, cells: Path, regions: tuple[Region, ...]) -> None:
        slide, where = self._slide, OverviewFrame.of(self._slide)
        width_um, height_um = _FIELD_UM.get(self._specimen, (160.0, 120.0))
        chosen = select(
            cells,
            size_px0=slide.dimensions,
            field_px0=(width_um / slide.mpp.x, height_um / slide.mpp.y),
            overview_origin_px0=where.origin_px0,
            overview_scale=(where.frame.scale_x, where.frame.scale_y),
            overview_size=(where.box.width, where.box.height),
        )
        try:
            self.overview = overview(slide, where, regions, chosen.dots, self._styles)
        except SlideError as error:
            self._failed("The overview", error)
        codes = sorted(chosen.dots.codes, key=self._styles.position)
        self.legend = [(self._styles[code].name, self._styles[code].colour) for code in codes]
        galleries = sorted(chosen.galleries, key=lambda g: self._styles.position(g.code))
        rows = frozenset(cell.row for g in galleries for half in shown(g) for cell in half)
        inside, outlined = cells_in_fields(cells, chosen.fields, _LARGEST_CELL_UM / self._native, rows)
        for pick, found in zip(chosen.fields, inside, strict=True):
            self._field(pick, found)
        for gallery in galleries:
            self._gallery(gallery, outlined)

    def _field(self, pick: FieldPick, found: list[OutlinedCell]) -> None:
        box = (pick.x0, pick.y0, pick.x1, pick.y1)
        where = f"x {pick.x0:.0f}, y {pick.y0:.0f}"
        try:
            picture = picture_of(self._slide, box, self._mpp, found, self._styles, scale_bar=True)
        except SlideError as error:
            self._failed(f"The field at {where}", error)
            return
        self.fields.append(FieldView(picture=picture, why=pick.why, where=where, n_cells=pick.n_cells))

    def _gallery(self, gallery: Gallery, outlined: Mapping[int, OutlinedCell]) -> None:
        side = _CROP_UM.get(gallery.kind, 28.0)
        style = self._styles[gallery.code]
        high, low = shown(gallery)
        self.galleries.append(
            GalleryView(
                code=gallery.code,
                name=style.name,
                colour=style.colour,
                n=gallery.n,
                kind=gallery.kind,
                classified=gallery.classified,
                side_um=side,
                high=tuple(p for cell in high if (p := self._cell(cell, side, outlined, style.name))),
                low=tuple(p for cell in low if (p := self._cell(cell, side, outlined, style.name))),
            )
        )

    def _cell(self, cell: Picked, side: float, outlined: Mapping[int, OutlinedCell], name: str) -> CellPicture | None:
        half_x, half_y = side / 2 / self._slide.mpp.x, side / 2 / self._slide.mpp.y
        box = (cell.x_px0 - half_x, cell.y_px0 - half_y, cell.x_px0 + half_x, cell.y_px0 + half_y)
        mine = [outlined[cell.row]] if cell.row in outlined else []
        where = f"x {cell.x_px0:.0f}, y {cell.y_px0:.0f}"
        try:
            mpp = max(self._native, side / _CROP_PX)
            picture = picture_of(self._slide, box, mpp, mine, self._styles, quality=80)
        except SlideError as error:
            self._failed(f"{name} at {where}", error)
            return None
        if cell.probability is not None:
            caption = f"{cell.probability:.2f}"
        else:
            caption = "" if cell.area_um2 is None else f"{cell.area_um2:.0f} µm²"
        return CellPicture(picture=picture, caption=caption, where=where, truncated=cell.truncated)

    def named(self, cells: Path, ids: Collection[str]) -> dict[str, CellPicture]:
        """Return pictures of cells by their ids, with the class in the caption."""
        side, pictures = _CROP_UM["white"], {}
        for cell_id, cell in cells_by_id(cells, ids).items():
            outlined = {} if cell.outlined is None else {cell.picked.row: cell.outlined}
            name = self._styles[cell.code].name
            if picture := self._cell(cell.picked, side, outlined, name):
                pictures[cell_id] = replace(picture, caption=f"{name} {picture.caption}")
        return pictures

    def _failed(self, what: str, error: SlideError) -> None:
        _log.warning("report: %s could not be shown: %s", what, error)
        self.problems.append(f"{what} could not be shown: {error}")


def _region_rows(regions: tuple[Region, ...], slide: Slide) -> list[RegionRow]:
    return [
        RegionRow(
            name=entry.name if entry.included else f"Not looked at: {reason(entry.name)}",
            colour=entry.style.css,
            hatch=entry.style.hatch,
            n=entry.n,
            area_mm2=entry.area_mm2,
        )
        for entry in region_legend(regions, slide.mpp.x * slide.mpp.y)
    ]


def _could_not(summary: SlideSummary, problems: list[str]) -> list[str]:
    found = [*summary.warnings, *problems]
    truncated = summary.quality.get("truncated")
    if isinstance(truncated, int) and truncated:
        found.append(
            f"{count(truncated)} cells are cut by the edge of the slide or region; their size is a lower limit."
        )
    return found
