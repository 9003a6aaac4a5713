"""Labels of section fields: nuclei from published instance maps, megakaryocytes told by eye.

The fields carry no pixel size: it is estimated from the median nucleus, taken as ``NUCLEUS_UM`` across.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.training.segmentation.data import IGNORE, SECTION_KINDS, Sample, read_rgb, split_of

NUCLEUS_UM = 7.0

MEGAKARYOCYTES = {
    "e414b54f2036": (43,),
    "2c61fdcb36fd": (21,),
    "420f43d21dba": (3,),
    "7f34dfccd1bc": (15,),
    "bb61fc17daf8": (36,),
}
"""Nuclei of ``tissue-nuclei`` fields that are megakaryocytes beyond doubt to the eye: field and label."""

DOUBTFUL = {
    "bb61fc17daf8": (12,),
    "4590d7d47f52": (45,),
    "4e92129f4e80": (8, 28, 43),
    "5d75a63972ef": (22, 57),
    "ea94ba4b01d1": (3, 22, 32, 34, 37, 42),
}
"""Large nuclei that may be megakaryocytes, osteoclasts, macrophages or endothelium: of unknown kind to the loss."""


def section_sample(root: Path, stem: str) -> Sample:
    """Return a ``tissue-nuclei`` field."""
    base = root / "tissue-nuclei"
    path = next((base / "images").glob(f"{stem}.*"))
    rgb = read_rgb(path)
    labels = cv2.imread(str(base / "labels" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f"{base / 'labels' / stem}.png: the instance map is missing")
    labels = labels.astype(np.int32)
    kinds = (labels > 0).astype(np.uint8)
    kinds[np.isin(labels, MEGAKARYOCYTES.get(stem, ()))] = SECTION_KINDS.index("megakaryocyte")
    kinds[np.isin(labels, DOUBTFUL.get(stem, ()))] = IGNORE
    name = path.relative_to(root).as_posix()
    return Sample(
        name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=kinds,
        known=np.ones(labels.shape, bool), mpp=estimate_section_mpp(labels),
    )  # fmt: skip


def megakaryocyte_sample(field: Sample) -> Sample:
    """Return a ``tissue-nuclei`` field labelled for a network that delineates megakaryocytes, cell and nucleus.

    These fields show no cytoplasm: of a certain megakaryocyte the stained body is cell and nucleus in one, and as the
    true border of the cell is not seen, its surroundings are unknown. Doubtful nuclei are unknown too.
    """
    megakaryocyte = field.kinds == SECTION_KINDS.index("megakaryocyte")
    numbers = np.unique(field.labels[megakaryocyte])
    labels = np.zeros_like(field.labels)
    for new, old in enumerate(numbers, 1):
        labels[field.labels == old] = new
    doubtful = cv2.dilate((field.kinds == IGNORE).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rim = cv2.dilate((labels > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    known = ~doubtful & ((labels > 0) | ~rim)
    kinds = np.where(labels > 0, MEGAKARYOCYTE_KINDS.index("megakaryocyte_nucleus"), 0).astype(np.uint8)
    kinds[~known] = IGNORE
    name = field.name.replace("tissue-nuclei/", "megakaryocyte-fields/", 1)
    return replace(field, name=name, labels=labels, kinds=kinds, known=known)


def estimate_section_mpp(labels: npt.NDArray[np.integer]) -> float:
    """Return the pixel size at which the median nucleus is :data:`NUCLEUS_UM` across."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    if areas.size == 0:
        raise DataError("no nuclei in the label image, so its pixel size cannot be estimated")
    return float(NUCLEUS_UM / np.median(2 * np.sqrt(areas / np.pi)))
