"""What the patients of a simulated cohort have in common by group, and how a patient is drawn from a group.

A patient's mix of countable white cells is drawn in two steps: the share of the group's leading class (blasts of an
acute leukaemia) from a beta distribution stretched over its range, all others from a Dirichlet distribution around the
group's mix. Concentration is the sum of the parameters of either: the larger, the more alike the patients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from wsi_pipeline.simulation.hypogranular import HYPOGRANULAR, NEUTROPHILS
from wsi_pipeline.simulation.profile import LayerProfile, Profile, checked_profile, read_profile
from wsi_pipeline.simulation.strict import Strict
from wsi_pipeline.simulation.trephine_cohort import TrephineCohort

COHORTS_FOLDER = Path(__file__).resolve().parent / "cohorts"

_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(gt=0)]


class Spread(Strict):
    """A share that differs between patients: beta distributed between ``least`` and ``most``."""

    mean: _Share
    concentration: float = Field(gt=0, le=1e6)
    least: _Share = 0.0
    most: _Share = 1.0

    @model_validator(mode="after")
    def _mean_inside(self) -> Spread:
        if not self.least < self.mean < self.most:
            raise ValueError(f"mean {self.mean} must lie between least {self.least} and most {self.most}")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """Return the share of one patient."""
        middle = (self.mean - self.least) / (self.most - self.least)
        a, b = middle * self.concentration, (1 - middle) * self.concentration
        return float(self.least + (self.most - self.least) * rng.beta(a, b))


class Leading(Spread):
    """The class whose share makes the group."""

    class_name: str = Field(alias="class")


class RedCells(Strict):
    """Red cells of a group."""

    per_mm2: float = Field(ge=0, le=20000)
    abnormal: _Share = 0.0


class Group(Strict):
    """A group of patients.

    Attributes
    ----------
    label
        What the manifest calls its patients.
    leading
        The class drawn first, if any.
    mix
        Weights of the other countable classes.
    concentration
        Of the Dirichlet distribution around them.
    outside
        White cells that are in no denominator, per 100 of the countable ones: ``class`` or ``class:variant``.
    dysplastic
        Share of the neutrophils, segmented and bands, whose granules are taken out.
    """

    label: str = Field(pattern=r"^\w[\w .+-]*$")
    leading: Leading | None = None
    mix: dict[str, _Weight] = Field(min_length=2)
    concentration: float = Field(gt=0, le=1e6)
    outside: dict[str, _Weight] = Field(default_factory=dict)
    dysplastic: Spread
    red: RedCells
    platelets_per_mm2: float = Field(ge=0, le=20000)

    @model_validator(mode="after")
    def _leads_alone(self) -> Group:
        if self.leading is not None and self.leading.class_name in self.mix:
            raise ValueError(f"{self.leading.class_name} is in mix and leading; name it once")
        return self


class CohortProfile(Strict):
    """The groups of a cohort of smears; patients are of each in turn."""

    name: str
    description: str
    specimen: Literal["blood_smear", "marrow_smear"]
    white_per_mm2: float = Field(gt=0, le=20000)
    sources: dict[str, str] = Field(default_factory=dict)
    groups: dict[str, Group] = Field(min_length=1)


class PatientDraw(Strict):
    """A patient before the slide: shares of the countable white cells, and of dysplastic ones among the neutrophils."""

    group: str
    label: str
    shares: dict[str, float]
    dysplastic: float


def load_cohort_profile(source: str | Path) -> CohortProfile | TrephineCohort:
    """Load a shipped cohort by name, or one from a YAML file; its ``specimen`` says which keys it has.

    Raises
    ------
    ConfigError
        No such cohort, not YAML, or a key or value that is not allowed.
    """
    path, tree = read_profile("cohort", COHORTS_FOLDER, source)
    if tree.get("specimen") == "trephine":
        return checked_profile(TrephineCohort, "cohort", path, tree)
    return checked_profile(CohortProfile, "cohort", path, tree)


def draw_patient(name: str, group: Group, rng: np.random.Generator) -> PatientDraw:
    """Return a patient of a group; shares add up to 1, in the order leading class, mix."""
    first = 0.0 if group.leading is None else group.leading.draw(rng)
    weights = np.array(list(group.mix.values()))
    rest = (1.0 - first) * rng.dirichlet(group.concentration * weights / weights.sum())
    shares = dict(zip(group.mix, rest.tolist(), strict=True))
    if group.leading is not None:
        shares = {group.leading.class_name: first, **shares}
    return PatientDraw(group=name, label=group.label, shares=shares, dysplastic=group.dysplastic.draw(rng))


def patient_profile(cohort: CohortProfile, patient: PatientDraw) -> Profile:
    """Return what lies on a patient's slide."""
    group = cohort.groups[patient.group]
    mix: dict[str, float] = {}
    for name, share in patient.shares.items():
        if name in NEUTROPHILS:
            mix[name] = 100 * share * (1 - patient.dysplastic)
            mix[f"{name}:{HYPOGRANULAR}"] = 100 * share * patient.dysplastic
        else:
            mix[name] = 100 * share
    red = {"red_cell": 1 - group.red.abnormal, "red_cell:abnormal": group.red.abnormal}
    return Profile(
        name=f"{cohort.name}-{patient.group}",
        description=cohort.description,
        specimen=cohort.specimen,
        background="glass",
        layers={
            "white": LayerProfile(per_mm2=cohort.white_per_mm2, mix={**mix, **group.outside}),
            "red": LayerProfile(per_mm2=group.red.per_mm2, variation=0.2, sticky=0.3, overlapping=0.08, mix=red),
            "platelet": LayerProfile(per_mm2=group.platelets_per_mm2, variation=0.3, sticky=0.1, mix={"platelet": 1}),
        },
    )
