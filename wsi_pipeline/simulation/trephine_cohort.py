"""Cohorts of simulated trephines: groups, how a patient is drawn from one, and what was planted on the slides."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import shapely
from pydantic import Field, model_validator
from scipy.spatial import cKDTree

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.core_profile import Arrangement, Between, Bone, CoreProfile, MegakaryocyteKind
from wsi_pipeline.simulation.profile import LayerProfile, Profile
from wsi_pipeline.simulation.strict import Strict

MPP = 0.5
MARGIN_UM = 120.0
_ASPECT = 1.6
"""Length of a core over its width; longer ones hold more glass for the same tissue."""

COUNTS = {"platelets_g_l": "Platelets_G_L", "haemoglobin_g_dl": "Hb_g_dL"}
"""Simulated blood counts of a patient, and their columns in ``patients.csv``."""

_Weight = Annotated[float, Field(gt=0)]
_SPREADS = (
    "per_mm2", "clustered", "cluster_size", "paratrabecular", "cellularity", "bone_share", "platelets_g_l",
    "haemoglobin_g_dl",
)  # fmt: skip


class TrephineGroup(Strict):
    """A group of patients; each spread is between patients.

    Attributes
    ----------
    label
        What the manifest calls its patients.
    shares, concentration
        Weights of the kinds of megakaryocytes, and the concentration of the Dirichlet distribution around them.
    per_mm2, clustered, cluster_size, cluster_gap_um, paratrabecular
        As of :class:`~wsi_pipeline.simulation.core_profile.Arrangement`.
    cellularity, bone_share
        As of :class:`~wsi_pipeline.simulation.core_profile.CoreProfile` and its bone.
    platelets_g_l, haemoglobin_g_dl
        Blood counts that go with the label, drawn on their own: nothing on the slide depends on them.
    """

    label: str = Field(pattern=r"^\w[\w .+-]*$")
    shares: dict[str, _Weight] = Field(min_length=1)
    concentration: float = Field(gt=0, le=1e6)
    per_mm2: Between
    clustered: Between
    cluster_size: Between
    cluster_gap_um: tuple[float, float]
    paratrabecular: Between
    cellularity: Between
    bone_share: Between
    platelets_g_l: Between
    haemoglobin_g_dl: Between


class TrephineCohort(Strict):
    """The groups of a cohort of trephines, and the kinds of megakaryocytes they are mixed of."""

    name: str
    description: str
    specimen: Literal["trephine"]
    nuclei_per_mm2: float = Field(gt=0, le=20000)
    fat_radius_um: tuple[float, float] = (15.0, 32.0)
    sources: dict[str, str] = Field(default_factory=dict)
    kinds: dict[str, MegakaryocyteKind] = Field(min_length=1)
    groups: dict[str, TrephineGroup] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_group_can_be_drawn(self) -> TrephineCohort:
        # Both ends of every spread, so that no patient fails once half the cohort is made.
        for name, group in self.groups.items():
            for end in ("least", "most"):
                values = {key: float(getattr(getattr(group, key), end)) for key in _SPREADS}
                try:
                    self.slide_profile(TrephinePatient(group=name, label=group.label, shares=group.shares, **values))
                except ValueError as error:
                    raise ValueError(f"groups.{name}: {end} values cannot be drawn: {error}") from None
        return self

    def draw_patient(self, name: str, rng: np.random.Generator) -> TrephinePatient:
        """Return a patient of a group; shares add up to 1."""
        group = self.groups[name]
        weights = np.array(list(group.shares.values()))
        shares = rng.dirichlet(group.concentration * weights / weights.sum())
        values = {key: float(getattr(group, key).draw(rng)[0]) for key in _SPREADS}
        return TrephinePatient(
            group=name, label=group.label, shares=dict(zip(group.shares, shares.tolist(), strict=True)), **values
        )

    def slide_profile(self, patient: TrephinePatient) -> Profile:
        """Return what lies on a patient's slide."""
        group = self.groups[patient.group]
        core = CoreProfile(
            margin_um=MARGIN_UM,
            cellularity=patient.cellularity,
            fat_radius_um=self.fat_radius_um,
            bone=Bone(share=patient.bone_share),
            kinds=self.kinds,
            megakaryocytes=Arrangement(
                per_mm2=patient.per_mm2, shares=patient.shares, clustered=patient.clustered,
                cluster_size=patient.cluster_size, cluster_gap_um=group.cluster_gap_um,
                paratrabecular=patient.paratrabecular,
            ),
        )  # fmt: skip
        nuclei = LayerProfile(
            per_mm2=self.nuclei_per_mm2, variation=0.3, sticky=0.25, gap=1.04, overlapping=0.04, mix={"nucleus": 1}
        )
        return Profile(
            name=f"{self.name}-{patient.group}", description=self.description, specimen=self.specimen,
            background="tissue", layers={"nucleus": nuclei}, core=core,
        )  # fmt: skip


