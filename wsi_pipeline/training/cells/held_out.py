"""Does the out-of-distribution score find cells of a class that a network never saw? Small networks without it tell.

A score measured on classes that the network was trained on says nothing: training has pulled their embeddings apart.
So classes are left out in pairs; a small network is trained without each pair, on the same split and with the same
preparation of the windows, its score is fitted and calibrated as :mod:`wsi_pipeline.training.cells.evidence` does,
and the left-out class's test cells are held against the test cells of the classes it knows. Only data sets that have
the left-out class are compared, so that what is found is the class and not the laboratory.

The networks are smaller than the classifier and are trained for less time, so that all of them take as long as one
training; the figures are those of the method, and a better network does a little better.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cells.backbones import Network
from wsi_pipeline.cells.out_of_distribution import CUT_OFF, fit_out_of_distribution
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.auc import auroc
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.training.cards import Figure
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.fit import ARTEFACT, CellRecipe, fit

SMALL = CellRecipe(stem=16, widths=(16, 32, 64, 96), epochs=12, draws=4096, learning_rate=3e-3)
"""The small network; window, resolution and preparation are those of the classifier."""

_MIN_TEST = 10


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What the score did on one class that its network had never seen.

    Parameters
    ----------
    name
        The class.
    n
        Its test cells.
    value, lower, upper
        AUROC of those against test cells of the known classes of the same data sets, with its 95 % interval.
    caught, caught_lower, caught_upper
        Share of them called unusual, with its Wilson interval.
    false_alarms
        Share of the known cells called unusual.
    """

    name: str
    n: int
    value: float | None
    lower: float | None
    upper: float | None
    caught: float
    caught_lower: float
    caught_upper: float
    false_alarms: float


def held_out_classes(
    cells: PackedCells,
    split: npt.NDArray[np.str_],
    classes: tuple[str, ...],
    work: Path,
    *,
    recipe: CellRecipe,
    device: str = "cpu",
    report: Callable[[str], None],
) -> list[HeldOut]:
    """Train without each pair of classes and measure the score on them.

    Parameters
    ----------
    cells, split
        Of the classifier's training.
    classes
        Of the classifier. Artefact is never left out: it has no look of its own.
    work
        Folder; each pair has its checkpoint and result in ``held-out/<pair>``, and is not done twice.
    recipe
        Of the small networks.
    report
        Receives progress lines.

    Raises
    ------
    DataError
        There are fewer than four classes, so that too few are left.
    """
    known = np.isin(cells.class_names, classes)
    cells, split = cells.where(known), split[known]
    names = [n for n in classes if n != ARTEFACT]
    if len(names) < 4:
        raise DataError(f"{len(names)} classes: leaving two out needs at least four")
    half = len(names) // 2
    # Far apart in the list: neighbours are alike, and one would stand in for the other.
    pairs = [tuple(names[i::half]) for i in range(half)]
    found: list[HeldOut] = []
    for pair in pairs:
        found += _without(cells, split, classes, pair, work / "held-out" / "-".join(pair), recipe, device, report)
    return sorted(found, key=lambda h: classes.index(h.name))


def held_out_figures(found: list[HeldOut]) -> list[Figure]:
    """Return figures for a card, two a class."""
    figures = []
    for h in found:
        on = f"{h.name}, never seen by its network"
        figures.append(
            Figure(name="AUROC of the out-of-distribution score", on=on, n=h.n, value=h.value, lower=h.lower,
                   upper=h.upper)
        )  # fmt: skip
        figures.append(
            Figure(name=f"share called unusual (of known cells: {h.false_alarms:.3f})", on=on, n=h.n, value=h.caught,
                   lower=h.caught_lower, upper=h.caught_upper)
        )  # fmt: skip
    return figures


def _without(
    cells: PackedCells,
    split: npt.NDArray[np.str_],
    classes: tuple[str, ...],
    pair: tuple[str, ...],
    folder: Path,
    recipe: CellRecipe,
    device: str,
    report: Callable[[str], None],
) -> list[HeldOut]:
    about = json.loads(json.dumps({"recipe": asdict(recipe), "classes": classes, "n": len(cells), "cut_off": CUT_OFF}))
    written = folder / "held_out.json"
    if written.is_file():
        stored = json.loads(written.read_text(encoding="utf-8"))
        if stored["about"] == about:
            return [HeldOut(**row) for row in stored["found"]]
    known = ~np.isin(cells.class_names, pair)
    kept = tuple(c for c in classes if c not in pair)
    report(f"held out: {' and '.join(pair)}")
    fitted = fit(cells.where(known), split[known], kept, folder, recipe, device=device, report=report)
    network = cast(Network, fitted.network)  # Trained without attributes.
    network.fold()
    looked = np.isin(split, ("train", "val", "test"))
    p, embedding = _look(network, cells, np.flatnonzero(looked), recipe, device)
    train, val = (np.flatnonzero((split == s) & known) for s in ("train", "val"))
    labels = np.array([kept.index(n) for n in cells.class_names[train].tolist()], dtype=np.int64)
    score = fit_out_of_distribution(embedding[train], labels, p[val], embedding[val])
    found = []
    for name in pair:
        outside = np.flatnonzero((cells.class_names == name) & (split == "test"))
        if len(outside) < _MIN_TEST:
            report(f"held out: {name} has {len(outside)} test cells, too few to measure")
            continue
        there = np.isin(cells.sources, np.unique(cells.sources[outside]))
        inside = np.flatnonzero(known & (split == "test") & there)
        high, low = (score.score(p[i], embedding[i]) for i in (outside, inside))
        estimate = auroc(low, high)
        caught = int((score.percentile_of(high) > CUT_OFF).sum())
        lower, upper = wilson(caught, len(outside))
        found.append(
            HeldOut(
                name=name, n=len(outside), value=estimate.value, lower=estimate.lower, upper=estimate.upper,
                caught=caught / len(outside), caught_lower=lower, caught_upper=upper,
                false_alarms=float((score.percentile_of(low) > CUT_OFF).mean()),
            )
        )  # fmt: skip
    write_json(written, {"about": about, "found": [asdict(h) for h in found]})
    return found


def _look(
    network: Any, cells: PackedCells, index: npt.NDArray[np.int64], recipe: CellRecipe, device: str, batch: int = 64
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16]]:
    """Return probabilities and embeddings in the order of the cells; those not looked at are zero."""
    spec = network.spec
    p = np.zeros((len(cells), spec.n_classes), np.float32)
    embedding = np.zeros((len(cells), spec.embedding_dim), np.float16)
    with torch.inference_mode():
        for start in range(0, len(index), batch):
            part = index[start : start + batch]
            images = torch.from_numpy(cells.windows(recipe.window_px, part)).to(device)
            light = torch.from_numpy(cells.background[part]).to(device)
            features, logits = recipe.preparation.look(network, recipe.preparation.windows(images, light))
            p[part] = torch.softmax(logits.float(), dim=1).cpu().numpy()
            embedding[part] = features.to(torch.float16).cpu().numpy()
    return p, embedding


def small_recipe(mpp: float, window_px: int, side_px: int, preparation: dict[str, Any], epochs: int) -> CellRecipe:
    """Return the recipe of the small networks for a classifier's windows."""
    return replace(SMALL, mpp=mpp, window_px=window_px, side_px=side_px, epochs=epochs, **preparation)
