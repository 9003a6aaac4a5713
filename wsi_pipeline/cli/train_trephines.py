"""``train phenotypes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.train import Seed
from wsi_pipeline.cli.train_slides import Cells, More, app


@app.command("phenotypes")
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
    licence: Annotated[str, typer.Option(help="Licence of the slides and of the model, for the card.")] = "not stated",
    title: Annotated[str | None, typer.Option(help="What the slides are, for the card.")] = None,
    attribution: Annotated[str, typer.Option(help="Whose they are, for the card.")] = "not stated",
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
