"""How good a compact network is: scores image by image, pooled into the figures of its card.

Scores are kept a line an image, so that the folds of a cross-validation, measured one by one, pool as if they had
been measured together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.evaluation.baselines import otsu_baseline
from wsi_pipeline.evaluation.datasets import pair_folders
from wsi_pipeline.evaluation.images import read_mask
from wsi_pipeline.evaluation.points import PointsResult, evaluate_points, match_points
from wsi_pipeline.evaluation.run_segmentation import (
    CENTRE_RADIUS_UM,
    Segmenter,
    evaluate_masks,
    evaluate_point_folder,
    keep_kinds,
    make_segmenter,
)
from wsi_pipeline.evaluation.segmentation import ImageScore, evaluate_segmentation, score_image
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.training.cards import Figure, figure_of
from wsi_pipeline.training.segmentation.data import BCCD_MPP, RBC_MPP
from wsi_pipeline.training.segmentation.section_labels import MEGAKARYOCYTES, section_sample
from wsi_pipeline.training.segmentation.smear_labels import COMPLETE_RBC_FIELDS, read_boxes

Chosen = Callable[[str], bool]
"""Tells from an image's path below the data root whether it is measured."""


@dataclass(frozen=True, kw_only=True)
class OutsideSet:
    """A set of another laboratory that no shipped network is trained on; pixel sizes are estimates."""

    images: str
    truth: str
    masks: bool
    mpp: float
    kind: str
    source: str


OUTSIDE: Mapping[str, tuple[OutsideSet, ...]] = {
    "compact-smear": (
        OutsideSet(
            images="wbc-masks/images", truth="wbc-masks/masks", masks=True, mpp=0.17, kind="white",
            source="Zheng et al., Micron 107:55, 2018",
        ),
        OutsideSet(
            images="rbc-masks/images", truth="rbc-masks/masks", masks=True, mpp=0.074, kind="red",
            source="BBBC041, masks of Depto et al. 2021",
        ),
    ),
    "compact-section": (
        OutsideSet(
            images="marrow-he/images", truth="marrow-he/nuclei", masks=False, mpp=0.25, kind="nucleus",
            source="H&E marrow, Kainz et al., MICCAI 2015",
        ),
    ),
}  # fmt: skip


@dataclass(kw_only=True)
class Scores:
    """Scores by what was measured, then by method (``model``, ``otsu``)."""

    masks: dict[str, dict[str, list[ImageScore]]] = field(default_factory=dict)
    points: dict[str, dict[str, list[PointsResult]]] = field(default_factory=dict)

    def add_masks(self, what: str, **methods: ImageScore) -> None:
        for method, score in methods.items():
            self.masks.setdefault(what, {}).setdefault(method, []).append(score)

    def add_points(self, what: str, **methods: PointsResult) -> None:
        for method, result in methods.items():
            self.points.setdefault(what, {}).setdefault(method, []).append(result)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            part: {
                what: {method: [asdict(score) for score in scores] for method, scores in methods.items()}
                for what, methods in getattr(self, part).items()
            }
            for part in ("masks", "points")
        }

    @classmethod
    def pooled(cls, parts: Iterable[Mapping[str, Any]]) -> Scores:
        """Put together what several :meth:`to_dict` hold."""
        scores = cls()
        for tree in parts:
            for what, methods in tree["masks"].items():
                for method, rows in methods.items():
                    for row in rows:
                        counts = {key: tuple(row[key]) for key in ("tp", "fp", "fn")}
                        scores.add_masks(what, **{method: ImageScore(**{**row, **counts})})
            for what, methods in tree["points"].items():
                for method, rows in methods.items():
                    for row in rows:
                        scores.add_points(what, **{method: PointsResult(**row)})
        return scores


WHITE = "bccd white cells"
BOXES = "bccd red cells, centres of the boxes (on most fields only part of the cells has one)"
COMPLETE = "red cells of fully labelled rbc-morphology fields"
NUCLEI = "tissue-nuclei, pixel size from the median nucleus"
MEGAKARYOCYTE = "tissue-nuclei, nuclei that are megakaryocytes beyond doubt"


def measure(root: Path, name: str, weights: Path, device: str, chosen: Chosen) -> Scores:
    """Score a compact network on the labelled fields of its data sets that are chosen."""
    scores = Scores()
    if name == "compact-smear":
        _measure_bccd(root, make_segmenter(str(weights), "white", device, {}), chosen, scores)
        _measure_complete(root, weights, device, chosen, scores)
    else:
        _measure_sections(root, make_segmenter(str(weights), "nucleus", device, {}), chosen, scores)
    return scores


