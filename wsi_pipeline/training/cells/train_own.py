"""Train a cell classifier on a laboratory's own labelled cells: list, check, group, fit, measure, write.

What is asked for is a :class:`~wsi_pipeline.training.cells.own_request.CellTraining`; the models are those of
:mod:`~wsi_pipeline.training.cells.models`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsi_pipeline.cells.attributes import AttributedNetwork
from wsi_pipeline.cells.classifier import TASK, load_classifier
from wsi_pipeline.errors import DataError, DeviceError
from wsi_pipeline.evaluation.tables import classification_metrics
from wsi_pipeline.predictions.assessment.calibration import calibration
from wsi_pipeline.predictions.assessment.confusion import evaluate_classification
from wsi_pipeline.training.cards import Card, Figure, save_weights, write_card
from wsi_pipeline.training.cells.attributes import AttributeLabels, attribute_figures, learnable, read_attributes
from wsi_pipeline.training.cells.confusion import card_confusion, confusion_tables
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.fit import CellRecipe, fit, logits_of
from wsi_pipeline.training.cells.folds import folds_table, over_folds
from wsi_pipeline.training.cells.outputs import one_versus_rest, write_outputs
from wsi_pipeline.training.cells.own_data import OwnCells, own_name, read_own_cells
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.report import Answers, answers_of, report_on, typed
from wsi_pipeline.training.cells.train_shipped import FOLDER_FAILS, best_temperature, sources_of, tensors_of, today
from wsi_pipeline.training.synthetic.ablation import compare
from wsi_pipeline.training.synthetic.cells import CellGenerator, add_synthetic, load_generator, refuse_seen
from wsi_pipeline.weights import file_sha256, find_weights


def train_own_cells(
    request: CellTraining,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = True,
    recipe: CellRecipe = CellRecipe(),  # noqa: B008 - frozen
    report: Callable[[str], None],
) -> Path:
    """Train, measure and write a classifier; return its weights, or the ``metrics.json`` of a single fold.

    Parameters
    ----------
    request
        What to train.
    out
        Receives everything; the same request there resumes.
    device
        ``cpu`` or a CUDA device.
    recipe
        Settings that the request does not name.
    report
        Receives progress lines.

    Raises
    ------
    DataError, ConfigError, ModelError, DeviceError
        Before training, with what is wrong.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but torch sees no CUDA device; use cpu")
    request.model.check()
    epochs = request.epochs or recipe.epochs
    recipe = request.model.recipe(replace(recipe, seed=request.seed, epochs=epochs, **request.preparation.to_card()))
    own = read_own_cells(
        request, out, side_px=recipe.side_px, window_px=recipe.window_px, mpp=recipe.mpp, report=report
    )
    run = _Run(request, own, recipe, device, resume, report)
    run.check_synthetic()
    if request.ablate_synthetic:
        return run.ablate(out)
    if request.fold is not None:
        return run.fold(request.fold, out)
    folds = [json.loads(run.fold(k, out).read_text(encoding="utf-8")) for k in range(request.folds)]
    return run.final(out, folds)


