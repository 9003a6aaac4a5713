"""How fit a field of a smear is for counting, from its red cells and its sharpness alone.

White cells are cut out before anything is measured: a score that rose or fell with them would choose fields by what
is to be counted.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.morphology import grow, opened

SCORE_MPP = 1.0
"""Resolution at which fields are scored, um per pixel: a red cell is 7 px wide."""

_GLASS_PERCENTILE = 95
_DARKEST_GLASS = 205.0
_NUCLEAR_OD = 0.2
"""Optical density in red over which a pixel is taken for nucleus: azure absorbs red light, eosin does not."""
_NUCLEUS_UM = 3.0
_CYTOPLASM_UM = 8.0
_RED_CELL_OD = 0.05
_COVER = (0.02, 0.12, 0.70, 0.98)
"""Share covered with red cells: 0 below the first and above the last, 1 between the second and the third."""
_DETAIL = (0.2, 0.6)
"""Detail of 1 um over that of 2 to 4 um: 0 below the first, 1 above the second. Fields of BCCD have 0.7 to 1.4, virtual
ones 1.0 to 1.2; blurred by a sigma of 1 um 0.5, of 2 um 0.27, of 3 um 0.19."""
_LEAST_SEEN = 0.05


def field_score(pixels: npt.NDArray[np.uint8], mpp: float) -> float:
    """Return the score of a field, 0 (useless) to 1 (a monolayer in focus).

    The product of two parts: how well red cells cover what is not white cell (thin and thick areas lose), and how
    much of the detail is fine (areas out of focus lose; at 1 um/px only gross blur shows).

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` RGB.
    mpp
        Its resolution, um per pixel.
    """
    if pixels.size == 0:
        return 0.0
    light = np.maximum(pixels.astype(np.float32), 1.0)
    glass = np.maximum(np.percentile(light, _GLASS_PERCENTILE, axis=(0, 1)), _DARKEST_GLASS).astype(np.float32)
    density = np.maximum(-np.log10(light / glass), 0.0)
    seen = ~_white_cells(density[..., 0], mpp)
    if seen.mean() < _LEAST_SEEN:
        return 1.0  # white cells from edge to edge: nothing to judge by, and dropping the field would bias the count
    green = density[..., 1]
    cover = float((green > _RED_CELL_OD)[seen].mean())
    blurred = [cv2.GaussianBlur(green, (0, 0), sigma_um / mpp) for sigma_um in (1, 2, 4)]
    fine, coarse = (green - blurred[0])[seen].std(), (blurred[1] - blurred[2])[seen].std()
    low, full, ebbing, high = _COVER
    fit = min((cover - low) / (full - low), (high - cover) / (high - ebbing))
    sharp = (float(fine) / max(float(coarse), 1e-6) - _DETAIL[0]) / (_DETAIL[1] - _DETAIL[0])
    return float(np.clip(fit, 0, 1) * np.clip(sharp, 0, 1))


def _white_cells(red_density: npt.NDArray[np.float32], mpp: float) -> npt.NDArray[np.bool_]:
    """Return nuclei with the cytoplasm around them."""
    nuclear = opened(red_density > _NUCLEAR_OD, _NUCLEUS_UM / 2 / mpp)
    return grow(nuclear, _CYTOPLASM_UM / mpp)
