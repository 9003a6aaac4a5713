"""Whether a run on a simulated cohort gives back what was planted: blasts, promyelocytes, dysplastic neutrophils.

Two truths stand beside a report. *Drawn* is the patient's fraction, of which the slide is a sample: an interval of
counting aims at it. *Placed* is the fraction on the slide itself, without that error of sampling. Both are of the
countable white cells, dysplastic ones of the neutrophils.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.simulation.cohort import PLANTED
from wsi_pipeline.simulation.hypogranular import NEUTROPHILS

RAW, CORRECTED = "raw", "corrected"
DRAWN, PLACED = "drawn", "placed"
EVERYONE = "all"

_MEASURES = {"dysplastic": "dysplastic_fraction", "hypogranular": "hypogranular"}
_DECIMALS = 2


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A fraction of one patient; percent.

    Attributes
    ----------
    fraction
        ``blast``, ``promyelocyte``, ``dysplastic`` (either flag of the run), ``hypogranular``.
    how
        ``raw`` or ``corrected`` for classification error.
    drawn, placed
        What was planted.
    value, lower, upper
        What the run reports; None where it abstains.
    """

    patient: str
    group: str
    fraction: str
    how: str
    drawn: float
    placed: float
    value: float | None
    lower: float | None
    upper: float | None

    def covers(self, truth: str) -> bool:
        """Return whether the interval holds the ``drawn`` or ``placed`` fraction, at the decimals that are shown."""
        low, high = round(self.lower or 0.0, _DECIMALS), round(self.upper or 0.0, _DECIMALS)
        return low <= round(float(getattr(self, truth)), _DECIMALS) <= high


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One fraction over the patients of a group, or over all.

    Attributes
    ----------
    truth
        ``drawn`` or ``placed``.
    n, abstained
        Patients with a report, and without.
    covered
        Patients whose interval holds the truth; ``coverage`` is their share with its Wilson interval.
    bias, error
        Mean of reported less planted, and of its absolute value, percentage points, with a bootstrap over patients.
    """

    fraction: str
    how: str
    truth: str
    group: str
    n: int
    abstained: int
    covered: int
    coverage: Estimate
    bias: Estimate
    error: Estimate


@dataclass(frozen=True, kw_only=True)
class RecoveryEvaluation:
    """What a run gives back of a cohort.

    Attributes
    ----------
    reported
        A row a patient, fraction and way of reporting.
    summaries
        All patients first, then by group.
    not_run
        Patients of the cohort without a slide in the run.
    """

    reported: tuple[Reported, ...]
    summaries: tuple[Recovery, ...]
    not_run: tuple[str, ...]


def evaluate_recovery(run: Path, cohort: Path) -> RecoveryEvaluation:
    """Compare a run with the ``truth.csv`` of its cohort; slides that failed count as abstained.

    Raises
    ------
    DataError
        A table is missing, lacks a column or a number, or none of the run's slides is of the cohort.
    """
    rows = _read_truth(cohort / "truth.csv")
    found = {name: run / "slides" / name / "summary.json" for name in rows}
    missing = [name for name, path in found.items() if not path.is_file()]
    if len(missing) == len(rows):
        raise DataError(f"{run} has no slide of the cohort {cohort}; give the folder of a run on its manifest.csv")
    reported = []
    for name, row in rows.items():
        if name not in missing:
            reported += _patient(row, _summary(found[name]), cohort / "truth.csv")
    groups = [EVERYONE, *dict.fromkeys(r.group for r in reported)]
    kinds = dict.fromkeys((r.fraction, r.how) for r in reported)
    summaries = [
        _recovery([r for r in reported if (r.fraction, r.how) == kind and group in (EVERYONE, r.group)], truth, group)
        for group in groups
        for kind in kinds
        for truth in (DRAWN, PLACED)
    ]
    return RecoveryEvaluation(reported=tuple(reported), summaries=tuple(summaries), not_run=tuple(missing))


def _read_truth(path: Path) -> dict[str, dict[str, str]]:
    needed = {"slide_id", "group", "n_white", *(f"drawn_{name}" for name in PLANTED)}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lacking = sorted(needed - set(reader.fieldnames or ()))
            rows = {row["slide_id"]: row for row in reader} if not lacking else {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); give the folder `simulate cohort` wrote") from None
    if lacking:
        raise DataError(f"{path} has no column {some(lacking)}; give the folder `simulate cohort` wrote")
    if not rows:
        raise DataError(f"{path} lists no patients")
    return rows


def _summary(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slide again") from None
    return tree if isinstance(tree, dict) else {}


def _patient(row: Mapping[str, str], summary: Mapping[str, Any], path: Path) -> list[Reported]:
    """Return what one patient's summary says of every fraction."""
    try:
        drawn = {name: 100 * float(row[f"drawn_{name}"]) for name in PLANTED}
        neutrophils = sum(int(row.get(f"n_{name}") or 0) for name in NEUTROPHILS)
        counts = {name: (int(row.get(f"n_{name}") or 0), int(row["n_white"])) for name in PLANTED[:2]}
        counts["dysplastic"] = (int(row.get("n_hypogranular") or 0), neutrophils)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: the row of {row['slide_id']} holds no number where one is needed ({error})") from None
    placed = {name: 100 * k / n if n else 0.0 for name, (k, n) in counts.items()}
    raw = {entry["class"]: entry for entry in summary.get("differential", ())}
    mended = {entry["class"]: entry for entry in (summary.get("differential_corrected") or {}).get("rows", ())}
    flagged = {entry["measure"]: entry for entry in (summary.get("dysplasia") or {}).get("rows", ())}
    answers = [
        (name, how, name, table.get(name)) for name in PLANTED[:2] for how, table in ((RAW, raw), (CORRECTED, mended))
    ]
    answers += [(name, RAW, "dysplastic", flagged.get(measure)) for name, measure in _MEASURES.items()]
    return [
        Reported(
            patient=row["slide_id"],
            group=row["group"],
            fraction=fraction,
            how=how,
            drawn=drawn[planted],
            placed=placed[planted],
            value=answer["percent"] if answer else None,
            lower=answer["lower"] if answer else None,
            upper=answer["upper"] if answer else None,
        )
        for fraction, how, planted, answer in answers
    ]


def _recovery(rows: Sequence[Reported], truth: str, group: str) -> Recovery:
    told = [row for row in rows if row.value is not None]
    covered = sum(row.covers(truth) for row in told)
    low, high = wilson(covered, len(told)) if told else (math.nan, math.nan)
    off = np.array([float(row.value or 0.0) - float(getattr(row, truth)) for row in told])
    figures = bootstrap_units(np.stack([off, np.abs(off), np.ones(len(off))], axis=1), _means) if told else {}
    nothing = Estimate(value=None, lower=None, upper=None)
    return Recovery(
        fraction=rows[0].fraction,
        how=rows[0].how,
        truth=truth,
        group=group,
        n=len(told),
        abstained=len(rows) - len(told),
        covered=covered,
        coverage=Estimate(value=covered / len(told), lower=low, upper=high) if told else nothing,
        bias=figures.get("bias", nothing),
        error=figures.get("error", nothing),
    )


def _means(pooled: FloatArray) -> dict[str, FloatArray]:
    return {"bias": divide(pooled[:, 0], pooled[:, 2]), "error": divide(pooled[:, 1], pooled[:, 2])}
