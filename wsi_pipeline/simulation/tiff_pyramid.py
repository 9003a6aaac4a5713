"""Write tiles of level 0 as a tiled pyramid that any reader opens; memory grows with the width, not the area."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

SIMULATED = "virtual slide (simulated"
"""How the description of every TIFF begins that this package draws."""

_DOWNSAMPLE = 4
_SMALLEST_LEVEL_PX = 1024
_BIGTIFF_ABOVE_PX = 3_000_000_000


def write_pyramid(
    path: Path,
    tiles: Iterator[npt.NDArray[np.uint8]],
    *,
    width: int,
    height: int,
    mpp: float,
    tile_px: int,
    jpeg_quality: int,
    description: str,
) -> None:
    """Write a TIFF of JPEG tiles with levels, each a quarter of the one before as wide, by box means.

    Parameters
    ----------
    tiles
        Of level 0 in raster order, uint8 of shape (tile_px, tile_px, 3).
    mpp
        Microns per pixel of level 0, which the file states.
    """
    from tifffile import TiffWriter

    sizes = _level_sizes(width, height)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as scratch,
        TiffWriter(path, bigtiff=width * height > _BIGTIFF_ABOVE_PX) as tif,
    ):
        source: BinaryIO | None = None
        for level, (across, down) in enumerate(sizes):
            below = (Path(scratch) / f"{level + 1}.rgb").open("wb+") if level + 1 < len(sizes) else None
            resolution = 1e4 / (mpp * _DOWNSAMPLE**level)
            tif.write(
                _reduced(
                    tiles if source is None else _stored_tiles(source, across, down, tile_px),
                    below,
                    across,
                    down,
                    tile_px,
                ),
                shape=(down, across, 3),
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": jpeg_quality},
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
                software="wsi_pipeline.simulation",
                description=description if level == 0 else None,
                metadata=None,
                maxworkers=1,
            )
            if source is not None:
                source.close()
            source = below


def _level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    sizes = [(width, height)]
    while max(sizes[-1]) > _SMALLEST_LEVEL_PX:
        sizes.append((-(-sizes[-1][0] // _DOWNSAMPLE), -(-sizes[-1][1] // _DOWNSAMPLE)))
    return sizes


def _reduced(
    tiles: Iterator[npt.NDArray[np.uint8]], below: BinaryIO | None, width: int, height: int, tile: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Pass tiles on and append their box means, a row of tiles at a time, to the scratch file of the next level."""
    across = -(-width // tile)
    small = tile // _DOWNSAMPLE
    small_width = -(-width // _DOWNSAMPLE)
    strip = np.empty((small, across * small, 3), dtype=np.uint8)
    for number, pixels in enumerate(tiles):
        if below is not None:
            row, column = divmod(number, across)
            part = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
            strip[:, column * small : (column + 1) * small] = part
            if column == across - 1:
                rows = min(small, -(-(height - row * tile) // _DOWNSAMPLE))
                below.write(np.ascontiguousarray(strip[:rows, :small_width]).data)
        # Last, since the writer does not come back after the tile it knows to be the last.
        yield pixels


def _stored_tiles(source: BinaryIO, width: int, height: int, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the tiles of a level from its scratch file of raw rows; what is beyond the edge repeats it."""
    source.seek(0)
    for y in range(0, height, tile):
        rows = min(tile, height - y)
        data = np.frombuffer(source.read(rows * width * 3), dtype=np.uint8).reshape(rows, width, 3)
        padded = np.pad(data, ((0, tile - rows), (0, -width % tile), (0, 0)), mode="edge")
        for x in range(0, width, tile):
            yield np.ascontiguousarray(padded[:, x : x + tile])
