"""A laboratory's own labelled cells, read, checked and grouped: what classifiers and generators are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path, write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import DataError
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.fit import look_alike_groups
from wsi_pipeline.training.cells.groups import Grouping, choose_grouping, deal_folds, fold_split, join, split_groups
from wsi_pipeline.training.cells.listing import check_counts, resolve_labels, with_mpp, without_rare
from wsi_pipeline.training.cells.own_request import CellTraining, list_cells
from wsi_pipeline.training.cells.pack import LabelledCells, pack_listing
from wsi_pipeline.training.cells.train_shipped import plain_name
from wsi_pipeline.training.synthetic.guard import SYNTHETIC
from wsi_pipeline.weights import shipped_weights


@dataclass(frozen=True, kw_only=True)
class OwnCells:
    """Packed cells with their groups.

    Attributes
    ----------
    packed
        The cells, and what was noticed on the way.
    taxonomy, classes
        Label set, and those of its classes that have cells, in its order.
    door
        What kind of data they are.
    grouping, groups
        What is kept together, and a group number per cell.
    across
        Groups of look-alikes under several labels.
    """

    packed: LabelledCells
    taxonomy: Taxonomy
    classes: tuple[str, ...]
    door: str
    grouping: Grouping
    groups: npt.NDArray[np.int64]
    across: int

    @property
    def cells(self) -> PackedCells:
        """The cells alone."""
        return self.packed.cells

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The index of each cell's class."""
        return class_index(self.cells, self.classes)

    @property
    def digest(self) -> str:
        """SHA-256 over pixels, classes and groups."""
        return digest_of(self.cells, self.groups)

    def split(self) -> npt.NDArray[np.str_]:
        """Return train, val or test for each cell: the split of the weights that are kept."""
        return split_groups(self.groups, self.cells.digests.tolist(), self.cells.class_names)

    def fold(self, number: int, folds: int) -> npt.NDArray[np.str_]:
        """Return the split of one fold of a cross-validation."""
        labels, digests = self.cells.class_names, self.cells.digests.tolist()
        dealt = deal_folds(self.groups, digests, labels, folds)
        return fold_split(dealt, number, self.groups, digests, labels)

    def write_split(self, path: Path, split: npt.NDArray[np.str_]) -> None:
        """Write ``split.csv``: every cell with its groups and its part."""
        cells, packed = self.cells, self.packed
        columns = (
            cells.files, cells.class_names, packed.patient, packed.slide, packed.centre, self.groups, split,
            cells.digests,
        )  # fmt: skip
        write_text(
            path,
            csv_text(
                ["file", "class", "patient", "slide", "centre", "group", "split", "digest"],
                zip(*(c.tolist() for c in columns), strict=True),
            ),
        )


def read_own_cells(
    request: CellTraining, out: Path, *, side_px: int, window_px: int, mpp: float, report: Callable[[str], None]
) -> OwnCells:
    """Return the cells of a request.

    Parameters
    ----------
    out
        Keeps ``cells.npz`` and ``near_duplicates.npz`` for the next time.
    side_px, window_px, mpp
        Side of the packed images, side of the window a model sees, and resolution, um per pixel.
    report
        Receives what was noticed.

    Raises
    ------
    DataError, ConfigError
        The data cannot be trained on.
    """
    taxonomy = load_taxonomy(request.taxonomy)
    listing = with_mpp(list_cells(request), request.mpp, request.data)
    listing = resolve_labels(listing, taxonomy, request.data, ignore_unknown=request.ignore_unknown_labels)
    if request.drop_rare:
        listing = without_rare(listing)
    check_counts((e.label for e in listing.examples), request.data)
    report(f"reading {len(listing.examples)} cells ({listing.door})")
    packed = pack_listing(
        listing,
        side=side_px,
        mpp=mpp,
        source=own_name(request.data),
        cache=out / "cells.npz",
        skip_unreadable=request.skip_unreadable,
        drop_conflicts=request.drop_conflicts,
    )
    cells = packed.cells
    if (cells.sources == SYNTHETIC).any():
        raise DataError(
            f"{request.data}: real cells may not come from a folder or centre called {SYNTHETIC!r}, which marks "
            "generated images; rename it"
        )
    check_counts(cells.class_names.tolist(), request.data)
    for note in packed.notes:
        report(note)
    present = set(cells.class_names.tolist())
    grouping, numbers = choose_grouping(request.group, packed.groups)
    report(f"looking for near-duplicates; splitting by {grouping}")
    alike = _near_duplicates(cells, window_px, out / "near_duplicates.npz")
    return OwnCells(
        packed=packed,
        taxonomy=taxonomy,
        classes=tuple(code for code in taxonomy.classifier_classes if code in present),
        door=listing.door,
        grouping=grouping,
        groups=join(alike, numbers),
        across=_alike_across_classes(cells, alike, report),
    )


def class_index(cells: PackedCells, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the index of each cell's class."""
    rank = {name: i for i, name in enumerate(classes)}
    return np.array([rank[n] for n in cells.class_names.tolist()], dtype=np.int64)


def digest_of(cells: PackedCells, groups: npt.NDArray[np.int64]) -> str:
    """Return a SHA-256 over pixels, classes and groups."""
    text = "\n".join(f"{d}|{c}|{g}" for d, c, g in zip(cells.digests, cells.class_names, groups, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()


def own_name(data: Path) -> str:
    """Return the name of weights trained on these data, other than any shipped one."""
    plain = plain_name(data)
    return f"{plain}-own" if plain in shipped_weights() else plain


def _alike_across_classes(cells: PackedCells, alike: npt.NDArray[np.int64], report: Callable[[str], None]) -> int:
    """Count groups of near-duplicates under several labels, and report the first."""
    order = np.argsort(alike, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(alike[order])) + 1)
    mixed = [p for p in parts if len({*cells.class_names[p].tolist()}) > 1 and len({*cells.fields[p].tolist()}) > 1]
    if mixed:
        names = ", ".join(f"{cells.files[i]} ({cells.class_names[i]})" for i in mixed[0][:4].tolist())
        report(f"{len(mixed)} groups of look-alike images have several labels, for example {names}; check them")
    return len(mixed)


def _near_duplicates(cells: PackedCells, window_px: int, cache: Path) -> npt.NDArray[np.int64]:
    """Return the near-duplicate group of each cell, kept in ``cache`` for the same pixels."""
    key = f"{window_px}|{digest_of(cells, cells.fields)}"
    if cache.is_file():
        try:
            with np.load(cache, allow_pickle=False) as stored:
                if str(stored["key"]) == key:
                    found: npt.NDArray[np.int64] = stored["groups"]
                    return found
        except (OSError, ValueError, KeyError):
            pass  # A damaged cache is made anew.
    groups = look_alike_groups(cells, window_px)
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), groups=groups)
    return groups
