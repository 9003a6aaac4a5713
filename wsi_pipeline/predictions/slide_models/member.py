"""What a model is put together from: members, each with margins of its own for every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.subject import Subject


class Member(Protocol):
    """A fitted part of a model. Margins are log-odds, centred over the classes.

    Parameters of its methods: ``weights`` is ``(B, n)``, how often each cell counts in each of B resamples.
    """

    @property
    def kind(self) -> str:
        """Of :data:`~wsi_pipeline.predictions.slide_models.storage.KINDS`."""

    @property
    def name(self) -> str:
        """What it is called in a card; members of one name are averaged."""

    def applies(self, subject: Subject) -> bool:
        """Tell whether the subject has what the member reads."""

    def margins(self, subject: Subject, weights: FloatArray) -> FloatArray:
        """Return ``(B, classes)``."""

    def cell_margins(self, subject: Subject) -> FloatArray | None:
        """Return the margins ``(n, classes)`` of each cell alone; None of a member that looks at none alone."""

    def attention(self, subject: Subject) -> FloatArray | None:
        """Return the weight of each cell ``(n,)``, adding up to 1; None of a member that does not weigh cells."""

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return its arrays by name."""

    def settings(self) -> dict[str, Any]:
        """Return the rest of it, JSON values only."""


def centred(margins: FloatArray) -> FloatArray:
    """Return margins that sum to 0 over the classes, the last axis."""
    found: FloatArray = margins - margins.mean(axis=-1, keepdims=True)
    return found


def array(tensors: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Return an array of a file that nobody vouches for.

    Parameters
    ----------
    shape
        That it must have; None where any length will do.

    Raises
    ------
    ModelError
        It is missing, has another shape, or holds what is no number.
    """
    found = tensors.get(name)
    if found is None:
        raise ModelError(f"its array {name} is missing")
    if len(found.shape) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, found.shape, strict=True)
    ):
        raise ModelError(f"its array {name} has shape {found.shape}, {shape} is needed")
    if found.dtype.kind == "f":
        found = found.astype(np.float64)
        if not np.isfinite(found).all():
            raise ModelError(f"its array {name} holds values that are no numbers")
    return found
