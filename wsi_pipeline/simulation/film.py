"""The film of a smear: thick where the drop was, one layer in the middle, drawn out to a feathered edge, then glass.

Along the slide's longer side the film begins behind a strip of bare glass, thick, with red cells over one another. It
thins to the monolayer where cells are read, and ends in ragged tongues. Everything is a function of place and seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsi_pipeline.simulation.noise import smooth_noise
from wsi_pipeline.units import FloatArray

_PURPOSE_EDGE, _PURPOSE_TONGUE = 301, 302
_MARGIN, _THICK_ENDS, _FEATHER_BEGINS, _FEATHER_ENDS = 0.06, 0.30, 0.72, 0.90
_RAGGED, _TONGUE = 0.05, 0.045
_LEAST_MARGIN = 0.015
_FADE = 0.012


class Zones(NamedTuple):
    """What the film does to places on a grid, each ``(len(y), len(x))``.

    Attributes
    ----------
    density
        Factor on the number of red cells and platelets, 0 on bare glass.
    white_density
        Factor on the number of white cells; they gather towards the feathered edge.
    thickness
        0 in the monolayer to 1 in the thickest part: how many red cells lie over others, and how far.
    """

    density: FloatArray
    white_density: FloatArray
    thickness: FloatArray


@dataclass(frozen=True, kw_only=True)
class Film:
    """The film on a slide of a size.

    Parameters
    ----------
    width_um, height_um
        Size of the slide.
    seed
        Of the slide.
    """

    width_um: float
    height_um: float
    seed: int

    def at(self, x_um: FloatArray, y_um: FloatArray) -> Zones:
        """Return the zones on the grid of ``x_um`` (columns) and ``y_um`` (rows); beyond the slide is glass."""
        if self.height_um > self.width_um:
            return Zones(*(part.T for part in self._lying(y_um, x_um, self.height_um, self.width_um)))
        return self._lying(x_um, y_um, self.width_um, self.height_um)

    def _lying(self, x_um: FloatArray, y_um: FloatArray, long: float, across: float) -> Zones:
        wave, ripple = (
            smooth_noise(self.seed, _PURPOSE_EDGE + 10 * i, x_um, y_um, period)
            for i, period in enumerate((0.12 * long + 1, 0.03 * long + 1))
        )
        ragged = _RAGGED * (0.7 * wave + 0.3 * ripple)
        x, y = x_um[None, :] / long, y_um[:, None] / across
        along = x + ragged
        side = np.minimum(y, 1 - y)
        border = np.minimum(side + ragged, along) - _MARGIN
        # However ragged, the film stays on the slide.
        border = np.minimum(border, np.minimum(side, np.minimum(x, 1 - x)) - _LEAST_MARGIN)
        tongue = smooth_noise(self.seed, _PURPOSE_TONGUE, np.zeros(1), y_um, 0.05 * across + 40)
        end = _FEATHER_ENDS + _TONGUE * tongue
        border = np.minimum(border, end - along)
        # Cells get fewer over a short way instead of ending at a line.
        cover = np.clip(border / _FADE, 0, 1)
        thickness = np.clip((_THICK_ENDS - along) / (_THICK_ENDS - _MARGIN), 0, 1) * cover
        feather = np.clip((along - _FEATHER_BEGINS) / (end - _FEATHER_BEGINS), 0, 1)
        return Zones(
            density=cover * (1 + 1.5 * thickness) * (1 - 0.75 * feather),
            white_density=cover * (1 + 1.6 * feather * (1 - feather)),
            thickness=thickness,
        )
