"""From an image of any resolution to the window a classifier sees, and the colour of its background."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image


def resample(pixels: npt.NDArray[np.uint8], x: float, y: float, *, side: int, scale: float) -> npt.NDArray[np.uint8]:
    """Return the ``side`` x ``side`` window centred on (x, y), each pixel ``scale`` source pixels wide.

    Parameters
    ----------
    pixels
        uint8 ``(h, w, 3)``; mirrored beyond its edges.
    x, y
        Centre of the window, source pixels, pixel ``i`` covering ``[i, i + 1)``.
    side
        Output pixels.
    scale
        Source pixels per output pixel; above 1 the source is averaged before it is sampled.
    """
    half = side * scale / 2
    margin = math.ceil(4 * max(scale, 1))
    x0, y0 = math.floor(x - half) - margin, math.floor(y - half) - margin
    x1, y1 = math.ceil(x + half) + margin, math.ceil(y + half) + margin
    rows = mirror(np.arange(y0, y1), pixels.shape[0])
    columns = mirror(np.arange(x0, x1), pixels.shape[1])
    patch = Image.fromarray(np.ascontiguousarray(pixels[rows][:, columns]))
    box = (x - half - x0, y - half - y0, x + half - x0, y + half - y0)
    return np.asarray(patch.resize((side, side), Image.Resampling.BICUBIC, box=box))


def mirror(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold indices outside ``[0, size)`` back in, repeating the edge pixel."""
    folded = np.mod(index, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def estimate_background(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the colour of the empty background of one image, uint8 ``(3,)``.

    The median colour of the pixels between the 90th and 98th percentile of brightness. Lamps and sensors give
    casts that rise or fall with the wavelength, so that green lies between red and blue; stains absorb green
    most. Where an image is full of cells the estimate is a stained colour: green is then raised to the lower of
    red and blue, and no channel is kept below half of the brightest one.
    """
    sample = pixels[::2, ::2].reshape(-1, 3)
    brightness = sample.astype(np.int32).sum(axis=1)
    low, high = np.percentile(brightness, [90, 98])
    colour = np.median(sample[(brightness >= low) & (brightness <= high)], axis=0)
    colour[1] = max(colour[1], min(colour[0], colour[2]))
    colour = np.maximum(colour, 0.5 * colour.max())
    return np.clip(np.rint(colour), 1, 255).astype(np.uint8)
