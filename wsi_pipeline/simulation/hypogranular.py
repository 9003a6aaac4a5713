"""Neutrophils without their granules: stand-ins for the dysplastic neutrophils that no public set labels.

The shipped cutouts of neutrophils are taken as they are and the fine structure of their cytoplasm is shrunk
(:mod:`wsi_pipeline.simulation.attenuation`). Nuclei stay: nothing stands in for pseudo-Pelger cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from skimage.draw import polygon

from wsi_pipeline.simulation.attenuation import attenuate_granules
from wsi_pipeline.simulation.cutouts import nuclear, optical_density
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.simulation.sprites import ASSET_MPP, TRANSMITTANCE_ONE, Sprite, load_sprites

HYPOGRANULAR = "hypogranular"
"""Variant of a neutrophil whose granules were taken out."""
NEUTROPHILS = ("segmented_neutrophil", "band_neutrophil")
"""Classes that have the variant."""
GRANULES_KEPT = 0.1
"""Share of the fine structure that stays: of real neutrophils attenuated so, nine in ten or more are flagged (between
the doses 0.25 and 0 of docs/dysplasia-and-attributes.md)."""

_GLASS = np.full(3, TRANSMITTANCE_ONE, np.uint8)


def sprites_of(profile: Profile) -> tuple[Sprite, ...]:
    """Return the cutouts a profile may choose from: the shipped ones, and hypogranular ones if it names any."""
    named = {name.partition(":")[2] for layer in profile.layers.values() for name in layer.mix}
    return load_sprites() + (_shipped() if HYPOGRANULAR in named else ())


@lru_cache(maxsize=1)
def _shipped() -> tuple[Sprite, ...]:
    return hypogranular_sprites(load_sprites())


def hypogranular_sprites(sprites: Sequence[Sprite], *, keep: float = GRANULES_KEPT) -> tuple[Sprite, ...]:
    """Return the neutrophils among the cutouts with the granules of their cytoplasm attenuated.

    Parameters
    ----------
    sprites
        Cutouts; of these the neutrophils without a variant are taken, in their order.
    keep
        Share of the fine structure that stays, 0 to 1.

    Notes
    -----
    A cutout has no ground whose noise could be measured, so none is put back; the grain of the slide lies over
    all its cells alike.
    """
    own = [sprite for sprite in sprites if sprite.class_name in NEUTROPHILS and not sprite.variant]
    return tuple(_without_granules(sprite, keep) for sprite in own)


def _without_granules(sprite: Sprite, keep: float) -> Sprite:
    picture = np.clip(np.rint(TRANSMITTANCE_ONE * (1.0 - sprite.absorbed)), 1, 255).astype(np.uint8)
    cell = np.zeros(picture.shape[:2], bool)
    ring = sprite.outline_um / ASSET_MPP + np.asarray(sprite.centre_px, dtype=np.float32)
    # Pixel i covers [i, i + 1), and polygon() counts from pixel centres.
    cell[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, cell.shape)] = True
    cytoplasm = cell & ~nuclear(optical_density(picture, _GLASS))
    seed = int.from_bytes(hashlib.sha256(sprite.source.encode()).digest()[:4], "big")
    changed = attenuate_granules(picture, cytoplasm, mpp=ASSET_MPP, keep=keep, background=_GLASS, seed=seed)
    paler = 1.0 - changed.astype(np.float32) / np.float32(TRANSMITTANCE_ONE)
    absorbed = np.where(cytoplasm[..., None], paler, sprite.absorbed)
    return replace(sprite, absorbed=np.ascontiguousarray(absorbed, dtype=np.float32), variant=HYPOGRANULAR)
