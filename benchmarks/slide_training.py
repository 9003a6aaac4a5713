"""How long a slide-level model takes to train: 100 patients of 500 cells with cached embeddings, all folds included.

    python benchmarks/slide_training.py                      auto, 100 patients x 500 cells, 128 numbers a cell
    python benchmarks/slide_training.py --model mil --patients 50

Cells are random numbers with a weak planted signal, so times are all that is measured: the fit of the model that is
kept, then the study (five folds, everything fitted anew inside each). Wall and processor seconds, and peak memory; run
it alone on two cores. The target is five minutes for the two together.

Not measured: reading the runs, and the report.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.bags.cells import MORPHOLOGY
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.slides.fit import fit_slide_model
from wsi_pipeline.training.slides.members import TrainingSet, members_of
from wsi_pipeline.training.slides.study import study_slides

TAXONOMY = "pbc-blast"
DIM = 128


def made_bag(number: int, cells: int, apl: bool) -> CellBag:
    """Return a patient of random cells; with APL a few more are promyelocytes."""
    rng = np.random.default_rng(number)
    classes = load_taxonomy(TAXONOMY).classifier_classes
    share = np.full(len(classes), 1.0)
    share[classes.index("promyelocyte")] = 2.0 if apl else 1.5
    kind = rng.choice(len(classes), cells, p=rng.dirichlet(10 * share / share.sum()))
    p = 0.3 * rng.dirichlet(np.ones(len(classes)), cells)
    p[np.arange(cells), kind] += 0.7
    centres = np.random.default_rng(0).normal(size=(len(classes), DIM))
    embedding = centres[kind] + rng.normal(size=(cells, DIM)) + 0.05 * apl
    given = np.where(rng.random(cells) < 0.5, kind, -1)
    return CellBag(
        subject_id=f"P{number:04d}", slide_ids=(f"P{number:04d}",), specimen="blood_smear", taxonomy=TAXONOMY,
        classes=classes, classifier_sha256="0" * 64, cell_ids=np.array([f"{number}-{i:05d}" for i in range(cells)]),
        slide=np.zeros(cells, np.int64), probabilities=p.astype(np.float32), given=given,
        embedding=embedding.astype(np.float32),
        morphology=rng.uniform(1, 2, (cells, len(MORPHOLOGY))).astype(np.float32), morphology_names=MORPHOLOGY,
        attributes=np.empty((cells, 0), np.float32), attribute_names=(), outlier=None, images=None,
        sources=(Path("none"),), digests=None, red={}, other_counts={},
    )  # fmt: skip


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--cells", type=int, default=500)
    given = parser.parse_args()
    task = load_task("apl")
    apl = np.arange(given.patients) % 2 == 0
    bags = [made_bag(i, given.cells, bool(own)) for i, own in enumerate(apl.tolist())]
    data = TrainingSet(
        task=task,
        subjects=tuple(subjects_of(bags)),
        labels=np.where(apl, task.codes.index("apl"), task.codes.index("aml_other")).astype(np.int64),
        patients=np.arange(given.patients),
        vocabulary=Vocabulary(taxonomy=TAXONOMY, classes=bags[0].classes),
        label_names=(),
        analytes=(),
    )
    names = members_of(given.model)
    print(f"{given.model} ({', '.join(names)}): {given.patients} patients x {given.cells} cells")
    plan = Plan(folds=5, repeats=1, null_repeats=0, fractions=())
    for what, work in (
        ("fit", lambda: fit_slide_model(data, names, seed=0)),
        ("study", lambda: study_slides(data, names, given.model, plan, centres=None)),
    ):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        print(f"{what}: {time.perf_counter() - wall:.0f} s, processor {time.process_time() - processor:.0f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
