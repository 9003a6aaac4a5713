"""Drawn single-cell images in patient folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

MPP = 0.25


def draw(seed: int = 0, side: int = 96) -> np.ndarray:
    """A white cell about 12 um wide with a dark nucleus, on pale glass, at 0.25 um per pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    distance = np.hypot(x - side / 2, y - side / 2)
    image = np.full((side, side, 3), (244, 238, 236), float)
    image[distance < 24] = (214, 200, 222)
    image[distance < 16] = (96, 50, 140)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def save(path: Path, seed: int = 0, side: int = 96) -> Path:
    """Write one image, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(seed, side)).save(path)
    return path
