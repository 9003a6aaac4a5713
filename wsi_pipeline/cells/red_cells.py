"""What the red-cell classifier sees: the morphology of a cell beside that of the slide's usual red cell.

Absolute size and density depend on the calibration of a scanner and on the stain; a cell that is pale or small for its
slide is so on any. So sizes and densities are also given relative to the medians of the slide's red cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsi_pipeline.cells.features import FEATURES

PLAIN = tuple(f.name for f in FEATURES if f.applies_to("red"))
"""Morphology as it stands in the cell table."""

_RELATIVE = ("area_um2", "cell_od_red", "cell_od_green", "cell_od_blue")
_STEPS = {"area_um2": 0.1, "cell_od_red": 1e-3, "cell_od_green": 1e-3, "cell_od_blue": 1e-3}
_BINS = 4096

FEATURE_NAMES = (*PLAIN, *(f"{name}_over_median" for name in _RELATIVE), "green_over_blue")


@dataclass(frozen=True, kw_only=True)
class RedReference:
    """The slide's usual red cell.

    Attributes
    ----------
    median
        Area (um2) and densities in red, green and blue.
    n_cells
        Cells behind it.
    """

    median: tuple[float, ...]
    n_cells: int

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> RedReference:
        """Return the medians of the red cells in some tables that no edge cuts; counts, so their order is nothing."""
        counts = np.zeros((len(_RELATIVE), _BINS), np.int64)
        for table in tables:
            kept = (table.column("kind").to_numpy(zero_copy_only=False) == "red") & ~table.column(
                "truncated"
            ).to_numpy()
            for i, name in enumerate(_RELATIVE):
                values = table.column(name).to_numpy()[kept]
                places = np.floor(values.astype(np.float64) / _STEPS[name])
                counts[i] += np.bincount(np.clip(places, 0, _BINS - 1).astype(np.int64), minlength=_BINS)
        n = int(counts[0].sum())
        if not n:
            return cls(median=(1.0,) * len(_RELATIVE), n_cells=0)
        bins = (np.cumsum(counts, axis=1) * 2 >= n).argmax(axis=1)
        return cls(
            median=tuple(float((b + 0.5) * _STEPS[name]) for b, name in zip(bins, _RELATIVE, strict=True)), n_cells=n
        )


def red_features(table: pa.Table, reference: RedReference) -> npt.NDArray[np.float32]:
    """Return ``(n, len(FEATURE_NAMES))`` float32 of the rows of a cell table; NaN where a feature has no value."""
    plain = np.stack([table.column(name).to_numpy() for name in PLAIN], axis=1).astype(np.float32)
    own = plain[:, [PLAIN.index(name) for name in _RELATIVE]].astype(np.float64)
    relative = own / np.maximum(reference.median, 1e-6)
    ratio = own[:, 2:3] / np.maximum(own[:, 3:4], 1e-3)
    return np.concatenate([plain, relative, ratio], axis=1).astype(np.float32)
