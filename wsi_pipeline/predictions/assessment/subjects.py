"""The table a study is made of: subjects with features and a class, whose patient and centre are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, some

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """``n`` subjects; made by :meth:`of`, which checks them.

    Parameters
    ----------
    features
        ``(n, d)``, NaN where a value is missing.
    labels
        ``(n,)`` class of each subject, an index into ``classes``.
    patients, centres
        ``(n,)`` indices into ``patient_names`` and ``centre_names``. Subjects of one patient are never parted.
    """

    features: FloatArray
    labels: IntArray
    patients: IntArray
    centres: IntArray | None
    classes: tuple[str, ...]
    feature_names: tuple[str, ...]
    patient_names: tuple[str, ...]
    centre_names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        features: npt.ArrayLike,
        labels: Sequence[str],
        *,
        patients: Sequence[str] | None = None,
        centres: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> Subjects:
        """Check a table and return it.

        Parameters
        ----------
        features
            ``(n, d)``, NaN where a value is missing.
        labels, patients, centres
            One name a subject; without ``patients`` each subject is a patient of its own.
        classes
            Order of the classes; by name when not given.

        Raises
        ------
        DataError
            Lengths differ, a value is infinite, a label is not among the classes, or fewer than two classes occur.
        """
        x = np.asarray(features, dtype=np.float64)
        if x.ndim != 2 or not x.size:
            raise DataError(f"features must be a table of subjects by features; the shape is {x.shape}")
        n, d = x.shape
        for what, given in (("labels", labels), ("patients", patients), ("centres", centres)):
            if given is not None and len(given) != n:
                raise DataError(f"one entry a subject is needed: {n} subjects, {len(given)} {what}")
        if np.isinf(x).any():
            raise DataError(f"{int(np.isinf(x).any(axis=1).sum())} subjects have infinite values; missing ones are NaN")
        names = tuple(feature_names) if feature_names is not None else tuple(f"feature {i + 1}" for i in range(d))
        if len(names) != d:
            raise DataError(f"one name a feature is needed: {d} features, {len(names)} names")
        order = tuple(classes) if classes is not None else tuple(sorted(set(labels)))
        unknown = sorted(set(labels) - set(order))
        if unknown:
            raise DataError(f"labels {some(unknown)} are not among the classes {', '.join(order)}")
        absent = [name for name in order if name not in set(labels)]
        if absent or len(order) < 2:
            raise DataError(
                f"two or more classes with subjects are needed; found {some(sorted(set(labels)))}"
                + (f", and none of {some(absent)}" if absent else "")
            )
        rank = {name: i for i, name in enumerate(order)}
        patient_names, patient = _coded([f"subject {i + 1}" for i in range(n)] if patients is None else patients)
        centre_names, centre = ((), None) if centres is None else _coded(centres)
        return cls(
            features=x,
            labels=np.array([rank[name] for name in labels], np.int64),
            patients=patient,
            centres=centre,
            classes=order,
            feature_names=names,
            patient_names=patient_names,
            centre_names=centre_names,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_patients(self) -> int:
        """Return how many patients there are."""
        return int(np.unique(self.patients).size)

    def take(self, rows: npt.ArrayLike) -> Subjects:
        """Return some of the subjects, with the same codes."""
        chosen = np.asarray(rows)
        return replace(
            self,
            features=self.features[chosen],
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            centres=None if self.centres is None else self.centres[chosen],
        )

    def with_labels(self, labels: IntArray) -> Subjects:
        """Return the same subjects with other labels."""
        return replace(self, labels=labels)


def _coded(names: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    known, index = np.unique(np.asarray([str(name) for name in names]), return_inverse=True)
    return tuple(str(name) for name in known), index.astype(np.int64)
