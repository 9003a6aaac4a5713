"""Recipes for slide-level models, compared on simulated patients made of real cells.

    python benchmarks/slide_recipes.py                      three cohorts of 80 + 24 patients
    python benchmarks/slide_recipes.py --seeds 0 --frozen   one cohort, no encoder is tuned

What the patients are, and what was planted in them: ``_pseudo_patients.py``. They are **simulated**; that a recipe does
well here says that it finds such signals among such nuisances, and nothing of how it does on patients. The shipped
classifier was trained on most of these cells, so that its answers are better here than in another laboratory.

``wsi-pipeline run --gallery`` is run once a cohort and kept in the scratch folder. Every recipe is judged in two ways:
by patient-grouped cross-validation of the first laboratory, all of it (weights, strengths, tuning, calibration) fitted
anew inside every fold, and by a model of the first laboratory on the second, whose stain and magnification are others.
Intervals are percentiles of a bootstrap over patients, within cohorts; a cohort has a stratum of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import parser, print_table, record, start, use_torch_threads
from _pseudo_patients import DISCOVERY, MPP, POSITIVE, PseudoSpec, make_cohort

ALONE = {
    "composition": "composition, ridge",
    "immature": "mean embedding of immature cells, ridge",
    "attention": "attention MIL",
    "morphotypes": "morphotypes",
    "encoder": "tuned encoder",
}
"""Members that are recipes of their own; beside them stand plain models and the fusion with and without an encoder."""
FROZEN, TUNED = "fusion, --encoder frozen", "fusion, --encoder tune"
CHOSEN = {
    "equal": "members of fusion, equal weights",
    "best": "members of fusion, the best one of the inner folds",
    "selected": "members of fusion, selected in the inner folds",
}
"""Other ways to put the members together, each by what the inner folds said of patients left out."""
_ROUNDS = 20
"""Of the selection of members (Caruana et al., ICML 2004): each adds the one that lowers the log loss most."""
_FOLDS = 5
_REPLICATES = 2000

FloatArray = npt.NDArray[np.float64]
Answers = dict[str, tuple[FloatArray, FloatArray]]
"""Of each recipe the log-odds of the patients of the first laboratory, held out, and of the second."""


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="cohorts (default 0 1 2)")
    options.add_argument("--mix", type=float, default=1.0, help="part of the difference in composition that is planted")
    options.add_argument("--keep", type=float, default=0.2, help="structure an altered cell keeps; 1 plants no look")
    options.add_argument("--processes", type=int, default=2, help="cohorts that are judged at a time (default 2)")
    options.add_argument("--frozen", action="store_true", help="tune no encoder")
    given = start(options.parse_args())
    data = os.environ.get("WSI_PIPELINE_DATA")
    if not data:
        sys.exit("set WSI_PIPELINE_DATA")
    spec = PseudoSpec(mix=given.mix, keep=given.keep)
    folders = []
    for seed in given.seeds:
        own = replace(spec, seed=seed)
        folders.append(given.scratch / "slide-recipes" / own.name)
        gallery, _ = make_cohort(Path(data), folders[-1], own)
        run_gallery(gallery, folders[-1] / "run")
    begun = time.monotonic()
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        found = list(pool.map(partial(judge, tune=not given.frozen), folders, given.seeds))
    print(f"judged in {time.monotonic() - begun:.0f} s")
    names = list(found[0][2])
    rows, figures = [], {}
    for name in names:
        inside = auc_of([(a[name][0], y) for y, _, a in found])
        outside = auc_of([(a[name][1], y) for _, y, a in found])
        rows.append((name, shown(inside), shown(outside)))
        figures[name] = {"held_out": inside, "second_laboratory": outside}
    n = [sum(len(y) for y, _, _ in found), sum(len(y) for _, y, _ in found)]
    print(f"\nSIMULATED patients of real cells, {len(found)} cohorts; AUC, mean over cohorts, 95 % interval")
    print_table(("recipe", f"{_FOLDS} folds, n = {n[0]}", f"second laboratory, n = {n[1]}"), rows)
    work: dict[str, Any] = {"seeds": list(given.seeds), "mix": given.mix, "keep": given.keep, "n": n}
    record(given.results, "slide-recipes", "pseudo-patients", work, figures)


def run_gallery(gallery: Path, out: Path) -> None:
    """Run the gallery unless it was; a run that was cut off goes on."""
    if (out / "slides.csv").is_file() and (out / "report.html").is_file():
        return
    subprocess.run(
        [
            sys.executable, "-m", "wsi_pipeline.cli.main", "run", "--gallery", str(gallery), "--mpp", str(MPP),
            "--out", str(out), "--device", "cpu", "--set", "exports.report=false",
        ],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def judge(folder: Path, seed: int, *, tune: bool) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Answers]:
    """Return who is in the second group, in both laboratories, and what every recipe says of them."""
    from wsi_pipeline.predictions.assessment.folds import grouped_folds
    from wsi_pipeline.predictions.tasks import load_task
    from wsi_pipeline.training.slides.data import CohortRequest, maps_of, read_request, training_set
    from wsi_pipeline.training.slides.members import members_of

    task = load_task("apl")
    cohort, _ = read_request(
        CohortRequest(runs=(folder / "run",), manifest=folder / "labels.csv", task=task), embedding=True
    )
    whole = training_set(cohort, task)
    if tune:
        whole = replace(whole, maps=maps_of(whole, None, lambda line: print(f"  cohort {seed}: {line}", flush=True)))
    first = np.array([c == DISCOVERY for c in cohort.centres or ()])
    positive = whole.labels == whole.task.codes.index(POSITIVE)
    inside, outside = np.flatnonzero(first), np.flatnonzero(~first)
    fold = grouped_folds(whole.labels[inside], whole.patients[inside], _FOLDS, seed=seed)
    use_torch_threads()
    names = members_of("fusion", "tune" if tune else "frozen")
    held: dict[str, FloatArray] = {}
    for number in range(_FOLDS):
        test = fold == number
        for name, odds in answers(whole, inside[~test], inside[test], names, seed).items():
            held.setdefault(name, np.zeros(len(inside)))[test] = odds
    second = answers(whole, inside, outside, names, seed)
    return positive[inside], positive[outside], {name: (own, second[name]) for name, own in held.items()}


def answers(
    whole: Any, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], names: tuple[str, ...], seed: int
) -> dict[str, FloatArray]:
    """Return log-odds of the second group by every recipe fitted to ``train``, for the subjects ``test``."""
    from wsi_pipeline.training.slides.fit import fit_slide_model
    from wsi_pipeline.training.slides.members import ENCODER as MEMBER
    from wsi_pipeline.training.slides.study import plain_answers

    c = whole.task.codes.index(POSITIVE)
    part = whole.take(train)
    subjects = [whole.subjects[i] for i in test.tolist()]
    found = {name: _odds(p[:, c]) for name, p in plain_answers(part, subjects).items()}
    fitted = fit_slide_model(part, names, seed=seed)
    model = fitted.model
    alone = [model.margins_by_name(s, np.ones((1, len(s.bag))), ALONE) for s in subjects]
    for name, recipe in ALONE.items():
        if name in names:
            odds = [model.scalings[name].scaled(own[name])[0] for own in alone]
            found[recipe] = np.array([o[c] - np.delete(o, c).mean() for o in odds])
    frozen = fit_slide_model(part, tuple(n for n in names if n != MEMBER), seed=seed) if MEMBER in names else fitted
    models = {FROZEN: frozen.model} | ({TUNED: model} if MEMBER in names else {})
    for recipe, own in sorted(models.items()):
        p = np.stack([own.resampled(s, np.ones((1, len(s.bag))))[0] for s in subjects])
        found[recipe] = _odds(p[:, c])
    members = sorted(frozen.margins)
    each = [frozen.model.margins_by_name(s, np.ones((1, len(s.bag))), members) for s in subjects]
    if all(set(own) == set(members) for own in each):
        scaled = np.stack([[_margin(frozen, name, own[name][0], c) for name in members] for own in each])
        inner = np.stack([_margin(frozen, name, frozen.margins[name], c) for name in members], axis=1)
        for rule, recipe in CHOSEN.items():
            found[recipe] = scaled @ weights_of(rule, inner, part.labels == c)
    return found


def _margin(fitted: Any, name: str, margins: FloatArray, c: int) -> FloatArray:
    """Return how much calibrated margins ``(..., classes)`` say for class ``c`` of two."""
    own = fitted.model.scalings[name].scaled(np.atleast_2d(margins))
    found: FloatArray = (own[:, c] - own[:, 1 - c]).reshape(np.shape(margins)[:-1])
    return found


def weights_of(rule: str, inner: FloatArray, positive: npt.NDArray[np.bool_]) -> FloatArray:
    """Return weights of members, adding up to 1, by their margins ``(n, members)`` of patients left out."""
    k = inner.shape[1]
    if rule == "equal":
        return np.full(k, 1 / k)

    def loss(margin: FloatArray) -> float:
        return float(np.logaddexp(0, np.where(positive, -margin, margin)).mean())

    if rule == "best":
        return np.eye(k)[int(np.argmin([loss(inner[:, i]) for i in range(k)]))]
    counts = np.zeros(k)
    for _ in range(_ROUNDS):
        tried = [loss(inner @ ((counts + row) / (counts.sum() + 1))) for row in np.eye(k)]
        counts[int(np.argmin(tried))] += 1
    return counts / counts.sum()


def _odds(p: FloatArray) -> FloatArray:
    odds: FloatArray = np.log(np.clip(p, 1e-9, 1)) - np.log(np.clip(1 - p, 1e-9, 1))
    return odds


def auc_of(parts: list[tuple[FloatArray, npt.NDArray[np.bool_]]]) -> list[float]:
    """Return the mean AUC over cohorts and its 95 % interval, by a bootstrap over the patients of each."""
    rng = np.random.default_rng(0)
    replicates = np.zeros((_REPLICATES, len(parts)))
    for k, (scores, positive) in enumerate(parts):
        groups = (np.flatnonzero(positive), np.flatnonzero(~positive))
        for b in range(_REPLICATES):
            own = np.concatenate([rng.choice(group, len(group)) for group in groups])
            replicates[b, k] = _auc(scores[own], positive[own])
    low, high = np.percentile(replicates.mean(axis=1), [2.5, 97.5])
    return [float(np.mean([_auc(s, y) for s, y in parts])), float(low), float(high)]


def _auc(scores: FloatArray, positive: npt.NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    n = int(positive.sum())
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def shown(figure: list[float]) -> str:
    """Return an estimate with its interval."""
    return f"{figure[0]:.3f} ({figure[1]:.3f}-{figure[2]:.3f})"


if __name__ == "__main__":
    main()
