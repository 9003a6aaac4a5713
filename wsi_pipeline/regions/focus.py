"""How sharp and how bright a field is, in physical units. Pure functions on arrays.

**Blur.** The border of a red cell is a step of optical density, blurred by the optics and the defocus. Smoothed by a
further Gaussian ``s``, its squared gradient integrates along the normal to a constant times
``1 / sqrt(sigma**2 + s**2)``. The ratio of the energies at two smoothings therefore tells ``sigma`` without knowing
the contrast: the re-blurring method of Zhuo & Sim (Pattern Recognition 44:1852, 2011,
doi 10.1016/j.patcog.2011.03.009), with energies in place of single edge pixels, so that noise averages out.
Optical density rather than intensity makes it independent of the exposure. Only strong edges count, because flat
areas hold noise alone; nuclei do not count, because their texture would make fields with white cells look sharper.

Cells are small, and the edges on both sides of a rim lie closer than the wider smoothing, which the formula for a
lone edge does not know. ``_CURVE`` is therefore the ratio measured on drawn fields of discs of 7.5 um with a pale
centre, blurred by known amounts (``tests/regions/test_regions_focus.py`` draws them again); beyond 4 um, half a red
cell, it is extrapolated. The smoothings are in um, so one curve serves every resolution up to :data:`COARSEST_MPP`.

The blur found is the total one, the microscope's own included: about 0.3 um for a field in focus.

**Exposure.** The 90th percentile of luminance over full scale: what the brightest, emptiest tenth of a field reaches.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]

COARSEST_MPP = 0.6
"""Pixels wider than this hold too little of the blur that matters."""
_FINE_UM, _COARSE_UM = 0.4, 1.0
_EDGE_OD_PER_UM = 0.006
_EDGE_SHARE_OF_PEAK = 0.3
_CURVE_UM = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
_CURVE = (3.39, 3.29, 3.02, 2.68, 2.35, 1.97, 1.69, 1.484, 1.383, 1.304, 1.26, 1.227, 1.174, 1.11, 1.05)


class EdgeEnergies(NamedTuple):
    """Squared gradients of optical density at two smoothings, zero off the edges; each ``(h, w)`` float32."""

    fine: FloatImage
    coarse: FloatImage


def edge_energies(density: FloatImage, mpp: float, ignored: npt.NDArray[np.bool_] | None = None) -> EdgeEnergies:
    """Return the energies from which :func:`blur_from_energies` estimates blur.

    Parameters
    ----------
    density
        Optical density ``(h, w)``, float32.
    mpp
        Its microns per pixel.
    ignored
        Pixels that do not count (nuclei).
    """
    fine, coarse = _gradient2(density, _FINE_UM / mpp), _gradient2(density, _COARSE_UM / mpp)
    # Which pixels are edges is decided on the smoother picture: noise would choose itself on the sharper one.
    edges = coarse > (_EDGE_OD_PER_UM * mpp) ** 2
    if edges.any():
        edges &= coarse > _EDGE_SHARE_OF_PEAK**2 * float(np.percentile(coarse[edges], 90))
    # Both flanks of an edge belong to its energy.
    reach = 2 * round(_COARSE_UM / mpp) + 1
    edges = cv2.dilate(edges.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool)
    if ignored is not None:
        edges &= ~ignored
    return EdgeEnergies(fine=np.where(edges, fine, 0), coarse=np.where(edges, coarse, 0))


def blur_from_energies(fine: float, coarse: float) -> float:
    """Return blur in um (standard deviation of the equivalent Gaussian) from sums of energies; NaN without edges."""
    if coarse <= 0:
        return float("nan")
    return float(np.interp(-np.log(fine / coarse), -np.log(_CURVE), _CURVE_UM))


def blur_um(pixels: npt.NDArray[np.uint8], mpp: float, glass: tuple[int, int, int] | None = None) -> float:
    """Return the blur of one field in um (standard deviation of the equivalent Gaussian); NaN without edges.

    Parameters
    ----------
    pixels
        uint8 RGB ``(h, w, 3)``.
    mpp
        Its microns per pixel, at most :data:`COARSEST_MPP`.
    glass
        Colour of empty glass; a shift of density does not change the score, so None is enough.
    """
    level = (glass or (255, 255, 255))[1] + 1.0
    density = np.log10(level / (pixels[..., 1].astype(np.float32) + 1.0)).astype(np.float32)
    energies = edge_energies(density, mpp)
    return blur_from_energies(float(energies.fine.sum()), float(energies.coarse.sum()))


def exposure(pixels: npt.NDArray[np.uint8]) -> float:
    """Return how bright a field is: the 90th percentile of luminance (Rec. 601) as a share of full scale, 0 to 1."""
    luminance = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(np.percentile(luminance, 90)) / 255.0


def _gradient2(density: FloatImage, sigma: float) -> FloatImage:
    smooth = cv2.GaussianBlur(density, (0, 0), sigma)
    kernel = np.array([[-0.5, 0.0, 0.5]], dtype=np.float32)
    dx, dy = cv2.filter2D(smooth, cv2.CV_32F, kernel), cv2.filter2D(smooth, cv2.CV_32F, kernel.T)
    return np.asarray(dx * dx + dy * dy, dtype=np.float32)
