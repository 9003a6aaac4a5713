"""Dysplasia of the neutrophils of a slide or a gallery: its stain, the pass over its table, the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pyarrow as pa

from wsi_pipeline.cells.dysplasia import (
    EOSINOPHIL,
    LYMPHOCYTE,
    MPP_TOLERANCE,
    NEUTROPHILS,
    SEGMENTED,
    DysplasiaPass,
    codes_of,
    load_reference,
    stain_of,
)
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.predictions.dysplasia import Dysplasia, dysplasia
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.weights import find_weights


def tells_dysplasia(config: PipelineConfig) -> bool:
    """Return whether a run tells dysplasia: a reference is named, and the classifier knows neutrophils."""
    if config.cells.dysplasia_reference is None or config.cells.classifier is None:
        return False
    card = find_weights(config.cells.classifier, "cells").card
    return bool(set(card["classes"]) & set(codes_of(load_taxonomy(card["taxonomy"]), NEUTROPHILS)))


def dysplasia_pass(
    config: PipelineConfig, taxonomy: Taxonomy, classes: tuple[str, ...], tables: Iterable[pa.Table], *, mpp: float
) -> DysplasiaPass | None:
    """Return the pass that scores and flags the neutrophils of a slide; None where none are told.

    Parameters
    ----------
    classes
        Of the classifier; empty without one.
    tables
        Typed white cells of the slide, for its stain: ``class_name``, ``truncated`` and the measures needed.
    mpp
        Microns per pixel that the cells were measured at.
    """
    name = config.cells.dysplasia_reference
    if name is None or not set(classes) & set(codes_of(taxonomy, NEUTROPHILS)):
        return None
    reference = load_reference(name)
    stain = stain_of(tables, taxonomy)
    wrong = abs(mpp / reference.mpp - 1) > MPP_TOLERANCE
    told = {meaning: bool(set(classes) & set(codes_of(taxonomy, (meaning,)))) for meaning in (EOSINOPHIL, LYMPHOCYTE)}
    granules = "resolution-differs" if wrong else stain.granules_hidden(reference)
    nuclei = "resolution-differs" if wrong else stain.nuclei_hidden(reference)
    if not told[LYMPHOCYTE]:
        granules = nuclei = "lymphocytes-not-classified"
    if not told[EOSINOPHIL]:
        granules = "eosinophils-not-classified"
    if not set(classes) & set(codes_of(taxonomy, (SEGMENTED,))):
        nuclei = "segmented-not-told-from-bands"
    return DysplasiaPass(
        taxonomy=taxonomy, reference=reference, stain=stain, granules_hidden=granules, nuclei_hidden=nuclei
    )


def dysplasia_answer(found: DysplasiaPass | None, config: PipelineConfig) -> Dysplasia | None:
    """Return the dysplastic fraction of a finished pass."""
    if found is None:
        return None
    stain = {
        name: None if math.isnan(value) else value  # NaN is no JSON
        for name, value in vars(found.stain).items()
    }
    return dysplasia(
        found.counts,
        granules_hidden=found.granules_hidden,
        nuclei_hidden=found.nuclei_hidden,
        normal=found.reference.normal,
        stain=stain,
        reference=found.reference.name,
        min_neutrophils=config.predictions.min_neutrophils,
        confidence=config.predictions.confidence,
    )
