"""A gallery's run before it starts: patients, configuration, what class folders mean; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import ConfigError, some
from wsi_pipeline.galleries.job import GalleryJob
from wsi_pipeline.galleries.labels import class_names_only, resolve_labels
from wsi_pipeline.galleries.listing import list_gallery
from wsi_pipeline.one_slide.finish import taxonomy_of
from wsi_pipeline.slides import SlideSpec
from wsi_pipeline.slides.formats import PLAUSIBLE_MPP
from wsi_pipeline.weights import find_weights

_OF_SLIDES = ("slides", "regions", "tiling", "segmentation")
"""Sections of the configuration that say nothing about a gallery."""


def plan_patients(
    gallery: Path,
    out: Path,
    config: str | Path | PipelineConfig | None,
    *,
    mpp: float | None,
    overrides: Mapping[str, Any] | None = None,
    label_taxonomy: str | None = None,
    keep_unknown_labels: bool = False,
    skip_unreadable: bool = False,
) -> tuple[PipelineConfig, tuple[GalleryJob, ...]]:
    """Return the configuration and a job for each patient; see :func:`wsi_pipeline.cohort.plan_gallery`.

    Embeddings are written unless the configuration or ``overrides`` say otherwise.

    Raises
    ------
    ConfigError
        No or an impossible resolution, a configuration that a gallery cannot have, or a gallery that cannot be used.
    """
    if mpp is None:
        raise ConfigError(f"--gallery {gallery} needs --mpp: single-cell images carry no microns per pixel")
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise ConfigError(f"--mpp {mpp:g}: {low:g} to {high:g} um per pixel are needed")
    resolved = _config(config, overrides)
    own = taxonomy_of(resolved)
    answers = tuple(find_weights(str(resolved.cells.classifier), "cells").card["classes"])
    found = list_gallery(gallery)
    flat = [p.folder.name for p in found.patients]
    if not found.labels and class_names_only(flat, own):
        raise ConfigError(
            f"--gallery {gallery}: its folders are classes ({some(flat)}), not patients; give the folder above it, or "
            "put them into a patient's folder: PATIENT/CLASS/images"
        )
    given = resolve_labels(
        found.labels,
        own=own,
        answers=answers,
        where=gallery,
        taxonomy=label_taxonomy,
        keep_unknown=keep_unknown_labels,
    )
    jobs = tuple(
        GalleryJob(
            slide_id=patient.slide_id,
            spec=SlideSpec(path=patient.folder, mpp=mpp, config=resolved.slides),
            config=resolved,
            out=out,
            subject_id=patient.folder.name,
            gallery=gallery,
            images=patient.images,
            labels=tuple(g for g in given if any(i.label == g.label for i in patient.images)),
            n_other=patient.n_other,
            problem=patient.problem,
            problem_reason=patient.reason,
            skip_unreadable=skip_unreadable,
        )
        for patient in found.patients
    )
    return resolved, jobs


def _config(config: str | Path | PipelineConfig | None, overrides: Mapping[str, Any] | None) -> PipelineConfig:
    if isinstance(config, PipelineConfig):
        if overrides:
            raise ConfigError(
                "overrides go with a configuration's name or file; this configuration is already resolved"
            )
        resolved = config
    else:
        resolved = load_config(config, overrides)
        if "embedding" not in resolved.cells.model_fields_set:
            resolved = load_config(config, {**(overrides or {}), "cells.embedding": True})
    if resolved.specimen == "trephine":
        raise ConfigError("--gallery is of single cells of smears; trephine has no cell classifier")
    if resolved.cells.classifier is None:
        raise ConfigError("--gallery needs cells.classifier: without it nothing could be said about an image")
    usual = load_config(resolved.specimen)
    idle = [name for name in _OF_SLIDES if getattr(resolved, name) != getattr(usual, name)]
    if idle or resolved.exports.labels:
        named = ", ".join([*idle, *(["exports.labels"] if resolved.exports.labels else [])])
        raise ConfigError(f"--gallery: {named} of the configuration is about slides and would do nothing; leave it out")
    return resolved
