"""Configuration: one pydantic tree, filled from YAML, from ``--set`` and from code.

Unknown keys are errors. ``load_config`` accepts a specimen name (``blood_smear``), a path, or nothing, and
dotted overrides (``{"tiling.core_px": 1024}``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from wsi_pipeline.errors import ConfigError

Specimen = Literal["blood_smear", "marrow_smear", "trephine"]
SPECIMENS: tuple[Specimen, ...] = ("blood_smear", "marrow_smear", "trephine")
Language = Literal["en", "fr"]

Stain = Literal["routine", "reticulin"]
"""``routine`` is H&E on trephines and Romanowsky on smears."""
CONFIG_NAMES = (*SPECIMENS, "reticulin")
"""Shipped configurations."""

_PositiveUm = Annotated[float, Field(gt=0, le=5000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlidesConfig(_Section):
    """How slides are opened and read."""

    backend: Literal["auto", "openslide", "tiff", "tiatoolbox"] = Field(
        "auto", description="auto decodes a TIFF's own tiles where it can, else OpenSlide, else TIAToolbox."
    )
    chunk_px: int = Field(1024, ge=256, le=8192, description="Side of a chunk of the reading lattice, level pixels.")
    cache_mb: int = Field(256, ge=16, le=16384, description="Decoded chunks kept per worker, MiB.")
    on_corrupt: Literal["fail", "mask"] = Field(
        "fail", description="A tile that does not decode fails the slide, or is left out and its area reported."
    )
    scene: int | None = Field(None, ge=0, description="Image of a file with several, from 0; default the largest.")
    z_plane: int | None = Field(None, ge=0, description="Focal plane of a Z-stack, from 0; default the middle one.")


class RegionsConfig(_Section):
    """Where on the slide cells are looked for."""

    mode: Literal["auto", "all", "file"] = Field(
        "auto", description="auto searches the slide, all reads every pixel, file takes polygons of the manifest."
    )
    overview_mpp: float = Field(8.0, ge=1, le=64, description="Resolution of the overview that is searched.")
    min_area_mm2: float = Field(0.02, ge=0, description="Smaller pieces of tissue or stain are ignored.")
    all_below_mm2: float = Field(4.0, ge=0, description="Images smaller than this are read whole in mode auto.")
    search_mpp: float = Field(1.0, ge=0.5, le=2, description="Smears: resolution at which red cells are measured.")
    thin_share: float = Field(
        0.5, ge=0, le=1, description="Smears: too thin where red cells cover less than this share of the monolayer's."
    )
    max_cover: float = Field(0.8, gt=0, le=1, description="Smears: too thick where red cells leave fewer gaps.")
    max_overlap: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Smears: too thick where more of the red cells' area is doubled than usual, by this.",
    )
    max_blur_um: float = Field(
        1.2, ge=0.5, le=4, description="Smears: out of focus above this blur (standard deviation of a Gaussian)."
    )
    min_exposure: float = Field(
        0.25, ge=0, lt=1, description="Smears: too dark where not even a tenth reaches this share of full brightness."
    )
    max_specks_per_mm2: float = Field(
        5000, gt=0, description="Smears: stain precipitate where more dark specks than this lie on a mm2."
    )
    min_stripe_od: float = Field(
        0.03, ge=0.01, le=1, description="Smears: stripes of a scanner that differ by less (optical density) are kept."
    )
    trail_um: float = Field(
        500.0, ge=0, description="Marrow smears: this near to a particle thin parts are kept, as cell trails."
    )
    check_stain: bool = Field(
        True, description="Trephines: refuse a slide whose colours are of another stain than this configuration's."
    )
    trephine_mpp: float = Field(2.0, ge=1, le=4, description="Resolution at which bone, fat and marrow are told apart.")
    subcortical_um: float = Field(
        500.0, ge=0, description="Marrow this near to cortical bone is left out of cellularity; 0 counts all."
    )
    cellularity_min_mm2: float = Field(0.5, ge=0, description="No cellularity on less marrow and fat than this.")
    field_um: float = Field(256.0, ge=32, le=2000, description="Side of a smear's fields, the unit of choice.")
    max_area_mm2: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Most area of a smear that is looked at, in whole good fields."
    )
    target_white_cells: Literal["all"] | Annotated[int, Field(gt=0, strict=True)] = Field(
        "all", description="Cells of the differential's denominator after which a smear is counted enough."
    )
    min_field_score: float = Field(0.1, ge=0, le=1, description="Fields under it are left out when fields are chosen.")

    @property
    def has_target(self) -> bool:
        """Whether the count stops at a number of white cells."""
        return self.target_white_cells != "all"

    @property
    def chooses_fields(self) -> bool:
        """Whether a smear is narrowed to fields at all."""
        return self.has_target or self.max_area_mm2 is not None

    @model_validator(mode="after")
    def _holds_a_field(self) -> RegionsConfig:
        field_mm2 = self.field_um**2 * 1e-6
        if self.max_area_mm2 is not None and self.max_area_mm2 < field_mm2 * (1 - 1e-9):
            raise ValueError(
                f"max_area_mm2 ({self.max_area_mm2:g}) is less than one field of field_um ({field_mm2:.3g} mm2)"
            )
        return self


class TilingConfig(_Section):
    """How the work is cut. Nothing here changes a result."""

    core_px: int = Field(2048, ge=256, le=16384, description="Side of a block's core, working pixels.")
    halo_um: _PositiveUm | None = Field(None, description="Halo; never less than the largest cell + 16 px.")


class SegmentationConfig(_Section):
    """From pixels to instances."""

    model: str = Field("compact-smear", description="Network: a shipped or local name, or a file.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="What the network runs in; auto is bf16 where the processor or GPU has it, else fp32."
    )
    mpp: float = Field(0.25, ge=0.05, le=5, description="Working resolution, um per pixel.")
    max_cell_diameter_um: _PositiveUm = Field(
        40.0, description="Largest cell; what is larger is cut and marked truncated. It sets the halo of a block."
    )
    cellprob_threshold: float = Field(
        0.0, ge=-12, le=12, description="A pixel belongs to a cell above this output of the network; lower finds more."
    )
    flow_threshold: float = Field(0.4, ge=0, description="Largest flow error of a cell; 0 switches the check off.")
    niter: int = Field(200, ge=1, le=5000, description="Steps a pixel is followed along the flow.")
    min_area_um2: float = Field(1.0, ge=0, description="Smaller instances are dropped.")
    megakaryocyte_model: str | None = Field(
        None, description="Trephines: a second network that delineates megakaryocytes; None asks the first one."
    )
    megakaryocyte_min_area_um2: float = Field(90.0, ge=0, description="Smaller megakaryocytes are dropped.")
    batch_size: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        "auto",
        description="Network tiles per batch; the last is padded. auto (or 0): 8 on a CPU, by free memory on a GPU.",
    )
    normalise_tiles: int = Field(64, ge=1, le=4096, description="Lattice tiles sampled for the slide's normalisation.")

    @field_validator("batch_size", mode="before")
    @classmethod
    def _zero_is_auto(cls, value: Any) -> Any:
        return "auto" if value == 0 and not isinstance(value, bool) else value


class CellsConfig(_Section):
    """From instances to a typed, measured table."""

    classifier: str | None = Field("pbc-blast", description="None leaves cells at their kind.")
    red_classifier: str | None = Field(None, description="Names the shapes of red cells; None leaves them red cells.")
    dysplasia_reference: str | None = Field(
        "pbc-neutrophils", description="Normal neutrophils that dysplasia is told against, or a file; None tells none."
    )
    batch_size: int = Field(64, ge=1, le=1024, description="Cells the classifier sees at once; the last is padded.")
    chunk_cells: int = Field(2048, ge=64, description="Cells classified by one task, in table order.")
    embedding: bool = Field(False, description="Write an embedding of each typed cell, and of each megakaryocyte.")


class FibrosisConfig(_Section):
    """From a reticulin section to a map and an index of fibrosis."""

    model: str | None = Field(
        None, description="Ranks tiles: a file or a shipped name; None gives shares of fibre alone."
    )
    min_tiles: int = Field(30, ge=1, description="Below this many tiles of marrow there is no index.")
    min_marrow_share: float = Field(0.4, gt=0, le=1, description="A tile counts with at least this share of marrow.")


class PredictionsConfig(_Section):
    """From counts to answers."""

    min_cells: int = Field(100, ge=1, description="Below this many countable cells every answer abstains.")
    target_cells: int = Field(200, ge=1, description="Below this many the answer is marked as based on few cells.")
    min_red_cells: int = Field(1000, ge=1, description="Below this many red cells their shapes are not interpreted.")
    min_neutrophils: int = Field(100, ge=1, description="Below this many neutrophils there is no dysplastic fraction.")
    min_megakaryocytes: int = Field(
        20, ge=2, description="Below this many megakaryocytes nothing is said of their phenotypes and arrangement."
    )
    phenotypes: str | None = Field(None, description="File of `train phenotypes`; None tells no phenotypes.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of all intervals.")
    slide_models: tuple[str, ...] = Field(
        (), description="Models that answer for slides and patients beside the criteria: files, or shipped names."
    )

    @field_validator("slide_models", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ordered(self) -> PredictionsConfig:
        if self.target_cells < self.min_cells:
            raise ValueError(f"target_cells ({self.target_cells}) is below min_cells ({self.min_cells})")
        return self


class ExportsConfig(_Section):
    """What is written beside the tables."""

    qupath: bool = Field(True, description="qupath.geojson.gz: cells and regions for QuPath.")
    labels: bool = Field(False, description="labels.ome.zarr: a pyramid of cell numbers.")
    report: bool = Field(True, description="report.html of each slide.")
    language: Language = Field("en", description="Language of the reports; tables and summary.json stay English.")


class RuntimeConfig(_Section):
    """Where the work runs."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto is a GPU where there is one; cuda without one is an error."
    )
    workers: int | None = Field(None, ge=1, le=1024, description="Worker processes; default one per core.")
    threads: int = Field(1, ge=1, le=64, description="Intra-op threads of a worker; fixed, since fp32 depends on it.")
    prefetch: int = Field(1, ge=0, le=8, description="Blocks a worker decodes ahead while the network computes.")
    slides_in_flight: int = Field(4, ge=1, le=256, description="Slides worked on at a time.")
    retries: int = Field(2, ge=0, le=20, description="Times a block is tried again when its worker dies.")
    task_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="A block not done by then is given up; steps on the whole slide have 10 times it.",
    )
    ledger: Literal["auto", "sqlite", "append"] = Field(
        "auto", description="Form of a new run's ledger; auto is SQLite on a file system that one machine alone sees."
    )


