"""OME-Zarr metadata (NGFF 0.1 to 0.5 on Zarr 2 and 3), checked before anything is allocated or decoded from it.

The metadata is read here and not by ``zarr``, because it is not trusted: paths must stay inside the slide's folder,
shapes and chunks must be believable, and only known codecs are let through (numcodecs would run a pickle).

References
----------
OME-NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_pipeline.errors import NotBrightfieldError, UnreadableSlideError, UnsupportedFormatError
from wsi_pipeline.slides.backends.base import MAX_LEVELS, MAX_SIDE_PX, check_level_sizes
from wsi_pipeline.slides.formats import MAX_TILE_BYTES

_MARKS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_MAX_JSON_BYTES = 16 * 2**20
_MAX_IMAGES = 256
_LEAST_CHUNK_AREA_PX = 256
_AXES = "tczyx"
_CODECS_2 = frozenset(("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd"))
_CODECS_3 = frozenset(("bytes", "transpose", "blosc", "gzip", "zstd", "crc32c"))
_UNIT_UM = {
    "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ZarrLevel:
    """One array of a pyramid.

    Attributes
    ----------
    key
        Its path inside the slide's folder.
    zarr_format
        2 or 3.
    shape, chunks
        In the order of the image's axes; of a sharded array the chunks inside a shard.
    dtype
        As the metadata writes it.
    """

    key: str
    zarr_format: Literal[2, 3]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ZarrImage:
    """One ``multiscales`` entry: its axes (of ``tczyx``), its levels as listed, microns per pixel in x and y."""

    axes: str
    levels: tuple[ZarrLevel, ...]
    mpp: tuple[float, float] | None

    def along(self, axis: str, level: int = 0) -> int:
        """Return the size of a level along ``axis``; 1 where the image has no such axis."""
        return self.levels[level].shape[self.axes.index(axis)] if axis in self.axes else 1

    def chunk_along(self, axis: str, level: int) -> int:
        return self.levels[level].chunks[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level."""
        return tuple((self.along("x", level), self.along("y", level)) for level in range(len(self.levels)))


def is_zarr(path: Path) -> bool:
    """Tell whether a folder carries Zarr metadata."""
    return path.is_dir() and any((path / name).is_file() for name in _MARKS)


def resolve_inside(folder: Path, key: str) -> str:
    """Return the real path of ``key``, which is a file or folder inside ``folder``.

    Raises
    ------
    UnreadableSlideError
        It leads out of the folder: by ``..``, as an absolute path, or through a symbolic link.
    """
    parts = key.split("/")
    outside = not key or any(part in ("", ".", "..") for part in parts) or not key.isprintable() or "\\" in key
    if not outside:
        root = os.path.realpath(folder)
        real = os.path.realpath(os.path.join(root, key))
        if real.startswith(root + os.sep):
            return real
    raise UnreadableSlideError(f"{folder}: the path {key[:200]!r} leads out of the slide's folder")


def read_images(folder: Path) -> tuple[ZarrImage, ...]:
    """Return the images of an OME-Zarr folder, each checked; of bioformats2raw's layout every series.

    Raises
    ------
    UnsupportedFormatError
        The folder holds no image: a plate, a label image, or arrays without ``multiscales``.
    UnreadableSlideError
        Metadata that is missing, damaged or not believable.
    """
    attributes = _attributes(folder, "")
    if attributes is None:
        raise UnsupportedFormatError(f"{folder}: a folder without the metadata of a Zarr group; OME-Zarr needs one")
    if "image-label" in attributes:
        raise UnsupportedFormatError(f"{folder}: an OME-Zarr label image; name the image that the labels belong to")
    if "plate" in attributes or "well" in attributes:
        raise UnsupportedFormatError(f"{folder}: an OME-Zarr plate or well; name the folder of one image inside it")
    images = list(_multiscales(folder, "", attributes))
    if not images and "bioformats2raw.layout" in attributes:
        for name in _series(folder):
            inside = _attributes(folder, name)
            if inside is None:
                raise UnreadableSlideError(f"{folder}: the image {name[:80]!r} that its metadata names is not there")
            images += _multiscales(folder, name, inside)
            if len(images) > _MAX_IMAGES:
                break
    if not images:
        raise UnsupportedFormatError(f"{folder}: a Zarr folder without OME-Zarr 'multiscales'; there is no image in it")
    if len(images) > _MAX_IMAGES:
        raise UnreadableSlideError(f"{folder}: more than {_MAX_IMAGES} images found")
    return tuple(images)


