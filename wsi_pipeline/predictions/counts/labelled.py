"""Tables of patients whose class is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.counts.features import CLASSES, FloatArray
from wsi_pipeline.predictions.counts.findings import Finding
from wsi_pipeline.predictions.counts.reading import read_counts

IntArray = npt.NDArray[np.int64]

_SPELLINGS = {"LAL": "ALL", "LAM": "AML", "LAP": "APL", "LAM3": "APL", "AML3": "APL", "APML": "APL"}
"""French and older names of the classes."""


@dataclass(frozen=True, kw_only=True)
class LabelledCounts:
    """Patients with known classes.

    Parameters
    ----------
    values
        ``(n, 14)`` in canonical units, NaN where missing or refused.
    labels, patients, centres
        Indices ``(n,)``: of the classes, of whole patients (rows with equal values count as one), of the centres.
    centre_names
        Of the indices.
    findings
        What the reader remarked on.
    """

    values: FloatArray
    labels: IntArray
    patients: IntArray
    centres: IntArray
    centre_names: tuple[str, ...] = ("",)
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_patients(self) -> int:
        """Return the number of patients."""
        return int(np.unique(self.patients).size)

    @property
    def n_by_class(self) -> dict[str, int]:
        """Return the number of rows of each class."""
        return {name: int((self.labels == i).sum()) for i, name in enumerate(CLASSES)}

    def take(self, rows: IntArray) -> LabelledCounts:
        """Return some of the rows."""
        return LabelledCounts(
            values=self.values[rows],
            labels=self.labels[rows],
            patients=self.patients[rows],
            centres=self.centres[rows],
            centre_names=self.centre_names,
        )


def read_labelled(paths: Sequence[Path], *, label: str) -> LabelledCounts:
    """Read tables with a column that names the class: AML, ALL or APL, or their French names.

    Raises
    ------
    DataError
        A table cannot be read, a row has no class or another one, or there is one class only.
    ConfigError
        One table is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{', '.join(map(str, paths))}: one table is given twice; its patients would count twice")
    table = read_counts(list(paths), label=label)
    named = ", ".join(str(path) for path in paths)
    written = [text.strip().upper() for text in table.labels or ()]
    codes = [_SPELLINGS.get(text, text) for text in written]
    strange = sorted({text for text, code in zip(written, codes, strict=True) if code not in CLASSES})
    if strange:
        shown = ", ".join(repr(text) if text else "an empty cell" for text in strange[:5])
        raise DataError(
            f"{named}: the column {label!r} holds {shown}; each row needs one of {', '.join(CLASSES)} "
            f"(or {', '.join(sorted(_SPELLINGS))})"
        )
    if len(set(codes)) < 2:
        raise DataError(f"{named}: {len(codes)} rows, all {codes[0] if codes else 'missing'}; two classes are needed")
    centres = table.centres or ("",) * len(codes)
    names, centre = np.unique(np.asarray(centres), return_inverse=True)
    return LabelledCounts(
        values=table.values,
        labels=np.array([CLASSES.index(code) for code in codes], dtype=np.int64),
        patients=_patients(table.patients, centre, table.values),
        centres=centre.astype(np.int64),
        centre_names=tuple(names.tolist()),
        findings=table.findings,
    )


def _patients(names: Sequence[str], centre: npt.NDArray[np.intp], values: FloatArray) -> IntArray:
    """Return the patient of each row: one centre and one name, or the same values throughout, are one patient."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first_of: dict[object, int] = {}
    rows = np.arange(len(names))
    same_name = [first_of.setdefault((int(centre[row]), names[row]), row) for row in rows.tolist()]
    same_values = [first_of.setdefault(values[row].tobytes(), row) for row in rows.tolist()]
    links = (np.ones(2 * len(rows)), (np.tile(rows, 2), np.array([*same_name, *same_values])))
    part = connected_components(coo_array(links, shape=(len(rows), len(rows))), directed=False)[1]
    first: IntArray = np.unique(part, return_index=True)[1]
    return first[part]
