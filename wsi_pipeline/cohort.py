"""Many slides on one Dask cluster; one bad slide never stops the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError, WsiPipelineError
from wsi_pipeline.galleries import GalleryJob
from wsi_pipeline.many_slides.ending import Course, write_run
from wsi_pipeline.many_slides.folder import Summaries, open_run, read_summary
from wsi_pipeline.many_slides.plan import CohortPlan, describe_plan, is_here, kind_of, plan_cohort, plan_gallery
from wsi_pipeline.many_slides.runner import Runner, run_all, share_all
from wsi_pipeline.runtime.clusters import ClusterRequest
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.executor import Executor, ThreadExecutor, default_workers, open_executor
from wsi_pipeline.runtime.lease import Leases
from wsi_pipeline.runtime.progress import BothProgress, Progress, SilentProgress
from wsi_pipeline.runtime.sharing import finish_once
from wsi_pipeline.runtime.status import STATUS_FILE, StatusWriter, Tally, shared_status

__all__ = [
    "CohortPlan",
    "CohortResult",
    "describe_plan",
    "execute",
    "plan_cohort",
    "plan_gallery",
    "run_cohort",
    "run_slide",
]


@dataclass(frozen=True, kw_only=True)
class CohortResult:
    """What became of a run.

    Attributes
    ----------
    out
        The run's folder.
    summaries
        ``summary.json`` of every slide, in the order asked for.
    left
        Slides that other processes still work on, where the run is shared; the last one writes the tables.
    """

    out: Path
    summaries: Sequence[dict[str, Any]]
    left: int = 0

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [s for s in self.summaries if s["status"] == "failed"]

    def raise_failed(self) -> None:
        """Raise the first failure, if any."""
        for summary in self.failed:
            raise WsiPipelineError(summary["warnings"][0], reason=summary["reason"])


def run_cohort(
    slides: Sequence[str | Path],
    out: str | Path,
    config: str | Path | PipelineConfig | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    mpp: float | None = None,
    force_mpp: bool = False,
    cluster: str | ClusterRequest = "local",
    restart: bool = False,
    retry_failed: bool = False,
    allow_simulated: bool = False,
    progress: Progress | None = None,
) -> CohortResult:
    """Run the pipeline on slides, folders of slides or manifests.

    Parameters
    ----------
    slides
        Slide files, folders, CSV manifests.
    out
        The run's folder. The same call again skips what is done and resumes what is not.
    config, overrides
        As :func:`wsi_pipeline.load_config` takes them, or a resolved configuration.
    mpp, force_mpp
        Microns per pixel for slides without, or for all.
    cluster
        ``local``, ``srun``, a scheduler's address, or what :class:`~wsi_pipeline.runtime.clusters.ClusterRequest`
        says.
    restart
        Throw away what earlier runs left for these slides.
    retry_failed
        Run slides again that failed in the same way before.
    progress
        Told what happens.

    Raises
    ------
    ConfigError, ModelError, DeviceError, OutputError
        The run cannot start; afterwards every problem becomes a row of ``slides.csv``.

    Examples
    --------
    A slide that cannot be read stops no other one:

    >>> from wsi_pipeline import make_virtual_slide
    >>> made = make_virtual_slide(Path("slides/a.tiff"), profile="normal", size_px=320, seed=7)
    >>> _ = Path("slides/b.tiff").write_bytes(b"no slide")
    >>> result = run_cohort(["slides"], "cohort", overrides={"runtime.workers": 1})
    >>> [(summary["slide_id"], summary["status"], summary["reason"]) for summary in result.summaries]
    [('a', 'ok', None), ('b', 'failed', 'unsupported-format')]
    """
    plan = plan_cohort(
        slides,
        out,
        config,
        overrides=overrides,
        mpp=mpp,
        force_mpp=force_mpp,
        allow_simulated=allow_simulated,
        here=is_here(cluster),
    )
    return execute(plan, cluster=cluster, restart=restart, retry_failed=retry_failed, progress=progress)


def run_slide(
    slide: str | Path,
    out: str | Path,
    config: str | Path | PipelineConfig | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    mpp: float | None = None,
    force_mpp: bool = False,
    cluster: str | ClusterRequest = "local",
) -> dict[str, Any]:
    """Run the pipeline on one slide.

    Parameters
    ----------
    slide
        The slide file.
    out
        Folder for the artefacts; a run that was stopped there is resumed.
    config
        A specimen name, a YAML file, or a configuration; ``blood_smear`` when None.
    overrides
        Dotted keys and values, for example ``{"tiling.core_px": 1024}``.
    mpp
        Microns per level-0 pixel of a slide that has none.
    force_mpp
        Let ``mpp`` win over what the slide says.
    cluster
        ``local``, or the address of a Dask scheduler.

    Returns
    -------
    dict
        The content of ``summary.json``.

    Raises
    ------
    WsiPipelineError
        The slide failed; ``reason`` holds the code.

    Examples
    --------
    >>> from wsi_pipeline import make_virtual_slide
    >>> made = make_virtual_slide(Path("smear.tiff"), profile="normal", size_px=320, seed=7)
    >>> summary = run_slide(made.path, "results", overrides={"runtime.workers": 1})
    >>> summary["status"], summary["n_cells"] > 0
    ('ok', True)
    >>> aml = next(answer for answer in summary["predictions"] if answer["task"] == "aml")
    >>> aml["abstained"], aml["reason"]
    (True, 'too-few-cells')
    """
    result = run_cohort(
        [slide], out, config, overrides=overrides, mpp=mpp, force_mpp=force_mpp, cluster=cluster, retry_failed=True
    )
    result.raise_failed()
    return result.summaries[0]


def execute(
    plan: CohortPlan,
    *,
    cluster: str | ClusterRequest = "local",
    restart: bool = False,
    retry_failed: bool = False,
    share: Literal["no", "stay", "leave"] = "no",
    progress: Progress | None = None,
) -> CohortResult:
    """Run a plan; see :func:`run_cohort`.

    With ``share`` other processes may run the same plan at the same time: each takes slides that no other one has, and
    the last one writes the run's tables. ``stay`` waits for what others have, to take it over should they die;
    ``leave`` does not, and returns the summaries that are there.
    """
    if share != "no" and (restart or retry_failed):
        raise ConfigError(
            "--restart and --retry-failed do not go with --share: each process would throw away what others did; give "
            "the command once without --share"
        )
    progress = progress or SilentProgress()
    started, clock = datetime.now(UTC), time.monotonic()
    tally = Tally(len(plan.jobs))
    everyone = BothProgress(progress, tally)
    shared = share != "no"
    with open_run(plan.out, plan.jobs, plan.config.runtime, restart=restart, shared=shared) as folder:
        facts: dict[str, Any] = {"cluster": kind_of(cluster), "dashboard": "", "workers": 0}
        gpu = is_here(cluster) and resolve_device(plan.config.runtime.device) == "cuda"
        status = shared_status(plan.out, folder.lease.folder.name) if shared else plan.out / STATUS_FILE
        with StatusWriter(status, tally, progress, lambda: facts, gpu=gpu):
            with _executor_of(plan, cluster) as executor:
                device = executor.device(plan.config.runtime.device)
                plan = _with_devices(plan, executor)
                executor.on_task = folder.record
                facts |= {"dashboard": executor.dashboard, "workers": executor.n_workers}
                if executor.dashboard:
                    progress.say(f"dashboard: {executor.dashboard}")
                runner = Runner(executor, everyone, folder, retry_failed)
                if shared:
                    # No more at once than there are workers: the others could work on what waits here.
                    at_once = min(plan.config.runtime.slides_in_flight, executor.n_workers)
                    complete = share_all(runner, plan, at_once, wait=share == "stay")
                else:
                    complete = run_all(runner, plan)
                facts["workers"] = executor.n_workers
            if not complete:
                ended = [job for job in plan.jobs if read_summary(job) is not None]
                return CohortResult(out=plan.out, summaries=Summaries(ended), left=len(plan.jobs) - len(ended))
            summaries = Summaries(plan.jobs)
            course = Course(
                started=started,
                clock=clock,
                cluster=kind_of(cluster),
                shared=shared,
                device=device,
                ledger=folder.ledger.form,
                n_workers=facts["workers"],
                workers=list(executor.workers.values()),
                tally=tally,
            )
            write = partial(write_run, plan, summaries, course)
            if shared:
                files = [job.folder / "summary.json" for job in plan.jobs]
                finish_once(plan.out, Leases(), inputs=files, product=plan.out / "slides.csv", finish=write)
            else:
                write()
    return CohortResult(out=plan.out, summaries=summaries)


def _with_devices(plan: CohortPlan, executor: Executor | ThreadExecutor) -> CohortPlan:
    """Fix the device of each job: with a choice of its own on each worker, one slide would be of two."""
    jobs = [replace(job, device=executor.device(job.config.runtime.device)) for job in plan.jobs]
    return replace(plan, jobs=tuple(jobs))


_THREADS_INSTEAD = 2
"""Up to so many local workers on a CPU, a gallery's patients are threads of this process, which saves 1 GB."""


@contextmanager
def _executor_of(plan: CohortPlan, cluster: str | ClusterRequest) -> Iterator[Executor | ThreadExecutor]:
    runtime = plan.config.runtime
    workers = runtime.workers or (default_workers(runtime) if is_here(cluster) else 0)
    patients = all(isinstance(job, GalleryJob) for job in plan.jobs)
    few = is_here(cluster) and workers <= _THREADS_INSTEAD
    if patients and few and resolve_device(runtime.device) == "cpu":
        yield ThreadExecutor(workers)
    else:
        with open_executor(cluster, runtime) as executor:
            yield executor