def check_brightfield(folder: Path, image: ZarrImage) -> None:
    """Refuse what is not one 8-bit colour image; focal planes (z) are left to the caller.

    Raises
    ------
    NotBrightfieldError
        Not 8-bit, or not 3 or 4 channels.
    UnsupportedFormatError
        Several points in time.
    """
    for level, array in enumerate(image.levels):
        if array.dtype.lstrip("|<>") not in ("u1", "uint8"):
            raise NotBrightfieldError(f"{folder}: {array.dtype} samples found (level {level}); the models need 8-bit")
        channels = image.along("c", level)
        if channels not in (3, 4):
            raise NotBrightfieldError(
                f"{folder}: {channels} channel(s) found (level {level}); the models need 8-bit RGB, "
                "not greyscale or fluorescence channels"
            )
        if image.along("t", level) != 1:
            raise UnsupportedFormatError(f"{folder}: {image.along('t', level)} points in time; a slide has one")


def metadata_files(folder: Path, images: Sequence[ZarrImage]) -> list[str]:
    """Return the metadata files (keys, sorted) that there are of the folder, its images and their arrays."""
    nodes = {""}
    for image in images:
        for level in image.levels:
            parts = level.key.split("/")
            nodes |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    keys = (f"{node}/{name}" if node else name for node in nodes for name in _MARKS)
    return sorted(key for key in keys if os.path.isfile(resolve_inside(folder, key)))


def read_metadata(folder: Path, key: str) -> bytes | None:
    """Return the bytes of a metadata file, or None when there is none.

    Raises
    ------
    UnreadableSlideError
        It leads out of the folder, cannot be read, or is no file of at most 16 MiB.
    """
    file = resolve_inside(folder, key)
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JSON_BYTES:
            raise UnreadableSlideError(f"{folder}: {key} is no metadata file of at most {_MAX_JSON_BYTES >> 20} MiB")
        return Path(file).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(f"{folder}: {key} cannot be read ({error.strerror})") from None


