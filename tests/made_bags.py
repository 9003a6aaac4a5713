"""Bags of cells without a run: classes, embeddings and labels drawn at random, with a signal where one is planted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.bags.cells import MORPHOLOGY
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.slides.members import TrainingSet

TAXONOMY = "pbc-blast"
CLASSES = load_taxonomy(TAXONOMY).classifier_classes
SHA256 = "ab" * 32
DIM = 8


def made_bag(
    name: str,
    *,
    seed: int,
    cells: int = 40,
    promyelocytes: float = 0.2,
    shift: float = 0.0,
    labelled: bool = False,
    simulated: bool = False,
    stain: float = 0.4,
) -> CellBag:
    """Return a patient whose immature cells look ``shift`` otherwise, and of whose cells a share are promyelocytes."""
    rng = np.random.default_rng(seed)
    kinds = ["promyelocyte", "blast", "segmented_neutrophil", "lymphocyte"]
    rest = (1 - promyelocytes) / 3
    true = rng.choice(4, cells, p=[promyelocytes, rest, rest, rest])
    index = np.array([CLASSES.index(k) for k in kinds])[true]
    p = 0.2 * rng.dirichlet(np.ones(len(CLASSES)), cells)
    p[np.arange(cells), index] += 0.8
    embedding = rng.normal(size=(cells, DIM)) + np.eye(4, DIM)[true] * 2
    embedding[true < 2, 5] += shift
    morphology = np.full((cells, len(MORPHOLOGY)), 1.0) + 0.1 * rng.normal(size=(cells, len(MORPHOLOGY)))
    for own in ("cell_od_red", "cell_od_green", "cell_od_blue"):
        morphology[:, MORPHOLOGY.index(own)] = stain + 0.05 * rng.normal(size=cells)
    ids = np.array([f"{name}-{i:04d}" for i in range(cells)])
    given = index if labelled else np.full(cells, -1)
    return CellBag(
        subject_id=name,
        slide_ids=(name,),
        specimen="blood_smear",
        taxonomy=TAXONOMY,
        classes=CLASSES,
        classifier_sha256=SHA256,
        cell_ids=ids,
        slide=np.zeros(cells, np.int64),
        probabilities=p.astype(np.float32),
        given=given.astype(np.int64),
        embedding=embedding.astype(np.float32),
        morphology=morphology.astype(np.float32),
        morphology_names=MORPHOLOGY,
        attributes=np.empty((cells, 0), np.float32),
        attribute_names=(),
        outlier=None,
        images=None,
        sources=(Path(name),),
        digests=None,
        red={},
        other_counts={},
        patient=name,
        given_labels=np.array([f"{TAXONOMY}/{CLASSES[i]}" for i in index]) if labelled else None,
        simulated=simulated,
    )


def made_training_set(
    bags: Sequence[CellBag],
    labels: Sequence[str],
    *,
    task: str = "apl",
    classes: Sequence[str] | None = None,
    counts: np.ndarray | None = None,
) -> TrainingSet:
    """Return bags as a training set; ``counts`` ``(n, 1)`` are of ``WBC_G_L``."""
    asked = load_task(task)
    asked = asked if classes is None else asked.restricted(classes)
    names = {str(v) for bag in bags if bag.given_labels is not None for v in bag.given_labels}
    return TrainingSet(
        task=asked,
        subjects=tuple(subjects_of(bags, counts=counts, count_names=("WBC_G_L",))),
        labels=np.array([asked.codes.index(label) for label in labels], np.int64),
        patients=np.arange(len(bags)),
        vocabulary=Vocabulary(taxonomy=TAXONOMY, classes=CLASSES),
        label_names=tuple(sorted(names)),
        analytes=() if counts is None else ("WBC_G_L",),
    )


def two_groups(n: int, *, seed: int = 0, shift: float = 1.2, labelled: bool = False) -> tuple[list[CellBag], list[str]]:
    """Return ``n`` patients, every other one with APL: more promyelocytes, and immature cells that look otherwise."""
    rng = np.random.default_rng(seed)
    bags, labels = [], []
    for i in range(n):
        apl = i % 2 == 0
        share = float(np.clip(rng.normal(0.32 if apl else 0.2, 0.08), 0.02, 0.9))
        own = (shift if apl else 0.0) + 0.3 * rng.normal()
        bags.append(made_bag(f"P{i:03d}", seed=seed * 1000 + i, promyelocytes=share, shift=own, labelled=labelled))
        labels.append("apl" if apl else "aml_other")
    return bags, labels
