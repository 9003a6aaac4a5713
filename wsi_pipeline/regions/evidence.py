"""What each pixel of an H&E section shows: dyes, nuclei, texture. Local filters only: strips give what the whole does.

Dyes are unmixed with the fixed vectors of Ruifrok and Johnston (Anal Quant Cytol Histol 23:291, 2001): vectors
estimated from a slide fail where a core is nearly all bone or nearly all fat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.morphology import opened

Bytes = npt.NDArray[np.uint8]

OD_SCALE = 200.0
"""Grey levels of ``haematoxylin``, ``eosin`` and ``texture`` per unit of optical density (255 is 1.27)."""
SHARE_SCALE = 255.0
"""Grey levels of ``nuclei``, ``pale`` and ``coherence`` per 1."""

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_UNMIX = np.linalg.inv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)).astype(np.float32)

_PALE_OD = 0.06
_GREY_OD, _GREY_SPREAD_OD, _GREY_UM = 0.15, 0.03, 4.0
"""Grey smears on the slide show in fat: as dense in all channels, where dyes never are, and wider than a membrane."""
_MEMBRANE_OD, _MEMBRANE_UM = 0.02, 6.0
_SPOT_OD = 0.03
_FINE_UM, _NUCLEUS_UM = 1.5, 7.0
_TEXTURE_UM = 4.0
_DENSITY_UM = 10.0
_DYE_UM = 5.0
_STREAM_UM = 12.0

HALO_UM = 64.0
"""Further than any of the filters reaches (their supports add up)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Maps of a picture, each uint8 of shape (h, w).

    Attributes
    ----------
    pale
        1 where the pixel is as bright as glass, or a little darker and colourless.
    membrane
        1 on thin lines a little denser than both sides: walls between fat cells can be nearly as pale as glass.
    pale_share
        Share of pale pixels around.
    haematoxylin, eosin
        Mean density of the dye around, times ``OD_SCALE``.
    nuclei
        Share of the surroundings that are nucleus-sized spots which absorb red: haematoxylin does, eosin hardly.
    texture
        Standard deviation of green density around, times ``OD_SCALE``.
    coherence
        How far haematoxylin runs in one direction: 0 round or isotropic, 1 parallel streaks.
    """

    pale: Bytes
    membrane: Bytes
    pale_share: Bytes
    haematoxylin: Bytes
    eosin: Bytes
    nuclei: Bytes
    texture: Bytes
    coherence: Bytes

    def crop(self, rows: slice) -> Evidence:
        return Evidence(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def stacked(parts: list[Evidence]) -> Evidence:
        return Evidence(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Evidence)})


def find_evidence(pixels: Bytes, *, mpp: float, glass: tuple[int, int, int]) -> Evidence:
    """Return the evidence of a picture, uint8 RGB of shape (h, w, 3) at ``mpp`` um per pixel.

    ``glass`` is the colour of empty glass.
    """
    density = _densities(pixels, glass)
    largest = _blur(density.max(axis=2), 0.5 * _FINE_UM / mpp)
    least = _blur(density.min(axis=2), 0.5 * _FINE_UM / mpp)
    grey = (largest >= _PALE_OD) & (largest < _GREY_OD) & (largest - least < _GREY_SPREAD_OD)
    pale = (largest < _PALE_OD) | opened(grey, _GREY_UM / mpp)
    dyes = np.maximum(density @ _UNMIX, 0)
    haematoxylin, eosin = np.ascontiguousarray(dyes[..., 0]), np.ascontiguousarray(dyes[..., 1])
    fine = _blur(haematoxylin, _FINE_UM / mpp)
    # Red density, not unmixed haematoxylin: where a stain is heavy on eosin, unmixing takes the nuclei away.
    red = np.ascontiguousarray(density[..., 0])
    spots = (_blur(red, _FINE_UM / mpp) - _blur(red, _NUCLEUS_UM / mpp) > _SPOT_OD).astype(np.float32)
    green = np.ascontiguousarray(density[..., 1])
    mean = _blur(green, _TEXTURE_UM / mpp)
    variance = np.maximum(_blur(green * green, _TEXTURE_UM / mpp) - mean * mean, 0)
    return Evidence(
        pale=pale.astype(np.uint8),
        membrane=_membranes(largest, mpp).astype(np.uint8),
        pale_share=_bytes(_blur(pale.astype(np.float32), _TEXTURE_UM / mpp), SHARE_SCALE),
        haematoxylin=_bytes(_blur(haematoxylin, _DYE_UM / mpp), OD_SCALE),
        eosin=_bytes(_blur(eosin, _DYE_UM / mpp), OD_SCALE),
        nuclei=_bytes(_blur(spots, _DENSITY_UM / mpp), SHARE_SCALE),
        texture=_bytes(np.sqrt(variance), OD_SCALE),
        coherence=_bytes(_coherence(fine, mpp), SHARE_SCALE),
    )


def _membranes(density: npt.NDArray[np.float32], mpp: float) -> npt.NDArray[np.bool_]:
    # The top-hat of the density.
    side = 2 * max(1, round(_MEMBRANE_UM / mpp)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(density, cv2.MORPH_TOPHAT, kernel) > _MEMBRANE_OD)


def _coherence(picture: npt.NDArray[np.float32], mpp: float) -> npt.NDArray[np.float32]:
    """Return the coherence of the structure tensor (Bigun and Granlund, ICCV 1987)."""
    dx = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=3)
    xx, yy, xy = (_blur(product, _STREAM_UM / mpp) for product in (dx * dx, dy * dy, dx * dy))
    total = xx + yy
    split = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    return np.asarray(np.where(total > 1e-4, split / np.maximum(total, 1e-4), 0), dtype=np.float32)


def _densities(pixels: Bytes, glass: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    values = np.arange(256, dtype=np.float64) + 1.0
    table = np.stack([np.maximum(np.log10((level + 1.0) / values), 0) for level in glass], axis=1)
    return np.asarray(cv2.LUT(pixels, table.astype(np.float32)[:, None, :]))


def _blur(picture: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    sigma = max(sigma, 0.3)
    side = 2 * math.ceil(2.5 * sigma) + 1
    return np.asarray(cv2.GaussianBlur(picture, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101))


def _bytes(picture: npt.NDArray[np.float32], scale: float) -> Bytes:
    return np.clip(np.rint(picture * scale), 0, 255).astype(np.uint8)
