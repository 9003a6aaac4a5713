"""Slides on threads that only wait: each ends in a summary, whatever happens, and may be shared with others."""

from __future__ import annotations

import logging
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from wsi_pipeline.atomic import refusal, write_json, write_text
from wsi_pipeline.errors import LeaseLostError, OutputError, WsiPipelineError
from wsi_pipeline.galleries import GalleryJob, run_patient
from wsi_pipeline.many_slides.folder import RunFolder
from wsi_pipeline.many_slides.plan import CohortPlan
from wsi_pipeline.one_slide.asked import attempt_key
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.summary import failed_summary
from wsi_pipeline.pipeline import run_job
from wsi_pipeline.runtime.executor import Executor, RunStoppedError, ThreadExecutor
from wsi_pipeline.runtime.lease import Lease, Leases
from wsi_pipeline.runtime.progress import Progress
from wsi_pipeline.runtime.sharing import Shared, WatchfulProgress

_log = logging.getLogger(__name__)


class Runner:
    """Runs one job to a summary, whatever happens."""

    def __init__(
        self, executor: Executor | ThreadExecutor, progress: Progress, folder: RunFolder, retry_failed: bool
    ) -> None:
        self._executor = executor
        self._progress = progress
        self._folder = folder
        self._retry_failed = retry_failed
        self.stopping = False

    def is_done(self, job: SlideJob) -> bool:
        """Return whether a slide needs no work, and tell of one that does not."""
        before = self._folder.settled(job, retry_failed=self._retry_failed)
        if before is not None:
            self._tell(job, before, f"{before['status']} (done before)", before=True)
        return before is not None

    def __call__(self, job: SlideJob, lease: Lease | None = None) -> None:
        """Run a slide, under a lease of its own where others share the run."""
        if self.stopping:
            return
        started = time.monotonic()
        if lease is None and self.is_done(job):
            return
        self._folder.begin(job)
        try:
            summary = self._run(job, self._progress if lease is None else WatchfulProgress(self._progress, lease))
            if lease is not None:
                lease.check()
        except Exception as error:  # a slide's failure is a row, never the end of the run
            if self.stopping or (lease is not None and lease.is_lost):
                raise
            if (stop := _stops_all(error, job)) is not None:
                raise stop from error
            summary = failed_summary(job, error, attempt_key(job))
            if not isinstance(error, WsiPipelineError | MemoryError):
                write_text(job.work / "error.txt", "".join(traceback.format_exception(error)))
                _log.error("%s: unexpected error; see %s", job.slide_id, job.work / "error.txt")
        summary["seconds"] = round(time.monotonic() - started, 3)
        write_json(job.folder / "summary.json", summary)
        self._folder.end(summary)
        self._tell(job, summary, _outcome(summary))

    def _tell(self, job: SlideJob, summary: dict[str, Any], outcome: str, *, before: bool = False) -> None:
        status, reason = summary["status"], summary["reason"] or ""
        self._progress.finished(job.slide_id, outcome, status=status, reason=reason, before=before)

    def _run(self, job: SlideJob, progress: Progress) -> dict[str, Any]:
        if isinstance(job, GalleryJob):
            progress.stage(job.slide_id, "images", 1)
            return self._executor.call(run_patient, job, isinstance(self._executor, ThreadExecutor))
        if isinstance(self._executor, ThreadExecutor):
            raise TypeError("slides need workers of their own")
        return run_job(job, self._executor, progress)


def run_all(runner: Runner, plan: CohortPlan) -> bool:
    """Run all slides, some at a time; what ends the run ends it at once."""
    threads = ThreadPoolExecutor(plan.config.runtime.slides_in_flight, thread_name_prefix="slide")
    try:
        for future in as_completed([threads.submit(runner, job) for job in plan.jobs]):
            future.result()
    except BaseException:
        runner.stopping = True
        raise
    finally:
        # After an interruption the closing cluster ends what still runs.
        threads.shutdown(wait=False, cancel_futures=True)
    return True


def share_all(runner: Runner, plan: CohortPlan, at_once: int, *, wait: bool) -> bool:
    """Run the slides that no other process has; return whether all are done."""
    shared = Shared[SlideJob](
        out=plan.out, name_of=lambda job: job.slide_id, is_done=runner.is_done, work=runner, leases=Leases()
    )
    try:
        return shared.run(plan.jobs, threads=at_once, wait=wait)
    except BaseException:
        runner.stopping = True
        raise


def _stops_all(error: Exception, job: SlideJob) -> WsiPipelineError | None:
    """Return the error that ends the whole run, where no slide is to blame: it would fail all that follow."""
    if isinstance(error, RunStoppedError | LeaseLostError):
        return error
    if isinstance(error, OutputError) and error.reason in ("disk-full", "read-only"):
        return error
    return refusal(error, job.folder / "summary.json")


def _outcome(summary: dict[str, Any]) -> str:
    if summary["status"] == "failed":
        return f"failed, {summary['reason']}: {summary['warnings'][0]}"
    reason = f", {summary['reason']}" if summary["reason"] else ""
    return f"{summary['status']}{reason}, {summary['n_cells']:,} cells in {summary['seconds']:.0f} s"
