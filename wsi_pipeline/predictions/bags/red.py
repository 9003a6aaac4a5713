"""Red-cell indices of a subject: shapes and sizes of the judged red cells of its slides, pooled by their numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_SIZES = ("diameter_um", "area_um2")


def pool_red_cells(entries: Iterable[Mapping[str, Any] | None]) -> dict[str, float]:
    """Return the indices of several slides' ``red_cells`` entries; empty without a judged cell.

    Returns
    -------
    dict
        ``n`` judged cells; ``share_<shape>``, 0 to 1; ``diameter_um`` and ``area_um2``, means, and their coefficients
        of variation ``diameter_um_cv`` and ``area_um2_cv``, 0 to 1. Sizes are of cells spread on glass.
    """
    shapes: Counter[str] = Counter()
    sums = {name: [0.0, 0.0, 0.0] for name in _SIZES}
    for entry in entries:
        if entry is None:
            continue
        shapes.update({str(row["class"]): int(row["count"]) for row in entry["rows"]})
        size = entry.get("size") or {}
        for name, total in sums.items():
            if found := size.get(name):
                n, mean = float(size["n"]), float(found["mean"])
                spread = mean * float(found["cv_percent"]) / 100
                for i, value in enumerate((n, n * mean, n * (spread * spread + mean * mean))):
                    total[i] += value
    n_judged = sum(shapes.values())
    if not n_judged:
        return {}
    out: dict[str, float] = {"n": float(n_judged)}
    out |= {f"share_{name}": count / n_judged for name, count in sorted(shapes.items())}
    for name, (n_sized, first, second) in sums.items():
        if n_sized:
            mean = first / n_sized
            out[name] = mean
            out[f"{name}_cv"] = math.sqrt(max(0.0, second / n_sized - mean * mean)) / mean
    return out
