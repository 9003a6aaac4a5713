"""An ensemble of XGBoost models in one JSON file, its class margins, and what each value adds to them.

Three families whose errors differ: boosted trees on engineered columns, a random forest, and trees that imitate a
smooth kernel model. Their margins (log-odds, centred over the classes) are averaged, so that the contributions of
TreeSHAP (Lundberg et al., Nat Mach Intell 2:56, 2020; XGBoost's ``pred_contribs``) add up to the answer's margin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.boosters import load_booster
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray, engineered, shares_of_analytes

if TYPE_CHECKING:
    import xgboost

Columns = Literal["values", "engineered"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One XGBoost model and the columns it takes."""

    name: str
    columns: Columns
    booster: xgboost.Booster


class Ensemble:
    """Averaged margins of XGBoost models."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    def margins(self, values: FloatArray) -> FloatArray:
        """Return the averaged margins ``(n, 3)``, each row summing to 0, of values ``(n, 14)``."""
        total = np.zeros((len(values), len(CLASSES)))
        if len(values) == 0:
            return total
        made = engineered(values)
        for member in self.members:
            given = made if member.columns == "engineered" else values
            found = member.booster.inplace_predict(given, predict_type="margin", validate_features=False)
            total += _centred(np.asarray(found, dtype=np.float64).reshape(len(values), len(CLASSES)))
        return total / len(self.members)

    def contributions(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return what each value adds to the margins ``(n, 14, 3)``, and what is there without any ``(3,)``."""
        import xgboost

        n = len(values)
        effects, baseline = np.zeros((n, len(ANALYTES), len(CLASSES))), np.zeros(len(CLASSES))
        made, shares = engineered(values), shares_of_analytes()
        for member in self.members:
            columns = made if member.columns == "engineered" else values
            found = member.booster.predict(xgboost.DMatrix(columns), pred_contribs=True, strict_shape=True)
            found = _centred(np.asarray(found, dtype=np.float64).transpose(0, 2, 1))
            effects += np.einsum("nfc,fa->nac", found[:, :-1], shares[: columns.shape[1]])
            baseline += found[0, -1]
        return effects / len(self.members), baseline / len(self.members)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what a model's file holds."""
        return [
            {"name": m.name, "columns": m.columns, "booster": json.loads(m.booster.save_raw("json"))}
            for m in self.members
        ]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]], *, threads: int) -> Ensemble:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            A member is no XGBoost model of these columns and classes.
        """
        members = []
        for entry in entries:
            try:
                name, booster = str(entry["name"])[:80], entry["booster"]
                columns: Columns = "engineered" if entry["columns"] == "engineered" else "values"
            except (KeyError, TypeError) as error:
                raise ModelError(f"a member of a model of blood counts is damaged ({str(error)[:80]})") from None
            wanted = len(shares_of_analytes()) if columns == "engineered" else len(ANALYTES)
            try:
                found = load_booster(booster, columns=wanted, outputs=len(CLASSES), threads=threads)
            except ModelError as error:
                raise ModelError(f"member {name!r} of a model of blood counts is damaged: {error}") from None
            members.append(Member(name=name, columns=columns, booster=found))
        if not members:
            raise ModelError("a model of blood counts has no members")
        return cls(members)


def _centred(margins: FloatArray) -> FloatArray:
    """Return margins less their mean over the classes, the last axis."""
    return margins - margins.mean(axis=-1, keepdims=True)


def softmax(margins: FloatArray) -> FloatArray:
    """Return probabilities of margins, along the last axis."""
    lifted = np.exp(margins - margins.max(axis=-1, keepdims=True))
    return lifted / lifted.sum(axis=-1, keepdims=True)