def _read_json(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the JSON object of a metadata file, or None when there is none."""
    content = read_metadata(folder, key)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableSlideError(f"{folder}: {key} is no valid JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise UnreadableSlideError(f"{folder}: {key} holds no JSON object")
    return found


def _attributes(folder: Path, group: str) -> dict[str, Any] | None:
    """Return the OME attributes of a group of either Zarr format, or None when it is no group."""
    prefix = f"{group}/" if group else ""
    node = _read_json(folder, f"{prefix}zarr.json")
    if node is not None:
        attributes = node.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        ome = attributes.get("ome")
        return ome if isinstance(ome, dict) else attributes
    attributes = _read_json(folder, f"{prefix}.zattrs")
    if attributes is None and _read_json(folder, f"{prefix}.zgroup") is not None:
        return {}
    return attributes


def _series(folder: Path) -> Iterator[str]:
    """Yield the folders of the images of bioformats2raw's layout, as listed or else numbered."""
    listed = (_attributes(folder, "OME") or {}).get("series")
    if isinstance(listed, list):
        yield from (str(name) for name in listed)
        return
    for number in range(_MAX_IMAGES + 1):
        if _attributes(folder, str(number)) is None:
            return
        yield str(number)


def _multiscales(folder: Path, group: str, attributes: Mapping[str, Any]) -> Iterator[ZarrImage]:
    listed = attributes.get("multiscales")
    if listed is None:
        return
    if not isinstance(listed, list):
        raise UnreadableSlideError(f"{folder}: 'multiscales' is no list")
    for entry in listed[: _MAX_IMAGES + 1]:
        datasets = entry.get("datasets") if isinstance(entry, dict) else None
        if not isinstance(datasets, list) or not 1 <= len(datasets) <= MAX_LEVELS:
            raise UnreadableSlideError(f"{folder}: 'multiscales' without 1 to {MAX_LEVELS} 'datasets'")
        levels = []
        for dataset in datasets:
            path = dataset.get("path") if isinstance(dataset, dict) else None
            if not isinstance(path, str):
                raise UnreadableSlideError(f"{folder}: a level without a path in 'datasets'")
            levels.append(_level(folder, f"{group}/{path}" if group else path))
        names, units = _axes(folder, entry.get("axes"), len(levels[0].shape))
        image = ZarrImage(axes=names, levels=tuple(levels), mpp=_mpp(entry, datasets[0], names, units))
        _check_shapes(folder, image)
        yield image


def _axes(folder: Path, listed: Any, ndim: int) -> tuple[str, dict[str, float | None]]:
    """Return the axes, one letter each, and the unit of each in micrometres."""
    if listed is None:
        listed = list(_AXES)[-ndim:]  # NGFF 0.1 and 0.2
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in listed] if isinstance(listed, list) else []
    names = [axis.get("name") for axis in axes]
    known = len(names) == len(set(map(str, names))) == ndim and all(name in tuple(_AXES) for name in names)
    if not known or not {"x", "y"} <= set(names):
        raise UnsupportedFormatError(
            f"{folder}: axes {str(names)[:120]} of an array with {ndim}; read are x, y and any of t, c and z"
        )
    return "".join(str(name) for name in names), {axis["name"]: _UNIT_UM.get(str(axis.get("unit"))) for axis in axes}


def _mpp(
    entry: Mapping[str, Any], finest: Mapping[str, Any], axes: str, units: Mapping[str, float | None]
) -> tuple[float, float] | None:
    """Return the scale of the finest level in micrometres; None where the scale or its unit is not stated."""
    own = _scale(finest, len(axes))
    if own is None:
        return None
    common = _scale(entry, len(axes)) or [1.0] * len(axes)
    unit_x, unit_y = units.get("x"), units.get("y")
    if unit_x is None or unit_y is None:
        return None
    x, y = axes.index("x"), axes.index("y")
    return own[x] * common[x] * unit_x, own[y] * common[y] * unit_y


def _scale(holder: Mapping[str, Any], ndim: int) -> list[float] | None:
    steps = holder.get("coordinateTransformations")
    for step in steps if isinstance(steps, list) else ():
        values = step.get("scale") if isinstance(step, dict) and step.get("type") == "scale" else None
        if isinstance(values, list) and len(values) == ndim:
            numbers = [float(v) if isinstance(v, int | float) and abs(v) < 1e100 else math.nan for v in values]
            return numbers
    return None


def _level(folder: Path, key: str) -> ZarrLevel:
    three = _read_json(folder, f"{key}/zarr.json")
    if three is not None:
        shape, chunks, codecs = three.get("shape"), _grid(folder, key, three), three.get("codecs")
        inner = _check_codecs_3(folder, key, codecs, chunks)
        return ZarrLevel(
            key=key,
            zarr_format=3,
            shape=_sizes(folder, key, "shape", shape),
            chunks=inner,
            dtype=str(three.get("data_type"))[:40],
        )
    two = _read_json(folder, f"{key}/.zarray")
    if two is None:
        raise UnreadableSlideError(f"{folder}: the level {key[:200]!r} that its metadata names is not there")
    compressor = two.get("compressor")
    filters = two.get("filters")
    used = [compressor] * (compressor is not None) + (
        filters if isinstance(filters, list) else [filters] * bool(filters)
    )
    for codec in used:
        _check_codec(folder, key, codec.get("id") if isinstance(codec, dict) else codec, _CODECS_2)
    return ZarrLevel(
        key=key,
        zarr_format=2,
        shape=_sizes(folder, key, "shape", two.get("shape")),
        chunks=_sizes(folder, key, "chunks", two.get("chunks")),
        dtype=str(two.get("dtype"))[:40],
    )


