"""One stain for all laboratories: the density of the nucleus in the middle is brought to a reference.

Laboratories differ most in how dark and of what hue nuclei are. The optical density (Beer-Lambert) of each colour
channel is multiplied by one factor a cell, so that the darkest tenth of the middle of its window, which is nucleus in
a nucleated cell, gets the reference density. What is compared within the cell (cytoplasm against nucleus, granules
against cytoplasm) stays. The factor is bounded, so that an empty window or a platelet is not blown up.
"""

from __future__ import annotations

import torch

FLOOR = 0.02
"""Smallest transmitted light; keeps optical density finite."""

NUCLEAR_DENSITY = (1.29, 2.16, 0.46)
"""Reference: the mean over the nucleated cells of the May-Gruenwald-Giemsa set ``pbc``, red, green, blue."""

_QUANTILE = 0.9
_LEAST, _MOST = 0.4, 2.5


def optical_density(rgb: torch.Tensor) -> torch.Tensor:
    """Return the optical density of intensities (1 = background), any shape."""
    return -torch.log(rgb.clamp(min=FLOOR))


def nuclear_density(optical: torch.Tensor, *, step: int = 1) -> torch.Tensor:
    """Return the 90th percentile of density in the middle half of each window, ``(n, 3)``, at least 0.05.

    Parameters
    ----------
    optical
        Optical density, ``(n, 3, side, side)``.
    step
        Look at every so many pixels only.

    Notes
    -----
    The density of the nucleus says little about the class of the cell.
    """
    edge = optical.shape[-1] // 4
    middle = optical[:, :, edge:-edge:step, edge:-edge:step].flatten(2)
    return middle.kthvalue(int(_QUANTILE * middle.shape[2]), dim=2).values.clamp(min=0.05)


def normalise_density(optical: torch.Tensor) -> torch.Tensor:
    """Return the densities ``(n, 3, side, side)`` with the nucleus of each window at the reference."""
    reference = torch.tensor(NUCLEAR_DENSITY, device=optical.device, dtype=optical.dtype)
    gain = (reference / nuclear_density(optical)).clamp(_LEAST, _MOST)
    return optical * gain[:, :, None, None]


def normalise_stain(rgb: torch.Tensor) -> torch.Tensor:
    """Return intensities ``(n, 3, side, side)`` (1 = background) with the nucleus of each window at the reference."""
    return torch.exp(-normalise_density(optical_density(rgb))).clamp(0.0, 1.2)