class TrephinePatient(Strict):
    """A patient before the slide; what the numbers mean is said in :class:`TrephineGroup`."""

    group: str
    label: str
    shares: dict[str, float]
    per_mm2: float
    clustered: float
    cluster_size: float
    paratrabecular: float
    cellularity: float
    bone_share: float
    platelets_g_l: float
    haemoglobin_g_dl: float


def slide_size_px(tissue_mm2: float) -> tuple[int, int]:
    """Return width and height of a slide whose core has an area: glass all around, longer than wide."""
    width = math.sqrt(tissue_mm2 * 1e6 / _ASPECT)
    return round((width + 2 * MARGIN_UM) / MPP), round((width * _ASPECT + 2 * MARGIN_UM) / MPP)


TRUTH_COLUMNS = (
    "patient", "slide_id", "group", "label", "simulated", "drawn_per_mm2", "drawn_clustered", "drawn_cellularity",
    "tissue_mm2", "marrow_mm2", "n_megakaryocytes", "per_mm2", "mean_area_um2", "mean_nucleus_area_um2", "mean_lobes",
    "mean_lobulation", "in_clusters", "mean_nearest_um", "cellularity",
)  # fmt: skip
"""Columns of a trephine cohort's ``truth.csv`` before one ``n_<kind>`` for each kind of megakaryocytes."""


def truth_rows(
    slides: Path, names: Sequence[str], drawn: Sequence[TrephinePatient], cohort: TrephineCohort
) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of ``truth.csv``: what was drawn of each patient, and what was placed on the slide.

    Figures of size are of megakaryocytes that no edge cuts; empty where a slide has none, or no second one for the
    distance to the nearest.

    Raises
    ------
    DataError
        A slide's truth is damaged.
    """
    kinds = list(cohort.kinds)
    rows = []
    for name, patient in zip(names, drawn, strict=True):
        truth = read_core_truth(slides / f"{name}.truth.json")
        cells = _placed(slides / f"{name}.truth.csv")
        areas, n = truth["areas_mm2"], len(cells.xy_um)
        rows.append([
            name, name, patient.group, patient.label, "true", f"{patient.per_mm2:.4f}", f"{patient.clustered:.4f}",
            f"{patient.cellularity:.4f}", areas["tissue"], areas["marrow"], n,
            _number(n / areas["marrow"] if areas["marrow"] else math.nan), _number(cells.mean_area_um2),
            _number(cells.mean_nucleus_um2), _number(truth["mean_lobes"]), _number(truth["mean_lobulation"]),
            _number(truth["in_clusters"] / n if n else math.nan), _number(cells.mean_nearest_um),
            _number(truth["cellularity"]), *(truth["kinds"].get(kind, 0) for kind in kinds),
        ])  # fmt: skip
    return [*TRUTH_COLUMNS, *(f"n_{kind}" for kind in kinds)], rows


def counts_rows(names: Sequence[str], drawn: Sequence[TrephinePatient]) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of ``patients.csv``: labels with the simulated blood counts."""
    rows: list[list[object]] = [
        [name, patient.label, f"{patient.platelets_g_l:.0f}", f"{patient.haemoglobin_g_dl:.1f}"]
        for name, patient in zip(names, drawn, strict=True)
    ]
    return ["patient", "label", *COUNTS.values()], rows


def read_core_truth(path: Path) -> dict[str, Any]:
    """Return a slide's ``.truth.json`` (:meth:`~wsi_pipeline.simulation.core_plan.CorePlan.truth`).

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        needed = ("areas_mm2", "cellularity", "kinds", "in_clusters", "mean_lobes", "mean_lobulation", "marrow", "bone")
        missing = [name for name in needed if name not in tree]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove the slide's truth, and it is made anew") from None
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; remove the slide's truth, and it is made anew")
    return dict(tree)


class _Cells(Strict):
    xy_um: tuple[tuple[float, float], ...]
    mean_area_um2: float
    mean_nucleus_um2: float
    mean_nearest_um: float


def _placed(path: Path) -> _Cells:
    """Return what a slide's truth says of its megakaryocytes."""
    xy, areas, nuclei = [], [], []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] != "megakaryocyte":
                    continue
                xy.append((float(row["x_px0"]) * MPP, float(row["y_px0"]) * MPP))
                if row["truncated"] == "false":
                    areas.append(shapely.from_wkt(row["outline"]).area * MPP**2)
                    nuclei.append(shapely.from_wkt(row["nucleus"]).area * MPP**2)
    except (OSError, KeyError, ValueError, csv.Error, shapely.errors.ShapelyError) as error:
        raise DataError(f"{path} is not a truth table ({error!r}); remove it, and the slide is made anew") from None
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1] if len(xy) > 1 else np.array([])
    return _Cells(
        xy_um=tuple(xy), mean_area_um2=_mean(areas), mean_nucleus_um2=_mean(nuclei),
        mean_nearest_um=_mean(nearest.tolist()),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"
