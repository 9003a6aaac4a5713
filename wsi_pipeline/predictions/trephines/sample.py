"""What the megakaryocytes of one trephine say together: the entry ``trephine`` of ``summary.json`` and its tables.

The entry, JSON values only; None (null) is what cannot be told::

    marrow_mm2        area searched: marrow with fat, without bone and artefacts
    bone_mm2          bone that was told, 0 without any
    cellularity       as ``regions.cellularity``: percent, lower, upper, n_spaces, area_mm2, reason; None where the
                      search told no tissue classes
    abstained, reason, wording
                      true with ``too-few-megakaryocytes`` (under ``predictions.min_megakaryocytes``) or ``no-marrow``:
                      then ``arrangement`` and ``mekanet`` are None and ``phenotypes`` has no rows; else false and None
    megakaryocytes    n, truncated, measured; per_mm2, lower, upper (Garwood);
                      nuclei_od and n_nuclei, the reference of hyperchromasia;
                      measures: by name {unit, n, mean, sd, q10, q25, q50, q75, q90};
                      bare: {count, n, percent, lower, upper} (Wilson)
    phenotypes        reason (``no-model``, ``no-real-training-data``, ``too-few-megakaryocytes``, None) and wording;
                      model: None or {name, sha256, trained_on, simulated, n_cells, n_samples};
                      n: measured cells; rows: {code, name, count, percent, lower, upper} (Wilson), in its order;
                      reference: {label, n_samples, n_cells, percent: {code: {mean, q10, q90}}}, label "all" first
    arrangement       as :meth:`~wsi_pipeline.predictions.trephines.arrangement.Arrangement.to_dict`: nearest_um,
                      clark_evans, pair_correlation, clusters, bone
    mekanet           the 19 features by MekaNet's names, um
    map               None, or where a model with a cohort map answers {model, simulated, x, y, known, nearest: [{class,
                      distance}], file}; the file beside it, ``cohort_map.json``, is what is drawn (``cohort_map``)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.trephines.arrangement import Arrangement, arrangement
from wsi_pipeline.predictions.trephines.megakaryocytes import MEASURES, UNITS, Megakaryocytes
from wsi_pipeline.predictions.trephines.mekanet import mekanet_features
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel
from wsi_pipeline.predictions.trephines.window import FloatArray, MarrowWindow
from wsi_pipeline.sentences import Sentence, say

TOO_FEW, NO_MARROW = "too-few-megakaryocytes", "no-marrow"
NO_MODEL, SIMULATED = "no-model", "no-real-training-data"

MEGAKARYOCYTE_COLUMNS = (
    "slide_id", "cell_id", "x_um", "y_um", "truncated", *MEASURES, "phenotype", "nearest_um", "cluster", "bone_um",
)  # fmt: skip
PHENOTYPE_COLUMNS = ("slide_id", "phenotype", "name", "count", "percent", "lower", "upper")
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class TrephineSample:
    """The megakaryocytes of a slide and all that is told of them.

    Parameters
    ----------
    cellularity
        Entry of ``regions``; None without one.
    lies
        How they lie, also where there are too few to report it.
    phenotype
        ``(n,)`` code of each, empty where it was not measured; None without a model that may answer.
    minimum, confidence
        Of ``predictions``.
    mpp
        Microns per level-0 pixel, x and y.
    simulated_refused
        The model learnt from simulated cells and may not answer.
    """

    cells: Megakaryocytes
    window: MarrowWindow
    lies: Arrangement
    cellularity: Mapping[str, Any] | None
    model: PhenotypeModel | None
    phenotype: tuple[str, ...] | None
    simulated_refused: bool
    minimum: int
    confidence: float
    mpp: tuple[float, float]

    @property
    def reason(self) -> str | None:
        """Return why nothing is said of arrangement and phenotypes; None where it is."""
        if self.window.area_um2 <= 0:
            return NO_MARROW
        return TOO_FEW if len(self.cells) < self.minimum else None

    @property
    def boxes_um(self) -> FloatArray:
        """Return the bounding boxes, ``(n, 4)``."""
        return self.cells.boxes_px0 * np.array([*self.mpp, *self.mpp])

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``summary.json`` that the module describes."""
        reason = self.reason
        return {
            "marrow_mm2": self.window.area_mm2,
            "bone_mm2": float(self.window.bone.area) * 1e-6,
            "cellularity": None if self.cellularity is None else dict(self.cellularity),
            "abstained": reason is not None,
            "reason": reason,
            "wording": self._wording(reason),
            "megakaryocytes": self._megakaryocytes(),
            "phenotypes": self._phenotypes(reason),
            "arrangement": self.lies.to_dict(self.confidence) if reason is None else None,
            "mekanet": mekanet_features(self.boxes_um) if reason is None else None,
            "map": None,
        }

    def to_csv(self, slide_id: str) -> str:
        """Return ``megakaryocytes.csv``: a row a megakaryocyte, in the order of the table."""
        rows: list[list[object]] = []
        cells, lies = self.cells, self.lies
        bone = np.full(len(cells), np.nan) if lies.bone is None else lies.bone.each
        measures = cells.matrix(MEASURES)
        for i, cell_id in enumerate(cells.cell_ids.tolist()):
            label = int(lies.clusters.label[i])
            rows.append(
                [
                    slide_id, cell_id, *(f"{v:.3f}" for v in cells.points_um[i].tolist()),
                    "true" if cells.truncated[i] else "false", *(_cell(v) for v in measures[i].tolist()),
                    "" if self.phenotype is None else self.phenotype[i], _cell(float(lies.nearest.each[i])),
                    "" if label < 0 else label + 1, _cell(float(bone[i])),
                ]
            )  # fmt: skip
        return csv_text(MEGAKARYOCYTE_COLUMNS, rows)

    def phenotypes_csv(self, slide_id: str) -> str:
        """Return ``phenotypes.csv``: a row a phenotype; a header only where none are told."""
        rows: list[list[object]] = []
        for row in self._phenotypes(self.reason)["rows"]:
            known = [f"{row[name]:.4f}" for name in ("percent", "lower", "upper")]
            rows.append([slide_id, row["code"], safe_cell(row["name"]), row["count"], *known])
        return csv_text(PHENOTYPE_COLUMNS, rows)

    def _wording(self, reason: str | None) -> Sentence:
        n = len(self.cells)
        if reason == NO_MARROW:
            return say("No marrow was found; nothing is said of megakaryocytes.")
        if reason == TOO_FEW:
            return say(
                "{n} megakaryocytes on {area:.2g} mm2 of marrow; at least {least} are needed for phenotypes and "
                "arrangement.",
                n=n,
                area=self.window.area_mm2,
                least=self.minimum,
            )
        return say("{n} megakaryocytes on {area:.3g} mm2 of marrow.", n=n, area=self.window.area_mm2)

    def _megakaryocytes(self) -> dict[str, Any]:
        cells = self.cells
        bare = cells.measures["bare"]
        judged = bare[np.isfinite(bare)]
        usual = cells.nuclei_od
        return {
            "n": len(cells),
            "truncated": int(cells.truncated.sum()),
            "measured": int(np.isfinite(cells.measures["area_um2"]).sum()),
            **self.lies.density(self.confidence),
            "nuclei_od": float(usual) if np.isfinite(usual) else None,
            "n_nuclei": cells.n_nuclei,
            "measures": {name: _spread(cells.measures[name], UNITS[name]) for name in MEASURES if name != "bare"},
            "bare": {"n": len(judged), **_share(int(judged.sum()), len(judged), self.confidence)},
        }

    def _phenotypes(self, reason: str | None) -> dict[str, Any]:
        model, told = self.model, self.phenotype
        found: dict[str, Any] = {
            "reason": reason, "wording": "", "model": None if model is None else model.about(), "n": 0, "rows": [],
            "reference": [],
        }  # fmt: skip
        if model is None:
            said = say("No phenotype model was given (predictions.phenotypes).")
            return found | {"reason": NO_MODEL, "wording": said}
        if self.simulated_refused or told is None:
            said = say("The phenotypes were learnt from simulated cells; they are told with --allow-simulated only.")
            return found | {"reason": SIMULATED, "wording": said}
        if reason is not None:
            return found | {"wording": self._wording(reason)}
        n = sum(code != "" for code in told)
        rows = [
            {"code": own.code, "name": own.name, **_share(told.count(own.code), n, self.confidence)}
            for own in model.phenotypes
        ]
        wording = say("Phenotypes are clusters of simulated cells.") if model.simulated else ""
        return found | {"n": n, "rows": rows, "wording": wording, "reference": model.reference_dict()}


