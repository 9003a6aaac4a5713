"""Shapes of red cells: what their classifier sees, and the pass over the cell table that names them.

It sees the morphology of a cell beside that of the slide's usual red cell. Absolute size and density depend on the
calibration of a scanner and on the stain; a cell that is pale or small for its slide is so on any. So sizes and
densities are also given relative to the medians of the slide's red cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.red_cell_model import RedCellClassifier

PLAIN = tuple(f.name for f in FEATURES if f.applies_to("red"))
"""Morphology as it stands in the cell table."""

_RELATIVE = ("area_um2", "cell_od_red", "cell_od_green", "cell_od_blue")
_STEPS = {"area_um2": 0.1, "cell_od_red": 1e-3, "cell_od_green": 1e-3, "cell_od_blue": 1e-3}
_BINS = 4096

LARGEST_OVER_MEDIAN = 2.5
"""A red cell of more than this many usual areas is taken for several that overlap."""
JOINED_OVER_MEDIAN, JOINED_SOLIDITY = 1.4, 0.93
"""So is one of more than this many whose outline is less solid than this: two cells side by side have a waist."""
DIAMETER_STEP_UM, DIAMETER_BINS = 0.25, 64
"""Bins of the histogram of diameters; the last takes all above."""

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
            red = pa.compute.equal(table.column("kind"), "red").to_numpy()
            kept = red & ~table.column("truncated").to_numpy()
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


NEEDED = ("kind", "truncated", *PLAIN)
"""Columns of the cell table that naming needs."""


def scan(table: Path) -> Iterator[pa.Table]:
    """Yield what the reference needs of a table's rows, a row group at a time."""
    with pq.ParquetFile(table) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["kind", "truncated", *_RELATIVE])


@dataclass(kw_only=True)
class RedCellPass:
    """Names the red cells of the bands of a table, and counts them.

    Judged are red cells that no edge cuts and that are not several overlapping ones; the others keep ``red_cell``.
    Each cell is worked out by itself, so neither bands nor their order change a result.

    Parameters
    ----------
    classifier
        What names them.
    reference
        The slide's usual red cell.

    Attributes
    ----------
    counts
        Judged cells by class.
    left_out
        Red cells that were not judged: ``truncated``, ``overlapping``.
    diameters
        ``(DIAMETER_BINS,)`` judged cells by equivalent diameter.
    sums
        Number of judged cells, and sums of diameter (um), diameter^2, area (um2) and area^2, in table order.
    """

    classifier: RedCellClassifier
    reference: RedReference
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    diameters: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(DIAMETER_BINS, np.int64))
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))
    _features: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, len(FEATURE_NAMES))))

    def __call__(self, band: pa.Table) -> pa.Table:
        """Return a band with the classes and probabilities of its red cells."""
        red = np.flatnonzero(pa.compute.equal(band.column("kind"), "red").to_numpy())
        if not red.size:
            return band
        rows = band.select(NEEDED).take(pa.array(red))
        cut = rows.column("truncated").to_numpy()
        area = rows.column("area_um2").to_numpy().astype(np.float64)
        over = area / self.reference.median[0]
        joined = (over > JOINED_OVER_MEDIAN) & (rows.column("solidity").to_numpy() < JOINED_SOLIDITY)
        several = ~cut & ((over > LARGEST_OVER_MEDIAN) | joined)
        self.left_out.update(truncated=int(cut.sum()), overlapping=int(several.sum()))
        judged = np.flatnonzero(~cut & ~several)
        if not judged.size:
            return band
        features = red_features(rows.take(pa.array(judged)), self.reference)
        names, probability = self.classifier.answer(features)
        there = np.isfinite(features)
        self._features += [np.where(there, features.astype(np.float64), 0).sum(axis=0), there.sum(axis=0)]
        self.counts.update(names.tolist())
        self._measure(area[judged])
        code = band.column("class_name").to_numpy(zero_copy_only=False).astype(object)
        support = band.column("class_probability").to_numpy().copy()
        code[red[judged]], support[red[judged]] = names, probability
        for name, values in (
            ("class_name", pa.array(code, pa.string())),
            ("class_probability", pa.array(support, pa.float32())),
        ):
            band = band.set_column(band.schema.get_field_index(name), band.schema.field(name), values)
        return band

    def outside(self) -> tuple[str, ...]:
        """Return the features in which the slide's mean red cell lies outside what the classifier has learnt from."""
        domain = self.classifier.card.get("domain")
        total, n = self._features
        if domain is None or not n.any():
            return ()
        mean = total / np.maximum(n, 1)
        out = (n > 0) & ((mean < domain["lower"]) | (mean > domain["upper"]))
        return tuple(np.asarray(FEATURE_NAMES, object)[out])

    def _measure(self, area: npt.NDArray[np.float64]) -> None:
        diameter = 2 * np.sqrt(area / np.pi)
        bins = np.minimum((diameter / DIAMETER_STEP_UM).astype(np.int64), DIAMETER_BINS - 1)
        self.diameters += np.bincount(bins, minlength=DIAMETER_BINS)
        self.sums += [len(area), diameter.sum(), (diameter**2).sum(), area.sum(), (area**2).sum()]
