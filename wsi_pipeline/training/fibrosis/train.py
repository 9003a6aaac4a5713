"""Train a model of fibrosis from graded reticulin slides, measure it on patients it has not seen, write its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, percentile_estimate
from wsi_pipeline.predictions.assessment.folds import fold_splits, grouped_folds
from wsi_pipeline.predictions.fibrosis.network import TASK, WIDTHS, FibrosisModel, FibrosisNetwork
from wsi_pipeline.predictions.fibrosis.tiles import TILE_UM
from wsi_pipeline.training.cards import Card, DataSource, figure_of, save_weights, write_card
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.fibrosis.data import GradedTiles, read_graded
from wsi_pipeline.training.fibrosis.fit import RankingRecipe, fit_ranking, fit_scale
from wsi_pipeline.weights import SUFFIXES, beside_weights

MPP = 0.5
_DRAWS = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """How well a figure of slides is in the order of their grades.

    Attributes
    ----------
    tau
        Kendall's tau-b.
    concordance
        Share of the pairs of different grade that are in order; ties count one half.
    """

    tau: Estimate
    concordance: Estimate


def train_fibrosis(
    manifest: Path,
    out: Path,
    *,
    folds: int = 4,
    steps: int | None = None,
    per_slide: int = 16,
    seed: int = 0,
    source: str | None = None,
    licence: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Train a model, write weights, card and ``metrics.json`` beside it, and return the weights.

    Parameters
    ----------
    manifest
        As :func:`~wsi_pipeline.training.fibrosis.data.read_graded` reads it.
    out
        The ``.safetensors`` file to write; its stem is the model's name.
    folds
        Cross-validation over so many folds of whole patients; 0 measures nothing.
    steps
        Of a training; None as the recipe has it.
    per_slide
        Most tiles of a slide.
    source, licence
        Of the data and of the weights, for the card.

    Raises
    ------
    ConfigError
        ``out`` is no ``.safetensors`` file, or there is one fold.
    DataError
        The manifest cannot be used, has one grade only, or too few patients of a grade for the folds.
    """
    if out.suffix != SUFFIXES[0]:
        raise ConfigError(f"--out {out}: the weights are a file that ends in {SUFFIXES[0]}")
    if folds == 1 or folds < 0:
        raise ConfigError(f"--folds {folds}: cross-validation needs at least two folds; 0 does none")
    tiles = read_graded(manifest, per_slide=per_slide, report=report)
    if len(np.unique(tiles.grade)) < 2:
        raise DataError(f"{manifest} has slides of one grade only; there is nothing to rank")
    recipe = RankingRecipe() if steps is None else RankingRecipe(steps=steps)
    found = None if folds == 0 else _cross_validate(tiles, folds, recipe, seed=seed, report=report)
    report(f"training on all {len(tiles.unit)} tiles of {len(tiles.units)} slides or images")
    rows = np.arange(len(tiles.unit))
    network = fit_ranking(tiles, rows, recipe, seed=seed, report=report)
    scale = _scale(network, tiles, rows)
    save_weights(network.state_dict(), out)
    write_card(_card(out, tiles, scale, found, recipe, folds=folds, source=source, licence=licence), out)
    if found is not None:
        write_json(beside_weights(out, ".metrics.json"), _metrics(tiles, found, folds))
    return out


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Of each slide or image: grade, patient, index by a model that has not seen the patient, share of dark pixels."""

    grade: Floats
    patient: npt.NDArray[np.int64]
    index: Floats
    fibre_share: Floats

    def figures(self) -> tuple[RankFigures, RankFigures]:
        """Return the model's figures and those of the dark pixels."""
        return (
            rank_figures(self.index, self.grade, self.patient),
            rank_figures(self.fibre_share, self.grade, self.patient),
        )


def _model(network: FibrosisNetwork, scale: list[list[float]]) -> FibrosisModel:
    return FibrosisModel({"name": "fold", "mpp": MPP, "scale": scale}, network)


def _raw(network: FibrosisNetwork, tiles: GradedTiles, rows: npt.NDArray[np.int64]) -> Floats:
    model = _model(network, [[0.0, 0.0], [1.0, 1.0]])
    parts = [model.raw([tiles.tile(int(i)) for i in rows[at : at + 64]]) for at in range(0, len(rows), 64)]
    return np.concatenate(parts).astype(np.float64)


def _scale(network: FibrosisNetwork, tiles: GradedTiles, rows: npt.NDArray[np.int64]) -> list[list[float]]:
    # Each grade weighs alike, so that the scale does not depend on how many slides of it there were.
    of_grade = {grade: int((tiles.grade[rows] == grade).sum()) for grade in np.unique(tiles.grade[rows]).tolist()}
    weights = np.array([1.0 / of_grade[grade] for grade in tiles.grade[rows].tolist()])
    return fit_scale(_raw(network, tiles, rows), weights)


