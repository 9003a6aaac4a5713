"""The differential count: each class as a percentage of the right denominator, with its interval.

Absolute counts (x10^9/L) are never given: a smear has no volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.config import SPECIMENS, Specimen
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.intervals import poisson, ratio, wilson
from wsi_pipeline.sentences import Sentence, say
from wsi_pipeline.taxonomies import Taxonomy

DIFFERENTIAL_COLUMNS = ("slide_id", "class", "count", "percent", "lower", "upper")

FIELD_NUMBER_MM = 22.0
"""Field number of the eyepiece that a "field" refers to: 22 mm, that of common laboratory microscopes."""
FIELD_AREA_UM2 = math.pi * (FIELD_NUMBER_MM * 1000 / 100 / 2) ** 2
"""Area seen through a 100x oil objective: diameter = field number / magnification = 0.22 mm; 38,013 um2."""

_SECTION_KINDS = ("nucleus", "megakaryocyte")


@dataclass(frozen=True, kw_only=True)
class DifferentialRow:
    """One class: its count and, where it belongs to the denominator, its percentage with interval."""

    code: str
    count: int
    in_denominator: bool
    percent: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, kw_only=True)
class Index:
    """A figure derived from the counts. None stands for undefined or unbounded."""

    name: str
    value: float | None
    lower: float | None
    upper: float | None
    unit: str
    definition: str


@dataclass(frozen=True, kw_only=True)
class Differential:
    """The differential of a slide, or of the pooled slides of a patient.

    Parameters
    ----------
    rows
        One row a class of the classifier, zeros included (absence is information), then counted kinds that no
        classifier answered. Empty on trephines, which have no differential.
    n
        Cells in the denominator; on trephines nuclei and megakaryocytes.
    denominator
        What ``n`` counts, in words.
    """

    specimen: Specimen
    taxonomy: str
    confidence: float
    rows: tuple[DifferentialRow, ...]
    n: int
    denominator: str
    indices: tuple[Index, ...]
    notes: tuple[str, ...]
    counts: Mapping[str, int]

    def count(self, codes: Iterable[str]) -> int:
        """Return how many cells are of these classes."""
        return sum(self.counts.get(code, 0) for code in codes)

    def to_dict(self) -> dict[str, Any]:
        """Return ``differential``, ``denominator`` and ``indices`` of ``summary.json``; JSON values only."""
        return {
            "differential": [
                {
                    "class": row.code,
                    "count": row.count,
                    "percent": row.percent,
                    "lower": row.lower,
                    "upper": row.upper,
                    "in_denominator": row.in_denominator,
                }
                for row in self.rows
            ],
            "denominator": {"n": self.n, "wording": self.denominator},
            "indices": [vars(index) for index in self.indices],
        }


def pool_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add the counts of several slides of one patient; the slides must be of one specimen."""
    pooled: dict[str, int] = {}
    for one in counts:
        for code, k in one.items():
            pooled[code] = pooled.get(code, 0) + k
    return pooled


def differential(
    counts: Mapping[str, int],
    *,
    specimen: Specimen,
    taxonomy: Taxonomy,
    confidence: float = 0.95,
    area_mm2: float | None = None,
) -> Differential:
    """Turn counts into a differential.

    Parameters
    ----------
    counts
        Cells by ``class_name``.
    specimen
        Decides the denominator.
    taxonomy
        The classifier's taxonomy; ``section`` for trephines.
    confidence
        Level of the Wilson intervals (fractions) and the exact Poisson intervals (densities).
    area_mm2
        Area that was searched; without it there are no figures per field or per mm2.

    Raises
    ------
    DataError
        A class that the taxonomy does not have, or a negative count.
    ConfigError
        The taxonomy has no denominator for the specimen.

    Examples
    --------
    Erythroblasts are no part of the denominator of blood:

    >>> from wsi_pipeline.taxonomies import load_taxonomy
    >>> counts = {"segmented_neutrophil": 60, "lymphocyte": 40, "erythroblast": 5}
    >>> result = differential(counts, specimen="blood_smear", taxonomy=load_taxonomy("pbc-blast"))
    >>> result.n
    100
    >>> row = next(row for row in result.rows if row.code == "lymphocyte")
    >>> row.percent, round(row.lower, 1), round(row.upper, 1)
    (40.0, 30.9, 49.8)
    """
    _check(counts, specimen, taxonomy, area_mm2)
    if specimen == "trephine":
        return _section(counts, taxonomy, confidence, area_mm2)
    countable = set(taxonomy.countable(specimen))
    n = sum(k for code, k in counts.items() if code in countable)
    unclassified = counts.get("white_cell", 0)
    # Zeros say "looked for and not found", which is not true when no cell was classified.
    typed = n > 0 or unclassified == 0
    rows = []
    for cell_class in taxonomy.classes:
        k = counts.get(cell_class.code, 0)
        if not k and not (cell_class.classified and typed):
            continue
        inside = cell_class.code in countable
        low, high = wilson(k, n, confidence) if inside else (0.0, 0.0)
        rows.append(
            DifferentialRow(
                code=cell_class.code,
                count=k,
                in_denominator=inside,
                percent=100 * k / n if inside and n else None,
                lower=100 * low if inside and n else None,
                upper=100 * high if inside and n else None,
            )
        )
    indices = list(_smear_indices(counts, n, specimen, taxonomy, confidence))
    if specimen == "blood_smear" and area_mm2:
        indices += _field_densities(counts, area_mm2, confidence)
    notes = []
    if unclassified:
        notes.append(say("{n} nucleated cells were not classified and are in no percentage", n=unclassified))
    return Differential(
        specimen=specimen,
        taxonomy=taxonomy.name,
        confidence=confidence,
        rows=tuple(rows),
        n=n,
        denominator=taxonomy.denominators[specimen],
        indices=tuple(indices),
        notes=tuple(notes),
        counts=dict(counts),
    )


