"""Answers of trained models at the end of a slide, and for the pooled slides of a patient.

A slide's answer is made of what its folder holds, as ``predict slides`` makes it later, so the two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.exports.qupath_answers import add_answers
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.trephine_answer import phenotypes_of
from wsi_pipeline.predictions.attention import FILE, attention_table, read_attention, write_attention
from wsi_pipeline.predictions.bags import CellBag, FinishedSlide, bags_of, finished_slide
from wsi_pipeline.predictions.model_answers import Asked, ask, check_names, without_cells
from wsi_pipeline.predictions.prediction import Prediction, PredictionLevel
from wsi_pipeline.predictions.slide_features import Vocabulary, slide_features
from wsi_pipeline.predictions.slide_models import SlideEnsemble
from wsi_pipeline.predictions.slide_models.storage import map_file
from wsi_pipeline.predictions.trephines.cohort_map import load_cohort_map
from wsi_pipeline.runtime.worker import slide_model
from wsi_pipeline.weights import find_weights

QUPATH = "qupath.geojson.gz"
COHORT_MAP = "cohort_map.json"
SLIDE_MODEL, SHA256 = "slide model ", " SHA-256"
"""What an entry of the provenance begins and ends with that holds a model's SHA-256."""


def models_of(config: PipelineConfig) -> list[SlideEnsemble]:
    """Return the models that a run asks, in the order of the configuration, each loaded once a process."""
    return [slide_model(name) for name in config.predictions.slide_models]


def ask_about(
    models: Sequence[SlideEnsemble],
    slides: Sequence[FinishedSlide],
    *,
    level: PredictionLevel,
    confidence: float,
    allow_simulated: bool,
    counts: Mapping[str, float] | None = None,
) -> tuple[CellBag, Asked]:
    """Ask models about a slide, or about the pooled slides of a patient; return the cells too.

    Parameters
    ----------
    slides
        Of one specimen; one for level ``slide``.
    confidence, allow_simulated, counts
        As :func:`~wsi_pipeline.predictions.model_answers.ask` takes them.
    """
    embedding = any(model.card["reads_embedding"] for model in models)
    (bag,) = bags_of(slides, level=level, embedding=embedding)
    asked = ask(
        models,
        bag,
        slide_id=slides[0].slide_id,
        subject_id=slides[0].subject_id,
        level=level,
        confidence=confidence,
        allow_simulated=allow_simulated,
        counts=counts,
    )
    return bag, asked


def write_asked(folder: Path, bag: CellBag, asked: Asked, *, qupath: Path | None) -> None:
    """Write what models said of a slide to a folder.

    Parameters
    ----------
    folder
        Where ``attention.parquet`` goes when a model weighs cells (an older one is removed otherwise), and the copy of
        ``qupath`` with the answers in it.
    qupath
        The slide's file for QuPath; None without one.
    """
    path = folder / FILE
    if asked.weights:
        write_attention(attention_table(bag.cell_ids, asked.weights), path)
    else:
        path.unlink(missing_ok=True)
    if qupath is not None:
        add_answers(
            qupath,
            folder / QUPATH,
            answers=[prediction.to_dict() for prediction in asked.predictions],
            attention=read_attention(path) if asked.weights else {},
        )


def check_models(config: PipelineConfig) -> PipelineConfig:
    """Refuse, before anything starts, models that cannot answer; return the configuration with what they read.

    Embeddings are written where a model reads them, unless the configuration says otherwise.

    Raises
    ------
    ModelError
        A model is missing or damaged, or was made for another specimen or another classifier.
    ConfigError
        Two models of one name, no classifier, or embeddings that are read and switched off.
    """
    models = models_of(config)
    check_names(models)
    for model in models:
        model.check_made_for(config.specimen, whose="the configuration")
        if config.specimen == "trephine":
            _check_phenotypes(model, config)
            continue
        if config.cells.classifier is None:
            raise ConfigError(
                f"model {model.card['name']} reads classified cells, and cells.classifier is null; name a classifier"
            )
        own = find_weights(config.cells.classifier, "cells")
        model.check_typed_by(own.sha256, whose=f"this run, cells.classifier {own.name},")
    readers = [model.card["name"] for model in models if model.card["reads_embedding"]]
    if not readers or config.cells.embedding:
        return config
    if "embedding" in config.cells.model_fields_set:
        raise ConfigError(f"model {readers[0]} reads embeddings of cells, and cells.embedding is false; leave that out")
    return config.model_copy(update={"cells": config.cells.model_copy(update={"embedding": True})})


