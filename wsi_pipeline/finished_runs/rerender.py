"""The reports of a finished run, written again from its tables: in another language, or by a newer version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from wsi_pipeline.config import Language
from wsi_pipeline.errors import ConfigError, DataError, ModelError, SlideError, WsiPipelineError
from wsi_pipeline.exports.finished_run import locate_slides, read_run_json, run_slide, slide_rows
from wsi_pipeline.exports.report import (
    SlideSummary,
    read_summary,
    write_cohort_report,
    write_gallery_report,
    write_slide_report,
)
from wsi_pipeline.galleries.survey import MAX_PIXELS
from wsi_pipeline.runtime.worker import evidence_of
from wsi_pipeline.sentences import say
from wsi_pipeline.slides import Slide, SlidePath
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.weights import find_weights

Candidates = Sequence[tuple[str, SlidePath]]
_CLASSIFIER, _GLASS = "cell classifier", "empty glass, RGB"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What became of a slide's report; ``problem`` is empty where it was written whole."""

    slide_id: str
    written: bool
    problem: str


def rerender(
    out: Path,
    *,
    language: Language | None = None,
    slides: Candidates | None = None,
    without_pictures: bool = False,
    done: Callable[[Rendered], None] = lambda _: None,
) -> list[Rendered]:
    """Write the reports of the slides, the patients and the run again.

    Parameters
    ----------
    out
        The run's folder.
    language
        ``en`` or ``fr``; None keeps that of the run.
    slides
        Id and path of the slides, where they are not where the run read them.
    without_pictures
        Write the report of a slide that cannot be read from the tables alone. Otherwise the report it has, with its
        pictures, is left as it is.
    done
        Told of each slide.

    Notes
    -----
    Nothing is segmented or classified. Heatmaps of single cells are made again on the CPU, where the classifier of the
    run is found; where it is not, that section is left out and the report says so.

    Raises
    ------
    DataError
        The folder is no finished run, or a table of it is damaged.
    """
    run = read_run_json(out)
    configurations = run.get("configurations") or {}
    chosen = language or _language_of(configurations)
    results = []
    for row in slide_rows(out):
        if row["status"] == "failed":
            continue
        try:
            result = _slide_report(out, row, configurations, chosen, slides, without_pictures)
        except WsiPipelineError as error:
            result = Rendered(slide_id=row["slide_id"], written=False, problem=str(error))
        results.append(result)
        done(result)
    write_cohort_report(out, chosen)
    return results


def _language_of(configurations: Mapping[str, Any]) -> Language:
    """Return the language that the run was asked to report in."""
    for one in configurations.values():
        found = (one.get("exports") or {}).get("language", "en")
        if found in get_args(Language):
            return "fr" if found == "fr" else "en"
    return "en"


def _slide_report(
    out: Path,
    row: Mapping[str, str],
    configurations: Any,
    language: Language,
    slides: Candidates | None,
    without_pictures: bool,
) -> Rendered:
    slide_id = row["slide_id"]
    folder = out / "slides" / slide_id
    summary = read_summary(folder / "summary.json")
    taxonomy = load_taxonomy(summary.taxonomy)
    if summary.gallery is not None:
        return _gallery_report(folder, summary, taxonomy, language, without_pictures)
    of_run, where = run_slide(folder, row, configurations), ""
    try:
        path = locate_slides([of_run], slides)[slide_id]
        with of_run.spec(path).open() as slide:
            _write(folder, summary, taxonomy, language, slide, [])
    except (ConfigError, SlideError) as error:
        where = str(error)
    if not where:
        return Rendered(slide_id=slide_id, written=True, problem="")
    if not without_pictures:
        return Rendered(slide_id=slide_id, written=False, problem=_kept(where))
    note = say("The slide could not be read, so there are no pictures: {why}", why=where)
    _write(folder, summary, taxonomy, language, None, [note])
    return Rendered(slide_id=slide_id, written=True, problem=f"without pictures: {where}")


def _kept(why: str) -> str:
    return f"its report is left as it is: {why}. --without-pictures writes it from the tables alone"


def _write(
    folder: Path,
    summary: SlideSummary,
    taxonomy: Taxonomy,
    language: Language,
    slide: Slide | None,
    notes: list[str],
) -> None:
    evidence, glass = None, None
    if slide is not None and summary.provenance.get(_CLASSIFIER):
        evidence, why = _evidence(summary)
        glass = _colour(summary.provenance.get(_GLASS))
        notes = [*notes, *([why] if why else [])]
    write_slide_report(
        folder,
        slide=slide,
        taxonomy=taxonomy,
        specimen=summary.specimen,
        also=None if summary.red_cells is None else load_taxonomy("red-cells"),
        evidence=evidence,
        background=glass,
        language=language,
        notes=notes,
    )


def _evidence(summary: SlideSummary) -> tuple[Any, str]:
    """Return the evidence of the run's classifier, and why there is none."""
    name = str(summary.provenance[_CLASSIFIER])
    try:
        weights = find_weights(name, "cells")
        if weights.sha256 != summary.provenance.get(f"{_CLASSIFIER} SHA-256"):
            raise ModelError(f"{name} has changed since the run")
        return evidence_of(name, "cpu"), ""
    except ModelError as error:
        return None, say("Evidence for single cells is left out: {why}.", why=str(error))


def _colour(text: Any) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    try:
        parts = [int(part) for part in str(text).split(",")]
        return np.array(parts, np.uint8) if len(parts) == 3 else None
    except (ValueError, OverflowError):
        return None


def _gallery_report(
    folder: Path, summary: SlideSummary, taxonomy: Taxonomy, language: Language, without_pictures: bool
) -> Rendered:
    images = Path(summary.path)
    if not images.is_dir() and not without_pictures:
        return Rendered(slide_id=summary.slide_id, written=False, problem=_kept(f"{images} is not there any more"))
    evidence, why = _evidence(summary) if images.is_dir() else (None, "")

    def read(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if not images.is_dir():
            raise DataError(f"{images} is not there any more")
        return read_image(images / name, max_pixels=MAX_PIXELS)

    write_gallery_report(
        folder,
        taxonomy=taxonomy,
        specimen=summary.specimen,
        read=read,
        evidence=evidence,
        language=language,
        notes=[why] if why else [],
    )
    return Rendered(slide_id=summary.slide_id, written=True, problem="")
