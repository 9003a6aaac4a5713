"""Classical cell classifiers: morphology of the segmented cell, then a support vector machine or boosted trees.

The file of weights is safetensors, as that of every model here, and holds plain numbers: the medians, means and
spreads of the features, and the support vectors, or XGBoost's own JSON as bytes. Nothing in it is code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch

    from wsi_pipeline.cells.crop_features import CropFeatures
    from wsi_pipeline.weights import Weights

KINDS = ("features+svm", "features+xgboost")

_F16_MAX = 6e4


class FeatureModel:
    """Features and a classical classifier on them.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    tensors
        ``median``, ``mean``, ``spread`` ``(features,)``; of an SVM ``vectors`` ``(m, features)``, ``dual``
        ``(classes - 1, m)``, ``bias`` (a value a pair of classes), ``per_class`` (vectors of each class) and
        ``gamma``; of boosted trees ``xgboost_json`` (uint8).
    n_classes
        Number of answers.
    measure
        What segments and measures; None where features are given.
    """

    def __init__(
        self, kind: str, tensors: dict[str, npt.NDArray[Any]], n_classes: int, measure: CropFeatures | None
    ) -> None:
        self.kind = kind
        self.n_classes = n_classes
        self._t = tensors
        self._measure = measure
        self._booster: Any = _booster(tensors["xgboost_json"]) if kind == "features+xgboost" else None

    @property
    def spec(self) -> FeatureModel:
        """The model itself: it knows its ``embedding_dim`` and ``n_classes``."""
        return self

    @property
    def embedding_dim(self) -> int:
        """Length of the embedding: the number of features."""
        return len(self._t["median"])

    def features_and_logits(
        self, windows: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return standardised features and logits of uint8 windows ``(n, side, side, 3)``, before the temperature."""
        import torch

        if self._measure is None:
            raise ModelError("this model was made without a segmentation; it takes features only")
        rows = self._measure.measure(windows, background)
        return torch.from_numpy(self.standardised(rows).clip(-_F16_MAX, _F16_MAX)), torch.from_numpy(self.logits(rows))

    def standardised(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return features less their mean over their spread, the missing ones at their median."""
        filled = np.where(np.isfinite(rows), rows, self._t["median"])
        return ((filled - self._t["mean"]) / self._t["spread"]).astype(np.float32)

    def logits(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return ``(n, classes)``: of an SVM the votes of the pairs, ties broken by distance; of trees their sums."""
        if self._booster is not None:
            import xgboost

            margins = self._booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
            return np.asarray(margins, np.float32).reshape(len(rows), self.n_classes)
        return _svm_votes(self.standardised(rows).astype(np.float64), self._t, self.n_classes)


def load_feature_model(weights: Weights, device: str) -> FeatureModel:
    """Return the classical model of a file and its card.

    Raises
    ------
    ModelError
        A tensor is missing or does not fit, or the features are those of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from wsi_pipeline.cells.crop_features import MPP, CropFeatures
    from wsi_pipeline.cells.features import NAMES

    description = weights.card["network"]
    card = weights.path.with_suffix(".json")
    if list(description.get("features", ())) != list(NAMES):
        raise ModelError(f"{card}: its features are not those of this version of the package; train it again")
    if abs(float(weights.card["mpp"]) - MPP) > 1e-6:
        raise ModelError(f"{card}: mpp is {weights.card['mpp']}; features are measured at {MPP} um per pixel")
    try:
        tensors = load_file(weights.path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{weights.path} cannot be read: {error}") from None
    wanted = ["median", "mean", "spread"]
    wanted += (
        ["xgboost_json"]
        if description["kind"] == "features+xgboost"
        else ["vectors", "dual", "bias", "per_class", "gamma"]
    )
    missing = [name for name in wanted if name not in tensors]
    if missing or any(len(tensors[name]) != len(NAMES) for name in wanted[:3]):
        raise ModelError(f"{weights.path} does not fit its card: {', '.join(missing) or 'numbers of features differ'}")
    n_classes = len(weights.card["classes"])
    if "per_class" in tensors and len(tensors["per_class"]) != n_classes:
        raise ModelError(f"{weights.path} has {len(tensors['per_class'])} outputs, its card {n_classes} classes")
    features = CropFeatures(device)
    if description.get("segmented_by_sha256") != features.sha256:
        raise ModelError(f"{card}: trained with another segmentation network than this version's; train it again")
    return FeatureModel(description["kind"], tensors, n_classes, features)


def _booster(content: npt.NDArray[np.uint8]) -> Any:
    import xgboost

    try:
        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(content.tobytes()))
    except xgboost.core.XGBoostError as error:
        raise ModelError(f"the XGBoost model cannot be read: {str(error).splitlines()[0]}") from None
    return booster


def _svm_votes(x: npt.NDArray[np.float64], t: dict[str, npt.NDArray[Any]], n_classes: int) -> npt.NDArray[np.float32]:
    """One-against-one decisions of an RBF machine, summed as scikit-learn does for ``ovr`` (votes, then distances)."""
    vectors, dual, bias = (t[name].astype(np.float64) for name in ("vectors", "dual", "bias"))
    square = (x**2).sum(1)[:, None] + (vectors**2).sum(1)[None] - 2 * x @ vectors.T
    kernel = np.exp(-float(t["gamma"][0]) * np.maximum(square, 0))
    ends = np.cumsum(t["per_class"].astype(int))
    of = [slice(end - n, end) for end, n in zip(ends.tolist(), t["per_class"].astype(int).tolist(), strict=True)]
    votes, sums = np.zeros((len(x), n_classes)), np.zeros((len(x), n_classes))
    pair = 0
    for i in range(n_classes):
        for j in range(i + 1, n_classes):
            decision = kernel[:, of[i]] @ dual[j - 1, of[i]] + kernel[:, of[j]] @ dual[i, of[j]] + bias[pair]
            votes[:, i] += decision > 0
            votes[:, j] += decision <= 0
            sums[:, i] += decision
            sums[:, j] -= decision
            pair += 1
    return (votes + sums / (3 * (np.abs(sums) + 1))).astype(np.float32)
