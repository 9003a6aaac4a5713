"""Draw any rectangle of a virtual slide: glass or tissue, light, cells, grain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.layout import Layout, Placed
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise
from wsi_pipeline.simulation.sprites import Sprite, multiply_into
from wsi_pipeline.units import Box, FloatArray

GRAIN_PX = 256
"""Side of the blocks that sensor noise is keyed by; tiles are multiples of it."""

_PURPOSE_STAIN, _PURPOSE_LIGHT, _PURPOSE_STROMA, _PURPOSE_GRAIN = 1, 2, 10, 20
_PURPOSE_FOCUS = 40
_GRAIN_SIGMA = 1.3
_PAD_PX = 12
_BLURS_PX = (0.0, 0.6, 1.2, 2.4)
_BLUR_REACH = 4.0
_PATCH_WAVELENGTH_UM = 1400.0
# Extremes of the glass colours met on scanners: the cream of a CellaVision camera, a neutral white.
_CREAM, _NEUTRAL = np.array([247.0, 232.0, 214.0]), np.array([240.0, 238.0, 236.0])
_LILAC = np.array([236.0, 234.0, 238.0])
# Optical density per unit of ground substance: faint pink-violet.
_STROMA_OD = np.array([0.055, 0.105, 0.035])


@dataclass(frozen=True, kw_only=True, eq=False)
class Stain:
    """What differs between slides.

    Attributes
    ----------
    glass
        Colour of empty glass.
    gain
        How strongly cells are stained.
    mix
        ``(3, 3)``: optical density of a cell is multiplied by it, channels by channels; hue and balance of the dyes.
    """

    glass: tuple[float, float, float]
    gain: float
    mix: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Focus:
    """How sharp a slide is: everywhere a little, here and there much less.

    Attributes
    ----------
    base_um
        Blur where the slide is in focus, standard deviation.
    patch_um
        Blur added in the middle of patches that are out of focus.
    """

    base_um: float
    patch_um: float


def check_variation(stain: float, blur: float) -> None:
    """Raise :class:`ConfigError` unless stain and blur may vary so much."""
    if not 0 <= stain <= 2 or not 0 <= blur <= 2:
        raise ConfigError(f"stain_variation {stain}, blur_variation {blur}: both are 0 to 2")


def draw_stain(seed: int, background: str, variation: float = 1.0) -> Stain:
    """Return the stain of a slide, which depends on the seed alone; ``variation`` 0 gives all slides the same."""
    rng = keyed_generator(seed, _PURPOSE_STAIN, 0, 0)
    towards = 0.5 + variation * (rng.random() - 0.5)
    base = _LILAC if background == "tissue" else _CREAM * (1 - towards) + _NEUTRAL * towards
    r, g, b = np.clip(base + variation * rng.uniform(-2.0, 2.0, 3), 150, 252)
    mix = np.diag(np.exp(variation * rng.normal(0, 0.05, 3))) + variation * rng.normal(0, 0.025, (3, 3))
    return Stain(
        glass=(float(r), float(g), float(b)),
        gain=float(1.0 + variation * rng.uniform(-0.06, 0.04)),
        mix=mix.astype(np.float32),
    )


def draw_focus(seed: int, variation: float = 1.0) -> Focus:
    """Return the focus of a slide; it depends on the seed alone."""
    rng = keyed_generator(seed, _PURPOSE_FOCUS, 0, 0)
    return Focus(base_um=variation * float(rng.uniform(0.0, 0.12)), patch_um=variation * float(rng.uniform(0.1, 0.5)))


def restain(sprites: Sequence[Sprite], stain: Stain) -> tuple[Sprite, ...]:
    """Return the sprites in the stain of a slide (Beer-Lambert)."""
    if np.array_equal(stain.mix, np.eye(3, dtype=np.float32)):
        return tuple(sprites)
    changed = []
    for sprite in sprites:
        density = -np.log(np.clip(1.0 - sprite.absorbed, 0.015, 1.06))
        absorbed = 1.0 - np.exp(-density @ stain.mix.T)
        changed.append(replace(sprite, absorbed=np.ascontiguousarray(absorbed, dtype=np.float32)))
    return tuple(changed)


def render(
    layout: Layout, box: Box, *, seed: int, mpp: float, background: str, stain: Stain, focus: Focus | None = None
) -> npt.NDArray[np.uint8]:
    """Return the pixels of a box, ``(h, w, 3)`` uint8.

    A pixel's value does not depend on the box it is drawn in.

    Parameters
    ----------
    box
        Level-0 pixels; its corners must be multiples of ``GRAIN_PX``.
    focus
        None is sharp everywhere.
    """
    things = list(layout.within(box.x0 * mpp, box.y0 * mpp, box.x1 * mpp, box.y1 * mpp))
    return render_things(things, box, seed=seed, mpp=mpp, background=background, stain=stain, focus=focus)


def render_things(
    things: Sequence[Placed],
    box: Box,
    *,
    seed: int,
    mpp: float,
    background: str,
    stain: Stain,
    focus: Focus | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the pixels of a box that ``things``, all that reach into it, lie in; see :func:`render`."""
    blur = None if focus is None or (not things and background == "glass") else _blur_px(focus, box, seed, mpp)
    if blur is None:
        canvas = _draw(things, box, seed=seed, mpp=mpp, background=background, stain=stain)
    else:
        grown = Box(x0=box.x0 - _PAD_PX, y0=box.y0 - _PAD_PX, x1=box.x1 + _PAD_PX, y1=box.y1 + _PAD_PX)
        canvas = _draw(things, grown, seed=seed, mpp=mpp, background=background, stain=stain)
        canvas = _defocus(canvas, blur)[_PAD_PX:-_PAD_PX, _PAD_PX:-_PAD_PX]
    return np.asarray(_expose(canvas, _grain(seed, box)), dtype=np.uint8)


