"""Geometry of line charts; the template draws them as inline SVG, told apart by dashes as well as by colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38

# Okabe, Ito (2008), "Color universal design": told apart by the colour-blind, readable on white and on black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4")

REFERENCE = "#808080"
"""Colour of baselines and of lines that only help the eye."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: points ``(x, y)`` in data units; ``reference`` draws it thin and grey."""

    name: str
    points: Sequence[tuple[float, float]]
    reference: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    """Interval as ``(x, lower, upper)``, drawn pale behind the line."""


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A drawn line: SVG path, colour, dashes, and the pale area behind it (empty without one)."""

    name: str
    path: str
    area: str
    colour: str
    dash: str
    width: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart; ticks as (position, label)."""

    title: str
    x_label: str
    y_label: str
    strokes: tuple[Stroke, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
    percent: bool = False,
) -> Chart:
    """Lay out lines in one frame; what lies outside the ranges is cut at their ends.

    Parameters
    ----------
    percent
        Whether the ticks are written in percent.
    """

    def x_at(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * _within(value, x_range), 2)

    def y_at(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _within(value, y_range), 2)

    strokes, number = [], 0
    for line in lines:
        colour, dash, width = REFERENCE, "3 3", 1.2
        if not line.reference:
            colour, dash, width = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)], 2.0
            number += 1
        upper = [f"{x_at(x)} {y_at(high)}" for x, _, high in line.band]
        lower = [f"{x_at(x)} {y_at(low)}" for x, low, _ in reversed(line.band)]
        strokes.append(
            Stroke(
                name=line.name,
                path="M" + "L".join(f"{x_at(x)} {y_at(y)}" for x, y in line.points) if line.points else "",
                area="M" + "L".join(upper + lower) + "Z" if line.band else "",
                colour=colour,
                dash=dash,
                width=width,
            )
        )

    def label(value: float) -> str:
        return f"{100 * value:.0f}" if percent else f"{value:.3g}"

    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        strokes=tuple(strokes),
        x_ticks=tuple((x_at(v), label(v)) for v in _ticks(x_range)),
        y_ticks=tuple((y_at(v), label(v)) for v in _ticks(y_range)),
    )


def _within(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _ticks(limits: tuple[float, float]) -> list[float]:
    low, high = limits
    return [round(low + (high - low) * i / 5, 6) for i in range(6)]
