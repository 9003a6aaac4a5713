"""How unlike a cell is to everything a classifier was calibrated on: distance in the embedding, and doubt.

The score adds two parts, each in standard deviations of validation cells:

- *distance*: the Mahalanobis distance of the embedding to the nearest class (Lee et al., NeurIPS 2018,
  arXiv 1807.03888), logarithm taken. The covariance is shared by the classes and kept as its leading directions and
  one variance for all others (Tipping and Bishop, J. R. Stat. Soc. B 61:611, 1999), so that it stays small and
  invertible whatever the length of the embedding;
- *doubt*: the entropy of the probabilities (Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136, with the entropy in
  place of the largest probability).

Distance finds what is no cell of this kind at all, doubt finds cells of a class the model does not have.
``docs/evidence.md`` has the figures of both and of what else was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CUT_OFF = 0.95
"""A cell is *unusual* when it is more unlike than this share of validation cells."""

BATCH = 256
"""Cells computed at once, always in this shape: a product of matrices may depend on the shape in the last bit."""

_DIRECTIONS = 128
_FLOOR = 1e-3
_TAIL_FROM = 0.9
_KNOTS = 1024


@dataclass(frozen=True, kw_only=True)
class OutOfDistribution:
    """A calibrated score; made by :func:`fit_out_of_distribution`.

    Parameters
    ----------
    means
        float32 ``(classes, d)``: mean embedding of each class.
    directions
        float32 ``(d, q)``: orthonormal leading directions within the classes.
    spread
        float32 ``(q + 1,)``: standard deviation along each, then that of every other direction.
    centre, scale
        float32 ``(2,)``: mean and standard deviation of distance and doubt on validation cells.
    knots
        float32 ``(m,)``: ascending scores of validation cells.
    tail
        float32 ``(1,)``: mean excess of the highest scores, by which the percentile goes on beyond the last knot.
    """

    means: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    knots: npt.NDArray[np.float32]
    tail: npt.NDArray[np.float32]

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> OutOfDistribution:
        """Rebuild from :meth:`to_tensors`; a missing one raises KeyError."""
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})

    def score(self, p: npt.NDArray[np.float32], embedding: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """Return the score ``(n,)`` of probabilities ``(n, classes)`` and embeddings ``(n, d)``; higher is unlike."""
        parts = np.stack([self._distance(embedding), _entropy(p)], axis=1)
        return ((parts - self.centre.astype(np.float64)) / self.scale).sum(axis=1)

    def percentile(self, p: npt.NDArray[np.float32], embedding: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """Return the share of validation cells, 0 to 1, that are less unlike, ``(n,)``.

        Beyond the most unlike validation cell it goes on towards 1 along an exponential, so that unusual cells can
        still be ranked; those last digits are an extrapolation.
        """
        return self.percentile_of(self.score(p, embedding))

    def percentile_of(self, score: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return the percentile of scores."""
        m = len(self.knots)
        levels = np.arange(1, m + 1) / (m + 1)
        inside = np.interp(score, self.knots.astype(np.float64), levels, left=0.0)
        beyond = np.maximum(score - float(self.knots[-1]), 0.0) / max(float(self.tail[0]), 1e-9)
        return np.where(beyond > 0, 1 - (1 - levels[-1]) * np.exp(-beyond), inside).astype(np.float32)

    def _distance(self, embedding: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        means = self.means.astype(np.float64)
        directions = self.directions.astype(np.float64)
        along, across = self.spread[:-1].astype(np.float64), float(self.spread[-1])
        has_rest = directions.shape[1] < directions.shape[0]
        middle = means @ directions / along

        def nearest(part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            seen = part @ directions
            found = np.empty((len(part), len(means)))
            for c in range(len(means)):
                found[:, c] = ((seen / along - middle[c]) ** 2).sum(axis=1)
                if has_rest:
                    off = part - means[c]
                    left = (off**2).sum(axis=1) - ((seen - means[c] @ directions) ** 2).sum(axis=1)
                    found[:, c] += np.maximum(left, 0) / across**2
            return 0.5 * np.log(found.min(axis=1) + 1e-9)

        return in_batches(nearest, embedding)


def fit_out_of_distribution(
    train: npt.NDArray[np.float16],
    labels: npt.NDArray[np.int64],
    val_p: npt.NDArray[np.float32],
    val: npt.NDArray[np.float16],
) -> OutOfDistribution:
    """Return the score of a classifier.

    Parameters
    ----------
    train, labels
        Embeddings ``(n, d)`` of training cells, and the number of the class of each ``(n,)``; classes without any
        are left out.
    val_p, val
        Probabilities and embeddings of validation cells, on which nothing of the network was fitted.
    """
    wide = train.astype(np.float64)
    present = np.unique(labels)
    means = np.stack([wide[labels == c].mean(axis=0) for c in present])
    residual = wide - means[np.searchsorted(present, labels)]
    variance, vectors = np.linalg.eigh(residual.T @ residual / len(residual))
    order = np.argsort(-variance, kind="stable")
    variance, vectors = variance[order], vectors[:, order]
    floor = max(_FLOOR * float(variance.mean()), 1e-12)
    kept = min(_DIRECTIONS, len(variance))
    rest = variance[kept:].mean() if kept < len(variance) else 1.0
    start = OutOfDistribution(
        means=means.astype(np.float32),
        directions=vectors[:, :kept].astype(np.float32),
        spread=np.sqrt(np.maximum(np.append(variance[:kept], rest), floor)).astype(np.float32),
        centre=np.zeros(2, np.float32),
        scale=np.ones(2, np.float32),
        knots=np.zeros(1, np.float32),
        tail=np.ones(1, np.float32),
    )
    parts = np.stack([start._distance(val), _entropy(val_p)], axis=1)
    fields = start.to_tensors()
    fields |= {
        "centre": parts.mean(axis=0).astype(np.float32),
        "scale": np.maximum(parts.std(axis=0), 1e-6).astype(np.float32),
    }
    scores = np.sort(OutOfDistribution(**fields).score(val_p, val))
    high = scores[scores >= np.quantile(scores, _TAIL_FROM)]
    fields["tail"] = np.array([max(float((high - high[0]).mean()), 1e-6)], np.float32)
    kept_scores = scores if len(scores) <= _KNOTS else np.quantile(scores, np.linspace(0, 1, _KNOTS))
    fields["knots"] = kept_scores.astype(np.float32)
    return OutOfDistribution(**fields)


def in_batches(function: Any, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Apply a function of ``(BATCH, d)`` float64 rows to any number of rows, the last batch padded with zeros."""
    found = []
    for start in range(0, len(rows), BATCH):
        part = np.zeros((BATCH, rows.shape[1]))
        n = min(BATCH, len(rows) - start)
        part[:n] = rows[start : start + n]
        found.append(function(part)[:n])
    if not found:
        return np.asarray(function(np.zeros((BATCH, rows.shape[1]))))[:0]
    return np.concatenate(found)


def _entropy(p: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = p.astype(np.float64)
    return -(wide * np.log(np.maximum(wide, 1e-12))).sum(axis=1)
