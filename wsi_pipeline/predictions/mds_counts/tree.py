"""A classification tree as people read it and as JSON holds it; a patient's way through it in numpy.

Method: Breiman, Friedman, Olshen, Stone. Classification and Regression Trees, 1984; for MDS from analyser values
Zhu et al., BMC Cancer 2022 (doi 10.1186/s12885-022-10059-8), whose tree and cut-offs are not published.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import MissingWeightsError, ModelError

TREE_FILE = "tree.json"
MAX_NODES = 1023
_MAX_BYTES = 4_000_000

Side = Literal["below", "above"]
Language = Literal["en", "fr"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TreeAnalyte(_Part):
    """A value the tree may ask for, and what its training patients had.

    Parameters
    ----------
    lowest, median, highest
        Of the training patients, in ``unit``.
    known
        Share of training rows that had the value, 0 to 1; without one it is never asked for.
    """

    name: str
    label: dict[Language, str]
    short: dict[Language, str]
    unit: str
    lowest: Finite
    median: Finite
    highest: Finite
    known: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lowest <= self.median <= self.highest:
            raise ValueError(f"{self.name}: lowest, median and highest are not in order")
        if {*self.label} != {"en", "fr"} or {*self.short} != {"en", "fr"}:
            raise ValueError(f"{self.name}: label and short need en and fr")
        return self


class Split(_Part):
    """A question: is the value at most the threshold?

    Parameters
    ----------
    below, above
        Index of the node for values up to the threshold, and beyond it.
    missing
        Where a patient without the value goes: to the side of the training median, that is of most patients.
    """

    analyte: str
    threshold: Finite
    below: Count
    above: Count
    missing: Side


class Node(_Part):
    """A question or, without ``split``, a leaf.

    Parameters
    ----------
    positives, patients
        Training patients who came here, with the positive label and in all. One with several rows counts once in
        each node that a row reaches.
    """

    positives: Count
    patients: Annotated[int, Field(ge=1)]
    split: Split | None = None

    @property
    def share(self) -> float:
        """Return the share of positive patients, 0 to 1."""
        return self.positives / self.patients


class MdsTree(_Part):
    """The model of task ``mds_cbc``.

    Parameters
    ----------
    positive, negative
        The labels: the one asked for, and what the others are called together.
    cut
        A leaf whose share of positive patients is above it answers ``positive``: the share in the training table, so
        that both labels weigh alike however many patients of each the table holds.
    simulated
        Whether any training row was simulated.
    nodes
        The root first, each parent before its children (depth first, ``below`` first).
    """

    format: Literal["mds-counts-tree"] = "mds-counts-tree"
    version: Literal[1] = 1
    positive: Annotated[str, Field(min_length=1)]
    negative: Annotated[str, Field(min_length=1)]
    cut: Annotated[float, Field(gt=0, lt=1)]
    trained_on: Annotated[str, Field(min_length=1)]
    simulated: bool
    analytes: tuple[TreeAnalyte, ...] = Field(strict=False, min_length=1)
    nodes: tuple[Node, ...] = Field(strict=False, min_length=1, max_length=MAX_NODES)

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        names = [analyte.name for analyte in self.analytes]
        if len(set(names)) < len(names):
            raise ValueError("an analyte stands twice")
        children: list[int] = []
        for number, node in enumerate(self.nodes):
            if node.positives > node.patients:
                raise ValueError(f"node {number}: more positive patients than patients")
            if node.split is None:
                continue
            if node.split.analyte not in names:
                raise ValueError(f"node {number}: {node.split.analyte!r} is none of the analytes")
            if min(node.split.below, node.split.above) <= number:
                raise ValueError(f"node {number}: a child does not come after its parent")
            children += [node.split.below, node.split.above]
        if sorted(children) != list(range(1, len(self.nodes))):
            raise ValueError("the nodes are no tree: each but the first needs exactly one parent")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return the analytes' canonical names, in the order of columns."""
        return tuple(analyte.name for analyte in self.analytes)

    @property
    def asked(self) -> tuple[str, ...]:
        """Return the analytes that the tree asks for, in the order of columns."""
        used = {node.split.analyte for node in self.nodes if node.split}
        return tuple(name for name in self.names if name in used)

    @cached_property
    def shares(self) -> npt.NDArray[np.float64]:
        """Return the share of positive patients of each node, ``(nodes,)``."""
        return np.array([node.share for node in self.nodes])

    @property
    def is_leaf(self) -> npt.NDArray[np.bool_]:
        """Return which nodes are leaves, ``(nodes,)``."""
        return np.array([node.split is None for node in self.nodes])

    def analyte(self, name: str) -> TreeAnalyte:
        """Return the analyte of that canonical name."""
        return self.analytes[self.names.index(name)]

    def leaves(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the index of each patient's leaf, ``(n,)``; a missing value takes the split's ``missing`` side.

        Parameters
        ----------
        values
            ``(n, analytes)``, in the order and units of ``analytes``; NaN is missing.

        Raises
        ------
        ValueError
            Another number of columns.
        """
        place = np.zeros(len(values), dtype=np.int64)
        for number, below, missing in self._questions(values):
            split = self.nodes[number].split
            assert split is not None
            goes_below = np.where(missing, split.missing == "below", below)
            here = place == number
            place[here] = np.where(goes_below[here], split.below, split.above)
        return place

    def open_leaves(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Return the leaves that missing values leave open, ``(n, nodes)``: both sides where a value is missing."""
        reached = np.zeros((len(values), len(self.nodes)), dtype=bool)
        reached[:, 0] = True
        for number, below, missing in self._questions(values):
            split = self.nodes[number].split
            assert split is not None
            reached[:, split.below] = reached[:, number] & (missing | below)
            reached[:, split.above] = reached[:, number] & (missing | ~below)
        return reached & self.is_leaf

    def _questions(
        self, values: npt.NDArray[np.float64]
    ) -> list[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
        if values.ndim != 2 or values.shape[1] != len(self.analytes):
            raise ValueError(f"{len(self.analytes)} columns are needed, found an array of shape {values.shape}")
        found = []
        for number, node in enumerate(self.nodes):
            if node.split is not None:
                column = values[:, self.names.index(node.split.analyte)]
                found.append((number, column <= node.split.threshold, np.isnan(column)))
        return found


def write_tree(tree: MdsTree, path: Path) -> None:
    """Write the tree as JSON, atomically."""
    write_json(path, tree.model_dump(mode="json", exclude_none=True))


def read_tree(path: Path) -> MdsTree:
    """Return the tree of a JSON file, or of the ``tree.json`` in a folder.

    Raises
    ------
    MissingWeightsError
        There is no such file.
    ModelError
        The file is not a tree of this layout.
    """
    if path.is_dir():
        path = path / TREE_FILE
    if not path.is_file():
        raise MissingWeightsError(f"{path} does not exist; a folder that `train mds-counts` wrote is needed")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} is larger than {_MAX_BYTES:,} bytes; it is no tree of `train mds-counts`")
        return MdsTree.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(f"{path} is no tree of `train mds-counts`: {where}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as a tree: {error}") from None
