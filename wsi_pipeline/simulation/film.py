"""The film of a smear: thick where the drop was, one layer in the middle, drawn out to a feathered edge, then glass.

Along the slide's longer side the film begins behind a strip of bare glass, thick, with red cells over one another. It
thins to the monolayer where cells are read, and ends in ragged tongues. Everything is a function of place and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.simulation.noise import smooth_noise

_PURPOSE_EDGE, _PURPOSE_TONGUE = 301, 302
_MARGIN, _THICK_ENDS, _FEATHER_BEGINS, _FEATHER_ENDS = 0.06, 0.30, 0.74, 0.93
_RAGGED = 0.055


@dataclass(frozen=True, kw_only=True)
class Zone:
    """What the film does to one place.

    Attributes
    ----------
    density
        Factor on the number of red cells and platelets, 0 on bare glass.
    white_density
        Factor on the number of white cells; they gather towards the feathered edge.
    thickness
        0 in the monolayer to 1 in the thickest part: how many red cells lie over others, and how far.
    """

    density: float
    white_density: float
    thickness: float


MONOLAYER = Zone(density=1.0, white_density=1.0, thickness=0.0)
GLASS = Zone(density=0.0, white_density=0.0, thickness=0.0)


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

    def at(self, x_um: float, y_um: float) -> Zone:
        """Return the zone of a place; beyond the slide it is that of the nearest edge."""
        long, across = max(self.width_um, self.height_um), min(self.width_um, self.height_um)
        along_um, across_um = (x_um, y_um) if self.width_um >= self.height_um else (y_um, x_um)
        wave, ripple = (
            float(smooth_noise(self.seed, _PURPOSE_EDGE, along_um, across_um, period)[0, 0])
            for period in (0.12 * long + 1, 0.03 * long + 1)
        )
        tongue = float(smooth_noise(self.seed, _PURPOSE_TONGUE, 0.0, across_um, 0.05 * across + 40)[0, 0])
        ragged = _RAGGED * (0.7 * wave + 0.3 * ripple)
        along = along_um / long + ragged
        side = min(across_um, across - across_um) / across + ragged
        end = _FEATHER_ENDS + 0.06 * tongue
        if along < _MARGIN or side < _MARGIN or along > end:
            return GLASS
        thickness = float(np.clip((_THICK_ENDS - along) / (_THICK_ENDS - _MARGIN), 0, 1))
        feather = float(np.clip((along - _FEATHER_BEGINS) / (end - _FEATHER_BEGINS), 0, 1))
        return Zone(
            density=(1 + 1.5 * thickness) * (1 - 0.75 * feather),
            white_density=1 + 1.6 * feather * (1 - feather),
            thickness=thickness,
        )
