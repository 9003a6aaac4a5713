"""The report of one slide."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.config import Language
from wsi_pipeline.errors import SlideError
from wsi_pipeline.exports.region_map import OverviewFrame, Region, read_region_features, region_legend
from wsi_pipeline.exports.report import curves
from wsi_pipeline.exports.report.behind import CellPicture, behind_answers, cells_asked, told_apart
from wsi_pipeline.exports.report.charts import Styles, diameter_chart, differential_chart
from wsi_pipeline.exports.report.evidence import MAP_PX, explain_cells, slide_windows
from wsi_pipeline.exports.report.fibrosis import bar_colour, view_fibrosis
from wsi_pipeline.exports.report.importance import key_classes, rank_of, within
from wsi_pipeline.exports.report.pictures import Picture, overview, picture_of
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.select import (
    HALF_GALLERY,
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
from wsi_pipeline.exports.report.text import count
from wsi_pipeline.exports.report.trephine import MEASURES, view_trephine
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.ranges import RangeRow, adult_blood_ranges, range_rows
from wsi_pipeline.sentences import Sentence, say

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
_CROP_BYTES, _GALLERY_BYTES = 8_000, 1_600_000
PRINTED = ("version", "segmentation model", "cell classifier", "slide fingerprint", "configuration digest")
"""Entries of the provenance that the printed page has room for."""


@dataclass(frozen=True, kw_only=True)
class GalleryView:
    """A class of the gallery; ``side_um`` is the side of every picture, ``key`` marks classes that matter most."""

    code: str
    name: str
    colour: str
    n: int
    kind: str
    classified: bool
    side_um: float
    high: tuple[CellPicture, ...]
    low: tuple[CellPicture, ...]
    key: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes that its pictures take in the page."""
        return sum(cell.picture.weight_bytes for cell in (*self.high, *self.low))

    def shortened(self, most: int) -> GalleryView:
        """Return the first ``most`` cells of either half."""
        return replace(self, high=self.high[:most], low=self.low[:most])


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
    slide: Slide | None,
    taxonomy: Taxonomy,
    specimen: str,
    also: Taxonomy | None = None,
    evidence: Evidence | None = None,
    background: npt.NDArray[np.uint8] | None = None,
    language: Language = "en",
    notes: Sequence[str] = (),
) -> None:
    """Write ``report.html`` of a slide: answers, counts, pictures, quality and provenance in one file.

    Parameters
    ----------
    slide_dir
        Folder of the slide's results. Read are ``summary.json`` (see
        :class:`~wsi_pipeline.exports.report.summary.SlideSummary`), ``cells.parquet`` and
        ``regions.geojson``; the latter two may be missing when no cell was looked for.
    slide
        The open slide, for the pictures; None leaves them out.
    taxonomy
        Names and colours of the classes.
    specimen
        ``blood_smear``, ``marrow_smear`` or ``trephine``.
    also
        Names and colours of further classes: the shapes of red cells.
    evidence, background
        Evidence of the classifier that typed the cells, and the colour ``(3,)`` of the slide's empty glass; None
        leaves the section out.
    language
        ``en`` or ``fr``.
    notes
        Further sentences on what could not be done.

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
    words = Words(language, summary.sentences)
    styles = Styles(taxonomy, *(() if also is None else (also,)), language=language)
    cells, problems = slide_dir / "cells.parquet", list(notes)
    pages, regions, explained, fibres, marrow = None, [], None, None, None
    asked, named = cells_asked(summary.predictions), {}
    if not cells.is_file():
        problems.append(say("There is no cell table, so there are no pictures of cells."))
    if slide is not None:
        regions_path, offset = slide_dir / "regions.geojson", (float(slide.bounds.x0), float(slide.bounds.y0))
        drawn = read_region_features(regions_path, offset) if regions_path.is_file() else ()
        regions = _region_rows(drawn, slide, words)
        pages = _Pictures(slide, styles, taxonomy, specimen, summary.working_mpp, words)
        if cells.is_file():
            pages.make(cells, drawn)
            named = pages.named(cells, asked) if asked else {}
            if evidence is not None and background is not None:
                windows = slide_windows(slide, background, evidence)
                explained, unread = explain_cells(cells, windows, evidence, styles)
                problems += unread
        if summary.fibrosis is not None and (slide_dir / "fibrosis.parquet").is_file():
            fibres, unread = view_fibrosis(slide_dir / "fibrosis.parquet", slide, styles, words)
            problems += unread
        if summary.trephine is not None and (slide_dir / "megakaryocytes.csv").is_file():
            marrow, unread = view_trephine(slide_dir, summary.trephine, summary.classes_mm2, slide, styles, words)
            problems += unread
        problems += pages.problems
    render(
        "slide.html.j2",
        slide_dir / "report.html",
        words,
        summary=summary,
        specimen_name=words.specimen(specimen),
        chart=differential_chart(summary.differential, styles),
        ranges=reference_rows(summary, taxonomy),
        range_source=adult_blood_ranges().source,
        printed_provenance=PRINTED,
        red_names={} if summary.red_cells is None else {row.name: styles[row.name] for row in summary.red_cells.rows},
        diameters=None if summary.red_cells is None else diameter_chart(summary.red_cells.size.histogram),
        kinds=[(words.kind(kind), n) for kind, n in summary.counts.by_kind.items()],
        overview=None if pages is None else pages.overview,
        legend=[] if pages is None else pages.legend,
        regions=regions,
        fields=[] if pages is None else pages.fields,
        galleries=[] if pages is None else pages.galleries,
        key_cells=pages is not None and any(g.key for g in pages.galleries),
        behind=[] if slide is None else behind_answers(summary.predictions, named),
        differences=told_apart(summary.predictions),
        evidence=explained,
        fibres=fibres,
        marrow=marrow,
        trephine_measures=MEASURES,
        frame=curves,
        bar_colour=bar_colour,
        map_px=MAP_PX,
        cellularity=None if summary.cellularity is None else words.cellularity(summary.cellularity),
        seams=None if summary.seams is None else words.seams(summary.seams),
        could_not=[words.sentence(one) for one in _could_not(summary, problems)],
    )


def reference_rows(summary: SlideSummary, taxonomy: Taxonomy) -> list[RangeRow]:
    """Return the groups of blood beside their adult ranges; none of marrow, nor of too few cells to read."""
    few = summary.adequacy is not None and any(s.code == "too-few-cells" for s in summary.adequacy.shortcomings)
    if summary.specimen != "blood_smear" or not summary.denominator.n or few:
        return []
    return range_rows(summary.counts.by_class, summary.denominator.n, taxonomy, summary.confidence)


def pictures_by_id(
    cells: Path,
    ids: Collection[str],
    slide: Slide,
    styles: Styles,
    taxonomy: Taxonomy,
    words: Words,
    problems: list[str],
) -> dict[str, CellPicture]:
    """Return pictures of cells by their ids, with the class in the caption.

    A picture whose pixels cannot be read is left out and becomes a sentence of ``problems``.
    """
    pages = _Pictures(slide, styles, taxonomy, "", None, words)
    pictures = pages.named(cells, ids)
    problems += pages.problems
    return pictures


class _Pictures:
    """Everything that needs pixels. A picture that cannot be read becomes a sentence in ``problems``."""

    def __init__(
        self,
        slide: Slide,
        styles: Styles,
        taxonomy: Taxonomy,
        specimen: str,
        working_mpp: float | None,
        words: Words,
    ) -> None:
        self._slide = slide
        self._styles = styles
        self._taxonomy = taxonomy
        self._words = words
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
            self._failed(say("The overview could not be shown: {error}", error=str(error)))
        codes = sorted(chosen.dots.codes, key=self._styles.position)
        self.legend = [(self._styles[code].name, self._styles[code].colour) for code in codes]
        galleries = sorted(chosen.galleries, key=self._place)
        rows = frozenset(cell.row for g in galleries for half in shown(g) for cell in half)
        inside, outlined = cells_in_fields(cells, chosen.fields, _LARGEST_CELL_UM / self._native, rows)
        for pick, found in zip(chosen.fields, inside, strict=True):
            self._field(pick, found)
        for gallery in galleries:
            self._gallery(gallery, outlined)
        self.galleries = within(self.galleries, _GALLERY_BYTES, HALF_GALLERY)

    def _place(self, gallery: Gallery) -> tuple[tuple[int, int], tuple[int, str]]:
        rank = rank_of(gallery.code, gallery.kind, self._taxonomy, self._specimen)
        return rank, self._styles.position(gallery.code)

    def _field(self, pick: FieldPick, found: list[OutlinedCell]) -> None:
        box = (pick.x0, pick.y0, pick.x1, pick.y1)
        where = f"x {pick.x0:.0f}, y {pick.y0:.0f}"
        try:
            picture = picture_of(self._slide, box, self._mpp, found, self._styles, scale_bar=True)
        except SlideError as error:
            self._failed(say("The field at {where} could not be shown: {error}", where=where, error=str(error)))
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
                key=gallery.code in key_classes(self._taxonomy, self._specimen),
            )
        )

    def _cell(self, cell: Picked, side: float, outlined: Mapping[int, OutlinedCell], name: str) -> CellPicture | None:
        half_x, half_y = side / 2 / self._slide.mpp.x, side / 2 / self._slide.mpp.y
        box = (cell.x_px0 - half_x, cell.y_px0 - half_y, cell.x_px0 + half_x, cell.y_px0 + half_y)
        mine = [outlined[cell.row]] if cell.row in outlined else []
        where = f"x {cell.x_px0:.0f}, y {cell.y_px0:.0f}"
        try:
            mpp = max(self._native, side / _CROP_PX)
            picture = picture_of(self._slide, box, mpp, mine, self._styles, most_bytes=_CROP_BYTES)
        except SlideError as error:
            self._failed(say("{name} at {where} could not be shown: {error}", name=name, where=where, error=str(error)))
            return None
        if cell.probability is not None:
            caption = self._words.decimals(cell.probability)
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

    def _failed(self, what: Sentence) -> None:
        _log.warning("report: %s", what)
        self.problems.append(what)


def _region_rows(regions: tuple[Region, ...], slide: Slide, words: Words) -> list[RegionRow]:
    return [
        RegionRow(
            name=words.tr(entry.name)
            if entry.included
            else words.sentence(say("Not looked at: {reason}", reason=words.reason(entry.name))),
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
            say(
                "{n} cells are cut by the edge of the slide or region; their size is a lower limit.",
                n=count(truncated),
            )
        )
    return found