def trephine_sample(
    cells: Megakaryocytes,
    window: MarrowWindow,
    *,
    mpp: tuple[float, float],
    cellularity: Mapping[str, Any] | None,
    model: PhenotypeModel | None,
    allow_simulated: bool,
    minimum: int,
    confidence: float,
) -> TrephineSample:
    """Return the sample of a slide.

    Parameters
    ----------
    mpp
        Microns per level-0 pixel, x and y.
    cellularity
        ``cellularity`` of the summary's ``regions``.
    model
        Of phenotypes; None tells none.
    allow_simulated
        Let a model of simulated cells answer.
    minimum, confidence
        ``predictions.min_megakaryocytes`` and ``predictions.confidence``.
    """
    refused = model is not None and model.simulated and not allow_simulated
    return TrephineSample(
        cells=cells,
        window=window,
        lies=arrangement(cells.points_um, window),
        cellularity=cellularity,
        model=model,
        phenotype=None if model is None or refused else model.of(cells),
        simulated_refused=refused,
        minimum=minimum,
        confidence=confidence,
        mpp=mpp,
    )


def _share(count: int, n: int, confidence: float) -> dict[str, Any]:
    if not n:
        return {"count": 0, "percent": None, "lower": None, "upper": None}
    lower, upper = wilson(count, n, confidence)
    return {"count": count, "percent": 100 * count / n, "lower": 100 * lower, "upper": 100 * upper}


def _spread(values: FloatArray, unit: str) -> dict[str, Any]:
    there = values[np.isfinite(values)]
    names = ("mean", "sd", *(f"q{round(100 * q)}" for q in _QUANTILES))
    if not len(there):
        return {"unit": unit, "n": 0, **dict.fromkeys(names)}
    found = (there.mean(), there.std(), *np.quantile(there, _QUANTILES))
    return {"unit": unit, "n": len(there), **{name: float(v) for name, v in zip(names, found, strict=True)}}


def _cell(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""
