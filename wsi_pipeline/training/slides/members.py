"""Which members a slide-level model is made of, and how each is fitted to a training part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.cross_validation import sub_seed
from wsi_pipeline.predictions.bags.runs import SECTIONS
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_models.frame import CellFrame
from wsi_pipeline.predictions.slide_models.inputs import PARTS, Appearance, Composition, Input, Labels, RoutineCounts
from wsi_pipeline.predictions.slide_models.member import Member
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.tasks import Task
from wsi_pipeline.training.slides.encoder import CellMaps, fit_encoder
from wsi_pipeline.training.slides.linear import fit_linear
from wsi_pipeline.training.slides.networks import train_network
from wsi_pipeline.training.slides.trees import feature_columns, feature_values, fit_booster, fit_tree

IntArray = npt.NDArray[np.int64]

LABELS, ROUTINE = "labels", "routine counts"
ENCODER = "encoder"
"""The cell network tuned to the labels of subjects (:mod:`wsi_pipeline.training.slides.encoder`)."""
OPTIONAL = (LABELS, ROUTINE)
"""Members that read what not every subject has."""
_TREES = ("forest", "boosted", "tree")
_NETWORKS = ("attention", "morphotypes")

RECIPES: Mapping[str, tuple[str, ...]] = {
    "counts": ("composition", LABELS, *_TREES),
    "mil": ("all", "immature", *_NETWORKS),
    "fusion": (
        "composition", LABELS, "immature", "beyond-class", "contrast", "neutrophils", *_NETWORKS, ROUTINE,
    ),
}  # fmt: skip
"""Members of each kind of model."""
SECTION_RECIPES: Mapping[str, tuple[str, ...]] = {"counts": _TREES, "fusion": (*_TREES, ROUTINE)}
"""The same of trephines, whose cells have one class and no classifier's embedding."""

AXES = 48
"""Directions of the embedding that are kept."""
_LEUKAEMIA = {"normal", "aml_other", "apl"}
"""A task of these states alone is answered by immature cells first."""
SEEDS = 2
"""Networks of each kind in each fold."""
LEAST_OF_CLASS = 4
"""Patients of each class that an optional member needs."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Subjects whose class is known.

    Parameters
    ----------
    labels, patients
        ``(n,)``: class, an index into those of the task, and patient; subjects of one patient are never parted.
    vocabulary
        Of the slide features.
    label_names, analytes
        Labels ``TAXONOMY/CLASS`` that folders gave, and routine counts that the cohort has.
    maps
        What the frozen part of an encoder gives of the cells; None where none is tuned.
    """

    task: Task
    subjects: tuple[Subject, ...]
    labels: IntArray
    patients: IntArray
    vocabulary: Vocabulary
    label_names: tuple[str, ...]
    analytes: tuple[str, ...]
    maps: CellMaps | None = None

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def n_classes(self) -> int:
        """Return how many classes there are."""
        return len(self.task.codes)

    def take(self, rows: npt.ArrayLike, labels: IntArray | None = None) -> TrainingSet:
        """Return some of the subjects, with other labels where given."""
        chosen = np.asarray(rows, np.int64)
        return replace(
            self,
            subjects=tuple(self.subjects[i] for i in chosen.tolist()),
            labels=self.labels[chosen] if labels is None else labels,
            patients=self.patients[chosen],
        )

    def patients_of_classes(self) -> IntArray:
        """Return how many patients each class has."""
        return np.array([np.unique(self.patients[self.labels == c]).size for c in range(self.n_classes)])


def is_of_sections(task: Task) -> bool:
    """Tell whether a task is asked of trephines."""
    return set(task.specimens) <= set(SECTIONS)


