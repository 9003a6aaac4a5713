"""The cells of a core's plan as the layout takes them: square by square, megakaryocytes drawn when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from wsi_pipeline.simulation.core_plan import CorePlan
from wsi_pipeline.simulation.megakaryocytes import draw_megakaryocyte
from wsi_pipeline.simulation.noise import keyed_generator
from wsi_pipeline.simulation.sprites import Sprite
from wsi_pipeline.units import FloatArray

FAT, MEGAKARYOCYTE = "fat", "megakaryocyte"
PLANNED = (FAT, MEGAKARYOCYTE)
"""Layers of a plan, before those of the profile."""

_PURPOSE_DRAW = 441
_FAT_GAP, _MEGAKARYOCYTE_GAP = 1.03, 1.10
_KEPT = 256

Things = npt.NDArray[np.float64]


class CoreCells:
    """Fat and megakaryocytes of a plan.

    Parameters
    ----------
    plan
        Of the slide.
    seed
        Of the slide; a megakaryocyte depends on it, its number and its shape.
    stain
        Gives a sprite the stain of the slide.
    """

    def __init__(self, plan: CorePlan, seed: int, stain: Callable[[Sprite], Sprite]) -> None:
        self.plan = plan
        self._seed, self._stain = seed, stain
        fat, cells = plan.fat, plan.megakaryocytes
        gaps = np.full(len(fat), _FAT_GAP)
        nothing = np.full(len(fat), -1.0)
        self._things = {
            FAT: np.column_stack([fat[:, :3], gaps, nothing, fat[:, 3], 0 * gaps, 0 * gaps + 1]),
            MEGAKARYOCYTE: np.array(
                [
                    (one.x_um, one.y_um, one.radius_um, _MEGAKARYOCYTE_GAP, i, one.angle, one.flip, 1.0)
                    for i, one in enumerate(cells)
                ],
                dtype=np.float64,
            ).reshape(-1, 8),
        }
        self._squares: dict[str, dict[tuple[int, int], list[int]]] = {}
        self._drawn = lru_cache(maxsize=_KEPT)(self._draw)

    def largest_um(self, layer: str) -> float:
        """Return the largest radius of a layer."""
        return float(self._things[layer][:, 2].max(initial=0.0))

    def square(self, layer: str, column: int, row: int, side_um: float) -> Things:
        """Return what has its centre in a square, ``(n, 8)`` rows of the layout."""
        if layer not in self._squares:
            squares: dict[tuple[int, int], list[int]] = {}
            for i, at in enumerate(np.floor(self._things[layer][:, :2] / side_um).astype(int).tolist()):
                squares.setdefault((at[0], at[1]), []).append(i)
            self._squares[layer] = squares
        return self._things[layer][self._squares[layer].get((column, row), [])]

    def sprite(self, number: int) -> Sprite:
        """Return a megakaryocyte in the stain of the slide."""
        return self._drawn(number)

    def marrow_at(self, x_um: FloatArray, y_um: FloatArray) -> FloatArray:
        """Return :meth:`CorePlan.marrow_at`."""
        return self.plan.marrow_at(x_um, y_um)

    def _draw(self, number: int) -> Sprite:
        rng = keyed_generator(self._seed, _PURPOSE_DRAW, number, 0)
        planned = self.plan.megakaryocytes[number]
        return replace(self._stain(draw_megakaryocyte(planned.shape, rng)), variant=planned.kind)
