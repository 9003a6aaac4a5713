"""The differentials of a run side by side: slides by classes, alike slides next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage

from wsi_pipeline.exports.report.charts import ClassStyle, Styles

AS_TABLE = 150
"""Up to so many slides the map is a table with numbers in it; more are drawn."""
_MOST_SORTED = 1000
_LEVELS = (0.5, 5.0, 20.0, 40.0, 70.0)
"""Percent from which a cell takes the next darker tint."""


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """A percentage, None where the slide has no such class, and its tint from 0 to 5."""

    percent: float | None
    level: int


@dataclass(frozen=True, kw_only=True)
class HeatRow:
    """A slide; ``href`` leads to its report."""

    name: str
    href: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Slides by classes.

    Parameters
    ----------
    classes
        In the order of a differential; classes that no slide has are left out.
    rows
        Ordered so that alike slides stand together.
    """

    classes: tuple[ClassStyle, ...]
    rows: tuple[HeatRow, ...]

    @property
    def as_table(self) -> bool:
        return len(self.rows) <= AS_TABLE

    @property
    def paths(self) -> list[tuple[int, str]]:
        """Return an SVG path of unit squares for each tint."""
        found: dict[int, list[str]] = {}
        for y, row in enumerate(self.rows):
            for x, cell in enumerate(row.cells):
                if cell.level:
                    found.setdefault(cell.level, []).append(f"M{x} {y}h1v1h-1z")
        return [(level, "".join(parts)) for level, parts in sorted(found.items())]


def heat_map(shares: Mapping[str, Sequence[tuple[str, float]]], hrefs: Mapping[str, str], styles: Styles) -> HeatMap:
    """Return the map of slides that have a differential.

    Parameters
    ----------
    shares
        Class and percent of the denominator by slide, in the order of the run.
    hrefs
        Report of each slide; empty without one.

    Notes
    -----
    Slides are ordered by average linkage of the Hellinger distance between their differentials, up to 1,000; more keep
    the order of the run.
    """
    slides = [name for name, rows in shares.items() if rows]
    known = {name: dict(shares[name]) for name in slides}
    codes = sorted({code for row in known.values() for code, share in row.items() if share > 0}, key=styles.position)
    table = np.array([[known[name].get(code, 0.0) for code in codes] for name in slides], np.float64)
    order = _order(table.reshape(len(slides), len(codes)))
    return HeatMap(
        classes=tuple(styles[code] for code in codes),
        rows=tuple(
            HeatRow(
                name=slides[i],
                href=hrefs.get(slides[i], ""),
                cells=tuple(_cell(known[slides[i]].get(code)) for code in codes),
            )
            for i in order
        ),
    )


def _cell(percent: float | None) -> HeatCell:
    return HeatCell(percent=percent, level=0 if percent is None else sum(percent >= limit for limit in _LEVELS))


def _order(table: npt.NDArray[np.float64]) -> list[int]:
    n = len(table)
    if not 2 < n <= _MOST_SORTED or not table.shape[1]:
        return list(range(n))
    root = np.sqrt(np.maximum(table, 0.0) / 100)
    tree = linkage(root, method="average")
    order = [int(i) for i in leaves_list(tree)]
    # Of the two directions the one that begins nearer to the run's own beginning.
    return order if order[0] <= order[-1] else order[::-1]
