"""From tiles to the index of a slide or patient: the mean over its marrow, how uneven it is, and the interval."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.prediction import ModelEvidence, ModelProbability, Prediction, PredictionLevel
from wsi_pipeline.sentences import say

SQUARE_UM = 512.0
"""Side of the squares that the interval is drawn over: neighbouring tiles are alike."""
FIBROSIS_TASK = "fibrosis"
INDEX_CLASS = "fibrosis_index"

COLUMNS = (
    "slide_id", "index", "lower", "upper", "sd", "iqr", "fibre_share", "fibre_share_sd", "n_tiles", "marrow_mm2",
    "abstained", "reason", "model", "trained_on", "simulated",
)  # fmt: skip
"""Of ``fibrosis.csv``."""

_LEAST_SQUARES = 4
_DRAWS = 2000
_SEED = 20230

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FibrosisIndex:
    """A figure of all tiles of a slide.

    Attributes
    ----------
    value
        Mean over the tiles, each weighed by its marrow; None where ``reason`` says why.
    lower, upper
        Percentile bootstrap over squares of 512 um; None with fewer than four of them.
    sd, iqr
        Heterogeneity: standard deviation and interquartile range over tiles.
    n_tiles, n_squares, marrow_mm2
        What it was made of.
    reason
        None, ``no-marrow`` or ``too-little-marrow``.
    """

    value: float | None
    lower: float | None
    upper: float | None
    sd: float | None
    iqr: float | None
    n_tiles: int
    n_squares: int
    marrow_mm2: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values with six decimals."""
        return {name: round(v, 6) if isinstance(v, float) else v for name, v in vars(self).items()}


def fibrosis_index(
    scores: npt.ArrayLike,
    marrow_mm2: npt.ArrayLike,
    places_um: npt.ArrayLike,
    *,
    min_tiles: int,
    section: npt.ArrayLike | None = None,
    confidence: float = 0.95,
) -> FibrosisIndex:
    """Return the index of a slide, or of several sections together.

    Parameters
    ----------
    scores
        ``(n,)`` of the tiles.
    marrow_mm2
        ``(n,)`` marrow of each, mm2.
    places_um
        ``(n, 2)`` centres, microns from the slide's origin.
    min_tiles
        With fewer there is no index.
    section
        ``(n,)`` number of the slide each tile is on; None where all are on one.

    Notes
    -----
    The interval says how evenly fibres lie in what was sampled, not how well the model ranks (Efron and Tibshirani
    1993, chapter 13, over blocks since neighbours are alike).
    """
    score, weight = np.asarray(scores, np.float64), np.asarray(marrow_mm2, np.float64)
    places = np.asarray(places_um, np.float64).reshape(-1, 2)
    total = float(weight.sum())
    slide = np.zeros(len(score), np.int64) if section is None else np.asarray(section, np.int64)
    square = np.column_stack([slide, np.floor(places / SQUARE_UM).astype(np.int64)])
    squares, unit = np.unique(square, axis=0, return_inverse=True)
    known: dict[str, Any] = {"n_tiles": len(score), "n_squares": len(squares), "marrow_mm2": total}
    nothing: dict[str, Any] = dict.fromkeys(("value", "lower", "upper", "sd", "iqr"))
    if len(score) < min_tiles or total <= 0:
        return FibrosisIndex(**nothing, **known, reason="too-little-marrow" if len(score) else "no-marrow")
    value = float((score * weight).sum() / total)
    lower, upper = _interval(score, weight, unit.reshape(-1), len(squares), confidence)
    low, high = np.percentile(score, (25, 75))
    sd = float(np.sqrt((weight * (score - value) ** 2).sum() / total))
    return FibrosisIndex(value=value, lower=lower, upper=upper, sd=sd, iqr=float(high - low), **known)


