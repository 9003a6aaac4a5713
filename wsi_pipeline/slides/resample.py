"""The one resampler: separable triangle filter, exact in integers, indexed by the global output pixel.

Output pixel ``u`` has its centre at ``(u + 0.5) * ratio - 0.5`` in level pixels, where ``ratio`` is level pixels per
output pixel. Its weights are a triangle of half-width ``max(ratio, 1)``: antialiased when shrinking, linear
interpolation when enlarging. They are computed in float64 from ``u`` alone and rounded to integers that sum to
2**14; the sum down a column is rounded to 1/128 grey level and the sum along the row to a whole one. All of it is
integer arithmetic on the pixels under one output pixel: no box, chunk grid, thread or machine can change its value.
Pixels outside the level count as white.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.slides.backends.base import RgbArray
from wsi_pipeline.slides.lattice import ChunkReader
from wsi_pipeline.units import Box

_WEIGHT_BITS = 14
_DROPPED_BITS = 7
# Wide and low: a panel's level pixels stay in the processor's cache between being gathered and filtered.
_PANEL_PX = (1024, 256)
# Ratios this close to 1 are rounding of the same mpp; over 100,000 px they move a pixel by 0.01.
_SAME_RATIO = 1e-7


def is_copy(ratio: float) -> bool:
    """Tell whether output pixels are level pixels."""
    return abs(ratio - 1) < _SAME_RATIO


def axis_weights(start: int, stop: int, ratio: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the taps of output pixels ``start`` to ``stop - 1`` along one axis.

    Parameters
    ----------
    start, stop
        Global output pixel indices; may be negative.
    ratio
        Level pixels per output pixel.

    Returns
    -------
    first
        Shape (n,): level index of each pixel's first tap.
    weights
        Shape (n, taps): integers, each row sums to 2**14.
    """
    support = max(ratio, 1.0)
    centre = (np.arange(start, stop, dtype=np.float64) + 0.5) * ratio - 0.5
    first = np.ceil(centre - support).astype(np.int64)
    taps = int(np.floor(2 * support)) + 1
    index = first[:, None] + np.arange(taps)
    triangle = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / support)
    cumulative = np.cumsum(triangle, axis=1)
    # Rounding the running sum, not each weight, keeps the total exact and spreads the error.
    scaled = np.rint(cumulative / cumulative[:, -1:] * (1 << _WEIGHT_BITS)).astype(np.int32)
    return first, np.diff(scaled, axis=1, prepend=np.int32(0))


def render(reader: ChunkReader, *, level: int, box: Box, ratio_x: float, ratio_y: float, overlap: int = 0) -> RgbArray:
    """Return the output pixels of ``box``, shape (box.height, box.width, 3), white outside the level.

    ``overlap`` is how far later boxes are expected to reach into this one, output pixels: chunks there are kept.

    Memory beyond the result does not grow with the box: it is made in panels of at most 1024 x 256 pixels.
    """
    inner = None
    if overlap:
        inner = Box(
            x0=math.ceil((box.x0 + overlap) * ratio_x), y0=math.ceil((box.y0 + overlap) * ratio_y),
            x1=math.floor((box.x1 - overlap) * ratio_x), y1=math.floor((box.y1 - overlap) * ratio_y),
        )  # fmt: skip
    if is_copy(ratio_x) and is_copy(ratio_y):
        return _gather(reader, level, box, inner)
    out = np.empty((box.height, box.width, 3), dtype=np.uint8)
    for panel in _panels(box):
        view = out[panel.y0 - box.y0 : panel.y1 - box.y0, panel.x0 - box.x0 : panel.x1 - box.x0]
        _render_panel(reader, level=level, panel=panel, ratios=(ratio_x, ratio_y), inner=inner, out=view)
    return out


def _gather(reader: ChunkReader, level: int, box: Box, inner: Box | None) -> RgbArray:
    """Return the level's own pixels of ``box``, white outside."""
    width, height = reader.level_sizes[level]
    inside = box.clip(Box(x0=0, y0=0, x1=width, y1=height)) == box
    shape = (box.height, box.width, 3)
    out = np.empty(shape, np.uint8) if inside else np.full(shape, 255, np.uint8)
    left, top = box.x0, box.y0
    for place, chunk in reader.chunks_over(level, box, inner):
        x0, y0, x1, y1 = max(place.x0, left), max(place.y0, top), min(place.x1, box.x1), min(place.y1, box.y1)
        out[y0 - top : y1 - top, x0 - left : x1 - left] = chunk[
            y0 - place.y0 : y1 - place.y0, x0 - place.x0 : x1 - place.x0
        ]
        del chunk
    return out


