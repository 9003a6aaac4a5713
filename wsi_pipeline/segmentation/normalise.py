"""Intensity normalisation, decided once a slide and the same for every tile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MIN_RANGE = 50.0
"""Smallest distance between the two bounds, grey levels: empty glass is not stretched into cells."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Grey levels mapped to 0 and 1, per channel.

    Attributes
    ----------
    low, high
        Red, green and blue grey levels.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map ``(..., 3)`` uint8 to float32, nominally 0 to 1 (clipped to -0.5 .. 1.5)."""
        values = np.arange(256, dtype=np.float64)[:, None]
        low, high = np.asarray(self.low), np.asarray(self.high)
        table = np.clip((values - low) / (high - low), -0.5, 1.5).astype(np.float32)
        return np.stack([table[rgb[..., c], c] for c in range(3)], axis=-1)


def colour_histogram(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return ``(3, 256)`` counts of the channels of ``(..., 3)`` pixels; histograms of tiles add up."""
    return np.stack([np.bincount(rgb[..., c].ravel(), minlength=256) for c in range(3)]).astype(np.int64)


def normalisation_from_histogram(
    histogram: npt.NDArray[np.int64], lower: float = 1.0, upper: float = 99.0
) -> Normalisation:
    """Return the bounds at two percentiles of a colour histogram, at least :data:`MIN_RANGE` apart.

    Parameters
    ----------
    histogram
        ``(3, 256)`` counts.
    lower, upper
        Percentiles, as Cellpose's ``normalize99``.
    """
    total = histogram.sum(axis=1, keepdims=True)
    cumulative = np.cumsum(histogram, axis=1)
    low = [int(np.argmax(row * 100 >= lower * n)) for row, n in zip(cumulative, total[:, 0], strict=True)]
    high = [int(np.argmax(row * 100 >= upper * n)) for row, n in zip(cumulative, total[:, 0], strict=True)]
    low_f = [float(min(a, b - MIN_RANGE)) for a, b in zip(low, high, strict=True)]
    return Normalisation(low=(low_f[0], low_f[1], low_f[2]), high=(float(high[0]), float(high[1]), float(high[2])))
