"""First look at a patient's images: which can be used, what lies twice, and the colour of empty glass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.windows import estimate_background
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import DataError, some
from wsi_pipeline.evaluation.images import MIN_SIDE_PX, MIN_SIDE_UM, is_too_small
from wsi_pipeline.galleries.job import GalleryJob, file_digest
from wsi_pipeline.galleries.listing import GalleryImage
from wsi_pipeline.sentences import say
from wsi_pipeline.slides.picture import read_image

MAX_PIXELS = 4096 * 4096
"""A single cell's image is smaller; what is not is a field or a slide."""
IMAGE_COLUMNS = ("image", "status", "label_given", "width_px", "height_px", "detail")
"""Of ``images.csv``."""


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """One image after the first look.

    Attributes
    ----------
    status
        ``ok``, ``unreadable`` or ``image-too-small``.
    digest
        SHA-256 of the file.
    width, height
        Pixels; 0 when unreadable.
    background
        ``(3,)`` uint8 colour of its empty background; None when it cannot be used.
    detail
        What is wrong with it.
    """

    image: GalleryImage
    status: str
    digest: str = ""
    width: int = 0
    height: int = 0
    background: npt.NDArray[np.uint8] | None = None
    detail: str = ""


def survey(job: GalleryJob) -> list[Surveyed]:
    """Read every image of a patient once, in order."""
    return [_look(job, image) for image in job.images]


def _look(job: GalleryJob, image: GalleryImage) -> Surveyed:
    path = job.patient_folder / image.name
    if not path.is_file():
        what = "a link that leads nowhere" if path.is_symlink() else "no regular file"
        return Surveyed(image=image, status="unreadable", detail=what)
    try:
        pixels = read_image(path, max_pixels=MAX_PIXELS)
    except (DataError, OSError, ValueError, EOFError) as error:
        # The message names the file, which its row does already.
        detail = " ".join(str(error).replace(f"{path} ", "").replace(str(path), image.name).split())
        return Surveyed(image=image, status="unreadable", detail=detail)
    height, width = pixels.shape[:2]
    known = {"image": image, "digest": file_digest(path), "width": width, "height": height}
    if is_too_small(width, height, job.mpp):
        um = f"{width * job.mpp:.3g} x {height * job.mpp:.3g} um at {job.mpp:g} um per pixel"
        return Surveyed(**known, status="image-too-small", detail=um)
    return Surveyed(**known, status="ok", background=estimate_background(pixels))


def problem_of(job: GalleryJob, found: Sequence[Surveyed]) -> tuple[str, str] | None:
    """Return in a sentence what cannot be used, with its reason; None when all can."""
    unreadable = [s for s in found if s.status == "unreadable"]
    small = [s for s in found if s.status == "image-too-small"]
    parts = []
    if unreadable:
        named = some(f"{s.image.name} ({s.detail})" for s in unreadable)
        parts.append(f"{len(unreadable)} of {len(found)} images cannot be read: {named}")
    if small:
        named = some(f"{s.image.name} ({s.width} x {s.height} px, {s.detail})" for s in small)
        parts.append(
            f"{len(small)} of {len(found)} images are too small for their resolution: {named}; at least "
            f"{MIN_SIDE_UM:g} um and {MIN_SIDE_PX} px a side are needed, is --mpp right?"
        )
    if not parts:
        return None
    return f"{job.patient_folder}: {'. '.join(parts)}", "unreadable" if unreadable else "image-too-small"


def duplicates(found: Sequence[Surveyed]) -> list[str]:
    """Return sentences about images that lie in the folder more than once."""
    by_digest: dict[str, list[GalleryImage]] = {}
    for s in found:
        if s.status == "ok":
            by_digest.setdefault(s.digest, []).append(s.image)
    twice = [images for images in by_digest.values() if len(images) > 1]
    across = [images for images in twice if len({i.label for i in images}) > 1]
    within = [images for images in twice if len({i.label for i in images}) == 1]
    notes: list[str] = []
    for groups, what in ((across, say("under several labels")), (within, say("more than once"))):
        if groups:
            named = some(" = ".join(i.name for i in images) for images in groups)
            notes.append(
                say(
                    "{n} pictures lie in the folder {what} and count each time: {names}.",
                    n=len(groups),
                    what=what,
                    names=named,
                )
            )
    return notes


def images_csv(found: Sequence[Surveyed]) -> str:
    """Return ``images.csv``: one row an image, whatever became of it."""
    rows: list[list[object]] = []
    for s in found:
        size = (s.width, s.height) if s.width else ("", "")
        rows.append([s.image.name, s.status, s.image.label or "", *size, s.detail])
    return csv_text(IMAGE_COLUMNS, rows)