def _draw(
    things: Sequence[Placed], box: Box, *, seed: int, mpp: float, background: str, stain: Stain
) -> npt.NDArray[np.float32]:
    """Return glass or tissue with its cells, ``(h, w, 3)`` float32, before lens and camera."""
    x_um = (np.arange(box.x0, box.x1) + 0.5) * mpp
    y_um = (np.arange(box.y0, box.y1) + 0.5) * mpp
    light = 1.0 + 0.012 * smooth_noise(seed, _PURPOSE_LIGHT, x_um, y_um, 700.0)
    canvas = light[..., None].astype(np.float32) * np.asarray(stain.glass, dtype=np.float32)
    if background == "tissue":
        ground = _stroma(seed, x_um, y_um)
        for thing in things:
            if thing.sprite is None:
                _carve_fat(ground, thing, seed, x_um, y_um)
            elif not thing.sprite.nucleus_um:  # a drawn megakaryocyte brings its own
                x, y = thing.position_px(mpp)
                amount = (0.30 if thing.sprite.kind == "nucleus" else 0.55) * thing.gain
                _add_cytoplasm(ground, x - box.x0, y - box.y0, thing.radius_um / mpp, amount)
        canvas *= np.power(10.0, -ground[..., None] * _STROMA_OD.astype(np.float32))
    for thing in things:
        if thing.sprite is not None:
            x, y = thing.position_px(mpp)
            multiply_into(
                canvas,
                thing.sprite,
                x - box.x0,
                y - box.y0,
                angle=thing.angle,
                flip=thing.flip,
                gain=thing.gain * stain.gain,
                mpp=mpp,
            )
    return canvas


def _blur_px(focus: Focus, box: Box, seed: int, mpp: float) -> npt.NDArray[np.float32] | None:
    """Return the blur of every pixel of the padded box, standard deviation in pixels; None where there is none."""
    x_um = (np.arange(box.x0 - _PAD_PX, box.x1 + _PAD_PX) + 0.5) * mpp
    y_um = (np.arange(box.y0 - _PAD_PX, box.y1 + _PAD_PX) + 0.5) * mpp
    patches = np.clip(smooth_noise(seed, _PURPOSE_FOCUS, x_um, y_um, _PATCH_WAVELENGTH_UM) * 2.5 - 1.0, 0, 1)
    sigma = (focus.base_um + focus.patch_um * patches) / mpp
    return np.minimum(sigma, _BLURS_PX[-1]).astype(np.float32) if sigma.max() > 0.05 else None


