"""What several folds of a cell classifier say together: mean, interval, and a table by class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.training.cards import Figure

STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)  # fmt: skip
"""97.5 % points of Student's t for 1 to 19 degrees of freedom."""


def over_folds(folds: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Figure]]:
    """Return mean and 95 % interval (Student's t over folds) of the folds' figures."""
    n = sum(f["n"] for f in folds)
    summary: dict[str, Any] = {"folds": len(folds), "n": n}
    figures = []
    for key, title in (("macro_f1", "macro-F1"), ("accuracy", "accuracy"), ("ece", "expected calibration error")):
        values = [f["calibration"]["ece"] if key == "ece" else _value(f[key]) for f in folds]
        mean = float(np.mean(values))
        half = STUDENT_T[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        lower, upper = max(0.0, mean - half), min(1.0, mean + half)
        summary[key] = {"mean": mean, "lower": lower, "upper": upper, "by_fold": values}
        figures.append(
            Figure(name=f"{title}, mean of {len(folds)} folds", on="each cell tested once", n=n, value=mean,
                   lower=lower, upper=upper)
        )  # fmt: skip
    return summary, figures


def _value(figure: Any) -> float:
    return float(figure["value"] if isinstance(figure, dict) else figure)


def folds_table(folds: list[dict[str, Any]]) -> str:
    """Return F1 by class and fold as plain text."""
    names = list(folds[0]["per_class"])
    rows = [
        [name, *(_value(f["per_class"][name]["f1"]) if f["per_class"][name]["n"] else "-" for f in folds)]
        for name in names
    ]
    rows.append(["macro-F1", *(_value(f["macro_f1"]) for f in folds)])
    rows.append(["accuracy", *(_value(f["accuracy"]) for f in folds)])
    return text_table(["F1 by class", *(f"fold {i}" for i in range(len(folds)))], rows)
