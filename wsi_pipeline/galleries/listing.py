"""Which patients and images a gallery holds: ``PATIENT/CLASS/images`` or ``PATIENT/images``; no pixel is read.

Links are followed, as for slides, but no deeper than these folders. What cannot be an image of this patient is never
passed over in silence: other files are counted, folders that are too deep or mixed are a problem of their patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError, some
from wsi_pipeline.evaluation.images import IMAGE_SUFFIXES
from wsi_pipeline.manifest import safe_name

_ENDINGS = ", ".join(IMAGE_SUFFIXES)
_IGNORED = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class GalleryImage:
    """One image: its path below the patient's folder, with forward slashes, and its class folder if there is one."""

    name: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One patient's folder.

    Attributes
    ----------
    folder
        Where.
    slide_id
        Unique in the run, safe as a folder's name.
    images
        Sorted by name.
    n_other
        Files that are no images by their ending.
    problem, reason
        Why the folder cannot be used, and its code; empty when it can.
    """

    folder: Path
    slide_id: str
    images: tuple[GalleryImage, ...]
    n_other: int = 0
    problem: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All patients, in the order of their names."""

    folder: Path
    patients: tuple[Patient, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of class folders, sorted, each once."""
        return tuple(sorted({i.label for p in self.patients for i in p.images if i.label is not None}))


def list_gallery(folder: Path) -> Gallery:
    """List the patients of a gallery.

    Ids are the folders' names, made safe; names that become equal get a number.

    Raises
    ------
    ConfigError
        The folder is missing, holds images beside patients, no patient, or no image at all.
    """
    if not folder.is_dir():
        raise ConfigError(f"--gallery {folder} is not a folder; a folder of patient folders with images is needed")
    try:
        children, loose, _ = _entries(folder)
        if loose:
            raise ConfigError(
                f"--gallery {folder} holds images itself ({some(p.name for p in loose)}); they must lie in patient "
                "folders: PATIENT/images or PATIENT/CLASS/images"
            )
        if not children:
            raise ConfigError(f"--gallery {folder} holds no patient folders (PATIENT/images or PATIENT/CLASS/images)")
        found = [_patient(child) for child in children]
    except OSError as error:
        raise ConfigError(f"--gallery {folder} cannot be read: {error}") from None
    if not any(p.images for p in found):
        problems = some(p.problem for p in found)
        raise ConfigError(f"--gallery {folder} holds no image that can be used ({_ENDINGS}): {problems}")
    return Gallery(folder=folder, patients=_with_ids(found))


def _patient(folder: Path) -> Patient:
    groups, loose, n_other = _entries(folder)
    images = [GalleryImage(name=p.name) for p in loose]
    deep: list[str] = []
    for group in groups:
        below, files, others = _entries(group)
        n_other += others
        images += [GalleryImage(name=f"{group.name}/{p.name}", label=group.name) for p in files]
        deep += [f"{group.name}/{b.name}" for b in below]
    problem, reason = "", ""
    if deep:
        problem = (
            f"{folder}: folders below class folders ({some(deep)}); PATIENT/CLASS/images is as deep as a gallery goes"
        )
    elif loose and len(images) > len(loose):
        problem = (
            f"{folder} mixes images ({some(p.name for p in loose)}) with class folders "
            f"({some(g.name for g in groups)}); use one form for a patient"
        )
    if problem:
        reason, images = "bad-folder", []
    elif not images:
        problem, reason = f"{folder} holds no image ({_ENDINGS}); fill or remove it", "no-images"
    ordered = tuple(sorted(images, key=lambda i: i.name))
    return Patient(folder=folder, slide_id="", images=ordered, n_other=n_other, problem=problem, reason=reason)


def _entries(folder: Path) -> tuple[list[Path], list[Path], int]:
    """Return folders, files named as images (broken links too), and the number of other files; nothing hidden."""
    folders, images, n_other = [], [], 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _IGNORED:
            continue
        if path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            n_other += 1
    return folders, images, n_other


def _with_ids(patients: list[Patient]) -> tuple[Patient, ...]:
    taken: set[str] = set()
    named = []
    for patient in patients:
        base = name = safe_name(patient.folder.name)
        n = 2
        while name.casefold() in taken:
            name, n = f"{base}_{n}", n + 1
        taken.add(name.casefold())
        named.append(
            Patient(
                folder=patient.folder,
                slide_id=name,
                images=patient.images,
                n_other=patient.n_other,
                problem=patient.problem,
                reason=patient.reason,
            )
        )
    return tuple(named)
