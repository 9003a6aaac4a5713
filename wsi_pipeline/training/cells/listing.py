"""Labelled cells as the data doors list them, before any pixel is read.

Every door (class folders, CSV files, corrected runs) returns a :class:`Listing`; all that follows is the same for all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.taxonomies import Taxonomy

MIN_MPP, MAX_MPP = 0.05, 5.0
MIN_IMAGES = 3
"""Images a class needs: one each for train, validation and test."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One labelled cell.

    Attributes
    ----------
    path
        Its image or slide.
    name
        What messages and ``split.csv`` call it.
    label
        As found; :func:`resolve_labels` replaces it by a code of the taxonomy.
    centre
        Middle of the cell, pixels of the image or level-0 pixels of the slide; None: the middle of the image.
    mpp
        Microns per pixel; None where only the command line, or the slide, says it.
    patient, slide, site
        Groups it belongs to; ``site`` is the centre or laboratory.
    predicted
        Class that a run gave the cell, before a reader looked.
    on_slide
        Whether ``path`` is a slide, read through :mod:`wsi_pipeline.slides`.
    """

    path: Path
    name: str
    label: str
    centre: tuple[float, float] | None = None
    mpp: float | None = None
    patient: str | None = None
    slide: str | None = None
    site: str | None = None
    predicted: str | None = None
    on_slide: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Examples in a fixed order, what kind of data they come from, and what was noticed on the way."""

    door: Literal["class folders", "patient folders", "boxes", "table", "corrected run"]
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def checked_mpp(value: float, where: str) -> float:
    """Return microns per pixel that an image of cells can have.

    Raises
    ------
    DataError
        Negative, not finite, or outside 0.05 to 5.
    """
    if not (math.isfinite(value) and MIN_MPP <= value <= MAX_MPP):
        raise DataError(f"{where}: {value:g} um per pixel; {MIN_MPP:g} to {MAX_MPP:g} are needed")
    return value


def with_mpp(listing: Listing, mpp: float | None, where: Path) -> Listing:
    """Give ``mpp`` to the images that state none.

    Raises
    ------
    DataError
        An image has no resolution, or it is out of range.
    """
    if mpp is not None:
        checked_mpp(mpp, "--mpp")
    bare = [e.name for e in listing.examples if e.mpp is None and not e.on_slide]
    if bare and mpp is None:
        raise DataError(
            f"{where}: {len(bare)} images state no microns per pixel ({some(bare)}); give --mpp, or a column mpp"
        )
    return replace(
        listing,
        examples=tuple(e if e.mpp is not None or e.on_slide else replace(e, mpp=mpp) for e in listing.examples),
    )


def resolve_labels(listing: Listing, taxonomy: Taxonomy, where: Path, *, ignore_unknown: bool) -> Listing:
    """Replace labels by the codes of the taxonomy's classes that a classifier may answer with.

    Parameters
    ----------
    ignore_unknown
        Leave out cells of other labels, and note how many of each.

    Raises
    ------
    DataError
        Labels the taxonomy does not have, listed with their counts, or nothing is left.
    """
    codes: dict[str, str | None] = {}
    for label in dict.fromkeys(e.label for e in listing.examples):
        code = taxonomy.find(label)
        codes[label] = code if code in taxonomy.classifier_classes else None
    unknown = Counter(e.label for e in listing.examples if codes[e.label] is None)
    notes = listing.notes
    if listing.door == "corrected run":
        # A run's file lists red cells and what was not classified; they are known, only not for a classifier.
        other = Counter({k: n for k, n in unknown.items() if taxonomy.find(k) is not None})
        if other:
            counted = ", ".join(f"{label} ({n})" for label, n in sorted(other.items()))
            notes = (*notes, f"left out {other.total()} cells of classes that no classifier answers with: {counted}")
            unknown -= other
    if unknown:
        counted = ", ".join(f"{label or '(empty)'} ({n})" for label, n in sorted(unknown.items()))
        if not ignore_unknown:
            raise DataError(
                f"{where}: labels that are no classes of taxonomy {taxonomy.name}: {counted}; it has "
                f"{', '.join(taxonomy.classifier_classes)}. Rename them, choose another --taxonomy, or leave these "
                "cells out with --ignore-unknown-labels"
            )
        notes = (*notes, f"left out {unknown.total()} cells of unknown labels: {counted}")
    kept = tuple(replace(e, label=code) for e in listing.examples if (code := codes[e.label]) is not None)
    if listing.door == "corrected run":
        changed = sum(e.label != e.predicted for e in kept)
        notes = (*notes, f"{changed} of {len(kept)} labels differ from what the run answered")
    if not kept:
        raise DataError(f"{where}: no cell has a label of taxonomy {taxonomy.name}")
    return replace(listing, examples=kept, notes=notes)


def without_rare(listing: Listing) -> Listing:
    """Leave out the classes of fewer than three images, and note which."""
    counts = Counter(e.label for e in listing.examples)
    rare = {name: n for name, n in sorted(counts.items()) if n < MIN_IMAGES}
    if not rare:
        return listing
    note = f"left out rare classes: {', '.join(f'{name} ({n})' for name, n in rare.items())}"
    kept = tuple(e for e in listing.examples if e.label not in rare)
    return replace(listing, examples=kept, notes=(*listing.notes, note))


def check_counts(labels: Iterable[str], where: Path) -> None:
    """Refuse fewer than two classes, and classes of fewer than three images.

    Raises
    ------
    DataError
        The classes with their counts.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"{where}: only {', '.join(counts) or 'no class'} found; two or more classes are needed")
    few = {name: n for name, n in sorted(counts.items()) if n < MIN_IMAGES}
    if few:
        listed = ", ".join(f"{name} ({n})" for name, n in few.items())
        raise DataError(
            f"{where}: too few images of {listed}; every class needs at least {MIN_IMAGES}, for train, validation and "
            "test; add images, or leave these classes out with --drop-rare"
        )
