"""Composites: drawn megakaryocytes among real nuclei, in cytoplasm, fat, bone and folds, with what looks like them.

Everything is laid down as optical density at ``ASSET_MPP`` and brought to half the resolution at the end. Where a
megakaryocyte lies nothing of the ground is left. Which half of the cut-outs is used (:data:`Half`) decides whether a
network may be trained on a composite or be measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.simulation.megakaryocyte_textures import Half, Textures, load_textures, weave
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape, draw_megakaryocyte
from wsi_pipeline.simulation.sprites import ASSET_MPP, Sprite
from wsi_pipeline.training.segmentation.data import Sample

COMPOSITE_MPP = 2 * ASSET_MPP
SIDE_PX = 384
"""Side of a composite at ``COMPOSITE_MPP``."""

_SIDE = 2 * SIDE_PX
_SIDE_UM = _SIDE * ASSET_MPP
_CYTOPLASM, _NUCLEUS = (
    MEGAKARYOCYTE_KINDS.index("megakaryocyte_cytoplasm"),
    MEGAKARYOCYTE_KINDS.index("megakaryocyte_nucleus"),
)
_LEAST_LEFT = 0.75
_SMALL_UM = 16.0
_SMEAR_OF_LIGHT_PX = 1.0
_FloatImage = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class _Canvas:
    """A composite in the making; arrays are ``(_SIDE, _SIDE)``."""

    textures: Textures
    haematoxylin: npt.NDArray[np.float32]
    eosin: npt.NDArray[np.float32]
    density: _FloatImage
    taken: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), bool))
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), np.int32))
    nucleus: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), bool))
    n: int = 0


def composite(
    number: int,
    half: Half,
    nuclei: Sequence[Sprite],
    *,
    touching: float = 0.45,
    shape: MegakaryocyteShape | None = None,
) -> Sample:
    """Make one composite; it depends on the arguments alone.

    Parameters
    ----------
    number
        Another number is another composite.
    half
        Whose chromatin and cytoplasm it is made of; the split of the sample.
    nuclei
        Cut-outs of the other nuclei, of fields of the same half.
    touching
        Share of the megakaryocytes that are laid against another one.
    shape
        All megakaryocytes are of this shape; None draws each anew.

    Returns
    -------
    Sample
        ``SIDE_PX`` squared at ``COMPOSITE_MPP``; instances are megakaryocytes, kinds ``MEGAKARYOCYTE_KINDS``.
    """
    rng = np.random.default_rng((23, 0 if half == "train" else 1, number))
    canvas = _ground(load_textures(half), rng)
    if rng.random() < 0.35:
        _bone(canvas, rng)
    for _ in range(int(rng.choice([0, 0, 1, 2, 3]))):
        _fat(canvas, rng)
    _megakaryocytes(canvas, rng, touching, shape)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        _giant_cell(canvas, nuclei, rng)
    for _ in range(int(rng.choice([0, 1, 3]))):
        _pink_body(canvas, rng)
    for _ in range(int(rng.choice([0, 5, 12, 24]))):
        _ordinary_cell(canvas, rng)
    _scatter(canvas, nuclei, rng)
    if rng.random() < 0.2:
        _fold(canvas, rng)
    return _finished(canvas, f"megakaryocyte-composite/{half}-{number}", half, rng)


def composites(n: int, half: Half, nuclei: Sequence[Sprite]) -> list[Sample]:
    """Return composites 0 to ``n - 1`` of a half."""
    return [composite(number, half, nuclei) for number in range(n)]


def _noise(rng: np.random.Generator, wavelength_um: float) -> _FloatImage:
    """Return smooth noise of mean 0 and standard deviation 1."""
    side = max(4, round(_SIDE_UM / wavelength_um)) + 3
    coarse = rng.standard_normal((side, side)).astype(np.float32)
    fine = cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    return np.asarray((fine - fine.mean()) / fine.std(), dtype=np.float32)


def _ground(textures: Textures, rng: np.random.Generator) -> _Canvas:
    """Return what lies between the nuclei: hardly anything, thin cloudy ground, or a carpet of cytoplasm."""
    hue = textures.cytoplasm[int(rng.integers(len(textures.cytoplasm)))].density
    eosin = (hue / hue[1] * np.exp(rng.normal(0, 0.12, 3))).astype(np.float32)
    eosin[0] = min(eosin[0], 0.6)
    haematoxylin = np.ones(3, np.float32)
    if rng.random() < 0.6:  # towards the blue-black of haematoxylin beside eosin
        haematoxylin[:] = rng.uniform(1.0, 2.4), rng.uniform(0.8, 1.1), rng.uniform(1.0, 3.2)
    how = rng.choice(["bare", "cloud", "carpet"], p=[0.2, 0.3, 0.5])
    if how == "bare":
        amount = 0.03 + 0.02 * _noise(rng, 12.0)
    elif how == "cloud":
        amount = rng.uniform(0.05, 0.25) * (
            1 + 0.35 * _noise(rng, 40.0) + 0.3 * _noise(rng, 8.0) + 0.2 * _noise(rng, 2.5)
        )
    else:
        woven = weave(textures.cytoplasm, (_SIDE, _SIDE), rng, step_px=16)
        patches = 1 / (1 + np.exp(-3 * (_noise(rng, rng.uniform(7, 14)) + rng.uniform(-0.5, 1.5))))
        amount = rng.uniform(0.12, 0.6) * (1 + 0.9 * woven) * (0.25 + 0.75 * patches) * (1 + 0.2 * _noise(rng, 50.0))
    density = np.clip(amount, 0, None)[..., None] * eosin
    return _Canvas(textures=textures, haematoxylin=haematoxylin, eosin=eosin, density=density.astype(np.float32))


def _grid() -> tuple[_FloatImage, _FloatImage]:
    middle = ((np.arange(_SIDE) + 0.5) * ASSET_MPP).astype(np.float32)
    return middle[None, :], middle[:, None]


def _blob(rng: np.random.Generator, radius_um: float, *, rough: float = 0.15) -> tuple[_FloatImage, float, float]:
    """Return signed distance (um, negative inside) to a wobbly disc at a chance place, and the place."""
    x, y = _grid()
    cx, cy = rng.uniform(0, _SIDE_UM, 2)
    dx, dy = x - cx, y - cy
    angle = np.arctan2(dy, dx)
    edge = np.full(angle.shape, radius_um, np.float32)
    for k in (2, 3, 4, 5):
        edge += radius_um * rough * rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    return np.asarray(np.hypot(dx, dy) - edge, dtype=np.float32), float(cx), float(cy)


def _fat(canvas: _Canvas, rng: np.random.Generator) -> None:
    distance, _, _ = _blob(rng, rng.uniform(10, 35), rough=0.08)
    inside = 1 / (1 + np.exp(np.clip(distance / 0.35, -30, 30)))
    membrane = rng.uniform(0.1, 0.4) * np.exp(-((distance / 0.7) ** 2))
    canvas.density = (canvas.density * (1 - inside)[..., None] + membrane[..., None] * canvas.eosin).astype(np.float32)
    canvas.taken |= distance < 0


def _bone(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Lay smooth pink bone along one side."""
    x, y = _grid()
    angle = rng.uniform(0, 2 * math.pi)
    across = (x - _SIDE_UM / 2) * math.cos(angle) + (y - _SIDE_UM / 2) * math.sin(angle)
    distance = across - rng.uniform(0.1, 0.45) * _SIDE_UM + 3 * _noise(rng, 30.0)
    inside = 1 / (1 + np.exp(np.clip(-distance / 0.4, -30, 30)))
    lamellae = 1 + 0.12 * np.sin(across / rng.uniform(0.6, 1.5) + 2 * _noise(rng, 40.0)) + 0.1 * _noise(rng, 10.0)
    bone = rng.uniform(0.25, 0.9) * lamellae[..., None] * canvas.eosin
    canvas.density = (canvas.density * (1 - inside)[..., None] + inside[..., None] * bone).astype(np.float32)
    canvas.taken |= distance > 0


