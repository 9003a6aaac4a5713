"""Phenotypes of megakaryocytes: clusters of measured cells, learnt once, applied to each slide.

A cell's features are standardised as the training cells were, and it belongs to the nearest centre (k-means, Lloyd,
IEEE Trans. Inf. Theory 28:129, 1982). How the centres are found, and how many:
:mod:`wsi_pipeline.training.phenotypes.train`.
Published precedent: cells clustered by learnt features, samples described by shares of clusters (Sirinukunwattana et
al., Blood Adv 4:3284, 2020, doi 10.1182/bloodadvances.2020002230).

The model is one JSON file, the card with it; nothing is executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, model_validator

from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.predictions.trephines.megakaryocytes import MEASURES, Megakaryocytes
from wsi_pipeline.predictions.trephines.parts import Number, Part
from wsi_pipeline.predictions.trephines.window import FloatArray
from wsi_pipeline.weights import file_sha256

FORMAT = "wsi-pipeline phenotypes 1"
LOGARITHMIC = ("area_um2", "nucleus_area_um2", "hyperchromasia")
"""Measures whose logarithm is taken: they vary by factors."""
FEATURES = (
    "area_um2", "nucleus_area_um2", "nc_ratio", "nucleus_lobes", "nucleus_concavities", "nucleus_solidity",
    "nucleus_form_factor", "hyperchromasia", "nucleus_od_sd", "nucleus_chromatin",
)  # fmt: skip
"""Measures that phenotypes are made of: size, nucleus, lobulation, density, texture. Position does not enter."""

_MAX_BYTES = 5_000_000
_Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class Phenotype(Part):
    """A cluster: its name in tables, in words, the training cells in it, and its centre in standardised features."""

    code: _Code
    name: _Text
    n_cells: Annotated[int, Field(ge=1)]
    centre: tuple[Number, ...]
    medians: dict[str, Number | None] = Field(default_factory=dict)


class ReferenceGroup(Part):
    """Shares of the phenotypes, 0 to 1, over reference samples of one label; ``all`` is of every sample."""

    label: _Text
    n_samples: Annotated[int, Field(ge=1)]
    n_cells: Annotated[int, Field(ge=1)]
    mean: tuple[Number, ...]
    q10: tuple[Number, ...]
    q90: tuple[Number, ...]


class Embedding(Part):
    """Directions of the cells' embedding that enter beside the measures: mean ``(d,)``, axes ``(k, d)``."""

    mean: tuple[Number, ...]
    axes: tuple[tuple[Number, ...], ...]


class _Document(Part):
    format: Literal["wsi-pipeline phenotypes 1"]
    name: _Text
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    embedding: Embedding | None
    mean: tuple[Number, ...]
    spread: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    phenotypes: Annotated[tuple[Phenotype, ...], Field(min_length=2, max_length=40)]
    reference: tuple[ReferenceGroup, ...]
    simulated: bool
    trained_on: _Text
    card: dict[str, Any]

    @model_validator(mode="after")
    def _fits_together(self) -> _Document:
        if unknown := sorted(set(self.features) - set(MEASURES)):
            raise ValueError(f"its feature {unknown[0]!r} is no measure of this package")
        d = len(self.features) + (0 if self.embedding is None else len(self.embedding.axes))
        if len(self.mean) != d or len(self.spread) != d or any(len(p.centre) != d for p in self.phenotypes):
            raise ValueError(f"{d} features are named, and as many means, spreads and coordinates are needed")
        if self.embedding is not None and any(len(a) != len(self.embedding.mean) for a in self.embedding.axes):
            raise ValueError("the axes of its embedding differ in length")
        codes = [p.code for p in self.phenotypes]
        if len(set(codes)) < len(codes):
            raise ValueError("a phenotype stands twice")
        k = len(codes)
        if any(len(values) != k for g in self.reference for values in (g.mean, g.q10, g.q90)):
            raise ValueError("a reference group has not one share for each phenotype")
        return self


