"""How good the slides of a run are, by scanner and by batch: one that differs from the others shows here first."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.exports.report.summary import SlideSummary

UNKNOWN = "not known"
_GROUPS = 30
_POINTS = 200
_MEASURES = (
    ("mean cell probability", "Mean cell probability"),
    ("mean flow error", "Mean flow error"),
    ("truncated share", "Share of cut cells"),
)
_DENSITY = "Cells per mm\u00b2"
MEASURES = (*(title for _, title in _MEASURES), _DENSITY)
"""What is compared, in words; translated where shown."""


@dataclass(frozen=True, kw_only=True)
class SlideQuality:
    """What is compared of one slide; values are None where the slide has none."""

    slide_id: str
    status: str
    scanner: str
    batch: str
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Box:
    """The slides of a group under one measure; positions in percent of the chart's width.

    Box and whiskers are as Tukey (1977) has them: quartiles, and the farthest slide within 1.5 interquartile ranges.
    """

    n: int
    median: float
    low: float
    first: float
    middle: float
    third: float
    high: float
    points: tuple[tuple[float, str], ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The slides of a scanner or batch: how they ended, and a box a measure (None where no slide has a value)."""

    name: str
    n: int
    failed: int
    empty: int
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True, kw_only=True)
class QualityPlot:
    """Groups under each other, the largest first; ``scales`` are the ends of each measure's axis."""

    title: str
    measures: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    groups: tuple[Group, ...]
    left_out: int


def quality_of(slide_id: str, summary: SlideSummary) -> SlideQuality:
    """Return what is compared of a slide."""
    values = {title: _finite(summary.quality.get(key)) for key, title in _MEASURES}
    area = summary.area_mm2
    values[_DENSITY] = summary.n_cells / area if area else None
    scanner = summary.provenance.get("scanner")
    return SlideQuality(
        slide_id=slide_id,
        status=summary.status,
        scanner=str(scanner) if scanner else UNKNOWN,
        batch=summary.batch or UNKNOWN,
        values=values,
    )


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def quality_plots(slides: Sequence[SlideQuality]) -> tuple[QualityPlot, ...]:
    """Return a plot by scanner and one by batch; one of which nothing is known is left out."""
    return tuple(
        _plot(title, slides, [getattr(slide, key) for slide in slides])
        for title, key in (("scanner", "scanner"), ("batch", "batch"))
        if any(getattr(slide, key) != UNKNOWN for slide in slides)
    )


def _plot(title: str, slides: Sequence[SlideQuality], names: Sequence[str]) -> QualityPlot:
    groups: dict[str, list[SlideQuality]] = defaultdict(list)
    for name, slide in zip(names, slides, strict=True):
        groups[name].append(slide)
    ordered = sorted(groups.items(), key=lambda item: (item[0] == UNKNOWN, -len(item[1]), item[0]))
    measures = tuple(m for m in MEASURES if any(_values(slides, m)))
    scales = tuple(_scale([value for value, _ in _values(slides, measure)]) for measure in measures)
    return QualityPlot(
        title=title,
        measures=measures,
        scales=scales,
        groups=tuple(
            Group(
                name=name,
                n=len(members),
                failed=sum(slide.status == "failed" for slide in members),
                empty=sum(slide.status == "empty" for slide in members),
                boxes=tuple(
                    _box(_values(members, measure), scale) for measure, scale in zip(measures, scales, strict=True)
                ),
            )
            for name, members in ordered[:_GROUPS]
        ),
        left_out=max(0, len(ordered) - _GROUPS),
    )


def _values(slides: Iterable[SlideQuality], measure: str) -> list[tuple[float, str]]:
    found = ((slide.values.get(measure), slide.slide_id) for slide in slides)
    return [(value, name) for value, name in found if value is not None]


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _box(values: Sequence[tuple[float, str]], scale: tuple[float, float]) -> Box | None:
    if not values:
        return None
    numbers = np.array([value for value, _ in values])
    first, middle, third = np.percentile(numbers, (25, 50, 75))
    reach = 1.5 * (third - first)
    inside = numbers[(numbers >= first - reach) & (numbers <= third + reach)]

    def at(value: float) -> float:
        return round(float(100 * (value - scale[0]) / (scale[1] - scale[0])), 2)

    far = [(value, name) for value, name in values if not first - reach <= value <= third + reach]
    shown = values if len(values) <= _POINTS else far[:_POINTS]
    return Box(
        n=len(values),
        median=float(middle),
        low=at(float(inside.min())),
        first=at(float(first)),
        middle=at(float(middle)),
        third=at(float(third)),
        high=at(float(inside.max())),
        points=tuple((at(value), name) for value, name in shown),
    )


def count_reasons(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Return status, reason and number of slides of every pair of status and reason but ``ok``, the most first."""
    counted = Counter((status, reason) for status, reason in pairs if status != "ok")
    return [(*pair, n) for pair, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]
