"""The red-cell classifier: a support vector machine on morphology, its numbers in safetensors, its sums compiled.

One against one with a radial kernel (Cortes and Vapnik, Mach. Learn. 20:273, 1995), as scikit-learn trains it. The
decision ``d`` of a pair becomes a probability, ``1 / (1 + exp(-SLOPE d))``; a class scores the sum of the logarithms of
its pairs (Hastie and Tibshirani, Ann. Stat. 26:451, 1998, of one step), and one temperature calibrates the scores (Guo
et al., ICML 2017). A row is worked out by itself and in one order, so an answer depends on nothing but its row.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.weights import Weights, find_weights

TASK = "red_cells"
"""Task in the card of a red-cell classifier's weights."""
UNCATEGORISED = "red_cell_uncategorised"
"""Class of cells of which the classifier is not sure enough."""

SLOPE = 4.0
"""Of the probability of a pair on its decision; a cell on the margin of one is 98 % sure."""

TENSORS = ("median", "mean", "spread", "vectors", "dual", "bias", "per_class")
_CARD_KEYS = ("classes", "features", "gamma", "temperature", "least_probability", "taxonomy")


class RedCellClassifier:
    """A red-cell classifier and what its card says; made by :func:`load_red_cell_classifier`.

    Parameters
    ----------
    card
        With ``classes``, ``features``, ``gamma``, ``temperature`` and ``least_probability``.
    tensors
        ``median``, ``mean``, ``spread`` ``(features,)``; support ``vectors`` ``(m, features)``, standardised; ``dual``
        ``(classes - 1, m)``; ``bias``, one a pair of classes; ``per_class``, the vectors of each class.

    Attributes
    ----------
    name, sha256
        Name of the weights and the SHA-256 of their file.
    classes
        Class codes in the order of the probabilities.
    taxonomy
        Name of the taxonomy the classes belong to.
    least_probability
        Cells whose best class is less probable are :data:`UNCATEGORISED`.

    Raises
    ------
    ModelError
        The numbers do not fit the card.
    """

    def __init__(self, card: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]) -> None:
        self.card = card
        self.name = str(card["name"])
        self.sha256 = str(card.get("sha256", ""))
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.features: tuple[str, ...] = tuple(card["features"])
        self.taxonomy = str(card["taxonomy"])
        self.least_probability = float(card["least_probability"])
        n, m, f = len(self.classes), len(tensors["vectors"]), len(self.features)
        wanted = {
            "median": (f,), "mean": (f,), "spread": (f,), "vectors": (m, f), "dual": (n - 1, m),
            "bias": (n * (n - 1) // 2,), "per_class": (n,),
        }  # fmt: skip
        wrong = [f"{name} is {tensors[name].shape}, not {shape}" for name, shape in wanted.items()
                 if tensors[name].shape != shape]  # fmt: skip
        if wrong or int(tensors["per_class"].sum()) != m:
            raise ModelError(f"the weights of {self.name} do not fit their card: {'; '.join(wrong) or 'vectors'}")
        self._median = tensors["median"].astype(np.float32)
        self._mean, self._spread = (tensors[k].astype(np.float64) for k in ("mean", "spread"))
        self._vectors = np.ascontiguousarray(tensors["vectors"].T.astype(np.float64))
        self._dual, self._bias = (np.ascontiguousarray(tensors[k].astype(np.float64)) for k in ("dual", "bias"))
        self._ends = np.cumsum(tensors["per_class"].astype(np.int64))
        self._gamma, self._temperature = float(card["gamma"]), float(card["temperature"])

    def scores(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return ``(n, classes)``: the sums of the logarithms of the pairs' probabilities, at most 0.

        Raises
        ------
        DataError
            ``features`` is not float32 ``(n, len(self.features))``.
        """
        if features.ndim != 2 or features.shape[1] != len(self.features) or features.dtype != np.float32:
            raise DataError(
                f"{self.name} takes float32 (n, {len(self.features)}) features; found {features.dtype} {features.shape}"
            )
        filled = np.where(np.isfinite(features), features, self._median).astype(np.float64)
        standard = np.ascontiguousarray((filled - self._mean) / self._spread)
        return _svm_scores(standard, self._vectors, self._dual, self._bias, self._ends, self._gamma)

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the calibrated probabilities, float32 ``(n, classes)``; rows add up to 1.

        Raises
        ------
        DataError
            As :meth:`scores`.
        """
        return probabilities(self.scores(features), self._temperature).astype(np.float32)

    def answer(self, features: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32]]:
        """Return the class of each cell, and the probability of its likeliest class.

        A cell whose likeliest class is less probable than ``least_probability`` is :data:`UNCATEGORISED`.

        Raises
        ------
        DataError
            As :meth:`scores`.
        """
        p = self.predict(features)
        best, sure = np.asarray(self.classes, object)[p.argmax(axis=1)], p.max(axis=1)
        return np.where(sure >= np.float32(self.least_probability), best, UNCATEGORISED), sure


def probabilities(scores: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """Return the softmax of scores over a temperature."""
    raised = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def load_red_cell_classifier(name_or_path: str) -> RedCellClassifier:
    """Load a red-cell classifier by the name of shipped weights or the path of a ``.safetensors`` file with its card.

    Raises
    ------
    MissingWeightsError
        There are no such weights.
    ModelError
        The weights are damaged, for another task, made for other features, or do not fit their card.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from wsi_pipeline.cells.red_cells import FEATURE_NAMES

    weights: Weights = find_weights(name_or_path, TASK)
    weights.verify()
    card_path = weights.path.with_suffix(".json")
    if missing := [key for key in _CARD_KEYS if key not in weights.card]:
        raise ModelError(f"{card_path}: the card lacks {', '.join(missing)}")
    if tuple(weights.card["features"]) != FEATURE_NAMES:
        raise ModelError(f"{card_path}: its features are not those of this version of the package; train it again")
    try:
        tensors = load_file(weights.path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{weights.path} cannot be read: {error}") from None
    if missing := [key for key in TENSORS if key not in tensors]:
        raise ModelError(f"{weights.path} lacks {', '.join(missing)}")
    return RedCellClassifier(weights.card, tensors)


@numba.njit(cache=True, nogil=True)
def _svm_scores(
    rows: np.ndarray, vectors: np.ndarray, dual: np.ndarray, bias: np.ndarray, ends: np.ndarray, gamma: float
) -> np.ndarray:
    """Return the sums of log-probabilities of the pairwise decisions; ``vectors`` is ``(features, m)``."""
    features, m = vectors.shape
    n = len(ends)
    out = np.zeros((len(rows), n))
    kernel = np.empty(m)
    for r in range(len(rows)):
        kernel[:] = 0
        for f in range(features):  # vectors innermost: the sum over features keeps its order
            value = rows[r, f]
            for v in range(m):
                d = value - vectors[f, v]
                kernel[v] += d * d
        for v in range(m):
            kernel[v] = math.exp(-gamma * kernel[v])
        pair = 0
        for i in range(n):
            first_i = ends[i - 1] if i else 0
            for j in range(i + 1, n):
                decision = bias[pair]
                for v in range(first_i, ends[i]):
                    decision += kernel[v] * dual[j - 1, v]
                for v in range(ends[j - 1], ends[j]):
                    decision += kernel[v] * dual[i, v]
                # log(1 + exp(z)) without overflow
                z = -SLOPE * decision
                away = math.log1p(math.exp(-abs(z)))
                out[r, i] -= max(z, 0.0) + away
                out[r, j] -= max(-z, 0.0) + away
                pair += 1
    return out
