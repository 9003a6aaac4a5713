"""What ``evaluate simulated`` prints, and its ``metrics.json``."""

from __future__ import annotations

from typing import Any

from wsi_pipeline.evaluation.simulated import LARGE_PERCENT, DifferentialError, SimulatedEvaluation, SlideScore
from wsi_pipeline.evaluation.tables import classification_metrics, classification_table, text_table

_MOST_TABLES = 8
_FIGURES = ("ap50", "precision", "recall", "f1")


def simulated_table(result: SimulatedEvaluation) -> str:
    """Return the tables for people: kinds, kinds mistaken, white cells by class, differentials."""
    parts = [
        text_table(
            ["kind", "true", "predicted", "AP50", "precision", "recall", "F1"],
            [[k.kind, k.n_true, k.n_pred, k.ap50, k.precision, k.recall, k.f1] for k in result.kinds],
        )
        + f"\n95 % intervals by bootstrap over {result.resampled}",
        text_table(
            ["true \\ predicted", *next(iter(result.confusion.values()), {})],
            [[kind, *row.values()] for kind, row in result.confusion.items()],
        ),
    ]
    if result.classes is not None:
        parts.append("White cells that were found\n" + classification_table(result.classes))
    counted = [slide for slide in result.slides if slide.differential]
    for slide in counted[:_MOST_TABLES]:
        parts.append(_differential_table(slide))
    if len(counted) > _MOST_TABLES:
        parts.append(f"{len(counted) - _MOST_TABLES} further differentials are in metrics.json")
    if counted:
        parts.append(
            text_table(
                ["largest error, points", "white cells", "raw", "corrected"],
                [
                    [s.slide_id, s.n_white, _points(s.largest_error("raw")), _points(s.largest_error("corrected"))]
                    for s in counted
                ],
            )
            + f"\nover classes of {LARGE_PERCENT:g} % or more of the truth; corrected, classes that are not told apart "
            "count as one"
        )
    if result.left_out:
        named = ", ".join(f"{slide_id} ({reason})" for slide_id, reason in result.left_out.items())
        parts.append(f"left out, without results: {named}")
    return "\n\n".join(parts)


def simulated_metrics(result: SimulatedEvaluation) -> dict[str, Any]:
    """Return ``metrics.json``."""
    return {
        "n_slides": len(result.slides),
        "left_out": result.left_out,
        "interval_resamples": result.resampled,
        "kinds": {
            k.kind: {
                "n": k.n_true,
                "n_predicted": k.n_pred,
                "tp": k.tp,
                "fp": k.fp,
                "fn": k.fn,
                **{name: getattr(k, name).value for name in _FIGURES},
                "intervals_95": {name: [getattr(k, name).lower, getattr(k, name).upper] for name in _FIGURES},
            }
            for k in result.kinds
        },
        "kind_confusion": result.confusion,
        "classes": None if result.classes is None else classification_metrics(result.classes),
        "slides": [_slide(slide) for slide in result.slides],
    }


def _slide(slide: SlideScore) -> dict[str, Any]:
    covered = [row.covered for row in slide.differential if row.true >= LARGE_PERCENT and row.covered is not None]
    return {
        "slide_id": slide.slide_id,
        "specimen": slide.specimen,
        "kinds": {kind: {"n": n, "n_predicted": p, "tp": tp} for kind, (n, p, tp) in slide.by_kind.items()},
        "n_white": slide.n_white,
        "white_missed": dict(sorted(slide.missed.items())),
        "differential": [_row(row) for row in slide.differential],
        "not_corrected": slide.not_corrected or None,
        "largest_error_raw": slide.largest_error("raw"),
        "largest_error_corrected": slide.largest_error("corrected"),
        "intervals_covering": {"covered": sum(covered), "of": len(covered)},
    }


def _row(row: DifferentialError) -> dict[str, Any]:
    return {
        "level": row.level,
        "class": row.name,
        "true": row.true,
        "raw": row.raw,
        "corrected": row.corrected,
        "lower": row.lower,
        "upper": row.upper,
        "covered": row.covered,
    }


def _differential_table(slide: SlideScore) -> str:
    rows = [
        [
            f"[{row.name}]" if row.level == "group" else row.name,
            _points(row.true),
            _points(row.raw),
            _points(row.corrected),
            "-" if row.lower is None or row.upper is None else f"{row.lower:.1f}-{row.upper:.1f}",
            {None: "-", True: "yes", False: "NO"}[row.covered],
        ]
        for row in slide.differential
    ]
    title = f"Differential of {slide.slide_id}, {slide.n_white} white cells, percent"
    if slide.not_corrected:
        title += f" (not corrected: {slide.not_corrected})"
    return f"{title}\n" + text_table(["class", "true", "raw", "corrected", "interval", "covers"], rows)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
