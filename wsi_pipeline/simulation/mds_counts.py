"""A simulated table of analyser values, to show and test the MDS tree without patients.

Published are only five medians, MDS against non-clonal cytopenia (Zhu et al., BMC Cancer 2022, doi
10.1186/s12885-022-10059-8): ANC 1.9 against 5.5 G/L, platelets 113 against 438 G/L, MCV 94 against 87 fL, haemoglobin
9.6 against 10.5 g/dL, MPV 11.4 against 9.8 fL. **Everything else is our assumption**: the spreads, the shapes (normal;
log-normal for ANC, platelets and IPF), that values vary independently, the values of Ne-WX and IPF and how far they
shift, age, sex, and the share of MDS (168 of 525, the published numbers of patients). How well a model does on such a
table says nothing about patients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_pipeline.atomic import write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ConfigError

COLUMNS = (
    "patient", "simulated", "label", "Ne_WX", "IPF_percent", "ANC_G_L", "MCV_fL", "Hb_g_dL", "Platelets_G_L", "MPV_fL",
    "age", "sex",
)  # fmt: skip
POSITIVE, NEGATIVE = "MDS", "non-clonal"
LEAST = 20
_SHARE = 168 / 525
# Median with MDS, without; spread (standard deviation, of the logarithm where the third says so); decimals; limits.
_VALUES: dict[str, tuple[float, float, float, bool, int, float, float]] = {
    "Ne_WX": (340.0, 305.0, 20.0, False, 0, 200.0, 500.0),
    "IPF_percent": (9.0, 4.0, 0.5, True, 1, 0.5, 60.0),
    "ANC_G_L": (1.9, 5.5, 0.6, True, 2, 0.05, 60.0),
    "MCV_fL": (94.0, 87.0, 8.0, False, 1, 60.0, 130.0),
    "Hb_g_dL": (9.6, 10.5, 1.6, False, 1, 4.0, 17.0),
    "Platelets_G_L": (113.0, 438.0, 0.6, True, 0, 3.0, 1500.0),
    "MPV_fL": (11.4, 9.8, 1.0, False, 1, 7.0, 15.0),
    "age": (74.0, 66.0, 10.0, False, 0, 18.0, 100.0),
}


def simulated_table(n: int, *, seed: int) -> str:
    """Return a CSV table of ``n`` patients; ``simulated`` is ``true`` in every row, and ids begin with ``sim``.

    Raises
    ------
    ConfigError
        Fewer than 20 patients.
    """
    if n < LEAST:
        raise ConfigError(f"{n} simulated patients are too few; at least {LEAST} are needed")
    random = np.random.default_rng(seed)
    positive = random.permutation(np.arange(n) < round(_SHARE * n))
    columns: dict[str, list[str]] = {
        "patient": [f"sim{i + 1:06d}" for i in range(n)],
        "simulated": ["true"] * n,
        "label": [POSITIVE if yes else NEGATIVE for yes in positive],
    }
    for name, (with_mds, without, spread, logarithmic, decimals, low, high) in _VALUES.items():
        median = np.where(positive, with_mds, without)
        noise = random.normal(0, spread, n)
        drawn = median * np.exp(noise) if logarithmic else median + noise
        columns[name] = [f"{value:.{decimals}f}" for value in np.clip(drawn, low, high)]
    columns["sex"] = ["F" if female else "M" for female in random.random(n) < 0.5]
    return csv_text(COLUMNS, zip(*(columns[name] for name in COLUMNS), strict=True))


def write_simulated_table(path: Path, n: int, *, seed: int) -> None:
    """Write :func:`simulated_table` atomically."""
    write_text(path, simulated_table(n, seed=seed))
