"""What a training on own cells is asked to do, and which data door it goes through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline.cells.preparation import Preparation, Stain
from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.training.cells.corrections import is_run, read_run
from wsi_pipeline.training.cells.folders import read_folders
from wsi_pipeline.training.cells.folds import STUDENT_T
from wsi_pipeline.training.cells.listing import Listing
from wsi_pipeline.training.cells.mixing import Mixing
from wsi_pipeline.training.cells.models import ModelChoice
from wsi_pipeline.training.cells.tables import read_table
from wsi_pipeline.training.synthetic.choice import SyntheticChoice
from wsi_pipeline.weights import shipped_weights


@dataclass(frozen=True, kw_only=True)
class CellTraining:
    """What to train a cell classifier on, and how.

    Attributes
    ----------
    data
        Folder of class folders or of patient / class folders, a CSV file, or the output of a run.
    images
        Folder of the images a CSV file names.
    labels
        Corrected labels of a run: GeoJSON of QuPath, or a CSV file ``cell_id,label``.
    mpp
        Microns per pixel of images that state none.
    taxonomy
        Label set; labels are codes or aliases of it.
    model
        What to train.
    name
        Name of the weights; by default that of the data.
    group
        What must not be on two sides of a split; None takes patient, slide or centre, whichever is known.
    folds, fold
        Cross-validate over this many folds besides, or train and measure this one alone.
    stain, views
        How the classifier sees its windows (:class:`~wsi_pipeline.cells.preparation.Preparation`); None takes
        normalised stain, once. Models on features measure the image as it is.
    attributes
        ``columns``, or a CSV file of attributes (:mod:`~wsi_pipeline.training.cells.attributes`); None learns none.
    mixing, patience
        See :func:`wsi_pipeline.training.cells.fit.fit`.
    ignore_unknown_labels, skip_unreadable, drop_conflicts, drop_rare
        Leave out, and count, what is otherwise refused.
    synthetic
        Generated images to add to the training part.
    ablate_synthetic
        Train so many times with and without them, and compare, instead of training once.
    """

    data: Path
    images: Path | None = None
    labels: Path | None = None
    mpp: float | None = None
    taxonomy: str = "pbc-blast"
    model: ModelChoice = field(default_factory=ModelChoice)
    name: str | None = None
    start_from: str | None = None
    licence: str | None = None
    specimens: tuple[Specimen, ...] = ("blood_smear", "marrow_smear")
    group: str | None = None
    folds: int = 0
    fold: int | None = None
    stain: Stain | None = None
    views: int | None = None
    attributes: str | None = None
    mixing: Mixing | None = None
    patience: int = 0
    epochs: int | None = None
    seed: int = 0
    ignore_unknown_labels: bool = False
    skip_unreadable: bool = False
    drop_conflicts: bool = False
    drop_rare: bool = False
    synthetic: SyntheticChoice | None = None
    ablate_synthetic: int = 0

    def __post_init__(self) -> None:
        if self.folds == 1 or self.folds < 0 or self.folds > len(STUDENT_T) + 1:
            raise ConfigError(f"--folds {self.folds}: 2 to {len(STUDENT_T) + 1} folds are needed, or 0 for none")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"--fold {self.fold}: folds are numbered from 0 to --folds less 1; --folds is {self.folds}"
            )
        if self.patience < 0:
            raise ConfigError(f"--patience {self.patience}: a number of epochs is needed, or 0")
        if self.start_from is not None and self.model.name != "compact":
            raise ConfigError("--start-from continues a compact network; for a backbone use --backbone-weights")
        if self.model.is_classical and (self.mixing is not None or self.patience or self.epochs is not None):
            raise ConfigError(f"--epochs, --patience, --mixup and --cutmix mean nothing for --model {self.model.name}")
        if self.model.is_classical and (self.stain is not None or self.views is not None):
            raise ConfigError(f"--stain and --views mean nothing for --model {self.model.name}")
        if self.model.is_classical and self.synthetic is not None:
            raise ConfigError(
                f"--synthetic means nothing for --model {self.model.name}: generated images do not have the fine "
                "texture that it measures"
            )
        if self.ablate_synthetic and self.synthetic is None:
            raise ConfigError("--ablate-synthetic compares with and without generated images; give --synthetic")
        if self.ablate_synthetic and self.folds:
            raise ConfigError("--ablate-synthetic takes the plain split; leave out --folds and --fold")
        if self.attributes is not None and self.model.is_classical:
            raise ConfigError(f"--attributes needs a network; --model {self.model.name} is none")
        if self.attributes is not None and self.mixing is not None:
            raise ConfigError("--attributes goes without --mixup and --cutmix: a mixture has no known attributes")
        _ = self.preparation
        if self.name is not None and (
            self.name in shipped_weights() or not re.fullmatch(r"[A-Za-z0-9._+-]+", self.name)
        ):
            raise ConfigError(
                f"--name {self.name!r}: letters, digits and ._+- are needed, and not the name of a model that exists"
            )

    @property
    def preparation(self) -> Preparation:
        """Return how the classifier sees its windows."""
        if self.model.is_classical:
            return Preparation()
        return Preparation(stain=self.stain or "nuclear-density", views=self.views or 1)


def list_cells(request: CellTraining) -> Listing:
    """Return the cells of a request by the door that fits its data.

    Raises
    ------
    DataError
        The data are of no known form, or cannot be used.
    """
    data = request.data
    if not data.exists():
        raise DataError(f"{data} does not exist")
    if is_run(data):
        if request.images is not None:
            raise ConfigError("--images goes with a CSV file; the cells of a run are read from its slides")
        return read_run(data, request.labels)
    if request.labels is not None:
        raise ConfigError(f"--labels goes with the output of a run; {data} is none")
    if data.is_dir():
        if request.images is not None:
            raise ConfigError(f"--images goes with a CSV file; {data} is a folder")
        return read_folders(data)
    if data.suffix.lower() == ".csv":
        return read_table(data, request.images)
    raise DataError(f"{data}: a folder, a .csv file, or the output of a run is needed")