def _fold(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Double a band of the section."""
    x, y = _grid()
    angle = rng.uniform(0, 2 * math.pi)
    across = (x - rng.uniform(0, _SIDE_UM)) * math.cos(angle) + (y - rng.uniform(0, _SIDE_UM)) * math.sin(angle)
    width = rng.uniform(4, 15)
    band = 1 / (1 + np.exp(np.clip((np.abs(across + 4 * _noise(rng, 40.0)) - width) / 0.8, -30, 30)))
    canvas.density *= (1 + rng.uniform(0.3, 1.0) * band)[..., None].astype(np.float32)


def _draw_shape(rng: np.random.Generator) -> MegakaryocyteShape:
    bare = rng.random() < 0.15
    lobes = int(rng.integers(1, 11))
    lobulation = float(rng.uniform(0, 1)) if lobes > 1 else 0.0
    diameter = rng.uniform(13, 24) if bare else np.clip(np.exp(rng.normal(math.log(26), 0.33)), 14.0, 60)
    small = diameter < _SMALL_UM
    if small and bare:  # or it is any large nucleus
        lobes, lobulation = max(lobes, 2), max(lobulation, 0.4)
    return MegakaryocyteShape(
        diameter_um=float(diameter),
        nc_ratio=float(rng.uniform(0.15, 0.4 if small else 0.6)),
        lobes=lobes,
        lobulation=lobulation,
        darkness=float(np.exp(rng.normal(-0.1, 0.35))),
        bare=bare,
    )


def _megakaryocytes(
    canvas: _Canvas, rng: np.random.Generator, touching: float, shape: MegakaryocyteShape | None
) -> None:
    placed: list[tuple[float, float, float]] = []
    for _ in range(int(rng.choice([0, 1, 2, 4, 7, 10], p=[0.1, 0.15, 0.2, 0.25, 0.2, 0.1]))):
        chosen = shape or _draw_shape(rng)
        sprite = draw_megakaryocyte(chosen, rng, textures=canvas.textures)
        radius = sprite.radius_um
        for _ in range(8):
            if placed and rng.random() < touching:
                ox, oy, other = placed[int(rng.integers(len(placed)))]
                angle, gap = rng.uniform(0, 2 * math.pi), (radius + other) * rng.uniform(0.88, 1.08)
                cx, cy = ox + gap * math.cos(angle), oy + gap * math.sin(angle)
            else:
                cx, cy = rng.uniform(0, _SIDE_UM, 2)
            if _lay(canvas, sprite, cx, cy, rng, is_megakaryocyte=True):
                placed.append((float(cx), float(cy), radius))
                break


def _turned(
    layer: _FloatImage, sprite: Sprite, cx: float, cy: float, angle: float
) -> tuple[_FloatImage, tuple[slice, slice]] | None:
    """Return a sprite's layer turned about its centroid, and the part of the canvas it covers; None when off it."""
    half = math.ceil(math.hypot(*sprite.absorbed.shape[:2]) / 2) + 1
    px, py = round(cx / ASSET_MPP), round(cy / ASSET_MPP)
    x0, y0 = max(0, px - half), max(0, py - half)
    x1, y1 = min(_SIDE, px + half), min(_SIDE, py + half)
    if x0 >= x1 or y0 >= y1:
        return None
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = np.array([px - x0, py - y0]) - matrix[:, :2] @ (np.array(sprite.centre_px) - 0.5)
    return cv2.warpAffine(layer, matrix, (x1 - x0, y1 - y0)), (slice(y0, y1), slice(x0, x1))


def _masks(sprite: Sprite) -> tuple[_FloatImage, _FloatImage]:
    """Return where the sprite's cell and nucleus are, as images of its array."""
    masks = []
    for rings in ((sprite.outline_um,), sprite.nucleus_um):
        mask = np.zeros(sprite.absorbed.shape[:2], np.uint8)
        points = [np.rint((ring / ASSET_MPP + sprite.centre_px - 0.5) * 16).astype(np.int32) for ring in rings]
        if points:
            cv2.fillPoly(mask, points, 1, shift=4)
        masks.append(mask.astype(np.float32))
    return masks[0], masks[1]


def _lay(
    canvas: _Canvas, sprite: Sprite, cx: float, cy: float, rng: np.random.Generator, *, is_megakaryocyte: bool
) -> bool:
    """Lay a drawn cell down beside those that lie there, unless they would hide much of it."""
    angle = rng.uniform(0, 2 * math.pi)
    in_cell, in_nucleus = _masks(sprite)
    cell = _turned(in_cell, sprite, cx, cy, angle)
    if cell is None:
        return False
    mask, at = cell[0] > 0.5, cell[1]
    free = mask & ~canvas.taken[at] & (canvas.labels[at] == 0)
    if not mask.any() or free.sum() < _LEAST_LEFT * mask.sum():
        return False
    density = -np.log(np.clip(1 - sprite.absorbed, 0.015, 1.0))
    stain = 1 + (canvas.haematoxylin - 1) * ndimage.gaussian_filter(in_nucleus, 1.0)[..., None]
    laid = _turned((density * stain).astype(np.float32), sprite, cx, cy, angle)
    nucleus = _turned(in_nucleus, sprite, cx, cy, angle)
    assert laid is not None
    assert nucleus is not None
    soft = ndimage.gaussian_filter(free.astype(np.float32), 1.0)[..., None]
    canvas.density[at] = canvas.density[at] * (1 - soft) + laid[0] * soft
    canvas.taken[at] |= free
    if is_megakaryocyte:
        canvas.n += 1
        canvas.labels[at][free] = canvas.n
        canvas.nucleus[at] |= free & (nucleus[0] > 0.5)
    return True


def _ordinary_cell(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Lay down a cell with cytoplasm that is no megakaryocyte, or a large nucleus without any.

    The largest other cells of marrow, pronormoblasts and promyelocytes, are 12 to 14 um across on sections, most of it
    a round nucleus.
    """
    large = rng.random() < 0.4
    shape = MegakaryocyteShape(
        diameter_um=float(rng.uniform(10.5, 14.0) if large else rng.uniform(7, 10.5)),
        nc_ratio=float(rng.uniform(0.5, 0.85) if large else rng.uniform(0.3, 0.8)),
        lobes=1 if large else int(rng.integers(1, 4)),
        lobulation=0.0 if large else float(rng.uniform(0, 0.6)),
        darkness=float(np.exp(rng.normal(-0.2, 0.3))),
        bare=bool(rng.random() < 0.25 and not large),
    )
    sprite = draw_megakaryocyte(shape, rng, textures=canvas.textures)
    x, y = rng.uniform(0, _SIDE_UM, 2).tolist()
    _lay(canvas, sprite, x, y, rng, is_megakaryocyte=False)


def _pink_body(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Lay down a lump or lake of cytoplasm without a nucleus: platelets, hyaline, red cells, vessels."""
    distance, _, _ = _blob(rng, float(np.exp(rng.uniform(math.log(3), math.log(22)))), rough=0.3)
    inside = (1 / (1 + np.exp(np.clip(distance / 0.4, -30, 30)))) * ~canvas.taken
    texture = 1 + 0.5 * rng.random() * _noise(rng, 1.5)
    body = rng.uniform(0.2, 0.9) * np.clip(texture, 0.2, None)[..., None] * canvas.eosin
    canvas.density = (canvas.density * (1 - inside)[..., None] + inside[..., None] * body).astype(np.float32)


def _giant_cell(canvas: _Canvas, nuclei: Sequence[Sprite], rng: np.random.Generator) -> None:
    """Lay down a cell as an osteoclast is: wide, with many separate small round nuclei."""
    radius = rng.uniform(9, 20)
    distance, cx, cy = _blob(rng, radius, rough=0.3)
    inside = (distance < 0) & ~canvas.taken
    if inside.sum() < _LEAST_LEFT * (distance < 0).sum():
        return
    soft = ndimage.gaussian_filter(inside.astype(np.float32), 1.2)
    body = rng.uniform(0.25, 0.8) * (1 + 0.15 * _noise(rng, 1.5))[..., None] * canvas.eosin
    canvas.density = (canvas.density * (1 - soft)[..., None] + soft[..., None] * body).astype(np.float32)
    round_ones = [s for s in nuclei if s.reach_um < 1.35 * s.radius_um and 2.2 < s.radius_um < 4.0]
    for _ in range(int(rng.integers(3, 9))) if round_ones else ():
        sprite = round_ones[int(rng.integers(len(round_ones)))]
        r, t = radius * 0.75 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        _lay_nucleus(canvas, sprite, cx + r * math.cos(t), cy + r * math.sin(t), rng)
    canvas.taken |= inside


def _lay_nucleus(canvas: _Canvas, sprite: Sprite, cx: float, cy: float, rng: np.random.Generator) -> None:
    density = (-np.log(np.clip(1 - sprite.absorbed, 0.015, 1.0)) * canvas.haematoxylin).astype(np.float32)
    laid = _turned(density * np.float32(np.exp(rng.normal(0, 0.15))), sprite, cx, cy, rng.uniform(0, 2 * math.pi))
    if laid is not None:
        canvas.density[laid[1]] += np.where(canvas.labels[laid[1]][..., None] > 0, 0.0, laid[0])


def _scatter(canvas: _Canvas, nuclei: Sequence[Sprite], rng: np.random.Generator) -> None:
    """Scatter nuclei, in clumps now and then, nowhere that is taken but for a rim."""
    if not nuclei:
        return
    blocked = ndimage.binary_erosion(canvas.taken, iterations=3)
    wanted = int(rng.uniform(300, 12000) * (_SIDE_UM / 1000) ** 2)
    crowd = ndimage.gaussian_filter(np.zeros((_SIDE, _SIDE), np.float32), 1.0)
    clumped, last = rng.uniform(0, 0.5), None
    halo_px = rng.uniform(8, 16)
    soft_cytoplasm = rng.uniform(0, 0.4) if rng.random() < 0.6 else 0.0
    for _ in range(wanted):
        sprite = nuclei[int(rng.integers(len(nuclei)))]
        cx, cy = rng.uniform(0, _SIDE_UM, 2)
        if last is not None and rng.random() < clumped:
            t, gap = rng.uniform(0, 2 * math.pi), (last[2] + sprite.radius_um) * rng.uniform(0.85, 1.1)
            cx, cy = last[0] + gap * math.cos(t), last[1] + gap * math.sin(t)
        px, py = int(cx / ASSET_MPP), int(cy / ASSET_MPP)
        if not (0 <= px < _SIDE and 0 <= py < _SIDE) or blocked[py, px] or crowd[py, px] > 0:
            continue
        _lay_nucleus(canvas, sprite, cx, cy, rng)
        cv2.circle(crowd, (px, py), max(1, round(1.2 * sprite.radius_um / ASSET_MPP)), 1.0, -1)
        if soft_cytoplasm:
            _soft_cytoplasm(canvas, px, py, round(halo_px), soft_cytoplasm)
        last = (float(cx), float(cy), sprite.radius_um)


def _soft_cytoplasm(canvas: _Canvas, px: int, py: int, reach: int, amount: float) -> None:
    y0, x0 = max(0, py - 3 * reach), max(0, px - 3 * reach)
    y1, x1 = min(_SIDE, py + 3 * reach), min(_SIDE, px + 3 * reach)
    yy, xx = np.arange(y0, y1)[:, None] - py, np.arange(x0, x1)[None, :] - px
    glow = amount * np.exp(-0.5 * (yy**2 + xx**2) / reach**2) * (canvas.labels[y0:y1, x0:x1] == 0)
    canvas.density[y0:y1, x0:x1] += (glow[..., None] * canvas.eosin).astype(np.float32)


def _finished(canvas: _Canvas, name: str, half: Half, rng: np.random.Generator) -> Sample:
    light = np.array([rng.uniform(228, 250), rng.uniform(226, 246), rng.uniform(228, 250)], np.float32)
    image = light * np.exp(-np.clip(canvas.density, 0, 4.2))
    image = cv2.GaussianBlur(image, (0, 0), _SMEAR_OF_LIGHT_PX)
    small = cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    small += rng.normal(0, 1.3, small.shape)
    labels = np.ascontiguousarray(canvas.labels[::2, ::2])
    nucleus = canvas.nucleus[::2, ::2] & (labels > 0)
    kinds = np.where(nucleus, _NUCLEUS, np.where(labels > 0, _CYTOPLASM, 0)).astype(np.uint8)
    return Sample(
        name=name,
        split=half,
        rgb=np.clip(np.rint(small), 0, 255).astype(np.uint8),
        labels=labels,
        kinds=kinds,
        known=np.ones(labels.shape, bool),
        mpp=COMPOSITE_MPP,
    )
