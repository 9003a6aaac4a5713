"""The header of a JPEG 2000 file (JP2): size, samples, colour space and resolution, without decoding.

References
----------
ISO/IEC 15444-1, Annex I (JP2 file format syntax).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import UnreadableSlideError

_MAX_HEADER_BYTES = 2**20
_SRGB = 16


@dataclass(frozen=True, kw_only=True)
class Jp2Header:
    """What a JP2 file states of its image.

    Attributes
    ----------
    width, height, samples, bits
        Size in pixels, samples a pixel, and bits a sample (0 where they differ between samples).
    is_rgb
        The colour space is sRGB, or a profile and not one of JP2's own.
    mpp
        Microns per pixel in x and y by the capture resolution, or None.
    """

    width: int
    height: int
    samples: int
    bits: int
    is_rgb: bool
    mpp: tuple[float, float] | None


def read_jp2_header(path: Path) -> Jp2Header:
    """Return the header of a JP2 file.

    Raises
    ------
    UnreadableSlideError
        The header is cut off or damaged, or the pixels claim another size than it does.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_HEADER_BYTES)
    try:
        inside = dict(_boxes(dict(_boxes(data))[b"jp2h"]))
        height, width, samples, bits = struct.unpack_from(">IIHB", inside[b"ihdr"])
        method, _, _ = struct.unpack_from(">BBB", inside.get(b"colr", b"\2\0\0"))
        is_rgb = method != 1 or struct.unpack_from(">I", inside[b"colr"], 3)[0] == _SRGB
        resolution = dict(_boxes(inside.get(b"res ", b""))).get(b"resc")
        mpp = None if resolution is None else _mpp(resolution)
        # The decoder allocates by what the codestream says (markers SOC and SIZ).
        right, bottom, left, top = struct.unpack_from(">IIII", data, data.index(b"\xff\x4f\xff\x51") + 8)
    except (KeyError, ValueError, struct.error) as error:
        raise UnreadableSlideError(f"{path}: the JPEG 2000 header is cut off or damaged ({error!r})") from None
    if (right - left, bottom - top) != (width, height):
        raise UnreadableSlideError(
            f"{path}: the header says {width} x {height} pixels, the codestream {right - left} x {bottom - top}"
        )
    return Jp2Header(
        width=width,
        height=height,
        samples=samples,
        bits=0 if bits == 255 else (bits & 127) + 1,
        is_rgb=is_rgb,
        mpp=mpp,
    )


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the boxes, up to one that does not end within ``data`` (that of the pixels)."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8 or at + length > len(data):
            return
        yield kind, data[at + 8 : at + length]
        at += length


def _mpp(resolution: bytes) -> tuple[float, float] | None:
    down, down_by, across, across_by, down_power, across_power = struct.unpack_from(">HHHHbb", resolution)
    if not (down and down_by and across and across_by):
        return None
    per_metre = across / across_by * 10.0**across_power, down / down_by * 10.0**down_power
    return 1e6 / per_metre[0], 1e6 / per_metre[1]
