"""Drawn fields with known cells, for the tests of training on a user's own fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 128
MPP = 0.25
CENTRES = ((30, 32), (34, 92), (92, 30), (96, 94))


def draw(seed: int, radius: int = 14) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Return a field of four stained discs, 7 um across, and its instance mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    # Coarse shading, as of a real field, so that two fields are no near-duplicates.
    shade = np.kron(rng.normal(0, 9, (8, 8)), np.ones((SIDE // 8, SIDE // 8)))[..., None]
    rgb = np.array([236, 228, 232]) + shade + rng.normal(0, 3, (SIDE, SIDE, 3))
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number, (cy, cx) in enumerate(CENTRES, start=1):
        distance = np.hypot(y - cy - rng.integers(-6, 7), x - cx - rng.integers(-6, 7))
        rgb[distance < radius] = (170, 140, 205)
        rgb[distance < 0.6 * radius] = (95, 50, 140)
        labels[distance < radius] = number
    return np.clip(rgb, 0, 255).astype(np.uint8), labels


def save(path: Path, pixels: npt.NDArray[np.generic]) -> None:
    Image.fromarray(pixels).save(path)


def write_fields(folder: Path, n: int = 6) -> Path:
    """Write ``n`` fields and masks to ``folder/images`` and ``folder/masks``."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(n):
        rgb, labels = draw(number)
        save(folder / "images" / f"f{number}.png", rgb)
        save(folder / "masks" / f"f{number}.png", labels)
    return folder
