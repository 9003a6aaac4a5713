"""``models`` and ``doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Shipped and local models.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List models, what they are for, and whether their weights are here."""
    from wsi_pipeline.errors import MissingWeightsError
    from wsi_pipeline.evaluation.tables import text_table
    from wsi_pipeline.segmentation.models import CELLPOSE_NAMES, cellpose_weights
    from wsi_pipeline.weights import shipped_weights

    rows = []
    for name, weights in shipped_weights().items():
        card = weights.card
        rows.append([name, card["task"], ", ".join(card["specimens"]), card.get("licence", ""), "shipped"])
    for name in CELLPOSE_NAMES:
        try:
            where = str(cellpose_weights(name))
        except MissingWeightsError:
            where = "not on this machine"
        rows.append([name, "segmentation", "any", "trained on CC-BY-NC data", where])
    typer.echo(text_table(["model", "task", "specimens", "licence", "weights"], rows))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="One model; all shipped ones by default.")] = None,
) -> None:
    """Check the SHA-256 of weights against their cards."""
    from wsi_pipeline.cells.evidence import verify_evidence
    from wsi_pipeline.errors import MissingWeightsError, ModelError
    from wsi_pipeline.weights import shipped_weights

    known = shipped_weights()
    if name is not None and name not in known:
        raise MissingWeightsError(f"model {name!r} is not shipped; shipped are {', '.join(known)}")
    damaged = 0
    for weights in known.values() if name is None else [known[name]]:
        try:
            weights.verify()
            verify_evidence(weights)
            typer.echo(f"{weights.name}: intact, SHA-256 {weights.sha256}")
        except (MissingWeightsError, ModelError) as error:
            damaged += 1
            typer.echo(f"{weights.name}: DAMAGED, {error}", err=True)
    if damaged:
        raise typer.Exit(1)


@app.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Cellpose models, for example cpsam_v2.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch anew what is there, and replace it.")] = False,
) -> None:
    """Download Cellpose weights to CELLPOSE_LOCAL_MODELS_PATH or ~/.cellpose/models, and check that they load."""
    from wsi_pipeline.segmentation.cellpose_files import LICENCE_NOTE
    from wsi_pipeline.segmentation.fetch import fetch, plan_fetch

    for name, (address, final) in plan_fetch(names, force=force).items():
        sha256 = fetch(name, address, final, report=lambda line: typer.echo(line, err=True))
        typer.echo(f"{name}: {final}, loads, SHA-256 {sha256}")
    typer.echo(LICENCE_NOTE)


def doctor() -> None:
    """Check this machine: libraries, devices, weights, memory."""
    from wsi_pipeline.runtime.doctor import check_all

    problems = 0
    for check in check_all():
        problems += not check.ok
        typer.echo(f"{'ok     ' if check.ok else 'PROBLEM'}  {check.name}: {check.found}")
    if problems:
        typer.echo(f"{problems} problem(s)", err=True)
        raise typer.Exit(1)
