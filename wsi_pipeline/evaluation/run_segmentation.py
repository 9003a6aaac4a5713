"""Run a segmentation model on labelled images, through the same reading and engine as a slide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.cells.windows import estimate_background
from wsi_pipeline.config import PipelineConfig, Specimen, load_config
from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.evaluation.baselines import otsu_baseline
from wsi_pipeline.evaluation.datasets import ImagePair, pair_folders, read_points
from wsi_pipeline.evaluation.images import read_mask
from wsi_pipeline.evaluation.points import PointsMetrics, evaluate_points, match_points
from wsi_pipeline.evaluation.segmentation import SegmentationMetrics, evaluate_segmentation, score_image
from wsi_pipeline.segmentation.dye import red_dye, white_in_name_only
from wsi_pipeline.segmentation.kinds import CELL_KINDS, KIND_OF_CHANNEL
from wsi_pipeline.segmentation.megakaryocytes import megakaryocyte_config
from wsi_pipeline.segmentation.models import FlowModel, load_model
from wsi_pipeline.segmentation.normalise import colour_histogram, normalisation_from_histogram
from wsi_pipeline.segmentation.segment import SegmentedBlock, segment_block
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.tiling import TileLattice, halo_px, plan_blocks
from wsi_pipeline.units import Box

KINDS = tuple(kind for kind in CELL_KINDS if kind != "other")
"""Kinds of cells that are measured."""

CENTRE_RADIUS_UM = 3.0
"""Default distance within which a centre matches a point: less than the radius of any nucleated cell."""

_MAX_SIDE_PX = 8192

Labels = npt.NDArray[np.int32]
"""``(h, w)`` int32 instances."""


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A model and the configuration it is run with on single images.

    Attributes
    ----------
    kind
        Cells kept; None keeps all.
    """

    model: FlowModel
    config: PipelineConfig
    kind: str | None = None

    def rim_px(self, mpp: float) -> int:
        """Return the width of one working pixel in pixels of an image, at least 1."""
        return max(1, math.ceil(self.config.segmentation.mpp / mpp))

    def check_size(self, slide: Slide) -> None:
        """Refuse an image that is too large to be segmented in one piece.

        Raises
        ------
        DataError
            Its size, and the largest one.
        """
        if max(*slide.size_at(self.config.segmentation.mpp), *slide.dimensions) > _MAX_SIDE_PX:
            raise DataError(
                f"{slide.path}: {slide.dimensions[0]} x {slide.dimensions[1]} px is too large for evaluation "
                f"on single images ({_MAX_SIDE_PX} px a side)"
            )

    def labels(self, slide: Slide) -> Labels:
        """Return ``(h, w)`` int32 instances of an open image, at its own resolution."""
        labels, kinds = self.cells(slide)
        if self.kind is None:
            return labels
        return keep_kinds(labels, kinds, self.kind)

    def cells(self, slide: Slide) -> tuple[Labels, npt.NDArray[np.object_]]:
        """Return all instances of an open image, at its own resolution, and the ``(n,)`` kind of each.

        Raises
        ------
        DataError
            The image is too large to be segmented in one piece.
        """
        labels, kinds, _ = self.cells_and_nuclei(slide)
        return labels, kinds

    def cells_and_nuclei(self, slide: Slide) -> tuple[Labels, npt.NDArray[np.object_], npt.NDArray[np.bool_]]:
        """Return as :meth:`cells`, and where nuclei are, ``(h, w)`` bool.

        Raises
        ------
        DataError
            The image is too large to be segmented in one piece.
        """
        self.check_size(slide)
        found = segment_image(slide, self.model, self.config)
        mpp = self.config.segmentation.mpp
        labels = _at_level0(found.block.instances.labels, slide, mpp)
        return labels, found.kind, _at_level0(found.block.nuclear.astype(np.int32), slide, mpp).astype(bool)