def _interval(
    score: Floats, weight: Floats, unit: npt.NDArray[np.intp], n: int, confidence: float
) -> tuple[float | None, float | None]:
    if n < _LEAST_SQUARES:
        return None, None
    sums = np.stack([np.bincount(unit, score * weight, n), np.bincount(unit, weight, n)], axis=1)
    drawn = sums[np.random.default_rng(_SEED).integers(0, n, (_DRAWS, n))].sum(axis=1)
    tail = 50 * (1 - confidence)
    lower, upper = np.percentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12), (tail, 100 - tail))
    return float(lower), float(upper)


def fibrosis_prediction(
    index: FibrosisIndex | None,
    *,
    slide_id: str,
    subject_id: str,
    model: str,
    trained_on: str,
    simulated: bool,
    confidence: float,
    level: PredictionLevel = "slide",
) -> Prediction:
    """Return the row of ``predictions.csv``.

    ``index`` is None where no model was asked, ``slide_id`` empty where ``level`` is ``patient``.

    ``probability`` holds the index, which is no probability; ``probability_of`` says so.
    """
    known: dict[str, Any] = {
        "slide_id": slide_id, "level": level, "subject_id": subject_id, "task": FIBROSIS_TASK, "n_cells": 0,
        "model": model, "trained_on": trained_on,
    }  # fmt: skip
    reason = "no-real-training-data" if index is None else index.reason
    if index is not None and reason is None and (index.lower is None or index.upper is None):
        reason = "too-few-marrow-spaces"
    if index is None or index.value is None or index.lower is None or index.upper is None:
        wording = (
            say(
                "No model ranks the fibres: none that was trained on real reticulin slides is shipped. Train one on "
                "your own graded tiles (train fibrosis) and name it with fibrosis.model. The share of dark pixels is "
                "given."
            )
            if index is None
            else say("There is too little marrow on this slide for an index.")
            if level == "slide"
            else say("There is too little marrow on these slides for an index.")
        )
        return Prediction(**known, class_name="", basis=None, abstained=True, reason=str(reason), wording=wording)
    return Prediction(
        **known,
        class_name=INDEX_CLASS,
        basis=ModelProbability(
            name=say("fibrosis index, not a probability (100 % is the densest fibre of the training)"),
            fraction=index.value,
            lower=index.lower,
            upper=index.upper,
            confidence=confidence,
        ),
        abstained=False,
        reason="",
        wording=say(
            "Fibrosis index {value:.2f} ({lower:.2f} to {upper:.2f}) over {n} tiles and {area:.2f} mm2 of marrow; "
            "heterogeneity (SD) {sd:.2f}. It ranks fibres; it is no grade.",
            value=index.value,
            lower=index.lower,
            upper=index.upper,
            n=index.n_tiles,
            area=index.marrow_mm2,
            sd=0.0 if index.sd is None else index.sd,
        ),
        evidence=ModelEvidence(
            probabilities={},
            limits=(say("Thickness of the section and strength of the silver stain change what fibres look like."),),
            simulated=simulated,
        ),
    )


def fibrosis_csv(prediction: Prediction, index: FibrosisIndex | None, share: FibrosisIndex, *, simulated: bool) -> str:
    """Return ``fibrosis.csv`` of a slide: a header and a row, figures with six decimals, empty where there is none.

    Parameters
    ----------
    index, share
        Of the model's scores (None without a model), and of the dark pixels.
    simulated
        Whether the model was trained on simulated slides.
    """
    known = {} if index is None else index.to_dict()
    values = {
        **prediction.row(),
        **{name: known.get(name) for name in ("lower", "upper", "sd", "iqr")},
        "index": known.get("value"),
        "fibre_share": share.to_dict()["value"],
        "fibre_share_sd": share.to_dict()["sd"],
        "n_tiles": share.n_tiles,
        "marrow_mm2": round(share.marrow_mm2, 6),
        "simulated": str(simulated).lower(),
    }
    row = {name: "" if values[name] is None else values[name] for name in COLUMNS}
    row |= {name: safe_cell(str(row[name])) for name in ("model", "trained_on")}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()
