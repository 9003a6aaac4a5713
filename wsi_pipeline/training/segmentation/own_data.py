"""Fields that a user labelled: paired, read and refused with a clear reason before any training starts.

A field is an image with a mask of its cells (:func:`wsi_pipeline.evaluation.images.read_mask` says which masks are
read). What is wrong with single files is said here, up to five at a time; whether the labels as a whole can be cells
of the kind is judged in :mod:`wsi_pipeline.training.segmentation.own_checks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, MissingMppError, WsiPipelineError
from wsi_pipeline.evaluation.datasets import ImagePair, pair_folders
from wsi_pipeline.evaluation.images import read_mask
from wsi_pipeline.evaluation.run_segmentation import read_mpp
from wsi_pipeline.slides import open_slide
from wsi_pipeline.slides.formats import PLAUSIBLE_MPP, is_tiff, tiff_mpp
from wsi_pipeline.slides.picture import read_image

MIN_SIDE_PX, MAX_SIDE_PX = 32, 8192
"""Sides of a field: evaluation on single images takes no longer one."""

_LISTED = 5
_GREY_CHROMA = 2
_SQUARE = 0.02
_SAME_MPP = 0.05


@dataclass(frozen=True, kw_only=True)
class Field:
    """One labelled field as its files hold it.

    Attributes
    ----------
    name
        Stem of the image, unique among the fields.
    rgb
        ``(h, w, 3)`` uint8.
    labels
        ``(h, w)`` int32 instances, consecutive from 1; 0 elsewhere.
    nucleus
        ``(h, w)`` bool nuclei of a white-cell mask of three grey levels, else None.
    mpp
        Microns per pixel.
    """

    name: str
    image: Path
    mask: Path
    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    nucleus: npt.NDArray[np.bool_] | None
    mpp: float

    @property
    def n_cells(self) -> int:
        return int(self.labels.max(initial=0))

    def image_digest(self) -> str:
        """Return the SHA-256 of the pixels, whatever the file's name and format."""
        return _digest(self.rgb)

    def digest(self) -> str:
        """Return the SHA-256 of all that training sees of the field."""
        parts = [self.name, self.image_digest(), _digest(self.labels), repr(self.mpp)]
        parts.append("" if self.nucleus is None else _digest(self.nucleus))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_fields(
    images: Path,
    masks: Path,
    mpp: str | None,
    *,
    skip_unpaired: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[Field]:
    """Read all labelled fields of two folders, in the order of their names.

    Parameters
    ----------
    images, masks
        Folders; their files pair as :func:`wsi_pipeline.evaluation.datasets.pair_folders` says.
    mpp
        One number for all images, the path of a CSV file with columns image,mpp, or None to take what each image
        states.
    skip_unpaired
        Leave out images and masks without a partner, which are refused otherwise.
    progress
        Receives how many fields are read, of how many.

    Raises
    ------
    DataError
        Files that do not pair, cannot be read or do not fit each other; microns per pixel that are missing or
        implausible; no labelled cell. The message names up to five files.
    """
    pairs = _paired(images, masks, skip_unpaired=skip_unpaired)
    mpp_of = resolve_mpp(pairs, mpp)
    fields: list[Field] = []
    problems: list[str] = []
    for done, pair in enumerate(pairs, start=1):
        try:
            fields.append(_read(pair, mpp_of[pair.name]))
        except WsiPipelineError as error:
            problems.append(str(error))
        progress(done, len(pairs))
    if problems:
        raise DataError(_listing(problems, f"{len(problems)} of {len(pairs)} labelled images cannot be used"))
    if not any(field.n_cells for field in fields):
        raise DataError(f"none of the {len(fields)} masks in {masks} holds a labelled cell; every pixel is background")
    return fields


def resolve_mpp(pairs: Sequence[ImagePair], mpp: str | None) -> Mapping[str, float]:
    """Return microns per pixel by name of the field; errors as of :func:`read_fields`."""
    given = _stated if mpp is None else read_mpp(mpp)
    found: dict[str, float] = {}
    missing, implausible = [], []
    for pair in pairs:
        try:
            value = given(pair.image)
        except MissingMppError:
            missing.append(pair.image.name)
            continue
        except DataError:
            if mpp is None:
                raise
            # A table that cannot be read was refused when it was opened; here it lacks the row of an image.
            missing.append(pair.image.name)
            continue
        if not PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]:
            implausible.append(f"{pair.image.name} ({value:g})")
        found[pair.name] = value
    if missing and mpp is None:
        raise DataError(
            f"{len(missing)} of {len(pairs)} images state no microns per pixel ({_names(missing)}); give --mpp, one "
            "number for all images or a CSV file with columns image,mpp"
        )
    if missing:
        raise DataError(
            f"--mpp {mpp}: {len(missing)} of {len(pairs)} images have no row ({_names(missing)}); add a row "
            "image,mpp for each"
        )
    if implausible:
        raise DataError(
            f"microns per pixel of {len(implausible)} images are outside {PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g}, "
            f"what microscopes give: {_names(implausible)}; give the true value with --mpp"
        )
    return found


