"""One slide to be run, where its parts and artefacts are, and the key that says what its parts depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import wsi_pipeline
from wsi_pipeline.cells.dysplasia import reference_sha256
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import SlideError
from wsi_pipeline.runtime.ledger import Ledger, key_of
from wsi_pipeline.segmentation.engines import engine_for
from wsi_pipeline.slides import Slide, SlideSpec, slide_fingerprint
from wsi_pipeline.weights import file_sha256

WHOLE_SLIDE = 10
"""A task on the whole slide may take so many times ``runtime.task_timeout_s``."""


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """One slide to be run.

    Attributes
    ----------
    slide_id
        Unique in the run; safe as a folder name.
    spec
        How to open it.
    config
        Its configuration.
    out
        The run's folder.
    subject_id
        The patient, from the manifest; empty when unknown.
    label
        The label of the manifest; carried into the summary, never used.
    batch
        The batch of the manifest: by it the quality of slides is compared, and nothing else.
    regions_file
        Drawn regions, from the manifest.
    simulated
        Whether the manifest says that the slide is simulated; one of ours is known as such without it.
    allow_simulated
        Let slide models that were trained on simulated cohorts answer.
    device
        What segments and classifies, the same on all workers of a run; empty: what the worker has of
        ``runtime.device``.
    """

    slide_id: str
    spec: SlideSpec
    config: PipelineConfig
    out: Path
    subject_id: str = ""
    label: str = ""
    batch: str = ""
    regions_file: Path | None = None
    simulated: bool = False
    allow_simulated: bool = False
    device: Literal["", "cpu", "cuda"] = ""

    @property
    def folder(self) -> Path:
        """Return where the slide's artefacts go."""
        return self.out / "slides" / self.slide_id

    @property
    def work(self) -> Path:
        return self.out / "work" / self.slide_id

    @property
    def asked_device(self) -> Literal["auto", "cpu", "cuda"]:
        """Return the device for :func:`wsi_pipeline.runtime.devices.resolve_device`."""
        return self.device or self.config.runtime.device

    @property
    def task_timeout_s(self) -> float:
        """Return the seconds after which a task on a bounded part of the slide is given up."""
        return self.config.runtime.task_timeout_s

    @property
    def slide_timeout_s(self) -> float:
        """Return the seconds after which a task on the whole slide is given up."""
        return WHOLE_SLIDE * self.config.runtime.task_timeout_s

    def source(self) -> str:
        """Return the fingerprint of what is to be read, as far as it can be known before opening; empty if not."""
        try:
            return slide_fingerprint(self.spec.path)
        except (OSError, SlideError):
            return ""


def ledger_of(job: SlideJob, key: str) -> Ledger:
    return Ledger(folder=job.work / key)


def results_key(
    job: SlideJob,
    slide: Slide,
    *,
    model_sha256: str,
    precision: str,
    classifier_sha256: str | None,
    device: str,
    red_classifier_sha256: str | None = None,
    evidence_sha256: str | None = None,
    megakaryocytes_sha256: str | None = None,
) -> str:
    """Return the hash of everything that the slide's results depend on."""
    config = job.config
    return key_of(
        version=wsi_pipeline.__version__,
        fingerprint=slide.fingerprint,
        mpp=[slide.mpp.x, slide.mpp.y],
        backend=slide.backend,
        regions_file=file_sha256(job.regions_file) if job.regions_file else None,
        config=config.digest("specimen", "slides", "regions", "tiling", "segmentation", "cells"),
        model=model_sha256,
        precision=precision,
        classifier=classifier_sha256,
        neutrophils=reference_sha256(config.cells.dysplasia_reference),
        red_classifier=red_classifier_sha256,
        evidence=evidence_sha256,
        # Parts computed on another device or with other threads may differ in the last bits; they are not mixed.
        device=device,
        engine=engine_for(device),
        threads=config.runtime.threads,
        # Named only where there is one: parts of other specimens stand.
        **({"megakaryocytes": megakaryocytes_sha256} if megakaryocytes_sha256 else {}),
    )
