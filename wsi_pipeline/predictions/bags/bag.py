"""A bag of cells: the nucleated cells of one subject, with all that a run says of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CellBag:
    """The nucleated cells (``kind`` is ``white``) of one subject, pooled over its slides of one specimen.

    Of trephines they are the megakaryocytes (:mod:`wsi_pipeline.predictions.bags.sections`): their one class is that,
    their attributes are phenotypes, and the classifier is the model of phenotypes, empty without one.

    Cells lie in the order of ``cell_ids``, so a bag does not depend on the order of runs, slides or rows.

    Parameters
    ----------
    subject_id
        The patient where it is known and bags are of patients, else the slide.
    slide_ids
        Slides that were pooled, sorted.
    specimen
        ``blood_smear``, ``marrow_smear`` or ``trephine``.
    taxonomy, classes, classifier_sha256
        Of the classifier that answered: its label set, its classes in the order of its outputs, its weights.
    cell_ids
        ``(n,)``, sorted. A cell that two slides of the subject share (one slide under two names) is here once.
    slide
        ``(n,)`` index into ``slide_ids``.
    probabilities
        ``(n, classes)`` float32.
    given
        ``(n,)`` class that a folder or a reader gave, an index into ``classes``; -1 without one, or where the
        classifier has no such class.
    embedding
        ``(n, d)`` float32, or None where it was not asked for.
    morphology, morphology_names
        ``(n, m)`` float32, NaN where not measured and for cells that an edge cuts: part of them was not seen.
    attributes, attribute_names
        ``(n, a)`` float32: probability that a cell has an attribute, NaN where it cannot have it, and for cut cells.
        Names with ``measured_`` are of the reference of neutrophils, 0 or 1.
    outlier
        ``(n,)`` share of validation cells that are less unusual, 0 to 1; None where no slide says it.
    images
        Path of each cell's image; None unless all slides are galleries.
    sources
        Folders of the slides, in the order of ``slide_ids``.
    digests
        ``(n,)`` ids made of the bytes of the images; None unless all slides are galleries.
    red
        Red-cell indices, pooled, and ``n``, the judged red cells; empty where shapes were not told.
    other_counts
        Cells of the other kinds: ``red``, ``platelet`` and so on.
    patient
        The patient, also where the bag is of a slide; empty where it is not known.
    given_labels
        ``(n,)`` the same as ``given`` in the label's own set, ``TAXONOMY/CLASS``, or ``folder/NAME`` of a folder that
        no taxonomy knows; empty without one; None where no cell has one.
    simulated
        Whether any slide is simulated.
    sample
        Figures of a trephine as a whole, by name, with the cells behind each; empty of smears.
    """

    subject_id: str
    slide_ids: tuple[str, ...]
    specimen: str
    taxonomy: str
    classes: tuple[str, ...]
    classifier_sha256: str
    cell_ids: npt.NDArray[np.str_]
    slide: IntArray
    probabilities: FloatArray
    given: IntArray
    embedding: FloatArray | None
    morphology: FloatArray
    morphology_names: tuple[str, ...]
    attributes: FloatArray
    attribute_names: tuple[str, ...]
    outlier: FloatArray | None
    images: tuple[str, ...] | None
    sources: tuple[Path, ...]
    digests: npt.NDArray[np.str_] | None
    red: Mapping[str, float]
    other_counts: Mapping[str, int]
    patient: str = ""
    given_labels: npt.NDArray[np.str_] | None = None
    simulated: bool = False
    sample: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cell_ids)

    @property
    def patient_id(self) -> str:
        """Return whom the cells are of: the patient, or the subject where no patient is known."""
        return self.patient or self.subject_id

    @property
    def likeliest(self) -> IntArray:
        """Return the class of each cell by the classifier ``(n,)``, an index into ``classes``."""
        if not len(self):
            return np.empty(0, np.int64)
        return self.probabilities.argmax(axis=1).astype(np.int64)

    def take(self, rows: npt.ArrayLike) -> CellBag:
        """Return a bag of some of the cells, in the order of ``rows``; a row may be taken more than once."""
        chosen = np.asarray(rows, np.int64)
        return replace(
            self,
            cell_ids=self.cell_ids[chosen],
            slide=self.slide[chosen],
            probabilities=self.probabilities[chosen],
            given=self.given[chosen],
            embedding=None if self.embedding is None else self.embedding[chosen],
            morphology=self.morphology[chosen],
            attributes=self.attributes[chosen],
            outlier=None if self.outlier is None else self.outlier[chosen],
            images=None if self.images is None else tuple(self.images[i] for i in chosen.tolist()),
            digests=None if self.digests is None else self.digests[chosen],
            given_labels=None if self.given_labels is None else self.given_labels[chosen],
        )

    @property
    def order(self) -> IntArray:
        """Return the rows ``(n,)`` in the order of their ids, and of their slides where ids are equal."""
        return np.lexsort((self.slide, self.cell_ids))

    def in_order(self) -> CellBag:
        """Return the bag with its cells in the order of their ids."""
        order = self.order
        return self if np.array_equal(order, np.arange(len(order))) else self.take(order)
