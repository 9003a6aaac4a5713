"""The report of a patient: the slides, what they say together, and where each of them stands."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_pipeline.config import Language
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.behind import told_apart
from wsi_pipeline.exports.report.charts import BarChart, Styles, differential_chart
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.summary import (
    AdequacyFact,
    Answer,
    Denominator,
    DifferentialRow,
    Index,
    SlideSummary,
)
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.ranges import RangeRow, adult_blood_ranges, range_rows
from wsi_pipeline.sentences import Sentence
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

PATIENTS_FILE = "patients.json"
"""The pooled slides of each patient, by specimen, and what is said of them."""
FOLDER = "patients"
_LONGEST = 80


class PooledPatient(BaseModel):
    """An entry of ``patients.json``: a patient's slides of one specimen; see docs/artifacts.md."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    subject_id: str
    specimen: str
    slide_ids: tuple[str, ...]
    predictions: tuple[Answer, ...] = ()
    taxonomy: str = ""
    confidence: float = 0.95
    counts: dict[str, int] = {}
    differential: tuple[DifferentialRow, ...] = ()
    denominator: Denominator = Denominator()
    indices: tuple[Index, ...] = ()
    notes: tuple[str, ...] = ()
    adequacy: AdequacyFact | None = None
    sentences: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class PatientSlide:
    """A slide of a patient; ``pooled`` says whether its cells count for the patient."""

    slide_id: str
    status: str
    reason: str
    quality: str
    n_cells: int
    n_counted: int
    simulated: bool
    pooled: bool
    href: str


@dataclass(frozen=True, kw_only=True)
class PatientPart:
    """One specimen of a patient, as the page shows it."""

    subject_id: str
    specimen: str
    confidence: float
    adequacy: AdequacyFact | None
    slides: tuple[PatientSlide, ...]
    answers: tuple[Answer, ...]
    differences: tuple[Sentence, ...]
    chart: BarChart
    denominator: Denominator
    ranges: tuple[RangeRow, ...]
    range_source: str
    by_slide: tuple[tuple[str, Mapping[str, float | None]], ...]
    indices: tuple[Index, ...]
    notes: tuple[str, ...]


def read_patients(out: Path) -> list[PooledPatient]:
    """Return the patients of a run, none where it has no patients.

    Raises
    ------
    DataError
        ``patients.json`` is damaged.
    """
    path = out / PATIENTS_FILE
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["patients"]
        return [PooledPatient.model_validate(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def patient_files(subjects: Iterable[str]) -> dict[str, str]:
    """Return a file name for each patient, safe on every file system and different for each.

    A name is kept where it holds letters, digits, dots, dashes and underscores alone; otherwise, and where two names
    differ in capitals only, the begin of the hash of the whole name stands behind it.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for subject in dict.fromkeys(subjects):
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", subject).strip("._")[:_LONGEST]
        if not safe or safe != subject or safe.lower() in taken:
            safe = f"{safe}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}".lstrip("-")
        taken.add(safe.lower())
        found[subject] = f"{safe}.html"
    return found


def write_patient_reports(
    out: Path, patients: Sequence[PooledPatient], summaries: Mapping[str, SlideSummary], language: Language = "en"
) -> dict[str, str]:
    """Write ``patients/<name>.html`` for each patient, and return where it is, as the run's page links it.

    Parameters
    ----------
    out
        The run's folder. Pages of patients that it does not have any more are removed.
    summaries
        Of the slides, by their ids.
    """
    files = patient_files(patient.subject_id for patient in patients)
    folder = out / FOLDER
    for old in folder.glob("*.html"):
        if old.name not in files.values():
            old.unlink(missing_ok=True)
    for subject, name in files.items():
        own = [patient for patient in patients if patient.subject_id == subject]
        parts = [_part(patient, out, summaries, language) for patient in own]
        folder.mkdir(exist_ok=True)
        render(
            "patient.html.j2",
            folder / name,
            Words(language, {english: made for patient in own for english, made in patient.sentences.items()}),
            parts=parts,
            n_slides=sum(len(part.slides) for part in parts),
            simulated=any(slide.simulated for part in parts for slide in part.slides),
        )
    return {subject: f"{FOLDER}/{quote(name)}" for subject, name in files.items()}


def _part(patient: PooledPatient, out: Path, summaries: Mapping[str, SlideSummary], language: Language) -> PatientPart:
    known = load_taxonomy(patient.taxonomy) if patient.taxonomy in taxonomy_names() else None
    styles = Styles(*([] if known is None else [known]), language=language)
    own = [
        name
        for name, summary in summaries.items()
        if name in patient.slide_ids or (summary.subject_id, summary.specimen) == (patient.subject_id, patient.specimen)
    ]
    n = patient.denominator.n
    few = patient.adequacy is not None and patient.adequacy.level == "not-enough"
    blood = patient.specimen == "blood_smear" and known is not None and n > 0 and not few
    return PatientPart(
        subject_id=patient.subject_id,
        specimen=patient.specimen,
        confidence=patient.confidence,
        adequacy=patient.adequacy,
        slides=tuple(_slide(name, summaries[name], out, pooled=name in patient.slide_ids) for name in own),
        answers=patient.predictions,
        differences=tuple(told_apart(patient.predictions)),
        chart=differential_chart(patient.differential, styles),
        denominator=patient.denominator,
        ranges=tuple(range_rows(patient.counts, n, known, patient.confidence)) if blood and known else (),
        range_source=adult_blood_ranges().source,
        by_slide=tuple(
            (name, {row.name: row.percent for row in summaries[name].differential})
            for name in patient.slide_ids
            if name in summaries
        ),
        indices=patient.indices,
        notes=patient.notes,
    )


def _slide(slide_id: str, summary: SlideSummary, out: Path, *, pooled: bool) -> PatientSlide:
    report = out / "slides" / slide_id / "report.html"
    return PatientSlide(
        slide_id=slide_id,
        status=summary.status,
        reason=summary.reason or "",
        quality="" if summary.adequacy is None else summary.adequacy.level,
        n_cells=summary.n_cells,
        n_counted=summary.denominator.n,
        simulated=summary.simulated,
        pooled=pooled,
        href=f"../slides/{quote(slide_id)}/report.html" if report.is_file() else "",
    )
