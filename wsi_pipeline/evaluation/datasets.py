"""Evaluation data from folders: images with masks, images with points, one folder a class.

Images pair with masks or points by equal stem; then by stem without a trailing ``mask``, ``masks``, ``label`` or
``labels``; then by the number the stem ends in (``BloodImage_00005`` with ``BloodImage_Mask_00005``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from wsi_pipeline.taxonomies import Taxonomy

POINT_SUFFIXES = (".txt", ".csv", ".tsv")

_MASK_WORD = re.compile(r"[_-]?(cp[_-])?(masks?|labels?)$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(\d+)$")
_LINE = re.compile(r"[\s,;]+")


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """An image and the file that holds its truth."""

    name: str
    image: Path
    truth: Path


@dataclass(frozen=True, kw_only=True)
class FolderPairs:
    """The pairs of two folders, and what stayed without a partner."""

    pairs: tuple[ImagePair, ...]
    images_alone: tuple[Path, ...]
    truths_alone: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of one image: ``xy`` is ``(n, 2)`` pixels; ``classes`` one word a point, or None without a column."""

    xy: npt.NDArray[np.float64]
    classes: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One cell image and the code of its class."""

    path: Path
    label: str


def pair_folders(images: Path, truths: Path, *, truth: Literal["masks", "points"] = "masks") -> FolderPairs:
    """Pair the images of one folder with the masks or points of another, by the rules of this module.

    Raises
    ------
    DataError
        A folder is missing or empty, two files claim one partner, or nothing pairs.
    """
    if images.resolve() == truths.resolve():
        raise DataError(f"{images} is given for both images and {truth}; keep them in two folders")
    image_files = _files(images, IMAGE_SUFFIXES, "images")
    truth_files = _files(truths, MASK_SUFFIXES if truth == "masks" else POINT_SUFFIXES, truth)
    pairs: list[ImagePair] = []
    for key in (_stem, _stem_without_mask, _last_number):
        left = _index(image_files, key, images)
        right = _index(truth_files, key, truths)
        # Numbers that are not unique name nothing; equal stems in one folder are a mistake (see _index).
        for name in sorted(set(left) & set(right)):
            pairs.append(ImagePair(name=left[name].stem, image=left[name], truth=right[name]))
        image_files = [f for f in image_files if left.get(key(f)) != f or key(f) not in right]
        truth_files = [f for f in truth_files if right.get(key(f)) != f or key(f) not in left]
    if not pairs:
        raise DataError(
            f"no image of {images} has its {truth} in {truths} (for example {image_files[0].name} and "
            f"{truth_files[0].name}); give both files one stem"
        )
    return FolderPairs(
        pairs=tuple(sorted(pairs, key=lambda p: p.name)),
        images_alone=tuple(image_files),
        truths_alone=tuple(truth_files),
    )


def read_points(path: Path) -> Points:
    """Return the points of a text file: ``x y [class]`` a line, separated by blanks, commas or semicolons.

    The first line is a header when it is not numeric, or when it is the number of the lines that follow, that of
    their columns, and 0 (``356 3 0``).

    Raises
    ------
    DataError
        A line is not a point; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from None
    lines = [(i, _LINE.split(line.strip())) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and _is_header(lines[0][1], [fields for _, fields in lines[1:]]):
        lines = lines[1:]
    xy, classes = [], []
    for number, fields in lines:
        values = [_number(f) for f in fields[:2]]
        if len(fields) not in (2, 3) or None in values:
            raise DataError(f"{path}, line {number}: {' '.join(fields)[:60]!r} is not 'x y' or 'x y class'")
        xy.append(values)
        classes.append(fields[2] if len(fields) == 3 else None)
    known = [c for c in classes if c is not None]
    if known and len(known) != len(classes):
        raise DataError(f"{path}: some points have a class and some have none")
    return Points(xy=np.array(xy, dtype=np.float64).reshape(-1, 2), classes=tuple(known) if known else None)


def read_class_folders(folder: Path, taxonomy: Taxonomy, *, skip: Collection[str] = ()) -> list[LabelledImage]:
    """List a data set of one folder a class, in path order.

    Parameters
    ----------
    taxonomy
        Folder names are its codes or aliases.
    skip
        Folders to leave out by name, for classes the taxonomy cannot hold.

    Raises
    ------
    DataError
        The folder is missing, holds no class folder or no image, or a folder is no class of the taxonomy.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of class folders")
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    absent = sorted(set(skip) - set(names))
    if absent:
        raise DataError(f"{folder} has no folder {', '.join(absent)} to leave out; it has {', '.join(names)}")
    found: list[LabelledImage] = []
    unknown = []
    for name in names:
        if name in skip:
            continue
        try:
            code = taxonomy.resolve(name)
        except DataError:
            unknown.append(name)
            continue
        found += [LabelledImage(path=p, label=code) for p in _listed(folder / name, IMAGE_SUFFIXES)]
    if unknown:
        raise DataError(
            f"{folder}: {', '.join(unknown)} are no classes of taxonomy {taxonomy.name} "
            f"({', '.join(taxonomy.codes)}); rename the folders or leave them out"
        )
    if not found:
        raise DataError(f"{folder} holds no images in class folders")
    return found


def _files(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of {what}")
    found = _listed(folder, suffixes)
    if not found:
        raise DataError(f"{folder} holds no {what} ({', '.join(suffixes)})")
    return found


def _listed(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    wanted = set(suffixes)
    return sorted(
        f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in wanted and not f.name.startswith(".")
    )


def _stem(path: Path) -> str:
    return path.stem


def _stem_without_mask(path: Path) -> str:
    return _MASK_WORD.sub("", path.stem)


def _last_number(path: Path) -> str:
    found = _LAST_NUMBER.search(path.stem)
    return found.group(1).lstrip("0") or "0" if found else ""


def _index(files: list[Path], key: Callable[[Path], str], folder: Path) -> dict[str, Path]:
    table: dict[str, Path] = {}
    twice: set[str] = set()
    for file in files:
        name = key(file)
        if name in table:
            if key is _stem:
                raise DataError(f"{folder}: {table[name].name} and {file.name} have one stem; keep one of them")
            twice.add(name)
        table[name] = file
    return {name: file for name, file in table.items() if name and name not in twice}


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    numbers = [_number(f) for f in first]
    if None in numbers[:2]:
        return True
    return bool(rest) and numbers == [len(rest), len(rest[0]), 0]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
