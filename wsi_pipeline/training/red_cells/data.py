"""Red cells of labelled fields, found and measured as in a run: what the red-cell classifier learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from wsi_pipeline.cells.measure import measure_block
from wsi_pipeline.cells.red_cells import FEATURE_NAMES, RedReference, red_features
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.datasets import pair_folders, read_points
from wsi_pipeline.evaluation.images import IMAGE_SUFFIXES
from wsi_pipeline.evaluation.run_segmentation import segment_image
from wsi_pipeline.segmentation.models import FlowModel, load_model
from wsi_pipeline.slides import Slide, open_slide
from wsi_pipeline.taxonomies import load_taxonomy

TAXONOMY = "red-cells"
SEGMENTED_BY = "compact-smear"
CHULA_MPP = 0.18
"""Of the fields of Chula RBC-12, estimated from the width of their red cells, um per pixel."""
BCCD_MPP = 0.073
"""Of the fields of BCCD, likewise."""


@dataclass(frozen=True, kw_only=True)
class LabelledRedCells:
    """Labelled points and the red cells they lie in.

    Attributes
    ----------
    features
        ``(n, len(FEATURE_NAMES))`` float32; a row of NaN where the point has no red cell of its own.
    classes
        Code of each point in the taxonomy ``red-cells``.
    fields
        Name of the field of each point.
    fate
        What became of the points: ``measured``, or why not.
    """

    features: npt.NDArray[np.float32]
    classes: npt.NDArray[np.object_]
    fields: npt.NDArray[np.object_]
    fate: dict[str, int]

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """``(n,)`` whether the point has a row."""
        return np.asarray(np.isfinite(self.features[:, 0]))


def read_red_cells(
    data: Path, *, mpp: float = CHULA_MPP, device: str = "cpu", report: Callable[[str], None] = lambda _: None
) -> LabelledRedCells:
    """Find and measure the red cells of ``data/images``, and give each labelled point of ``data/points`` its cell.

    Parameters
    ----------
    data
        Folder of ``images`` and ``points``; a point is x, y (pixels of its image) and the code or an
        alias of its class.
    mpp
        Microns per pixel of the images.

    Raises
    ------
    DataError
        Folders or files are missing or do not pair, a point has no class, or its class is unknown.
    """
    for name in ("images", "points"):
        if not (data / name).is_dir():
            raise DataError(f"{data / name} does not exist; red cells are learnt from fields and labelled points")
    model = load_model(SEGMENTED_BY, specimen="blood_smear", device=device)
    taxonomy = load_taxonomy(TAXONOMY)
    pairs = pair_folders(data / "images", data / "points", truth="points").pairs
    rows: list[npt.NDArray[np.float32]] = []
    classes: list[str] = []
    fields: list[str] = []
    fate: Counter[str] = Counter()
    for number, pair in enumerate(pairs):
        points = read_points(pair.truth)
        if not len(points.xy):
            fate["field without points"] += 1
            continue
        if points.classes is None:
            raise DataError(f"{pair.truth}: points without a class; a line is x y class")
        with open_slide(pair.image, mpp=mpp, force_mpp=True) as slide:
            table, labels = red_cells_of(slide, model)
            frame = slide.frame(load_config("blood_smear").segmentation.mpp)
        features = red_features(table, RedReference.of([table]))
        x, y = np.floor(frame.from_px0(points.xy + 0.5)).astype(int).T
        of = labels[np.clip(y, 0, labels.shape[0] - 1), np.clip(x, 0, labels.shape[1] - 1)]
        shared = np.bincount(of, minlength=len(table) + 1)[of] > 1
        truncated = np.append(False, table.column("truncated").to_numpy())[of]
        for cell, several, cut, name in zip(of, shared, truncated, points.classes, strict=True):
            usable = cell > 0 and not several and not cut
            why = "no red cell" if cell == 0 else "several points in one cell" if several else "cut by the edge"
            fate["measured" if usable else why] += 1
            rows.append(features[cell - 1] if usable else np.full(features.shape[1], np.nan, np.float32))
            classes.append(taxonomy.resolve(name))
            fields.append(pair.name)
        if number % 20 == 19:
            report(f"measured {number + 1} of {len(pairs)} fields")
    return LabelledRedCells(
        features=np.array(rows, np.float32),
        classes=np.array(classes, object),
        fields=np.array(fields, object),
        fate=dict(fate),
    )


@dataclass(frozen=True, kw_only=True)
class OtherLaboratory:
    """Red cells of another laboratory's smears without labels of shape; by eye most are normal.

    Attributes
    ----------
    normal
        ``(n, len(FEATURE_NAMES))`` cells of half of the fields that a rule takes for normal, to learn from.
    held_out
        ``(m, len(FEATURE_NAMES))`` all complete cells of the other fields, to count false alarms on.
    """

    normal: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.float32]


def read_other_laboratory(
    folder: Path, *, mpp: float = BCCD_MPP, every: int = 3, device: str = "cpu"
) -> OtherLaboratory:
    """Measure the red cells of every third field of a folder; even ones to learn from, odd ones held out.

    Taken for normal are cells of 0.7 to 1.4 usual areas, a solidity above 0.96 and an axis ratio above 0.8.

    Raises
    ------
    DataError
        The folder does not exist or holds fewer than two fields.
    """
    paths = (
        sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)[::every] if folder.is_dir() else []
    )
    if len(paths) < 2:
        raise DataError(f"{folder}: needs at least {1 + every} fields of another laboratory, found {len(paths)} to use")
    model = load_model(SEGMENTED_BY, specimen="blood_smear", device=device)
    tables = []
    for path in paths:
        with open_slide(path, mpp=mpp, force_mpp=True) as slide:
            table, _ = red_cells_of(slide, model)
            tables.append(table.filter(pa.compute.invert(table.column("truncated"))))
    reference = RedReference.of(tables)
    learn, held = (np.concatenate([red_features(t, reference) for t in tables[i::2]]) for i in (0, 1))
    area, solid, round_ = (
        learn[:, FEATURE_NAMES.index(name)] for name in ("area_um2_over_median", "solidity", "shape_axis_ratio")
    )
    like = (area > 0.7) & (area < 1.4) & (solid > 0.96) & (round_ > 0.8)
    return OtherLaboratory(normal=learn[like], held_out=held)


def red_cells_of(slide: Slide, model: FlowModel) -> tuple[pa.Table, npt.NDArray[np.int32]]:
    """Return the red cells of an open field as rows of the cell table, and their numbers (1..n) as a label image.

    The image is ``(h, w)`` int32 at the working resolution.
    """
    config = load_config("blood_smear", {"segmentation.model": SEGMENTED_BY})
    mpp = config.segmentation.mpp
    width, height = slide.size_at(mpp)
    image = segment_image(slide, model, config)
    found, red = image.block, image.kind == "red"
    table = measure_block(
        found,
        frame=slide.frame(mpp),
        mpp=mpp,
        slide_size=(width, height),
        region_px0=shapely.box(0, 0, *slide.dimensions),
        fingerprint="field",
        background=image.background,
    )
    number = np.zeros(len(red) + 1, np.int32)
    number[1:][red] = np.arange(1, red.sum() + 1)
    window, labels = found.block.window, np.zeros((height, width), np.int32)
    inside = found.instances.labels
    y0, x0 = max(0, -window.y0), max(0, -window.x0)
    part = inside[y0 : y0 + height, x0 : x0 + width]
    labels[: part.shape[0], : part.shape[1]] = number[part]
    return table.filter(pa.array(red)), labels
