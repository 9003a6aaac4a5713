"""The outline of a drawn fat cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_WIDTH, _OVAL, _THREE = 0.94, 0.06, 0.025

FAT_SHARE = _WIDTH**2 + _OVAL**2 / 2 + _THREE**2 / 2
"""Share of its disc that a fat cell covers: the mean square of its edge."""


def fat_edge(radius_um: float, angle: float, theta: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the distance of the edge from the centre in directions ``theta``, from the angle of the cell on."""
    wave = _WIDTH + _OVAL * np.cos(2 * theta) + _THREE * np.cos(3 * theta + 7.0 * angle)
    return np.asarray(radius_um * wave)