def _check_phenotypes(model: SlideEnsemble, config: PipelineConfig) -> None:
    """Refuse a model of trephines that reads the phenotypes of another model than the run tells."""
    own, needed = phenotypes_of(config), model.card["classifier"]
    if (own.sha256 if own else "") == needed["sha256"]:
        return
    said = "predictions.phenotypes is null" if own is None else f"predictions.phenotypes is {own.name}"
    wanted = f"phenotypes of {needed['name']} ({needed['sha256'][:12]})" if needed["sha256"] else "no phenotypes"
    raise ModelError(
        f"model {model.card['name']} was trained on trephines with {wanted}; {said}. Run with what it was trained "
        "with, or train the model again"
    )


def provenance_of(config: PipelineConfig) -> dict[str, str]:
    """Return the SHA-256 of every model that is asked, by its name."""
    return {f"{SLIDE_MODEL}{model.card['name']}{SHA256}": model.card["sha256"] for model in models_of(config)}


def answer_slide(job: SlideJob, status: str) -> list[Prediction]:
    """Ask the models of a job about its slide, whose ``summary.json`` and ``cells.parquet`` are written.

    Files are written as :func:`write_asked` says.
    """
    models = models_of(job.config)
    if not models or status != "ok":
        (job.folder / FILE).unlink(missing_ok=True)
        return [without_cells(model, slide_id=job.slide_id, subject_id=job.subject_id) for model in models]
    bag, asked = ask_about(
        models,
        [finished_slide(job.folder)],
        level="slide",
        confidence=job.config.predictions.confidence,
        allow_simulated=job.allow_simulated,
    )
    qupath = job.folder / QUPATH
    write_asked(job.folder, bag, asked, qupath=qupath if job.config.exports.qupath and qupath.is_file() else None)
    return list(asked.predictions)


def map_slide(job: SlideJob) -> dict[str, Any] | None:
    """Place a trephine on the cohort map of the first model that has one; write ``cohort_map.json``.

    Returns
    -------
    dict or None
        What ``summary.json`` says under ``trephine.map``; None without a map, of simulated cohorts that are not
        allowed, and where too few megakaryocytes were found to tell the sample's features.
    """
    slide = finished_slide(job.folder)
    out = job.folder / COHORT_MAP
    out.unlink(missing_ok=True)
    if slide.trephine is None or slide.trephine["abstained"]:
        return None
    (bag,) = bags_of([slide], level="slide", embedding=False)
    for name, model in zip(job.config.predictions.slide_models, models_of(job.config), strict=True):
        found = load_cohort_map(map_file(find_weights(name, "slides").path))
        if found is None or (found.document.simulated and not job.allow_simulated):
            continue
        own = slide_features(bag, vocabulary=Vocabulary.of([bag]))
        sample = found.place(own.names, own.values)
        write_json(out, found.drawing(sample))
        return {"model": model.card["name"], "file": COHORT_MAP, "simulated": found.document.simulated, **sample}
    return None


def answer_patient(jobs: Sequence[SlideJob]) -> list[Prediction]:
    """Ask the models about the pooled cells of a patient's slides of one specimen."""
    config = jobs[0].config
    _, asked = ask_about(
        models_of(config),
        [finished_slide(job.folder) for job in jobs],
        level="patient",
        confidence=config.predictions.confidence,
        allow_simulated=jobs[0].allow_simulated,
    )
    return list(asked.predictions)
