"""The slide's vector of types and attributes: how many cells of a class have an attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.taxonomies.attributes import COLUMN

ATTRIBUTE_COLUMNS = ("slide_id", "class", "attribute", "count", "n", "percent", "lower", "upper")
PRESENT = 0.5
"""Probability from which an attribute counts as present."""


@dataclass(frozen=True, kw_only=True)
class AttributeRate:
    """Cells of a class with an attribute; percentages 0 to 100 with the Wilson interval, None without a cell."""

    class_name: str
    attribute: str
    count: int
    n: int
    percent: float | None
    lower: float | None
    upper: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return an entry of ``summary.json``."""
        return {"class" if key == "class_name" else key: value for key, value in vars(self).items()}


def attribute_counts(cells: Path, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return for each class and attribute the white cells that have it, and those that were asked.

    Parameters
    ----------
    cells
        ``cells.parquet``. Cells that an edge cuts are not counted: part of them was not seen.
    pairs
        Class and attribute.
    """
    found = dict.fromkeys(pairs, (0, 0))
    names = sorted({attribute for _, attribute in pairs})
    with pq.ParquetFile(cells) as source:
        for group in range(source.num_row_groups):
            band = source.read_row_group(
                group, columns=["kind", "class_name", "truncated", *(f"{COLUMN}{name}" for name in names)]
            )
            white = pa.compute.equal(band.column("kind"), "white").to_numpy() & ~band.column("truncated").to_numpy()
            classes = band.column("class_name").to_numpy(zero_copy_only=False)
            values = {name: band.column(f"{COLUMN}{name}").to_numpy() for name in names}
            for own, attribute in pairs:
                p = values[attribute][white & (classes == own)]
                p = p[np.isfinite(p)]
                k, n = found[own, attribute]
                found[own, attribute] = (k + int((p >= PRESENT).sum()), n + len(p))
    return found


def attribute_rates(counts: Mapping[tuple[str, str], tuple[int, int]], confidence: float) -> tuple[AttributeRate, ...]:
    """Return the vector, in the order of the counts.

    Parameters
    ----------
    counts
        By class and attribute: cells with it, and cells of the class.
    """
    rates = []
    for (own, attribute), (k, n) in counts.items():
        low, high = wilson(k, n, confidence)
        rates.append(
            AttributeRate(
                class_name=own,
                attribute=attribute,
                count=k,
                n=n,
                percent=100 * k / n if n else None,
                lower=100 * low if n else None,
                upper=100 * high if n else None,
            )
        )
    return tuple(rates)


def attributes_csv(rates: Sequence[AttributeRate], slide_id: str) -> str:
    """Return ``attributes.csv``."""
    rows: list[list[object]] = []
    for rate in rates:
        shares = ["" if v is None else f"{v:.4f}" for v in (rate.percent, rate.lower, rate.upper)]
        rows.append([slide_id, rate.class_name, rate.attribute, rate.count, rate.n, *shares])
    return csv_text(ATTRIBUTE_COLUMNS, rows)
