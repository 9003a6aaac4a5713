"""Figures of a network that delineates megakaryocytes: on composites of held-out cut-outs, and on the few real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.config import SegmentationConfig, load_config
from wsi_pipeline.evaluation.real_megakaryocytes import rasterise, read_real_megakaryocytes, score_real
from wsi_pipeline.evaluation.run_segmentation import keep_kinds, make_segmenter
from wsi_pipeline.evaluation.segmentation import (
    ImageScore,
    evaluate_segmentation,
    instance_overlaps,
    match_instances,
)
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.segmentation.megakaryocytes import load_megakaryocyte_model, megakaryocyte_config
from wsi_pipeline.segmentation.models import FlowModel
from wsi_pipeline.segmentation.normalise import colour_histogram, normalisation_from_histogram
from wsi_pipeline.segmentation.segment import SegmentedBlock, segment_block
from wsi_pipeline.slides import open_slide
from wsi_pipeline.tiling import TileLattice, halo_px, plan_blocks
from wsi_pipeline.training.cards import Figure, figure_of
from wsi_pipeline.training.segmentation.data import Sample, split_of
from wsi_pipeline.training.segmentation.megakaryocyte_composites import composites
from wsi_pipeline.training.segmentation.section_labels import section_sample
from wsi_pipeline.training.segmentation.shipped_fields import nuclei_for_composites
from wsi_pipeline.units import Box

COMPOSITES = 40
"""Composites of held-out cut-outs that figures are measured on."""

_TOUCHING_PX = 2
_NUCLEUS = MEGAKARYOCYTE_KINDS.index("megakaryocyte_nucleus")


@dataclass(kw_only=True)
class CompositeScores:
    """What was found on composites.

    Attributes
    ----------
    images
        Counts of each composite.
    dice
        Of the nuclei of found cells.
    touching
        Pairs of cells that touch, and how many of them were both found, as two.
    area_ratio
        Area found over true area of found cells.
    """

    images: list[ImageScore] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    touching: tuple[int, int] = (0, 0)
    area_ratio: list[float] = field(default_factory=list)


def segment_sample(sample: Sample, model: FlowModel, config: SegmentationConfig) -> SegmentedBlock:
    """Segment a sample at its own resolution, which is the working one, in one piece."""
    height, width = sample.labels.shape
    whole = shapely.box(0, 0, width, height)
    (block,) = plan_blocks(
        (width, height), whole, core_px=max(width, height), halo=halo_px(config.max_cell_diameter_um, config.mpp)
    )

    def read(box: Box) -> npt.NDArray[np.uint8]:
        pixels = np.full((box.height, box.width, 3), 255, np.uint8)
        inside = box.clip(Box(x0=0, y0=0, x1=width, y1=height))
        part = sample.rgb[inside.y0 : inside.y1, inside.x0 : inside.x1]
        pixels[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0] = part
        return pixels

    return segment_block(
        read,
        block,
        lattice=TileLattice(tile_px=model.tile_px, overlap_px=model.overlap_px, width=width, height=height),
        dilated_region=whole,
        normalisation=normalisation_from_histogram(colour_histogram(sample.rgb)),
        model=model,
        config=config,
        specimen="trephine",
    )


def settings_for(weights: str, **overrides: object) -> SegmentationConfig:
    """Return the settings that a run segments megakaryocytes with."""
    keys = {"segmentation.megakaryocyte_model": weights, "segmentation.batch_size": 1}
    keys |= {f"segmentation.{key}": value for key, value in overrides.items()}
    return megakaryocyte_config(load_config("trephine", keys).segmentation)


def measure_composites(samples: Sequence[Sample], weights: str, device: str, **overrides: object) -> CompositeScores:
    """Score a network on composites; cells that the border cuts are left out."""
    model = load_megakaryocyte_model(weights, specimen="trephine", device=device, precision="auto")
    config = settings_for(weights, **overrides)
    scores = CompositeScores()
    for sample in samples:
        found = segment_sample(sample, model, config)
        scores.images.append(_score(sample, found.instances.labels, found.nuclear, scores))
    return scores


def _score(
    sample: Sample, labels: npt.NDArray[np.int32], nuclear: npt.NDArray[np.bool_], scores: CompositeScores
) -> ImageScore:
    match = match_instances(instance_overlaps(sample.labels, labels), 0.5)
    of = {t: p for t, p, _ in match.pairs}
    for t, p in of.items():
        true = (sample.labels == t) & (sample.kinds == _NUCLEUS)
        found = (labels == p) & nuclear
        scores.dice.append(float(2 * (true & found).sum() / max(true.sum() + found.sum(), 1)))
        scores.area_ratio.append(float((labels == p).sum() / (sample.labels == t).sum()))
    pairs = [pair for pair in touching_pairs(sample.labels) if not set(pair) & set(match.ignored_true)]
    n, apart = scores.touching
    scores.touching = (n + len(pairs), apart + sum(a in of and b in of for a, b in pairs))
    counts = (len(of),), (len(match.false),), (len(match.missed),)
    tp, fp, fn = (count * 2 for count in counts)
    return ImageScore(
        name=sample.name, n_true=tp[0] + fn[0], n_pred=tp[0] + fp[0], tp=tp, fp=fp, fn=fn
    )  # fmt: skip


def touching_pairs(labels: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """Return the pairs of instances that lie within two pixels of each other."""
    found: set[tuple[int, int]] = set()
    for axis in (0, 1):
        for step in range(1, _TOUCHING_PX + 1):
            a, b = np.moveaxis(labels, axis, 0)[:-step], np.moveaxis(labels, axis, 0)[step:]
            both = (a != b) & (a > 0) & (b > 0)
            found |= {(min(p), max(p)) for p in zip(a[both].tolist(), b[both].tolist(), strict=True)}
    return sorted(found)


def measure_real(
    root: Path, weights: str, device: str, chosen: Callable[[str], bool], *, second: bool = True
) -> tuple[list[ImageScore], list[float]]:
    """Score a network on the images with outlined real megakaryocytes that are chosen.

    Parameters
    ----------
    second
        The network is the one of megakaryocytes; False: that of nuclei, which names them by kind.

    Returns
    -------
    tuple
        Counts of each image, and the Dice of the nuclei of found cells whose cytoplasm is outlined too.
    """
    cells = read_real_megakaryocytes()
    least = {"segmentation.min_area_um2": settings_for(weights).min_area_um2} if second else {}
    segmenter = make_segmenter(weights, "megakaryocyte", device, least)
    scores, dice = [], []
    for name in sorted({cell.image for cell in cells if chosen(cell.image) and (root / cell.image).is_file()}):
        own = [cell for cell in cells if cell.image == name]
        with open_slide(root / name, mpp=own[0].mpp, force_mpp=True) as slide:
            labels, kinds, nuclear = segmenter.cells_and_nuclei(slide)
        labels = keep_kinds(labels, kinds, "megakaryocyte")
        score, found = score_real(Path(name).stem, own, labels)
        scores.append(score)
        for index, label in found.items():
            if second and own[index].cell is not None:
                true, seen = rasterise(own[index].nucleus, labels.shape), (labels == label) & nuclear
                dice.append(float(2 * (true & seen).sum() / max(true.sum() + seen.sum(), 1)))
    return scores, dice


def megakaryocyte_figures(root: Path, name: str, weights: Path, device: str) -> list[Figure]:
    """Return all figures of a card: composites of the half ``test``, real ones that no network was trained on.

    Beside the real ones stands what the network of nuclei calls megakaryocytes.

    Parameters
    ----------
    name
        Of the network; ``weights`` is its file.
    """
    fields = [section_sample(root, path.stem) for path in sorted((root / "tissue-nuclei" / "images").iterdir())]
    nuclei = nuclei_for_composites(root, fields, "test")
    scores = measure_composites(composites(COMPOSITES, "test", nuclei), str(weights), device)
    found = composite_figures(scores, f"{COMPOSITES} composites of held-out cut-outs")
    for folder, what in (
        ("marrow-he", "marrow-he (H&E marrow, Kainz et al., MICCAI 2015), outlined by eye, never trained on"),
        ("tissue-nuclei", "tissue-nuclei, fields of the test split, stained bodies (no cytoplasm is seen)"),
    ):

        def chosen(image: str, folder: str = folder) -> bool:
            return image.startswith(f"{folder}/") and (folder != "tissue-nuclei" or split_of(image) == "test")

        scores_real, dice = measure_real(root, str(weights), device, chosen)
        if scores_real:
            plain, _ = measure_real(root, "compact-section", device, chosen, second=False)
            found += real_figures(scores_real, dice, f"{what}; {name}")
            found += real_figures(plain, (), f"{what}; for comparison compact-section")
    return found


def share(k: int, n: int) -> Estimate:
    """Return a share with Wilson's interval."""
    if n == 0:
        return Estimate(value=None, lower=None, upper=None)
    lower, upper = wilson(k, n)
    return Estimate(value=k / n, lower=lower, upper=upper)


