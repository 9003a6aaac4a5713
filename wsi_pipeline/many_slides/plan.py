"""A run before it starts: slides, configurations and models resolved, and what it would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsi_pipeline.cells.dysplasia import load_reference
from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.galleries import GalleryJob
from wsi_pipeline.galleries.plan import plan_patients
from wsi_pipeline.manifest import SlideEntry, list_slides
from wsi_pipeline.one_slide.answers import check_models as check_slide_models
from wsi_pipeline.one_slide.fibrosis import check_fibrosis_model
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.trephine_answer import phenotypes_of
from wsi_pipeline.runtime.clusters import ClusterRequest, slurm_script
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.executor import default_workers
from wsi_pipeline.segmentation.cellpose_files import backbone_of, find_cellpose_file, read_state
from wsi_pipeline.segmentation.models import check_model, find_segmentation_weights
from wsi_pipeline.slides import SlideSpec
from wsi_pipeline.weights import find_weights, load_weights, shipped_weights


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


def kind_of(cluster: str | ClusterRequest) -> str:
    """Return the kind of a cluster, as :attr:`ClusterRequest.kind`."""
    return cluster.kind if isinstance(cluster, ClusterRequest) else cluster


def is_here(cluster: str | ClusterRequest) -> bool:
    """Return whether the workers are on this machine."""
    return kind_of(cluster) == "local"


def describe_plan(plan: CohortPlan, say: Callable[[str], None], cluster: str | ClusterRequest = "local") -> None:
    """Say what a run would do; of Slurm, which job it would submit."""
    runtime = plan.config.runtime
    where = f"workers by {kind_of(cluster)}"
    if is_here(cluster):
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
