"""From finished runs and a manifest to what a slide-level model is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.predictions.bags import CellBag, Cohort, read_cohort, read_runs
from wsi_pipeline.predictions.bags.manifest import patients_of, read_labels
from wsi_pipeline.predictions.bags.runs import SECTIONS, SMEARS
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.predictions.tasks import Task
from wsi_pipeline.predictions.trephines.phenotypes import load_phenotypes
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.training.slides.encoder import CellMaps, EncoderRecipe, read_cell_maps
from wsi_pipeline.training.slides.members import TrainingSet, is_of_sections
from wsi_pipeline.weights import shipped_weights


@dataclass(frozen=True, kw_only=True)
class CohortRequest:
    """Which subjects, and what they are.

    Parameters
    ----------
    runs, manifest
        Folders that ``run`` wrote, and the CSV table of labels.
    level
        ``patient`` pools the slides of each, ``slide`` does not.
    cohort_column, label_column
        Names of these columns, where they have others than usual.
    phenotypes
        Of trephines: the model that tells phenotypes; None takes what the runs told.

    Raises
    ------
    ConfigError
        Phenotypes for a task of smears.
    """

    runs: tuple[Path, ...]
    manifest: Path
    task: Task
    level: Literal["slide", "patient"] = "patient"
    cohort_column: str | None = None
    label_column: str | None = None
    ignore_unknown_labels: bool = False
    phenotypes: Path | None = None

    def __post_init__(self) -> None:
        if self.phenotypes is not None and not is_of_sections(self.task):
            raise ConfigError(f"--phenotypes: task {self.task.name} is of smears, which have none; leave it out")


def read_request(request: CohortRequest, *, embedding: bool) -> tuple[Cohort, list[str]]:
    """Return the cohort, and sentences on who is not in it.

    Raises
    ------
    DataError
        As :func:`~wsi_pipeline.predictions.bags.read_runs` and :func:`~wsi_pipeline.predictions.bags.read_cohort`.

    Notes
    -----
    Slides whose run was not told a patient are pooled by the patient that the table names.
    """
    table = read_labels(request.manifest, label=request.label_column, cohort=request.cohort_column)
    bags, skipped = read_runs(
        request.runs,
        level=request.level,
        embedding=embedding,
        patients=patients_of(table),
        specimens=specimens_of(request.task),
        phenotypes=None if request.phenotypes is None else load_phenotypes(request.phenotypes),
    )
    cohort = read_cohort(
        request.manifest,
        bags,
        request.task,
        ignore_unknown_labels=request.ignore_unknown_labels,
        label_column=request.label_column,
        cohort_column=request.cohort_column,
    )
    said = [f"{len(skipped)} slides have no cells: {some(map(str, skipped))}"] if skipped else []
    return cohort, [*said, *cohort.notes.lines()]


def specimens_of(task: Task) -> tuple[str, ...]:
    """Return the specimens whose slides are read: all smears, or those of a task of trephines."""
    return SECTIONS if is_of_sections(task) else SMEARS


def training_set(cohort: Cohort, task: Task) -> TrainingSet:
    """Return a cohort as a training set of the classes that occur in it.

    Raises
    ------
    DataError
        Only one class occurs.
    """
    there = set(cohort.labels)
    if len(there) < 2:
        raise DataError(
            f"task {task.name}: all {len(cohort)} subjects are {', '.join(there) or 'left out'}; two classes are needed"
        )
    own = task.restricted(there)
    return TrainingSet(
        task=own,
        subjects=tuple(subjects_of(cohort.bags, counts=cohort.counts, count_names=cohort.count_names)),
        labels=np.array([own.codes.index(label) for label in cohort.labels], np.int64),
        patients=np.unique(np.asarray(cohort.patients), return_inverse=True)[1].astype(np.int64),
        vocabulary=_vocabulary(cohort.bags),
        label_names=_labels(cohort.bags),
        analytes=cohort.count_names,
    )


def maps_of(data: TrainingSet, classifier: str | None, report: Callable[[str], None]) -> CellMaps:
    """Return what an encoder is tuned on: the cells' pixels, read again, seen by the frozen part of their classifier.

    Parameters
    ----------
    classifier
        Name or file; None takes the shipped one that typed the cells. A GPU is used where there is one.

    Raises
    ------
    ConfigError
        The classifier is not that of the runs, or is no shipped one and was not named.
    DataError
        Pixels are not to be had any more.
    """
    sha256 = data.subjects[0].bag.classifier_sha256
    own = classifier or next((name for name, w in shipped_weights().items() if w.sha256 == sha256), None)
    if own is None:
        raise ConfigError(
            f"--encoder tune: no shipped classifier typed these cells ({sha256[:12]}); name its file with --classifier"
        )
    device = resolve_device("auto")
    loaded = load_classifier(own, device)
    bags = [subject.bag for subject in data.subjects]
    return read_cell_maps(bags, loaded, data.n_classes, EncoderRecipe(), device=device, report=report)


def _vocabulary(bags: Sequence[CellBag]) -> Vocabulary:
    found = Vocabulary.of(bags)
    return Vocabulary(taxonomy=found.taxonomy, classes=found.classes, attributes=found.attributes)


def _labels(bags: Sequence[CellBag]) -> tuple[str, ...]:
    found = {str(name) for bag in bags if bag.given_labels is not None for name in np.unique(bag.given_labels)}
    return tuple(sorted(found - {""}))
