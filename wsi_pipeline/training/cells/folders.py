"""Data door: folders of single-cell images, by class, or by patient and class as CellaVision exports them."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.evaluation.images import IMAGE_SUFFIXES
from wsi_pipeline.training.cells.listing import Example, Listing


def read_folders(folder: Path) -> Listing:
    """List ``folder/<class>/images``, or ``folder/<patient>/<class>/images``, sorted by name.

    Raises
    ------
    DataError
        There are no such folders, some are empty, or the two forms are mixed.
    """
    children = _folders(folder)
    if not children:
        raise DataError(f"{folder} holds no folders; one per class, or patient / class, with images is needed")
    flat = [c for c in children if _images(c)]
    nested = [c for c in children if any(_images(g) for g in _folders(c))]
    both = sorted({c.name for c in flat} & {c.name for c in nested})
    if both or (flat and nested):
        raise DataError(
            f"{folder} mixes class folders ({some(c.name for c in flat)}) with patient folders "
            f"({some(c.name for c in nested)}); use one form"
        )
    classes = [(c.name if nested else None, g) for c in children for g in (_folders(c) if nested else [c])]
    empty = [str(g.relative_to(folder)) for _, g in classes if not _images(g)]
    empty += [c.name for c in children if nested and not _folders(c)]
    if empty:
        raise DataError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in {some(empty)}; fill or remove them")
    examples = tuple(
        Example(path=path, name=path.relative_to(folder).as_posix(), label=group.name, patient=patient)
        for patient, group in classes
        for path in _images(group)
    )
    return Listing(door="patient folders" if nested else "class folders", examples=examples)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )
