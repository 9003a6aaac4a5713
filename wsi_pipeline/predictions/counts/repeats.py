"""Patients, and rows of the same values, that come more than once in the tables read together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from wsi_pipeline.predictions.counts.findings import Findings

Hashes = npt.NDArray[np.uint64]

MIN_VALUES = 5
"""Rows with fewer values are alike by chance, and are not reported as the same. Our choice."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


def hash_lines(table: str, lines: npt.NDArray[np.int64]) -> Hashes:
    """Return a hash of each line of a table."""
    return _mixed(_hash_texts([table]), lines.astype(np.uint64))


def hash_patients(
    names: Sequence[str], centres: Sequence[str], centre: npt.NDArray[np.intp], unnamed: Hashes
) -> Hashes:
    """Return a hash of each patient within its centre (position in ``centres``); ``unnamed`` where a name is empty."""
    named = np.array([bool(name) for name in names])
    return np.where(named, _mixed(_hash_texts(centres)[centre], _hash_texts(names)), unnamed)


def _hash_texts(texts: Sequence[str]) -> Hashes:
    return np.asarray(pd.util.hash_array(np.array(texts, dtype=object), categorize=False), dtype=np.uint64)


def hash_values(columns: Sequence[npt.NDArray[np.float64]], unique: Hashes) -> Hashes:
    """Return a hash of each row of values; ``unique`` of the row where it has too few."""
    mixed = np.zeros(len(unique), dtype=np.uint64)
    count = np.zeros(len(unique), dtype=np.int64)
    for column in columns:
        mixed = _mixed(mixed, np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64))
        count += ~np.isnan(column)
    return np.where(count >= MIN_VALUES, mixed, unique)


def _mixed(mixed: Hashes, bits: Hashes) -> Hashes:
    rotated = (mixed << np.uint64(23)) | (mixed >> np.uint64(41))
    mixed = (rotated ^ bits) * _MIX
    return mixed ^ (mixed >> np.uint64(29))


class Repeats:
    """Which rows came before, and where.

    Parameters
    ----------
    patients, values
        Hashes of all rows, one array a table.
    lines
        Line of each row.
    names
        Of the tables, in messages.
    """

    def __init__(
        self,
        patients: Sequence[Hashes],
        values: Sequence[Hashes],
        lines: Sequence[npt.NDArray[np.int64]],
        names: Sequence[str],
    ) -> None:
        self._names = names
        self._lines = np.concatenate(lines)
        self._starts = np.cumsum([0, *map(len, lines)])
        self._first = {"patient": _first(np.concatenate(patients)), "values": _first(np.concatenate(values))}

    def report(self, table: int, start: int, n: int, out: Findings) -> None:
        """Report those of ``n`` rows from ``start`` of a table that came before."""
        begin = int(self._starts[table]) + start
        for what in self._first:
            self._report(what, table, begin, n, out)

    def _report(self, what: str, table: int, begin: int, n: int, out: Findings) -> None:
        first = self._first[what][begin : begin + n]
        again = np.flatnonzero(first != np.arange(begin, begin + n))
        out.each(
            again,
            "",
            "duplicate",
            None,
            lambda row: f"the same {what} as {self._place(int(first[row]), table)}; both are kept",
        )

    def _place(self, row: int, table: int) -> str:
        home = int(np.searchsorted(self._starts, row, side="right")) - 1
        line = f"row {self._lines[row]}"
        return line if home == table else f"{line} of {self._names[home]}"


def _first(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Return for each row the first with the same hash."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse]