def contradicted_mpp(fields: Sequence[Field]) -> list[str]:
    """Return, for people, the TIFFs that state other microns per pixel than the ones used, which win."""
    found = []
    for field in fields:
        own = tiff_mpp(field.image) if is_tiff(field.image) else None
        if own is not None and abs(own[0] - field.mpp) > _SAME_MPP * field.mpp:
            found.append(f"{field.image.name} states {own[0]:g}, {field.mpp:g} is used")
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return [*found[:_LISTED], *more]


def _stated(image: Path) -> float:
    """Return what the image states of its own scale."""
    with open_slide(image) as slide:
        x, y = slide.mpp.x, slide.mpp.y
    if abs(x - y) > _SQUARE * max(x, y):
        raise DataError(f"{image} states pixels of {x:g} x {y:g} um; square pixels are needed, give --mpp")
    return float(np.sqrt(x * y))


def _paired(images: Path, masks: Path, *, skip_unpaired: bool) -> tuple[ImagePair, ...]:
    found = pair_folders(images, masks)
    alone = [
        f"{len(files)} {what} ({_names([f.name for f in files])})"
        for files, what in (
            (found.images_alone, f"images of {images} without a mask"),
            (found.truths_alone, f"masks of {masks} without an image"),
        )
        if files
    ]
    if alone and not skip_unpaired:
        raise DataError(
            f"{' and '.join(alone)}; {len(found.pairs)} others pair. Give image and mask one stem (a01.png with "
            "a01.png or a01_mask.tif), or leave these out with --skip-unpaired"
        )
    return found.pairs


def _read(pair: ImagePair, mpp: float) -> Field:
    """Read and check one field."""
    _refuse_deep_png(pair.image)
    # What a run and the evaluation will refuse is refused now: greyscale, 16 bits, fluorescence, damage.
    with open_slide(pair.image, mpp=mpp, force_mpp=True) as slide:
        width, height = slide.dimensions
    if not MIN_SIDE_PX <= min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        raise DataError(
            f"{pair.image} is {width} x {height} px; a labelled field has {MIN_SIDE_PX} to {MAX_SIDE_PX} px a side"
        )
    rgb = read_image(pair.image)
    if rgb.shape[:2] != (height, width):
        raise DataError(f"{pair.image} holds images of {width} x {height} and {rgb.shape[1]} x {rgb.shape[0]} px")
    _check_colour(rgb, pair.image)
    labels = read_mask(pair.truth, (height, width))
    inner = read_mask(pair.truth, (height, width), part="nucleus") > 0
    # Only a mask of three levels reads differently by part.
    nucleus = inner & (labels > 0) if ((labels > 0) != inner).any() else None
    return Field(
        name=pair.name, image=pair.image, mask=pair.truth, rgb=rgb, labels=labels, nucleus=nucleus, mpp=mpp
    )  # fmt: skip


def _refuse_deep_png(path: Path) -> None:
    """Refuse a PNG of 16-bit colour, of which Pillow silently drops the lower half."""
    with path.open("rb") as file:
        start = file.read(26)
    if start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10":
        raise DataError(f"{path}: 16 bits a sample found; 8-bit RGB is needed")


def _check_colour(rgb: npt.NDArray[np.uint8], path: Path) -> None:
    low, high = rgb.min(), rgb.max()
    if int(high) - int(low) <= _GREY_CHROMA:
        raise DataError(f"{path}: every pixel is the same ({low} to {high}); a photograph of cells is needed")
    chroma = rgb.max(axis=-1) - rgb.min(axis=-1)
    if np.quantile(chroma, 0.999) <= _GREY_CHROMA:
        raise DataError(f"{path}: greyscale stored as RGB found; a colour image of stained cells is needed")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _listing(problems: Sequence[str], title: str) -> str:
    if len(problems) == 1:
        return problems[0]
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return f"{title}: {'; '.join(problems[:_LISTED])}{more}"


def _digest(array: npt.NDArray[np.generic]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
