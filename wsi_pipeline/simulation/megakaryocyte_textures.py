"""Real chromatin and cytoplasm that drawn megakaryocytes are made of: what was cut out, and how it is woven.

The cut-outs are of two halves that share no field: ``test`` ones make virtual slides and the composites that networks
are measured on, ``train`` ones the composites that a network is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.sprites import ASSETS_FOLDER, TRANSMITTANCE_ONE, load_sprites

TEXTURES_FOLDER = ASSETS_FOLDER / "megakaryocytes"

Half = Literal["train", "test"]

_STEP_PX = 18
_FADE_PX = 6.0
_LEAST_TRANSMITTANCE = 0.02
_SPREAD = (-0.75, 1.6)
"""Relative densities are kept within; beyond lies what overlapping pieces exaggerate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A piece of real chromatin or cytoplasm at ``ASSET_MPP``.

    Attributes
    ----------
    relative
        ``(h, w)`` float32: optical density, red, green and blue together, over its mean, less 1; 0 beyond the mask.
    mask
        ``(h, w)`` float32 in [0, 1]: where it is chromatin, or cytoplasm, fading towards the rim.
    density
        ``(3,)`` mean optical density (natural logarithm), red, green and blue.
    source
        Image it was cut from, as a path below the data root.
    """

    relative: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32]
    density: npt.NDArray[np.float32]
    source: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Textures:
    """The cut-outs of one half.

    Attributes
    ----------
    chromatin, cytoplasm
        Pieces to weave.
    nucleus_density
        ``(3,)`` optical density (natural logarithm) of the slide's other nuclei: darkness 1.
    """

    chromatin: tuple[Patch, ...]
    cytoplasm: tuple[Patch, ...]
    nucleus_density: npt.NDArray[np.float32]


@lru_cache(maxsize=2)
def load_textures(half: Half = "test", folder: Path = TEXTURES_FOLDER) -> Textures:
    """Load the shipped cut-outs of a half.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    index = folder / "textures.json"
    try:
        tree = json.loads(index.read_text(encoding="utf-8"))
        atlases = {n: np.asarray(Image.open(folder / n).convert("RGBA")) for n in {e["atlas"] for e in tree["cutouts"]}}
        chosen = [entry for entry in tree["cutouts"] if entry["variant"] == half]
        patches = [(str(e["class"]), _patch(e["box"], atlases[e["atlas"]], str(e["source"]))) for e in chosen]
        chromatin = tuple(patch for name, patch in patches if name == "chromatin")
        cytoplasm = tuple(patch for name, patch in patches if name == "cytoplasm")
        if not chromatin or not cytoplasm:
            raise ValueError(f"no {'cytoplasm' if chromatin else 'chromatin'} of half {half!r}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{index}: the megakaryocytes' textures cannot be loaded ({error}); reinstall it") from error
    return Textures(chromatin=chromatin, cytoplasm=cytoplasm, nucleus_density=_nucleus_density())


def _patch(box: Sequence[int], atlas: npt.NDArray[np.uint8], source: str) -> Patch:
    x, y, width, height = box
    if x < 0 or y < 0 or x + width > atlas.shape[1] or y + height > atlas.shape[0]:
        raise ValueError(f"box {box} is outside the atlas {atlas.shape[1]}x{atlas.shape[0]}")
    part = atlas[y : y + height, x : x + width].astype(np.float32)
    mask = part[..., 3] > 127
    density = -np.log(np.clip(part[..., :3] / np.float32(TRANSMITTANCE_ONE), _LEAST_TRANSMITTANCE, 1.0))
    mean = density[mask].mean(axis=0)
    relative = np.where(mask, density.sum(axis=2) / max(float(mean.sum()), 0.01) - 1.0, 0.0)
    return Patch(
        relative=np.clip(relative, -1.0, 3.0).astype(np.float32),
        mask=np.clip(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] / _FADE_PX, 0, 1).astype(np.float32),
        density=mean.astype(np.float32),
        source=source,
    )


@lru_cache(maxsize=1)
def _nucleus_density() -> npt.NDArray[np.float32]:
    """Return the mean optical density of the median shipped nucleus, over the pixels inside its outline."""
    means = []
    for sprite in load_sprites():
        if sprite.kind == "nucleus":
            inside = sprite.absorbed.sum(axis=2) > 0.5 * sprite.absorbed.sum(axis=2).max()
            means.append(-np.log(np.clip(1.0 - sprite.absorbed[inside], _LEAST_TRANSMITTANCE, 1.0)).mean(axis=0))
    return np.median(means, axis=0).astype(np.float32)


def weave(
    patches: Sequence[Patch], shape: tuple[int, int], rng: np.random.Generator, *, step_px: int = _STEP_PX
) -> npt.NDArray[np.float32]:
    """Return a field ``(h, w)`` of relative densities about 0, woven of pieces of one of the patches.

    Pieces of ``2 * step_px`` are laid over one another under Hann windows and divided by the root of the sum of the
    squared windows, which keeps the variance that an average would lose.
    """
    height, width = shape
    side = 2 * step_px
    total = np.zeros((height + 2 * side, width + 2 * side), np.float32)
    power = np.zeros_like(total)
    hann = np.hanning(side + 2)[1:-1].astype(np.float32)
    window = hann[:, None] * hann[None, :]
    patch = patches[int(rng.integers(len(patches)))]
    padded = np.pad(patch.relative, side)
    mask = np.pad(patch.mask, side)
    inside = np.argwhere(patch.mask > 0)
    for y in range(step_px // 2, total.shape[0] - side, step_px):
        for x in range(step_px // 2, total.shape[1] - side, step_px):
            row, column = inside[int(rng.integers(len(inside)))] + side - step_px
            box = (slice(row, row + side), slice(column, column + side))
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            piece = _turned(padded[box], turns, flip=flip)
            weight = window * _turned(mask[box], turns, flip=flip)
            at = (slice(y, y + side), slice(x, x + side))
            total[at] += piece * weight
            power[at] += weight**2
    woven = total / np.sqrt(np.maximum(power, 0.15))
    return np.asarray(np.clip(woven, *_SPREAD)[side : side + height, side : side + width], dtype=np.float32)


def _turned(piece: npt.NDArray[Any], turns: int, *, flip: bool) -> npt.NDArray[Any]:
    turned = np.rot90(piece, turns)
    return turned[:, ::-1] if flip else turned
