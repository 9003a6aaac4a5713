"""The megakaryocytes of a trephine at its end: what each is like, how they lie, what the sample is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.predictions.trephines.megakaryocytes import read_megakaryocytes
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel, load_phenotypes
from wsi_pipeline.predictions.trephines.sample import trephine_sample
from wsi_pipeline.predictions.trephines.window import window_of
from wsi_pipeline.regions import Regions

MEGAKARYOCYTES, PHENOTYPES = "megakaryocytes.csv", "phenotypes.csv"
FILES = (MEGAKARYOCYTES, PHENOTYPES)
"""What :func:`trephine_answer` writes to a slide's folder."""


def phenotypes_of(config: PipelineConfig) -> PhenotypeModel | None:
    """Return the phenotype model that a run applies; None without one.

    Raises
    ------
    MissingWeightsError, ModelError
        The file cannot be used.
    """
    name = config.predictions.phenotypes
    return None if name is None else load_phenotypes(Path(name))


def trephine_answer(
    job: SlideJob, regions: Regions, *, mpp: tuple[float, float], cellularity: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Write the tables of a trephine's megakaryocytes; return the entry ``trephine`` of its summary.

    Its ``cells.parquet`` is written. A slide of another specimen has no entry (None).

    Parameters
    ----------
    regions
        Where cells were counted.
    mpp
        Microns per level-0 pixel, x and y.
    cellularity
        As the search for regions found it.
    """
    config = job.config
    if config.specimen != "trephine":
        return None
    sample = trephine_sample(
        read_megakaryocytes(job.folder / "cells.parquet"),
        window_of(regions, mpp),
        mpp=mpp,
        cellularity=cellularity,
        model=phenotypes_of(config),
        allow_simulated=job.allow_simulated,
        minimum=config.predictions.min_megakaryocytes,
        confidence=config.predictions.confidence,
    )
    write_text(job.folder / MEGAKARYOCYTES, sample.to_csv(job.slide_id))
    write_text(job.folder / PHENOTYPES, sample.phenotypes_csv(job.slide_id))
    return sample.to_dict()