def _defocus(canvas: npt.NDArray[np.float32], sigma: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Blur by a smooth map: between the two blurs of a ladder that enclose a pixel's, it is mixed linearly."""
    rungs = np.array(_BLURS_PX, dtype=np.float32)
    first = int(np.searchsorted(rungs, sigma.min(), side="right")) - 1
    last = min(int(np.searchsorted(rungs, sigma.max(), side="right")), len(rungs) - 1)
    first = min(first, last - 1)
    soft = [canvas if rung == 0 else _gauss(canvas, rung) for rung in _BLURS_PX[first : last + 1]]
    out = np.empty_like(canvas)
    for i in range(len(soft) - 1):
        _mix(out, soft[i], soft[i + 1], sigma, rungs[first + i], rungs[first + i + 1], first + i + 2 == len(rungs))
    return out


def _gauss(canvas: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    taps = 2 * min(math.ceil(_BLUR_REACH * sigma), _PAD_PX - 2) + 1
    return np.asarray(cv2.GaussianBlur(canvas, (taps, taps), sigma), dtype=np.float32)


@numba.njit(cache=True, nogil=True)
def _mix(
    out: np.ndarray, soft: np.ndarray, softer: np.ndarray, sigma: np.ndarray, below: float, above: float, is_last: bool
) -> None:
    """Write the mixture of two blurs where the blur wanted lies between theirs."""
    span = above - below
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            wanted = sigma[y, x]
            if wanted < below or (wanted >= above and not is_last):
                continue
            share = min((wanted - below) / span, np.float32(1.0))
            for c in range(3):
                out[y, x, c] = soft[y, x, c] + (softer[y, x, c] - soft[y, x, c]) * share


@numba.njit(cache=True, nogil=True)
def _expose(canvas: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Return canvas and grain together as the camera stores them, uint8."""
    pixels = np.empty(canvas.shape, dtype=np.uint8)
    for y in range(canvas.shape[0]):
        for x in range(canvas.shape[1]):
            for c in range(3):
                pixels[y, x, c] = np.uint8(min(max(np.rint(canvas[y, x, c] + grain[y, x, c]), 0.0), 255.0))
    return pixels


def _stroma(seed: int, x_um: FloatArray, y_um: FloatArray) -> npt.NDArray[np.float32]:
    """Return the amount of ground substance, ``(h, w)``, about 0.2 to 0.8, cloudy at several scales."""
    amount = np.full((len(y_um), len(x_um)), 0.42)
    for i, (wavelength, strength) in enumerate(((60.0, 0.16), (17.0, 0.12), (6.0, 0.09), (2.2, 0.06))):
        amount += strength * smooth_noise(seed, _PURPOSE_STROMA + i, x_um, y_um, wavelength)
    return np.clip(amount, 0.0, None).astype(np.float32)


def _carve_fat(
    ground: npt.NDArray[np.float32],
    fat: Placed,
    seed: int,
    x_um: FloatArray,
    y_um: FloatArray,
) -> None:
    """Empty a fat cell: no ground substance inside, a thin darker membrane."""
    cx, cy, radius, angle = fat.x_um, fat.y_um, fat.radius_um, fat.angle
    reach = radius * 1.2 + 3.0
    columns = np.flatnonzero(np.abs(x_um - cx) < reach)
    rows = np.flatnonzero(np.abs(y_um - cy) < reach)
    if not len(columns) or not len(rows):
        return
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    dx, dy = x_um[columns][None, :] - cx, y_um[rows][:, None] - cy
    theta = np.arctan2(dy, dx) - angle
    edge = radius * (0.94 + 0.06 * np.cos(2 * theta) + 0.025 * np.cos(3 * theta + 7.0 * angle))
    depth = np.hypot(dx, dy) - edge
    inside = 1.0 / (1.0 + np.exp(np.clip(depth / 0.35, -40, 40)))
    membrane = np.exp(-((depth / 0.7) ** 2)) * (0.45 + 0.25 * smooth_noise(seed, 30, x_um[columns], y_um[rows], 9.0))
    ground[part] = (ground[part] * (1.0 - inside) + membrane).astype(np.float32)


def _add_cytoplasm(ground: npt.NDArray[np.float32], cx: float, cy: float, radius_px: float, amount: float) -> None:
    """Add the soft cytoplasm around a nucleus that a section shows without clear borders."""
    sigma = radius_px * 0.75
    reach = math.ceil(3.0 * sigma)
    x0, x1 = max(0, math.floor(cx) - reach), min(ground.shape[1], math.floor(cx) + reach + 1)
    y0, y1 = max(0, math.floor(cy) - reach), min(ground.shape[0], math.floor(cy) + reach + 1)
    if x0 >= x1 or y0 >= y1:
        return
    gx = np.exp(-0.5 * ((np.arange(x0, x1) + 0.5 - cx) / sigma) ** 2).astype(np.float32)
    gy = np.exp(-0.5 * ((np.arange(y0, y1) + 0.5 - cy) / sigma) ** 2).astype(np.float32)
    ground[y0:y1, x0:x1] += np.float32(amount) * gy[:, None] * gx[None, :]


def _grain(seed: int, box: Box) -> npt.NDArray[np.float32]:
    """Return sensor noise of a box: pieces of one field of noise, at places keyed by the blocks they lie in."""
    field = _noise_field(seed)
    grain = np.empty((box.height, box.width, 3), dtype=np.float32)
    for y in range(box.y0, box.y1, GRAIN_PX):
        for x in range(box.x0, box.x1, GRAIN_PX):
            rng = keyed_generator(seed, _PURPOSE_GRAIN, x // GRAIN_PX, y // GRAIN_PX)
            dy, dx = rng.integers(0, GRAIN_PX, 2)
            block = field[dy : dy + GRAIN_PX, dx : dx + GRAIN_PX]
            part = grain[y - box.y0 : y - box.y0 + GRAIN_PX, x - box.x0 : x - box.x0 + GRAIN_PX]
            part[...] = block[: part.shape[0], : part.shape[1]]
    return grain


@lru_cache(maxsize=2)
def _noise_field(seed: int) -> npt.NDArray[np.float32]:
    rng = keyed_generator(seed, _PURPOSE_GRAIN + 1, 0, 0)
    return rng.standard_normal((2 * GRAIN_PX, 2 * GRAIN_PX, 3), dtype=np.float32) * np.float32(_GRAIN_SIGMA)
