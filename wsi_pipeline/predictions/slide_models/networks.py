"""Members that look at each cell: gated attention, and morphotypes. Trained with torch, answered in numpy.

*Gated attention* (Ilse, Tomczak, Welling, ICML 2018, arXiv:1802.04712): a cell's weight is the softmax over the bag of
``w . (tanh(V x) * sigmoid(U x))``, the answer a linear map of the weighted mean. *Morphotypes* (as in Haemorasis,
de Almeida et al., Nat Commun 14:3961, 2023): each cell is shared out among K virtual types by a softmax, the answer a
linear map of the mean shares.

A cell is read as its embedding on the axes of a :class:`CellFrame`, and what it is: by its label, where it has one.
Where a task asks about leukaemia, immature cells weigh more from the start, as in DeepAPL (Sidhom et al., npj Precis
Oncol 5:38, 2021), which looks at them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.frame import CellFrame
from wsi_pipeline.predictions.slide_models.member import array, centred
from wsi_pipeline.predictions.slide_models.subject import Subject, View

_CLIP = 4.0
"""Spreads beyond which an axis says no more."""
_CLASS_SCALE = 2.0
_UNFOCUSED = 0.05
"""Weight of a mature cell where one that is surely immature has 1.05."""


@dataclass(frozen=True, kw_only=True)
class CellReader:
    """Numbers ``(n, k + C)`` of each cell, and how much it weighs before it is looked at.

    ``focus`` says whether immature cells weigh more.
    """

    frame: CellFrame
    focus: bool

    @property
    def dim(self) -> int:
        """Return the numbers of a cell."""
        return self.frame.dim + len(self.frame.classes)

    def read(self, subject: Subject, view: View) -> FloatArray:
        """Return the numbers of the cells."""
        cells = np.clip(self.frame.cells(subject), -_CLIP, _CLIP)
        return np.concatenate([cells, _CLASS_SCALE * view.classes], axis=1)

    def prior(self, view: View) -> FloatArray:
        """Return the weights before ``(n,)``."""
        return _UNFOCUSED + view.immature if self.focus else np.ones(len(view.immature))

    def settings(self) -> dict[str, Any]:
        """Return what a file holds beside the frame's arrays."""
        return {"focus": self.focus, **self.frame.settings()}

    @classmethod
    def load(cls, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> CellReader:
        """Return the reader of a file."""
        return cls(frame=CellFrame.load(settings, tensors), focus=bool(settings["focus"]))


@dataclass(frozen=True, kw_only=True)
class _Network:
    name: str
    reader: CellReader
    arrays: Mapping[str, FloatArray]

    def applies(self, subject: Subject) -> bool:
        return subject.bag.embedding is not None and len(subject.bag) > 0

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {**self.arrays, **self.reader.frame.tensors()}

    def settings(self) -> dict[str, Any]:
        return self.reader.settings()


@dataclass(frozen=True, kw_only=True)
class AttentionMember(_Network):
    """Gated attention; arrays ``v``, ``u`` ``(d, h)`` with biases, ``w`` ``(h,)``, ``head`` ``(d, classes)``, bias."""

    kind: ClassVar[str] = "attention"

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        view = subject.views[0]
        x = self.reader.read(subject, view)
        own = weights * (self.reader.prior(view) * np.exp(self._scores(x)))[None]
        own /= own.sum(axis=1, keepdims=True)
        return centred(own @ (x @ self.arrays["head"]) + self.arrays["bias"])

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        x = self.reader.read(subject, subject.views[0])
        return centred(x @ self.arrays["head"] + self.arrays["bias"])

    def attention(self, subject: Subject) -> FloatArray | None:
        view = subject.views[0]
        found = self.reader.prior(view) * np.exp(self._scores(self.reader.read(subject, view)))
        return found / found.sum()

    def _scores(self, x: FloatArray) -> FloatArray:
        a = self.arrays
        gate = 1 / (1 + np.exp(-(x @ a["u"] + a["u_bias"])))
        found: FloatArray = (np.tanh(x @ a["v"] + a["v_bias"]) * gate) @ a["w"]
        return found - found.max()

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> AttentionMember:
        """Return the member of a file."""
        reader = CellReader.load(settings, tensors)
        d, h = reader.dim, array(tensors, "w", (None,)).shape[0]
        shapes = {
            "v": (d, h),
            "u": (d, h),
            "v_bias": (h,),
            "u_bias": (h,),
            "w": (h,),
            "head": (d, n_classes),
            "bias": (n_classes,),
        }
        return cls(name=name, reader=reader, arrays={key: array(tensors, key, shape) for key, shape in shapes.items()})


@dataclass(frozen=True, kw_only=True)
class MorphotypeMember(_Network):
    """Morphotypes; arrays ``types`` ``(d, K)``, ``types_bias``, ``head`` ``(K, classes)``, ``bias``."""

    kind: ClassVar[str] = "morphotypes"

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        own = weights * self.reader.prior(subject.views[0])[None]
        shares = own @ self.shares(subject) / own.sum(axis=1, keepdims=True)
        return centred(shares @ self.arrays["head"] + self.arrays["bias"])

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        return centred(self.shares(subject) @ self.arrays["head"] + self.arrays["bias"])

    def attention(self, subject: Subject) -> FloatArray | None:
        return None

    def shares(self, subject: Subject) -> FloatArray:
        """Return each cell's share in each type, ``(n, K)``."""
        logits = self.reader.read(subject, subject.views[0]) @ self.arrays["types"] + self.arrays["types_bias"]
        found: FloatArray = np.exp(logits - logits.max(axis=1, keepdims=True))
        return found / found.sum(axis=1, keepdims=True)

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> MorphotypeMember:
        """Return the member of a file."""
        reader = CellReader.load(settings, tensors)
        k = array(tensors, "types_bias", (None,)).shape[0]
        shapes = {"types": (reader.dim, k), "types_bias": (k,), "head": (k, n_classes), "bias": (n_classes,)}
        return cls(name=name, reader=reader, arrays={key: array(tensors, key, shape) for key, shape in shapes.items()})