def measure_outside(root: Path, name: str, weights: Path, device: str) -> Scores:
    """Score a compact network on the sets of other laboratories that are there."""
    scores = Scores()
    for outside in OUTSIDE[name]:
        images, truth = root / outside.images, root / outside.truth
        if not images.is_dir():
            continue
        what = f"{outside.images.split('/', 1)[0]} ({outside.source}), {outside.kind}, never trained on"
        segmenter = make_segmenter(str(weights), outside.kind, device, {})
        if outside.masks:
            model, otsu = evaluate_masks(images, truth, segmenter, _same_mpp(outside))
            scores.masks[what] = {"model": list(model.per_image), "otsu": list(otsu.per_image)}
        else:
            found, trivial = evaluate_point_folder(images, truth, segmenter, _same_mpp(outside))
            scores.points[what] = {"model": list(found.per_image), "otsu": list(trivial.per_image)}
    return scores


def _same_mpp(outside: OutsideSet) -> Callable[[Path], float]:
    return lambda _: outside.mpp


def _measure_bccd(root: Path, segmenter: Segmenter, chosen: Chosen, scores: Scores) -> None:
    pairs = pair_folders(root / "bccd" / "fields", root / "bccd" / "wbc_masks").pairs
    for pair in (p for p in pairs if chosen(f"bccd/fields/{p.image.name}")):
        with open_slide(pair.image, mpp=BCCD_MPP, force_mpp=True) as slide:
            labels, kinds = segmenter.cells(slide)
        true = read_mask(pair.truth, labels.shape)
        otsu = otsu_baseline(read_image(pair.image))
        rim_px = segmenter.rim_px(BCCD_MPP)
        scores.add_masks(
            WHITE,
            model=score_image(pair.name, true, keep_kinds(labels, kinds, "white")),
            otsu=score_image(pair.name, true, otsu),
        )
        boxes = [b for kind, b in read_boxes(root / "bccd" / "boxes" / f"{pair.image.stem}.xml") if kind == "RBC"]
        centres = np.array([((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]).reshape(-1, 2)
        scores.add_points(
            BOXES,
            model=match_points(pair.name, keep_kinds(labels, kinds, "red"), centres, rim_px=rim_px),
            otsu=match_points(pair.name, otsu, centres, rim_px=rim_px),
        )


def _measure_complete(root: Path, weights: Path, device: str, chosen: Chosen, scores: Scores) -> None:
    folder = root / "rbc-morphology"
    fields = {
        image.name
        for image in (folder / "images").iterdir()
        if image.stem in COMPLETE_RBC_FIELDS and chosen(f"rbc-morphology/images/{image.name}")
    }
    if fields:
        model, otsu = evaluate_point_folder(
            folder / "images",
            folder / "points",
            make_segmenter(str(weights), "red", device, {}),
            lambda _: RBC_MPP,
            radius_um=None,  # the points lie anywhere in their cells
            only=lambda pair: pair.image.name in fields,
        )
        scores.points[COMPLETE] = {"model": list(model.per_image), "otsu": list(otsu.per_image)}


def _measure_sections(root: Path, segmenter: Segmenter, chosen: Chosen, scores: Scores) -> None:
    base = root / "tissue-nuclei"
    for image in sorted((base / "images").iterdir()):
        if not chosen(f"tissue-nuclei/images/{image.name}"):
            continue
        sample = section_sample(root, image.stem)
        with open_slide(image, mpp=sample.mpp, force_mpp=True) as slide:
            labels, kinds = segmenter.cells(slide)
        scores.add_masks(
            NUCLEI,
            model=score_image(image.stem, sample.labels, labels),
            otsu=score_image(image.stem, sample.labels, otsu_baseline(read_image(image))),
        )
        large = np.where(np.isin(sample.labels, MEGAKARYOCYTES.get(image.stem, ())), sample.labels, 0)
        called = keep_kinds(labels, kinds, "megakaryocyte")
        scores.add_masks(MEGAKARYOCYTE, model=score_image(image.stem, large, called))


def figures(scores: Scores, how: str) -> list[Figure]:
    """Return the figures of a card; ``how`` says on which part they were measured."""
    found: list[Figure] = []
    for what, methods in scores.masks.items():
        model = evaluate_segmentation(methods["model"])
        otsu = evaluate_segmentation(methods["otsu"]) if "otsu" in methods else None
        names = ("recall", "precision") if what == MEGAKARYOCYTE else ("ap50", "ap75", "recall")
        labels = {"ap50": "AP50", "ap75": "AP75", "recall": "recall at IoU 0.5", "precision": "precision at IoU 0.5"}
        for name in names:
            baseline = getattr(otsu, name) if otsu else None
            found.append(figure_of(labels[name], f"{what}; {how}", model.n_true, getattr(model, name), baseline))
    for what, results in scores.points.items():
        seen, trivial = evaluate_points(results["model"]), evaluate_points(results["otsu"])
        names = ("centre_f1", "recall", "ratio") if seen.centre_f1.value is not None else ("recall", "ratio")
        labels = {
            "centre_f1": f"F1 of centres within {CENTRE_RADIUS_UM:g} um",
            "recall": "recall of points",
            "ratio": "predicted / true",
        }
        for name in names:
            found.append(
                figure_of(labels[name], f"{what}; {how}", seen.n_points, getattr(seen, name), getattr(trivial, name))
            )
    return found