def _grid(folder: Path, key: str, node: Mapping[str, Any]) -> tuple[int, ...]:
    grid = node.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not isinstance(grid.get("configuration"), dict):
        raise UnsupportedFormatError(f"{folder}: {key[:200]} has no regular grid of chunks")
    return _sizes(folder, key, "chunks", grid["configuration"].get("chunk_shape"))


def _check_codecs_3(folder: Path, key: str, codecs: Any, chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the chunks that are decoded one by one: those inside the shards, where there are shards."""
    if not isinstance(codecs, list) or _not_objects(codecs):
        raise UnreadableSlideError(f"{folder}: {key[:200]} has no list of codecs")
    if len(codecs) == 1 and codecs[0].get("name") == "sharding_indexed":
        inside = codecs[0].get("configuration")
        if not isinstance(inside, dict):
            raise UnreadableSlideError(f"{folder}: {key[:200]} has shards without a configuration")
        inner = _sizes(folder, key, "chunks", inside.get("chunk_shape"))
        for name in ("codecs", "index_codecs"):
            listed = inside.get(name)
            if not isinstance(listed, list) or _not_objects(listed):
                raise UnreadableSlideError(f"{folder}: {key[:200]} has shards without {name}")
            for codec in listed:
                _check_codec(folder, key, codec.get("name"), _CODECS_3)
        if len(inner) != len(chunks) or any(outer % one for outer, one in zip(chunks, inner, strict=True)):
            raise UnreadableSlideError(f"{folder}: {key[:200]} has shards of {chunks} and chunks of {inner} in them")
        return inner
    for codec in codecs:
        _check_codec(folder, key, codec.get("name"), _CODECS_3)
    return chunks


def _not_objects(codecs: list[Any]) -> bool:
    return not codecs or not all(isinstance(codec, dict) for codec in codecs)


def _check_codec(folder: Path, key: str, name: Any, known: frozenset[str]) -> None:
    if not isinstance(name, str) or name not in known:
        raise UnsupportedFormatError(
            f"{folder}: {key[:200]} is compressed with {str(name)[:60]!r}; read are {', '.join(sorted(known))}"
        )


def _sizes(folder: Path, key: str, what: str, values: Any) -> tuple[int, ...]:
    good = isinstance(values, list) and 2 <= len(values) <= len(_AXES)
    if not good or not all(type(value) is int and 1 <= value <= MAX_SIDE_PX for value in values):
        raise UnreadableSlideError(
            f"{folder}: {key[:200]} claims {what} {str(values)[:120]}; needed are 2 to {len(_AXES)} whole numbers "
            f"from 1 to {MAX_SIDE_PX:,}"
        )
    return tuple(values)


def _check_shapes(folder: Path, image: ZarrImage) -> None:
    check_level_sizes(folder, image.level_sizes)
    for level, array in enumerate(image.levels):
        if len(array.shape) != len(image.axes) or len(array.chunks) != len(image.axes):
            raise UnreadableSlideError(
                f"{folder}: {array.key[:200]} has shape {array.shape} and chunks {array.chunks} for axes {image.axes}"
            )
        width, height = (image.chunk_along(axis, level) for axis in "xy")
        others = math.prod(array.chunks) // (width * height)
        if math.prod(array.chunks) > MAX_TILE_BYTES or width * height * max(others, 4) > MAX_TILE_BYTES:
            raise UnreadableSlideError(f"{folder}: {array.key[:200]} claims chunks of {array.chunks}, over 1 GiB each")
        size = image.level_sizes[level]
        if width * height < min(_LEAST_CHUNK_AREA_PX, size[0] * size[1]):
            raise UnreadableSlideError(
                f"{folder}: {array.key[:200]} claims chunks of {width} x {height} pixels; that is no image pyramid"
            )
    ordered = sorted(image.level_sizes, reverse=True)
    if list(image.level_sizes) != ordered or [h for _, h in ordered] != sorted((h for _, h in ordered), reverse=True):
        raise UnreadableSlideError(f"{folder}: its levels are {image.level_sizes}; the finest must come first")
