"""Members that read the slide features: trees of XGBoost, and one small tree that can be printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.boosters import load_booster
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_features.feature import FloatArray, IntArray
from wsi_pipeline.predictions.slide_models.member import array, centred
from wsi_pipeline.predictions.slide_models.subject import Subject

if TYPE_CHECKING:
    import xgboost

MAX_NODES = 127


@dataclass(frozen=True, kw_only=True)
class FeatureColumns:
    """Which of the features of a vocabulary are read, by their places."""

    vocabulary: Vocabulary
    columns: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        every = self.vocabulary.names
        return tuple(every[i] for i in self.columns)

    def read(self, subject: Subject, weights: FloatArray) -> FloatArray:
        """Return ``(B, columns)``, NaN where a feature cannot be told."""
        return subject.features(self.vocabulary, weights)[:, list(self.columns)]

    def settings(self) -> dict[str, Any]:
        """Return what a file holds."""
        return {"vocabulary": self.vocabulary.to_dict(), "columns": list(self.names)}

    @classmethod
    def load(cls, settings: Mapping[str, Any]) -> FeatureColumns:
        """Return what a file holds."""
        vocabulary = Vocabulary.from_dict(settings["vocabulary"])
        place = {name: i for i, name in enumerate(vocabulary.names)}
        unknown = [name for name in settings["columns"] if name not in place]
        if unknown:
            raise ModelError(f"it reads {str(unknown[0])[:60]!r}, which is no feature of its vocabulary")
        return cls(vocabulary=vocabulary, columns=tuple(place[name] for name in settings["columns"]))


@dataclass(frozen=True, kw_only=True)
class _Features:
    name: str
    features: FeatureColumns

    def applies(self, subject: Subject) -> bool:
        return len(subject.bag) > 0

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        return None

    def attention(self, subject: Subject) -> FloatArray | None:
        return None


@dataclass(frozen=True, kw_only=True)
class BoosterMember(_Features):
    """Trees of XGBoost with the objective ``multi:softprob``."""

    kind: ClassVar[str] = "booster"

    booster: xgboost.Booster

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        x = self.features.read(subject, weights)
        found = self.booster.inplace_predict(x, predict_type="margin", validate_features=False)
        return centred(np.asarray(found, np.float64).reshape(len(x), -1))

    def contributions(self, subject: Subject) -> FloatArray:
        """Return what each column adds to the margin of each class, ``(columns, classes)`` (TreeSHAP)."""
        import xgboost

        x = self.features.read(subject, np.ones((1, len(subject.bag))))
        found = self.booster.predict(xgboost.DMatrix(x), pred_contribs=True, strict_shape=True)
        return centred(np.asarray(found[0, :, :-1], np.float64).T)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {"booster": np.frombuffer(bytes(self.booster.save_raw("json")), np.uint8)}

    def settings(self) -> dict[str, Any]:
        return self.features.settings()

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> BoosterMember:
        """Return the member of a file."""
        features = FeatureColumns.load(settings)
        raw = array(tensors, "booster", (None,))
        document = json.loads(raw.astype(np.uint8).tobytes())
        booster = load_booster(document, columns=len(features.columns), outputs=n_classes, threads=1)
        return cls(name=name, features=features, booster=booster)


@dataclass(frozen=True, kw_only=True)
class TreeMember(_Features):
    """One small tree (CART), whose answers are those of its leaf.

    Parameters
    ----------
    column, threshold
        ``(nodes,)``: a value up to the threshold goes to ``below``, others to ``above``; column -1 in a leaf.
    below, above
        ``(nodes,)``: children, after their parent.
    fill
        ``(columns,)``: training medians, in place of what is missing.
    counts
        ``(nodes, classes)``: training patients.
    """

    kind: ClassVar[str] = "tree"

    column: IntArray
    threshold: FloatArray
    below: IntArray
    above: IntArray
    fill: FloatArray
    counts: FloatArray

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        x = self.features.read(subject, weights)
        x = np.where(np.isnan(x), self.fill, x)
        node = np.zeros(len(x), np.int64)
        rows = np.arange(len(x))
        while (inner := self.column[node] >= 0).any():
            low = x[rows, np.maximum(self.column[node], 0)] <= self.threshold[node]
            node = np.where(inner, np.where(low, self.below[node], self.above[node]), node)
        return centred(np.log(self.counts[node] + 1.0))

    def text(self, classes: tuple[str, ...]) -> str:
        """Return the tree for people: a line a question, a line a leaf with its training patients."""
        lines: list[str] = []

        def walk(node: int, depth: int, said: str) -> None:
            here = ", ".join(f"{name} {int(n)}" for name, n in zip(classes, self.counts[node], strict=True))
            lines.append(f"{'    ' * depth}{said}{': ' if said else ''}{here}")
            if self.column[node] >= 0:
                name = self.features.names[int(self.column[node])]
                limit = f"{self.threshold[node]:g}"
                walk(int(self.below[node]), depth + 1, f"{name} <= {limit}")
                walk(int(self.above[node]), depth + 1, f"{name} > {limit}")

        walk(0, 0, "")
        return "\n".join(lines)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in ("column", "threshold", "below", "above", "fill", "counts")}

    def settings(self) -> dict[str, Any]:
        return self.features.settings()

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> TreeMember:
        """Return the member of a file."""
        features = FeatureColumns.load(settings)
        column = array(tensors, "column", (None,)).astype(np.int64)
        n, d = len(column), len(features.columns)
        below, above = (array(tensors, key, (n,)).astype(np.int64) for key in ("below", "above"))
        counts = array(tensors, "counts", (n, n_classes))
        inner, own = column >= 0, np.arange(n)
        sound = n <= MAX_NODES and bool((column < d).all()) and bool((counts >= 0).all())
        for child in (below, above):
            sound = sound and bool((child[inner] > own[inner]).all() and (child[inner] < n).all())
        if not sound:
            raise ModelError("its tree is damaged")
        return cls(
            name=name, features=features, column=column, threshold=array(tensors, "threshold", (n,)), below=below,
            above=above, fill=array(tensors, "fill", (d,)), counts=counts,
        )  # fmt: skip
