"""Smears for tests: virtual films, what their film truly is, and mosaics of real fields."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import shapely

from wsi_pipeline.regions import Regions
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.simulation.film import Film, Zones
from wsi_pipeline.slides import Slide

MPP = 0.5
SIZE = (3072, 2048)


def make_film(folder: Path, seed: int, *, profile: str = "normal", size: tuple[int, int] = SIZE, **options) -> Path:
    """Write a virtual film of 1.5 x 1 mm at 0.5 um per pixel."""
    path = folder / f"{profile}-{seed}.tiff"
    make_virtual_slide(path, profile=profile, size_px=size, seed=seed, mpp=MPP, film=True, **options)
    return path


def overlap_with_truth(regions: Regions, slide: Slide, seed: int) -> float:
    """Return the IoU of what was found with the monolayer as the film was made.

    The monolayer is where the film's thickness is below 0.15 (of the thickest part) and the density of its red cells
    is at least half of the monolayer's. This was laid down before any result was seen.
    """
    width, height = (d * slide.mpp.x for d in slide.dimensions)
    xs, ys = np.arange(4.0, width, 8), np.arange(4.0, height, 8)
    zones = Film(width_um=width, height_um=height, seed=seed).at(xs, ys)
    truth = (zones.thickness < 0.15) & (zones.density >= 0.5)
    x, y = np.meshgrid(xs / slide.mpp.x, ys / slide.mpp.y)
    found = shapely.contains_xy(regions.included, x, y)
    return float((truth & found).sum() / (truth | found).sum())


class ThickFilm(Film):
    """A film that is as thick everywhere as near the drop."""

    def at(self, x_um, y_um) -> Zones:
        ones = np.ones((len(y_um), len(x_um)))
        return Zones(density=2.35 * ones, white_density=ones, thickness=0.9 * ones)


def mosaic(fields: list[np.ndarray], mpp: float, shape: tuple[int, int], *, out_mpp: float = MPP) -> np.ndarray:
    """Tile fields into a picture of ``shape`` pixels at ``out_mpp``, each field's glass brought to one level."""
    picture = np.full((*shape, 3), 240, np.uint8)
    y = row = 0
    number = 0
    while y < shape[0]:
        x = row = 0
        while x < shape[1]:
            field = fields[number % len(fields)]
            number += 1
            small = cv2.resize(field, None, fx=mpp / out_mpp, fy=mpp / out_mpp, interpolation=cv2.INTER_AREA)
            brightness = small.astype(int).sum(axis=2)
            glass = np.median(small[brightness >= np.percentile(brightness, 90)], axis=0)
            small = np.clip(small * (238.0 / glass), 0, 255).astype(np.uint8)
            small = small[: shape[0] - y, : shape[1] - x]
            picture[y : y + small.shape[0], x : x + small.shape[1]] = small
            x, row = x + small.shape[1], max(row, small.shape[0])
        y += row
    return picture