@dataclass(frozen=True, kw_only=True)
class SegmentedImage:
    """A whole image as one block, at the working resolution.

    Attributes
    ----------
    block
        What was found; the window of ``block.block`` says where on the image its arrays lie.
    kind
        ``(n,)`` kind of each cell, after white cells that are red by their dye are called so.
    pixels
        ``(h, w, 3)`` uint8 of the image.
    background
        ``(3,)`` uint8 colour of empty glass.
    """

    block: SegmentedBlock
    kind: npt.NDArray[np.object_]
    pixels: npt.NDArray[np.uint8]
    background: npt.NDArray[np.uint8]


def segment_image(slide: Slide, model: FlowModel, config: PipelineConfig) -> SegmentedImage:
    """Segment an open image in one piece, normalised by itself, as a run does a slide that is one block.

    Parameters
    ----------
    slide
        Opened with its resolution; small enough to be held in memory.
    model
        Loaded for the specimen of ``config``.
    """
    mpp = config.segmentation.mpp
    width, height = slide.size_at(mpp)
    whole = shapely.box(0, 0, width, height)
    pixels = slide.read(Box(x0=0, y0=0, x1=width, y1=height), mpp)
    (block,) = plan_blocks(
        (width, height),
        whole,
        core_px=max(width, height),
        halo=halo_px(config.segmentation.max_cell_diameter_um, mpp),
    )
    found = segment_block(
        lambda box: slide.read(box, mpp),
        block,
        lattice=TileLattice(tile_px=model.tile_px, overlap_px=model.overlap_px, width=width, height=height),
        dilated_region=whole,
        normalisation=normalisation_from_histogram(colour_histogram(pixels)),
        model=model,
        config=config.segmentation,
        specimen=config.specimen,
    )
    background = estimate_background(pixels)
    votes = (found.kind, found.kind_support, found.mean_rgb)
    dye = red_dye(*votes, found.instances.area_px * mpp**2, background)
    kind = np.where(white_in_name_only(*votes, background, dye), "red", found.kind).astype(object)
    return SegmentedImage(block=found, kind=kind, pixels=pixels, background=background)


def keep_kinds(labels: Labels, kinds: npt.NDArray[np.object_], *wanted: str) -> Labels:
    """Return the instances that are of the wanted kinds; the others become background."""
    keep = np.zeros(len(kinds) + 1, bool)
    keep[1:] = np.isin(kinds.astype(str), wanted)
    return np.where(keep[labels], labels, 0).astype(np.int32)


def _at_level0(working: Labels, slide: Slide, mpp: float) -> Labels:
    """Return a label image on the level-0 grid: each pixel takes the working pixel under its centre."""
    width, height = slide.dimensions
    frame = slide.frame(mpp)
    columns = frame.from_px0(np.stack([np.arange(width) + 0.5, np.zeros(width)], axis=1))[:, 0].astype(int)
    rows = frame.from_px0(np.stack([np.zeros(height), np.arange(height) + 0.5], axis=1))[:, 1].astype(int)
    return working[np.minimum(rows, working.shape[0] - 1)][:, np.minimum(columns, working.shape[1] - 1)]


