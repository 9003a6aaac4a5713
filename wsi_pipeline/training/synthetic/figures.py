"""Pictures of a generator: real beside generated cells, each with its nearest training image, and the course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.training.cells.outputs import in_words, new_figure, save_figure
from wsi_pipeline.training.synthetic.memorising import Flags


def plot_grid(
    path: Path,
    classes: Sequence[str],
    real: Mapping[str, npt.NDArray[np.uint8]],
    made: Mapping[str, npt.NDArray[np.uint8]],
) -> None:
    """Write a row a class: real training images on the left, generated ones on the right.

    Parameters
    ----------
    real, made
        uint8 ``(n, side, side, 3)`` by class; of both, as many as the fewer.
    """
    figure = new_figure(13, 0.9 * len(classes) + 0.8)
    axes = figure.subplots(len(classes), 2, squeeze=False)
    shown = min(8, *(len(v) for v in made.values()))
    for row, name in enumerate(classes):
        for column, images in enumerate((real[name], made[name])):
            place = axes[row, column]
            place.imshow(_strip(images[:shown], shown))
            place.set_xticks([])
            place.set_yticks([])
            if not column:
                place.set_ylabel(in_words(name), rotation=0, ha="right", va="center", fontsize=9)
    axes[0, 0].set_title("real (training part)", fontsize=10)
    axes[0, 1].set_title("synthetic", fontsize=10)
    save_figure(figure, path)


def plot_nearest(
    path: Path,
    measures: Mapping[str, Flags],
    triples: Sequence[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
) -> None:
    """Write the distances of generated and held-out images, and the generated images nearest to a training image.

    Parameters
    ----------
    measures
        What was found in pixels and in the embedding.
    triples
        A caption, a generated image, and its nearest training images in pixels and in the embedding.
    """
    columns = 4
    rows = -(-len(triples) // columns)
    figure = new_figure(12, 3.2 + 1.45 * rows)
    top, below = figure.subfigures(2, 1, height_ratios=(3.2, 1.45 * rows))
    for axes, (name, found) in zip(top.subplots(1, len(measures)), measures.items(), strict=True):
        most = float(np.quantile(np.concatenate([found.relative, found.held_out]), 0.995))
        bins = np.linspace(0, most, 40)
        axes.hist(found.held_out, bins, density=True, alpha=0.5, label=f"held-out real, n = {len(found.held_out)}")
        axes.hist(found.relative, bins, density=True, alpha=0.5, label=f"synthetic, n = {len(found.relative)}")
        axes.axvline(found.bound, color="0.3", linestyle="--", label="1 % of held-out")
        axes.set_title(f"{name}: {found.flagged.mean():.1%} of synthetic images flagged", fontsize=10)
        axes.set_xlabel("distance to the nearest training image / held-out median of the class")
        axes.set_ylabel("density")
        axes.legend(fontsize=8)
    places = below.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.axis("off")
    for axes, (caption, *images) in zip(places, triples, strict=False):
        axes.imshow(_strip(np.stack(images), 3))
        axes.set_title(caption, fontsize=7)
    below.suptitle(
        "synthetic | nearest training image in pixels | in the embedding; the nearest of each class", fontsize=9
    )
    save_figure(figure, path)


def plot_course(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the losses and the discriminator's mean scores over the steps."""
    figure = new_figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    steps = [h["step"] for h in history]
    for axes, names in (
        (left, {"discriminator_loss": "discriminator", "generator_loss": "generator"}),
        (right, {"score_real": "real", "score_made": "synthetic"}),
    ):
        for key, label in names.items():
            axes.plot(steps, [h[key] for h in history], label=label)
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    left.set_ylabel("logistic loss")
    right.set_ylabel("mean score of the discriminator")
    save_figure(figure, path)


def _strip(images: npt.NDArray[np.uint8], places: int) -> npt.NDArray[Any]:
    """Return images side by side with white between them; places left over stay white."""
    n, side = images.shape[:2]
    strip = np.full((side, places * (side + 2) - 2, 3), 255, dtype=np.uint8)
    for i in range(n):
        strip[:, i * (side + 2) : i * (side + 2) + side] = images[i]
    return strip
