"""What ``evaluate`` prints, and the dictionaries that become ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsi_pipeline.evaluation.invariance import CutResult, InvarianceResult
from wsi_pipeline.evaluation.points import PointsMetrics
from wsi_pipeline.evaluation.segmentation import SegmentationMetrics
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.assessment.calibration import Calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns: the first to the left, the others to the right."""
    cells = [[str(v) for v in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def segmentation_table(results: Mapping[str, SegmentationMetrics]) -> str:
    """Return one line a method, for example the model and the baseline beside it."""
    return text_table(
        ["", "images", "true", "predicted", "AP50", "AP75", "precision", "recall"],
        [[name, m.n_images, m.n_true, m.n_pred, m.ap50, m.ap75, m.precision, m.recall] for name, m in results.items()],
    )


def points_table(results: Mapping[str, PointsMetrics]) -> str:
    """Return one line a method."""
    return text_table(
        ["", "images", "points", "predicted", "recall", "predicted/true", "F1 of centres"],
        [[name, m.n_images, m.n_points, m.n_pred, m.recall, m.ratio, m.centre_f1] for name, m in results.items()],
    )


def classification_table(
    metrics: ClassificationMetrics, *, baseline: ClassificationMetrics | None = None, confusion: bool = True
) -> str:
    """Return the table by class, the totals, and the confusion matrix (rows true, columns answered)."""
    parts = [
        text_table(
            ["class", "cells", "precision", "recall", "F1"],
            [[c.name, c.support, c.precision, c.recall, c.f1] for c in metrics.per_class],
        )
    ]
    totals = [["answers", metrics.n, metrics.accuracy, metrics.macro_f1]]
    if baseline is not None:
        totals.append(["most frequent class", baseline.n, baseline.accuracy, baseline.macro_f1])
    parts.append(text_table(["", "cells", "accuracy", "macro-F1"], totals))
    if confusion:
        parts.append(
            text_table(
                ["true \\ answered", *metrics.answers],
                [[name, *row] for name, row in zip(metrics.classes, metrics.confusion, strict=True)],
            )
        )
    return "\n\n".join(parts)


def segmentation_metrics(
    metrics: SegmentationMetrics, *, baseline: SegmentationMetrics | None = None
) -> dict[str, Any]:
    """Return ``metrics.json`` of instances; ``n`` counts true objects that are not cut by the border."""
    figures = {name: getattr(metrics, name) for name in ("ap50", "ap75", "precision", "recall", "f1")}
    result = {
        "n": metrics.n_true,
        "n_images": metrics.n_images,
        "n_predicted": metrics.n_pred,
        "tp": metrics.tp,
        "fp": metrics.fp,
        "fn": metrics.fn,
        **_figures(figures),
        "per_image": [
            {"name": s.name, "n_true": s.n_true, "n_predicted": s.n_pred, "ap50": s.ap50} for s in metrics.per_image
        ],
    }
    if baseline is not None:
        result["baseline"] = {"ap50": baseline.ap50.value, "ap75": baseline.ap75.value}
    return result


def points_metrics(metrics: PointsMetrics, *, baseline: PointsMetrics | None = None) -> dict[str, Any]:
    """Return ``metrics.json`` of points; ``n`` counts points."""
    names = ("recall", "precision", "ratio", "centre_recall", "centre_precision", "centre_f1")
    figures = {name: getattr(metrics, name) for name in names}
    result = {
        "n": metrics.n_points,
        "n_images": metrics.n_images,
        "n_predicted": metrics.n_pred,
        "found": metrics.found,
        **_figures(figures),
        "per_image": [
            {"name": r.name, "n_points": r.n_points, "n_predicted": r.n_pred, "found": r.found}
            for r in metrics.per_image
        ],
    }
    if baseline is not None:
        result["baseline"] = {
            "recall": baseline.recall.value,
            "ratio": baseline.ratio.value,
            "centre_f1": baseline.centre_f1.value,
        }
    return result


def classification_metrics(
    metrics: ClassificationMetrics,
    *,
    baseline: ClassificationMetrics | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Return ``metrics.json`` of cells."""
    result = {
        "n": metrics.n,
        **_figures({"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}),
        "interval_resamples": metrics.resampled,
        "per_class": {
            c.name: {
                "n": c.support,
                **_figures({"precision": c.precision, "recall": c.recall, "f1": c.f1}),
            }
            for c in metrics.per_class
        },
        "confusion": {
            "classes": list(metrics.classes),
            "answers": list(metrics.answers),
            "counts": [list(row) for row in metrics.confusion],
        },
    }
    if baseline is not None:
        result["baseline"] = {"accuracy": baseline.accuracy.value, "macro_f1": baseline.macro_f1.value}
    if calibration is not None:
        result["calibration"] = {"ece": calibration.ece, "bins": [vars(b) for b in calibration.bins]}
    return result


def invariance_table(result: InvarianceResult) -> str:
    """Return one line a run, the reference first, then what the runs do not show."""
    rows = [
        [
            f"core {run.cut.core_px}",
            f"{run.cut.workers}{_killed(run)}",
            run.n_blocks,
            f"{run.n_cells:,}",
            "reference" if run is result.reference else "yes" if run.difference is None else "NO",
            "-" if run.matched is None else f"{100 * run.matched:.2f} %",
            "-" if run.difference is None else run.difference,
        ]
        for run in result.runs
    ]
    header = ["", "workers", "blocks", "cells", "identical", "matched at IoU 0.9", "first difference"]
    return "\n".join([text_table(header, rows), *result.notes])


def _killed(run: CutResult) -> str:
    return {None: "", True: ", killed and resumed", False: ", ended before the kill"}[run.was_killed]


def invariance_metrics(result: InvarianceResult) -> dict[str, Any]:
    """Return ``metrics.json`` of runs that cut a slide differently; ``n`` counts the reference's cells."""
    return {
        "n": result.reference.n_cells,
        "identical": result.identical,
        "notes": list(result.notes),
        "runs": [
            {
                **vars(run.cut),
                "blocks": run.n_blocks,
                "cells": run.n_cells,
                "seconds": round(run.seconds, 3),
                "was_killed": run.was_killed,
                "reference": run is result.reference,
                "identical": run.difference is None,
                "first_difference": None if run.difference is None else vars(run.difference),
                "matched_at_iou_0.9": run.matched,
            }
            for run in result.runs
        ],
    }


def _figures(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return each figure as a number, and the intervals beside them."""
    return {
        **{name: e.value for name, e in estimates.items()},
        "intervals_95": {name: [e.lower, e.upper] for name, e in estimates.items()},
    }
