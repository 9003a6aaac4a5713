"""The entry ``trephine`` of a summary as a report reads it (see :mod:`wsi_pipeline.predictions.trephines.sample`)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    # Unknown keys are for other readers of summary.json.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Spread(_Part):
    """A measure over the megakaryocytes of a slide."""

    unit: str = ""
    n: int = 0
    mean: float | None = None
    q10: float | None = None
    q25: float | None = None
    q50: float | None = None
    q75: float | None = None
    q90: float | None = None


class Share(_Part):
    """Some of the megakaryocytes; percentages 0 to 100."""

    count: int = 0
    n: int = 0
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None


class Megakaryocytes(_Part):
    """How many, how dense, and what they measure."""

    n: int = 0
    truncated: int = 0
    measured: int = 0
    per_mm2: float | None = None
    lower: float | None = None
    upper: float | None = None
    measures: dict[str, Spread] = {}
    bare: Share = Share()


class PhenotypeRow(Share):
    """A phenotype's share."""

    code: str
    name: str


class PhenotypeModel(_Part):
    """What told the phenotypes."""

    name: str = ""
    trained_on: str = ""
    simulated: bool = False
    n_cells: int = 0
    n_samples: int = 0


class ReferenceShare(_Part):
    """A phenotype over reference samples; percentages 0 to 100."""

    mean: float
    q10: float
    q90: float


class Reference(_Part):
    """Samples of one label; ``all`` is every sample."""

    label: str
    n_samples: int = 0
    n_cells: int = 0
    percent: dict[str, ReferenceShare] = {}


class Phenotypes(_Part):
    """Shares of phenotypes, or the reason why none are told."""

    reason: str | None = None
    wording: str = ""
    model: PhenotypeModel | None = None
    n: int = 0
    rows: tuple[PhenotypeRow, ...] = ()
    reference: tuple[Reference, ...] = ()


class Nearest(_Part):
    """Distances to the nearest neighbour, um, corrected for the edge."""

    mean: float | None = None
    q50: float | None = None
    n_used: int = 0


class ClarkEvans(_Part):
    """Mean nearest distance over that of random points, and the range of random patterns."""

    ratio: float | None = None
    random_lower: float | None = None
    random_upper: float | None = None
    draws: int = 0


class PairCorrelation(_Part):
    """g(r) and the bounds of random patterns."""

    r_um: tuple[float, ...] = ()
    g: tuple[float | None, ...] = ()
    random_lower: tuple[float, ...] | None = None
    random_upper: tuple[float, ...] | None = None
    bandwidth_um: float | None = None
    within_radius: float | None = None


class Clusters(_Part):
    """DBSCAN clusters; shares 0 to 1."""

    radius_um: float
    least: int
    n: int = 0
    sizes: tuple[int, ...] = ()
    mean_size: float | None = None
    n_clustered: int = 0
    share: float | None = None
    lower: float | None = None
    upper: float | None = None
    random_share: float | None = None


class Bone(_Part):
    """Distance to bone beside that of random points; shares 0 to 1."""

    mean_um: float | None = None
    random_mean_um: float | None = None
    beside_um: float
    n_beside: int = 0
    share: float | None = None
    lower: float | None = None
    upper: float | None = None
    random_share: float | None = None


class Arrangement(_Part):
    """How the megakaryocytes lie."""

    nearest_um: Nearest = Nearest()
    clark_evans: ClarkEvans = ClarkEvans()
    pair_correlation: PairCorrelation | None = None
    clusters: Clusters
    bone: Bone | None = None


class Neighbour(_Part):
    """A reference sample near this one on the cohort map."""

    class_name: str = Field(alias="class")
    distance: float


class Place(_Part):
    """Where the sample lies on a model's cohort map; ``known`` is the share of the map's features it has."""

    model: str = ""
    simulated: bool = False
    known: float | None = None
    nearest: tuple[Neighbour, ...] = ()


class Trephine(_Part):
    """Marrow and megakaryocytes of a trephine."""

    marrow_mm2: float | None = None
    bone_mm2: float | None = None
    abstained: bool = False
    reason: str | None = None
    wording: str = ""
    megakaryocytes: Megakaryocytes = Megakaryocytes()
    phenotypes: Phenotypes = Phenotypes()
    arrangement: Arrangement | None = None
    mekanet: dict[str, float | None] | None = None
    map: Place | None = None
