"""Morphology of masks with discs, lengths in pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.masks import Mask


def _disc(radius_px: float) -> npt.NDArray[np.uint8]:
    radius = max(1, round(radius_px))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), dtype=np.uint8)


def opened(mask: Mask, radius_px: float) -> Mask:
    """Remove what is narrower than a disc; what lies outside the picture counts as more of the same."""
    radius = max(1, round(radius_px))
    padded = np.pad(mask, radius, mode="edge").astype(np.uint8)
    done = cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(radius_px))
    return np.asarray(done[radius:-radius, radius:-radius].astype(bool))


def closed(mask: Mask, radius_px: float) -> Mask:
    """Fill what a disc does not fit into."""
    return ~opened(~mask, radius_px)


def grown(mask: Mask, radius_px: float) -> Mask:
    """Dilate by a disc."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius_px)).astype(bool))


def large(mask: Mask, min_px: float) -> Mask:
    """Keep the pieces of at least ``min_px`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return np.asarray(keep[labels])


def filled(mask: Mask, max_px: float) -> Mask:
    """Fill holes of at most ``max_px`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= max_px
    small[0] = False
    return np.asarray(mask | small[labels])
