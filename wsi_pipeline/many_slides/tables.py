"""The tables of a run: one row a slide, an answer, a class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.exports.report.patient import PATIENTS_FILE
from wsi_pipeline.one_slide.answers import answer_patient
from wsi_pipeline.one_slide.fibrosis import patient_fibrosis
from wsi_pipeline.one_slide.finish import taxonomy_of
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.predictions import (
    CORRECTED_COLUMNS,
    DIFFERENTIAL_COLUMNS,
    PREDICTION_COLUMNS,
    criteria_predictions,
    differential,
    pool_counts,
)
from wsi_pipeline.predictions.adequacy import Adequacy, cells_shortcomings
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.trephines.table import TREPHINE_COLUMNS, TREPHINES_FILE, trephine_row
from wsi_pipeline.sentences import made_of

JOINED = ("red_cells.csv", "dysplasia.csv", "attributes.csv", "phenotypes.csv", "fibrosis.csv")
"""Tables of the slides that the run has as one, too."""

SLIDE_COLUMNS = ("slide_id", "path", "specimen", "status", "reason", "mpp", "area_mm2", "n_cells", "seconds")


def write_tables(out: Path, jobs: Sequence[SlideJob], summaries: Sequence[dict[str, Any]]) -> None:
    """Write the tables of the run, rows in the order of the jobs."""
    slide_rows, prediction_rows, count_rows, corrected_rows = [], [], [], []
    for summary in summaries:
        mpp = summary.get("mpp")
        slide_rows.append(
            {
                "slide_id": summary["slide_id"],
                "path": summary["path"],
                "specimen": summary["specimen"],
                "status": summary["status"],
                "reason": summary["reason"] or "",
                "mpp": round((mpp["x"] + mpp["y"]) / 2, 6) if mpp else "",
                "area_mm2": round(summary["area_mm2"], 6) if "area_mm2" in summary else "",
                "n_cells": summary.get("n_cells", ""),
                "seconds": summary["seconds"],
            }
        )
        prediction_rows += [prediction_row(p) for p in summary.get("predictions", [])]
        for row in summary.get("differential", []):
            known = {k: ("" if row[k] is None else round(row[k], 4)) for k in ("percent", "lower", "upper")}
            count_rows.append({"slide_id": summary["slide_id"], "class": row["class"], "count": row["count"], **known})
        # Two decimals: the interval is made by drawing, and further ones may differ between machine types.
        for row in summary.get("differential_corrected", {}).get("rows", []):
            rounded = {k: round(row[k], 2) for k in ("percent", "lower", "upper")}
            known = {"level": row["level"], "class": row["class"]}
            corrected_rows.append({"slide_id": summary["slide_id"], **known, **rounded})
    patients = _patients(jobs, summaries)
    prediction_rows += [prediction_row(p) for patient in patients for p in patient["predictions"]]
    prediction_rows += [prediction_row(answer.to_dict()) for answer in patient_fibrosis(jobs, summaries)]
    if patients:
        write_json(out / PATIENTS_FILE, {"patients": patients})
    else:
        (out / PATIENTS_FILE).unlink(missing_ok=True)
    write_csv(out / "slides.csv", SLIDE_COLUMNS, slide_rows)
    write_csv(out / "predictions.csv", PREDICTION_COLUMNS, prediction_rows)
    write_csv(out / "differential.csv", DIFFERENTIAL_COLUMNS, count_rows)
    write_csv(out / "differential_corrected.csv", CORRECTED_COLUMNS, corrected_rows)
    trephines = [(str(s["slide_id"]), s["trephine"]) for s in summaries if s.get("trephine")]
    if trephines:
        write_csv(out / TREPHINES_FILE, TREPHINE_COLUMNS, [trephine_row(*entry) for entry in trephines])
    else:
        (out / TREPHINES_FILE).unlink(missing_ok=True)
    finished = [job.folder for job, summary in zip(jobs, summaries, strict=True) if summary["status"] != "failed"]
    for name in JOINED:
        _join(out / name, [folder / name for folder in finished])


def _join(out: Path, parts: Sequence[Path]) -> None:
    """Write tables of one header below each other; no table where there is none."""
    texts = [part.read_text(encoding="utf-8") for part in parts if part.is_file()]
    if texts:
        write_text(out, texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:]))
    else:
        out.unlink(missing_ok=True)


def prediction_row(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of ``predictions.csv`` of an entry of ``predictions`` of a summary."""
    row = {name: prediction.get(name) for name in PREDICTION_COLUMNS}
    row["abstained"] = "true" if row["abstained"] else "false"
    row |= {name: safe_cell(str(row[name])) for name in ("subject_id", "model", "trained_on") if row[name] is not None}
    return {name: "" if value is None else value for name, value in row.items()}


def _patients(jobs: Sequence[SlideJob], summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pool the slides of each patient, by specimen, and answer for the patient: criteria first, then models."""
    pooled: dict[tuple[str, str], list[tuple[SlideJob, dict[str, Any]]]] = {}
    for job, summary in zip(jobs, summaries, strict=True):
        if job.subject_id and summary["status"] == "ok" and job.config.stain == "routine":
            pooled.setdefault((job.subject_id, job.config.specimen), []).append((job, summary))
    patients = []
    for (subject, specimen), members in pooled.items():
        config = members[0][0].config
        taxonomy = taxonomy_of(config)
        counts = differential(
            pool_counts([summary["counts"]["class"] for _, summary in members]),
            specimen=config.specimen,
            taxonomy=taxonomy,
            confidence=config.predictions.confidence,
            # A gallery has no area.
            area_mm2=sum(summary.get("area_mm2", 0.0) for _, summary in members) or None,
        )
        answers = criteria_predictions(
            counts,
            slide_id="",
            subject_id=subject,
            specimen=config.specimen,
            taxonomy=taxonomy,
            config=config.predictions,
            level="patient",
        )
        smear = specimen != "trephine"
        patient = {
            "subject_id": subject,
            "specimen": specimen,
            "slide_ids": [job.slide_id for job, _ in members],
            "taxonomy": taxonomy.name,
            "confidence": config.predictions.confidence,
            "counts": dict(counts.counts),
            **counts.to_dict(),
            "notes": list(counts.notes),
            "adequacy": Adequacy.of(tuple(cells_shortcomings(counts.n, config.predictions))).to_dict()
            if smear
            else None,
            "predictions": [*(answer.to_dict() for answer in answers), *_by_models(members)],
        }
        # Answers of a patient's one slide are its slide's, read from a file where the slide was done before.
        known = {text: made for _, summary in members for text, made in summary.get("sentences", {}).items()}
        patients.append({**patient, "sentences": known | made_of(patient)})
    return patients


def _by_models(members: Sequence[tuple[SlideJob, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what models answer for a patient; of a patient with one slide that is what they answered for it."""
    n = len(members[0][0].config.predictions.slide_models)
    if not n:
        return []
    if len(members) > 1:
        return [answer.to_dict() for answer in answer_patient([job for job, _ in members])]
    return [{**p, "level": "patient", "slide_id": None} for p in members[0][1]["predictions"][-n:]]


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with a header, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
