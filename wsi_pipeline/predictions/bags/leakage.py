"""Cells that two patients share: one image, or nearly one, filed under two names makes figures too good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import some
from wsi_pipeline.predictions.assessment.leakage import Finding
from wsi_pipeline.predictions.bags.bag import CellBag, FloatArray, IntArray

NEAR_COSINE = 0.999
"""Cosine of embeddings from which two cells of one class count as near-identical."""

_BLOCK = 2048

Kind = Literal["identical", "near-identical"]


@dataclass(frozen=True, kw_only=True)
class SharedCells:
    """Cells of two patients that are one: ``count`` pairs of them.

    ``identical`` have one id: the bytes of a gallery's image, or the place on a slide. ``near-identical`` are of one
    class by the classifier and have embeddings of a cosine of at least :data:`NEAR_COSINE`: the image again, resampled
    or compressed anew.
    """

    kind: Kind
    first: str
    second: str
    count: int


def shared_cells(bags: Sequence[CellBag], patients: Sequence[str] | None = None) -> tuple[SharedCells, ...]:
    """Return the cells that patients share, a row a pair of patients, the most shared first.

    Memory is bounded: embeddings are compared in blocks of 2,048 cells.

    Parameters
    ----------
    bags
        Near-identical cells are looked for where they have embeddings.
    patients
        Patient of each bag; that of the bags when None. Bags of one patient may share cells.
    """
    names, owner = np.unique(
        np.asarray([bag.patient_id for bag in bags] if patients is None else patients, np.str_), return_inverse=True
    )
    if not len(names):
        return ()
    of_cell = np.repeat(owner, [len(bag) for bag in bags]).astype(np.int64)
    ids = np.unique(np.concatenate([bag.cell_ids for bag in bags]), return_inverse=True)[1]
    found = _rows("identical", _identical(ids, of_cell, len(names)), names)
    vectors = [bag.embedding for bag in bags]
    if all(v is not None for v in vectors):
        classes = np.concatenate([bag.likeliest for bag in bags])
        pairs = np.zeros((len(names), len(names)), np.int64)
        for own in np.unique(classes):
            rows = np.flatnonzero(classes == own)
            embedding = np.concatenate([v[bag.likeliest == own] for v, bag in zip(vectors, bags, strict=True)
                                        if v is not None])  # fmt: skip
            _count_near(embedding, of_cell[rows], ids[rows], pairs)
        found += _rows("near-identical", pairs, names)
    return tuple(sorted(found, key=lambda s: (s.kind, -s.count, s.first, s.second)))


def cell_leakage(
    bags: Sequence[CellBag], patients: Sequence[str] | None = None, *, trained_on: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Return the shared cells as findings of a study, ``identical-cells`` and ``near-identical-cells``.

    ``count`` is the number of pairs of patients.

    Parameters
    ----------
    trained_on
        Patients that a model was trained on; pairs of two of them are left out, and those with one are told as such.
    """
    known = set(trained_on)
    shared = [s for s in shared_cells(bags, patients) if not {s.first, s.second} <= known]
    findings = []
    kinds: tuple[tuple[Kind, str], ...] = (
        ("identical", "the same image or the same place on a slide"),
        ("near-identical", f"embeddings of a cosine of at least {NEAR_COSINE:g} within a class"),
    )
    for kind, what in kinds:
        rows = [s for s in shared if s.kind == kind]
        if rows:
            named = some(f"{s.first} and {s.second} ({s.count})" for s in rows)
            message = (
                f"{len(rows)} pairs of patients share {sum(s.count for s in rows)} {kind} cells ({what}): {named}. "
                "Perhaps one patient entered under two names; figures are too good where the two were parted."
            )
            across = sum(bool(known & {s.first, s.second}) for s in rows)
            if across:
                message += f" Of {across} pairs the model was trained on one and is tested on the other."
            findings.append(Finding(kind=f"{kind}-cells", count=len(rows), message=message))
    return tuple(findings)


def _rows(kind: Kind, pairs: IntArray, names: npt.NDArray[np.str_]) -> list[SharedCells]:
    return [
        SharedCells(kind=kind, first=str(names[a]), second=str(names[b]), count=int(pairs[a, b]))
        for a, b in np.argwhere(pairs).tolist()
    ]


def _identical(ids: IntArray, owner: IntArray, n_patients: int) -> IntArray:
    """Return how many ids each pair of patients shares, ``(patients, patients)``, above the diagonal."""
    pairs = np.zeros((n_patients, n_patients), np.int64)
    distinct = np.unique(np.stack([ids, owner], axis=1), axis=0)
    starts = np.flatnonzero(np.r_[True, np.diff(distinct[:, 0]) != 0])
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(distinct)], strict=True):
        if stop - start > 1:
            patients = distinct[start:stop, 1]
            pairs[np.ix_(patients, patients)] += np.triu(np.ones((stop - start, stop - start), np.int64), 1)
    return pairs


def _count_near(embedding: FloatArray, owner: IntArray, ids: IntArray, pairs: IntArray) -> None:
    """Add the near-identical cells of one class to ``pairs``; identical ones are left out."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    unit = embedding / np.where(length > 0, length, 1.0)
    for a in range(0, len(unit), _BLOCK):
        for b in range(a, len(unit), _BLOCK):
            near = unit[a : a + _BLOCK] @ unit[b : b + _BLOCK].T >= NEAR_COSINE
            i, j = np.nonzero(near)
            i, j = i + a, j + b
            told = (owner[i] != owner[j]) & (ids[i] != ids[j]) & (j > i)
            low, high = np.minimum(owner[i], owner[j])[told], np.maximum(owner[i], owner[j])[told]
            pairs += np.bincount(low * len(pairs) + high, minlength=pairs.size).reshape(pairs.shape)
