"""``evaluate slides``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import (
    Cells,
    CohortColumn,
    IgnoreUnknownSubjects,
    LabelColumn,
    Level,
    Manifest,
    MetricsOut,
    More,
    Phenotypes,
    Seed,
    chosen_level,
)


def evaluate_slides(
    model: Annotated[str, typer.Option(help="Model, by name or by its .slides.safetensors file.")],
    manifest: Manifest,
    cells: Cells,
    more: More = None,
    level: Level = "patient",
    cohort_column: CohortColumn = None,
    label_column: LabelColumn = None,
    ignore_unknown_labels: IgnoreUnknownSubjects = False,
    phenotypes: Phenotypes = None,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="Allow a model that was trained on simulated cohorts.")
    ] = False,
    keep_known: Annotated[
        bool, typer.Option("--keep-known", help="Measure it also on subjects it was trained on, by name or by cells.")
    ] = False,
    out: MetricsOut = Path("evaluation"),
    seed: Seed = 0,
) -> None:
    """Evaluate a slide-level model on patients that it was not trained on."""
    from wsi_pipeline.predictions.assessment import Plan
    from wsi_pipeline.predictions.slide_models import SlideEnsemble
    from wsi_pipeline.training.slides import evaluation as slides_evaluation
    from wsi_pipeline.training.slides.data import CohortRequest

    chosen = chosen_level(level)

    def request(found: SlideEnsemble) -> CohortRequest:
        return CohortRequest(
            runs=(*cells, *(more or ())),
            manifest=manifest,
            task=found.task,
            level=chosen,
            cohort_column=cohort_column,
            label_column=label_column,
            ignore_unknown_labels=ignore_unknown_labels,
            phenotypes=phenotypes,
        )

    result = slides_evaluation.evaluate_slides(
        model,
        request,
        out,
        Plan(folds=5, seed=seed),
        allow_simulated=allow_simulated,
        keep_known=keep_known,
        report=lambda line: typer.echo(line, err=True),
    )
    typer.echo(slides_evaluation.evaluation_table(result))
    typer.echo(f"metrics: {out / 'metrics.json'}")