def members_of(kind: str, encoder: str = "frozen", *, sections: bool = False) -> tuple[str, ...]:
    """Return the names of the members of a kind of model; ``auto`` is ``fusion``.

    Parameters
    ----------
    encoder
        ``tune`` adds the cell network tuned to the labels of subjects; ``frozen`` does not.
    sections
        Of trephines.

    Raises
    ------
    ConfigError
        There is no such kind, or its encoder is not to be had that way.
    """
    recipes = SECTION_RECIPES if sections else RECIPES
    found = recipes.get("fusion" if kind == "auto" else kind)
    if found is None and sections and kind in RECIPES:
        raise ConfigError(f"--model {kind!r}: models of trephines are auto, {', '.join(recipes)}")
    if found is None:
        raise ConfigError(f"--model {kind!r}: give auto, {', '.join(recipes)}")
    if sections and encoder == "tune":
        raise ConfigError("--encoder tune: models of trephines read no pixels of cells; leave it out")
    if encoder not in ("frozen", "tune"):
        raise ConfigError(f"--encoder {encoder!r}: give frozen or tune")
    if encoder == "tune" and not reads_embedding(kind):
        raise ConfigError(f"--encoder tune: model {kind} looks at no single cell; give --model auto, fusion or mil")
    return (*found, ENCODER) if encoder == "tune" else found


def reads_embedding(kind: str, *, sections: bool = False) -> bool:
    """Tell whether a kind of model reads embeddings; none of trephines does."""
    return any(name in PARTS or name in _NETWORKS for name in members_of(kind, sections=sections))


def fit_members(names: tuple[str, ...], data: TrainingSet, *, seed: int) -> list[Member]:
    """Return the members fitted to a training part; an optional one that too few patients have is left out."""
    found: list[Member] = []
    states = {state for own in data.task.classes for state in own.states}
    focus = bool(states) and states <= _LEUKAEMIA
    frame = None
    if any(name in PARTS or name in _NETWORKS for name in names):
        frame = CellFrame.fit(data.subjects, AXES)
    values = feature_values(data.vocabulary, data.subjects) if set(names) & set(_TREES) else None
    for i, name in enumerate(names):
        own = sub_seed(seed, i)
        if name in _NETWORKS and frame is not None:
            found += [
                train_network(
                    name,
                    frame,
                    data.subjects,
                    data.labels,
                    n_classes=data.n_classes,
                    focus=focus,
                    seed=sub_seed(own, k),
                )
                for k in range(SEEDS)
            ]
        elif name == ENCODER and data.maps is not None:
            tuned = fit_encoder(name, data.maps, [s.bag for s in data.subjects], data.labels, seed=own % 2**31)
            found += [] if tuned is None else [tuned]
        elif name in _TREES and values is not None:
            columns = feature_columns(data.vocabulary, values, paper=name == "tree")
            if columns.columns:
                fit = {"n_classes": data.n_classes, "seed": own % 2**31}
                found.append(
                    fit_tree(columns, values, data.labels, **fit)
                    if name == "tree"
                    else fit_booster(name, columns, values, data.labels, **fit)
                )
        else:
            read = _input(name, data, frame)
            part = data.take([k for k, s in enumerate(data.subjects) if read is not None and read.applies(s)])
            if read is None or ((part.patients_of_classes() < LEAST_OF_CLASS).any() and name in OPTIONAL):
                continue
            found.append(
                fit_linear(name, read, part.subjects, part.labels, part.patients, n_classes=data.n_classes, seed=own)
            )
    return found


def _input(name: str, data: TrainingSet, frame: CellFrame | None) -> Input | None:
    if name in PARTS and frame is not None:
        return Appearance(part=name, frame=frame)
    if name == LABELS:
        return Labels(labels=data.label_names) if data.label_names else None
    if name == ROUTINE:
        return routine_input(data)
    return Composition(classes=data.subjects[0].bag.classes)


def routine_input(data: TrainingSet) -> RoutineCounts | None:
    """Return what reads the routine counts that the subjects have; None where none has any."""
    if not data.analytes:
        return None
    table = np.array([[s.counts.get(a, np.nan) for a in data.analytes] for s in data.subjects])
    known = np.isfinite(table).any(axis=0)
    analytes = tuple(a for a, there in zip(data.analytes, known.tolist(), strict=True) if there)
    return RoutineCounts(analytes=analytes, medians=np.nanmedian(table[:, known], axis=0)) if analytes else None
