"""Many slides on one Dask cluster; one bad slide never stops the rest."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from wsi_pipeline.atomic import refusal, write_json, write_text
from wsi_pipeline.cells.dysplasia import load_reference
from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import ConfigError, LeaseLostError, ModelError, OutputError, WsiPipelineError
from wsi_pipeline.exports.report import write_cohort_report
from wsi_pipeline.fibrosis import check_fibrosis_model
from wsi_pipeline.finish import failed_summary
from wsi_pipeline.galleries import GalleryJob, run_patient, write_comparison
from wsi_pipeline.galleries.plan import plan_patients
from wsi_pipeline.job import SlideJob, attempt_key
from wsi_pipeline.manifest import SlideEntry, list_slides
from wsi_pipeline.pipeline import run_job
from wsi_pipeline.run_folder import RunFolder, Summaries, open_run, read_summary
from wsi_pipeline.runtime.clusters import ClusterRequest, slurm_script
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.executor import Executor, RunStoppedError, ThreadExecutor, default_workers, open_executor
from wsi_pipeline.runtime.lease import Lease, Leases
from wsi_pipeline.runtime.progress import BothProgress, Progress, SilentProgress
from wsi_pipeline.runtime.provenance import commit, hardware, versions
from wsi_pipeline.runtime.sharing import Shared, WatchfulProgress, finish_once
from wsi_pipeline.runtime.status import STATUS_FILE, StatusWriter, Tally, shared_status
from wsi_pipeline.segmentation.cellpose_files import backbone_of, find_cellpose_file, read_state
from wsi_pipeline.segmentation.models import check_model, find_segmentation_weights
from wsi_pipeline.slide_answers import check_models as check_slide_models
from wsi_pipeline.slides import SlideSpec
from wsi_pipeline.tables import network_use, total_timings, weights_used, write_tables
from wsi_pipeline.trephine_answer import phenotypes_of
from wsi_pipeline.weights import find_weights, load_weights, shipped_weights

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True)
class CohortPlan:
    """A run before it starts: what would be done, and with what."""

    jobs: tuple[SlideJob, ...]
    config: PipelineConfig
    out: Path
    allow_simulated: bool = False


def plan_cohort(
    slides: Sequence[str | Path],
    out: str | Path,
    config: str | Path | PipelineConfig | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    mpp: float | None = None,
    force_mpp: bool = False,
    allow_simulated: bool = False,
    here: bool = True,
) -> CohortPlan:
    """Resolve slides, ids, configurations and models; nothing is written.

    Of a run whose workers are not ``here`` this machine's devices say nothing.

    Raises
    ------
    ConfigError, ModelError, DeviceError
        The run cannot start.
    """
    base = config if isinstance(config, PipelineConfig) else load_config(config, overrides)
    if isinstance(config, PipelineConfig) and overrides:
        raise ConfigError("overrides go with a configuration's name or file; this configuration is already resolved")
    if force_mpp and mpp is None:
        raise ConfigError("--force-mpp needs --mpp")
    folder = Path(out).absolute()
    configs = {base.specimen: base}
    jobs = []
    entries = list_slides(slides)
    for entry in entries:
        specimen = entry.specimen or base.specimen
        if specimen not in configs:
            configs[specimen] = load_config(specimen, overrides)
    for one in configs.values():
        _check_models(one, allow_simulated)
        if here:
            resolve_device(one.runtime.device)
    for specimen in sorted({entry.specimen or base.specimen for entry in entries}):
        configs[specimen] = check_slide_models(configs[specimen])
    for entry in entries:
        jobs.append(_job(entry, configs[entry.specimen or base.specimen], folder, mpp, force_mpp, allow_simulated))
    return CohortPlan(jobs=tuple(jobs), config=configs[base.specimen], out=folder, allow_simulated=allow_simulated)


def plan_gallery(
    gallery: str | Path,
    out: str | Path,
    config: str | Path | PipelineConfig | None = None,
    *,
    mpp: float | None,
    overrides: Mapping[str, Any] | None = None,
    label_taxonomy: str | None = None,
    keep_unknown_labels: bool = False,
    skip_unreadable: bool = False,
    allow_simulated: bool = False,
    here: bool = True,
) -> CohortPlan:
    """Resolve patients, class folders, configuration and models of a gallery; nothing is written.

    Parameters
    ----------
    gallery
        Folder of ``PATIENT/CLASS/images`` or ``PATIENT/images``.
    out
        The run's folder.
    config, overrides
        As :func:`wsi_pipeline.load_config` takes them, or a resolved configuration.
    mpp
        Microns per pixel of all images.
    label_taxonomy
        Taxonomy of the class folders; None: the classifier's, then all others.
    keep_unknown_labels
        Keep class folders that no taxonomy knows as labels that are not compared.
    skip_unreadable
        Leave out images that cannot be used, and list them.
    allow_simulated
        Allow models that were trained on simulated data.
    here
        Whether the workers are on this machine, so that its devices are theirs.

    Raises
    ------
    ConfigError, ModelError, DeviceError
        The run cannot start.
    """
    folder = Path(out).absolute()
    base, jobs = plan_patients(
        Path(gallery).absolute(),
        folder,
        config,
        mpp=mpp,
        overrides=overrides,
        label_taxonomy=label_taxonomy,
        keep_unknown_labels=keep_unknown_labels,
        skip_unreadable=skip_unreadable,
    )
    _check_models(base, allow_simulated)
    if here:
        resolve_device(base.runtime.device)
    checked = check_slide_models(base)
    jobs = tuple(replace(job, config=checked, allow_simulated=allow_simulated) for job in jobs)
    return CohortPlan(jobs=jobs, config=checked, out=folder, allow_simulated=allow_simulated)


def kind_of(cluster: str | ClusterRequest) -> str:
    """Return the kind of a cluster, as :attr:`ClusterRequest.kind`."""
    return cluster.kind if isinstance(cluster, ClusterRequest) else cluster


def _is_here(cluster: str | ClusterRequest) -> bool:
    return kind_of(cluster) == "local"


def _with_devices(plan: CohortPlan, executor: Executor | ThreadExecutor) -> CohortPlan:
    """Fix the device of each job: with a choice of its own on each worker, one slide would be of two."""
    jobs = [replace(job, device=executor.device(job.config.runtime.device)) for job in plan.jobs]
    return replace(plan, jobs=tuple(jobs))


def _job(
    entry: SlideEntry, config: PipelineConfig, out: Path, mpp: float | None, force_mpp: bool, allow_simulated: bool
) -> SlideJob:
    return SlideJob(
        slide_id=entry.slide_id,
        spec=SlideSpec(
            path=entry.path.absolute(),
            mpp=mpp,
            force_mpp=force_mpp,
            manifest_mpp=entry.mpp,
            config=config.slides,
        ),
        config=config,
        out=out,
        subject_id=entry.patient,
        label=entry.label,
        batch=entry.batch,
        regions_file=entry.regions.absolute() if entry.regions else None,
        simulated=entry.simulated,
        allow_simulated=allow_simulated,
    )


def _check_models(config: PipelineConfig, allow_simulated: bool) -> None:
    """Refuse, before anything starts, models that are missing, do not fit, or need ``--allow-simulated``."""
    if config.stain == "reticulin":
        check_fibrosis_model(config, allow_simulated)
        return
    name = config.segmentation.model
    check_model(name, config.specimen)
    cards = []
    if name not in shipped_weights() and (path := find_cellpose_file(name)) is not None:
        # Each worker checks the whole file again; here names and sizes show in a moment what cannot run.
        backbone_of(read_state(path, checksums=False), str(path))
        if path.with_suffix(".json").is_file():
            cards.append(load_weights(path).card)
    else:
        cards.append(find_segmentation_weights(name).card)
    if config.cells.classifier is not None:
        cards.append(find_weights(config.cells.classifier, "cells").card)
    if config.cells.red_classifier is not None:
        cards.append(find_weights(config.cells.red_classifier, "red_cells").card)
    if config.cells.dysplasia_reference is not None:
        load_reference(config.cells.dysplasia_reference)
    phenotypes_of(config)
    for card in cards:
        if config.specimen not in card["specimens"]:
            made_for = ", ".join(card["specimens"])
            raise ModelError(f"model {card['name']} was made for {made_for}, not for {config.specimen}")
        if card.get("simulated") and not allow_simulated:
            raise ModelError(f"model {card['name']} was trained on simulated data; it runs only with --allow-simulated")


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
        here=_is_here(cluster),
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
        gpu = _is_here(cluster) and resolve_device(plan.config.runtime.device) == "cuda"
        status = shared_status(plan.out, folder.lease.folder.name) if shared else plan.out / STATUS_FILE
        with StatusWriter(status, tally, progress, lambda: facts, gpu=gpu):
            with _executor_of(plan, cluster) as executor:
                device = executor.device(plan.config.runtime.device)
                plan = _with_devices(plan, executor)
                executor.on_task = folder.record
                facts |= {"dashboard": executor.dashboard, "workers": executor.n_workers}
                if executor.dashboard:
                    progress.say(f"dashboard: {executor.dashboard}")
                runner = _Runner(executor, everyone, folder, retry_failed)
                if shared:
                    # No more at once than there are workers: the others could work on what waits here.
                    at_once = min(plan.config.runtime.slides_in_flight, executor.n_workers)
                    complete = _share_all(runner, plan, at_once, wait=share == "stay")
                else:
                    complete = _run_all(runner, plan)
                facts["workers"] = executor.n_workers
            summaries = Summaries(plan.jobs)

            def write() -> None:
                write_tables(plan.out, plan.jobs, summaries)
                write_comparison(plan.out, summaries)
                write_json(
                    plan.out / "run.json",
                    {
                        "started": started.isoformat(timespec="seconds"),
                        "seconds": round(time.monotonic() - clock, 3),
                        "configurations": {
                            job.config.specimen: job.config.model_dump(mode="json") for job in plan.jobs
                        },
                        "versions": versions(),
                        "commit": commit(),
                        "hardware": hardware(device),
                        "device": {"requested": plan.config.runtime.device, "resolved": device},
                        "cluster": kind_of(cluster),
                        "shared": shared,
                        "ledger": folder.ledger.form,
                        "workers": facts["workers"],
                        "worker_processes": [
                            {**use.to_record(), "device": device, "threads": plan.config.runtime.threads}
                            for use in sorted(executor.workers.values(), key=lambda use: (use.host, use.pid))
                        ],
                        "threads": plan.config.runtime.threads,
                        "weights": weights_used(summaries),
                        "segmentation": network_use(summaries),
                        "timings": total_timings(summaries),
                        "simulated": any(s.get("simulated", False) for s in summaries),
                        "slides": tally.ended(),
                    },
                )
                write_cohort_report(plan.out, plan.config.exports.language)

            if not complete:
                ended = [job for job in plan.jobs if read_summary(job) is not None]
                return CohortResult(out=plan.out, summaries=Summaries(ended), left=len(plan.jobs) - len(ended))
            if shared:
                files = [job.folder / "summary.json" for job in plan.jobs]
                finish_once(plan.out, Leases(), inputs=files, product=plan.out / "slides.csv", finish=write)
            else:
                write()
    return CohortResult(out=plan.out, summaries=summaries)


def _share_all(runner: _Runner, plan: CohortPlan, at_once: int, *, wait: bool) -> bool:
    """Run the slides that no other process has; return whether all are done."""
    shared = Shared[SlideJob](
        out=plan.out, name_of=lambda job: job.slide_id, is_done=runner.is_done, work=runner, leases=Leases()
    )
    try:
        return shared.run(plan.jobs, threads=at_once, wait=wait)
    except BaseException:
        runner.stopping = True
        raise


def _run_all(runner: _Runner, plan: CohortPlan) -> bool:
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


_THREADS_INSTEAD = 2
"""Up to so many local workers on a CPU, a gallery's patients are threads of this process, which saves 1 GB."""


