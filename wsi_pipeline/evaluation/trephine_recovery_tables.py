"""What ``evaluate recovery`` prints of a trephine cohort, and its ``metrics.json`` and ``recovery.csv``."""

from __future__ import annotations

import math
from typing import Any

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import some
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.evaluation.trephine_recovery import EVERYONE, TOLERANCE, MeasureRecovery, TrephineRecovery
from wsi_pipeline.evaluation.trephine_truth import MEASURES
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.plain_csv import safe_cell

_COLUMNS = ("patient", "group", "measure", "planted", "value")


def trephine_recovery_table(found: TrephineRecovery) -> str:
    """Return a table over all patients, one by group, and the megakaryocytes found by kind."""
    head = ["measure", "n", "abstained", "planted", "reported", "ratio", "within 10 %", "share", "r"]
    everyone = [_line(s, s.measure) for s in found.summaries if s.group == EVERYONE]
    groups = [_line(s, f"{s.group}, {s.measure}") for s in found.summaries if s.group != EVERYONE]
    notes = "; ".join(f"{name}: {words}" for name, words in MEASURES.items())
    note = (
        "planted, reported: means over patients; ratio: sum of reported over sum of planted; within 10 %: patients "
        "whose figure is; r: Pearson's over patients; 95 % intervals, of ratios by bootstrap over patients, of shares "
        f"after Wilson\n{notes}"
    )
    kinds = [[k.kind, k.n, k.found, _share(k.found, k.n)] for k in found.kinds]
    hits = found.kinds[-1].found
    precision = f"precision {_share(hits, hits + found.false)}, {found.false} false" if hits + found.false else ""
    parts = [
        text_table(head, everyone) + f"\n{note}",
        "By group\n" + text_table(head, groups),
        "Megakaryocytes found at IoU 0.5\n" + text_table(["kind", "n", "found", "recall"], kinds) + f"\n{precision}",
    ]
    if found.not_run:
        parts.append(f"{len(found.not_run)} patients of the cohort are not in the run: {some(found.not_run)}")
    return "\n\n".join(parts)


def _line(s: MeasureRecovery, name: str) -> list[object]:
    return [
        name, s.n, s.abstained, _short(s.planted), _short(s.value), s.ratio, s.within, s.share,
        "-" if s.correlation is None else f"{s.correlation:.2f}",
    ]  # fmt: skip


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(k: int, n: int) -> str:
    if not n:
        return "-"
    low, high = wilson(k, n)
    return f"{k / n:.3f} ({low:.3f}-{high:.3f})"


def trephine_recovery_metrics(found: TrephineRecovery) -> dict[str, Any]:
    """Return the entries of ``metrics.json``."""
    plain = ("measure", "group", "n", "abstained", "within", "planted", "value", "correlation", "recovered")
    rows = [
        {**{name: getattr(s, name) for name in plain}, "share": vars(s.share), "ratio": vars(s.ratio)}
        for s in found.summaries
    ]
    return {
        "tolerance": TOLERANCE,
        "recovery": rows,
        "megakaryocytes": {"kinds": [vars(k) for k in found.kinds], "false": found.false},
        "not_run": list(found.not_run),
    }


def trephine_recovery_csv(found: TrephineRecovery) -> str:
    """Return a row a patient and measure; empty where the run abstains or the truth has no figure."""
    rows: list[list[object]] = []
    for row in found.rows:
        numbers = ["" if v is None or math.isnan(v) else f"{v:.4f}" for v in (row.planted, row.value)]
        rows.append([safe_cell(row.patient), safe_cell(row.group), row.measure, *numbers])
    return csv_text(_COLUMNS, rows)
