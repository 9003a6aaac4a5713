"""``train counts`` and ``train mds-counts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import Attribution, Seed
from wsi_pipeline.errors import ConfigError


def mds_counts(
    table: Annotated[
        Path | None, typer.Argument(help="CSV file of analyser values, one row a blood count, with a label.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    positive: Annotated[
        str | None, typer.Option(help="Value of the label that is asked for, for example MDS; all others are not.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Column of the patient, when it is not called patient, id or IPP.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for tree, figures and card.")] = Path(
        "training_runs/mds-counts"
    ),
    folds: Annotated[int, typer.Option(help="Folds by patient, outer and inner.", min=2, max=20)] = 5,
    repeats: Annotated[int, typer.Option(help="Arrangements of the inner folds that prune.", min=1, max=100)] = 5,
    simulate: Annotated[
        int | None,
        typer.Option(help="Without a table: train on so many simulated patients, to see how it works.", min=20),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a readable tree for MDS against non-clonal cytopenia on your own analyser values."""
    from wsi_pipeline.training.mds_counts.train import MdsTraining, simulated_training, train_mds_counts

    if simulate is not None:
        if table is not None or label is not None or positive is not None or patient is not None:
            raise ConfigError("--simulate makes its own table; leave out TABLE, --label, --positive and --patient")
        request = simulated_training(simulate, out, folds=folds, repeats=repeats, seed=seed)
    elif table is None or label is None or positive is None:
        raise ConfigError("give TABLE, --label and --positive, or --simulate N")
    else:
        request = MdsTraining(
            table=table, label=label, positive=positive, patient=patient, folds=folds, repeats=repeats, seed=seed
        )
    tree = train_mds_counts(request, out, report=typer.echo)
    typer.echo((out / "tree.txt").read_text(encoding="utf-8"))
    typer.echo(f"tree: {tree}\ncard: {out / 'card.md'}")


def counts(
    tables: Annotated[list[Path], typer.Argument(help="CSV files of patients whose class is known, one a centre.")],
    label: Annotated[str, typer.Option(help="Column of the class: AML, ALL or APL.")] = "Response",
    name: Annotated[str, typer.Option(help="Name of the model.")] = "acute-leukaemia-counts",
    licence: Annotated[str, typer.Option(help="Licence of the tables and of the model, for the card.")] = "not stated",
    title: Annotated[str | None, typer.Option(help="What the tables are, for the card; default their names.")] = None,
    attribution: Attribution = "not stated",
    out: Annotated[Path, typer.Option("--out", help="Folder for model, card and study.")] = Path(
        "training_runs/counts"
    ),
    folds: Annotated[int, typer.Option(help="Folds by patient of the study.", min=2, max=20)] = 10,
    repeats: Annotated[int, typer.Option(help="Arrangements of the folds.", min=1, max=20)] = 1,
    seed: Seed = 0,
) -> None:
    """Train the model of AML, ALL and APL from blood counts, and study its recipe beside a plain refit."""
    from wsi_pipeline.predictions.assessment import Plan
    from wsi_pipeline.training.counts.train import CountsTraining, train_counts
    from wsi_pipeline.weights import beside_weights

    request = CountsTraining(
        tables=tuple(tables),
        label=label,
        name=name,
        licence=licence,
        title=title or ", ".join(table.name for table in tables),
        attribution=attribution,
        plan=Plan(folds=folds, repeats=repeats, null_repeats=1, fractions=(0.25, 0.5, 1.0), seed=seed),
        seed=seed,
    )
    weights = train_counts(request, out, report=lambda line: typer.echo(line, err=True))
    typer.echo(f"model: {weights}\ncard: {beside_weights(weights, '.md')}\nstudy: {out / 'study.html'}")
