"""What a feature is, and a subject's vector of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Family = Literal[
    "composition", "ratio", "morphology", "stain", "attribute", "dysplasia", "red", "doubt", "embedding",
    "megakaryocyte", "phenotype", "arrangement", "cellularity", "mekanet",
]  # fmt: skip

MIN_CELLS = 5
"""Fewest cells behind a quantile or a spread; below, the feature is NaN."""
MIN_RED_CELLS = 100
"""Fewest judged red cells behind an index of red cells."""


@dataclass(frozen=True, kw_only=True)
class SlideFeature:
    """One column.

    Parameters
    ----------
    name
        Parts joined by dots: what it is of, the class or group, the measure.
    family
        What it is made from; models choose by it.
    unit
        ``1`` for shares, ``log2``, ``bit``, ``um``, ``um2``, ``OD``, or ``a.u.`` for directions of an embedding.
    description
        In words, with what its number of cells counts.
    """

    name: str
    family: Family
    unit: str
    description: str


@dataclass(frozen=True, kw_only=True)
class SlideFeatures:
    """A subject's features.

    Parameters
    ----------
    names
        ``d`` names, in the order of the vocabulary.
    values
        ``(d,)`` float64, NaN where there are too few cells or nothing was told.
    n
        ``(d,)`` cells behind each value.
    """

    names: tuple[str, ...]
    values: FloatArray
    n: IntArray


class Columns:
    """Collects a family's values in their order."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.n: list[int] = []

    def add(self, value: float, n: float) -> None:
        """Add a value and the cells behind it."""
        self.values.append(float(value))
        self.n.append(round(n))