@contextmanager
def _executor_of(plan: CohortPlan, cluster: str | ClusterRequest) -> Iterator[Executor | ThreadExecutor]:
    runtime = plan.config.runtime
    workers = runtime.workers or (default_workers(runtime) if _is_here(cluster) else 0)
    patients = all(isinstance(job, GalleryJob) for job in plan.jobs)
    few = _is_here(cluster) and workers <= _THREADS_INSTEAD
    if patients and few and resolve_device(runtime.device) == "cpu":
        yield ThreadExecutor(workers)
    else:
        with open_executor(cluster, runtime) as executor:
            yield executor


class _Runner:
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


def describe_plan(plan: CohortPlan, say: Callable[[str], None], cluster: str | ClusterRequest = "local") -> None:
    """Say what a run would do; of Slurm, which job it would submit."""
    runtime = plan.config.runtime
    where = f"workers by {kind_of(cluster)}"
    if _is_here(cluster):
        where = f"{runtime.workers or default_workers(runtime)} local worker(s)"
    say(f"{len(plan.jobs)} slide(s) to {plan.out}, {where}")
    for name in plan.config.predictions.slide_models:
        say(f"  asked for an answer: {name}")
    for job in plan.jobs:
        config = job.config
        if isinstance(job, GalleryJob):
            problem = f", will fail: {job.problem}" if job.problem else ""
            say(
                f"  {job.slide_id}: {config.specimen}, {len(job.images)} images at {job.mpp:g} um/px, classifier "
                f"{config.cells.classifier}, {job.patient_folder}{problem}"
            )
            continue
        if config.stain == "reticulin":
            say(
                f"  {job.slide_id}: {config.specimen}, reticulin at {config.segmentation.mpp} um/px, "
                f"fibrosis model {config.fibrosis.model or 'none'}, {job.spec.path}"
            )
            continue
        say(
            f"  {job.slide_id}: {config.specimen}, {config.segmentation.model} at {config.segmentation.mpp} um/px, "
            f"classifier {config.cells.classifier or 'none'}, {job.spec.path}"
        )
    if isinstance(cluster, ClusterRequest) and cluster.kind == "slurm":
        say(slurm_script(cluster, runtime))
