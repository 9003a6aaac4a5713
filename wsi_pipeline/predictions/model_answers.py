"""Answers of trained models for a slide or a patient, as rows beside those of the criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.prediction import (
    EvidenceCell,
    ModelEvidence,
    ModelProbability,
    Prediction,
    PredictionLevel,
)
from wsi_pipeline.predictions.slide_models import SlideAnswer, SlideEnsemble, answer
from wsi_pipeline.predictions.tasks import consistent
from wsi_pipeline.sentences import say


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What models said of one bag of cells.

    Parameters
    ----------
    predictions
        A row for each model, in their order.
    weights
        ``(n,)`` weight of each cell of the bag by model, adding up to 1; of models that weigh cells.
    """

    predictions: tuple[Prediction, ...]
    weights: Mapping[str, npt.NDArray[np.floating]]


def check_names(models: Sequence[SlideEnsemble]) -> None:
    """Refuse two models of one name, and the names of other answers."""
    names = [str(model.card["name"]) for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two slide models are named {name}; their answers could not be told apart")
        if name in ("criteria", "none"):
            raise ConfigError(f"a slide model is named {name}, as the published criteria are, which always answer")


def ask(
    models: Sequence[SlideEnsemble],
    bag: CellBag,
    *,
    slide_id: str,
    subject_id: str,
    level: PredictionLevel,
    confidence: float,
    allow_simulated: bool,
    counts: Mapping[str, float] | None = None,
) -> Asked:
    """Ask models about a bag of cells.

    Answers that contradict each other are brought into agreement, or abstain, as
    :func:`~wsi_pipeline.predictions.tasks.consistent` says.

    Parameters
    ----------
    slide_id, subject_id, level
        Whose cells these are, for the rows; that of a patient has no slide.
    confidence
        Of the intervals.
    allow_simulated
        Let models of simulated cohorts answer; otherwise they abstain (``no-real-training-data``).
    counts
        Routine counts by analyte, canonical units, for models that read them.
    """
    given = [
        answer(model, bag, confidence=confidence, allow_simulated=allow_simulated, counts=counts) for model in models
    ]
    predictions = []
    weights: dict[str, npt.NDArray[np.floating]] = {}
    for model, one in zip(models, consistent(given), strict=True):
        # Of too few cells, or of a model that may not answer, nothing was worked out.
        asked = bool(one.probabilities)
        predictions.append(
            Prediction(
                slide_id=slide_id if level == "slide" else "",
                level=level,
                subject_id=subject_id,
                task=model.task.name,
                class_name="" if one.abstained else "|".join(one.class_set),
                basis=None if one.abstained else _basis(model, one, confidence),
                abstained=one.abstained,
                reason=one.reason,
                n_cells=one.n_cells,
                model=str(model.card["name"]),
                trained_on=_trained_on(model),
                wording=one.wording,
                evidence=_evidence(model, one) if asked else None,
            )
        )
        if asked and one.attention is not None:
            weights[str(model.card["name"])] = one.attention
    return Asked(predictions=tuple(predictions), weights=weights)


def without_cells(model: SlideEnsemble, *, slide_id: str, subject_id: str) -> Prediction:
    """Return the row of a slide on which nothing was found."""
    return Prediction(
        slide_id=slide_id,
        level="slide",
        subject_id=subject_id,
        task=model.task.name,
        class_name="",
        basis=None,
        abstained=True,
        reason="too-few-cells",
        n_cells=0,
        model=str(model.card["name"]),
        trained_on=_trained_on(model),
        wording=say("No nucleated cell was found."),
    )


def _trained_on(model: SlideEnsemble) -> str:
    text = str(model.card["trained_on"])
    return f"simulated: {text}" if model.card["simulated"] and "simulated" not in text.lower() else text


def _basis(model: SlideEnsemble, one: SlideAnswer, confidence: float) -> ModelProbability:
    """Return the probability that is told: of the positive class of a task of two, else of the likeliest class."""
    told = model.task.positive or max(one.class_set, key=lambda code: one.probabilities[code])
    return ModelProbability(
        name=say("calibrated probability of {disease}", disease=model.task.get(told).name_en),
        fraction=one.probabilities[told],
        lower=one.lower[told],
        upper=one.upper[told],
        confidence=confidence,
    )


def _evidence(model: SlideEnsemble, one: SlideAnswer) -> ModelEvidence:
    return ModelEvidence(
        probabilities=dict(one.probabilities),
        cells=tuple(EvidenceCell(cell_id=cell_id, weight=weight) for cell_id, weight in one.evidence),
        flags=tuple(one.flags),
        limits=tuple(map(str, model.card["limits"])),
        simulated=bool(model.card["simulated"]),
    )
