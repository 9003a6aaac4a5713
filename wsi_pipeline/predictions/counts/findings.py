"""What a person must know about a table that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Kind = Literal[
    "converted",
    "at-limit",
    "ambiguous",
    "refused",
    "inconsistent",
    "missing",
    "derived",
    "unknown-column",
    "duplicate",
    "empty-row",
    "encoding",
]
"""``converted``: another unit or way of writing. ``at-limit``: ``<x`` taken as x. ``ambiguous``: taken as declared,
though the value fits another unit too. ``refused``: the value is not used. ``inconsistent``: values of one row
contradict each other. ``missing``: no column of this analyte. ``derived``: computed from other values of the row."""

MOST = 1000
"""Findings of one kind in one column of one chunk; more are summarised, so that memory stays flat."""

_SHOWN = 60
_PRINTED = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing a person must know.

    Parameters
    ----------
    row
        Line of the file (1 is the header); None for the whole column or table.
    patient
        Empty where ``row`` is None.
    column
        As written in the file; empty for the whole table.
    raw
        The cell as written, shortened to 60 characters. Untrusted text: escape it where it is shown.
    message
        One sentence; it may quote untrusted text too.
    """

    row: int | None
    patient: str
    column: str
    kind: Kind
    raw: str
    message: str


def shorten(text: str) -> str:
    """Return text as it is quoted in findings."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class Findings:
    """Collects the findings of one chunk.

    Parameters
    ----------
    lines
        Line of the file of each row; None where there is no file.
    patients
        Identity of each row.
    prefix
        Put before each message: the file, where there are several.
    """

    def __init__(self, lines: Sequence[int | None], patients: Sequence[str], prefix: str = "") -> None:
        self._lines = lines
        self._patients = patients
        self._prefix = prefix
        self._found: list[Finding] = []
        self._count: Counter[tuple[str, Kind]] = Counter()

    def whole(self, column: str, kind: Kind, message: str) -> None:
        """Add a finding on a column or the table."""
        self._found.append(
            Finding(row=None, patient="", column=column, kind=kind, raw="", message=self._prefix + message)
        )

    def each(
        self,
        rows: npt.NDArray[np.intp] | Sequence[int],
        column: str,
        kind: Kind,
        texts: pa.StringArray | None,
        message: Callable[[int], str],
    ) -> None:
        """Add a finding for each row (position in the chunk), the first thousand of a kind and column in full."""
        free = max(0, MOST - self._count[column, kind])
        self._count[column, kind] += len(rows)
        for row in np.asarray(rows)[:free].tolist():
            self._found.append(
                Finding(
                    row=self._lines[row],
                    patient=self._patients[row],
                    column=column,
                    kind=kind,
                    raw=shorten(texts[row].as_py()) if texts is not None else "",
                    message=self._prefix + message(row),
                )
            )

    def result(self) -> tuple[Finding, ...]:
        """Return all findings; those beyond the thousand are summed up by column and kind."""
        summed = (
            Finding(
                row=None,
                patient="",
                column=column,
                kind=kind,
                raw="",
                message=f"{self._prefix}{n - MOST} more such values, rows {self._lines[0]} to {self._lines[-1]}",
            )
            for (column, kind), n in self._count.items()
            if n > MOST
        )
        return (*self._found, *summed)


def remark(finding: Finding) -> str:
    """Return what the reader found as one line that says where; text of the table cannot steer a terminal."""
    place = "" if finding.row is None else f"row {finding.row}, "
    raw = "" if finding.row is None else f" {finding.raw!r}"
    cell = f"{finding.column}{raw}: " if finding.column else ""
    line = f"{place}{cell}{finding.message}"
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def shown(remarks: Sequence[str]) -> list[str]:
    """Return the remarks that are printed: the first twenty, and how many more there are."""
    more = [f"and {len(remarks) - _PRINTED} more remarks on the table"] if len(remarks) > _PRINTED else []
    return [*remarks[:_PRINTED], *more]
