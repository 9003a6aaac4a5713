"""Synthetic slides at low resolution: 2 um/px, large enough that regions are searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from wsi_pipeline.slides import Slide, open_slide

MPP = 2.0


@pytest.fixture
def open_image(tmp_path: Path) -> Callable[..., Slide]:
    """Return an opener of an image written as a single-level tiled TIFF at 2 um/px."""

    def opened(image: np.ndarray, name: str = "s.tiff", mpp: float = MPP) -> Slide:
        tifffile.imwrite(
            tmp_path / name,
            image,
            tile=(256, 256),
            photometric="rgb",
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
        return open_slide(tmp_path / name)

    return opened


@pytest.fixture(scope="session")
def glass() -> Callable[..., np.ndarray]:
    """Return a maker of noisy empty glass, uint8 RGB (height, width, 3)."""

    noise = np.random.default_rng(5).normal(0, 1.5, (400, 400, 1))

    def make(width: int = 2400, height: int = 1600, level: tuple[int, int, int] = (238, 236, 240)) -> np.ndarray:
        patch = np.clip(noise + level, 0, 255).astype(np.uint8)
        return np.tile(patch, (-(-height // 400), -(-width // 400), 1))[:height, :width].copy()

    return make


@pytest.fixture(scope="session")
def red_cells() -> Callable[..., np.ndarray]:
    """Return a painter of red cells: discs of 7.5 um scattered where ``inside`` is set."""

    def paint(image: np.ndarray, inside: np.ndarray, cover: float = 0.45) -> np.ndarray:
        rng = np.random.default_rng(6)
        ys, xs = np.nonzero(inside)
        chosen = rng.choice(len(ys), int(len(ys) * cover / 11))
        for y, x in zip(ys[chosen], xs[chosen], strict=True):
            cv2.circle(image, (int(x), int(y)), 2, (205, 160, 165), -1)
        return image

    return paint