@dataclass(frozen=True, kw_only=True)
class PhenotypeModel:
    """A model as its file has it, and the file's SHA-256."""

    document: _Document
    sha256: str

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def simulated(self) -> bool:
        return self.document.simulated

    @property
    def phenotypes(self) -> tuple[Phenotype, ...]:
        return self.document.phenotypes

    @cached_property
    def codes(self) -> tuple[str, ...]:
        return tuple(own.code for own in self.phenotypes)

    def index(self, cells: Megakaryocytes) -> np.ndarray:
        """Return the phenotype of each cell ``(n,)``, an index; -1 where a feature was not measured.

        Raises
        ------
        ModelError
            The model reads embeddings, and the table has none, or of another length.
        """
        found = self.document
        x = raw_features(cells, found.features, self._directions(cells))
        known = np.isfinite(x).all(axis=1)
        z = (x[known] - np.asarray(found.mean)) / np.asarray(found.spread)
        centres = np.array([own.centre for own in found.phenotypes])
        label = np.full(len(cells), -1, np.int64)
        label[known] = ((z[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        return label

    def of(self, cells: Megakaryocytes) -> tuple[str, ...]:
        """Return the code of each cell, empty where a feature was not measured; errors as :meth:`index`."""
        codes = (*self.codes, "")
        return tuple(codes[i] for i in self.index(cells).tolist())

    def _directions(self, cells: Megakaryocytes) -> FloatArray | None:
        own = self.document.embedding
        if own is None or not len(cells):
            return None if own is None else np.empty((0, len(own.axes)))
        if cells.embedding is None or cells.embedding.shape[1] != len(own.mean):
            raise ModelError(
                f"phenotype model {self.name} reads embeddings of length {len(own.mean)}, which the megakaryocytes of "
                "this table do not have; run with --set cells.embedding=true and the network it was trained with"
            )
        found: FloatArray = (cells.embedding - np.asarray(own.mean)) @ np.array(own.axes).T
        return found

    def about(self) -> dict[str, Any]:
        """Return what ``summary.json`` says of the model."""
        all_ = next((g for g in self.document.reference if g.label == "all"), None)
        return {
            "name": self.name,
            "sha256": self.sha256,
            "trained_on": self.document.trained_on,
            "simulated": self.simulated,
            "n_cells": sum(own.n_cells for own in self.phenotypes),
            "n_samples": 0 if all_ is None else all_.n_samples,
        }

    def reference_dict(self) -> list[dict[str, Any]]:
        """Return the reference groups for ``summary.json``, percent by code."""
        return [
            {
                "label": group.label,
                "n_samples": group.n_samples,
                "n_cells": group.n_cells,
                "percent": {
                    code: {"mean": 100 * m, "q10": 100 * a, "q90": 100 * b}
                    for code, m, a, b in zip(self.codes, group.mean, group.q10, group.q90, strict=True)
                },
            }
            for group in self.document.reference
        ]


def raw_features(cells: Megakaryocytes, names: tuple[str, ...], directions: FloatArray | None) -> FloatArray:
    """Return measures ``(n, d)``, logarithms where :data:`LOGARITHMIC` says so, then directions of the embedding."""
    x = cells.matrix(names)
    for i, name in enumerate(names):
        if name in LOGARITHMIC:
            with np.errstate(divide="ignore", invalid="ignore"):
                x[:, i] = np.where(x[:, i] > 0, np.log(x[:, i]), np.nan)
    return x if directions is None else np.concatenate([x, directions], axis=1)


def load_phenotypes(path: Path) -> PhenotypeModel:
    """Return the model of a file.

    Raises
    ------
    MissingWeightsError
        There is no such file.
    ModelError
        It is none of phenotypes, or damaged.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} is no phenotype model: it has more than {_MAX_BYTES:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        sha256 = file_sha256(path)
    except FileNotFoundError:
        raise MissingWeightsError(f"{path} does not exist; train phenotypes makes such a file") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is no phenotype model: it is not readable as JSON ({str(error)[:120]})") from None
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise ModelError(f"{path} is no phenotype model: its format is not {FORMAT!r}")
    try:
        return PhenotypeModel(document=_Document.model_validate(found), sha256=sha256)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ModelError(f"{path} is no phenotype model: {place}{': ' if place else ''}{said}") from None
