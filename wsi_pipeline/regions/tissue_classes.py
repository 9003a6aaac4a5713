"""From evidence to tissue classes of a trephine. Pure functions on arrays; every rule is a length, an area or a share.

The rules are written for H&E at about 2 um per pixel and were set on pictures by eye, not learnt. Where a rule is
in doubt the pixel stays marrow, which is looked at.
"""

from __future__ import annotations

from enum import IntEnum

import cv2
import numpy as np

from wsi_pipeline.regions.evidence import OD_SCALE, SHARE_SCALE, Bytes, Evidence
from wsi_pipeline.regions.fat import find_fat
from wsi_pipeline.regions.morphology import Mask, closed, fill_holes, grow, large, opened

_EOSIN_BONE_OD, _EOSIN_BLUE_BONE_OD = 0.045, 0.16
_BLUE_BONE = 0.30
"""Largest haematoxylin over eosin of bone without calcium and of red cells."""
_SMOOTH_OD, _BLUE_SMOOTH_OD = 0.045, 0.10
_FEW_NUCLEI, _SOME_NUCLEI, _NO_MARROW_NUCLEI, _BLUE_NUCLEI = 0.03, 0.06, 0.10, 0.20
_COVERED = 0.15
_BONE_OPEN_UM, _BONE_EDGE_UM, _BONE_MIN_UM2, _LACUNA_MAX_UM2 = 12.0, 14.0, 4000.0, 2000.0
_BLOOD_EOSIN_OD, _BLOOD_TIMES, _BLOOD_GRAIN, _BLOOD_OPEN_UM, _BLOOD_MIN_UM2 = 0.10, 1.2, 0.10, 16.0, 8000.0
_FOLD_TIMES, _FOLD_OPEN_UM, _FOLD_MIN_UM2, _FOLD_ELONGATION = 1.7, 5.0, 3000.0, 2.5
_CRUSH_TIMES, _CRUSH_COHERENCE, _CRUSH_OPEN_UM, _CRUSH_MIN_UM2 = 1.4, 0.45, 10.0, 5000.0
_OTHER_OPEN_UM, _OTHER_MIN_UM2 = 12.0, 2000.0
_CORTEX_MIN_UM = 500.0


class Tissue(IntEnum):
    """Class of a pixel. ``SPACE`` is pale, no fat (tears, sinusoids); ``OTHER`` is stained, no bone, without nuclei."""

    GLASS = 0
    MARROW = 1
    FAT = 2
    SPACE = 3
    OTHER = 4
    BONE = 5
    HAEMORRHAGE = 6
    CRUSH = 7
    FOLD = 8


def classify(evidence: Evidence, tissue: Mask, *, mpp: float) -> Bytes:
    """Return the class of every pixel, uint8 of shape (h, w); ``GLASS`` outside ``tissue``."""
    marrow_like = tissue & (evidence.nuclei > _SOME_NUCLEI * SHARE_SCALE)
    blood = _haemorrhage(evidence, tissue, marrow_like, mpp)
    bone = _bone(evidence, tissue & ~blood, mpp)
    in_bone = _bordering(blood, bone)
    blood, bone = blood & ~in_bone, bone | in_bone
    free = tissue & ~(bone | blood)
    fold = _fold(evidence, free, marrow_like, mpp)
    crush = _crush(evidence, free & ~fold, marrow_like, mpp)
    free &= ~(fold | crush)
    pale = evidence.pale.astype(bool)
    fat = find_fat(pale, evidence.membrane.astype(bool), tissue & ~(bone | fold | crush | blood), bone, mpp=mpp)
    classes = np.full(tissue.shape, Tissue.GLASS, dtype=np.uint8)
    classes[free] = Tissue.MARROW
    classes[_other(evidence, free & ~pale & ~fat, mpp)] = Tissue.OTHER
    classes[free & pale] = Tissue.SPACE
    classes[fat] = Tissue.FAT
    for mask, code in (
        (bone, Tissue.BONE),
        (blood, Tissue.HAEMORRHAGE),
        (crush, Tissue.CRUSH),
        (fold, Tissue.FOLD),
    ):
        classes[mask] = code
    return classes


