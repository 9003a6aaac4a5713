"""What ``evaluate recovery`` prints, and its ``metrics.json`` and ``recovery.csv``."""

from __future__ import annotations

from typing import Any

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import some
from wsi_pipeline.evaluation.recovery import EVERYONE, Recovery, RecoveryEvaluation
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.plain_csv import safe_cell

_COLUMNS = ("patient", "group", "fraction", "how", "drawn", "placed", "value", "lower", "upper")


def recovery_table(found: RecoveryEvaluation) -> str:
    """Return a table over all patients, and one by group of what was drawn."""
    head = ["fraction", "reported", "planted", "n", "abstained", "covered", "share covered", "bias", "mean error"]
    everyone = [_line(r, r.fraction) for r in found.summaries if r.group == EVERYONE]
    groups = [
        _line(r, f"{r.group}, {r.fraction}") for r in found.summaries if r.group != EVERYONE and r.truth == "drawn"
    ]
    note = "bias and mean error in percentage points, reported less planted; 95 % intervals, of shares after Wilson"
    parts = [text_table(head, everyone) + f"\n{note}", "By group\n" + text_table(head, groups)]
    if found.not_run:
        parts.append(f"{len(found.not_run)} patients of the cohort are not in the run: {some(found.not_run)}")
    return "\n\n".join(parts)


def _line(r: Recovery, name: str) -> list[object]:
    return [name, r.how, r.truth, r.n, r.abstained, r.covered, r.coverage, _points(r.bias), _points(r.error)]


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.lower is None or estimate.upper is None:
        return f"{estimate.value:.1f}"
    return f"{estimate.value:.1f} ({estimate.lower:.1f} to {estimate.upper:.1f})"


def recovery_metrics(found: RecoveryEvaluation) -> dict[str, Any]:
    """Return the entries of ``metrics.json``."""
    figures = ("coverage", "bias", "error")
    rows = [
        {
            **{name: getattr(r, name) for name in ("fraction", "how", "truth", "group", "n", "abstained", "covered")},
            **{name: vars(getattr(r, name)) for name in figures},
        }
        for r in found.summaries
    ]
    return {"recovery": rows, "not_run": list(found.not_run)}


def recovery_csv(found: RecoveryEvaluation) -> str:
    """Return a row a patient, fraction and way of reporting, in percent; empty where the run abstains."""
    rows: list[list[object]] = []
    for row in found.reported:
        numbers = ["" if (v := getattr(row, name)) is None else f"{v:.4f}" for name in _COLUMNS[4:]]
        rows.append([safe_cell(row.patient), safe_cell(row.group), row.fraction, row.how, *numbers])
    return csv_text(_COLUMNS, rows)
