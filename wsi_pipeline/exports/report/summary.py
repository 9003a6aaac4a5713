"""What a report needs to know about a slide: the schema of ``summary.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.trephine_summary import Trephine

Scalar = bool | int | float | str | None


class _Part(BaseModel):
    # Unknown keys are for other readers of summary.json.
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class MppSummary(_Part):
    """Size of a level-0 pixel in micrometres, and where it was taken from."""

    x: float
    y: float
    source: str


class Counts(_Part):
    """Cells by kind and by class."""

    by_kind: dict[str, int] = Field({}, alias="kind")
    by_class: dict[str, int] = Field({}, alias="class")


class DifferentialRow(_Part):
    """A class; percentages (0 to 100) are None outside the denominator."""

    name: str = Field(alias="class")
    count: int
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None
    in_denominator: bool = True


class CorrectedRow(_Part):
    """A class, classes that are not told apart, or a group, after correction; percentages 0 to 100."""

    level: str
    name: str = Field(alias="class")
    members: tuple[str, ...] = ()
    percent: float
    lower: float
    upper: float


class Calibration(_Part):
    """The images a classifier's errors were measured on."""

    images: str = ""
    n: int = 0


class Corrected(_Part):
    """The differential corrected for the classifier's errors, or the reason why there is none."""

    reason: str | None = None
    wording: str = ""
    interval: str = ""
    assumption: str = ""
    calibration: Calibration | None = None
    rows: tuple[CorrectedRow, ...] = ()

    @property
    def by_class(self) -> dict[str, CorrectedRow]:
        return {row.name: row for row in self.rows if row.level == "class"}

    @property
    def groups(self) -> tuple[CorrectedRow, ...]:
        """Return what is read together: classes that are not told apart, then groups."""
        return tuple(sorted((row for row in self.rows if row.level != "class"), key=lambda row: row.level == "group"))

    @property
    def merged(self) -> tuple[CorrectedRow, ...]:
        return tuple(row for row in self.rows if row.level == "merged")


class RedCellRow(_Part):
    """A shape among the judged red cells; percentages 0 to 100."""

    name: str = Field(alias="class")
    count: int
    percent: float
    lower: float
    upper: float
    corrected: tuple[float, float, float] | None = None
    false_positives: tuple[float, float] | None = None
    above: bool | None = Field(None, alias="above_false_positives")


class DiameterHistogram(_Part):
    """Judged red cells by equivalent diameter, in bins of one width from ``from_um`` on."""

    from_um: float = 0.0
    step_um: float = Field(gt=0)
    counts: tuple[int, ...] = ()


class RedCellSize(_Part):
    """How large the judged red cells lie on the glass."""

    n: int = 0
    diameter_um: dict[str, float] | None = None
    area_um2: dict[str, float] | None = None
    histogram: DiameterHistogram


class Schistocytes(_Part):
    """On which side of 1 % schistocytes lie, or why that is not said."""

    answer: str | None = None
    reason: str | None = None
    wording: str = ""


class RedCells(_Part):
    """The red-cell differential."""

    n: int = 0
    left_out: dict[str, int] = {}
    reason: str | None = None
    wording: str = ""
    calibration: str = ""
    schistocytes: Schistocytes = Schistocytes()
    rows: tuple[RedCellRow, ...] = ()
    size: RedCellSize


class AgreementRow(_Part):
    """Cells of one given class, and how many answers say the same; percentages 0 to 100."""

    name: str = Field(alias="class")
    compared: bool
    n: int
    agree: int | None = None
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None
    note: str = ""


class ConfusionRow(_Part):
    """Answers to the cells of one given class, and which of them say the same."""

    name: str = Field(alias="class")
    agrees: tuple[str, ...] = ()
    answers: dict[str, int] = {}


