"""All labelled fields of the shipped recipes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.megakaryocyte_textures import Half
from wsi_pipeline.simulation.sprites import Sprite
from wsi_pipeline.training.segmentation.data import MARROW_MPP, PBC_MPP, Sample, fold_of, split_of
from wsi_pipeline.training.segmentation.megakaryocyte_composites import composites
from wsi_pipeline.training.segmentation.section_labels import megakaryocyte_sample, section_sample
from wsi_pipeline.training.segmentation.smear_labels import bccd_sample, rbc_sample, single_cell_sample
from wsi_pipeline.training.segmentation.virtual_fields import section_sprites, virtual_sections, virtual_smears

SINGLE_CELLS_PER_CLASS = {"pbc": 70, "marrow-cells": 50}
"""Images taken of each class folder, in the order of a hash of their path."""

COMPOSITES = 500
"""Composites that ``compact-megakaryocyte`` is trained on."""

_MARROW_WEIGHT = 3

FOLDERS = {
    "compact-smear": ("bccd", "rbc-morphology", "pbc", "marrow-cells"),
    "compact-section": ("tissue-nuclei",),
    "compact-megakaryocyte": ("tissue-nuclei",),
}
"""Data sets below the root that each network is trained on."""


def load_samples(root: Path, model: str, *, fold: tuple[int, int] | None = None) -> list[Sample]:
    """Return all labelled fields of the shipped recipe of one of :data:`FOLDERS`.

    Parameters
    ----------
    fold
        ``(i, n)`` deals the fields that figures are measured on out anew for cross-validation: test is fold ``i`` of
        ``n``, the rest training. Single cells keep the shipped split; no figure is measured on them.

    Raises
    ------
    DataError
        The folders of the data sets are missing below ``root``.
    """
    if model not in FOLDERS:
        raise DataError(f"{model}: no shipped recipe; use one of {', '.join(FOLDERS)}")
    for folder in FOLDERS[model]:
        if not (root / folder).is_dir():
            raise DataError(f"{root / folder} does not exist; {model} is trained on {', '.join(FOLDERS[model])}")
    if model == "compact-section":
        fields = [section_sample(root, p.stem) for p in sorted((root / "tissue-nuclei" / "images").iterdir())]
        fields = _dealt(fields, fold)
        return fields + virtual_sections(fields)
    if model == "compact-megakaryocyte":
        fields = [section_sample(root, p.stem) for p in sorted((root / "tissue-nuclei" / "images").iterdir())]
        made = composites(COMPOSITES, "train", nuclei_for_composites(root, fields, "train"))
        return [megakaryocyte_sample(f) for f in _dealt(fields, fold)] + made
    fields = [bccd_sample(root, p.stem) for p in sorted((root / "bccd" / "fields").iterdir())]
    fields += [rbc_sample(root, p.stem) for p in sorted((root / "rbc-morphology" / "images").iterdir())]
    fields = _dealt(fields, fold)
    fields += _single_cells(root, "pbc", PBC_MPP, 1)
    fields += _single_cells(root, "marrow-cells", MARROW_MPP, 2)
    return fields + virtual_smears(root)


def nuclei_for_composites(root: Path, fields: Sequence[Sample], half: Half) -> list[Sprite]:
    """Return cut-outs of the nuclei of a half's fields; those of marrow are there three times, so chosen more often."""
    with (root / "tissue-nuclei" / "index.csv").open(encoding="utf-8", newline="") as table:
        marrow = {row["id"] for row in csv.DictReader(table) if row["marrow_like"] == "1"}
    chosen: list[Sprite] = []
    for field in fields:
        if field.split == half:
            sprites = [sprite for sprite in section_sprites(field) if sprite.kind == "nucleus"]
            chosen += sprites * (_MARROW_WEIGHT if Path(field.name).stem in marrow else 1)
    return chosen


def _dealt(fields: list[Sample], fold: tuple[int, int] | None) -> list[Sample]:
    if fold is None:
        return fields
    number, folds = fold
    return [replace(f, split="test" if fold_of(f.name, folds) == number else "train") for f in fields]


def _single_cells(root: Path, folder: str, mpp: float, shrink: int) -> Iterator[Sample]:
    for group in sorted(p for p in (root / folder).iterdir() if p.is_dir()):
        names = [p.relative_to(root).as_posix() for p in group.iterdir()]
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        for name in ranked[: SINGLE_CELLS_PER_CLASS[folder]]:
            # Reserved images are neither trained on nor needed for the figures, which come from the fields.
            sample = single_cell_sample(root, root / name, mpp, shrink) if split_of(name) == "train" else None
            if sample is not None:
                yield sample