def _check(counts: Mapping[str, int], specimen: Specimen, taxonomy: Taxonomy, area_mm2: float | None) -> None:
    if specimen not in SPECIMENS:
        raise ConfigError(f"specimen {specimen!r} is unknown; use one of {', '.join(SPECIMENS)}")
    if specimen != "trephine" and specimen not in taxonomy.denominators:
        raise ConfigError(
            f"taxonomy {taxonomy.name} has no denominator for {specimen}; "
            f"it has {', '.join(taxonomy.denominators) or 'none'}"
        )
    unknown = sorted(set(counts) - set(taxonomy.codes))
    if unknown:
        raise DataError(
            f"classes {', '.join(map(repr, unknown))} are not in taxonomy {taxonomy.name}, "
            f"which has {', '.join(taxonomy.codes)}"
        )
    negative = sorted(code for code, k in counts.items() if k < 0)
    if negative:
        raise DataError(f"negative counts for {', '.join(negative)}")
    if area_mm2 is not None and not (math.isfinite(area_mm2) and area_mm2 >= 0):
        raise DataError(f"the searched area must be a number of mm2, not {area_mm2}")


def _section(counts: Mapping[str, int], taxonomy: Taxonomy, confidence: float, area_mm2: float | None) -> Differential:
    indices = []
    per_mm2 = say("per mm2 of section")
    if area_mm2:
        for code in _SECTION_KINDS:
            indices.append(_density(f"{code}_per_mm2", counts.get(code, 0), area_mm2, confidence, per_mm2))
    return Differential(
        specimen="trephine",
        taxonomy=taxonomy.name,
        confidence=confidence,
        rows=(),
        n=sum(counts.get(code, 0) for code in _SECTION_KINDS),
        denominator=say("none: a section has no differential; nuclei and megakaryocytes are counted"),
        indices=tuple(indices),
        notes=(),
        counts=dict(counts),
    )


def _smear_indices(
    counts: Mapping[str, int], n: int, specimen: Specimen, taxonomy: Taxonomy, confidence: float
) -> Iterable[Index]:
    groups = taxonomy.roll_ups
    blood = specimen == "blood_smear"

    def total(group: str) -> int:
        return sum(counts.get(code, 0) for code in groups.get(group, ()))

    def index(name: str, a: int, b: int, per: int, definition: Sentence) -> Index:
        value, low, high = ratio(a, b, confidence)
        return Index(
            name=name,
            value=None if value is None else per * value,
            lower=per * low,
            upper=None if high is None else per * high,
            unit=say("per {number}", number=per) if per > 1 else say("ratio"),
            definition=definition,
        )

    if n and len(groups.get("neutrophils", ())) > 1:
        low, high = wilson(total("neutrophils"), n, confidence)
        yield Index(
            name="neutrophils_percent",
            value=100 * total("neutrophils") / n,
            lower=100 * low,
            upper=100 * high,
            unit="%",
            definition=say(
                "band and segmented neutrophils read together: people and classifiers take one for the other"
            ),
        )
    if n and blood and "erythroid" in groups:
        what = say("nucleated red cells per 100 white cells; they are not in the denominator")
        yield index("nrbc_per_100_wbc", total("erythroid"), n, 100, what)
    if n and "artefacts" in groups:
        name = "artefacts_per_100_wbc" if blood else "artefacts_per_100_cells"
        what = (
            say("artefacts and smudged cells per 100 white cells; they are not in the denominator")
            if blood
            else say("artefacts and smudged cells per 100 counted cells; they are not in the denominator")
        )
        yield index(name, total("artefacts"), n, 100, what)
    myeloid, erythroid = total("granulocytic"), total("erythroid")
    if not blood and myeloid + erythroid:
        yield index(
            "me_ratio",
            myeloid,
            erythroid,
            1,
            say(
                "M:E ratio: granulocytes and their precursors from the promyelocyte on, over nucleated red cells; "
                "blasts (lineage not determined), monocytes and lymphocytes left out"
            ),
        )
    red = counts.get("red_cell", 0)
    if blood and red:
        platelets = counts.get("platelet", 0)
        yield index("platelets_per_1000_red_cells", platelets, red, 1000, say("platelets per 1,000 red cells"))


def _field_densities(counts: Mapping[str, int], area_mm2: float, confidence: float) -> Iterable[Index]:
    fields = area_mm2 * 1e6 / FIELD_AREA_UM2
    unit = say(
        "per 100x oil field of {area:,.0f} um2 (field number {number:g})", area=FIELD_AREA_UM2, number=FIELD_NUMBER_MM
    )
    yield _density("red_cells_per_field", counts.get("red_cell", 0), fields, confidence, unit)
    yield _density("platelets_per_field", counts.get("platelet", 0), fields, confidence, unit)


def _density(name: str, k: int, size: float, confidence: float, unit: str) -> Index:
    low, high = poisson(k, confidence)
    return Index(
        name=name,
        value=k / size,
        lower=low / size,
        upper=high / size,
        unit=unit,
        definition=say("{k} in the searched area; exact Poisson interval, too narrow where cells lie clumped", k=k),
    )