def mean_of(values: Sequence[float]) -> Estimate:
    """Return a mean with the interval of its standard error."""
    if len(values) < 2:
        return Estimate(value=float(values[0]) if values else None, lower=None, upper=None)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(value=mean, lower=mean - 1.96 * error, upper=mean + 1.96 * error)


def composite_figures(scores: CompositeScores, on: str) -> list[Figure]:
    """Return the figures of composites."""
    pooled = evaluate_segmentation(scores.images)
    n, apart = scores.touching
    return [
        figure_of("recall at IoU 0.5", on, pooled.n_true, pooled.recall),
        figure_of("precision at IoU 0.5", on, pooled.n_pred, pooled.precision),
        figure_of("touching pairs of which both are found, apart", on, n, share(apart, n)),
        figure_of("Dice of the nucleus in found cells", on, len(scores.dice), mean_of(scores.dice)),
        figure_of("area found over true area", on, len(scores.area_ratio), mean_of(scores.area_ratio)),
    ]


def real_figures(scores: Sequence[ImageScore], dice: Sequence[float], on: str) -> list[Figure]:
    """Return the figures of real megakaryocytes; there are too few for an interval over images."""
    tp, fp, fn = (sum(getattr(score, name)[0] for score in scores) for name in ("tp", "fp", "fn"))
    figures = [
        figure_of("recall at IoU 0.5", on, tp + fn, share(tp, tp + fn)),
        figure_of("precision at IoU 0.5", on, tp + fp, share(tp, tp + fp)),
    ]
    return figures + ([figure_of("Dice of the nucleus in found cells", on, len(dice), mean_of(dice))] if dice else [])
