"""OME-Zarr: chunks of a folder, decoded by ``zarr`` from metadata that was checked first."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from wsi_pipeline.errors import CorruptTileError, UnreadableSlideError
from wsi_pipeline.slides.backends.base import RgbArray, chosen_of, composite_on_white, plane_note, short_reason
from wsi_pipeline.slides.formats import MAX_TILE_BYTES
from wsi_pipeline.slides.ngff import ZarrImage, check_brightfield, read_images, resolve_inside
from wsi_pipeline.units import Box

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

# Smaller chunks are gathered into lattice chunks of at least this side.
_LEAST_CHUNK_PX = 240


class ZarrBackend:
    """One image of an OME-Zarr folder; one instance serves all threads.

    Chunks that are not there hold the array's fill value, as Zarr has it.

    Parameters
    ----------
    path
        The folder.
    scene, z_plane
        Which image and focal plane of a folder with several, from 0; by default the largest and the middle one.

    Raises
    ------
    ConfigError
        There is no such scene or plane.
    NotBrightfieldError
        Not 8-bit RGB or RGBA.
    UnsupportedFormatError
        No image, or an image of axes or codecs that are not read.
    UnreadableSlideError
        Metadata that is damaged or not believable.
    """

    name = "zarr"
    thread_safe = True
    vendor = "ome-zarr"

    def __init__(self, path: Path, *, scene: int | None = None, z_plane: int | None = None) -> None:
        self._path = path
        images = read_images(path)
        areas = [image.along("x") * image.along("y") for image in images]
        number = chosen_of(path, "scene", scene, len(images), otherwise=areas.index(max(areas)))
        image = self._image = images[number]
        check_brightfield(path, image)
        depth = image.along("z")
        self._plane = chosen_of(path, "z_plane", z_plane, depth, otherwise=depth // 2)
        self.plane = plane_note(scene=number, scenes=len(images), z=self._plane, depth=depth)
        self.level_sizes = image.level_sizes
        self.chunk_sizes: tuple[tuple[int, int], ...] | None = tuple(
            _lattice_chunk(image, level) for level in range(len(image.levels))
        )
        self.mpp = image.mpp
        self.objective: float | None = None
        self.properties: Mapping[str, str] = {"ome-zarr.zarr-format": str(image.levels[0].zarr_format)}
        self.bounds: Box | None = None
        store = _GuardedStore(path, read_only=True)
        self._arrays = [_open_array(path, store, image, level) for level in range(len(image.levels))]

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        image = self._image
        width, height, thick = (image.chunk_along(axis, level) for axis in "xyc")
        channels = image.along("c", level)
        out = np.empty((chunk.height, chunk.width, channels), np.uint8)
        # The array's own chunks one by one: where one of several read at once fails, zarr leaves the others behind as
        # tasks, which complain when the program ends; and so the damaged one is known.
        for row in range(chunk.y0 // height, -(-chunk.y1 // height)):
            for column in range(chunk.x0 // width, -(-chunk.x1 // width)):
                x, y = column * width, row * height
                part = Box(x0=x, y0=y, x1=x + width, y1=y + height).clip(chunk)
                target = out[part.y0 - chunk.y0 : part.y1 - chunk.y0, part.x0 - chunk.x0 : part.x1 - chunk.x0]
                for first in range(0, channels, thick):
                    wanted = slice(first, min(first + thick, channels))
                    try:
                        target[..., wanted] = self._pixels(level, part, wanted)
                    except Exception as error:  # noqa: BLE001  # every codec fails in its own way
                        raise CorruptTileError(
                            f"{self._path}: level {level}, chunk {column}, {row} (pixels x {x}-{x + width}, "
                            f"y {y}-{y + height}) cannot be decoded: {short_reason(error)}"
                        ) from None
        return composite_on_white(out)

    def _pixels(self, level: int, part: Box, channels: slice) -> npt.NDArray[np.uint8]:
        image = self._image
        depth = image.along("z", level)
        where: dict[str, int | slice] = {
            "t": 0,
            "z": min(self._plane * depth // image.along("z"), depth - 1),
            "c": channels,
            "y": slice(part.y0, part.y1),
            "x": slice(part.x0, part.x1),
        }
        kept = "".join(axis for axis in image.axes if axis in "cyx")
        found = np.asarray(self._arrays[level][tuple(where[axis] for axis in image.axes)])
        return found.transpose([kept.index(axis) for axis in "yxc"])

    def close(self) -> None:
        """Keep nothing open: files are opened chunk by chunk."""


class _GuardedStore(LocalStore):
    """A folder whose keys may not lead out of it, nor to anything but files of a bounded size."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        self._check(key)
        return await super().get(key, prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        self._check(key)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    def _check(self, key: str) -> None:
        try:
            status = os.stat(resolve_inside(self.root, key))
        except (FileNotFoundError, NotADirectoryError):
            return
        if not stat.S_ISREG(status.st_mode) or status.st_size > 2 * MAX_TILE_BYTES:
            raise UnreadableSlideError(f"{key} is not a file of at most 2 GiB")


def _lattice_chunk(image: ZarrImage, level: int) -> tuple[int, int]:
    width, height = (
        side * math.ceil(_LEAST_CHUNK_PX / side)
        for side in (image.chunk_along("x", level), image.chunk_along("y", level))
    )
    return width, height


def _open_array(path: Path, store: LocalStore, image: ZarrImage, level: int) -> Any:
    wanted = image.levels[level]
    try:
        array = zarr.open_array(store, path=wanted.key, mode="r", zarr_format=wanted.zarr_format)
    except Exception as error:  # noqa: BLE001  # zarr raises whatever damaged metadata makes it
        raise UnreadableSlideError(f"{path}: zarr cannot open {wanted.key[:200]}: {short_reason(error)}") from None
    if array.shape != wanted.shape or array.dtype != np.uint8:
        raise UnreadableSlideError(f"{path}: {wanted.key[:200]} changed while it was opened")
    return array
