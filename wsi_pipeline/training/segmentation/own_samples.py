"""From labelled fields to what the training draws from: a split by image, and pieces of bounded size.

A piece is a few crops wide, so that drawing a crop costs the same on a field of 600 and of 8,000 pixels, and so
that cells which are rare on a large field are seen often: pieces without any cell are kept only up to
``EMPTY_SHARE`` of those with cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import estimate_glass, optical_density
from wsi_pipeline.training.segmentation.data import IGNORE, Sample, Split
from wsi_pipeline.training.segmentation.fit import Recipe
from wsi_pipeline.training.segmentation.own_data import Field
from wsi_pipeline.training.splits import Fingerprint, fingerprint, joined_groups, near_duplicates, split_by_group

EMPTY_SHARE = 0.25
_TEST_SHARE, _MAX_TEST_SHARE = 0.2, 1 / 3
_SALT = "own-fields-1"
_PIECE_CROPS = 2.5
_GLASS_DENSITY, _NEAR_NUCLEAR, _CLEAR_PX = 0.10, 0.8, 2


def kinds_of(fields: Sequence[Field], kind: str) -> tuple[str, ...]:
    """Return the network's kinds: the one the masks hold, with its nucleus where all white-cell masks show it."""
    labelled = [field for field in fields if field.n_cells]
    if kind == "white" and all(field.nucleus is not None for field in labelled):
        return ("background", "cytoplasm", "white_nucleus")
    return ("background", kind)


def split_fields(fields: Sequence[Field]) -> list[Split]:
    """Return ``train`` or ``test`` for each field, by a hash of its pixels, near-duplicates together.

    About a fifth is test: at least one labelled field, at most a third of them. Except where these bounds move it, a
    field keeps its side when others are added.

    Raises
    ------
    DataError
        All labelled fields look alike, so that none can test what was learnt on another.
    """
    groups = _duplicate_groups([field.rgb for field in fields])
    digests = [field.image_digest() for field in fields]
    sides = split_by_group(groups, digests, fractions=(1 - _TEST_SHARE, 0.0, _TEST_SHARE), salt=_SALT).astype(object)
    labelled = np.array([field.n_cells > 0 for field in fields])
    candidates = sorted(set(groups[labelled].tolist()))
    if len(candidates) < 2:
        raise DataError(
            f"the {int(labelled.sum())} labelled images look alike (copies, or the same place photographed again), so "
            "none of them can test what is learnt on the others; add images of other places"
        )
    ranked = sorted(candidates, key=lambda g: min(d for d, own in zip(digests, groups, strict=True) if own == g))
    # Of few images chance may set half apart, or none.
    for group in ranked[::-1]:
        if (labelled & (sides == "test")).sum() > _MAX_TEST_SHARE * labelled.sum():
            sides[groups == group] = "train"
    if not (labelled & (sides == "test")).any():
        sides[groups == ranked[0]] = "test"
    return list(sides)


def _duplicate_groups(images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    prints = [fingerprint(image[None]) for image in images]
    together = Fingerprint(
        bits=np.concatenate([p.bits for p in prints]), thumbnails=np.concatenate([p.thumbnails for p in prints])
    )
    return joined_groups(near_duplicates(together, together), len(images))


def make_samples(
    fields: Sequence[Field], splits: Sequence[Split], recipe: Recipe, *, complete: bool = True
) -> list[Sample]:
    """Return the pieces of the ``train`` fields.

    Parameters
    ----------
    splits
        One a field.
    recipe
        Its kinds, nominal pixel size and side of a crop.
    complete
        Every cell of the kind has a label, so all else is background. When false, only labelled cells and clear
        glass (on sections, what is not nuclear) are known; other stained pixels are ignored by the loss.

    Raises
    ------
    DataError
        No piece is left.
    """
    filled: list[Sample] = []
    empty: list[Sample] = []
    for field, split in zip(fields, splits, strict=True):
        if split == "train":
            for piece in _pieces(_field_sample(field, recipe, complete=complete), recipe):
                (filled if piece.labels.any() else empty).append(piece)
    if not filled:
        raise DataError("no training image holds a labelled cell")
    # Of an incompletely labelled field, a piece without a label has next to nothing to teach.
    keep = int(EMPTY_SHARE * len(filled)) if complete else 0
    empty.sort(key=lambda piece: hashlib.sha256(piece.name.encode()).digest())
    return filled + empty[:keep]


def _field_sample(field: Field, recipe: Recipe, *, complete: bool) -> Sample:
    """Return a field as one sample, shrunk by a whole factor where it is finer than any crop needs."""
    shrink = max(1, int(recipe.scale_range[0] * recipe.mpp / field.mpp))
    height, width = (n // shrink * shrink for n in field.labels.shape)
    rgb, labels = field.rgb[:height, :width], field.labels[:height, :width]
    nucleus = None if field.nucleus is None else field.nucleus[:height, :width]
    if shrink > 1:
        rgb = cv2.resize(rgb, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
        middle = np.s_[shrink // 2 :: shrink, shrink // 2 :: shrink]
        labels, nucleus = labels[middle], None if nucleus is None else nucleus[middle]
    kinds = (labels > 0).astype(np.uint8)
    if "white_nucleus" in recipe.kinds and nucleus is not None:
        kinds[(labels > 0) & nucleus] = recipe.kinds.index("white_nucleus")
    known = np.ones(labels.shape, bool)
    if not complete:
        known = (labels > 0) | _clear(rgb, section="nucleus" in recipe.kinds)
        kinds[~known] = IGNORE
    return Sample(
        name=f"own/{field.name}", split="train", rgb=rgb, labels=labels, kinds=kinds, known=known,
        mpp=field.mpp * shrink,
    )  # fmt: skip


def _clear(rgb: npt.NDArray[np.uint8], *, section: bool) -> npt.NDArray[np.bool_]:
    """Return pixels that are surely no cell and not next to one: clear glass; on a section what is not nuclear."""
    density = optical_density(rgb, estimate_glass(rgb))
    if section:
        # Haematoxylin absorbs red light, eosin hardly does.
        red = cv2.GaussianBlur(np.ascontiguousarray(density[..., 0]), (0, 0), 1)
        stained = red > _NEAR_NUCLEAR * threshold_otsu(red)
    else:
        stained = ndi.binary_fill_holes(cv2.GaussianBlur(density.sum(axis=2), (0, 0), 1) > _GLASS_DENSITY)
    return ~ndi.binary_dilation(stained, iterations=_CLEAR_PX)


def _pieces(sample: Sample, recipe: Recipe) -> list[Sample]:
    """Cut a sample into nearly equal pieces of at most ``_PIECE_CROPS`` nominal crops a side."""
    longest = _PIECE_CROPS * recipe.side * recipe.mpp / sample.mpp
    rows, columns = (_edges(n, longest) for n in sample.labels.shape)
    return [
        Sample(
            name=f"{sample.name}/{y0}-{x0}", split=sample.split, rgb=np.ascontiguousarray(sample.rgb[y0:y1, x0:x1]),
            labels=sample.labels[y0:y1, x0:x1], kinds=sample.kinds[y0:y1, x0:x1], known=sample.known[y0:y1, x0:x1],
            mpp=sample.mpp,
        )
        for y0, y1 in pairwise(rows)
        for x0, x1 in pairwise(columns)
    ]  # fmt: skip


def _edges(length: int, longest: float) -> list[int]:
    parts = max(1, int(np.ceil(length / longest)))
    return [round(length * part / parts) for part in range(parts + 1)]
