"""``status``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def status(
    out: Annotated[Path, typer.Argument(help="Folder of a run, whether it runs, has ended, or was killed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is known, as JSON.")] = False,
) -> None:
    """Say what a run is doing: slides, rates, failures so far, time left."""
    from wsi_pipeline.runtime.status import read_status, status_lines

    found = read_status(out)
    typer.echo(json.dumps(found, indent=2, sort_keys=True) if as_json else "\n".join(status_lines(found)))