class _Run:
    """One request with its packed cells and groups."""

    def __init__(
        self,
        request: CellTraining,
        own: OwnCells,
        recipe: CellRecipe,
        device: str,
        resume: bool,
        report: Callable[[str], None],
    ) -> None:
        self.request, self.own, self.recipe = request, own, recipe
        self.device, self.resume, self.report = device, resume, report
        self.packed, self.taxonomy, self.classes = own.packed, own.taxonomy, own.classes
        self.grouping, self.groups = own.grouping, own.groups
        self.cells: PackedCells = own.cells
        self.attributes: AttributeLabels | None = None
        if request.attributes is not None:
            self.attributes = read_attributes(
                request.attributes, request.data, self.cells.files.tolist(), self.cells.class_names, own.taxonomy
            )
        self.features: npt.NDArray[np.float32] | None = None
        self._features_sha256 = ""
        self.added: dict[str, Any] = {}

    def fold(self, number: int, out: Path) -> Path:
        """Train and measure one fold; what is there already is kept when it is of the same request."""
        folder = out / f"fold-{number}"
        identity = {**self._identity(), **self._about_synthetic(number)}
        written = folder / "metrics.json"
        if self.resume and written.is_file():
            found = json.loads(written.read_text(encoding="utf-8"))
            if found.get("identity") == identity:
                return written
            raise DataError(f"{written} is of another request or other data; choose another --out, or --restart")
        split = self.own.fold(number, self.request.folds)
        self.report(f"fold {number} of {self.request.folds}: {int((split == 'test').sum())} test cells")
        self._train(split, folder, number, extra={"identity": identity})
        return written

    def final(self, out: Path, folds: list[dict[str, Any]]) -> Path:
        """Train the weights that are kept, with the figures of the folds in their card."""
        return self._train(self.own.split(), out, None, folds=folds)

    def ablate(self, out: Path) -> Path:
        """Train with and without generated images from each of several seeds; return the table of the comparison."""
        split, weights = self.own.split(), []
        for seed in range(self.request.seed, self.request.seed + self.request.ablate_synthetic):
            pair = []
            for arm, synthetic in (("real", None), ("real-and-synthetic", self.request.synthetic)):
                self.report(f"seed {seed}, {arm.replace('-', ' ')}")
                run = copy.copy(self)
                run.request = replace(self.request, seed=seed, synthetic=synthetic, ablate_synthetic=0)
                run.recipe = replace(self.recipe, seed=seed)
                pair.append(run._train(split, out / f"seed-{seed}" / arm, None))
            weights.append((pair[0], pair[1]))
        answers = [tuple(load_classifier(w, self.device) for w in pair) for pair in weights]
        return compare(answers, self.own, np.flatnonzero(split == "test"), self.request.seed, out, self.report)

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a finished fold to be taken over, as JSON holds it."""
        choice = asdict(self.request.model)
        choice["weights"] = None if self.request.model.weights is None else str(self.request.model.weights)
        about = {
            "recipe": asdict(self.recipe), "model": choice, "classes": self.classes, "folds": self.request.folds,
            "grouping": self.grouping, "patience": self.request.patience, "start_from": self.request.start_from,
            "mixing": None if self.request.mixing is None else asdict(self.request.mixing),
            "cells": self.own.digest,
        }  # fmt: skip
        if self.attributes is not None:
            about["attributes"] = [self.attributes.codes, self.attributes.values.tolist()]
        return json.loads(json.dumps(about))

    def _train(
        self,
        split: npt.NDArray[np.str_],
        out: Path,
        fold: int | None,
        *,
        folds: list[dict[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        self.own.write_split(out / "split.csv", split)
        name = self.request.name or own_name(self.request.data)
        weights = out / f"{name}.safetensors"
        attributes = None if self.attributes is None else learnable(self.attributes, split)
        for note in () if attributes is None else attributes.notes:
            self.report(note)
        self.added = {}
        described, temperature, history, chosen, started = (
            self._fit_classical(split, out, fold, weights)
            if self.request.model.is_classical
            else self._fit_network(split, out, fold, weights, attributes)
        )
        test = np.flatnonzero(split == "test")
        card = self._card(name, split, described, temperature, chosen, started, len(history))
        if attributes is not None:
            card = replace(
                card,
                details={**card.details, "attributes": attributes.to_card()},
                fails_on=(*card.fails_on, ATTRIBUTES_FAIL),
            )
        # The card without figures makes the weights loadable, so that what is measured is what will be used.
        write_card(card, weights)
        classifier = load_classifier(weights, self.device)
        result = typed(classifier, self.cells, test)
        answers = answers_of(result, self.classes, self.cells, test, self.groups)
        summary, artefacts = self._measure(answers, result.p, split)
        across: list[Figure] = []
        if folds:
            summary["cross_validation"], across = over_folds(folds)
        seen: tuple[Figure, ...] = ()
        if attributes is not None and result.attributes is not None:
            seen = attribute_figures(attributes.values[test], result.attributes, self.groups[test], attributes)
            summary["attributes"] = [asdict(figure) for figure in seen]
        summary |= extra or {}
        write_outputs(out, history=history, chosen=chosen, summary=summary, roc=artefacts.pop("roc"), **artefacts)
        measured = report_on(answers, self.taxonomy, self.classes)
        confusion = card_confusion(answers, self.classes, card.specimens, shipped=False)
        tables = dict(measured.tables)
        if folds:
            tables["Cross-validation"] = folds_table(folds)
        full = replace(
            card,
            figures=(*across, *measured.figures, *seen),
            tables={**tables, **confusion_tables(confusion)},
            details={**card.details, "confusion": confusion},
        )
        write_card(full, weights)
        for figure in full.figures:
            value = "-" if figure.value is None else f"{figure.value:.3f}"
            self.report(f"{figure.name}, {figure.on}, n={figure.n}: {value}")
        return weights

    def _fit_network(
        self,
        split: npt.NDArray[np.str_],
        out: Path,
        fold: int | None,
        weights: Path,
        attributes: AttributeLabels | None,
    ) -> _Fit:
        request, recipe = self.request, self.recipe
        earlier = find_weights(request.start_from, TASK) if request.start_from is not None else None
        cells, parts = self._with_synthetic(split, fold)
        if request.synthetic is not None:  # As many steps with generated images as without.
            recipe = replace(recipe, draws=recipe.draws or int((split == "train").sum()))
        fitted = fit(
            cells,
            parts,
            self.classes,
            out,
            recipe,
            device=self.device,
            resume=self.resume,
            start_from=None if earlier is None else tensors_of(earlier),
            build=request.model.builder(len(self.classes), recipe),
            mixing=request.mixing,
            patience=request.patience,
            also=self._about_synthetic(fold),
            attributes=None if attributes is None else attributes.values,
            report=self.report,
        )
        network = fitted.network
        save_weights(network.weights() if isinstance(network, AttributedNetwork) else network.state_dict(), weights)
        val = np.flatnonzero(split == "val")
        logits = logits_of(fitted.network, self.cells, val, recipe, device=self.device)
        temperature = best_temperature(logits, self.own.labels[val])
        started = None if earlier is None else f"{earlier.name}, SHA-256 {earlier.sha256}"
        if request.model.weights is not None:
            started = f"{request.model.weights.name}, SHA-256 {file_sha256(request.model.weights)}"
        elif request.model.pretrained:
            started = f"timm's weights of {request.model.architecture}"
        described = {"kind": "compact", **fitted.network.spec.to_dict()}
        return described, temperature, fitted.history, fitted.best_epoch, started

    def check_synthetic(self) -> None:
        """Refuse, before anything is trained, a generator that any of the splits cannot take."""
        if self.request.synthetic is None:
            return
        folds: list[int | None] = [*range(self.request.folds), None]
        for fold in folds if self.request.fold is None else [self.request.fold]:
            self._generator(self.own.split() if fold is None else self.own.fold(fold, self.request.folds), fold)

    def _generator(self, split: npt.NDArray[np.str_], fold: int | None) -> CellGenerator:
        choice = self.request.synthetic
        assert choice is not None  # Callers asked.
        generator = load_generator(choice.file(fold), self.device)
        refuse_seen(generator, self.own, split, self.recipe.window_px)
        return generator

    def _with_synthetic(
        self, split: npt.NDArray[np.str_], fold: int | None
    ) -> tuple[PackedCells, npt.NDArray[np.str_]]:
        """Return the cells and their split, with the generated images that were asked for in the training part."""
        choice = self.request.synthetic
        if choice is None:
            return self.cells, split
        generator = self._generator(split, fold)
        cells, parts, made = add_synthetic(
            self.own, split, generator, choice.per_class, mpp=self.recipe.mpp, seed=self.recipe.seed
        )
        self.added = {"generator": generator.weights.name, "sha256": generator.weights.sha256, "images": made}
        self.report(f"added {sum(made.values())} generated images to {int((split == 'train').sum())} real ones")
        return cells, parts

    def _about_synthetic(self, fold: int | None) -> dict[str, Any]:
        """What a finished fold or a checkpoint must have been made with, too."""
        choice = self.request.synthetic
        if choice is None:
            return {}
        return {"synthetic": {"sha256": file_sha256(choice.file(fold)), "per_class": choice.per_class}}

    def _fit_classical(self, split: npt.NDArray[np.str_], out: Path, fold: int | None, weights: Path) -> _Fit:
        from wsi_pipeline.cells.classical import FeatureModel
        from wsi_pipeline.cells.crop_features import CropFeatures
        from wsi_pipeline.cells.features import NAMES
        from wsi_pipeline.training.cells.classical import fit_classical

        kind, n_classes = self.request.model.name, len(self.classes)
        if self.features is None:
            self.report(f"segmenting and measuring {len(self.cells)} cells")
            measure = CropFeatures(self.device)
            self.features = measure.measure(self.cells.windows(self.recipe.window_px), self.cells.background)
            self._features_sha256 = measure.sha256
            n_found = int(np.isfinite(self.features).any(axis=1).sum())
            self.report(f"a cell was found in the middle of {n_found} of {len(self.cells)} images")
        tensors, history = fit_classical(kind, self.features, self.own.labels, split, n_classes, self.request.seed)
        save_weights({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}, weights)
        model = FeatureModel(kind, tensors, n_classes, None)
        val = np.flatnonzero(split == "val")
        temperature = best_temperature(model.logits(self.features[val]), self.own.labels[val])
        described = {"kind": kind, "features": list(NAMES), "segmented_by_sha256": self._features_sha256}
        chosen = int(np.argmin([h["val_loss"] for h in history])) + 1 if history else 0
        return described, temperature, history, chosen, None

    def _measure(
        self, answers: Answers, p: npt.NDArray[np.float32], split: npt.NDArray[np.str_]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        metrics = evaluate_classification(
            answers.truth.tolist(),
            answers.answer.tolist(),
            classes=self.classes,
            groups=[str(g) for g in answers.group],
        )
        reliability = calibration(answers.probability, answers.truth == answers.answer)
        roc = one_versus_rest(answers.truth, p, self.classes)
        summary = {
            "model": self.request.model.name,
            "taxonomy": self.taxonomy.name,
            "grouped_by": self.grouping,
            "groups": len(np.unique(self.groups)),
            "split": {s: int((split == s).sum()) for s in ("train", "val", "test")},
            **classification_metrics(metrics, calibration=reliability),
            "auc": {name: curve["auc"] for name, curve in roc.items()},
            "look_alikes_with_several_labels": self.own.across,
            "notes": list(self.packed.notes),
            **({"synthetic": self.added} if self.added else {}),
        }
        return summary, {"metrics": metrics, "calibration": reliability, "roc": roc}

    def _card(
        self, name: str, split: npt.NDArray[np.str_], described: dict[str, Any], temperature: float, chosen: int,
        started: str | None, epochs: int,
    ) -> Card:  # fmt: skip
        recipe, request = self.recipe, self.request
        return Card(
            name=name,
            task=TASK,
            description=(
                f"Types single cells of stained smears into {len(self.classes)} classes from a window of "
                f"{recipe.window_px * recipe.mpp:g} um centred on the cell ({request.model.name})."
            ),
            classes=self.classes,
            specimens=request.specimens,
            mpp=recipe.mpp,
            data=sources_of(self.cells, split, shipped=False),
            licence=request.licence or "not stated",
            split={
                "method": (
                    "by near-duplicate group"
                    if self.grouping == "near-duplicate"
                    else f"by {self.grouping}, joined with near-duplicates"
                )
                + ", from a hash of the pixels",
                "salt": "cells-1",
                "groups": len(np.unique(self.groups)),
                **{s: int((split == s).sum()) for s in ("train", "val", "test")},
                "chosen on val": f"{'round' if request.model.is_classical else 'epoch'} {chosen} of {epochs}",
            },
            figures=(),
            fails_on=FOLDER_FAILS,
            date=today(),
            details={
                "taxonomy": self.taxonomy.name,
                "window_px": recipe.window_px,
                "network": described,
                "temperature": temperature,
                **recipe.preparation.to_card(),
                "seed": request.seed,
                "epochs": recipe.epochs,
                "started_from": started,
                "training": {
                    "model": request.model.name,
                    "tuned": request.model.tuning if request.model.is_backbone else "all",
                    "mixing": None if request.mixing is None else asdict(request.mixing),
                    "patience": request.patience,
                    "door": self.own.door,
                    "notes": list(self.packed.notes),
                    **({"synthetic": self.added} if self.added else {}),
                },
            },
        )


_Fit = tuple[dict[str, Any], float, list[dict[str, float]], int, str | None]


ATTRIBUTES_FAIL = (
    "Probabilities of attributes are not calibrated, and were learnt from the cells whose labels state them; whoever "
    "labelled only what stood out has taught that."
)
