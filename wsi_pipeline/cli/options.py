"""Options that several commands have, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wsi_pipeline.config import parse_overrides
from wsi_pipeline.errors import ConfigError

Config = Annotated[str | None, typer.Option("--config", help="YAML file or specimen name; default blood_smear.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
ForceMpp = Annotated[bool, typer.Option("--force-mpp", help="Let --mpp win over what the slide says.")]
AllowSimulated = Annotated[
    bool, typer.Option("--allow-simulated", help="Allow models that were trained on simulated data.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]

TrainingOut = Annotated[Path, typer.Option("--out", help="Folder for checkpoint, weights and card.")]
MetricsOut = Annotated[Path, typer.Option("--out", help="Folder for metrics.json.")]
Restart = Annotated[bool, typer.Option("--restart", help="Ignore an earlier checkpoint.")]
WeightsLicence = Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")]
SlidesLicence = Annotated[str, typer.Option(help="Licence of the slides and of the model, for the card.")]
Attribution = Annotated[str, typer.Option(help="Whose they are, for the card.")]
GivenMpp = Annotated[
    float | None, typer.Option(help="Microns per pixel of the images; needed with --data.", min=0.02, max=2)
]

CellMpp = Annotated[float | None, typer.Option(help="Microns per pixel of images that state none.")]
CellImages = Annotated[Path | None, typer.Option(help="Folder of the images that a CSV file names.")]
CellTaxonomy = Annotated[str, typer.Option(help="Label set.")]
WeightsName = Annotated[str | None, typer.Option(help="Name of the weights; default that of the data.")]
OneFold = Annotated[
    int | None, typer.Option(help="Of --folds, train and measure only this one: for running folds in parallel.")
]
IgnoreUnknownCells = Annotated[
    bool, typer.Option("--ignore-unknown-labels", help="Leave out cells whose label the taxonomy does not have.")
]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")]
DropConflicts = Annotated[bool, typer.Option("--drop-conflicts", help="Leave out pictures that have several labels.")]
DropRare = Annotated[bool, typer.Option("--drop-rare", help="Leave out classes of fewer than three images.")]

Manifest = Annotated[Path, typer.Option(help="CSV table: patient (or slide_id), label, perhaps cohort and counts.")]
Cells = Annotated[list[Path], typer.Option("--cells", help="Folder that `run` wrote; may be repeated.")]
More = Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Further folders: --cells A B C.")]
CohortColumn = Annotated[str | None, typer.Option(help="Column of the cohort or centre, when it has another name.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label, when it has another name.")]
Phenotypes = Annotated[
    Path | None,
    typer.Option(help="Tasks of trephines: file of `train phenotypes`; default what the runs told."),
]
IgnoreUnknownSubjects = Annotated[
    bool, typer.Option("--ignore-unknown-labels", help="Leave out subjects whose label is outside the task.")
]
Level = Annotated[str, typer.Option(help="patient (slides pooled) or slide.")]


def overrides_of(assignments: list[str] | None, device: str | None) -> dict[str, Any]:
    """Return the dotted overrides of ``--set`` and ``--device``."""
    overrides = parse_overrides(assignments or [])
    if device is not None:
        overrides["runtime.device"] = device
    return overrides


def chosen_device(device: str | None) -> Literal["auto", "cpu", "cuda"]:
    """Return what ``--device`` says; ``auto`` where it is not given.

    Raises
    ------
    ConfigError
        It is none of them.
    """
    if device is None or device == "auto":
        return "auto"
    if device == "cpu":
        return "cpu"
    if device == "cuda":
        return "cuda"
    raise ConfigError(f"--device {device!r}: use auto, cpu or cuda")


def data_root(data: Path | None) -> Path:
    """Return the root of the data sets: ``--data``, or the folder in ``WSI_PIPELINE_DATA``.

    Raises
    ------
    ConfigError
        Neither is given.
    """
    if data is not None:
        return data
    if folder := os.environ.get("WSI_PIPELINE_DATA"):
        return Path(folder)
    raise ConfigError("no data given: use --data DIR or set WSI_PIPELINE_DATA")


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
