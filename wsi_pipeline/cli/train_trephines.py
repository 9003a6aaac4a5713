"""``train fibrosis`` and ``train phenotypes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import Attribution, Cells, More, Seed, SlidesLicence, WeightsLicence


def fibrosis(
    tiles: Annotated[
        Path,
        typer.Option(help="CSV: slide or tile (a file), grade 0 to 3, patient; perhaps mpp and simulated."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write; its card goes beside it.")],
    folds: Annotated[int, typer.Option(help="Folds of whole patients to measure on; 0 does not.", min=0)] = 4,
    steps: Annotated[int | None, typer.Option(help="Training steps; default the recipe's.", min=1)] = None,
    per_slide: Annotated[int, typer.Option(help="Most tiles of a slide.", min=1, max=1000)] = 16,
    source: Annotated[str | None, typer.Option(help="What the slides are, for the card.")] = None,
    licence: WeightsLicence = None,
    seed: Seed = 0,
) -> None:
    """Train a model that ranks reticulin tiles by their fibres, on pairs of grades."""
    from wsi_pipeline.training.fibrosis.train import train_fibrosis

    weights = train_fibrosis(
        tiles, out, folds=folds, steps=steps, per_slide=per_slide, seed=seed, source=source, licence=licence,
        report=typer.echo,
    )  # fmt: skip
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


def phenotypes(
    cells: Cells,
    more: More = None,
    out: Annotated[
        Path, typer.Option("--out", help="File NAME.phenotypes.json; NAME.phenotypes.md goes beside it.")
    ] = Path("training_runs/megakaryocytes.phenotypes.json"),
    k: Annotated[int | None, typer.Option("--k", help="How many; default what is stable.", min=2, max=40)] = None,
    least: Annotated[int, typer.Option(help="Fewest that are tried.", min=2, max=40)] = 3,
    most: Annotated[int, typer.Option(help="Most that are tried.", min=2, max=40)] = 8,
    directions: Annotated[
        int, typer.Option(help="Principal directions of the embedding that enter; 0 for none.", min=0, max=32)
    ] = 0,
    licence: SlidesLicence = "not stated",
    title: Annotated[str | None, typer.Option(help="What the slides are, for the card.")] = None,
    attribution: Attribution = "not stated",
    seed: Seed = 0,
) -> None:
    """Find phenotypes of megakaryocytes in runs of trephines; a run tells them with predictions.phenotypes."""
    from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes

    request = PhenotypeTraining(
        runs=(*cells, *(more or ())),
        k=k,
        least=least,
        most=most,
        directions=directions,
        seed=seed,
        licence=licence,
        title=title,
        attribution=attribution,
    )
    found = train_phenotypes(request, out, report=lambda line: typer.echo(line, err=True))
    for own in found.phenotypes:
        typer.echo(f"{own.code}: {own.n_cells} cells")
    typer.echo(f"model: {out}\ncard: {out.with_suffix('.md')}")
