"""What every reading backend offers: native levels, metadata, and whole chunks of native pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError, UnreadableSlideError
from wsi_pipeline.units import Box

RgbArray = npt.NDArray[np.uint8]
"""uint8 pixels, shape (height, width, 3)."""

MAX_SIDE_PX = 10_000_000
"""Largest believable side of a slide; beyond it the header is damaged or hostile."""

MAX_LEVELS = 64


class Backend(Protocol):
    """One open handle on a slide; used by one thread at a time."""

    name: str
    thread_safe: bool
    """Whether one instance serves all threads; otherwise each thread borrows its own."""
    vendor: str
    level_sizes: tuple[tuple[int, int], ...]
    """Width and height of each native level, finest first."""
    mpp: tuple[float, float] | None
    """Microns per level-0 pixel in x and y as the slide states it, never derived from a magnification."""
    objective: float | None
    properties: Mapping[str, str]
    """Technical properties that carry nothing about the patient."""
    bounds: Box | None
    """The scanned part in level-0 pixels, where the scanner states one."""
    plane: str
    """Which scene and focal plane is read, where the file has several; else empty."""
    chunk_sizes: tuple[tuple[int, int], ...] | None
    """Width and height of the chunks in which each level is best read; None where any will do."""

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        """Return the pixels of ``chunk`` (level pixels, inside the level), transparent ones over white.

        Raises
        ------
        CorruptTileError
            The pixels cannot be decoded. A handle that is not ``thread_safe`` must not be used afterwards.
        """
        ...

    def close(self) -> None: ...


def check_level_sizes(path: object, sizes: tuple[tuple[int, int], ...]) -> None:
    """Refuse dimensions that no scanner makes, before anything is allocated from them.

    Raises
    ------
    UnreadableSlideError
        No level, too many levels, or a side that is not between 1 and ``MAX_SIDE_PX``.
    """
    if not 1 <= len(sizes) <= MAX_LEVELS:
        raise UnreadableSlideError(f"{path}: {len(sizes)} resolution levels found; a slide has 1 to {MAX_LEVELS}")
    for level, (width, height) in enumerate(sizes):
        if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
            raise UnreadableSlideError(
                f"{path}: level {level} claims {width} x {height} pixels; sides must be 1 to {MAX_SIDE_PX:,}"
            )


def composite_on_white(pixels: RgbArray) -> RgbArray:
    """Return RGB from RGB or RGBA pixels of shape (h, w, 3 or 4), transparent parts over white."""
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    alpha = pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    opacity = alpha.astype(np.uint32)
    blended = (pixels[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255
    return blended.astype(np.uint8)


def chosen_of(path: object, setting: str, asked: int | None, there: int, *, otherwise: int) -> int:
    """Return which of ``there`` scenes or focal planes is read: the one asked for, counted from 0, or ``otherwise``.

    Raises
    ------
    ConfigError
        The one asked for does not exist.
    """
    if asked is None:
        return otherwise
    if asked >= there:
        raise ConfigError(f"{path}: slides.{setting} is {asked}, and the file has {there}, counted from 0")
    return asked


def plane_note(*, scene: int, scenes: int, z: int, depth: int) -> str:
    """Return which scene and focal plane is read, where there are several; else nothing."""
    return ", ".join([f"scene {scene} of {scenes}"] * (scenes > 1) + [f"z {z} of {depth}"] * (depth > 1))


def short_reason(error: Exception) -> str:
    """Return one line of what a reading library complained of."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
