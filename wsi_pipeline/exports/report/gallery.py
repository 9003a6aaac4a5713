"""The report of a patient of a gallery: a slide's report without what needs positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from wsi_pipeline.cells.windows import resample
from wsi_pipeline.config import Language
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.behind import CellPicture, behind_answers, cells_asked, told_apart
from wsi_pipeline.exports.report.charts import Styles, differential_chart
from wsi_pipeline.exports.report.evidence import MAP_PX, explain_cells, image_windows
from wsi_pipeline.exports.report.importance import key_classes, rank_of, within
from wsi_pipeline.exports.report.pictures import Picture, small_uri
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.select import HALF_GALLERY
from wsi_pipeline.exports.report.slide import PRINTED, GalleryView, reference_rows
from wsi_pipeline.exports.report.summary import read_summary
from wsi_pipeline.exports.report.text import count
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.ranges import adult_blood_ranges
from wsi_pipeline.sentences import say

if TYPE_CHECKING:
    from wsi_pipeline.cells.evidence import Evidence
    from wsi_pipeline.taxonomies import Taxonomy

_SIDE_UM = 28.0
_SIDE_PX = 112
_CROP_BYTES, _GALLERY_BYTES = 8_000, 2_400_000

Read = Callable[[str], npt.NDArray[np.uint8]]


def write_gallery_report(
    slide_dir: Path,
    *,
    taxonomy: Taxonomy,
    specimen: str,
    read: Read,
    evidence: Evidence | None = None,
    language: Language = "en",
    notes: Sequence[str] = (),
) -> None:
    """Write ``report.html`` of a patient from ``summary.json`` and ``cells.parquet`` in its folder.

    Parameters
    ----------
    slide_dir
        Folder of the patient's results.
    taxonomy
        Names and colours of the classes.
    specimen
        ``blood_smear`` or ``marrow_smear``.
    read
        Returns the uint8 ``(h, w, 3)`` pixels of an image by its name.
    evidence
        Of the classifier that typed the cells; None leaves the section out.
    language
        ``en`` or ``fr``.
    notes
        Further sentences on what could not be done.

    Raises
    ------
    DataError
        A result file is damaged, or ``summary.json`` lacks what the report needs.
    """
    summary = read_summary(slide_dir / "summary.json")
    if summary.mpp is None:
        raise DataError(f"{slide_dir / 'summary.json'} has no microns per pixel; run the patient again")
    words = Words(language, summary.sentences)
    styles = Styles(taxonomy, language=language)
    problems = list(notes)
    cells = slide_dir / "cells.parquet"
    keys = key_classes(taxonomy, specimen)
    galleries = [
        replace(view, key=view.code in keys) for view in _galleries(cells, styles, read, summary.mpp.x, words, problems)
    ]
    galleries.sort(key=lambda view: (rank_of(view.code, "white", taxonomy, specimen), styles.position(view.code)))
    asked = cells_asked(summary.predictions)
    named = images_by_id(cells, asked, styles, read, summary.mpp.x, words, problems)
    explained = None
    if evidence is not None:
        explained, unread = explain_cells(cells, image_windows(read, summary.mpp.x, evidence), evidence, styles)
        problems += unread
    truncated = summary.quality.get("truncated")
    if isinstance(truncated, int) and truncated:
        problems.append(
            say("{n} cells are cut by the edge of their image; their size is a lower limit.", n=count(truncated))
        )
    render(
        "slide.html.j2",
        slide_dir / "report.html",
        words,
        summary=summary,
        specimen_name=words.specimen(specimen),
        ranges=reference_rows(summary, taxonomy),
        range_source=adult_blood_ranges().source,
        printed_provenance=PRINTED,
        chart=differential_chart(summary.differential, styles),
        red_names={},
        diameters=None,
        kinds=[(words.kind(kind), n) for kind, n in summary.counts.by_kind.items()],
        overview=None,
        legend=[],
        regions=[],
        fields=[],
        galleries=within(galleries, _GALLERY_BYTES, HALF_GALLERY),
        key_cells=any(view.key for view in galleries),
        behind=behind_answers(summary.predictions, named),
        differences=told_apart(summary.predictions),
        cellularity=None,
        seams=None,
        evidence=explained,
        map_px=MAP_PX,
        marrow=None,
        could_not=[words.sentence(one) for one in (*summary.warnings, *problems)],
    )


def _galleries(
    cells: Path, styles: Styles, read: Read, mpp: float, words: Words, problems: list[str]
) -> list[GalleryView]:
    """Return the most and the least confident images of each class."""
    table = pq.read_table(cells, columns=["class_name", "class_probability", "image", "label_given", "truncated"])
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    by_class: dict[str, list[int]] = {}
    for row, code in enumerate(columns["class_name"]):
        by_class.setdefault(code, []).append(row)
    views = []
    for code in sorted(by_class, key=styles.position):
        rows = sorted(by_class[code], key=lambda row: (-columns["class_probability"][row], row))
        high = rows[:HALF_GALLERY]
        low = [row for row in reversed(rows) if row not in high][:HALF_GALLERY]

        def shown(wanted: list[int]) -> tuple[CellPicture, ...]:
            pictures = []
            for row in wanted:
                given, name = columns["label_given"][row], columns["image"][row]
                try:
                    picture = _picture(read(name), mpp)
                except DataError as error:
                    problems.append(say("{name} could not be shown: {error}", name=name, error=str(error)))
                    continue
                caption = words.decimals(columns["class_probability"][row]) + (f" · {given}" if given else "")
                cut = columns["truncated"][row] is True
                pictures.append(CellPicture(picture=picture, caption=caption, where=name, truncated=cut))
            return tuple(pictures)

        views.append(
            GalleryView(
                code=code,
                name=styles[code].name,
                colour=styles[code].colour,
                n=len(rows),
                kind="white",
                classified=True,
                side_um=_SIDE_UM,
                high=shown(high),
                low=shown(low),
            )
        )
    return views


def images_by_id(
    cells: Path, ids: Collection[str], styles: Styles, read: Read, mpp: float, words: Words, problems: list[str]
) -> dict[str, CellPicture]:
    """Return pictures of a patient's cells by their ids, with class and given label in the caption.

    An image that cannot be read is left out and becomes a sentence of ``problems``.
    """
    if not ids:
        return {}
    wanted = ["cell_id", "class_name", "class_probability", "image", "label_given", "truncated"]
    table = pq.read_table(cells, columns=wanted, filters=[("cell_id", "in", sorted(ids))])
    pictures = {}
    for row in table.to_pylist():
        try:
            picture = _picture(read(row["image"]), mpp)
        except DataError as error:
            problems.append(say("{name} could not be shown: {error}", name=row["image"], error=str(error)))
            continue
        given = f" · {row['label_given']}" if row["label_given"] else ""
        pictures[row["cell_id"]] = CellPicture(
            picture=picture,
            caption=f"{styles[row['class_name']].name} {words.decimals(row['class_probability'])}{given}",
            where=row["image"],
            truncated=row["truncated"] is True,
        )
    return pictures


def _picture(pixels: npt.NDArray[np.uint8], mpp: float) -> Picture:
    """Return the middle of an image at one scale, white where the image ends."""
    height, width = pixels.shape[:2]
    scale = _SIDE_UM / _SIDE_PX / mpp
    window = resample(pixels, width / 2, height / 2, side=_SIDE_PX, scale=scale).copy()
    for axis, size in ((0, height), (1, width)):
        edge = max(0, math.floor((_SIDE_PX - size / scale) / 2))
        if edge:
            for part in (slice(0, edge), slice(_SIDE_PX - edge, None)):
                window[(part, slice(None)) if axis == 0 else (slice(None), part)] = 255
    return Picture(uri=small_uri(window, _CROP_BYTES), width=_SIDE_PX, height=_SIDE_PX)
