"""The tuned encoder as a member of a slide-level model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.encoder import TunedEncoder
from wsi_pipeline.predictions.slide_models.subject import Subject


@dataclass(frozen=True, kw_only=True)
class EncoderMember:
    """Margins are the encoder's logits, averaged over the immature cells. It reads pixels, not only the run."""

    kind: ClassVar[str] = "encoder"

    name: str
    encoder: TunedEncoder

    def applies(self, subject: Subject) -> bool:
        return len(subject.bag) > 0

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        return self.encoder.look(subject.bag).subject(weights)

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        looked = self.encoder.look(subject.bag)
        found = np.zeros((len(subject.bag), looked.logits.shape[1]))
        found[looked.rows] = looked.logits
        return found

    def attention(self, subject: Subject) -> FloatArray | None:
        return None

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return self.encoder.arrays()

    def settings(self) -> dict[str, Any]:
        return self.encoder.spec.to_dict()

    @classmethod
    def load(
        cls, name: str, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
    ) -> EncoderMember:
        """Return the member of a file."""
        encoder = TunedEncoder.of_arrays(settings, tensors)
        if encoder.spec.n_classes != n_classes:
            raise ModelError(f"its encoder answers {encoder.spec.n_classes} classes, the task has {n_classes}")
        return cls(name=name, encoder=encoder)
