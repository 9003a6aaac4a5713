"""From the images of the CytologIA challenge to its predictions: cells found, boxed and typed by the shipped models.

An answer is written under the challenge's code for its class (``PNN``, ``LY``). The probability of a class is the sum
over those of the classifier's that mean it (a band is a neutrophil). A class of the classifier that the challenge has
no counterpart for, or that could be several of its (a blast may be myeloid, lymphoid, of monocytes), keeps its own
name, and such an answer is a wrong one: nothing is guessed. A classifier trained on the challenge's own classes
answers with all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.classifier import CellClassifier
from wsi_pipeline.cells.windows import resample
from wsi_pipeline.csv_rows import csv_text, number, read_rows
from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.evaluation.cells import mapped_answers
from wsi_pipeline.evaluation.cytologia import COLUMNS, Boxes, CytologiaScore, cytologia_score
from wsi_pipeline.evaluation.images import find_image
from wsi_pipeline.evaluation.run_segmentation import Segmenter, segment_image
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.taxonomies import load_taxonomy, map_taxonomy

TAXONOMY = "cytologia"
SPECIMEN = "blood_smear"
_WINDOWS_AT_ONCE = 512
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ChallengeImage:
    """An image of the challenge: the name its boxes have, its file, and its resolution in um per pixel."""

    name: str
    path: Path
    mpp: float


@dataclass(frozen=True, kw_only=True)
class CytologiaEvaluation:
    """What segmentation and classifier reached on the challenge's images.

    Attributes
    ----------
    score
        The challenge's figures.
    predictions
        The boxes and classes answered.
    found
        Images in which a white cell was found.
    without_counterpart
        Classes of the classifier that are none of the challenge's, and why.
    out_of_reach
        Classes of the truth that the classifier cannot answer; their F1 is 0.
    segmentation, classifier
        Name and SHA-256 of the weights.
    """

    score: CytologiaScore
    predictions: Boxes
    found: int
    without_counterpart: dict[str, str]
    out_of_reach: tuple[str, ...]
    segmentation: tuple[str, str]
    classifier: tuple[str, str]

    def table(self) -> str:
        """Return the table by class, the score, and what the classifier cannot answer."""
        lines = [self.score.table(), f"white cells were found in {self.found} of {self.score.n_images} images"]
        if self.out_of_reach:
            n = len(self.score.metrics.per_class)
            lines.append(
                f"{self.classifier[0]} cannot answer {len(self.out_of_reach)} of the {n} classes of the truth, which "
                f"count 0 in macro-F1: {', '.join(self.out_of_reach)}"
            )
        for name, why in self.without_counterpart.items():
            times = self.predictions.label.count(name)
            lines.append(f"{times} cells were answered {name}, and count as wrong: {why}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            "segmentation": dict(zip(("model", "sha256"), self.segmentation, strict=True)),
            "classifier": dict(zip(("model", "sha256"), self.classifier, strict=True)),
            "images_with_cells": self.found,
            "out_of_reach": list(self.out_of_reach),
            "without_counterpart": self.without_counterpart,
            **self.score.to_dict(),
        }


def challenge_codes() -> dict[str, str]:
    """Return the challenge's own code of each class of the taxonomy, in its order; a class without one keeps its."""
    return {c.code: c.aliases[0] if c.aliases else c.code for c in load_taxonomy(TAXONOMY).classes}


def in_challenge_codes(boxes: Boxes, path: Path) -> Boxes:
    """Return boxes whose classes are the challenge's codes, whether the file has codes or our names of them.

    Raises
    ------
    DataError
        A class is none of the challenge's.
    """
    taxonomy, codes = load_taxonomy(TAXONOMY), challenge_codes()
    labels = {}
    for label in dict.fromkeys(boxes.label):
        try:
            labels[label] = codes[taxonomy.resolve(label)]
        except DataError:
            known = ", ".join(codes[c] for c in taxonomy.classifier_classes)
            raise DataError(f"{path}: {label!r} is no class of CytologIA; its classes are {known}") from None
    return replace(boxes, label=tuple(labels[label] for label in boxes.label))


