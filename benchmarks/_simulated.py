"""What benchmarks on simulated cohorts share: their options, and areas under the curve on patients left out."""

from __future__ import annotations

import argparse
from pathlib import Path

from _harness import HERE

from wsi_pipeline.predictions.assessment import Plan, Study
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.training.slides.data import CohortRequest
from wsi_pipeline.training.slides.train import SlidesTraining, train_slides

FOLDS = 5


def cohort_parser(
    description: str | None, *, patients: int, seed: int, area_mm2: float, area_of: str, workers: int
) -> argparse.ArgumentParser:
    """Return the options that these benchmarks take, with their defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--patients", type=int, default=patients)
    made.add_argument("--seed", type=int, default=seed)
    made.add_argument("--area", type=float, default=area_mm2, help=area_of)
    made.add_argument("--equal-profiles", action="store_true", help="all patients from one group")
    made.add_argument("--workers", type=int, default=workers)
    made.add_argument("--scratch", type=Path, default=Path("build/benchmarks"), help="where cohort and run go")
    made.add_argument("--results", type=Path, default=HERE / "results", help="folder of the result lines")
    return made


def name_of(prefix: str, args: argparse.Namespace) -> str:
    """Return the name of a cohort, which tells cohorts of other options apart."""
    return f"{prefix}-{args.seed}-{args.area:g}{'-equal' if args.equal_profiles else ''}"


def work_of(args: argparse.Namespace) -> dict[str, float]:
    """Return what a result line says of the cohort."""
    return {"patients": args.patients, "seed": args.seed, "area_mm2": args.area, "equal": args.equal_profiles}


def held_out(run: Path, manifest: Path, task: str, kind: str, out: Path, *, name: str, title: str, seed: int) -> Study:
    """Return the study of ``train slides`` on patients left out."""
    request = SlidesTraining(
        cohort=CohortRequest(
            runs=(run,), manifest=manifest, task=load_task(task), level="patient", ignore_unknown_labels=True
        ),
        kind=kind,
        name=name.replace("_", "-"),
        plan=Plan(folds=FOLDS, repeats=1, null_repeats=0, fractions=(), seed=seed),
        title=title,
    )
    return train_slides(request, out).study


def auc_text(value: float, low: float | None, high: float | None, n: float) -> str:
    """Return an area with its interval and the number of patients."""
    interval = "no interval" if low is None or high is None else f"{low:.3f}-{high:.3f}"
    return f"{value:.3f} ({interval}), n = {n:.0f}"
