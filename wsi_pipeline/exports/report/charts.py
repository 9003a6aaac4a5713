"""Geometry of the drawings; the templates turn it into inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_pipeline.config import Language
from wsi_pipeline.exports.report.summary import DiameterHistogram, DifferentialRow
from wsi_pipeline.exports.report.text import title

if TYPE_CHECKING:
    from wsi_pipeline.taxonomies import Taxonomy

UNKNOWN_COLOUR = "#808080"
_UNCLASSIFIED: dict[Language, str] = {"en": "Unclassified", "fr": "Non classé"}

# The order in which a differential is read at the microscope; other classes follow in their taxonomy's order.
_BENCH_ORDER = (
    "blast", "promyelocyte", "myelocyte", "metamyelocyte", "band_neutrophil", "segmented_neutrophil",
    "neutrophil", "eosinophil", "basophil", "monocyte", "lymphocyte", "erythroblast", "megakaryocyte",
    "nucleus",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClassStyle:
    """How a class is named and drawn."""

    code: str
    name: str
    colour: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


class Styles:
    """Names and colours of classes; a class that no taxonomy lists is grey."""

    def __init__(self, *taxonomies: Taxonomy, language: Language = "en") -> None:
        self._known: dict[str, ClassStyle] = {}
        self._unclassified = _UNCLASSIFIED[language]
        for taxonomy in taxonomies:
            for cell in taxonomy.classes:
                red, green, blue = (int(c) for c in cell.color)
                name = title(cell.name_en) if language == "en" else cell.name_fr[:1].upper() + cell.name_fr[1:]
                style = ClassStyle(code=cell.code, name=name, colour=f"#{red:02x}{green:02x}{blue:02x}")
                self._known.setdefault(cell.code, style)
        self._order = {code: i for i, code in enumerate(dict.fromkeys((*_BENCH_ORDER, *self._known)))}

    def __getitem__(self, code: str) -> ClassStyle:
        found = self._known.get(code)
        return found or ClassStyle(code=code, name=title(code) or self._unclassified, colour=UNKNOWN_COLOUR)

    def position(self, code: str) -> tuple[int, str]:
        """Key that sorts classes as a differential is read, then as the taxonomy has them, unknown ones last."""
        return self._order.get(code, len(self._order)), code


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of the differential; lengths in percent of the chart's width."""

    style: ClassStyle
    row: DifferentialRow
    length: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Bars on one scale, and its ticks as (position in percent of the width, label)."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]


def differential_chart(rows: Sequence[DifferentialRow], styles: Styles) -> BarChart:
    """Lay out the differential as bars with whiskers, on a scale that ends at a round number."""
    highest = max((row.upper or row.percent or 0.0 for row in rows if row.in_denominator), default=0.0)
    step = next(s for s in (1, 2, 5, 10, 20, 25) if s * 5 >= min(highest, 100) or s == 25)
    top = min(100.0, step * max(1, math.ceil(highest / step)))

    def at(value: float | None) -> float:
        return round(100 * min(max(value or 0.0, 0.0), top) / top, 2)

    bars = tuple(
        Bar(
            style=styles[row.name],
            row=row,
            length=None if row.percent is None else at(row.percent),
            low=at(row.lower),
            high=at(row.upper),
        )
        for row in sorted(rows, key=lambda row: (not row.in_denominator, styles.position(row.name)))
    )
    ticks = tuple((at(value), f"{value:g}") for value in range(0, int(top) + 1, step))
    return BarChart(bars=bars, ticks=ticks)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a stacked bar; start and length in percent of its width."""

    style: ClassStyle
    start: float
    length: float
    percent: float


def stacked(percents: Sequence[tuple[str, float]], styles: Styles) -> tuple[Segment, ...]:
    """Lay classes end to end in the order of the differential."""
    total = sum(max(value, 0.0) for _, value in percents)
    segments, start = [], 0.0
    for code, value in sorted(percents, key=lambda pair: styles.position(pair[0])):
        if value > 0 and total > 0:
            length = 100 * value / total
            segments.append(Segment(style=styles[code], start=round(start, 3), length=round(length, 3), percent=value))
            start += length
    return tuple(segments)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Columns as (start, width, height) in percent of the chart, and ticks as (position, label)."""

    columns: tuple[tuple[float, float, float], ...]
    ticks: tuple[tuple[float, str], ...]


def diameter_chart(found: DiameterHistogram) -> Histogram | None:
    """Lay out the diameters of red cells, from the first to the last bin that holds any; None without cells."""
    held = [i for i, n in enumerate(found.counts) if n]
    if not held:
        return None
    first, last = found.from_um + held[0] * found.step_um, found.from_um + (held[-1] + 1) * found.step_um
    low, high = math.floor(first), max(math.ceil(last), math.floor(first) + 1)
    most = max(found.counts)

    def at(um: float) -> float:
        return round(100 * (um - low) / (high - low), 3)

    columns = tuple(
        (at(found.from_um + i * found.step_um), round(100 * found.step_um / (high - low), 3), round(100 * n / most, 2))
        for i, n in enumerate(found.counts)
        if n
    )
    return Histogram(columns=columns, ticks=tuple((at(um), f"{um}") for um in range(low, high + 1)))