def list_images(truth: Path, images: Path, mpp: Callable[[Path], float] | None) -> tuple[ChallengeImage, ...]:
    """Return the images that a file of boxes names, in its order, after looking that all can be read.

    Parameters
    ----------
    truth
        CSV file of boxes.
    images
        Folder of the images; a name may lack its suffix.
    mpp
        Microns per pixel of an image; None takes the column ``mpp`` of the file.

    Raises
    ------
    DataError
        The folder or an image is missing, an image cannot be read, or a resolution is missing or implausible.
    """
    if not images.is_dir():
        raise DataError(f"--images {images} is not a folder")
    header, rows = read_rows(truth)
    if mpp is None and "mpp" not in header:
        raise DataError(f"{truth} has no column mpp, and the images carry none; give --mpp (um per pixel)")
    found: dict[str, ChallengeImage] = {}
    absent: dict[str, None] = {}
    for line, row in rows:
        name, where = row["name"], f"{truth} line {line}"
        if (path := find_image(name, [images])) is None:
            absent[name or "(no name)"] = None
            continue
        value = mpp(path) if mpp is not None else number(row["mpp"], where, "mpp")
        if not 0.02 <= value <= 2:
            raise DataError(f"{where}: {value:g} um per pixel is outside 0.02 to 2")
        if found.setdefault(name, ChallengeImage(name=name, path=path, mpp=value)).mpp != value:
            raise DataError(f"{where}: {name} has another mpp ({value:g}) than before ({found[name].mpp:g})")
    if absent:
        raise DataError(f"{truth}: {len(absent)} images do not exist in {images}: {_some(list(absent))}")
    broken = [image.path.name for image in found.values() if not _readable(image.path)]
    if broken:
        raise DataError(f"{images}: {len(broken)} images cannot be read: {_some(broken)}; mend them, or leave them out")
    return tuple(found.values())


