"""The report of a run: all slides at a glance."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsi_pipeline.config import Language
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.charts import Segment, Styles, stacked
from wsi_pipeline.exports.report.heat import heat_map
from wsi_pipeline.exports.report.patient import read_patients, write_patient_reports
from wsi_pipeline.exports.report.quality import count_reasons, quality_of, quality_plots
from wsi_pipeline.exports.report.render import render
from wsi_pipeline.exports.report.slide_map import MappedSlide, slide_map
from wsi_pipeline.exports.report.summary import Agreement, Answer, SlideSummary, read_summary
from wsi_pipeline.exports.report.text import by_model, question_of
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

_FIRST_TAXONOMY = "pbc-blast"
_MOST_ROWS = 600
"""Slides that a table of the page lists; further ones are in the CSV files. It keeps the page under 5 MB."""
_MOST_PATIENTS = 1500
_LARGEST = 3


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """A line of the overview table."""

    slide_id: str
    name: str
    specimen: str
    status: str
    reason: str
    mpp: float | None
    area_mm2: float | None
    n_cells: int | None
    seconds: float | None
    href: str
    segments: tuple[Segment, ...]
    n_counted: int
    answers: Mapping[tuple[str, str], Answer]
    simulated: bool
    quality: str
    said: str

    @property
    def largest(self) -> list[Segment]:
        """Return the commonest classes, for those who do not see the bar."""
        return sorted(self.segments, key=lambda segment: -segment.percent)[:_LARGEST]


def write_cohort_report(out: Path, language: Language = "en") -> None:
    """Write ``report.html`` of a run from the tables in its folder, and ``patients/<name>.html`` of its patients.

    Parameters
    ----------
    out
        The run's folder. Read are ``slides.csv`` (needed), ``predictions.csv``, ``differential.csv``,
        ``patients.json``, ``run.json`` and ``slides/<slide_id>/summary.json``, as far as they exist; a failed slide
        has none.
    language
        ``en`` or ``fr``.

    Raises
    ------
    DataError
        ``slides.csv`` is missing, or a file is damaged; the message names it.
    """
    slides = list(_csv(out / "slides.csv", ("slide_id", "status")))
    paths = {row["slide_id"]: _folder(out, row["slide_id"]) / "summary.json" for row in slides}
    summaries = {slide_id: read_summary(path) for slide_id, path in paths.items() if path.is_file()}
    patients = read_patients(out)
    pages = write_patient_reports(out, patients, summaries, language)
    made = {text: of for summary in summaries.values() for text, of in summary.sentences.items()}
    words = Words(language, made | {text: of for patient in patients for text, of in patient.sentences.items()})
    told = {("slide", name, question_of(a)): a.probability_of for name, s in summaries.items() for a in s.predictions}
    # As the table writes the name.
    told |= {
        ("patient", safe_cell(p.subject_id), question_of(a)): a.probability_of for p in patients for a in p.predictions
    }
    answers = []
    for row in _csv(out / "predictions.csv", ("task", "abstained"), optional=True):
        answer, slide_id, subject = _answer(row, out), row.get("slide_id", ""), row.get("subject_id", "")
        of = told.get((answer.level, slide_id if answer.level == "slide" else subject, question_of(answer)))
        answers.append((slide_id, subject, answer.model_copy(update={"probability_of": of})))
    shares: dict[str, list[tuple[str, float]]] = {}
    counted: dict[str, int] = {}
    for row in _csv(out / "differential.csv", ("slide_id", "class"), optional=True):
        share = _number(row.get("percent"))
        if share is not None:
            shares.setdefault(row["slide_id"], []).append((row["class"], share))
            counted[row["slide_id"]] = counted.get(row["slide_id"], 0) + int(_number(row.get("count")) or 0)
    names = sorted(taxonomy_names(), key=lambda name: (name != _FIRST_TAXONOMY, name))
    styles = Styles(*(load_taxonomy(name) for name in names), language=language)
    rows, warnings = [], []
    for row in slides:
        slide_id = row["slide_id"]
        mine = {question_of(a): a for sid, _, a in answers if sid == slide_id and a.level == "slide"}
        segments = stacked(shares.get(slide_id, []), styles)
        summary = summaries.get(slide_id)
        said = [] if summary is None else [words.sentence(text) for text in summary.warnings]
        rows.append(_slide_row(row, out, mine, segments, counted.get(slide_id, 0), summary, " ".join(said)))
        if row["status"] != "failed":
            warnings += [(slide_id, text) for text in said]
    questions = {question_of(a): (a, by_model(a)) for _, _, a in answers if a.level == "slide"}
    hrefs = {row.slide_id: row.href for row in rows}
    of_patients = [(subject, pages.get(subject, ""), a) for _, subject, a in answers if a.level == "patient"]
    unfinished = [row for row in rows if row.status != "ok"]
    answered = [row for row in rows if row.answers]
    legend = {s.style.code: s.style for row in rows for s in row.segments}
    render(
        "cohort.html.j2",
        out / "report.html",
        words,
        rows=rows,
        most_rows=_MOST_ROWS,
        unfinished=unfinished[:_MOST_ROWS],
        more_unfinished=max(0, len(unfinished) - _MOST_ROWS),
        answered=answered[:_MOST_ROWS],
        more_answered=max(0, len(answered) - _MOST_ROWS),
        heat=heat_map(shares, hrefs, styles),
        slide_map=slide_map(_mapped(rows, summaries, out)),
        totals={status: sum(row.status == status for row in rows) for status in ("ok", "empty", "failed")},
        n_cells=sum(row.n_cells or 0 for row in rows),
        area_mm2=sum(row.area_mm2 or 0.0 for row in rows) if any(row.area_mm2 is not None for row in rows) else None,
        agreement=_agreement(out),
        reasons=count_reasons((row.status, row.reason) for row in rows),
        quality=quality_plots([quality_of(name, summary) for name, summary in summaries.items()]),
        questions=questions,
        patients=of_patients[:_MOST_PATIENTS],
        more_patients=max(0, len(of_patients) - _MOST_PATIENTS),
        n_simulated=sum(row.simulated for row in rows),
        simulated=any("simul" in (a.trained_on or "").lower() for _, _, a in answers),
        legend=sorted(legend.values(), key=lambda style: styles.position(style.code)),
        warnings=warnings[:_MOST_ROWS],
        more_warnings=max(0, len(warnings) - _MOST_ROWS),
        run=list(_flatten(_run_json(out / "run.json"))),
    )


def _agreement(out: Path) -> Agreement | None:
    """Return the labels given and the answers of the whole run, of which galleries alone have a table."""
    rows = [r for r in _csv(out / "agreement.csv", ("level", "class", "n"), optional=True) if r["level"] == "run"]
    if not rows:
        return None
    confusion: dict[tuple[str, str], dict[str, int]] = {}
    for row in _csv(out / "confusion.csv", ("level", "class", "taxonomy", "answer", "count")):
        if row["level"] == "run":
            answers = confusion.setdefault((row["class"], row["taxonomy"]), {})
            answers[row["answer"]] = int(_number(row["count"]) or 0)
    agrees = {(r["class"], r["taxonomy"]): tuple(filter(None, r["agrees"].split(" "))) for r in rows}
    return Agreement.model_validate(
        {
            "confidence": _number(rows[0]["confidence"]) or 0.95,
            "rows": [
                {
                    "class": r["class"],
                    "compared": r["compared"] == "true",
                    "n": int(_number(r["n"]) or 0),
                    **{name: _number(r[name]) for name in ("agree", "percent", "lower", "upper")},
                    "note": r["note"],
                }
                for r in rows
            ],
            "confusion": [
                {"class": name, "agrees": agrees.get((name, taxonomy), ()), "answers": answers}
                for (name, taxonomy), answers in confusion.items()
            ],
        }
    )


def _slide_row(
    row: Mapping[str, str],
    out: Path,
    answers: Mapping[tuple[str, str], Answer],
    segments: tuple[Segment, ...],
    n_counted: int,
    summary: SlideSummary | None,
    said: str,
) -> SlideRow:
    slide_id = row["slide_id"]
    report = _folder(out, slide_id) / "report.html"
    cells = _number(row.get("n_cells"))
    return SlideRow(
        slide_id=slide_id,
        name=Path(row.get("path", "").replace("\\", "/")).name,
        specimen=row.get("specimen", ""),
        status=row["status"],
        reason=row.get("reason", ""),
        mpp=_number(row.get("mpp")),
        area_mm2=_number(row.get("area_mm2")),
        n_cells=None if cells is None else int(cells),
        seconds=_number(row.get("seconds")),
        href=f"slides/{quote(report.parent.name)}/report.html" if report.is_file() else "",
        segments=segments,
        n_counted=n_counted,
        answers=answers,
        simulated=summary is not None and summary.simulated,
        quality="" if summary is None or summary.adequacy is None else summary.adequacy.level,
        said=said,
    )


def _mapped(rows: list[SlideRow], summaries: Mapping[str, SlideSummary], out: Path) -> list[MappedSlide]:
    """Return the slides with cells, and the classifier that their embeddings are of."""
    found = []
    for row in rows:
        if row.status == "ok" and (summary := summaries.get(row.slide_id)) is not None:
            found.append(
                MappedSlide(
                    slide_id=row.slide_id,
                    cells=_folder(out, row.slide_id) / "cells.parquet",
                    specimen=row.specimen,
                    classifier=str(summary.provenance.get("cell classifier SHA-256") or ""),
                    href=row.href,
                )
            )
    return found


def _folder(out: Path, slide_id: str) -> Path:
    # A slide_id is a folder's name; one that is not must not lead out of the run.
    if slide_id in ("", ".", "..") or "/" in slide_id or "\\" in slide_id or "\0" in slide_id:
        raise DataError(f"{out / 'slides.csv'}: slide_id {slide_id!r} is not the name of a folder")
    return out / "slides" / slide_id


def _csv(path: Path, needed: tuple[str, ...], *, optional: bool = False) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column {', '.join(missing)}; found {reader.fieldnames}")
            for row in reader:
                yield {key: value or "" for key, value in row.items() if key is not None}
    except FileNotFoundError:
        if not optional:
            raise DataError(f"{path} does not exist; it is written at the end of a run") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _answer(row: Mapping[str, str], out: Path) -> Answer:
    if row["abstained"].lower() not in ("true", "false"):
        raise DataError(f"{out / 'predictions.csv'}: abstained is {row['abstained']!r}, not true or false")
    cells = _number(row.get("n_cells"))
    return Answer.model_validate(
        {
            "level": row.get("level") or "slide",
            "task": row["task"],
            "class": row.get("class") or None,
            "probability": _number(row.get("probability")),
            "lower": _number(row.get("lower")),
            "upper": _number(row.get("upper")),
            "abstained": row["abstained"].lower() == "true",
            "reason": row.get("reason") or None,
            "n_cells": None if cells is None else int(cells),
            "model": row.get("model") or None,
            "trained_on": row.get("trained_on") or None,
        }
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise DataError(f"a table of the run holds {text!r} where a number is needed") from None


def _run_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flatten(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        yield key, ", ".join(part if isinstance(part, str) else json.dumps(part) for part in value)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)
