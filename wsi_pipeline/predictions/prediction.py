"""One answer to one task, as ``predictions.csv`` and ``summary.json`` carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.sentences import Sentence, say

PREDICTION_COLUMNS = (
    "slide_id",
    "level",
    "subject_id",
    "task",
    "class",
    "probability",
    "lower",
    "upper",
    "abstained",
    "reason",
    "n_cells",
    "model",
    "trained_on",
)

PredictionLevel = Literal["slide", "patient"]


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """``k`` of ``n`` cells, under a name a haematologist reads."""

    name: str
    k: int
    n: int
    confidence: float

    @property
    def fraction(self) -> float:
        return self.k / self.n if self.n else 0.0

    @property
    def lower(self) -> float:
        return wilson(self.k, self.n, self.confidence)[0]

    @property
    def upper(self) -> float:
        return wilson(self.k, self.n, self.confidence)[1]

    @property
    def said(self) -> Sentence:
        """The count, the percentage and its interval."""
        return say(
            "{name}: {k} of {n}, {percent:.1f} % ({level:g} % interval {lower:.1f}-{upper:.1f} %)",
            name=self.name,
            k=self.k,
            n=self.n,
            percent=100 * self.fraction,
            level=100 * self.confidence,
            lower=100 * self.lower,
            upper=100 * self.upper,
        )

    def __str__(self) -> str:
        return str(self.said)


@dataclass(frozen=True, kw_only=True)
class ModelProbability:
    """A model's calibrated probability, 0 to 1, with its interval; ``name`` says of what."""

    name: str
    fraction: float
    lower: float
    upper: float
    confidence: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {100 * self.fraction:.1f} % "
            f"({100 * self.confidence:g} % interval {100 * self.lower:.1f}-{100 * self.upper:.1f} %)"
        )


Basis = Proportion | ModelProbability
"""What an answer rests on: cells that were counted, or what a model makes of them."""


@dataclass(frozen=True, kw_only=True)
class EvidenceCell:
    """A cell that weighed in an answer; ``weight`` is its share of the whole, 0 to 1."""

    cell_id: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class ModelEvidence:
    """What a trained model's answer carries beside the class; criteria have none.

    Parameters
    ----------
    probabilities
        Of every class of the task.
    cells
        Those that weighed most, the weightiest first; empty where the model does not weigh cells.
    flags
        What is unusual about the subject, in sentences.
    limits
        What the model cannot know, in sentences.
    simulated
        Whether it was trained on simulated cohorts.
    """

    probabilities: Mapping[str, float]
    cells: tuple[EvidenceCell, ...] = ()
    flags: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    simulated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds; JSON values only, numbers with six decimals."""
        return {
            "probabilities": {name: round(p, 6) for name, p in self.probabilities.items()},
            "evidence": [{"cell_id": cell.cell_id, "weight": round(cell.weight, 6)} for cell in self.cells],
            "flags": list(self.flags),
            "limits": list(self.limits),
            "simulated": self.simulated,
        }


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to a task, or the reason why there is none.

    Parameters
    ----------
    class_name
        The class, or several joined by ``|`` where the evidence does not choose; empty when abstained.
    basis
        For criteria, the proportion that decided; ``probability`` is its fraction and ``lower`` and ``upper``
        its Wilson interval. It is not the probability of the class. For a model, its calibrated probability of the
        class that ``basis`` names, with the interval over cells.
    abstained, reason
        No answer, and why. A reason without abstention is a caution (``few-cells``).
    n_cells
        Cells in the denominator.
    wording, notes
        What a report says; never a diagnosis.
    evidence
        Of a model, what stands behind the answer, also where it abstains; None for criteria.
    """

    slide_id: str
    level: PredictionLevel
    subject_id: str
    task: str
    class_name: str
    basis: Basis | None
    abstained: bool
    reason: str
    n_cells: int
    model: str
    trained_on: str
    wording: str
    notes: tuple[str, ...] = ()
    evidence: ModelEvidence | None = None

    def __post_init__(self) -> None:
        if self.abstained and (self.class_name or self.basis or not self.reason):
            raise DataError(f"task {self.task}: an abstention carries a reason and nothing else")
        if not self.abstained and (not self.class_name or self.basis is None):
            raise DataError(f"task {self.task}: an answer carries a class and what it is based on")

    def row(self) -> dict[str, str | int | float]:
        """Return the row of ``predictions.csv``: fractions with four decimals, empty where there is none."""
        basis = self.basis
        return {
            "slide_id": self.slide_id,
            "level": self.level,
            "subject_id": self.subject_id,
            "task": self.task,
            "class": self.class_name,
            "probability": "" if basis is None else round(basis.fraction, 4),
            "lower": "" if basis is None else round(basis.lower, 4),
            "upper": "" if basis is None else round(basis.upper, 4),
            "abstained": "true" if self.abstained else "false",
            "reason": self.reason,
            "n_cells": self.n_cells,
            "model": self.model,
            "trained_on": self.trained_on,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds; JSON values only."""
        row: dict[str, Any] = {k: (None if v == "" else v) for k, v in self.row().items()}
        row["abstained"] = self.abstained
        row["probability_of"] = self.basis.name if self.basis else None
        model = {} if self.evidence is None else self.evidence.to_dict()
        return {**row, "wording": self.wording, "notes": list(self.notes), **model}
