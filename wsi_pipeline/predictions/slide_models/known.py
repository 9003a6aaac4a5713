"""Whom a model was trained on, kept in its file, so that it is not measured on them later.

Nothing here names a patient. Names are kept as slow salted hashes (scrypt, RFC 7914): whoever suspects a name can test
it, whoever has the file alone cannot list them but by trying all names there could be. Of cells there are hashes of
their ids, which are made of the bytes of images or of places on a slide, and embeddings of some, by which an image is
known again that was resampled or compressed anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.leakage import NEAR_COSINE

MOST_CELLS, MOST_LOOKS = 512, 64
"""Cells of a subject whose ids, and whose embeddings, are kept: those of the smallest hashes, so that a later sample of
the same cells has them too."""
LEAST_LOOKS, LEAST_SHARE = 3, 0.1
"""Embeddings of one training subject that must be found again for a subject to count as that one."""

Why = Literal["", "patient", "identical cells", "near-identical cells"]
WORDS: Mapping[Why, str] = {
    "patient": "the name of the patient",
    "identical cells": "identical cells",
    "near-identical cells": "near-identical cells",
}
_SALT = 16


@dataclass(frozen=True, kw_only=True)
class Known:
    """The training subjects of a model.

    Parameters
    ----------
    salt
        Of the hashes of names, 16 bytes.
    patients
        uint64, sorted: a hash of each patient's name.
    cells
        uint64, sorted: hashes of ids of cells.
    looks
        ``(m, d)`` float16, embeddings of length 1; ``(0, 0)`` where the model reads none.
    classes, owners
        ``(m,)`` int64: class of each by the classifier, and the number of the subject.
    """

    salt: bytes
    patients: npt.NDArray[np.uint64]
    cells: npt.NDArray[np.uint64]
    looks: npt.NDArray[np.float16]
    classes: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]

    @classmethod
    def of(cls, bags: Sequence[CellBag], patients: Sequence[str]) -> Known:
        """Return what is kept of the training subjects and their patients; the same subjects give the same."""
        hashes = [_cell_hashes(bag) for bag in bags]
        every = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
        salt = hashlib.sha256(every.tobytes()).digest()[:_SALT]
        kept = [np.sort(own)[:MOST_CELLS] for own in hashes]
        looks, classes, owners = [], [], []
        for number, (bag, own) in enumerate(zip(bags, hashes, strict=True)):
            if bag.embedding is not None:
                rows = np.sort(np.argsort(own, kind="stable")[:MOST_LOOKS])
                looks.append(_unit(bag.embedding[rows]).astype(np.float16))
                classes.append(bag.likeliest[rows])
                owners.append(np.full(len(rows), number, np.int64))
        return cls(
            salt=salt,
            patients=np.unique(np.array([_name_hash(name, salt) for name in set(patients)], np.uint64)),
            cells=np.unique(np.concatenate(kept)) if kept else np.empty(0, np.uint64),
            looks=np.concatenate(looks) if looks else np.empty((0, 0), np.float16),
            classes=np.concatenate(classes) if classes else np.empty(0, np.int64),
            owners=np.concatenate(owners) if owners else np.empty(0, np.int64),
        )

    def why(self, bag: CellBag, patient: str) -> Why:
        """Return by what a subject is known from the training; empty where it is not."""
        if patient and _name_hash(patient, self.salt) in self.patients:
            return "patient"
        if np.isin(_cell_hashes(bag), self.cells).any():
            return "identical cells"
        return "near-identical cells" if self._looks_known(bag) else ""

    def _looks_known(self, bag: CellBag) -> bool:
        if bag.embedding is None or not len(bag) or self.looks.shape[1:] != bag.embedding.shape[1:]:
            return False
        found = np.zeros(len(self.looks), bool)
        mine, own = _unit(bag.embedding), bag.likeliest
        for name in np.unique(own):
            rows = np.flatnonzero(self.classes == name)
            near = mine[own == name] @ self.looks[rows].astype(np.float32).T >= NEAR_COSINE
            found[rows] = near.any(axis=0)
        n = np.bincount(self.owners)
        needed = np.maximum(np.minimum(LEAST_LOOKS, n), np.ceil(LEAST_SHARE * n))
        return bool((np.bincount(self.owners[found], minlength=len(n)) >= np.maximum(needed, 1)).any())

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays."""
        return {
            "salt": np.frombuffer(self.salt, np.uint8), "patients": self.patients, "cells": self.cells,
            "looks": self.looks, "classes": self.classes, "owners": self.owners,
        }  # fmt: skip

    @classmethod
    def load(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> Known | None:
        """Return what a file holds; None of a file that holds nothing.

        Raises
        ------
        ModelError
            The arrays do not fit together.
        """
        if not tensors:
            return None
        wanted = {"salt": (np.uint8, 1), "patients": (np.uint64, 1), "cells": (np.uint64, 1),
                  "looks": (np.float16, 2), "classes": (np.int64, 1), "owners": (np.int64, 1)}  # fmt: skip
        fits = all(
            name in tensors and tensors[name].dtype == kind and tensors[name].ndim == ndim
            for name, (kind, ndim) in wanted.items()
        )
        if not fits or len({len(tensors[name]) for name in ("looks", "classes", "owners")}) > 1:
            raise ModelError("what it says of its training subjects is damaged")
        if not np.isfinite(tensors["looks"]).all() or (tensors["owners"] < 0).any():
            raise ModelError("what it says of its training subjects is damaged")
        return cls(
            salt=tensors["salt"].tobytes(),
            **{name: tensors[name] for name in wanted if name != "salt"},
        )


def _cell_hashes(bag: CellBag) -> npt.NDArray[np.uint64]:
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in bag.cell_ids.tolist()]
    return np.frombuffer(b"".join(digests), np.uint64)


def _name_hash(name: str, salt: bytes) -> np.uint64:
    slow = hashlib.scrypt(name.strip().casefold().encode(), salt=salt, n=2**12, r=8, p=1, dklen=8)
    return np.frombuffer(slow, np.uint64)[0]


def _unit(embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.where(length > 0, length, 1.0), np.float32)
