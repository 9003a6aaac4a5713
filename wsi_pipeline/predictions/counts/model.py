"""The model of acute leukaemia from blood counts: values in, an answer and its trust out."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.analytes import Analyte, load_analytes
from wsi_pipeline.predictions.counts.answers import Contribution, CountsAnswer, Reason, Trust
from wsi_pipeline.predictions.counts.ensemble import Ensemble, softmax
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray
from wsi_pipeline.predictions.counts.population import Population
from wsi_pipeline.predictions.counts.trust import TrustRules
from wsi_pipeline.predictions.counts.words import explain, notes_on
from wsi_pipeline.weights import Weights, find_weights

TASK = "acute-leukaemia-counts"
SHIPPED = "acute-leukaemia-counts"
FORMAT = "wsi-pipeline acute-leukaemia-counts 1"

LEAST_VALUES = 6
"""Fewer known values give no answer; our choice."""

_NEEDED = ("WBC_G_L",)
_IN_RANGE_NEEDED = ("WBC_G_L", "Platelets_G_L")
_IN_RANGE = (
    "WBC_G_L",
    "Platelets_G_L",
    "ANC_G_L",
    "Lymphocytes_G_L",
    "Monocytes_G_L",
    # A differential full of blasts may leave every absolute count within its range.
    "ANC_percent",
    "Lymphocytes_percent",
    "Monocytes_percent",
)
_CHUNK = 50_000
_PARTIAL_CHUNK = 4_000
_LARGEST = 256 << 20
"""Bytes of an unpacked model; the shipped one has some 8 million."""


_REASONS: tuple[Reason, ...] = ("", "not-applicable", "too-few-values", "outlier", "uncertain", "apl-not-excluded")
_TRUSTS: tuple[Trust, ...] = ("red", "orange", "green")


@dataclass(frozen=True, kw_only=True)
class CountsPredictions:
    """Answers for ``n`` patients.

    Parameters
    ----------
    probabilities, lower, upper
        ``(n, 3)``, NaN where abstained; ``lower`` and ``upper`` are what the missing values leave open.
    predicted
        ``(n,)``: index of the class, -1 where abstained.
    trust, reason
        ``(n,)`` words.
    apl_alert
        bool ``(n,)``.
    n_values
        ``(n,)``: known values.
    """

    probabilities: FloatArray
    lower: FloatArray
    upper: FloatArray
    predicted: npt.NDArray[np.int64]
    trust: npt.NDArray[np.str_]
    reason: npt.NDArray[np.str_]
    apl_alert: npt.NDArray[np.bool_]
    n_values: npt.NDArray[np.int64]


class CountsModel:
    """An ensemble, the population it knows, and the rules of its trust.

    Parameters
    ----------
    importance
        ``(14,)``: mean absolute effect of each value over the training patients.
    card
        The model's card.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        population: Population,
        rules: TrustRules,
        *,
        temperature: float,
        importance: FloatArray,
        card: Mapping[str, Any],
    ) -> None:
        self.ensemble = ensemble
        self.population = population
        self.rules = rules
        self.temperature = temperature
        self.importance = importance
        self.card = dict(card)
        self.analytes: tuple[Analyte, ...] = load_analytes(TASK.removesuffix("-counts"))

    @property
    def trained_on(self) -> str:
        """Return what the model learned from, in one phrase."""
        return str(self.card.get("trained_on", ""))

    def predict(self, values: FloatArray) -> CountsPredictions:
        """Return answers for values ``(n, 14)``, NaN where missing, in canonical units."""
        parts = [self._predict(values[start : start + _CHUNK]) for start in range(0, max(len(values), 1), _CHUNK)]
        return CountsPredictions(
            **{key: np.concatenate([getattr(part, key) for part in parts]) for key in vars(parts[0])}
        )

    def answer(self, patient: str, values: Mapping[str, float | None], *, precondition: bool) -> CountsAnswer:
        """Return the answer for one patient.

        Parameters
        ----------
        values
            By canonical name, in canonical units; None or absent where missing.
        precondition
            Whether acute leukaemia is established or strongly suspected; without it there is no answer.
        """
        row = np.array([[np.nan if values.get(name) is None else values[name] for name in ANALYTES]], dtype=float)
        found = self.predict(row)
        missing = [name for i, name in enumerate(ANALYTES) if np.isnan(row[0, i])]
        missing.sort(key=lambda name: -self.importance[ANALYTES.index(name)])
        chosen = int(found.predicted[0]) if precondition else -1
        reason = _reason(str(found.reason[0])) if precondition else "precondition-not-confirmed"
        if chosen < 0:
            return CountsAnswer(
                patient=patient,
                probabilities={},
                spread={},
                predicted="",
                trust="red",
                reason=reason,
                apl_alert=False,
                contributions=(),
                baseline={},
                missing=tuple(missing),
                notes=notes_on(reason, "red", self.card),
            )
        contributions, baseline = self._contributions(row, CLASSES[chosen])
        trust = _trust(str(found.trust[0]))
        return CountsAnswer(
            patient=patient,
            probabilities=_by_class(found.probabilities[0]),
            spread={c: (float(found.lower[0, i]), float(found.upper[0, i])) for i, c in enumerate(CLASSES)},
            predicted=CLASSES[chosen],
            trust=trust,
            reason=reason,
            apl_alert=bool(found.apl_alert[0]),
            contributions=contributions,
            baseline=baseline,
            missing=tuple(missing),
            notes=notes_on(reason, trust, self.card),
        )

    def probabilities(self, values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return calibrated probabilities ``(n, 3)`` with what missing values leave open, lowest and highest.

        A patient with missing values gets the mean margin of the possible patients; no rule abstains here.
        """
        partial = np.isnan(values).any(axis=1)
        margins = np.empty((len(values), len(CLASSES)))
        margins[~partial] = self.ensemble.margins(values[~partial])
        lower, upper = np.empty_like(margins), np.empty_like(margins)
        incomplete = np.flatnonzero(partial)
        for start in range(0, len(incomplete), _PARTIAL_CHUNK):
            rows = incomplete[start : start + _PARTIAL_CHUNK]
            possible = self.population.complete(values[rows])
            drawn = self.ensemble.margins(possible.reshape(-1, len(ANALYTES))).reshape(*possible.shape[:2], -1)
            margins[rows] = drawn.mean(axis=1)
            open_to = softmax(drawn / self.temperature)
            lower[rows], upper[rows] = open_to.min(axis=1), open_to.max(axis=1)
        found = softmax(margins / self.temperature)
        lower[~partial], upper[~partial] = found[~partial], found[~partial]
        return found, np.minimum(lower, found), np.maximum(upper, found)

    def _predict(self, values: FloatArray) -> CountsPredictions:
        found, lower, upper = self.probabilities(values)
        rows = np.arange(len(values))
        n_values = (~np.isnan(values)).sum(axis=1)
        likeliest = found.argmax(axis=1)
        green, orange = np.asarray(self.rules.green), np.asarray(self.rules.orange)
        apl = CLASSES.index("APL")
        alert = found[:, apl] >= self.rules.apl_alert
        # What has no distance, an infinite value say, is no usual patient.
        outlier = ~(self.population.tail_probability(values) >= self.population.outlier)
        level = (found[rows, likeliest] >= orange[likeliest]).astype(int)
        level[lower[rows, likeliest] >= green[likeliest]] = 2
        reason = np.where(level == 2, _REASONS.index(""), _REASONS.index("uncertain"))
        doubt = alert & (likeliest != apl)
        level = np.where(doubt, np.minimum(level, 1), level)
        reason[doubt] = _REASONS.index("apl-not-excluded")
        level[outlier], reason[outlier] = 0, _REASONS.index("outlier")
        few = (n_values < LEAST_VALUES) | np.isnan(values[:, [ANALYTES.index(n) for n in _NEEDED]]).any(axis=1)
        normal = self._within_reference(values)
        reason[few], reason[normal] = _REASONS.index("too-few-values"), _REASONS.index("not-applicable")
        silent = few | normal
        level[silent] = 0
        for table in (found, lower, upper):
            table[silent] = np.nan
        return CountsPredictions(
            probabilities=found,
            lower=lower,
            upper=upper,
            predicted=np.where(silent, -1, likeliest),
            trust=np.asarray(_TRUSTS)[level],
            reason=np.asarray(_REASONS)[reason],
            apl_alert=alert & ~silent,
            n_values=n_values,
        )

    def _within_reference(self, values: FloatArray) -> npt.NDArray[np.bool_]:
        """Tell whose known counts all lie within reference ranges; leucocytes and platelets must be known."""
        within = np.ones(len(values), dtype=bool)
        for analyte in self.analytes:
            if analyte.name in _IN_RANGE and analyte.reference is not None:
                low, high = analyte.reference
                column = values[:, ANALYTES.index(analyte.name)]
                inside = (column >= low) & (column <= high)
                within &= inside if analyte.name in _IN_RANGE_NEEDED else inside | np.isnan(column)
        return within

    def _contributions(self, row: FloatArray, predicted: str) -> tuple[tuple[Contribution, ...], dict[str, float]]:
        effects, baseline = self.ensemble.contributions(self.population.complete(row)[0])
        effects, baseline = effects.mean(axis=0) / self.temperature, baseline / self.temperature
        chosen = CLASSES.index(predicted)
        listed = []
        for i in np.argsort(-np.abs(effects[:, chosen]), kind="stable").tolist():
            value = None if np.isnan(row[0, i]) else float(row[0, i])
            effect = _by_class(effects[i])
            words = explain(self.analytes[i], value, effect, predicted)
            listed.append(Contribution(analyte=ANALYTES[i], value=value, effect=effect, words=words))
        return tuple(listed), _by_class(baseline)


def load_counts_model(name_or_path: str = SHIPPED, *, threads: int = 0) -> CountsModel:
    """Return a shipped model by name, or a user's by the path of its ``.trees.json.gz``.

    Parameters
    ----------
    threads
        Of XGBoost; 0 takes all.

    Raises
    ------
    MissingWeightsError
        There is no such model.
    ModelError
        The file is damaged, was replaced, or is something else.
    """
    weights = find_weights(name_or_path, TASK)
    weights.verify()
    return _read(weights, threads)


def _read(weights: Weights, threads: int) -> CountsModel:
    path = weights.path
    try:
        content = json.loads(_unpacked(path))
        if content["format"] != FORMAT or tuple(content["analytes"]) != ANALYTES:
            raise ModelError(f"format {content['format']!r}, not {FORMAT!r}")
        if tuple(content["classes"]) != CLASSES:
            raise ModelError(f"classes {content['classes']}, not {list(CLASSES)}")
        temperature = float(content["temperature"])
        importance = np.asarray(content["importance"], dtype=float)
        if not 0 < temperature < np.inf or importance.shape != (len(ANALYTES),) or not np.isfinite(importance).all():
            raise ModelError("its temperature or importance is no number that makes sense")
        return CountsModel(
            Ensemble.from_json(content["members"], threads=threads),
            Population.from_json(content["population"]),
            TrustRules.from_json(content["trust"]),
            temperature=temperature,
            importance=importance,
            card=weights.card,
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (OSError, EOFError, zlib.error, RecursionError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model of blood counts ({type(error).__name__}: {str(error)[:200]})") from None


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ModelError(f"more than {_LARGEST >> 20} MiB unpacked, which no model of blood counts has")
    return content


def pack(model: CountsModel) -> bytes:
    """Return the file of a model: JSON, gzipped without a date, so that the same model gives the same bytes."""
    content = {
        "format": FORMAT,
        "analytes": list(ANALYTES),
        "classes": list(CLASSES),
        "temperature": model.temperature,
        "importance": model.importance.tolist(),
        "population": model.population.to_json(),
        "trust": model.rules.to_json(),
        "members": model.ensemble.to_json(),
    }
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0)


def model_path(folder: Path, name: str) -> Path:
    """Return where a model's trees lie; its cards lie beside them."""
    return folder / f"{name}.trees.json.gz"


def _by_class(row: FloatArray) -> dict[str, float]:
    return {name: float(row[i]) for i, name in enumerate(CLASSES)}


def _reason(word: str) -> Reason:
    return _REASONS[_REASONS.index(word)]


def _trust(word: str) -> Trust:
    return _TRUSTS[_TRUSTS.index(word)]