class PipelineConfig(_Section):
    """Everything a run depends on."""

    specimen: Specimen = Field("blood_smear", description="Decides denominator, models and criteria.")
    stain: Stain = Field("routine", description="reticulin reads fibres of a silver-stained trephine, and no cells.")
    slides: SlidesConfig = SlidesConfig()
    regions: RegionsConfig = RegionsConfig()
    tiling: TilingConfig = TilingConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    cells: CellsConfig = CellsConfig()
    fibrosis: FibrosisConfig = FibrosisConfig()
    predictions: PredictionsConfig = PredictionsConfig()
    exports: ExportsConfig = ExportsConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _no_smear_classifier_on_sections(self) -> PipelineConfig:
        if self.specimen == "trephine" and self.cells.classifier is not None:
            raise ValueError(
                f"cells.classifier is {self.cells.classifier!r}, a smear classifier; "
                "on specimen trephine it must be null"
            )
        if self.specimen != "trephine" and self.segmentation.megakaryocyte_model is not None:
            raise ValueError(
                f"segmentation.megakaryocyte_model is {self.segmentation.megakaryocyte_model!r}, a network for "
                f"sections; on specimen {self.specimen} it must be null"
            )
        if self.specimen != "trephine" and self.predictions.phenotypes is not None:
            raise ValueError(
                f"predictions.phenotypes is {self.predictions.phenotypes!r}; phenotypes are of the megakaryocytes of "
                f"trephines, so on specimen {self.specimen} it must be null"
            )
        if self.specimen != "blood_smear" and self.cells.red_classifier is not None:
            raise ValueError(
                f"cells.red_classifier is {self.cells.red_classifier!r}; shapes of red cells are read on blood smears "
                f"alone, so on specimen {self.specimen} it must be null"
            )
        return self

    @model_validator(mode="after")
    def _reticulin_is_of_trephines(self) -> PipelineConfig:
        if self.stain == "reticulin" and self.specimen != "trephine":
            raise ValueError(f"stain reticulin is of trephines, not of specimen {self.specimen}")
        if self.stain != "reticulin" and self.fibrosis.model is not None:
            raise ValueError("fibrosis.model reads reticulin slides; use --config reticulin, or leave it out")
        return self

    @model_validator(mode="after")
    def _fields_are_of_smears(self) -> PipelineConfig:
        regions = self.regions
        if self.specimen == "trephine" and regions.chooses_fields:
            key = "target_white_cells" if regions.has_target else "max_area_mm2"
            raise ValueError(f"regions.{key} chooses fields of smears by their red cells; a trephine is read whole")
        if regions.has_target and self.cells.classifier is None:
            raise ValueError(
                f"regions.target_white_cells is {regions.target_white_cells}, but without cells.classifier no cell is "
                "typed and none can be counted; name a classifier or set the target to all"
            )
        return self

    def digest(self, *sections: str) -> str:
        """Return a stable hash of the named sections (all when none is named)."""
        data = self.model_dump(mode="json", include=set(sections) if sections else None)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def config_folder() -> Path:
    """Return the folder that holds the shipped configurations."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "blood_smear.yaml").is_file():
            return folder
    raise ConfigError(f"the shipped configurations are missing beside {package}; reinstall the package")


def load_config(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> PipelineConfig:
    """Load and check a configuration.

    Parameters
    ----------
    source
        A YAML file, the name of a specimen, or None for ``blood_smear``. A file needs only the keys that
        differ from the shipped configuration of its ``specimen``.
    overrides
        Dotted keys and values that win over the file.

    Raises
    ------
    ConfigError
        The file is missing or not YAML, or a key or value is not allowed.

    Examples
    --------
    >>> config = load_config("marrow_smear", {"regions.target_white_cells": 500})
    >>> config.segmentation.mpp, config.predictions.min_cells, config.regions.target_white_cells
    (0.25, 200, 500)
    >>> load_config(overrides={"tiling.core_pixels": 512})
    Traceback (most recent call last):
        ...
    wsi_pipeline.errors.ConfigError: blood_smear: tiling.core_pixels: Extra inputs are not permitted (found 512)
    """
    tree = _read(source)
    for key, value in (overrides or {}).items():
        _assign(tree, key, value)
    specimen = tree.get("specimen", "blood_smear")
    if specimen not in SPECIMENS:
        raise ConfigError(f"specimen: {specimen!r} is unknown; use one of {', '.join(SPECIMENS)}")
    shipped = "reticulin" if tree.get("stain") == "reticulin" and specimen == "trephine" else specimen
    merged = _merge(_read(shipped), tree)
    try:
        return PipelineConfig.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']} (found {e['input']!r})"
            for e in error.errors()
        )
        raise ConfigError(f"{source or specimen}: {problems}") from None


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """Turn ``section.key=value`` strings into overrides; values are read as YAML."""
    result: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or "." not in key:
            raise ConfigError(f"--set {text!r}: write section.key=value, for example tiling.core_px=1024")
        try:
            result[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: the value is not YAML ({' '.join(str(error).split())})") from None
    return result


def _read(source: str | Path | None) -> dict[str, Any]:
    if source is None:
        return {}
    path = Path(source)
    if str(source) in CONFIG_NAMES:
        path = config_folder() / f"{source}.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"configuration {path} does not exist; give a YAML file or one of {', '.join(CONFIG_NAMES)}"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path} holds {type(tree).__name__}, not a mapping of sections")
    return tree


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        node = tree.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{dotted}: {section} is a value, not a section")
        tree = node
    tree[key] = value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
