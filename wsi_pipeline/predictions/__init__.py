"""Counts to an answer: the differential with its intervals, and what count criteria can honestly say."""

from wsi_pipeline.predictions.corrected import CORRECTED_COLUMNS, CorrectedDifferential, corrected_differential
from wsi_pipeline.predictions.criteria import criteria_predictions
from wsi_pipeline.predictions.differential import (
    DIFFERENTIAL_COLUMNS,
    Differential,
    DifferentialRow,
    Index,
    differential,
    pool_counts,
)
from wsi_pipeline.predictions.intervals import poisson, wilson
from wsi_pipeline.predictions.prediction import (
    PREDICTION_COLUMNS,
    EvidenceCell,
    ModelEvidence,
    ModelProbability,
    Prediction,
    Proportion,
)

__all__ = [
    "CORRECTED_COLUMNS",
    "DIFFERENTIAL_COLUMNS",
    "PREDICTION_COLUMNS",
    "CorrectedDifferential",
    "Differential",
    "DifferentialRow",
    "EvidenceCell",
    "Index",
    "ModelEvidence",
    "ModelProbability",
    "Prediction",
    "Proportion",
    "corrected_differential",
    "criteria_predictions",
    "differential",
    "poisson",
    "pool_counts",
    "wilson",
]
