"""What the compact flow networks are trained on: labelled fields, kinds, pixel sizes, the fixed split.

The labels themselves are made in :mod:`~wsi_pipeline.training.segmentation.smear_labels`,
:mod:`~wsi_pipeline.training.segmentation.section_labels` and :mod:`~wsi_pipeline.training.segmentation.virtual_fields`;
:mod:`~wsi_pipeline.training.segmentation.shipped_fields` puts the shipped recipes together.

The split is by a hash of the path (:func:`split_of`); reserved images are test. Cross-validation deals the fields
out anew (:func:`fold_of`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.split import is_reserved

Split = Literal["train", "validation", "test"]

BCCD_MPP = 0.073
RBC_MPP = 0.18
PBC_MPP = 0.198
MARROW_MPP = 0.095

SET_SHARES = {
    "bccd": 0.28,
    "rbc-morphology": 0.24,
    "pbc": 0.16,
    "marrow-cells": 0.10,
    "virtual": 0.22,
    "tissue-nuclei": 0.75,
    "virtual-section": 0.25,
    "megakaryocyte-fields": 0.2,
    "megakaryocyte-composite": 0.8,
}
"""Share of the training crops drawn from each set."""

SMEAR_KINDS = ("background", "red", "platelet", "cytoplasm", "white_nucleus")
SECTION_KINDS = ("background", "nucleus", "megakaryocyte")
IGNORE = 255


_SAME_FIELD = {"bccd/fields/BloodImage_00038.jpg": "bccd/fields/BloodImage_00037.jpg"}
"""Near-duplicates (correlation 0.98 at 24 x 18 px, the only pair above 0.9), kept on one side of the split."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled field.

    Attributes
    ----------
    name
        Path below the data root.
    rgb
        ``(h, w, 3)`` uint8.
    labels
        ``(h, w)`` int32 instances, 0 elsewhere.
    kinds
        ``(h, w)`` uint8 index into the kinds of the network, :data:`IGNORE` where unknown.
    known
        ``(h, w)`` bool, false where instances are unknown.
    mpp
        Microns per pixel (an estimate: the sets carry none).
    """

    name: str
    split: Split
    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    mpp: float


def split_of(relative_path: str) -> Split:
    """Return the fixed split of an image: a hash of its path, 20 % test, 10 % validation, 70 % train."""
    relative_path = _SAME_FIELD.get(relative_path, relative_path)
    if is_reserved(relative_path):
        return "test"
    bucket = hashlib.sha1(relative_path.encode(), usedforsecurity=False).digest()[0] % 10
    return "test" if bucket == 1 else "validation" if bucket == 2 else "train"


def fold_of(relative_path: str, folds: int) -> int:
    """Return which of ``folds`` folds an image is tested in; near-duplicates share one."""
    relative_path = _SAME_FIELD.get(relative_path, relative_path)
    digest = hashlib.sha256(f"fold:{relative_path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image of a data set, ``(h, w, 3)`` uint8.

    Raises
    ------
    DataError
        It cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: not an image that can be read")
    return np.ascontiguousarray(image[..., ::-1])
