"""Does a generator make cells, or does it hand out its training images? Distances to the nearest training image.

A generated image is looked up among the training images in pixels (in all eight turned and mirrored views) and in the
embedding of a classifier. What is near is told from real images that were held out: their distances to the nearest
training image show how near an image comes that nobody copied. Compared are distances as a multiple of the median of
the held-out images of the same class, since small round cells are all near each other. An image nearer than all but 1 %
of the held-out ones is flagged, so that about 1 % flagged in either measure is what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from wsi_pipeline.cells.classifier import CellClassifier
from wsi_pipeline.cells.windows import resample

QUANTILE = 0.01
"""Share of the held-out images that are as near as what is flagged."""
_PIXELS = 32
_ROWS = 512

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest training image of each of ``n`` images: its index, and its distance."""

    index: npt.NDArray[np.int64]
    distance: FloatArray


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Which images come suspiciously near, and the bound they were held to.

    Attributes
    ----------
    relative, held_out
        Distance of the generated and of the held-out images as a multiple of the class's held-out median.
    bound
        The 1 % quantile of ``held_out``.
    flagged
        Whether each generated image lies below.
    """

    relative: FloatArray
    held_out: FloatArray
    bound: float
    flagged: npt.NDArray[np.bool_]


def nearest_by_pixels(images: npt.NDArray[np.uint8], training: npt.NDArray[np.uint8]) -> Nearest:
    """Return the nearest training images by root mean square difference, grey levels, at 32 x 32 pixels.

    Parameters
    ----------
    images, training
        uint8 ``(n, side, side, 3)`` and ``(m, side, side, 3)``, cells in the middle, on one background colour.
    """
    theirs = _small(training).flatten(1)
    best = torch.full((len(images),), torch.inf)
    index = torch.zeros(len(images), dtype=torch.int64)
    small = _small(images)
    for number in range(8):
        view = torch.rot90(small, number % 4, (2, 3))
        rows = (view.flip(3) if number >= 4 else view).flatten(1)
        distance, found = _nearest(rows, theirs)
        nearer = distance < best
        best, index = torch.where(nearer, distance, best), torch.where(nearer, found, index)
    return Nearest(index=index.numpy(), distance=best.double().numpy() / np.sqrt(theirs.shape[1]))


def nearest_by_embedding(images: npt.NDArray[np.floating], training: npt.NDArray[np.floating]) -> Nearest:
    """Return the nearest training images by Euclidean distance of embeddings ``(n, d)`` and ``(m, d)``."""
    ours, theirs = (torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (images, training))
    distance, index = _nearest(ours, theirs)
    return Nearest(index=index.numpy(), distance=distance.double().numpy())


def embed(images: npt.NDArray[np.uint8], light: int, mpp: float, classifier: CellClassifier) -> npt.NDArray[np.float16]:
    """Return the classifier's embedding ``(n, d)`` of images ``(n, side, side, 3)`` of ``mpp`` um per pixel.

    Parameters
    ----------
    light
        Grey level of their background.
    """
    middle = images.shape[1] / 2
    windows = [resample(i, middle, middle, side=classifier.window_px, scale=classifier.mpp / mpp) for i in images]
    return classifier.predict(np.stack(windows), np.full(3, light, dtype=np.uint8)).embedding


def flag(found: Nearest, classes: Sequence[str], held_out: Nearest, held_out_classes: Sequence[str]) -> Flags:
    """Compare distances with those of held-out real images.

    Parameters
    ----------
    found, classes
        Of the generated images.
    held_out, held_out_classes
        Of real images that were not trained on; a class without any takes the median of all.
    """
    theirs = np.array(held_out_classes)
    medians = {c: float(np.median(held_out.distance[theirs == c])) for c in set(theirs.tolist())}
    overall = float(np.median(held_out.distance))
    least = np.finfo(np.float64).tiny

    def relative(distance: FloatArray, names: Sequence[str]) -> FloatArray:
        return distance / np.maximum([medians.get(n, overall) for n in names], least)

    ours, reference = relative(found.distance, classes), relative(held_out.distance, held_out_classes)
    bound = float(np.quantile(reference, QUANTILE))
    return Flags(relative=ours, held_out=reference, bound=bound, flagged=ours < bound)


def frechet_distance(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Return the squared Frechet distance of normal distributions fitted to embeddings ``(n, d)`` and ``(m, d)``.

    Dowson & Landau 1982; as a measure of generators Heusel et al., NeurIPS 2017 (arXiv 1706.08500). It falls with the
    number of images: compare figures of equal numbers only.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ two @ root), 0)).sum()
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(one) + np.trace(two) - 2 * cross)


def _small(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(pixels, min(_PIXELS, images.shape[1]))


def _nearest(rows: torch.Tensor, among: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = [
        torch.cdist(rows[s : s + _ROWS], among, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for s in range(0, len(rows), _ROWS)
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
