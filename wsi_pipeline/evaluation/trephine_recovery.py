"""Whether a run on a simulated trephine cohort gives back what was planted: density, size, lobulation, arrangement.

A figure of a patient is recovered when the run's lies within 10 % of the planted one. Pooled, it is the sum of the
run's over that of the planted ones, over patients; its interval is by bootstrap over patients. Both are the whole way
from pixels.
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

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.polygons import match_polygons
from wsi_pipeline.evaluation.simulated_data import read_pred
from wsi_pipeline.evaluation.trephine_truth import MEASURES, SHAPE, Planted, read_planted
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide
from wsi_pipeline.predictions.intervals import wilson

TOLERANCE = 0.10
"""Largest relative difference of a figure that counts as recovered."""
EVERYONE = "all"

_MEGAKARYOCYTE = "megakaryocyte"
_COLUMNS = {"slide_id", "group", "marrow_mm2"}


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A figure of one patient; ``value`` is None where the run abstains or the truth has none."""

    patient: str
    group: str
    measure: str
    planted: float
    value: float | None

    @property
    def off(self) -> float:
        """Return the relative difference; infinite where nothing was planted and something is reported."""
        if self.value is None:
            return math.nan
        if self.planted == 0:
            return 0.0 if self.value == 0 else math.inf
        return self.value / self.planted - 1


@dataclass(frozen=True, kw_only=True)
class MeasureRecovery:
    """One measure over the patients of a group, or over all.

    Attributes
    ----------
    n, abstained
        Patients with a figure, and without.
    within
        Patients whose figure is recovered; ``share`` with its Wilson interval.
    planted, value
        Means over patients.
    ratio
        Sum of reported over sum of planted figures.
    correlation
        Pearson's, between planted and reported; None of under three patients.
    """

    measure: str
    group: str
    n: int
    abstained: int
    within: int
    share: Estimate
    planted: float | None
    value: float | None
    ratio: Estimate
    correlation: float | None

    @property
    def recovered(self) -> bool | None:
        """Return whether the pooled figure lies within the tolerance; None without one."""
        return None if self.ratio.value is None else abs(self.ratio.value - 1) <= TOLERANCE


@dataclass(frozen=True, kw_only=True)
class KindFound:
    """Megakaryocytes of a kind that no edge cuts, and how many were found at IoU 0.5."""

    kind: str
    n: int
    found: int


@dataclass(frozen=True, kw_only=True)
class TrephineRecovery:
    """What a run gives back of a cohort.

    Attributes
    ----------
    rows
        A row a patient and measure.
    summaries
        All patients first, then by group.
    kinds
        Recall by kind, the kind ``all`` last.
    false
        Megakaryocytes of the run that match none of the truth.
    not_run
        Patients of the cohort without a slide in the run.
    """

    rows: tuple[Recovered, ...]
    summaries: tuple[MeasureRecovery, ...]
    kinds: tuple[KindFound, ...]
    false: int
    not_run: tuple[str, ...]


def is_trephine_cohort(cohort: Path) -> bool:
    """Return whether a folder's ``truth.csv`` is that of a trephine cohort."""
    try:
        with (cohort / "truth.csv").open(encoding="utf-8", newline="") as file:
            return set(csv.DictReader(file).fieldnames or ()) >= _COLUMNS
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def evaluate_trephine_recovery(run: Path, cohort: Path) -> TrephineRecovery:
    """Compare a run with the truth of its cohort; slides that failed count as abstained.

    Raises
    ------
    DataError
        A table is missing or damaged, the run is of an older version, or none of its slides is of the cohort.
    """
    with (cohort / "truth.csv").open(encoding="utf-8", newline="") as file:
        groups = {row["slide_id"]: row["group"] for row in csv.DictReader(file)}
    folders = {name: run / "slides" / name for name in groups}
    missing = tuple(name for name, folder in folders.items() if not (folder / "summary.json").is_file())
    if len(missing) == len(groups):
        raise DataError(f"{run} has no slide of the cohort {cohort}; give the folder of a run on its manifest.csv")
    rows: list[Recovered] = []
    found: dict[str, list[int]] = {}
    false = 0
    for name, group in groups.items():
        if name in missing:
            continue
        planted = read_planted(cohort / "slides", name)
        told = _reported(folders[name] / "summary.json")
        for measure, value in planted.figures.items():
            known = told[measure] if math.isfinite(value) else None
            rows.append(Recovered(patient=name, group=group, measure=measure, planted=value, value=known))
        false += _add_matches(planted, folders[name] / "cells.parquet", found)
    total = [sum(counts[i] for counts in found.values()) for i in range(2)]
    return TrephineRecovery(
        rows=tuple(rows),
        summaries=tuple(
            _summary([r for r in rows if r.measure == measure and group in (EVERYONE, r.group)], measure, group)
            for group in [EVERYONE, *dict.fromkeys(r.group for r in rows)]
            for measure in MEASURES
        ),
        kinds=tuple(
            KindFound(kind=kind, n=n, found=hits)
            for kind, (n, hits) in [*sorted(found.items()), (EVERYONE, (total[0], total[1]))]
        ),
        false=false,
        not_run=missing,
    )


