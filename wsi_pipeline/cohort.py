"""Many slides on one Dask cluster; one bad slide never stops the rest."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.dysplasia import load_reference
from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import ConfigError, ModelError, OutputError, WsiPipelineError
from wsi_pipeline.exports.report import write_cohort_report
from wsi_pipeline.finish import expected_files, failed_summary
from wsi_pipeline.galleries import GalleryJob, run_patient, write_comparison
from wsi_pipeline.galleries import expected_files as expected_of_patient
from wsi_pipeline.galleries.job import SKIPPABLE
from wsi_pipeline.galleries.plan import plan_patients
from wsi_pipeline.job import SlideJob, attempt_key
from wsi_pipeline.manifest import SlideEntry, list_slides
from wsi_pipeline.pipeline import run_job
from wsi_pipeline.runtime.batch import PATTERN
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.executor import Executor, ThreadExecutor, default_workers, open_executor
from wsi_pipeline.runtime.progress import Progress, SilentProgress
from wsi_pipeline.runtime.provenance import commit, hardware, versions
from wsi_pipeline.segmentation.cellpose_files import backbone_of, find_cellpose_file, read_state
from wsi_pipeline.segmentation.models import check_model, find_segmentation_weights
from wsi_pipeline.slide_answers import check_models as check_slide_models
from wsi_pipeline.slides import SlideSpec
from wsi_pipeline.tables import network_use, total_timings, weights_used, write_tables
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
    """

    out: Path
    summaries: list[dict[str, Any]]

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
) -> CohortPlan:
    """Resolve slides, ids, configurations and models; nothing is written.

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
    resolve_device(base.runtime.device)
    checked = check_slide_models(base)
    jobs = tuple(replace(job, config=checked, allow_simulated=allow_simulated) for job in jobs)
    return CohortPlan(jobs=jobs, config=checked, out=folder, allow_simulated=allow_simulated)


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
        regions_file=entry.regions.absolute() if entry.regions else None,
        simulated=entry.simulated,
        allow_simulated=allow_simulated,
    )


def _check_models(config: PipelineConfig, allow_simulated: bool) -> None:
    """Refuse, before anything starts, models that are missing, do not fit, or need ``--allow-simulated``."""
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
    cluster: str = "local",
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
        ``local`` or a scheduler's address.
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
    """
    plan = plan_cohort(
        slides,
        out,
        config,
        overrides=overrides,
        mpp=mpp,
        force_mpp=force_mpp,
        allow_simulated=allow_simulated,
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
    cluster: str = "local",
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
    """
    result = run_cohort(
        [slide], out, config, overrides=overrides, mpp=mpp, force_mpp=force_mpp, cluster=cluster, retry_failed=True
    )
    result.raise_failed()
    return result.summaries[0]


def execute(
    plan: CohortPlan,
    *,
    cluster: str = "local",
    restart: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> CohortResult:
    """Run a plan; see :func:`run_cohort`."""
    progress = progress or SilentProgress()
    started, clock = datetime.now(UTC), time.monotonic()
    device = resolve_device(plan.config.runtime.device)
    _open_folder(plan, restart)
    with _executor_of(plan, cluster, device) as executor:
        runner = _Runner(executor, progress, retry_failed)
        threads = ThreadPoolExecutor(plan.config.runtime.slides_in_flight, thread_name_prefix="slide")
        try:
            summaries = list(threads.map(runner, plan.jobs))
        except BaseException:
            runner.stopping = True
            raise
        finally:
            # After an interruption the closing cluster ends what still runs.
            threads.shutdown(wait=False, cancel_futures=True)
        n_workers = executor.n_workers
    write_tables(plan.out, plan.jobs, summaries)
    write_comparison(plan.out, summaries)
    write_json(
        plan.out / "run.json",
        {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "configurations": {job.config.specimen: job.config.model_dump(mode="json") for job in plan.jobs},
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(device),
            "device": {"requested": plan.config.runtime.device, "resolved": device},
            "cluster": cluster,
            "workers": n_workers,
            "threads": plan.config.runtime.threads,
            "weights": weights_used(summaries),
            "segmentation": network_use(summaries),
            "timings": total_timings(summaries),
            "simulated": any(s.get("simulated", False) for s in summaries),
            "slides": {status: sum(s["status"] == status for s in summaries) for status in ("ok", "empty", "failed")},
        },
    )
    write_cohort_report(plan.out, plan.config.exports.language)
    return CohortResult(out=plan.out, summaries=summaries)


_THREADS_INSTEAD = 2
"""Up to so many local workers on a CPU, a gallery's patients are threads of this process, which saves 1 GB."""


@contextmanager
def _executor_of(plan: CohortPlan, cluster: str, device: str) -> Iterator[Executor | ThreadExecutor]:
    runtime = plan.config.runtime
    workers = runtime.workers or default_workers(runtime)
    patients = all(isinstance(job, GalleryJob) for job in plan.jobs)
    if patients and cluster == "local" and device == "cpu" and workers <= _THREADS_INSTEAD:
        yield ThreadExecutor(workers)
    else:
        with open_executor(cluster, runtime) as executor:
            yield executor


class _Runner:
    """Runs one job to a summary, whatever happens."""

    def __init__(self, executor: Executor | ThreadExecutor, progress: Progress, retry_failed: bool) -> None:
        self._executor = executor
        self._progress = progress
        self._retry_failed = retry_failed
        self.stopping = False

    def __call__(self, job: SlideJob) -> dict[str, Any]:
        started = time.monotonic()
        attempt = attempt_key(job)
        before = _read_summary(job)
        if before is not None and _is_settled(job, before, attempt, self._retry_failed):
            self._progress.finished(job.slide_id, f"{before['status']} (done before)")
            return before
        _remove_leftovers(job)
        try:
            summary = self._run(job)
        except Exception as error:  # a slide's failure is a row, never the end of the run
            if self.stopping:
                raise
            summary = failed_summary(job, error, attempt)
            if not isinstance(error, WsiPipelineError):
                write_text(job.work / "error.txt", "".join(traceback.format_exception(error)))
                _log.error("%s: unexpected error; see %s", job.slide_id, job.work / "error.txt")
        summary["seconds"] = round(time.monotonic() - started, 3)
        write_json(job.folder / "summary.json", summary)
        self._progress.finished(job.slide_id, _outcome(summary))
        return summary

    def _run(self, job: SlideJob) -> dict[str, Any]:
        if isinstance(job, GalleryJob):
            self._progress.stage(job.slide_id, "images", 1)
            return self._executor.call(run_patient, job, isinstance(self._executor, ThreadExecutor))
        if isinstance(self._executor, ThreadExecutor):
            raise TypeError("slides need workers of their own")
        return run_job(job, self._executor, self._progress)


def _remove_leftovers(job: SlideJob) -> None:
    """Remove temporary files that a killed run left."""
    for folder in (job.folder, job.work):
        for path in folder.rglob(".*.tmp"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _outcome(summary: dict[str, Any]) -> str:
    if summary["status"] == "failed":
        return f"failed, {summary['reason']}: {summary['warnings'][0]}"
    reason = f", {summary['reason']}" if summary["reason"] else ""
    return f"{summary['status']}{reason}, {summary['n_cells']:,} cells in {summary['seconds']:.0f} s"


def _read_summary(job: SlideJob) -> dict[str, Any] | None:
    try:
        return dict(json.loads((job.folder / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _is_settled(job: SlideJob, summary: dict[str, Any], attempt: str, retry_failed: bool) -> bool:
    """Return whether an earlier run's result stands for this job."""
    if "seconds" not in summary:
        return False  # the run was killed before the slide's last step
    if summary.get("status") == "failed":
        if isinstance(job, GalleryJob) and job.skip_unreadable and summary.get("reason") in SKIPPABLE:
            return False  # what failed it may now be left out
        return summary.get("key") == attempt and not retry_failed
    wanted = expected_of_patient(job) if isinstance(job, GalleryJob) else expected_files(job)
    return summary.get("attempt") == attempt and all(path.exists() for path in wanted)


def _open_folder(plan: CohortPlan, restart: bool) -> None:
    """Make the run's folder, refuse one that cannot be written or whose slides are other files'."""
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        write_text(plan.out / "work" / ".writable", "")
    except OSError as error:
        raise OutputError(
            f"--out {plan.out} cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    if restart:
        for path in (plan.out / "work").glob(PATTERN):
            path.unlink(missing_ok=True)
    for job in plan.jobs:
        before = _read_summary(job)
        if restart:
            shutil.rmtree(job.folder, ignore_errors=True)
            shutil.rmtree(job.work, ignore_errors=True)
        elif before is not None and before.get("path") != str(job.spec.path):
            raise ConfigError(
                f"{job.folder} holds the results of {before.get('path')}, not of {job.spec.path}; "
                "choose another --out, give a slide_id in a manifest, or use --restart"
            )
        elif before is not None and before.get("status") != "failed" and before.get("attempt") != attempt_key(job):
            raise ConfigError(
                f"{job.folder} holds results of another configuration or of a changed slide; choose another --out, "
                "or use --restart to throw them away"
            )


def describe_plan(plan: CohortPlan, say: Callable[[str], None]) -> None:
    """Say what a run would do."""
    runtime = plan.config.runtime
    say(f"{len(plan.jobs)} slide(s) to {plan.out}, {runtime.workers or default_workers(runtime)} local worker(s)")
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
        say(
            f"  {job.slide_id}: {config.specimen}, {config.segmentation.model} at {config.segmentation.mpp} um/px, "
            f"classifier {config.cells.classifier or 'none'}, {job.spec.path}"
        )