def _panels(box: Box) -> Iterator[Box]:
    for y in range(box.y0, box.y1, _PANEL_PX[1]):
        for x in range(box.x0, box.x1, _PANEL_PX[0]):
            yield Box(x0=x, y0=y, x1=min(x + _PANEL_PX[0], box.x1), y1=min(y + _PANEL_PX[1], box.y1))


def _render_panel(
    reader: ChunkReader, *, level: int, panel: Box, ratios: tuple[float, float], inner: Box | None, out: RgbArray
) -> None:
    first_x, weights_x = _without_idle_taps(*axis_weights(panel.x0, panel.x1, ratios[0]))
    first_y, weights_y = _without_idle_taps(*axis_weights(panel.y0, panel.y1, ratios[1]))
    taps_x, taps_y = weights_x.shape[1], weights_y.shape[1]
    footprint = Box(x0=int(first_x[0]), y0=int(first_y[0]), x1=int(first_x[-1]) + taps_x, y1=int(first_y[-1]) + taps_y)
    pixels = _gather(reader, level, footprint, inner)
    _filter(pixels.reshape(pixels.shape[0], -1), first_y - first_y[0], weights_y, first_x - first_x[0], weights_x, out)


def _without_idle_taps(
    first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Drop the last taps where no pixel gives them weight, as with a ratio of 2."""
    used = int(np.flatnonzero(weights.any(axis=0))[-1]) + 1
    return first, np.ascontiguousarray(weights[:, :used])


@numba.njit(nogil=True)
def _filter(  # type: ignore[no-untyped-def]  # numba takes no keywords
    pixels, first_y, weights_y, first_x, weights_x, out
):
    """Fill ``out`` (n, m, 3) from ``pixels`` (h, 3 w): down the columns, rounded to 15 bits, then along the rows.

    Every sum fits 32 bits: 255 x 2**14 / 2**7 x 2**14 < 2**30. Four taps at a time go down the columns, which the
    compiler turns into vector instructions. Indices are unsigned to spare numba its checks for negative ones.
    """
    width = pixels.shape[1]
    taps_y, taps_x = weights_y.shape[1], weights_x.shape[1]
    row = np.empty(width, np.int32)
    half_y, half_x = np.int32(1 << (_DROPPED_BITS - 1)), np.int32(1 << (2 * _WEIGHT_BITS - _DROPPED_BITS - 1))
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    for i in range(first_y.shape[0]):
        top, weights = first_y[i], weights_y[i]
        row[:] = half_y
        tap = 0
        while tap + 4 <= taps_y:
            a, b, c, d = pixels[top + tap], pixels[top + tap + 1], pixels[top + tap + 2], pixels[top + tap + 3]
            wa, wb, wc, wd = weights[tap], weights[tap + 1], weights[tap + 2], weights[tap + 3]
            for j in range(width):
                row[j] += wa * np.int32(a[j]) + wb * np.int32(b[j]) + wc * np.int32(c[j]) + wd * np.int32(d[j])
            tap += 4
        while tap < taps_y:
            a, wa = pixels[top + tap], weights[tap]
            for j in range(width):
                row[j] += wa * np.int32(a[j])
            tap += 1
        for j in range(width):
            row[j] >>= _DROPPED_BITS
        for o in range(first_x.shape[0]):
            at = np.uintp(3 * first_x[o])
            red, green, blue = half_x, half_x, half_x
            for t in range(taps_x):
                weight = weights_x[o, t]
                red += weight * row[at]
                green += weight * row[at + one]
                blue += weight * row[at + two]
                at += three
            out[i, o, 0] = red >> (2 * _WEIGHT_BITS - _DROPPED_BITS)
            out[i, o, 1] = green >> (2 * _WEIGHT_BITS - _DROPPED_BITS)
            out[i, o, 2] = blue >> (2 * _WEIGHT_BITS - _DROPPED_BITS)
