"""One patient of a gallery to be run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.galleries.labels import GivenLabel
from wsi_pipeline.galleries.listing import GalleryImage
from wsi_pipeline.one_slide.job import SlideJob

SKIPPABLE = ("unreadable", "image-too-small")
"""Reasons of a failure that ``--skip-unreadable`` takes away."""


@dataclass(frozen=True, kw_only=True)
class GalleryJob(SlideJob):
    """A patient's folder, run as a slide without positions; ``spec`` holds the folder and the microns per pixel.

    Attributes
    ----------
    gallery
        The folder of all patients.
    images
        The patient's images, by name.
    labels
        What the gallery's class folders mean.
    n_other
        Files in the folder that are no images by their ending.
    problem, problem_reason
        Why the folder cannot be used; empty when it can.
    skip_unreadable
        Leave out images that cannot be used, and list them.
    """

    gallery: Path
    images: tuple[GalleryImage, ...] = ()
    labels: tuple[GivenLabel, ...] = ()
    n_other: int = 0
    problem: str = ""
    problem_reason: str = ""
    skip_unreadable: bool = False

    @property
    def patient_folder(self) -> Path:
        """Return where the images are."""
        return Path(str(self.spec.path))

    @property
    def mpp(self) -> float:
        """Return the microns per pixel of the images."""
        if self.spec.mpp is None:
            raise ConfigError(f"{self.patient_folder}: no microns per pixel given")
        return self.spec.mpp

    def source(self) -> str:
        """Return a hash over the names, labels and bytes of all images; one that cannot be read counts as absent."""
        digest = hashlib.sha256(self.problem.encode())
        meanings = {g.label: f"{g.taxonomy}|{g.code}|{','.join(g.agrees)}" for g in self.labels}
        for image in self.images:
            path = self.patient_folder / image.name
            digest.update(f"{image.name}|{meanings.get(image.label or '')}|{file_digest(path)}\n".encode())
        return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; empty for what is no readable file (a pipe is not opened)."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
