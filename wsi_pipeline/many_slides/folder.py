"""The folder of a run while it is worked on: its lock, its ledger, and what earlier runs left in it."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError, OutputError, WsiPipelineError
from wsi_pipeline.galleries import GalleryJob
from wsi_pipeline.galleries import expected_files as expected_of_patient
from wsi_pipeline.galleries.job import SKIPPABLE
from wsi_pipeline.one_slide.asked import asked_by_summary, asked_of, attempt_key, changes, told
from wsi_pipeline.one_slide.fibrosis import expected_files as expected_of_fibrosis
from wsi_pipeline.one_slide.finish import expected_files
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.runtime.batch import PATTERN
from wsi_pipeline.runtime.lease import Lease, Leases
from wsi_pipeline.runtime.process import this_process
from wsi_pipeline.runtime.run_ledger import RunLedger, open_run_ledger, remove_run_ledger, sweep
from wsi_pipeline.runtime.sharing import alone, joined
from wsi_pipeline.runtime.tasks import TaskReport


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's folder that this process may write, and its ledger.

    Attributes
    ----------
    out
        The folder.
    ledger
        What is done there.
    lease
        Keeps other runs out.
    """

    out: Path
    ledger: RunLedger
    lease: Lease

    def record(self, report: TaskReport) -> None:
        """Record the files that a task wrote.

        Raises
        ------
        LeaseLostError
            Another process took the folder over.
        OutputError
            The ledger cannot be written.
        """
        if self.lease.is_lost:
            self.lease.check()
        of_slide = defaultdict(list)
        for name, size in report.written:
            path = Path(name)
            if path.is_relative_to(self.out) and len(parts := path.relative_to(self.out).parts) > 2:
                of_slide[parts[1]].append((Path(*parts).as_posix(), size))
        for slide_id, files in of_slide.items():
            self.ledger.add(slide_id, files)

    def settled(self, job: SlideJob, *, retry_failed: bool) -> dict[str, Any] | None:
        """Return the summary of a slide that needs no work, or None."""
        before = read_summary(job)
        if before is None or not _is_settled(job, before, attempt_key(job), retry_failed):
            return None
        known = self.ledger.slide(job.slide_id)
        if known is None or known.status != before["status"]:
            if known is None:  # the ledger was removed; it knows again what a rerun is compared with
                self.ledger.begin(job.slide_id, asked_of(job))
            self.ledger.end(job.slide_id, before["status"], before["reason"] or "")
        return before

    def begin(self, job: SlideJob) -> None:
        """Remove what a killed run left half done or did not record, and record that the slide is worked on."""
        _remove_leftovers(job)
        sweep(self.out, job.slide_id, self.ledger.files(job.slide_id))
        self.ledger.begin(job.slide_id, asked_of(job))

    def end(self, summary: Mapping[str, Any]) -> None:
        """Record what became of a slide; its summary is on the disk."""
        self.ledger.end(summary["slide_id"], summary["status"], summary["reason"] or "")


@contextmanager
def open_run(
    out: Path, jobs: Sequence[SlideJob], runtime: RuntimeConfig, *, restart: bool, shared: bool = False
) -> Iterator[RunFolder]:
    """Make a run's folder or take up the one that is there; no other run may use it meanwhile.

    Parameters
    ----------
    jobs
        The slides of the run.
    restart
        Throw away what earlier runs left of these slides.
    shared
        Others that share the run may use it meanwhile; each slide is worked on under a lease of its own.

    Raises
    ------
    OutputError
        The folder cannot be written.
    LeaseHeldError
        Another run works in it.
    ConfigError
        It holds results of other files, another configuration, other weights, or of a slide that has changed.
    """
    work = out / "work"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(work / ".writable", "")
    except WsiPipelineError:
        raise
    except OSError as error:
        raise OutputError(f"--out {out} cannot be written: {error.strerror or error}; choose another folder") from None
    process = this_process()
    with (joined if shared else alone)(out, Leases()) as lease:
        if restart:
            _throw_away(work, jobs)
        ledger = open_run_ledger(work, runtime.ledger, writer=f"{process.host}-{process.pid}-{lease.number}")
        try:
            if restart:
                for job in jobs:
                    ledger.forget(job.slide_id)
            else:
                for job in jobs:
                    _check_same(job, ledger)
            yield RunFolder(out=out, ledger=ledger, lease=lease)
        finally:
            ledger.close()


def _throw_away(work: Path, jobs: Sequence[SlideJob]) -> None:
    for path in work.glob(PATTERN):
        path.unlink(missing_ok=True)
    for job in jobs:
        shutil.rmtree(job.folder, ignore_errors=True)
        shutil.rmtree(job.work, ignore_errors=True)
    if not any(path.is_dir() and not path.name.startswith(".") for path in work.iterdir()):
        remove_run_ledger(work)  # nothing else is recorded there: it may be damaged, or take another form now


def _check_same(job: SlideJob, ledger: RunLedger) -> None:
    """Refuse a slide that was begun or finished with anything else than what is asked for now."""
    before, known = read_summary(job), ledger.slide(job.slide_id)
    if before is not None and before.get("path") != str(job.spec.path):
        raise ConfigError(
            f"{job.folder} holds the results of {before.get('path')}, not of {job.spec.path}; "
            "choose another --out, give a slide_id in a manifest, or use --restart"
        )
    if before is None and known is None:
        return
    if (before is not None and before.get("status") == "failed") or (known is not None and known.status == "failed"):
        return  # nothing stands there that could be mixed
    now = asked_of(job)
    asked = known.asked if known is not None and known.asked else asked_by_summary(before or {}, now)
    differences = changes(asked, now)
    if differences or (before is not None and before.get("attempt") != attempt_key(job)):
        raise ConfigError(
            f"{job.folder} holds results of another configuration or of a changed slide: {told(differences)}; "
            "choose another --out, or use --restart to throw them away"
        )


def read_summary(job: SlideJob) -> dict[str, Any] | None:
    """Return ``summary.json`` of a slide, or None when there is none that can be read."""
    try:
        return dict(json.loads((job.folder / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _is_settled(job: SlideJob, summary: Mapping[str, Any], attempt: str, retry_failed: bool) -> bool:
    """Return whether an earlier run's result stands for this job."""
    if "seconds" not in summary:
        return False  # the run was killed before the slide's last step
    if summary.get("status") == "failed":
        if isinstance(job, GalleryJob) and job.skip_unreadable and summary.get("reason") in SKIPPABLE:
            return False  # what failed it may now be left out
        return summary.get("key") == attempt and not retry_failed
    if isinstance(job, GalleryJob):
        wanted = expected_of_patient(job)
    else:
        wanted = expected_of_fibrosis(job) if job.config.stain == "reticulin" else expected_files(job)
    return summary.get("attempt") == attempt and all(path.exists() for path in wanted)


def _remove_leftovers(job: SlideJob) -> None:
    """Remove temporary files that a killed run left."""
    for folder in (job.folder, job.work):
        for path in folder.rglob(".*.tmp"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


class Summaries(Sequence[dict[str, Any]]):
    """``summary.json`` of every slide of a run, in order, read each time: a cohort is not held in memory."""

    def __init__(self, jobs: Sequence[SlideJob]) -> None:
        self._jobs = jobs

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [_summary_of(job) for job in self._jobs[index]]
        return _summary_of(self._jobs[index])


def _summary_of(job: SlideJob) -> dict[str, Any]:
    summary = read_summary(job)
    if summary is None:
        raise OutputError(f"{job.folder / 'summary.json'} vanished during the run")
    return summary
