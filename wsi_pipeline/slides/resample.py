"""The one resampler: separable triangle filter, exact in integers, indexed by the global output pixel.

Output pixel ``u`` has its centre at ``(u + 0.5) * ratio - 0.5`` in level pixels, where ``ratio`` is level pixels per
output pixel. Its weights are a triangle of half-width ``max(ratio, 1)``: antialiased when shrinking, linear
interpolation when enlarging. They are computed in float64 from ``u`` alone and rounded to integers that sum to
2**14, so every sum is exact: no order of summation, chunk grid, thread or machine can change a pixel.
Pixels outside the level count as white.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.slides.backends.base import RgbArray
from wsi_pipeline.slides.lattice import ChunkReader
from wsi_pipeline.units import Box

_WEIGHT_BITS = 14
_PANEL_PX = 1024
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
    taps = int(np.floor(2 * support)) + 2
    index = first[:, None] + np.arange(taps)
    triangle = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / support)
    cumulative = np.cumsum(triangle, axis=1)
    # Rounding the running sum, not each weight, keeps the total exact and spreads the error.
    scaled = np.rint(cumulative / cumulative[:, -1:] * (1 << _WEIGHT_BITS)).astype(np.int32)
    return first, np.diff(scaled, axis=1, prepend=np.int32(0))


def render(reader: ChunkReader, *, level: int, box: Box, ratio_x: float, ratio_y: float) -> RgbArray:
    """Return the output pixels of ``box``, shape (box.height, box.width, 3), white outside the level.

    Memory beyond the result does not grow with the box: it is made in panels of at most 1024 x 1024 pixels.
    """
    out = np.full((box.height, box.width, 3), 255, dtype=np.uint8)
    copy = is_copy(ratio_x) and is_copy(ratio_y)
    for panel in _panels(box):
        view = out[panel.y0 - box.y0 : panel.y1 - box.y0, panel.x0 - box.x0 : panel.x1 - box.x0]
        if copy:
            for place, chunk in reader.chunks_over(level, panel):
                part = place.clip(panel)
                view[part.y0 - panel.y0 : part.y1 - panel.y0, part.x0 - panel.x0 : part.x1 - panel.x0] = chunk[
                    part.y0 - place.y0 : part.y1 - place.y0, part.x0 - place.x0 : part.x1 - place.x0
                ]
        else:
            _render_panel(reader, level=level, panel=panel, ratios=(ratio_x, ratio_y), out=view)
    return out


def _panels(box: Box) -> Iterator[Box]:
    for y in range(box.y0, box.y1, _PANEL_PX):
        for x in range(box.x0, box.x1, _PANEL_PX):
            yield Box(x0=x, y0=y, x1=min(x + _PANEL_PX, box.x1), y1=min(y + _PANEL_PX, box.y1))


def _render_panel(reader: ChunkReader, *, level: int, panel: Box, ratios: tuple[float, float], out: RgbArray) -> None:
    first_x, weights_x = axis_weights(panel.x0, panel.x1, ratios[0])
    first_y, weights_y = axis_weights(panel.y0, panel.y1, ratios[1])
    taps_x, taps_y = weights_x.shape[1], weights_y.shape[1]
    footprint = Box(x0=int(first_x[0]), y0=int(first_y[0]), x1=int(first_x[-1]) + taps_x, y1=int(first_y[-1]) + taps_y)
    sums = np.zeros(out.shape, dtype=np.int64)
    for place, chunk in reader.chunks_over(level, footprint):
        # Only output pixels with a tap in this chunk; ``first`` never decreases.
        x_from, x_to = np.searchsorted(first_x, (place.x0 - taps_x + 1, place.x1))
        y_from, y_to = np.searchsorted(first_y, (place.y0 - taps_y + 1, place.y1))
        if x_from < x_to and y_from < y_to:
            _accumulate(
                sums[y_from:y_to, x_from:x_to],
                chunk.reshape(chunk.shape[0], -1),
                first_y[y_from:y_to] - place.y0,
                weights_y[y_from:y_to],
                first_x[x_from:x_to] - place.x0,
                weights_x[x_from:x_to],
            )
    _finish(sums, out)


@numba.njit(nogil=True)
def _accumulate(  # type: ignore[no-untyped-def]  # numba takes no keywords
    sums, chunk, first_y, weights_y, first_x, weights_x
):
    """Add one chunk's share of the darkness (255 - pixel) to ``sums``; white and outside add nothing.

    ``chunk`` is (h, 3 w); ``first_*`` are relative to it. One row of vertical sums is made at a time, with zeros
    on both sides, so that the horizontal taps need no tests. Indices are unsigned to spare numba its checks for
    negative ones.
    """
    height, width = chunk.shape[0], chunk.shape[1]
    taps_y, taps_x = weights_y.shape[1], weights_x.shape[1]
    pad = 3 * taps_x
    row = np.zeros(width + 2 * pad, np.int32)
    inner = row[pad : pad + width]
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    for i in range(first_y.shape[0]):
        k0, k1 = max(0, first_y[i]), min(height, first_y[i] + taps_y)
        if k0 >= k1:
            continue
        inner[:] = 0
        for k in range(k0, k1):
            weight = weights_y[i, k - first_y[i]]
            if weight != 0:
                source = chunk[k]
                for j in range(width):
                    inner[j] += weight * np.int32(255 - source[j])
        for o in range(first_x.shape[0]):
            at = np.uintp(3 * first_x[o] + pad)
            red, green, blue = np.int64(0), np.int64(0), np.int64(0)
            for t in range(taps_x):
                weight = np.int64(weights_x[o, t])
                red += weight * row[at]
                green += weight * row[at + one]
                blue += weight * row[at + two]
                at += three
            sums[i, o, 0] += red
            sums[i, o, 1] += green
            sums[i, o, 2] += blue


@numba.njit(nogil=True)
def _finish(sums, out):  # type: ignore[no-untyped-def]
    bits = 2 * _WEIGHT_BITS
    half = np.int64(1) << (bits - 1)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            for c in range(3):
                out[i, j, c] = 255 - ((sums[i, j, c] + half) >> bits)
