"""From evidence to tissue classes of a reticulin section: bone, fat and pale gaps are taken from the marrow.

The counterstain of a silver slide is weak and differs between laboratories, so no dye is unmixed: bone is what is
stained, wide and smooth, fat what is pale and round. The limits were set on simulated slides.
"""

from __future__ import annotations

import numpy as np

from wsi_pipeline.regions.evidence import OD_SCALE, SHARE_SCALE, Bytes, Evidence
from wsi_pipeline.regions.fat import find_fat
from wsi_pipeline.regions.morphology import Mask, closed, fill_holes, grow, large, opened
from wsi_pipeline.regions.tissue_classes import Tissue

_COVERED = 0.15
_MOST_SMOOTH_OD, _SMOOTH_SHARE = 0.030, 0.4
"""Bone is no rougher than 0.03, and than 0.4 times what three quarters of the tissue stay under: where the counterstain
is weak and fibres are few, marrow is smooth too."""
_OPEN_UM, _EDGE_UM = 12.0, 8.0
_MIN_UM2, _LACUNA_UM2 = 4000.0, 2000.0


def classify_reticulin(evidence: Evidence, tissue: Mask, *, mpp: float) -> Bytes:
    """Return the class of every pixel, uint8 of shape (h, w): marrow, fat, space, bone, or ``GLASS`` beyond tissue."""
    bone = _bone(evidence, tissue, mpp)
    pale = evidence.pale.astype(bool)
    fat = find_fat(pale, evidence.membrane.astype(bool), tissue & ~bone, bone, mpp=mpp)
    classes = np.full(tissue.shape, Tissue.GLASS, dtype=np.uint8)
    classes[tissue] = Tissue.MARROW
    classes[tissue & pale] = Tissue.SPACE
    classes[fat] = Tissue.FAT
    classes[bone] = Tissue.BONE
    return classes


def _bone(evidence: Evidence, tissue: Mask, mpp: float) -> Mask:
    covered = tissue & (evidence.pale_share < _COVERED * SHARE_SCALE)
    if not covered.any():
        return covered
    rough = float(np.percentile(evidence.texture[covered], 75))
    smooth = covered & (evidence.texture < min(_MOST_SMOOTH_OD * OD_SCALE, _SMOOTH_SHARE * rough))
    # Lacunae are spots in bone; where nothing is smooth around them they are marrow.
    seed = fill_holes(smooth, _LACUNA_UM2 / mpp**2, at_edge=True) & covered
    seed = large(opened(seed, _OPEN_UM / mpp), _MIN_UM2 / mpp**2)
    if not seed.any():
        return seed
    bone = closed(seed | (grow(seed, _EDGE_UM / mpp) & smooth), _OPEN_UM / mpp) & tissue
    return fill_holes(bone, _LACUNA_UM2 / mpp**2, at_edge=True) & tissue
