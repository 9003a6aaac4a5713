"""What label and image pyramids of OME-NGFF 0.5 share: levels, squares of work, shards, the swap at the end."""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.units import Box

NGFF_VERSION = "0.5"
CHUNK_PX = 512
SHARD_PX = 4096
"""Side of the square worked on at once; one file of each level."""

_SMALLEST_LEVEL_PX = 512


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return (height, width) of each level: halves, rounded up, until the longer side is at most 512 pixels."""
    shapes = [(height, width)]
    while max(shapes[-1]) > _SMALLEST_LEVEL_PX:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return shapes


def squares(shape: Sequence[int]) -> Iterator[Box]:
    """Yield the squares of work of a level of (height, width), in raster order; each is one shard."""
    for y in range(0, shape[0], SHARD_PX):
        for x in range(0, shape[1], SHARD_PX):
            yield Box(x0=x, y0=y, x1=min(x + SHARD_PX, shape[1]), y1=min(y + SHARD_PX, shape[0]))


def create_level(
    group: Any, path: str, shape: tuple[int, int], *, dtype: str, fill: int, channels: int | None = None
) -> Any:
    """Create the array of a level: ``(y, x)``, or ``(c, y, x)`` with all channels of a place in one chunk."""
    from zarr.codecs import BloscCodec

    # A shard is one file, so a large slide stays at hundreds of files; small levels need no shards.
    shard = min(SHARD_PX, CHUNK_PX * math.ceil(max(shape) / CHUNK_PX))
    first = () if channels is None else (channels,)
    size = np.dtype(dtype).itemsize
    return group.create_array(
        path,
        shape=(*first, *shape),
        dtype=dtype,
        chunks=(*first, CHUNK_PX, CHUNK_PX),
        shards=(*first, shard, shard),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=size),
        fill_value=fill,
        dimension_names=("y", "x") if channels is None else ("c", "y", "x"),
    )


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out`` that takes its place when the block succeeds.

    A killed process leaves only a folder ending in ``.tmp``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name[:150]}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, out: Path) -> None:
    """Put a finished folder in place; a folder cannot replace a filled one in one step."""
    old = temporary.with_name(f"{temporary.name[:-4]}.old.tmp")
    if out.exists():
        os.rename(out, old)
    os.rename(temporary, out)
    shutil.rmtree(old, ignore_errors=True)
