"""Masks grown, cleaned and filled by sizes. Pure functions on arrays."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]


def px(length_um: float, mpp: float) -> int:
    """Return a length in whole pixels, at least 1."""
    return max(1, round(length_um / mpp))


def morphology(mask: Mask, operation: int, radius: int) -> Mask:
    """Apply a morphological operation with a disc."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Without padding, closing would erode what touches the picture's edge.
    padded = np.pad(mask, radius, mode="edge").astype(np.uint8)
    done = cv2.morphologyEx(padded, operation, kernel)
    return done[radius:-radius, radius:-radius].astype(bool)


def opened(mask: Mask, radius_px: float) -> Mask:
    """Remove what is narrower than a disc; what lies outside the picture counts as more of the same."""
    return morphology(mask, cv2.MORPH_OPEN, max(1, round(radius_px)))


def closed(mask: Mask, radius_px: float) -> Mask:
    """Fill what a disc does not fit into."""
    return morphology(mask, cv2.MORPH_CLOSE, max(1, round(radius_px)))


def grow(mask: Mask, radius_px: float) -> Mask:
    """Grow a mask by a disc."""
    radius = max(1, round(radius_px))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def large(mask: Mask, min_px: float) -> Mask:
    """Keep 8-connected pieces of at least ``min_px`` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return mask
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return keep[labels]


def fill_holes(mask: Mask, max_px: float, *, at_edge: bool = False) -> Mask:
    """Fill background that is enclosed and no larger than ``max_px``.

    What touches the picture's edge is no hole, unless ``at_edge`` says so.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    x, y = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    inside = (x > 0) & (y > 0) & (x + stats[:, cv2.CC_STAT_WIDTH] < width) & (y + stats[:, cv2.CC_STAT_HEIGHT] < height)
    hole = (inside | at_edge) & (stats[:, cv2.CC_STAT_AREA] <= max_px)
    hole[0] = False
    return mask | hole[labels] if count > 1 else mask
