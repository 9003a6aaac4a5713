"""Patients, and rows of the same values, that come more than once in the tables read together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.findings import Findings
from wsi_pipeline.predictions.counts.survey import Survey

MIN_VALUES = 5
"""Rows with fewer values are alike by chance, and are not reported as the same. Our choice."""

_First = dict[int, tuple[int, int]]


class Repeats:
    """Where each repeated patient, and each repeated row of values, came first: table and line."""

    def __init__(self, surveys: Sequence[Survey], names: Sequence[str]) -> None:
        self._names = names
        self._patients = _first_places([survey.patient_hashes for survey in surveys], surveys)
        self._values = _first_places([survey.value_hashes for survey in surveys], surveys)

    def report(
        self,
        table: int,
        lines: Sequence[int],
        patients: npt.NDArray[np.int64],
        values: npt.NDArray[np.int64],
        n_values: npt.NDArray[np.int64],
        out: Findings,
    ) -> None:
        """Report the rows of a chunk that came before.

        Parameters
        ----------
        table
            Position among the tables.
        patients, values
            Hashes of the rows; ``patients`` is empty where no patient is named.
        n_values
            Values of each row.
        """
        same_values = [
            row
            for row in _known(values, self._values)
            if n_values[row] >= MIN_VALUES and self._values[int(values[row])] != (table, lines[row])
        ]
        same_patient = [
            row for row in _known(patients, self._patients) if self._patients[int(patients[row])] != (table, lines[row])
        ]
        out.each(
            same_patient,
            "",
            "duplicate",
            None,
            lambda row: f"the same patient as {self._place(self._patients[int(patients[row])], table)}; both are kept",
        )
        out.each(
            same_values,
            "",
            "duplicate",
            None,
            lambda row: f"the same values as {self._place(self._values[int(values[row])], table)}; both are kept",
        )

    def _place(self, place: tuple[int, int], table: int) -> str:
        name, line = self._names[place[0]], place[1]
        return f"row {line}" if place[0] == table else f"row {line} of {name}"


def _first_places(hashes: Sequence[npt.NDArray[np.int64]], surveys: Sequence[Survey]) -> _First:
    tables = np.repeat(np.arange(len(hashes)), [len(part) for part in hashes])
    lines = np.concatenate([s.lines if len(part) else s.lines[:0] for s, part in zip(surveys, hashes, strict=True)])
    found, first, count = np.unique(np.concatenate(hashes), return_index=True, return_counts=True)
    again = count > 1
    places = zip(tables[first[again]].tolist(), lines[first[again]].tolist(), strict=True)
    return dict(zip(found[again].tolist(), places, strict=True))


def _known(hashes: npt.NDArray[np.int64], first: _First) -> list[int]:
    if not first:
        return []
    return [row for row, value in enumerate(hashes.tolist()) if value in first]
