"""Cells that touch are cut free where the picture shows their border, and left out where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from wsi_pipeline.simulation.separate import free_from_red_cells, of_marrow

MPP = 0.198
RED, PALE, PURPLE = (205, 165, 175), (190, 165, 205), (70, 40, 130)
_Disc = tuple[float, float, float, tuple[int, int, int]]


def _picture(*discs: _Disc, side: int = 180) -> np.ndarray:
    rng = np.random.default_rng(1)
    image = np.tile(np.array((240, 230, 210), float), (side, side, 1)) + rng.normal(0, 1.0, (side, side, 3))
    yy, xx = np.mgrid[:side, :side] + 0.5
    for x, y, radius, colour in discs:
        image[np.hypot(xx - x, yy - y) < radius] = colour
    return np.clip(ndimage.gaussian_filter(image, (0.6, 0.6, 0)), 0, 255).astype(np.uint8)


def _iou(mask: np.ndarray, x: float, y: float, radius: float) -> float:
    yy, xx = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    disc = np.hypot(xx - x, yy - y) < radius
    return float((mask & disc).sum() / (mask | disc).sum())


@pytest.mark.parametrize("angle", [0.3, 1.9, 4.0])
def test_a_white_cell_is_cut_free_of_a_red_cell(angle: float) -> None:
    red = (90 + 53 * math.cos(angle), 90 + 53 * math.sin(angle), 18, RED)
    mask = free_from_red_cells(_picture(red, (90, 90, 36, PALE), (88, 92, 22, PURPLE)), MPP)
    assert mask is not None
    assert _iou(mask, 90, 90, 36) > 0.95


def test_a_cell_buried_among_red_cells_is_left_out() -> None:
    ring = [(90 + 46 * math.cos(a), 90 + 46 * math.sin(a), 20, RED) for a in np.arange(0, 2 * math.pi, 0.7)]
    assert free_from_red_cells(_picture((90, 90, 36, PALE), *ring, (90, 90, 20, PURPLE)), MPP) is None


def test_a_cell_at_the_border_or_none_at_all_is_left_out() -> None:
    assert free_from_red_cells(_picture((90, 90, 18, RED)), MPP) is None
    assert free_from_red_cells(_picture((45, 90, 50, PALE), (82, 90, 12, PURPLE)), MPP) is None


def test_a_granular_marrow_cell_keeps_its_cytoplasm() -> None:
    rng = np.random.default_rng(2)
    granules = [
        (125 + 70 * r * math.cos(a), 125 + 70 * r * math.sin(a), 2.5, PURPLE)
        for a, r in zip(rng.uniform(0, 2 * math.pi, 300), rng.uniform(0, 0.95, 300), strict=True)
    ]
    picture = _picture((125, 125, 76, (165, 150, 200)), *granules, (125, 120, 45, PURPLE), side=250)
    mask = of_marrow(picture, 0.095)
    assert mask is not None
    assert _iou(mask, 125, 125, 76) > 0.93
    assert of_marrow(_picture((40, 40, 20, PURPLE), side=250), 0.095) is None
