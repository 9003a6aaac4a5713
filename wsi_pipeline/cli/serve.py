"""``serve``."""

from __future__ import annotations

import threading
import webbrowser
from typing import Annotated

import typer

from wsi_pipeline.errors import ConfigError

app = typer.Typer(help="Local pages, for this computer alone.", no_args_is_help=True)


@app.callback()
def _pages() -> None:
    """Local pages, for this computer alone."""


@app.command()
def counts(
    port: Annotated[
        int, typer.Option(help="Port of 127.0.0.1, from 0 to 65535; 0 takes any free one.", min=0, max=65535)
    ] = 8723,
    model: Annotated[
        str, typer.Option(help="Model, by name or by its .trees.json.gz file.")
    ] = "acute-leukaemia-counts",
    lang: Annotated[str, typer.Option(help="Language the page opens in: en or fr.")] = "en",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page that answers AML, ALL or APL from one patient's blood counts. Ctrl-C ends it.

    Only this computer can reach it, and nothing that is typed is stored. Valid only where acute leukaemia is
    established or strongly suspected. Many patients: predict counts.
    """
    from wsi_pipeline.predictions.counts.model import load_counts_model
    from wsi_pipeline.serve import LANGUAGES, serve_page

    if lang not in LANGUAGES:
        raise ConfigError(f"--lang {lang!r}: use {' or '.join(LANGUAGES)}")

    def ready(address: str) -> None:
        typer.echo(f"{address}\nCtrl-C ends it. Research use only.")
        if browser:  # a browser in the terminal does not return before it is closed
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve_page(load_counts_model(model), model_name=model, port=port, language=lang, ready=ready)
    typer.echo("ended")
