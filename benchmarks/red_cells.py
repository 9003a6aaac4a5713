"""Red-cell shapes by morphology alone: features of ``docs/morphology.md`` and a support vector machine.

Data: the fields of Chula RBC-12 under ``$WSI_PIPELINE_DATA/rbc-morphology`` (arXiv 2012.01321), about 0.18 um a pixel,
labelled in part by points. Cells are found by Otsu's threshold on green, holes filled, and a watershed of the distance
from the outline; a point belongs to the cell it lies in. Five folds split by field, and once more by blocks of
consecutive field numbers, which resemble each other more; nothing is tuned on them. Intervals resample the groups of
the split. Points in no cell, or in a cell with several points, have no answer and count as wrong. No patient numbers
exist, so cells of one patient may lie on both sides of a split: figures are optimistic for new patients.

Elliptocytes come from fields of their own, which hold nothing else and were taken later: telling them may be telling
the batch. The column "without elliptocytes" leaves those fields' cells out of the figures.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from _harness import parser, print_table, record, start

MPP = 0.18
CLASSES = (
    "normal", "macrocyte", "microcyte", "spherocyte", "target cell", "stomatocyte", "ovalocyte", "teardrop",
    "burr cell", "schistocyte", "uncategorised", "hypochromia", "elliptocyte",
)  # fmt: skip
LEFT_OUT = ("uncategorised",)
OWN_FIELDS = "elliptocyte"
SHAPE_ONLY = ("area_", "perimeter_", "circularity", "solidity", "eccentricity", "shape_", "pallor_")


def segment(rgb: Any) -> Any:
    """Return labels of red cells."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    green = gaussian(rgb[..., 1], 1, preserve_range=True)
    mask = ndimage.binary_opening(ndimage.binary_fill_holes(green < threshold_otsu(green)), iterations=2)
    depth = gaussian(ndimage.distance_transform_edt(mask), 1.5)
    parts, _ = ndimage.label(mask)
    peaks = peak_local_max(depth, min_distance=round(2.2 / MPP), labels=parts, exclude_border=False)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=mask).astype(np.int32)


def load(folder: Path) -> tuple[Any, list[str], list[str], Counter[str]]:
    """Return features (NaN rows where a point has no cell of its own), classes, fields, and what became of points."""
    from wsi_pipeline.cells.morphology import measure_morphology
    from wsi_pipeline.cells.windows import estimate_background
    from wsi_pipeline.evaluation.datasets import read_points
    from wsi_pipeline.slides.picture import read_image

    rows, classes, fields, fate = [], [], [], Counter()
    for path in sorted((folder / "images").glob("*.jpg"), key=lambda p: int(p.stem)):
        rgb = read_image(path)
        labels = segment(rgb)
        table = measure_morphology(labels, rgb, mpp=MPP, background=estimate_background(rgb))
        points = read_points(folder / "points" / f"{path.stem}.txt")
        x, y = np.clip(points.xy.astype(int), 0, [rgb.shape[1] - 1, rgb.shape[0] - 1]).T
        of = labels[y, x]
        shared = np.bincount(of, minlength=labels.max() + 1)[of] > 1
        for k, several, number in zip(of, shared, points.classes or (), strict=True):
            name = CLASSES[int(number)]
            if name in LEFT_OUT:
                continue
            usable = k > 0 and not several
            fate["measured" if usable else "no cell" if k == 0 else "several points in one cell"] += 1
            rows.append(table[k - 1] if usable else np.full(table.shape[1], np.nan))
            classes.append(name)
            fields.append(path.stem)
    return np.array(rows), classes, fields, fate


def cross_validate(features: Any, classes: list[str], groups: list[str], model: Any) -> list[str | None]:
    """Return the answer for each cell by a model that saw no cell of its group."""
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold

    measured = np.isfinite(features[:, 0])
    answers = np.full(len(classes), None, object)
    truth = np.array(classes)
    for train, test in GroupKFold(5).split(features, truth, groups):
        train, test = train[measured[train]], test[measured[test]]  # noqa: PLW2901
        answers[test] = clone(model).fit(features[train], truth[train]).predict(features[test])
    return list(answers)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=Path(os.environ.get("WSI_PIPELINE_DATA", ".")) / "rbc-morphology")
    chosen = start(options.parse_args())
    from sklearn.dummy import DummyClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from wsi_pipeline.cells.features import NAMES
    from wsi_pipeline.predictions.assessment.confusion import evaluate_classification

    table, classes, fields, fate = load(chosen.data)
    print(dict(fate))
    names = [c for c in CLASSES if c in set(classes)]
    order = {field: i for i, field in enumerate(dict.fromkeys(fields))}
    splits = {"field": fields, "block of 6 fields": [str(order[f] // 6) for f in fields]}
    every = [i for i, n in enumerate(NAMES) if not n.startswith(("nucleus_", "nc_"))]
    shape = [i for i in every if NAMES[i].startswith(SHAPE_ONLY)]
    svm = make_pipeline(SimpleImputer(), StandardScaler(), SVC(C=10, class_weight="balanced"))
    models = {
        "majority": (every, DummyClassifier()),
        "SVM, shape and pallor": (shape, svm),
        "SVM, all": (every, svm),
    }
    shown, figures = [], {}
    for split, groups in splits.items():
        for title, (columns, model) in models.items():
            answers = cross_validate(table[:, columns], classes, groups, model)
            found = evaluate_classification(classes, answers, classes=names, groups=groups)
            f1 = {s.name: s.f1 for s in found.per_class}
            others = [i for i, c in enumerate(classes) if c != OWN_FIELDS]
            rest = evaluate_classification(
                [classes[i] for i in others], [answers[i] for i in others], groups=[groups[i] for i in others],
                classes=[n for n in names if n != OWN_FIELDS],
            )  # fmt: skip
            cells = [found.macro_f1, rest.macro_f1, found.accuracy, f1["schistocyte"], f1["teardrop"]]
            shown.append((split, title, *(f"{e.value:.3f} ({e.lower:.3f}-{e.upper:.3f})" for e in cells)))
            figures[f"{split}; {title}"] = {
                "macro_f1": [found.macro_f1.value, found.macro_f1.lower, found.macro_f1.upper],
                "macro_f1_without_elliptocytes": [rest.macro_f1.value, rest.macro_f1.lower, rest.macro_f1.upper],
                "accuracy": [found.accuracy.value, found.accuracy.lower, found.accuracy.upper],
                "f1": {n: [e.value, e.lower, e.upper] for n, e in f1.items()},
                "support": {s.name: s.support for s in found.per_class},
            }
    print_table(
        ("split by", "model", "macro-F1", "without elliptocytes", "accuracy", "schistocyte F1", "teardrop F1"), shown
    )
    for name, (value, lower, upper) in figures["field; SVM, all"]["f1"].items():
        print(f"  {name}: F1 {value:.3f} ({lower:.3f}-{upper:.3f}), {classes.count(name)} cells")
    record(chosen.results, "red_cells", "rbc-morphology", {"fields": len(order), "points": dict(fate)}, figures)


if __name__ == "__main__":
    main()
