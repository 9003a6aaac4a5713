"""Pair correlation g(r): how much likelier another point is at distance r than if all points lay at random.

Kernel estimator with translation correction (Ohser, Math. Operationsforsch. Statist. Ser. Statist. 14:63, 1983; Stoyan
and Stoyan, Fractals, Random Shapes and Point Fields, Wiley 1994, ch. 15.2), each pair divided by its own distance
(Guan, Stat. Probab. Lett. 77:1722, 2007), which keeps small r free of bias::

    g(r) = A^2 / (n (n - 1)) * sum over ordered pairs of k_h(r - d) / (2 pi d gamma(x - y))

k_h is Epanechnikov's kernel of half-width h = 0.15 sqrt(A / n), as Stoyan proposes; gamma(x - y) is the area
of the window that stays in it when moved by x - y, taken from the autocorrelation of its pixels. Ripley's K is
estimated by the same weights (Ohser 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from wsi_pipeline.predictions.trephines.window import FloatArray, MarrowWindow, Raster

STEP_UM = 5.0
LONGEST_UM = 250.0
"""Largest r; a window should be a few times as wide."""
_HISTOGRAM_UM = 0.5
_LEAST_SHARE = 0.01
"""Pairs whose shift leaves less of the window than this are not used; the rest would weigh too much."""


@dataclass(frozen=True, kw_only=True)
class SetCovariance:
    """Area of a window that stays in it when it is moved, by shifts of whole pixels up to a longest one.

    Parameters
    ----------
    area_um2
        ``(2 m + 1, 2 m + 1)``: by shift in y and x, no shift in the middle.
    """

    area_um2: FloatArray
    step_um: float

    @classmethod
    def of(cls, raster: Raster, longest_um: float) -> SetCovariance:
        """Return the shifts up to ``longest_um`` of a raster."""
        m = int(np.ceil(longest_um / raster.step_um)) + 1
        shape = [scipy.fft.next_fast_len(n + m, real=True) for n in raster.inside.shape]
        spectrum = scipy.fft.rfft2(raster.inside.astype(np.float32), s=shape)
        whole = scipy.fft.irfft2(np.abs(spectrum) ** 2, s=shape)
        rows, columns = (np.arange(-m, m + 1) % n for n in shape)
        found = np.rint(whole[np.ix_(rows, columns)]) * raster.step_um**2
        return cls(area_um2=found.astype(np.float64), step_um=raster.step_um)

    def at(self, shifts_um: FloatArray) -> FloatArray:
        """Return the area for shifts ``(n, 2)``, x and y; between whole pixels it is linear."""
        middle = self.area_um2.shape[0] // 2
        places = (shifts_um / self.step_um + middle)[:, ::-1].T
        found: FloatArray = map_coordinates(self.area_um2, places, order=1, mode="nearest")
        return found


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs up to :data:`LONGEST_UM`: distance, and ``A^2 / (n (n - 1) gamma)`` of both orders together."""

    distance_um: FloatArray
    weight: FloatArray

    def k_um2(self, r_um: float) -> float:
        """Return Ripley's K(r); pi r^2 for random points."""
        return float(self.weight[self.distance_um <= r_um].sum())

    def g(self, r_um: FloatArray, bandwidth_um: float) -> FloatArray:
        """Return g at distances ``(m,)``."""
        top = LONGEST_UM
        edges = np.arange(0.0, top + _HISTOGRAM_UM, _HISTOGRAM_UM)
        mass = np.histogram(
            self.distance_um, edges, weights=self.weight / (2 * np.pi * np.maximum(self.distance_um, 1e-6))
        )[0]
        middles = (edges[1:] + edges[:-1]) / 2
        gap = (r_um[:, None] - middles[None]) / bandwidth_um
        kernel = np.where(np.abs(gap) < 1, 0.75 * (1 - gap**2), 0.0) / bandwidth_um
        # At both ends part of the kernel lies where no pair can be: it is scaled to what is left of it.
        inside = np.minimum(1.0, kernel.sum(axis=1) * _HISTOGRAM_UM)
        found: FloatArray = kernel @ mass / np.maximum(inside, 1e-9)
        return found


def distances_um() -> FloatArray:
    """Return the distances at which g is given."""
    return np.arange(STEP_UM, LONGEST_UM - STEP_UM / 2, STEP_UM)


def bandwidth_um(n: int, area_um2: float) -> float:
    """Return the half-width of the kernel for ``n`` points."""
    return float(np.clip(0.15 * np.sqrt(area_um2 / n), STEP_UM, LONGEST_UM / 4))


def pairs_of(points_um: FloatArray, window: MarrowWindow, covariance: SetCovariance) -> Pairs:
    """Return the weighted pairs of points ``(n, 2)`` in a window."""
    n = len(points_um)
    pairs = cKDTree(points_um).query_pairs(LONGEST_UM, output_type="ndarray")
    shifts = points_um[pairs[:, 1]] - points_um[pairs[:, 0]]
    kept = covariance.at(shifts)
    usable = kept >= _LEAST_SHARE * window.area_um2
    # Each pair stands for both orders.
    weight = 2 * window.area_um2**2 / (n * (n - 1.0)) / kept[usable]
    return Pairs(distance_um=np.hypot(*shifts[usable].T), weight=weight)
