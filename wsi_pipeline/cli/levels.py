"""The option ``--level`` of commands that read the cells of runs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from wsi_pipeline.errors import ConfigError

Level = Annotated[str, typer.Option(help="patient (slides pooled) or slide.")]


def chosen_level(text: str) -> Literal["slide", "patient"]:
    """Return what ``--level`` says.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if text == "slide":
        return "slide"
    if text == "patient":
        return "patient"
    raise ConfigError(f"--level {text!r}: give patient or slide")
