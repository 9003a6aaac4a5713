"""Drawn cells for tests of training on cells of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsi_pipeline.training.cells.fit import CellRecipe

RECIPE = CellRecipe(
    window_px=32, side_px=48, stem=8, widths=(16, 24), depths=(1, 1), embedding_dim=16, batch=16, epochs=4
)
COLOURS = {"lymphocyte": (70, 40, 160), "eosinophil": (220, 110, 90)}
MPP = 0.5


def cell(name: str, seed: int, side: int = 36) -> np.ndarray:
    """A cell 8 um wide at 0.5 um per pixel on a pale background."""
    rng = np.random.default_rng((seed, len(name)))
    y, x = np.mgrid[:side, :side] + 0.5
    inside = np.hypot(x - side / 2 - rng.normal(), y - side / 2 - rng.normal()) < rng.uniform(6.5, 9)
    image = np.where(inside[..., None], COLOURS[name], (244, 238, 236)) + rng.normal(0, 12, (side, side, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def class_folders(root: Path, each: int = 20) -> Path:
    """Write ``root/<class>/<k>.png``."""
    for name in COLOURS:
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.fromarray(cell(name, k)).save(root / name / f"{k:03d}.png")
    return root
