"""What ``evaluate recovery`` prints and writes, of a cohort of smears or of trephines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from wsi_pipeline.evaluation.recovery import evaluate_recovery
from wsi_pipeline.evaluation.recovery_tables import recovery_csv, recovery_metrics, recovery_table
from wsi_pipeline.evaluation.trephine_recovery import evaluate_trephine_recovery, is_trephine_cohort
from wsi_pipeline.evaluation.trephine_recovery_tables import (
    trephine_recovery_csv,
    trephine_recovery_metrics,
    trephine_recovery_table,
)


class RecoveryReport(NamedTuple):
    """Text for a terminal, ``recovery.csv``, and the entries of ``metrics.json``."""

    table: str
    csv: str
    metrics: dict[str, Any]


def recovery_report(run: Path, cohort: Path) -> RecoveryReport:
    """Compare a run with the cohort it was made on.

    Raises
    ------
    DataError
        A table is missing or damaged, or none of the run's slides is of the cohort.
    """
    if is_trephine_cohort(cohort):
        trephines = evaluate_trephine_recovery(run, cohort)
        return RecoveryReport(
            trephine_recovery_table(trephines), trephine_recovery_csv(trephines), trephine_recovery_metrics(trephines)
        )
    smears = evaluate_recovery(run, cohort)
    return RecoveryReport(recovery_table(smears), recovery_csv(smears), recovery_metrics(smears))
