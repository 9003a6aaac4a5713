"""Labelled rows of analyser values, and what may not be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.counts.analytes import Analyte

LEAST_KNOWN = 0.5
"""Share of patients who must have an analyte for it to be learnt from: with fewer, most of a column would be filled."""


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Blood counts with a label.

    Parameters
    ----------
    patients
        Number of each row's patient, ``(n,)``.
    values
        ``(n, analytes)``, canonical units, NaN missing.
    positive
        ``(n,)``; the same for all rows of a patient.
    analytes
        Of the columns.
    positive_name, negative_name
        The label asked for, and what the others are called together.
    simulated
        Whether any row is simulated.
    left_out
        Short names of analytes that too few patients have.
    """

    patients: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    analytes: tuple[Analyte, ...]
    positive_name: str
    negative_name: str
    simulated: bool
    left_out: tuple[str, ...] = ()

    def take(self, rows: npt.NDArray[np.int64]) -> LabelledRows:
        """Return some of the rows."""
        return LabelledRows(
            patients=self.patients[rows], values=self.values[rows], positive=self.positive[rows],
            analytes=self.analytes, positive_name=self.positive_name, negative_name=self.negative_name,
            simulated=self.simulated, left_out=self.left_out,
        )  # fmt: skip

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """Return the first row of each patient, in the order of the table: the one that is assessed."""
        return np.sort(np.unique(self.patients, return_index=True)[1])

    @property
    def counts(self) -> tuple[int, int]:
        """Return the number of positive patients and of patients."""
        return int(self.positive[self.first].sum()), len(self.first)

    @property
    def cut(self) -> float:
        """Return the share of positive patients."""
        return self.counts[0] / self.counts[1]

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Return row weights, ``(n,)``: each patient weighs the same however many rows, each label half, sum ``n``."""
        each = 1 / np.bincount(self.patients)[self.patients]
        half = np.where(self.positive, each[self.positive].sum(), each[~self.positive].sum())
        return each / half * len(each) / 2


def labelled_rows(
    patients: Sequence[str],
    values: npt.NDArray[np.float64],
    labels: Sequence[str],
    analytes: Sequence[Analyte],
    *,
    positive: str,
    simulated: bool,
    source: str,
    least_patients: int,
) -> LabelledRows:
    """Check rows and drop the analytes that too few patients have.

    Parameters
    ----------
    labels
        As written; those equal to ``positive`` (case and outer space apart) are positive, all others negative.
    source
        Named in errors.
    least_patients
        Patients needed of either label.

    Raises
    ------
    DataError
        There are no rows, a row has no label, there is one class only, a patient has both labels, a label has too few
        patients, or no analyte is known well enough.
    """
    if not len(labels):
        raise DataError(f"{source} has no rows; a table of patients with values and a label is needed")
    wanted = positive.strip().casefold()
    if blank := [patient for patient, label in zip(patients, labels, strict=True) if not label.strip()]:
        raise DataError(f"{source}: {len(blank)} rows have no label ({some(blank)}); give each a label or leave it out")
    is_positive = np.array([label.strip().casefold() == wanted for label in labels])
    others = sorted({label.strip() for label, yes in zip(labels, is_positive, strict=True) if not yes})
    if not is_positive.any():
        raise DataError(f"{source}: no row has the label {positive!r}; found {some(others)}")
    if not others:
        raise DataError(f"{source}: all rows have the label {positive!r}; one class only cannot be learnt from")
    names, number = np.unique(np.asarray(patients), return_inverse=True)
    share = np.bincount(number, weights=is_positive) / np.bincount(number)
    if both := names[(share > 0) & (share < 1)].tolist():
        raise DataError(f"{source}: patients with both labels ({some(both)}); each patient needs one label")
    n_positive = int((share == 1).sum())
    for name, n in ((positive.strip(), n_positive), ("other labels", len(names) - n_positive)):
        if n < least_patients:
            raise DataError(f"{source}: {n} patients have {name}; at least {least_patients} are needed")
    has = np.zeros((len(names), len(analytes)), dtype=bool)
    np.logical_or.at(has, number, ~np.isnan(values))
    kept = has.mean(axis=0) >= LEAST_KNOWN
    if not kept.any():
        raise DataError(
            f"{source}: no analyte is known of at least half of the patients; "
            f"columns for {', '.join(a.short['en'] for a in analytes)} are looked for"
        )
    return LabelledRows(
        patients=number.astype(np.int64),
        values=values[:, kept],
        positive=is_positive,
        analytes=tuple(a for a, keep in zip(analytes, kept, strict=True) if keep),
        positive_name=positive.strip(),
        negative_name=others[0] if len(others) == 1 else f"not {positive.strip()}",
        simulated=simulated,
        left_out=tuple(a.short["en"] for a, keep in zip(analytes, kept, strict=True) if not keep),
    )
