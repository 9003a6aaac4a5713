"""The tables of a run: one row a slide, an answer, a class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_text
from wsi_pipeline.finish import taxonomy_of
from wsi_pipeline.job import SlideJob
from wsi_pipeline.predictions import (
    CORRECTED_COLUMNS,
    DIFFERENTIAL_COLUMNS,
    PREDICTION_COLUMNS,
    criteria_predictions,
    differential,
    pool_counts,
)

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
        prediction_rows += [_prediction_row(p) for p in summary.get("predictions", [])]
        for row in summary.get("differential", []):
            known = {k: ("" if row[k] is None else round(row[k], 4)) for k in ("percent", "lower", "upper")}
            count_rows.append({"slide_id": summary["slide_id"], "class": row["class"], "count": row["count"], **known})
        # Two decimals: the interval is made by drawing, and further ones may differ between machine types.
        for row in summary.get("differential_corrected", {}).get("rows", []):
            rounded = {k: round(row[k], 2) for k in ("percent", "lower", "upper")}
            known = {"level": row["level"], "class": row["class"]}
            corrected_rows.append({"slide_id": summary["slide_id"], **known, **rounded})
    prediction_rows += _patient_rows(jobs, summaries)
    _write_csv(out / "slides.csv", SLIDE_COLUMNS, slide_rows)
    _write_csv(out / "predictions.csv", PREDICTION_COLUMNS, prediction_rows)
    _write_csv(out / "differential.csv", DIFFERENTIAL_COLUMNS, count_rows)
    _write_csv(out / "differential_corrected.csv", CORRECTED_COLUMNS, corrected_rows)


def _prediction_row(prediction: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: prediction.get(name) for name in PREDICTION_COLUMNS}
    row["abstained"] = "true" if row["abstained"] else "false"
    return {name: "" if value is None else value for name, value in row.items()}


def _patient_rows(jobs: Sequence[SlideJob], summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pool the slides of each patient, by specimen, and answer for the patient."""
    pooled: dict[tuple[str, str], list[tuple[SlideJob, dict[str, Any]]]] = {}
    for job, summary in zip(jobs, summaries, strict=True):
        if job.subject_id and summary["status"] == "ok":
            pooled.setdefault((job.subject_id, job.config.specimen), []).append((job, summary))
    rows = []
    for (subject, _), members in pooled.items():
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
        rows += [answer.row() for answer in answers]
    return rows


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def network_use(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how the segmentation networks ran: precisions, batches, and slides that are not byte-comparable."""
    provenances = [summary["provenance"] for summary in summaries if "provenance" in summary]
    marked = [s["slide_id"] for s in summaries if not s.get("quality", {}).get("byte-comparable", True)]
    return {
        "precision": sorted({p["precision used"] for p in provenances if "precision used" in p}),
        "batch_size": sorted({p["tiles a batch used"] for p in provenances if "tiles a batch used" in p}),
        "byte_comparable": not marked,
        "not_byte_comparable": marked,
    }


def weights_used(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of every model that a slide was run with, by name."""
    used = {}
    for summary in summaries:
        provenance = summary.get("provenance", {})
        for kind in ("segmentation model", "cell classifier"):
            if name := provenance.get(kind):
                used[name] = provenance[f"{'segmentation' if 'seg' in kind else kind} SHA-256"]
    return used


def total_timings(summaries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of every stage, summed over slides."""
    total: dict[str, float] = {}
    for summary in summaries:
        for stage, seconds in summary.get("timings", {}).items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 3)
    return total
