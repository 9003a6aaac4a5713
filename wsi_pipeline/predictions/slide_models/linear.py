"""Members that weigh the numbers of one input: logistic regression with a strong ridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.inputs import Appearance, Input, input_of
from wsi_pipeline.predictions.slide_models.member import array, centred
from wsi_pipeline.predictions.slide_models.subject import Subject


@dataclass(frozen=True, kw_only=True)
class LinearMember:
    """Margins ``((x - mean) / spread) @ coefficients + intercept`` of an input's numbers x ``(d,)``.

    Parameters
    ----------
    mean, spread
        ``(d,)`` of the training part.
    coefficients, intercept
        ``(d, classes)`` and ``(classes,)``.
    """

    kind: ClassVar[str] = "linear"

    name: str
    input: Input
    mean: FloatArray
    spread: FloatArray
    coefficients: FloatArray
    intercept: FloatArray

    def applies(self, subject: Subject) -> bool:
        return self.input.applies(subject)

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        x = self.input.read(subject, subject.views[0], weights)
        return centred((x - self.mean) / self.spread @ self.coefficients + self.intercept)

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        return None

    def attention(self, subject: Subject) -> FloatArray | None:
        return None

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "mean": self.mean,
            "spread": self.spread,
            "coefficients": self.coefficients,
            "intercept": self.intercept,
            **self.input.tensors(),
        }

    def settings(self) -> dict[str, Any]:
        return self.input.settings()

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> LinearMember:
        """Return the member of a file."""
        read = input_of(settings, tensors)
        d = len(read.names)
        return cls(
            name=name,
            input=read,
            mean=array(tensors, "mean", (d,)),
            spread=array(tensors, "spread", (d,)),
            coefficients=array(tensors, "coefficients", (d, n_classes)),
            intercept=array(tensors, "intercept", (n_classes,)),
        )

    @property
    def reads_embedding(self) -> bool:
        """Tell whether the input is made of embeddings."""
        return isinstance(self.input, Appearance)
