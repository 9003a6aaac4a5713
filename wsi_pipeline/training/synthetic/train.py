"""Train a class-conditional generator on the training part of a laboratory's own cells, and look at what it makes.

Validation and test images are never trained on; they only say, at the end, how near to the training images an image
comes that was not copied.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.training.cards import Card, Figure, save_weights, write_card
from wsi_pipeline.training.cells.outputs import write_rows
from wsi_pipeline.training.cells.own_data import OwnCells, own_name, read_own_cells
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.train_shipped import sources_of, today
from wsi_pipeline.training.synthetic.cells import TASK, seen_file, write_seen
from wsi_pipeline.training.synthetic.figures import plot_course, plot_grid, plot_nearest
from wsi_pipeline.training.synthetic.fit import (
    LIGHT,
    WINDOW_UM,
    GeneratorRecipe,
    fit_generator,
    make_images,
    to_grey_levels,
    to_signed,
)
from wsi_pipeline.training.synthetic.memorising import (
    Flags,
    Nearest,
    embed,
    flag,
    frechet_distance,
    nearest_by_embedding,
    nearest_by_pixels,
)

_CHECKED_AT_MOST = 2000
"""Images made for the check, in all."""
_FAILS = (
    "Generated cells are for adding to training sets alone. They are no evidence: never count, validate, test or teach "
    "diagnosis with them.",
    "What the training images do not have (other stains, rare variants, dysplasia) is not made.",
    "A generator of few images may repeat some of them; see the share flagged above and nearest_training.png.",
)


def packing(side_px: int) -> tuple[int, int, float]:
    """Return side of the packed images, side of the window (24 um) and um per pixel to read cells at.

    Up to 64 pixels as the compact classifier does, so that groups and folds are the same; 128 pixels as they are.
    """
    window = max(96, side_px)
    return window * 3 // 2, window, WINDOW_UM / window


def train_own_generator(
    request: CellTraining,
    out: Path,
    *,
    recipe: GeneratorRecipe,
    classifier: str = "pbc-blast",
    device: str = "cpu",
    resume: bool = True,
    report: Callable[[str], None],
) -> Path:
    """Train, check and write a generator; return its weights, or those of the fold asked for.

    Parameters
    ----------
    request
        The data, the grouping and the folds; what it says of classifiers is not used. With ``folds`` a generator is
        trained for each of them, in ``fold-<k>/``, besides.
    out
        Receives everything; the same request there resumes.
    classifier
        Whose embedding images are compared in: shipped weights, or a ``.safetensors`` file.
    report
        Receives progress lines.

    Raises
    ------
    DataError, ConfigError, ModelError, DeviceError
        Before training, with what is wrong.
    """
    recipe = replace(recipe, seed=request.seed)
    judge = load_classifier(classifier, device)
    side, window, mpp = packing(recipe.side_px)
    own = read_own_cells(request, out, side_px=side, window_px=window, mpp=mpp, report=report)
    run = _Run(own=own, request=request, recipe=recipe, window_px=window, device=device)

    def train(split: npt.NDArray[np.str_], folder: Path, fold: int | None) -> Path:
        return run.train(split, folder, fold, judge=judge, resume=resume, report=report)

    if request.fold is not None:
        return train(own.fold(request.fold, request.folds), out / f"fold-{request.fold}", request.fold)
    for k in range(request.folds):
        report(f"fold {k} of {request.folds}")
        train(own.fold(k, request.folds), out / f"fold-{k}", k)
    return train(own.split(), out, None)


@dataclass(frozen=True, kw_only=True)
class _Run:
    own: OwnCells
    request: CellTraining
    recipe: GeneratorRecipe
    window_px: int
    device: str

    def train(
        self,
        split: npt.NDArray[np.str_],
        out: Path,
        fold: int | None,
        *,
        judge: Any,
        resume: bool,
        report: Callable[[str], None],
    ) -> Path:
        own, recipe = self.own, self.recipe
        weights = out / f"{self.request.name or own_name(self.request.data) + '-generator'}.safetensors"
        identity = json.loads(
            json.dumps({"cells": own.digest, "split": _digest(split), "recipe": recipe.fixed, "judge": judge.sha256})
        )
        written = out / "metrics.json"
        if resume and written.is_file() and weights.is_file() and seen_file(weights).is_file():
            found = json.loads(written.read_text(encoding="utf-8"))
            if found.get("identity") != identity:
                raise DataError(f"{written} is of another request or other data; choose another --out, or --restart")
            if found["steps"] == recipe.steps:
                return weights
        own.write_split(out / "split.csv", split)
        train, held = np.flatnonzero(split == "train"), np.flatnonzero(split != "train")
        signed = to_signed(own.cells.windows(self.window_px, train), own.cells.background[train], recipe.side_px)
        report(f"training on the {len(train)} training images; {len(held)} held-out ones are not used")
        fitted = fit_generator(
            signed,
            own.labels[train],
            len(own.classes),
            out,
            recipe,
            identity=f"{own.digest} {_digest(split)}",
            device=self.device,
            resume=resume,
            report=report,
        )
        save_weights(fitted.network.state_dict(), weights)
        seen = write_seen(weights, own, split, self.window_px)
        report("looking for the nearest training image of generated ones")
        each = max(8, min(recipe.checked, _CHECKED_AT_MOST // len(own.classes)))
        names = np.repeat(np.array(own.classes), each)
        made = make_images(
            fitted.network.to(self.device),
            np.repeat(np.arange(len(own.classes)), each),
            seed=recipe.seed,
            device=self.device,
        )
        real = to_grey_levels(torch.from_numpy(signed))
        kept = to_grey_levels(
            torch.from_numpy(
                to_signed(own.cells.windows(self.window_px, held), own.cells.background[held], recipe.side_px)
            )
        )
        check = _Check.make(own, train, held, real, kept, made, names, recipe, judge)
        history_columns = list(fitted.history[0])
        write_rows(out / "history.csv", history_columns, [[h[c] for c in history_columns] for h in fitted.history])
        plot_course(out / "history.png", fitted.history)
        classes = own.cells.class_names[train]
        plot_grid(
            out / "real_vs_synthetic.png",
            own.classes,
            {c: real[classes == c] for c in own.classes},
            {c: made[names == c] for c in own.classes},
        )
        check.write(out, own, train, held, real, made, names)
        figures, by_class = check.figures(own, train, held, names)
        write_card(self._card(weights.stem, split, seen, figures, by_class, fold, judge), weights)
        write_json(
            written,
            {"identity": identity, "steps": recipe.steps, **check.summary(), "figures": [vars(f) for f in figures]},
        )
        for figure in figures:
            report(
                f"{figure.name}: {figure.value:.3f}" + (f" (real: {figure.baseline:.3f})" if figure.baseline else "")
            )
        return weights

    def _card(
        self,
        name: str,
        split: npt.NDArray[np.str_],
        seen: dict[str, Any],
        figures: tuple[Figure, ...],
        by_class: str,
        fold: int | None,
        judge: Any,
    ) -> Card:
        own, recipe = self.own, self.recipe
        counts = Counter(own.cells.class_names[split == "train"].tolist())
        return Card(
            name=name,
            task=TASK,
            description=(
                f"Makes images of single cells of {len(own.classes)} classes, {recipe.side_px} px, {WINDOW_UM:g} um, "
                "for adding to the training part of a classifier. A conditional GAN: logistic loss, gradient penalty, "
                "projection discriminator, differentiable augmentation, averaged weights."
            ),
            classes=own.classes,
            specimens=self.request.specimens,
            mpp=recipe.mpp,
            data=sources_of(own.cells, split, shipped=False),
            licence=self.request.licence or "not stated",
            split={
                "method": f"by {own.grouping}, joined with near-duplicates, from a hash of the pixels",
                "of": "the weights that are kept" if fold is None else f"fold {fold} of {self.request.folds}",
                "groups": len(np.unique(own.groups)),
                **{s: int((split == s).sum()) for s in ("train", "val", "test")},
            },
            figures=figures,
            fails_on=_FAILS,
            date=today(),
            details={
                "taxonomy": own.taxonomy.name,
                "network": recipe.network(len(own.classes)).to_dict(),
                "background": LIGHT,
                "seen": seen,
                "trained_on": {c: counts[c] for c in own.classes},
                "compared_in": {"name": judge.name, "sha256": judge.sha256},
                "recipe": dict(vars(recipe)),
            },
            tables={"Generated images by class": by_class},
        )


@dataclass(frozen=True, kw_only=True)
class _Check:
    """Nearest training images of generated and of held-out images."""

    pixels: Nearest
    embedding: Nearest
    held_pixels: Nearest
    held_embedding: Nearest
    flags: dict[str, Flags]
    frechet: float
    frechet_real: float

    @classmethod
    def make(
        cls,
        own: OwnCells,
        train: npt.NDArray[np.int64],
        held: npt.NDArray[np.int64],
        real: npt.NDArray[np.uint8],
        kept: npt.NDArray[np.uint8],
        made: npt.NDArray[np.uint8],
        names: npt.NDArray[np.str_],
        recipe: GeneratorRecipe,
        judge: Any,
    ) -> _Check:
        theirs, held_e, ours = (embed(i, LIGHT, recipe.mpp, judge) for i in (real, kept, made))
        pixels, held_pixels = nearest_by_pixels(made, real), nearest_by_pixels(kept, real)
        embedding, held_embedding = nearest_by_embedding(ours, theirs), nearest_by_embedding(held_e, theirs)
        held_names = own.cells.class_names[held].tolist()
        flags = {
            "pixels": flag(pixels, names.tolist(), held_pixels, held_names),
            "embedding": flag(embedding, names.tolist(), held_embedding, held_names),
        }
        # As many generated as held-out images of each class, since the distance depends on the number.
        equal, shared = [], []
        for name in own.classes:
            mine, other = np.flatnonzero(names == name), np.flatnonzero(np.array(held_names) == name)
            n = min(len(mine), len(other))
            equal.append(mine[:n])
            shared.append(other[:n])
        return cls(
            pixels=pixels,
            embedding=embedding,
            held_pixels=held_pixels,
            held_embedding=held_embedding,
            flags=flags,
            frechet=frechet_distance(ours[np.concatenate(equal)], theirs),
            frechet_real=frechet_distance(held_e[np.concatenate(shared)], theirs),
        )

    def summary(self) -> dict[str, Any]:
        """Return what ``metrics.json`` says."""
        both = self.flags["pixels"].flagged & self.flags["embedding"].flagged
        return {
            "images": len(both),
            "held_out": len(self.held_pixels.index),
            "flagged": {name: float(f.flagged.mean()) for name, f in self.flags.items()} | {"both": float(both.mean())},
            "expected_by_chance": 0.01,
            "frechet_distance": {"synthetic": self.frechet, "held_out_real": self.frechet_real},
        }

    def write(
        self,
        out: Path,
        own: OwnCells,
        train: npt.NDArray[np.int64],
        held: npt.NDArray[np.int64],
        real: npt.NDArray[np.uint8],
        made: npt.NDArray[np.uint8],
        names: npt.NDArray[np.str_],
    ) -> None:
        """Write ``nearest_training.csv`` and ``.png``."""
        files, classes = own.cells.files[train], own.cells.class_names[train]
        each = len(names) // len(own.classes)
        rows: list[list[Any]] = []
        for kind, labels, pixels, embedding in (
            ("synthetic", names, self.pixels, self.embedding),
            ("held-out", own.cells.class_names[held], self.held_pixels, self.held_embedding),
        ):
            for i, name in enumerate(labels.tolist()):
                p, e = pixels.index[i], embedding.index[i]
                flagged = ["", ""] if kind != "synthetic" else [int(f.flagged[i]) for f in self.flags.values()]
                image = f"{name}/{i % each}" if kind == "synthetic" else own.cells.files[held[i]]
                rows.append(
                    [kind, image, name, files[p], classes[p], float(pixels.distance[i]), files[e], classes[e],
                     float(embedding.distance[i]), *flagged]
                )  # fmt: skip
        write_rows(
            out / "nearest_training.csv",
            ["kind", "image", "class", "nearest_by_pixels", "its_class", "rms_grey_levels", "nearest_by_embedding",
             "that_class", "embedding_distance", "flagged_pixels", "flagged_embedding"],
            rows,
        )  # fmt: skip
        nearest = np.minimum(*(f.relative / max(f.bound, 1e-9) for f in self.flags.values()))
        triples = []
        for name in own.classes:
            mine = np.flatnonzero(names == name)
            for i in mine[np.argsort(nearest[mine], kind="stable")][:4].tolist():
                caption = f"{name}: {self.pixels.distance[i]:.1f} grey levels, {self.embedding.distance[i]:.2f}"
                triples.append((caption, made[i], real[self.pixels.index[i]], real[self.embedding.index[i]]))
        plot_nearest(out / "nearest_training.png", self.flags, triples)

    def figures(
        self,
        own: OwnCells,
        train: npt.NDArray[np.int64],
        held: npt.NDArray[np.int64],
        names: npt.NDArray[np.str_],
    ) -> tuple[tuple[Figure, ...], str]:
        """Return the card's figures and its table by class."""
        classes = own.cells.class_names[train]
        agrees = classes[self.embedding.index] == names
        held_names = own.cells.class_names[held]
        held_agrees = classes[self.held_embedding.index] == held_names
        n = len(names)
        on = "generated images; baseline: held-out real images"
        figures = (
            Figure(name="nearest training image in the embedding is of the class asked for", on=on, n=n,
                   value=float(agrees.mean()), baseline=float(held_agrees.mean())),
            Figure(name="Frechet distance to the training images in the embedding", on=on, n=n, value=self.frechet,
                   baseline=self.frechet_real),
            *(Figure(name=f"share flagged as near a training image in {k}", on=on, n=n, value=float(f.flagged.mean()),
                     baseline=float((f.held_out < f.bound).mean()))
              for k, f in self.flags.items()),
        )  # fmt: skip
        rows = [
            [
                name,
                int((classes == name).sum()),
                float(agrees[names == name].mean()),
                float(held_agrees[held_names == name].mean()) if (held_names == name).any() else "-",
                *(float(f.flagged[names == name].mean()) for f in self.flags.values()),
            ]
            for name in own.classes
        ]
        return figures, text_table(
            ["class", "trained on", "nearest of class", "the same, real", "flagged pixels", "flagged embedding"], rows
        )


def _digest(split: npt.NDArray[np.str_]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(split.tolist()).encode()).hexdigest()