def predict_boxes(
    images: tuple[ChallengeImage, ...],
    segmenter: Segmenter,
    classifier: CellClassifier,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Boxes:
    """Find the white cells of each image, and give each a box, a class and its probability.

    Cells are found as in a run on an image that is one block. A box is that of the cell's mask, in the image's pixels.
    The classifier sees a window around the middle of the mask, mirrored beyond the image's edge as in its training.
    """
    names: list[str] = []
    corners: list[npt.NDArray[np.float64]] = []
    answers: list[npt.NDArray[np.float32]] = []
    windows: list[npt.NDArray[np.uint8]] = []
    lights: list[npt.NDArray[np.uint8]] = []

    def answer() -> None:
        if windows:
            answers.append(classifier.predict(np.stack(windows), np.stack(lights)).p)
            windows.clear()
            lights.clear()

    for image in images:
        pixels = read_image(image.path)
        boxes, middles, light = white_cells(image, segmenter)
        for box, (x, y) in zip(boxes, middles, strict=True):
            names.append(image.name)
            corners.append(box)
            windows.append(resample(pixels, x, y, side=classifier.window_px, scale=classifier.mpp / image.mpp))
            lights.append(light)
        if len(windows) >= _WINDOWS_AT_ONCE:
            answer()
        progress(image.name)
    answer()
    p = np.concatenate(answers) if answers else np.empty((0, len(classifier.classes)), np.float32)
    labels, score = challenge_answers(p, classifier)
    return Boxes(image=tuple(names), label=labels, corners=np.array(corners).reshape(-1, 4), score=score)


def white_cells(
    image: ChallengeImage, segmenter: Segmenter
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Return ``(n, 4)`` boxes x1, y1, x2, y2 and ``(n, 2)`` middles of the white cells, and the background's colour.

    Both in pixels of the image, in order of the cells' seeds.
    """
    with open_slide(image.path, mpp=image.mpp, force_mpp=True) as slide:
        segmenter.check_size(slide)
        found = segment_image(slide, segmenter.model, segmenter.config)
        frame = slide.frame(segmenter.config.segmentation.mpp)
        size = np.array(slide.dimensions, np.float64)
    cells, window = found.block.instances, found.block.block.window
    white = np.flatnonzero(found.kind == "white")
    y0, x0, y1, x1 = cells.boxes[white].astype(np.float64).T
    low = frame.to_px0(np.stack([x0 + window.x0, y0 + window.y0], axis=1))
    high = frame.to_px0(np.stack([x1 + window.x0, y1 + window.y0], axis=1))
    area = cells.area_px[white].astype(np.float64)
    offset = np.stack([cells.moments[white, 1] / area, cells.moments[white, 0] / area], axis=1)
    seeds = np.stack([cells.seed_x[white] + window.x0, cells.seed_y[white] + window.y0], axis=1)
    corners = np.concatenate([np.clip(low, 0, size), np.clip(high, 0, size)], axis=1)
    return corners.astype(np.float64), frame.to_px0(seeds + offset + 0.5).astype(np.float64), found.background


def challenge_answers(
    p: npt.NDArray[np.float32], classifier: CellClassifier
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Return the challenge's code of each cell, or the classifier's where there is none, and its probability."""
    mapped, codes = map_taxonomy(classifier.taxonomy, TAXONOMY).mapped, challenge_codes()
    # A class without a counterpart is a target of its own, so that no two of them are added up.
    table: dict[str, str | None] = {c: codes[mapped[c]] if c in mapped else c for c in classifier.classes}
    labels, score = mapped_answers(p, classifier.classes, table)
    return tuple(str(label) for label in labels), score


def write_predictions(predictions: Boxes) -> str:
    """Return a CSV file in the challenge's form, with the column ``score``; corners to a hundredth of a pixel."""
    lines: list[list[object]] = []
    rows = zip(predictions.image, predictions.corners.tolist(), predictions.label, predictions.score, strict=True)
    for name, corners, label, score in rows:
        lines.append([name, *(f"{v:.2f}" for v in corners), label, f"{score:.4f}"])
    return csv_text(["NAME", *COLUMNS[1:], "score"], lines)


def evaluate_images(
    truth: Boxes,
    images: tuple[ChallengeImage, ...],
    segmenter: Segmenter,
    classifier: CellClassifier,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> CytologiaEvaluation:
    """Answer the challenge's images and score the answers.

    Parameters
    ----------
    truth
        With the challenge's codes, see :func:`in_challenge_codes`.
    images
        From :func:`list_images`.

    Raises
    ------
    ModelError
        The classifier is not for blood smears.
    ConfigError
        None of its classes is one of the challenge's.
    """
    if SPECIMEN not in classifier.specimens:
        made_for = ", ".join(classifier.specimens)
        raise ModelError(f"{classifier.name} is for {made_for}; CytologIA's images are of blood smears")
    to_challenge, codes = map_taxonomy(classifier.taxonomy, TAXONOMY), challenge_codes()
    mapped, refused = to_challenge.mapped, to_challenge.refused
    reached = {codes[mapped[c]] for c in classifier.classes if c in mapped}
    predictions = predict_boxes(images, segmenter, classifier, progress=progress)
    return CytologiaEvaluation(
        score=cytologia_score(truth, predictions),
        predictions=predictions,
        found=len(set(predictions.image)),
        without_counterpart={c: refused[c].reason for c in classifier.classes if c in refused},
        out_of_reach=tuple(sorted(set(truth.label) - reached)),
        segmentation=(segmenter.model.name, segmenter.model.sha256),
        classifier=(classifier.name, classifier.sha256),
    )


def _readable(path: Path) -> bool:
    try:
        read_image(path)
    except DataError:
        return False
    return True


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
