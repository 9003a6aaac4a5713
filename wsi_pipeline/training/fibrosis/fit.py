"""Train the network that ranks reticulin tiles, on pairs; and bring its scores to a scale from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import softplus

from wsi_pipeline.predictions.fibrosis.network import WIDTHS, FibrosisNetwork
from wsi_pipeline.predictions.fibrosis.tiles import POOL_PX
from wsi_pipeline.training.averaging import update_average
from wsi_pipeline.training.fibrosis.data import DENSITY_SCALE, GradedTiles

KNOTS = 41
"""Of the scale."""
_AVERAGED = 0.97


@dataclass(frozen=True, kw_only=True)
class RankingRecipe:
    """How tiles are ranked.

    Attributes
    ----------
    steps, batch
        Steps, and windows of a step; all pairs within it are compared.
    window_px
        Side of the windows, cut from tiles at random; a multiple of 16.
    rate
        Largest learning rate; it falls along a cosine.
    tie_weight
        Weight of pairs of one grade, whose target is one half as in RankNet, beside that of ordered pairs.
    gain
        Densities are multiplied by ``exp(u)``, u uniform within plus or minus this: slides differ in silver.
    """

    steps: int = 300
    batch: int = 32
    window_px: int = 128
    rate: float = 3e-3
    tie_weight: float = 0.1
    gain: float = 0.25


def pairwise_loss(scores: torch.Tensor, grades: torch.Tensor, tie_weight: float) -> torch.Tensor:
    """Return the mean cross-entropy over pairs (Burges et al., ICML 2005): within grades the target is one half.

    Parameters
    ----------
    scores, grades
        ``(n,)``.
    tie_weight
        Of a pair of one grade; an ordered pair has 1.
    """
    first, second = torch.triu_indices(len(scores), len(scores), 1)
    difference = scores[first] - scores[second]
    order = torch.sign(grades[first] - grades[second])
    ordered = softplus(-order * difference)
    tied = 0.5 * (softplus(difference) + softplus(-difference))
    weight = torch.where(order == 0, tie_weight, 1.0)
    return (torch.where(order == 0, tied, ordered) * weight).sum() / weight.sum()


def fit_ranking(
    tiles: GradedTiles,
    rows: npt.NDArray[np.int64],
    recipe: RankingRecipe,
    *,
    seed: int,
    report: Callable[[str], None] = lambda _: None,
) -> FibrosisNetwork:
    """Train on some of the tiles; the same arguments give the same network on one machine.

    Grades are drawn alike, then a slide of the grade, then a tile of it.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network, average = FibrosisNetwork(WIDTHS), FibrosisNetwork(WIDTHS)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    by_grade = [_by_unit(tiles, rows[tiles.grade[rows] == grade]) for grade in np.unique(tiles.grade[rows])]
    network.train()
    for step in range(recipe.steps):
        chosen = []
        for _ in range(recipe.batch):
            units = by_grade[int(rng.integers(len(by_grade)))]
            members = units[int(rng.integers(len(units)))]
            chosen.append(int(members[int(rng.integers(len(members)))]))
        density, marrow = _windows(tiles, chosen, recipe, rng)
        loss = pairwise_loss(network(density, marrow), torch.from_numpy(tiles.grade[chosen]), recipe.tie_weight)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        update_average(average, network, min(_AVERAGED, (step + 1) / (step + 10)))
        if (step + 1) % 100 == 0:
            report(f"  step {step + 1} of {recipe.steps}: loss {loss.item():.3f}")
    return average.eval()


def _by_unit(tiles: GradedTiles, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [rows[tiles.unit[rows] == unit] for unit in np.unique(tiles.unit[rows])]


def _windows(
    tiles: GradedTiles, chosen: list[int], recipe: RankingRecipe, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    side = min(recipe.window_px, tiles.density.shape[2])
    places = (tiles.density.shape[2] - side) // POOL_PX + 1
    squares = side // POOL_PX
    densities, marrows = [], []
    for i in chosen:
        y, x = (int(v) for v in rng.integers(0, places, 2))
        marrow = tiles.marrow[i, y : y + squares, x : x + squares]
        if marrow.mean() < 0.2:  # a window on fat alone says nothing of the grade
            y, x = _fullest(tiles.marrow[i], squares)
            marrow = tiles.marrow[i, y : y + squares, x : x + squares]
        rows, columns = slice(y * POOL_PX, y * POOL_PX + side), slice(x * POOL_PX, x * POOL_PX + side)
        window = tiles.density[i, :, rows, columns].astype(np.float32) / np.float32(DENSITY_SCALE)
        window *= np.exp(rng.uniform(-recipe.gain, recipe.gain) + rng.uniform(-0.06, 0.06, (3, 1, 1))).astype(
            np.float32
        )
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        window, marrow = np.rot90(window, turns, (1, 2)), np.rot90(marrow, turns)
        densities.append(np.ascontiguousarray(window[:, :, ::-1] if mirrored else window))
        marrows.append(np.ascontiguousarray(marrow[:, ::-1] if mirrored else marrow))
    return torch.from_numpy(np.stack(densities)), torch.from_numpy(np.stack(marrows))


def _fullest(marrow: npt.NDArray[np.float32], squares: int) -> tuple[int, int]:
    """Return the corner of the window with the most marrow."""
    sums = np.lib.stride_tricks.sliding_window_view(marrow, (squares, squares)).sum(axis=(2, 3))
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(y), int(x)


def fit_scale(raw: npt.ArrayLike, weights: npt.ArrayLike) -> list[list[float]]:
    """Return knots of a rising map from raw scores to 0..1: the share of the training tiles that score less.

    Parameters
    ----------
    raw, weights
        ``(n,)`` of the training tiles; with weights that add up alike for each grade, an index of 0.7 means that 70 %
        of tiles, spread evenly over the grades, look less fibrous.

    Notes
    -----
    Quantile mapping at :data:`KNOTS` levels, joined linearly. Beyond the least and the greatest score it stays there.
    """
    score, weight = np.asarray(raw, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    score, weight = score[order], weight[order]
    below = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    levels = np.linspace(0, 1, KNOTS)
    places = np.interp(levels, below, score)
    knots = [[round(float(places[0]), 6), 0.0]]
    for place, level in zip(places[1:].tolist(), levels[1:].tolist(), strict=True):
        if round(place, 6) > knots[-1][0]:
            knots.append([round(place, 6), round(level, 6)])
    if len(knots) < 2:  # all tiles score alike
        knots.append([knots[0][0] + 1e-3, 1.0])
    knots[-1][1] = 1.0
    return knots