def _reported(path: Path) -> dict[str, float | None]:
    """Return the figures that a slide's summary holds."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8")).get("trephine")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slide again") from None
    if not isinstance(entry, dict):
        raise DataError(f"{path} has no entry trephine; run the cohort with configs/trephine.yaml")
    cells, lies = entry["megakaryocytes"], entry["arrangement"] or {}
    means = {name: cells["measures"][name]["mean"] for name in SHAPE}
    figures: dict[str, float | None] = {name: means[name] for name in MEASURES if name in means}
    figures["concave"] = None if means["nucleus_solidity"] is None else 1 - means["nucleus_solidity"]
    figures["per_mm2"] = cells["per_mm2"]
    figures["clustered"] = _at(lies, "clusters", "share")
    figures["nearest_um"] = _at(lies, "nearest_um", "mean")
    figures["cellularity"] = _at(entry["cellularity"] or {}, "percent")
    return figures


def _at(tree: Mapping[str, Any], *path: str) -> float | None:
    here: Any = tree
    for name in path:
        here = here.get(name) if isinstance(here, Mapping) else None
    return None if here is None else float(here)


def _add_matches(planted: Planted, cells: Path, found: dict[str, list[int]]) -> int:
    """Add megakaryocytes and those found by kind; return how many of the run's match none."""
    run = read_pred(cells)
    mine = np.flatnonzero(run.kind == _MEGAKARYOCYTE)
    match = match_polygons(
        planted.outlines, run.outlines.take(mine), ignored=planted.truncated, cut=run.truncated[mine], threshold=0.5
    )
    for kind in dict.fromkeys(planted.kinds.tolist()):
        own = (planted.kinds == kind) & ~planted.truncated
        counts = found.setdefault(kind, [0, 0])
        counts[0] += int(own.sum())
        counts[1] += int((own & (match.partner >= 0)).sum())
    return int(match.false.sum())


def _summary(rows: Sequence[Recovered], measure: str, group: str) -> MeasureRecovery:
    told = [row for row in rows if row.value is not None]
    within = sum(abs(row.off) <= TOLERANCE + 1e-12 for row in told)
    nothing = Estimate(value=None, lower=None, upper=None)
    values = np.array([[row.planted, float(row.value or 0.0)] for row in told]).reshape(-1, 2)
    low, high = wilson(within, len(told)) if told else (math.nan, math.nan)
    varies = len(told) > 2 and bool((values.std(axis=0) > 0).all())
    return MeasureRecovery(
        measure=measure,
        group=group,
        n=len(told),
        abstained=len(rows) - len(told),
        within=within,
        share=Estimate(value=within / len(told), lower=low, upper=high) if told else nothing,
        planted=float(values[:, 0].mean()) if told else None,
        value=float(values[:, 1].mean()) if told else None,
        ratio=bootstrap_units(values, _ratio)["ratio"] if told else nothing,
        correlation=float(np.corrcoef(values.T)[0, 1]) if varies else None,
    )


def _ratio(pooled: FloatArray) -> dict[str, FloatArray]:
    return {"ratio": divide(pooled[:, 1], pooled[:, 0])}
