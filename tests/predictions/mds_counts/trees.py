"""A tree by hand, for tests."""

from __future__ import annotations

from typing import Any


def analyte(name: str, short: str, unit: str, low: float, middle: float, high: float) -> dict[str, Any]:
    return {
        "name": name, "label": {"en": short, "fr": short}, "short": {"en": short, "fr": short}, "unit": unit,
        "lowest": low, "median": middle, "highest": high, "known": 1.0,
    }  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """Return Ne-WX first, then MCV below it and IPF above; 100 patients, 32 with MDS."""
    return {
        "format": "mds-counts-tree",
        "version": 1,
        "positive": "MDS",
        "negative": "other",
        "cut": 0.32,
        "trained_on": "a table",
        "simulated": False,
        "analytes": [
            analyte("Ne-WX", "Ne-WX", "", 250, 310, 400),
            analyte("IPF", "IPF", "%", 1, 4.5, 40),
            analyte("MCV", "MCV", "fL", 60, 90, 120),
            analyte("Hb", "Hb", "g/dL", 5, 10, 16),
            analyte("ANC", "ANC", "G/L", 0.1, 3, 40),
            analyte("PLT", "PLT", "G/L", 3, 200, 900),
            analyte("sex", "Sex", "", 0, 1, 1),
        ],
        "nodes": [
            {"positives": 32, "patients": 100,
             "split": {"analyte": "Ne-WX", "threshold": 320.5, "below": 1, "above": 4, "missing": "below"}},
            {"positives": 4, "patients": 64,
             "split": {"analyte": "MCV", "threshold": 98.5, "below": 2, "above": 3, "missing": "below"}},
            {"positives": 1, "patients": 54},
            {"positives": 3, "patients": 10},
            {"positives": 28, "patients": 36,
             "split": {"analyte": "IPF", "threshold": 6.0, "below": 5, "above": 6, "missing": "below"}},
            {"positives": 4, "patients": 11},
            {"positives": 24, "patients": 25},
        ],
    } | changes  # fmt: skip
