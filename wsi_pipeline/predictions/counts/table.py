"""Patients and their blood counts in canonical units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.findings import Finding


@dataclass(frozen=True, kw_only=True)
class CountsTable:
    """Patients and their values.

    Parameters
    ----------
    patients
        Identities of the file, or ``row 2`` (the line) where there are none.
    values
        ``(n, len(analytes))`` in canonical units; NaN where missing or refused.
    findings
        What a person must know.
    labels
        The label column where it was asked for; empty strings where a cell is.
    centres
        The centre column, or the names of the files where several were given; else None.
    refused
        ``(n, len(analytes))``, true where the file has a value that is not used.
    """

    patients: tuple[str, ...]
    values: npt.NDArray[np.float64]
    analytes: tuple[Analyte, ...]
    findings: tuple[Finding, ...]
    labels: tuple[str, ...] | None
    centres: tuple[str, ...] | None
    refused: npt.NDArray[np.bool_]


def join_tables(tables: Sequence[CountsTable]) -> CountsTable:
    """Return the rows of all tables, which have the same analytes, in order."""
    first = tables[0]
    labels = None if first.labels is None else tuple(name for table in tables for name in table.labels or ())
    centres = None if first.centres is None else tuple(name for table in tables for name in table.centres or ())
    return CountsTable(
        patients=tuple(name for table in tables for name in table.patients),
        values=np.concatenate([table.values for table in tables]),
        analytes=first.analytes,
        findings=tuple(finding for table in tables for finding in table.findings),
        labels=labels,
        centres=centres,
        refused=np.concatenate([table.refused for table in tables]),
    )
