"""Simulated patients of three classes that differ as the real ones do, and a small model of them."""

from __future__ import annotations

from functools import cache

import numpy as np

from wsi_pipeline.predictions.counts.features import ANALYTES, FloatArray
from wsi_pipeline.predictions.counts.labelled import LabelledCounts
from wsi_pipeline.predictions.counts.model import CountsModel
from wsi_pipeline.training.counts.fit import fit_counts

_MIDDLE = {
    "age": (40, 62, 50), "WBC_G_L": (12, 10, 3), "MCV_fL": (87, 95, 89), "MCHC_g_L": (335, 338, 345),
    "ANC_percent": (20, 24, 15), "Lymphocytes_percent": (30, 26, 35), "Monocytes_percent": (2, 12, 1),
    "Platelets_G_L": (70, 80, 35), "PT_percent": (85, 75, 62), "Fibrinogen_g_L": (4.2, 4.2, 1.5),
    "LDH_UI_L": (900, 600, 350),
}  # fmt: skip
_SPREAD = {"age": 0.25, "MCV_fL": 0.05, "MCHC_g_L": 0.03, "PT_percent": 0.15}


def simulated(n: int, seed: int = 0, *, missing: float = 0.0) -> LabelledCounts:
    """Return ``n`` patients, a third of each class, of two centres."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    values = np.full((n, len(ANALYTES)), np.nan)
    for name, middles in _MIDDLE.items():
        values[:, ANALYTES.index(name)] = np.asarray(middles)[labels] * np.exp(
            rng.normal(0, _SPREAD.get(name, 0.45), n)
        )
    for part in ("ANC", "Lymphocytes", "Monocytes"):
        percent = values[:, ANALYTES.index(f"{part}_percent")]
        values[:, ANALYTES.index(f"{part}_G_L")] = percent * values[:, ANALYTES.index("WBC_G_L")] / 100
    values[rng.random(values.shape) < missing] = np.nan
    return LabelledCounts(
        values=values,
        labels=labels,
        patients=np.arange(n),
        centres=np.arange(n) // 3 % 2,
        centre_names=("a", "b"),
    )


@cache
def small_model() -> CountsModel:
    return fit_counts(simulated(330, missing=0.03), 0, inner_folds=2)


def values_of(table: LabelledCounts, row: int) -> dict[str, float | None]:
    return {name: float(v) for name, v in zip(ANALYTES, table.values[row], strict=True) if not np.isnan(v)}


def normal_row() -> FloatArray:
    """A healthy adult."""
    healthy = {
        "age": 40, "WBC_G_L": 6.5, "MCV_fL": 90, "MCHC_g_L": 335, "ANC_percent": 58, "ANC_G_L": 3.77,
        "Lymphocytes_percent": 32, "Lymphocytes_G_L": 2.08, "Monocytes_percent": 7, "Monocytes_G_L": 0.455,
        "Platelets_G_L": 250, "PT_percent": 95, "Fibrinogen_g_L": 3.0, "LDH_UI_L": 180,
    }  # fmt: skip
    return np.array([[healthy[name] for name in ANALYTES]], dtype=float)
