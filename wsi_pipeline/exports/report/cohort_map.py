"""The map of a cohort of trephines as inline SVG: reference samples, contours of each class, the sample's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.sentences import say

WIDTH, HEIGHT = 460, 380
LEFT, RIGHT, TOP, BOTTOM = 20, 14, 12, 34
# Okabe, Ito (2008): told apart by the colour-blind. Classes also differ in the shape of their marks.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARK = 3.6
_MARGIN = 0.06
_LONGEST = 76
"""Characters of a line."""


def cohort_map_svg(drawing: Mapping[str, Any], words: Words | None = None) -> Markup:
    """Return the map as SVG that stands in a page; every text in it is escaped.

    Parameters
    ----------
    drawing
        ``cohort_map.json`` of a slide, or what
        :meth:`~wsi_pipeline.predictions.trephines.cohort_map.CohortMap.drawing` returns.
    words
        What the texts are written in; None is English. Names of classes and features stay as they are.
    """
    words = words or Words()
    own = _Frame.of(drawing)
    codes = [entry["code"] for entry in drawing["classes"]]
    names = {entry["code"]: str(entry["name"]) for entry in drawing["classes"]}
    sample = drawing.get("sample")
    title = (
        say("map of the reference cohort") if sample is None else say("map of the reference cohort with this sample")
    )
    title = say("Simulated: {said}", said=title) if drawing.get("simulated") else say("{what!c}", what=title)
    parts = [
        f'<svg class="cohort-map" role="img" viewBox="0 0 {WIDTH} {HEIGHT + 18 * len(codes) + 60}" '
        'xmlns="http://www.w3.org/2000/svg" style="max-width:100%;height:auto;font:12px sans-serif">',
        f"<title>{escape(words.sentence(title))}</title>",
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" '
        'fill="none" stroke="currentColor" stroke-opacity="0.35"/>',
    ]
    for contour in drawing["contours"]:
        colour, dash = _colour(codes, contour["class"]), "" if contour["share"] < 0.7 else ' stroke-dasharray="5 3"'
        for path in contour["paths"]:
            line = " ".join(f"{'M' if i == 0 else 'L'}{own.x(x):.1f} {own.y(y):.1f}" for i, (x, y) in enumerate(path))
            parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="1.4"{dash}/>')
    parts += [_mark(codes, s["class"], own.x(s["x"]), own.y(s["y"])) for s in drawing["samples"]]
    if sample is not None:
        parts.append(_star(own.x(sample["x"]), own.y(sample["y"])))
    parts += _axes(drawing, words)
    parts += _legend(drawing, codes, names, words)
    parts.append("</svg>")
    return Markup("".join(parts))  # every text is escaped above and below


class _Frame:
    """From map units to the picture's."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self._x0, self._dx = _range(xs)
        self._y0, self._dy = _range(ys)

    @classmethod
    def of(cls, drawing: Mapping[str, Any]) -> _Frame:
        points = [(s["x"], s["y"]) for s in drawing["samples"]]
        points += [(x, y) for contour in drawing["contours"] for path in contour["paths"] for x, y in path]
        if drawing.get("sample") is not None:
            points.append((drawing["sample"]["x"], drawing["sample"]["y"]))
        return cls([float(p[0]) for p in points], [float(p[1]) for p in points])

    def x(self, value: float) -> float:
        return LEFT + (value - self._x0) / self._dx * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self._y0) / self._dy * (HEIGHT - TOP - BOTTOM)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    width = max(high - low, 1e-9)
    return low - _MARGIN * width, (1 + 2 * _MARGIN) * width


def _colour(codes: Sequence[str], code: str) -> str:
    return _COLOURS[codes.index(code) % len(_COLOURS)]


def _mark(codes: Sequence[str], code: str, x: float, y: float) -> str:
    """Return the mark of a class: disc, square, triangle, diamond in turn."""
    colour, r = _colour(codes, code), _MARK
    shape = codes.index(code) % 4
    style = f'fill="{colour}" fill-opacity="0.75"'
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}/>'
    corners = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -r - 1), (r + 0.6, r), (-r - 0.6, r)),
        3: ((0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)),
    }[shape]
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners)}" {style}/>'


def _star(x: float, y: float) -> str:
    arms = ((-9, 0, 9, 0), (0, -9, 0, 9), (-6.4, -6.4, 6.4, 6.4), (-6.4, 6.4, 6.4, -6.4))
    lines = "".join(f"M{x + a:.1f} {y + b:.1f}L{x + c:.1f} {y + d:.1f}" for a, b, c, d in arms)
    return (
        f'<path d="{lines}" stroke="#ffffff" stroke-width="5" stroke-linecap="round"/>'
        f'<path d="{lines}" stroke="#000000" stroke-width="2.2" stroke-linecap="round"/>'
    )


def _axes(drawing: Mapping[str, Any], words: Words) -> list[str]:
    said = [
        words.sentence(say("Component {number} ({percent:.0f} %)", number=i + 1, percent=100 * axis["explained"]))
        for i, axis in enumerate(drawing["axes"])
    ] or ["UMAP 1", "UMAP 2"]
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    return [
        f'<text x="{LEFT}" y="{HEIGHT - BOTTOM + 18}" fill="currentColor">{escape(said[0])}</text>',
        f'<text x="{LEFT - 6}" y="{middle}" fill="currentColor" text-anchor="middle" '
        f'transform="rotate(-90 {LEFT - 6} {middle})">{escape(said[1])}</text>',
    ]


def _main(number: int, axis: Mapping[str, Any], words: Words) -> str:
    """Return what weighs most in a component, cut to the width of the picture."""
    features = ", ".join(str(name) for name, _ in axis["main"])
    text = words.sentence(say("Component {number}: {features}", number=number, features=features))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _legend(drawing: Mapping[str, Any], codes: Sequence[str], names: Mapping[str, str], words: Words) -> list[str]:
    found = []
    own = words.sentence(say("this sample"))
    for i, code in enumerate(codes):
        y = HEIGHT + 6 + 18 * i
        n = sum(s["class"] == code for s in drawing["samples"])
        found.append(_mark(codes, code, LEFT + 8, y - 4))
        found.append(f'<text x="{LEFT + 22}" y="{y}" fill="currentColor">{escape(names[code])} ({n})</text>')
    y = HEIGHT + 6 + 18 * len(codes)
    if drawing.get("sample") is not None:
        found.append(_star(LEFT + 8, y - 4))
        found.append(f'<text x="{LEFT + 22}" y="{y}" fill="currentColor">{escape(own)}</text>')
        y += 18
    for number, axis in enumerate(drawing["axes"], start=1):
        found.append(
            f'<text x="{LEFT}" y="{y}" fill="currentColor" font-size="11">{escape(_main(number, axis, words))}</text>'
        )
        y += 16
    if not drawing["axes"]:
        note = words.sentence(say("UMAP: neighbours are alike; how far groups lie apart means little."))
        found.append(f'<text x="{LEFT}" y="{y}" fill="currentColor" font-size="11">{escape(note)}</text>')
    return found