class Agreement(_Part):
    """Labels that class folders give, against the classifier."""

    confidence: float = 0.95
    rows: tuple[AgreementRow, ...] = ()
    confusion: tuple[ConfusionRow, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Return the classes that were answered, in the order of their names."""
        return tuple(sorted({answer for row in self.confusion for answer in row.answers}))


class GalleryFacts(_Part):
    """What a gallery's patient folder held."""

    images: int = 0
    used: int = 0


class DysplasiaRow(_Part):
    """A share of neutrophils; percentages 0 to 100, None where the row abstains."""

    measure: str
    count: int
    n: int
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None
    published: str | None = None
    published_percent: float | None = None
    learnt: str | None = None
    learnt_percent: float
    reason: str | None = None


class Dysplasia(_Part):
    """Dysplasia of the neutrophils, and the stain it was judged under."""

    rows: tuple[DysplasiaRow, ...] = ()
    wording: str = ""
    left_out: dict[str, int] = {}
    stain: dict[str, float | None] = {}
    reference: str = ""


class AttributeRate(_Part):
    """Cells of a class with an attribute; percentages 0 to 100."""

    name: str = Field(alias="class")
    attribute: str
    count: int
    n: int
    percent: float | None = None
    lower: float | None = None
    upper: float | None = None


class Denominator(_Part):
    """What the percentages are of."""

    n: int = 0
    wording: str = ""


class Index(_Part):
    """A figure derived from counts; None is undefined."""

    name: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    unit: str = ""
    note: str = Field("", validation_alias=AliasChoices("note", "definition"))


class WeighedCell(_Part):
    """A cell that weighed in a model's answer, and its share of the whole, 0 to 1."""

    cell_id: str
    weight: float


class Answer(_Part):
    """A prediction: the columns of ``predictions.csv`` and what may be said about it.

    ``probability_of`` names the quantity that probability, lower and upper (0 to 1) belong to. Of models alone are
    ``probabilities`` of all classes, the cells of ``evidence``, the weightiest first, ``flags`` and ``limits``.
    """

    level: str = "slide"
    task: str
    class_name: str | None = Field(None, alias="class")
    probability: float | None = None
    lower: float | None = None
    upper: float | None = None
    probability_of: str | None = None
    abstained: bool = False
    reason: str | None = None
    n_cells: int | None = None
    model: str | None = None
    trained_on: str | None = None
    wording: str = ""
    notes: tuple[str, ...] = ()
    probabilities: dict[str, float] = {}
    evidence: tuple[WeighedCell, ...] = ()
    flags: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    simulated: bool = False


class Shortcoming(_Part):
    """A limit that is not met."""

    code: str
    level: Literal["caution", "not-enough"]
    wording: str = ""


class AdequacyFact(_Part):
    """Whether what was seen is enough to read the slide."""

    level: Literal["enough", "caution", "not-enough"]
    shortcomings: tuple[Shortcoming, ...] = ()


class CountRatio(_Part):
    """Density of cells near borders over that in the interiors, and its 95 % interval."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None


class StraightEdges(_Part):
    """Straight outline along borders and along lines of the interiors."""

    border_um_per_mm: float | None = None
    control_um_per_mm: float | None = None


class Seams(_Part):
    """Whether the borders of blocks show in the cells, or the reason why that is not known."""

    reason: str | None = None
    distance_um: float | None = None
    count_ratio: CountRatio | None = None
    straight_edges: StraightEdges | None = None


class CellularityFact(_Part):
    """Haematopoietic over haematopoietic and fat area, percent, and what it was measured on."""

    percent: float | None = None
    lower: float | None = None
    upper: float | None = None
    n_spaces: int = 0
    area_mm2: float = 0.0
    reason: str | None = None


class FibrosisFigure(_Part):
    """A figure of all tiles of marrow of a reticulin slide, or the reason why there is none."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    sd: float | None = None
    iqr: float | None = None
    n_tiles: int = 0
    marrow_mm2: float = 0.0
    reason: str | None = None


class Fibrosis(_Part):
    """What a reticulin slide gives instead of cells; ``index`` is None where no model ranked its tiles."""

    index: FibrosisFigure | None = None
    fibre_share: FibrosisFigure
    tile_um: float
    simulated: bool = False


class SlideSummary(_Part):
    """The whole of ``summary.json``.

    Attributes
    ----------
    status, reason
        ``ok``, ``empty`` or ``failed``, and why; empty for ``ok``.
    path, path_name
        The slide's file, and its name without its folders.
    simulated
        Whether the slide is made, of no patient.
    batch
        The batch of the manifest; empty without one.
    working_mpp
        Resolution of the segmentation, um per pixel; the report shows fields at it.
    confidence
        Level of the intervals.
    quality, provenance
        Flat; shown as they are, in their order.
    seams
        Of ``quality``, what is not flat.
    cellularity, classes_mm2
        Of the regions of a trephine.
    adequacy
        The verdict on the quality; None in summaries that have none.
    sentences
        What English sentences are made of, for other languages.
    timings
        Seconds by stage.
    warnings
        What the run could not do, or did otherwise than asked, in sentences.
    """

    slide_id: str
    specimen: str
    status: Literal["ok", "empty", "failed"]
    reason: str | None = None
    path: str = ""
    path_name: str = ""
    simulated: bool = False
    batch: str = ""
    mpp: MppSummary | None = None
    working_mpp: float | None = Field(None, gt=0)
    confidence: float = Field(0.95, gt=0, lt=1)
    area_mm2: float | None = None
    n_cells: int = 0
    counts: Counts = Field(default_factory=lambda: Counts.model_validate({}))
    differential: tuple[DifferentialRow, ...] = ()
    differential_corrected: Corrected = Corrected()
    red_cells: RedCells | None = None
    agreement: Agreement | None = None
    gallery: GalleryFacts | None = None
    dysplasia: Dysplasia | None = None
    attributes: tuple[AttributeRate, ...] | None = None
    fibrosis: Fibrosis | None = None
    trephine: Trephine | None = None
    classes_mm2: dict[str, float] = Field({}, validation_alias=AliasPath("regions", "classes_mm2"))
    denominator: Denominator = Denominator()
    indices: tuple[Index, ...] = ()
    predictions: tuple[Answer, ...] = ()
    quality: dict[str, Scalar] = {}
    seams: Seams | None = Field(None, validation_alias=AliasPath("quality", "seams"))
    cellularity: CellularityFact | None = Field(None, validation_alias=AliasPath("regions", "cellularity"))
    provenance: dict[str, Scalar] = {}
    timings: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    subject_id: str | None = None
    taxonomy: str = ""
    adequacy: AdequacyFact | None = None
    sentences: dict[str, dict[str, Any]] = {}

    @field_validator("quality", mode="before")
    @classmethod
    def _without_seams(cls, value: Any) -> Any:
        return {key: one for key, one in value.items() if key != "seams"} if isinstance(value, dict) else value


def read_summary(path: Path) -> SlideSummary:
    """Read and check a ``summary.json``.

    Raises
    ------
    DataError
        The file is missing, is not JSON, or a value has the wrong form; the message names the key.
    """
    try:
        return SlideSummary.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the slide again") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise DataError(f"{path} is not a slide summary: {problems}. Run the slide again") from None
