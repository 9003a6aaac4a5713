"""The end of a run: its tables, ``run.json`` and report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wsi_pipeline.atomic import write_json
from wsi_pipeline.exports.report import write_cohort_report
from wsi_pipeline.galleries import write_comparison
from wsi_pipeline.many_slides.plan import CohortPlan
from wsi_pipeline.many_slides.tables import write_tables
from wsi_pipeline.one_slide.answers import SHA256, SLIDE_MODEL
from wsi_pipeline.runtime.executor import WorkerUse
from wsi_pipeline.runtime.provenance import commit, hardware, versions
from wsi_pipeline.runtime.status import Tally


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run went, for ``run.json``.

    Attributes
    ----------
    started, clock
        When it began: the date, and :func:`time.monotonic`.
    cluster
        Kind of the cluster.
    shared
        Whether other processes may have run the same plan.
    device
        What segmented and classified.
    ledger
        The form of the run's ledger.
    n_workers, workers
        How many workers there were at the end, and which processes computed.
    tally
        How the slides ended.
    """

    started: datetime
    clock: float
    cluster: str
    shared: bool
    device: str
    ledger: str
    n_workers: int
    workers: Sequence[WorkerUse]
    tally: Tally


def write_run(plan: CohortPlan, summaries: Sequence[dict[str, Any]], course: Course) -> None:
    """Write what a run leaves of all its slides together: tables, ``run.json``, the report."""
    write_tables(plan.out, plan.jobs, summaries)
    write_comparison(plan.out, summaries)
    write_json(plan.out / "run.json", _record(plan, summaries, course))
    write_cohort_report(plan.out, plan.config.exports.language)


def _record(plan: CohortPlan, summaries: Sequence[dict[str, Any]], course: Course) -> dict[str, Any]:
    runtime = plan.config.runtime
    return {
        "started": course.started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - course.clock, 3),
        "configurations": {job.config.specimen: job.config.model_dump(mode="json") for job in plan.jobs},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(course.device),
        "device": {"requested": runtime.device, "resolved": course.device},
        "cluster": course.cluster,
        "shared": course.shared,
        "ledger": course.ledger,
        "workers": course.n_workers,
        "worker_processes": [
            {**use.to_record(), "device": course.device, "threads": runtime.threads}
            for use in sorted(course.workers, key=lambda use: (use.host, use.pid))
        ],
        "threads": runtime.threads,
        "weights": _weights_used(summaries),
        "segmentation": _network_use(summaries),
        "timings": _total_timings(summaries),
        "simulated": any(s.get("simulated", False) for s in summaries),
        "slides": course.tally.ended(),
    }


def _network_use(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how the segmentation networks ran: precisions, batches, and slides that are not byte-comparable."""
    provenances = [summary["provenance"] for summary in summaries if "provenance" in summary]
    marked = [s["slide_id"] for s in summaries if not s.get("quality", {}).get("byte-comparable", True)]
    return {
        "precision": sorted({p["precision used"] for p in provenances if "precision used" in p}),
        "batch_size": sorted({p["tiles a batch used"] for p in provenances if "tiles a batch used" in p}),
        "byte_comparable": not marked,
        "not_byte_comparable": marked,
    }


def _weights_used(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of every model that a slide was run with, by name."""
    used = {}
    for summary in summaries:
        provenance = summary.get("provenance", {})
        for kind in ("segmentation model", "cell classifier", "fibrosis model"):
            if name := provenance.get(kind):
                used[name] = provenance[f"{'segmentation' if 'seg' in kind else kind} SHA-256"]
        for key, sha256 in provenance.items():
            if key.startswith(SLIDE_MODEL):
                used[key.removeprefix(SLIDE_MODEL).removesuffix(SHA256)] = sha256
    return used


def _total_timings(summaries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of every stage, summed over slides."""
    total: dict[str, float] = {}
    for summary in summaries:
        for stage, seconds in summary.get("timings", {}).items():
            total[stage] = round(total.get(stage, 0.0) + seconds, 3)
    return total
