"""Pictures of a classifier's evidence for people: the map of its reference cells, and what temperature scaling did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.cells.reference import Reference
from wsi_pipeline.predictions.assessment.calibration import Calibration
from wsi_pipeline.training.cells.outputs import in_words, new_figure, save_figure

_MIN_FOR_TSNE = 20


def draw_map(path: Path, reference: Reference, mapped_by: str) -> None:
    """Draw the map of the reference cells, and beside it t-SNE of the same embeddings as a second opinion.

    What both show may be trusted more than what one shows (van der Maaten and Hinton, JMLR 9:2579, 2008).
    """
    from sklearn.manifold import TSNE

    views = [(mapped_by, reference.place)]
    if len(reference) >= _MIN_FOR_TSNE:
        perplexity = min(30.0, (len(reference) - 1) / 3)
        tsne = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0)
        views.append(("t-SNE, for this figure only", tsne.fit_transform(reference.embedding.astype(np.float32))))
    figure = new_figure(5.2 * len(views) + 1.8, 5)
    axes = np.atleast_1d(figure.subplots(1, len(views)))
    for axis, (title, place) in zip(axes, views, strict=True):
        _scatter(axis, reference, place, title)
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, markerscale=2)
    save_figure(figure, path)


def _scatter(axis: Any, reference: Reference, place: Any, title: str) -> None:
    import matplotlib

    colours = matplotlib.colormaps["tab20"]
    for i, name in enumerate(reference.classes):
        own = reference.class_index == i
        if own.any():
            axis.scatter(place[own, 0], place[own, 1], s=7, color=colours(i % 20), label=in_words(name), linewidths=0)
    axis.set_title(f"{title}; {len(reference)} reference cells", fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")


def draw_temperature(path: Path, before: Calibration, after: Calibration, temperature: float) -> None:
    """Draw the reliability curve before and after temperature scaling."""
    figure = new_figure(5, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    for found, name, marker in (
        (before, f"before, ECE {before.ece:.3f}", "s"),
        (after, f"temperature {temperature:g}, ECE {after.ece:.3f}", "o"),
    ):
        used = [b for b in found.bins if b.n]
        axes.plot([b.confidence for b in used], [b.accuracy for b in used], marker=marker, label=name)
    axes.set_xlabel("probability of the answer")
    axes.set_ylabel("share of right answers")
    axes.set_ylim(0, 1.02)
    axes.set_title("Reliability on test cells", fontsize=10)
    axes.legend(loc="upper left")
    save_figure(figure, path)
