"""Take the granules out of a neutrophil's picture by a controlled share: a stand-in for hypogranulation.

No public set labels hypogranular neutrophils. So the fine structure of the cytoplasm's optical density is shrunk, at
the image's own resolution and before anything is segmented or measured; the mean density and all that lies outside of
the cytoplasm stay. It is an image operation, not a disease: real hypogranular cytoplasm also changes its colour.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FINE_UM = 0.6
"""Sigma of the Gaussian whose residue counts as granules, um: all spots of up to about 1.5 um."""
EDGE_UM = 0.3
"""Width over which the operation fades out towards the edge of the cytoplasm."""


def attenuate_granules(
    pixels: npt.NDArray[np.uint8],
    cytoplasm: npt.NDArray[np.bool_],
    *,
    mpp: float,
    keep: float,
    background: npt.NDArray[np.uint8],
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Return the picture with the fine structure of the cytoplasm multiplied by ``keep``.

    ``OD' = L + keep (OD - L)`` with ``L`` the Gaussian of ``OD`` within the cytoplasm (normalised convolution,
    Knutsson and Westin, CVPR 1993). The camera's noise is shrunk with it; so that its absence does not give the picture
    away, noise of the power that was taken (standard deviation of the fine structure of the brightest tenth of the
    picture, its background) is put back.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8.
    cytoplasm
        ``(h, w)`` bool.
    mpp
        Microns per pixel.
    keep
        Share of the structure that stays, 0 to 1; 1 returns the picture as it is.
    background
        ``(3,)`` colour of the empty slide.
    seed
        Of the noise.
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must lie between 0 and 1: {keep}")
    if keep == 1 or not cytoplasm.any():
        return pixels.copy()
    light = np.maximum(background.astype(np.float64), 1)
    density = -np.log10(np.maximum(pixels, 1) / light)
    sigma = FINE_UM / mpp
    weight = cytoplasm.astype(np.float64)
    below = ndimage.gaussian_filter(weight, sigma)
    fade = np.clip(ndimage.distance_transform_edt(cytoplasm) * mpp / EDGE_UM, 0, 1)
    brightness = pixels.sum(axis=2, dtype=np.int64)
    empty = (brightness >= np.percentile(brightness, 90)) & ~cytoplasm
    rng = np.random.default_rng(seed)
    out = density.copy()
    for c in range(3):
        smooth = ndimage.gaussian_filter(density[..., c] * weight, sigma) / np.maximum(below, 1e-9)
        fine = density[..., c] - smooth
        rough = density[..., c] - ndimage.gaussian_filter(density[..., c], sigma)
        # Half of the interquartile range over 0.6745: the standard deviation of noise without the odd speck.
        low, high = np.percentile(rough[empty], [25, 75])
        noise = rng.normal(0, (high - low) / 2 / 0.6745, fine.shape) * np.sqrt(1 - keep**2)
        out[..., c] -= fade * ((1 - keep) * fine - noise)
    changed = np.clip(np.rint(light * 10**-out), 0, 255).astype(np.uint8)
    return np.where(cytoplasm[..., None], changed, pixels)