def subcortical(classes: Bytes, *, mpp: float, depth_um: float) -> Mask:
    """Return the rim of ``depth_um`` beside cortical bone: bone that holds a disc of 500 um.

    Trabeculae are 100 to 200 um thick and the iliac cortex about 1 mm, so a thinner plate is taken for a trabecula.
    """
    bone = (classes == Tissue.BONE).astype(np.uint8)
    nothing = np.zeros(bone.shape, dtype=bool)
    if depth_um <= 0 or not bone.any():
        return nothing
    # Outside the picture counts as bone: it does not make bone thin.
    inside = cv2.distanceTransform(np.pad(bone, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    core = inside * mpp >= _CORTEX_MIN_UM / 2
    if not core.any():
        return nothing
    _, labels = cv2.connectedComponents(bone, connectivity=8)
    cortex = np.isin(labels, np.unique(labels[core]))
    away = cv2.distanceTransform((~cortex).astype(np.uint8), cv2.DIST_L2, 5)
    return (away * mpp <= depth_um) & (bone == 0) & (classes != Tissue.GLASS)


def _bone(evidence: Evidence, tissue: Mask, mpp: float) -> Mask:
    covered = tissue & (evidence.pale_share < _COVERED * SHARE_SCALE)
    no_marrow = evidence.nuclei < _NO_MARROW_NUCLEI * SHARE_SCALE
    pink = evidence.haematoxylin < np.maximum(_BLUE_BONE * evidence.eosin, 0.02 * OD_SCALE)
    pink &= evidence.eosin > _EOSIN_BONE_OD * OD_SCALE
    seed = covered & no_marrow & pink & (evidence.texture < _SMOOTH_OD * OD_SCALE)
    seed = fill_holes(seed, _LACUNA_MAX_UM2 / mpp**2, at_edge=True) & covered
    seed = large(opened(seed, _BONE_OPEN_UM / mpp), _BONE_MIN_UM2 / mpp**2)
    if not seed.any():
        return seed
    # Parts that kept calcium take haematoxylin too; they belong where they touch what is bone beyond doubt.
    blue = covered & (evidence.eosin > _EOSIN_BLUE_BONE_OD * OD_SCALE)
    blue &= (evidence.texture < _BLUE_SMOOTH_OD * OD_SCALE) & (evidence.nuclei < _BLUE_NUCLEI * SHARE_SCALE)
    body = opened(blue, _BONE_OPEN_UM / mpp) | seed
    count, labels = cv2.connectedComponents(body.astype(np.uint8), connectivity=8)
    keep = np.bincount(labels[seed], minlength=count) > 0
    keep[0] = False
    bone = np.asarray(keep[labels])
    # Along its edge the filters mix it with what lies beside it.
    edge = tissue & ~evidence.pale.astype(bool) & no_marrow
    bone |= grow(bone, _BONE_EDGE_UM / mpp) & edge
    bone = opened(closed(bone, 0.5 * _BONE_EDGE_UM / mpp), 0.25 * _BONE_OPEN_UM / mpp) & tissue
    return fill_holes(bone, _LACUNA_MAX_UM2 / mpp**2, at_edge=True) & tissue


def _bordering(mask: Mask, other: Mask) -> Mask:
    """Return the pieces of a mask whose border runs along another one for a quarter or more."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    # Each pixel around takes the number of a piece beside it.
    around = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int64)
    ring = (around > 0) & ~mask
    length = np.bincount(around[ring], minlength=count)
    shared = np.bincount(around[ring & other], minlength=count)
    keep = shared >= np.maximum(0.25 * length, 1)
    keep[0] = False
    return np.asarray(keep[labels])


def _fold(evidence: Evidence, free: Mask, marrow_like: Mask, mpp: float) -> Mask:
    limits = _typical(evidence, marrow_like)
    if limits is None:
        return np.zeros_like(free)
    dark = free & (evidence.haematoxylin > _FOLD_TIMES * limits[0]) & (evidence.eosin > _FOLD_TIMES * limits[1])
    dark = opened(closed(dark, _FOLD_OPEN_UM / mpp), _FOLD_OPEN_UM / mpp) & free
    return _elongated(large(dark, _FOLD_MIN_UM2 / mpp**2), _FOLD_ELONGATION)


def _crush(evidence: Evidence, free: Mask, marrow_like: Mask, mpp: float) -> Mask:
    limits = _typical(evidence, marrow_like)
    if limits is None:
        return np.zeros_like(free)
    blue = free & (evidence.haematoxylin > _CRUSH_TIMES * limits[0]) & (evidence.pale_share < 0.3 * SHARE_SCALE)
    streaming = blue & (evidence.coherence > _CRUSH_COHERENCE * SHARE_SCALE)
    return (
        large(opened(closed(streaming, 0.5 * _CRUSH_OPEN_UM / mpp), _CRUSH_OPEN_UM / mpp), _CRUSH_MIN_UM2 / mpp**2)
        & free
    )


def _haemorrhage(evidence: Evidence, free: Mask, marrow_like: Mask, mpp: float) -> Mask:
    """Find packed red cells: redder than the marrow, without nuclei, and grainy, which bone is not."""
    limits = _typical(evidence, marrow_like)
    least = max(_BLOOD_EOSIN_OD * OD_SCALE, _BLOOD_TIMES * limits[1] if limits else 0.0)
    dense = free & (evidence.pale_share < _COVERED * SHARE_SCALE)
    red = dense & (evidence.eosin > least) & (evidence.nuclei < _NO_MARROW_NUCLEI * SHARE_SCALE)
    red &= (evidence.haematoxylin < _BLUE_BONE * evidence.eosin) & (evidence.texture > _BLOOD_GRAIN * evidence.eosin)
    red = opened(closed(red, 0.25 * _BLOOD_OPEN_UM / mpp), _BLOOD_OPEN_UM / mpp)
    red = grow(red, 0.25 * _BLOOD_OPEN_UM / mpp) & dense & (evidence.nuclei < _NO_MARROW_NUCLEI * SHARE_SCALE)
    return large(fill_holes(red, _LACUNA_MAX_UM2 / mpp**2, at_edge=True) & free, _BLOOD_MIN_UM2 / mpp**2)


def _other(evidence: Evidence, stained: Mask, mpp: float) -> Mask:
    bare = stained & (evidence.nuclei < _FEW_NUCLEI * SHARE_SCALE)
    return large(opened(bare, _OTHER_OPEN_UM / mpp), _OTHER_MIN_UM2 / mpp**2)


def _typical(evidence: Evidence, marrow_like: Mask) -> tuple[float, float] | None:
    """Return the median densities of both dyes where there are nuclei and little glass shows."""
    chosen = marrow_like & (evidence.pale_share < 0.3 * SHARE_SCALE)
    if not chosen.any():
        return None
    low = 0.05 * OD_SCALE
    return (
        max(low, float(np.median(evidence.haematoxylin[chosen]))),
        max(low, float(np.median(evidence.eosin[chosen]))),
    )


def _elongated(mask: Mask, least: float) -> Mask:
    """Keep the pieces whose area is ``least`` times that of the largest disc inside, as in a strip, or more."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    radius = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    widest = np.zeros(count)
    np.maximum.at(widest, labels[mask], radius[mask])
    keep = stats[:, cv2.CC_STAT_AREA] >= least * np.pi * np.maximum(widest, 0.5) ** 2
    keep[0] = False
    return np.asarray(keep[labels])
