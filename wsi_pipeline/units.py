"""Units, pixel boxes and the one transform between pixel frames.

Frames
------
level-0 pixels (``_px0``)
    Floats, x right, y down, origin as OpenSlide's. Pixel ``i`` covers ``[i, i + 1)``.
working pixels
    The grid at a chosen microns-per-pixel, anchored at the level-0 origin.
QuPath pixels
    Level 0 minus ``openslide.bounds-x/y``.

Only :class:`FrameTransform` converts between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Box:
    """Half-open box of whole pixels, ``[x0, x1) x [y0, y1)``; may reach outside the slide.

    Examples
    --------
    >>> box = Box(x0=100, y0=50, x1=300, y1=150)
    >>> box.width, box.height
    (200, 100)
    >>> box.grow(10).clip(Box(x0=0, y0=0, x1=200, y1=200))
    Box(x0=90, y0=40, x1=200, y1=160)
    """

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def grow(self, by: int) -> Box:
        """Return the box enlarged by ``by`` pixels on every side."""
        return Box(x0=self.x0 - by, y0=self.y0 - by, x1=self.x1 + by, y1=self.y1 + by)

    def clip(self, other: Box) -> Box:
        """Return the intersection with ``other``; empty when they do not meet."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0=x0, y0=y0, x1=max(x0, min(self.x1, other.x1)), y1=max(y0, min(self.y1, other.y1)))

    def intersects(self, other: Box) -> bool:
        return not self.clip(other).is_empty


@dataclass(frozen=True, kw_only=True)
class FrameTransform:
    """Axis-aligned map from a pixel frame to level-0 pixels: ``px0 = xy * scale + offset``.

    Parameters
    ----------
    scale_x, scale_y
        Level-0 pixels per pixel of this frame.
    offset_x, offset_y
        Level-0 position of this frame's origin.

    Examples
    --------
    Working pixels of 0.5 um on a slide of 0.25 um per pixel:

    >>> frame = FrameTransform(scale_x=2.0, scale_y=2.0)
    >>> frame.to_px0([10, 20]).tolist(), frame.from_px0([20, 40]).tolist()
    ([20.0, 40.0], [10.0, 20.0])
    """

    scale_x: float
    scale_y: float
    offset_x: float = 0.0
    offset_y: float = 0.0

    def to_px0(self, xy: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 2)`` x, y coordinates of this frame to level-0 pixels."""
        return np.asarray(xy, dtype=np.float64) * (self.scale_x, self.scale_y) + (self.offset_x, self.offset_y)

    def from_px0(self, xy: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 2)`` level-0 coordinates to this frame."""
        return (np.asarray(xy, dtype=np.float64) - (self.offset_x, self.offset_y)) / (self.scale_x, self.scale_y)

    def box_from_px0(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Return the smallest whole-pixel box of this frame that covers a level-0 rectangle."""
        (a, b), (c, d) = self.from_px0([(x0, y0), (x1, y1)])
        return Box(x0=math.floor(a), y0=math.floor(b), x1=math.ceil(c), y1=math.ceil(d))

    def box_to_px0(self, box: Box) -> Box:
        """Return the smallest box of whole level-0 pixels that covers a box of this frame."""
        (a, b), (c, d) = self.to_px0([(box.x0, box.y0), (box.x1, box.y1)])
        return Box(x0=math.floor(a), y0=math.floor(b), x1=math.ceil(c), y1=math.ceil(d))
