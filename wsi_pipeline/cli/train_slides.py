"""``train slides``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_pipeline.cli.options import (
    Cells,
    CohortColumn,
    IgnoreUnknownSubjects,
    LabelColumn,
    Level,
    Manifest,
    More,
    Phenotypes,
    Seed,
    SlidesLicence,
    chosen_level,
)
from wsi_pipeline.errors import ConfigError


def _chosen_map(text: str) -> Literal["pca", "umap"]:
    if text == "pca":
        return "pca"
    if text == "umap":
        return "umap"
    raise ConfigError(f"--map {text!r}: give pca or umap")


def slides(
    manifest: Manifest,
    task: Annotated[
        str,
        typer.Option(
            help="smear_diagnosis, aml, apl, apl_normal, mds, mds_reactive; of trephines mpn, mpn_subtype; or a .yaml."
        ),
    ],
    cells: Cells,
    more: More = None,
    model: Annotated[str, typer.Option(help="auto (fusion), fusion, mil or counts.")] = "auto",
    encoder: Annotated[
        str, typer.Option(help="frozen, or tune: the cell network learns from the labels too; it reads images again.")
    ] = "frozen",
    classifier: Annotated[
        str | None, typer.Option(help="For --encoder tune: classifier file of the runs, when it is not a shipped one.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default the task and the kind.")] = None,
    level: Level = "patient",
    cohort_column: CohortColumn = None,
    label_column: LabelColumn = None,
    train_cohort: Annotated[
        str | None, typer.Option(help="Train on this cohort alone and evaluate on the others.")
    ] = None,
    ignore_unknown_labels: IgnoreUnknownSubjects = False,
    phenotypes: Phenotypes = None,
    cohort_map: Annotated[
        str, typer.Option("--map", help="Tasks of trephines: pca or umap (of 30 samples or more) lays out the map.")
    ] = "pca",
    licence: SlidesLicence = "not stated",
    title: Annotated[
        str | None, typer.Option(help="What the cohort is, for the card; default the table's name.")
    ] = None,
    attribution: Annotated[str, typer.Option(help="Whose it is, for the card.")] = "not stated",
    out: Annotated[Path, typer.Option("--out", help="Folder for model, card and figures.")] = Path(
        "training_runs/slides"
    ),
    folds: Annotated[int, typer.Option(help="Folds by patient of the study.", min=2, max=20)] = 5,
    repeats: Annotated[int, typer.Option(help="Arrangements of the folds.", min=1, max=20)] = 1,
    null_repeats: Annotated[
        int, typer.Option(help="Studies on shuffled labels; 0 leaves them out.", min=0, max=20)
    ] = 0,
    seed: Seed = 0,
) -> None:
    """Train a model that answers for patients or slides, and study its recipe on patients left out."""
    from wsi_pipeline.predictions.assessment import Plan
    from wsi_pipeline.predictions.tasks import load_task
    from wsi_pipeline.training.slides.data import CohortRequest
    from wsi_pipeline.training.slides.evaluation import added_value, evaluation_table, study_table
    from wsi_pipeline.training.slides.train import SlidesTraining, train_slides
    from wsi_pipeline.weights import beside_weights

    asked = load_task(task)
    request = SlidesTraining(
        cohort=CohortRequest(
            runs=(*cells, *(more or ())),
            manifest=manifest,
            task=asked,
            level=chosen_level(level),
            cohort_column=cohort_column,
            label_column=label_column,
            ignore_unknown_labels=ignore_unknown_labels,
            phenotypes=phenotypes,
        ),
        kind=model,
        encoder=encoder,
        classifier=classifier,
        name=name or f"{asked.name}-{model}".replace("_", "-"),
        plan=Plan(folds=folds, repeats=repeats, null_repeats=null_repeats, fractions=(), seed=seed),
        train_cohort=train_cohort,
        cohort_map=_chosen_map(cohort_map),
        licence=licence,
        title=title,
        attribution=attribution,
    )
    found = train_slides(request, out, report=lambda line: typer.echo(line, err=True))
    typer.echo(study_table(found.study))
    if added := added_value(found.study):
        typer.echo(added)
    for own in found.cells:
        for code, auc in own.auc.items():
            typer.echo(f"image level, {own.of} ({own.n_cells}): AUC of {code} {auc}")
    if found.external is not None:
        typer.echo(f"other cohorts:\n{evaluation_table(found.external)}")
    typer.echo(f"model: {found.path}\ncard: {beside_weights(found.path, '.md')}\nstudy: {out / 'evaluation.html'}")