def _cross_validate(
    tiles: GradedTiles, folds: int, recipe: RankingRecipe, *, seed: int, report: Callable[[str], None]
) -> _Held:
    units, first = np.unique(tiles.unit, return_index=True)
    grade, patient = tiles.grade[first], tiles.patient[first]
    fold = grouped_folds(np.rint(grade).astype(np.int64), patient, folds, seed=seed)
    index = np.full(len(units), np.nan)
    for number, split in enumerate(fold_splits(fold), start=1):
        report(f"fold {number} of {folds}")
        train = np.flatnonzero(np.isin(tiles.unit, units[split.train]))
        network = fit_ranking(tiles, train, recipe, seed=seed + number, report=report)
        model = _model(network, _scale(network, tiles, train))
        for place in split.test.tolist():
            rows = np.flatnonzero(tiles.unit == units[place])
            scores = model.scaled(_raw(network, tiles, rows).astype(np.float32))
            index[place] = np.average(scores, weights=tiles.marrow_share[rows])
    shares = [
        np.average(tiles.fibre_share[tiles.unit == u], weights=tiles.marrow_share[tiles.unit == u]) for u in units
    ]
    return _Held(grade=grade, patient=patient, index=index, fibre_share=np.array(shares))


def rank_figures(values: Floats, grades: Floats, patients: npt.NDArray[np.int64], *, seed: int = 0) -> RankFigures:
    """Return how well values are in the order of grades, with 95 % bootstrap intervals over patients."""
    from scipy.stats import kendalltau

    def both(rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        return float(kendalltau(values[rows], grades[rows]).statistic), concordance(values[rows], grades[rows])

    everyone = np.arange(len(values))
    members = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    rng = np.random.default_rng(seed)
    samples = np.array(
        [both(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])) for _ in range(_DRAWS)]
    )
    tau, ordered = both(everyone)
    return RankFigures(
        tau=percentile_estimate(tau, samples[:, 0][np.isfinite(samples[:, 0])]),
        concordance=percentile_estimate(ordered, samples[:, 1][np.isfinite(samples[:, 1])]),
    )


def concordance(values: Floats, grades: Floats) -> float:
    """Return the share of pairs of different grade whose values are in order, ties one half; NaN without such pairs."""
    higher = grades[:, None] > grades[None, :]
    difference = np.sign(values[:, None] - values[None, :])[higher]
    return float((0.5 + 0.5 * difference).mean()) if difference.size else float("nan")


def _metrics(tiles: GradedTiles, held: _Held, folds: int) -> dict[str, Any]:
    names = np.array(tiles.units)[np.unique(tiles.unit)]
    mine, dark = held.figures()
    return {
        "n": len(held.grade),
        "folds": folds,
        "by": "patient",
        "simulated": tiles.simulated,
        **{
            name: {"tau": vars(found.tau), "concordance": vars(found.concordance)}
            for name, found in (("index", mine), ("dark_pixels", dark))
        },
        "slides": [
            {"name": str(name), "grade": float(g), "index": round(float(i), 6), "fibre_share": round(float(s), 6)}
            for name, g, i, s in zip(names, held.grade, held.index, held.fibre_share, strict=True)
        ],
    }


def _card(
    out: Path,
    tiles: GradedTiles,
    scale: list[list[float]],
    held: _Held | None,
    recipe: RankingRecipe,
    *,
    folds: int,
    source: str | None,
    licence: str | None,
) -> Card:
    figures: tuple[Any, ...] = ()
    if held is not None:
        (mine, dark), n = held.figures(), len(held.grade)
        on = f"slides or images, {folds} folds by patient; baseline: share of dark pixels"
        figures = (
            figure_of("Kendall's tau-b with the grade", on, n, mine.tau, dark.tau),
            figure_of("concordance of pairs of different grade", on, n, mine.concordance, dark.concordance),
        )
    title = source or ("drawn reticulin slides (simulate reticulin)" if tiles.simulated else "your own slides")
    made = ("No pixel it was trained on is of a real slide: it says nothing of a patient.",) if tiles.simulated else ()
    return Card(
        name=out.stem,
        task=TASK,
        description=(
            "Ranks tiles of reticulin-stained trephines by their fibres, on a scale from 0 to 1."
            + (" SIMULATED: trained on drawn slides." if tiles.simulated else "")
        ),
        classes=("fibrosis_index",),
        specimens=("trephine",),
        mpp=MPP,
        data=(
            DataSource(
                title=title,
                licence=licence or ("Apache-2.0" if tiles.simulated else "not stated"),
                attribution="this package" if tiles.simulated else "not stated",
                n_train=len(tiles.unit),
            ),
        ),
        licence=licence or ("Apache-2.0" if tiles.simulated else "not stated"),
        split={
            "folds": folds, "by": "patient", "slides": len(tiles.units), "patients": len(np.unique(tiles.patient)),
            "tiles": len(tiles.unit),
        },
        figures=figures,
        fails_on=(
            *made,
            "Other silver stains, thicker sections and other scanners change how dark and thick fibres look.",
            "The scale ends at the least and most fibrous tiles of the training; beyond them it does not move.",
            "It ranks reticulin. Collagen and osteosclerosis need other stains and an eye.",
        ),
        date=today(),
        details={
            "widths": list(WIDTHS),
            "scale": scale,
            "stain": "reticulin",
            "tile_um": TILE_UM,
            "simulated": tiles.simulated,
            "steps": recipe.steps,
            "tie_weight": recipe.tie_weight,
        },
    )  # fmt: skip
