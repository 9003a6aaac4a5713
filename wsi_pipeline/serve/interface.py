"""What the page needs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.answers import CountsAnswer


class CountsModel(Protocol):
    """Answers for one patient."""

    @property
    def analytes(self) -> tuple[Analyte, ...]: ...
    @property
    def trained_on(self) -> str: ...

    def answer(self, patient: str, values: Mapping[str, float | None], *, precondition: bool) -> CountsAnswer: ...
