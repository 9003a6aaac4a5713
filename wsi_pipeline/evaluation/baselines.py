"""What a trivial method reaches, so that a figure has something to stand beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError


def otsu_baseline(
    rgb: npt.NDArray[np.uint8],
    *,
    kind: Literal["white", "red", "nucleus"] = "nucleus",
    min_area_px: int = 30,
) -> npt.NDArray[np.int32]:
    """Segment by one grey threshold and connected components.

    The green channel is where haemoglobin, azure and haematoxylin all absorb. ``red`` and ``nucleus`` take what is
    darker than Otsu's threshold; ``white`` takes the darkest of three Otsu classes, since red cells are the second.

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    min_area_px
        Smaller components are dropped; holes are filled.

    Returns
    -------
    ndarray
        ``(h, w)`` int32 labels, 0 for background.

    References
    ----------
    Otsu N. IEEE Trans Syst Man Cybern 1979;9:62-66.
    """
    from scipy.ndimage import binary_fill_holes
    from skimage.filters import threshold_multiotsu, threshold_otsu
    from skimage.measure import label

    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise DataError(f"the baseline needs an (h, w, 3) image, not {rgb.shape}")
    green = rgb[..., 1]
    levels = len(np.unique(green))
    if levels < 2:
        return np.zeros(green.shape, np.int32)
    # Three classes need three grey levels.
    threshold = threshold_multiotsu(green, 3)[0] if kind == "white" and levels > 2 else threshold_otsu(green)
    labels = label(binary_fill_holes(green <= threshold), connectivity=1)
    small = np.bincount(labels.ravel()) < min_area_px
    small[0] = True
    kept = np.where(small, 0, np.cumsum(~small))
    return kept[labels].astype(np.int32)


def majority_labels(true: Sequence[str]) -> list[str]:
    """Answer every cell with the most frequent class, the first in the alphabet where several tie."""
    if not true:
        return []
    counts = Counter(true)
    best = min(counts, key=lambda c: (-counts[c], c))
    return [best] * len(true)