def make_segmenter(model: str | None, kind: str | None, device: str, overrides: Mapping[str, Any]) -> Segmenter:
    """Return a segmenter for a kind of cell.

    Parameters
    ----------
    model
        Name or path; None takes the shipped compact network for the kind.
    kind
        One of ``KINDS``, or None for every instance.
    overrides
        Dotted configuration keys.

    Raises
    ------
    ModelError
        The model does not know the kind.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"--kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    section = kind in ("nucleus", "megakaryocyte") or (kind is None and model == "compact-section")
    specimen: Specimen = "trephine" if section else "blood_smear"
    settings = {"segmentation.batch_size": 1, **overrides}
    if model is not None:
        settings["segmentation.model"] = model
    config = load_config(specimen, settings)
    second = config.segmentation.megakaryocyte_model
    if kind == "megakaryocyte" and second is not None and model in (None, second):
        config = config.model_copy(update={"segmentation": megakaryocyte_config(config.segmentation)})
    loaded = load_model(config.segmentation.model, specimen=specimen, device=device)
    # A model without kinds tells platelets by their stain, but nothing tells it megakaryocytes.
    told = {KIND_OF_CHANNEL.get(channel) for channel in loaded.kinds}
    if ((kind == "platelet" and loaded.kinds) or kind == "megakaryocyte") and kind not in told:
        known = ", ".join(loaded.kinds) or "no kinds"
        raise ModelError(f"model {loaded.name} knows {known}, not {kind}")
    return Segmenter(model=loaded, config=config, kind=kind)


def read_mpp(text: str) -> Callable[[Path], float]:
    """Return microns per pixel of an image: one number for all, or a CSV file with columns image,mpp.

    Raises
    ------
    DataError
        Neither a positive number nor a readable file; or, later, an image that the file does not list.
    """
    try:
        value = float(text)
    except ValueError:
        return _MppTable(Path(text))
    if not value > 0:
        raise DataError(f"--mpp {text}: microns per pixel must be positive")
    return lambda _: value


class _MppTable:
    def __init__(self, path: Path) -> None:
        import csv

        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                self._values = {Path(row["image"]).stem: float(row["mpp"]) for row in csv.DictReader(file)}
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"--mpp {path}: give a number, or a CSV file with columns image,mpp ({error})") from None
        self._path = path

    def __call__(self, image: Path) -> float:
        try:
            return self._values[image.stem]
        except KeyError:
            raise DataError(f"{self._path} has no row for {image.name}") from None


def evaluate_masks(
    images: Path,
    masks: Path,
    segmenter: Segmenter,
    mpp: Callable[[Path], float],
    *,
    only: Callable[[ImagePair], bool] = lambda _: True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[SegmentationMetrics, SegmentationMetrics]:
    """Evaluate on images with instance or binary masks; return the model's metrics and Otsu's.

    Parameters
    ----------
    only
        Chooses the pairs that are used.
    progress
        Receives the name of each image when it is done.
    """
    scores, trivial = [], []
    for pair in _pairs(images, masks, "masks", only):
        with open_slide(pair.image, mpp=mpp(pair.image), force_mpp=True) as slide:
            found = segmenter.labels(slide)
        truth = read_mask(pair.truth, found.shape)
        scores.append(score_image(pair.name, truth, found))
        trivial.append(score_image(pair.name, truth, otsu_baseline(read_image(pair.image))))
        progress(pair.name)
    return evaluate_segmentation(scores), evaluate_segmentation(trivial)


def evaluate_point_folder(
    images: Path,
    points: Path,
    segmenter: Segmenter,
    mpp: Callable[[Path], float],
    *,
    radius_um: float | None = CENTRE_RADIUS_UM,
    only: Callable[[ImagePair], bool] = lambda _: True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[PointsMetrics, PointsMetrics]:
    """Evaluate on images whose cells are marked by points; return the model's metrics and Otsu's.

    Parameters
    ----------
    radius_um
        Farthest distance of a matched centre; None matches no centres.
    """
    results, trivial = [], []
    for pair in _pairs(images, points, "points", only):
        xy = read_points(pair.truth).xy
        with open_slide(pair.image, mpp=mpp(pair.image), force_mpp=True) as slide:
            found = segmenter.labels(slide)
        radius_px = None if radius_um is None else radius_um / mpp(pair.image)
        rim_px = segmenter.rim_px(mpp(pair.image))
        otsu = otsu_baseline(read_image(pair.image))
        results.append(match_points(pair.name, found, xy, radius_px=radius_px, rim_px=rim_px))
        trivial.append(match_points(pair.name, otsu, xy, radius_px=radius_px, rim_px=rim_px))
        progress(pair.name)
    return evaluate_points(results), evaluate_points(trivial)


def _pairs(images: Path, truths: Path, truth: Any, only: Callable[[ImagePair], bool]) -> list[ImagePair]:
    found = pair_folders(images, truths, truth=truth)
    pairs = [pair for pair in found.pairs if only(pair)]
    if not pairs:
        raise DataError(f"no image of {images} has its {truth} in {truths}")
    return pairs
