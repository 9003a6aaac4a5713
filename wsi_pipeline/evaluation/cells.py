"""A cell classifier against class folders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.classifier import CellClassifier, load_classifier
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.evaluation.baselines import majority_labels
from wsi_pipeline.evaluation.datasets import read_class_folders
from wsi_pipeline.evaluation.tables import classification_metrics, classification_table
from wsi_pipeline.predictions.assessment.calibration import Calibration, calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.taxonomies import load_taxonomy, map_taxonomy

_IMAGES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class CellsEvaluation:
    """What a classifier reached on a folder of single cells.

    Parameters
    ----------
    metrics, baseline
        The classifier's figures, and those of answering always the most frequent class.
    calibration
        How well the probability of the answers agrees with how often they are right.
    model, sha256, mpp, taxonomy
        The weights, the resolution the images were taken at (um per pixel), and the label set of the truth.
    """

    metrics: ClassificationMetrics
    baseline: ClassificationMetrics
    calibration: Calibration
    model: str
    sha256: str
    mpp: float
    taxonomy: str

    def table(self) -> str:
        """Return the tables for people."""
        return classification_table(self.metrics, baseline=self.baseline)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            "model": self.model,
            "sha256": self.sha256,
            "mpp": self.mpp,
            "taxonomy": self.taxonomy,
            **classification_metrics(self.metrics, baseline=self.baseline, calibration=self.calibration),
        }


def evaluate_classifier_on_folder(
    data: Path,
    *,
    model: str | Path = "pbc-blast",
    mpp: float | None,
    map_to: str | None = None,
    skip: Collection[str] = (),
    closed: bool = False,
    device: str = "cpu",
    batch_size: int = 64,
) -> CellsEvaluation:
    """Type every image of ``data/<class>/`` and compare with the folder's name.

    Parameters
    ----------
    data
        Class folders; their names are codes or aliases of the taxonomy, upper and lower case alike. The cell is
        in the middle of its image.
    model
        Shipped weights by name, or a ``.safetensors`` file.
    mpp
        Microns per pixel of the images.
    map_to
        Taxonomy of the folders where it is not the model's (``five-part``). The probability of a target class is
        the sum over the classes that become it; a class without a counterpart stays an answer of its own, and a
        wrong one.
    skip
        Folders to leave out.
    closed
        Answer with classes of the folders alone: what the classifier reaches where it is known which classes there
        are. The probabilities are those of the classifier among them.

    Raises
    ------
    DataError
        The resolution is missing or implausible, a folder is no class, or an image cannot be read.
    ConfigError
        The model's classes cannot be mapped to ``map_to``.
    """
    if mpp is None:
        raise DataError(f"{data}: the images carry no microns per pixel; give --mpp")
    if not 0.02 <= mpp <= 2:
        raise DataError(f"{data}: {mpp} um per pixel is outside 0.02 to 2")
    classifier = load_classifier(model, device)
    taxonomy = load_taxonomy(map_to or classifier.taxonomy)
    own = load_taxonomy(classifier.taxonomy)
    table = map_taxonomy(own.name, taxonomy.name).table(own.classifier_classes)
    images = read_class_folders(data, taxonomy, skip=skip)
    p = np.concatenate(
        [
            _probabilities(classifier, [i.path for i in images[k : k + _IMAGES_AT_ONCE]], mpp, batch_size)
            for k in range(0, len(images), _IMAGES_AT_ONCE)
        ]
    )
    truth = [image.label for image in images]
    answers, sure = mapped_answers(p, classifier.classes, table, among=set(truth) if closed else None)
    present = [code for code in taxonomy.classifier_classes if code in set(truth)]
    right = np.array([a == t for a, t in zip(answers, truth, strict=True)])
    return CellsEvaluation(
        metrics=evaluate_classification(truth, answers, classes=present),
        baseline=evaluate_classification(truth, list(majority_labels(truth)), classes=present),
        calibration=calibration(sure, right),
        model=classifier.name,
        sha256=classifier.sha256,
        mpp=mpp,
        taxonomy=taxonomy.name,
    )


def mapped_answers(
    p: npt.NDArray[np.float32],
    classes: Sequence[str],
    table: dict[str, str | None],
    *,
    among: Collection[str] | None = None,
) -> tuple[list[str | None], npt.NDArray[np.float64]]:
    """Return the most probable target class of each cell and its probability.

    Parameters
    ----------
    p
        ``(n, classes)`` probabilities.
    classes
        Their classes.
    table
        What each class becomes; None keeps it as an answer that is none of the targets.
    among
        Targets that are answers; None takes all, and the classes without a target.

    Raises
    ------
    ConfigError
        No class becomes one of ``among``.
    """
    targets: list[str | None] = []
    columns: list[npt.NDArray[np.float64]] = []
    for code in dict.fromkeys(table[c] for c in classes if table[c] is not None):
        members = [i for i, c in enumerate(classes) if table[c] == code]
        targets.append(code)
        columns.append(p[:, members].sum(axis=1, dtype=np.float64))
    for i, c in enumerate(classes):
        if table[c] is None:
            targets.append(None)
            columns.append(p[:, i].astype(np.float64))
    merged = np.stack(columns, axis=1)
    if among is not None:
        kept = [i for i, target in enumerate(targets) if target in among]
        if not kept:
            raise ConfigError(f"no class of the classifier becomes one of {', '.join(sorted(among))}")
        targets, merged = [targets[i] for i in kept], merged[:, kept]
        merged = merged / np.maximum(merged.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    best = merged.argmax(axis=1)
    return [targets[i] for i in best], np.clip(merged[np.arange(len(best)), best], 0, 1)


def _probabilities(
    classifier: CellClassifier, paths: Sequence[Path], mpp: float, batch_size: int
) -> npt.NDArray[np.float32]:
    crops, backgrounds = [], []
    for path in paths:
        pixels = read_image(path)
        height, width = pixels.shape[:2]
        crops.append(resample(pixels, width / 2, height / 2, side=classifier.window_px, scale=classifier.mpp / mpp))
        backgrounds.append(estimate_background(pixels))
    return classifier.predict(np.stack(crops), np.stack(backgrounds), batch_size=batch_size).p
