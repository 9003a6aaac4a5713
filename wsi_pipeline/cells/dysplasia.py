"""Dysplasia of single neutrophils: granules that are missing, nuclei that do not segment, and when neither can be seen.

The score is the granularity of the cytoplasm (``cytoplasm_granularity``, :mod:`wsi_pipeline.cells.features`) over that
of a usual normal neutrophil. Every cut-off is a percentile of normal neutrophils, held with its provenance in a
:class:`DysplasiaReference`; none was tuned on abnormal cells.

A weak stain or a blurred scan hides granules too. So the slide's own eosinophils, whose granules are always there, say
how visible granules are on it, and its own lymphocytes how dark nuclei are: hypogranulation is called only where both
are stained as in the reference, and the cut-off moves with the eosinophils.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies import Taxonomy

SHIPPED_REFERENCE = "pbc-neutrophils"
MIN_EOSINOPHILS, MIN_LYMPHOCYTES = 5, 10
"""Cells of the slide behind the judgement of its stain; fewer, and there is none."""
MPP_TOLERANCE = 0.2
"""Share by which the working resolution may differ from the reference's: granules measure differently in pixels."""

NEUTROPHILS = ("segmented_neutrophil", "band_neutrophil", "neutrophil")
"""Meanings of the classes that have a score."""
SEGMENTED = "segmented_neutrophil"
"""Meaning of the class whose nucleus must be segmented."""
EOSINOPHIL, LYMPHOCYTE = "eosinophil", "lymphocyte"

MEASURES = ("cytoplasm_granularity", "nucleus_lobes", "nucleus_form_factor", "nucleus_od", "cytoplasm_eosin")
"""Columns of the cell table that are needed."""
COLUMNS = (("granularity_score", pa.float32()), ("hypogranular", pa.bool_()), ("pseudo_pelger", pa.bool_()))
"""Columns that are added to it."""

FloatArray = npt.NDArray[np.float64]
_NUMBERS = (
    "mpp", "neutrophil_granularity_od", "hypogranular_below", "eosinophil_granularity_od",
    "eosinophil_granularity_from", "eosinophil_eosin_from", "lymphocyte_nucleus_od", "lymphocyte_nucleus_from",
    "round_from", "bilobed_from", "condensed_from",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DysplasiaReference:
    """What normal neutrophils look like, and the cut-offs that follow.

    Attributes
    ----------
    name, about
        Its name, and the document it was read from: data, licence, numbers of cells, how it was made.
    mpp
        Resolution it was measured at, um per pixel.
    neutrophil_granularity_od
        Median ``cytoplasm_granularity`` (OD) of normal neutrophils: a score of 1.
    hypogranular_below
        Score under which a neutrophil is hypogranular.
    eosinophil_granularity_od, eosinophil_granularity_from, eosinophil_eosin_from
        Median granularity (OD) of eosinophils; least medians of their granularity and eosin (OD) that a slide's
        eosinophils must have.
    lymphocyte_nucleus_od, lymphocyte_nucleus_from
        Median density (OD) of lymphocytes' nuclei, and the least median that a slide's must have.
    round_from, bilobed_from
        Form factor from which a nucleus of one, or of two lobes, is one of a pseudo-Pelger cell.
    condensed_from
        Density of the nucleus over the slide's lymphocytes' from which its chromatin is condensed.
    normal
        Neutrophils that gave none of the cut-offs: ``n``, and how many of them each flag takes.
    """

    name: str
    mpp: float
    neutrophil_granularity_od: float
    hypogranular_below: float
    eosinophil_granularity_od: float
    eosinophil_granularity_from: float
    eosinophil_eosin_from: float
    lymphocyte_nucleus_od: float
    lymphocyte_nucleus_from: float
    round_from: float
    bilobed_from: float
    condensed_from: float
    normal: Mapping[str, tuple[int, int]]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_document(cls, document: object, where: str) -> DysplasiaReference:
        """Return the reference in a JSON document.

        Raises
        ------
        ConfigError
            An entry is missing or no positive number.
        """
        if not isinstance(document, dict):
            raise ConfigError(f"{where} holds {type(document).__name__}; a reference of neutrophils is an object")
        values: dict[str, float] = {}
        for key in _NUMBERS:
            value = document.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
                raise ConfigError(f"{where}: {key} is {value!r}; a positive number is needed")
            values[key] = float(value)
        normal: dict[str, tuple[int, int]] = {}
        for flag in ("hypogranular", "pseudo_pelger", "dysplastic"):
            found = document.get("normal", {})
            entry = found.get(flag) if isinstance(found, dict) else None
            if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(v, int) for v in entry)):
                raise ConfigError(f"{where}: normal.{flag} is {entry!r}; [flagged, of] normal neutrophils are needed")
            if not 0 <= entry[0] <= entry[1] or entry[1] == 0:
                raise ConfigError(f"{where}: normal.{flag} is {entry!r}; flagged may not exceed the total")
            normal[flag] = (entry[0], entry[1])
        name = document.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{where}: name is {name!r}; a text is needed")
        return cls(name=name, normal=normal, about=document, **values)


def load_reference(name_or_path: str | Path = SHIPPED_REFERENCE) -> DysplasiaReference:
    """Return the shipped reference by its name, or that of a JSON file ``wsi-pipeline train dysplasia`` wrote.

    Raises
    ------
    ConfigError
        There is no such file, or it is no reference.
    """
    if str(name_or_path) == SHIPPED_REFERENCE:
        text = (resources.files("wsi_pipeline.weights") / "references" / f"{SHIPPED_REFERENCE}.json").read_text(
            encoding="utf-8"
        )
        where = f"{SHIPPED_REFERENCE}.json"
    else:
        where = str(name_or_path)
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"reference of neutrophils {where} cannot be read ({error}); the shipped one is "
                              f"{SHIPPED_REFERENCE}") from None  # fmt: skip
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    return DysplasiaReference.of_document(document, where)


def reference_sha256(name_or_path: str | None) -> str | None:
    """Return the SHA-256 of a reference; None without one.

    Raises
    ------
    ConfigError
        As :func:`load_reference`.
    """
    if name_or_path is None:
        return None
    about = json.dumps(load_reference(name_or_path).about, sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SlideStain:
    """How a slide's own eosinophils and lymphocytes are stained; medians in OD, NaN without a cell.

    Attributes
    ----------
    n_eosinophils, n_lymphocytes
        Cells behind the medians, none of them cut by an edge.
    eosinophil_granularity, eosinophil_eosin, lymphocyte_nucleus
        Medians of ``cytoplasm_granularity``, ``cytoplasm_eosin`` and ``nucleus_od``.
    """

    n_eosinophils: int
    n_lymphocytes: int
    eosinophil_granularity: float
    eosinophil_eosin: float
    lymphocyte_nucleus: float

    @classmethod
    def of(cls, eosinophils: FloatArray, lymphocytes: FloatArray) -> SlideStain:
        """Return the medians of cells that have values.

        Parameters
        ----------
        eosinophils, lymphocytes
            ``(n, len(MEASURES))``.
        """
        eos = eosinophils[np.isfinite(eosinophils[:, [0, 4]]).all(axis=1)]
        lym = lymphocytes[np.isfinite(lymphocytes[:, 3])]
        return cls(
            n_eosinophils=len(eos),
            n_lymphocytes=len(lym),
            eosinophil_granularity=float(np.median(eos[:, 0])) if len(eos) else math.nan,
            eosinophil_eosin=float(np.median(eos[:, 4])) if len(eos) else math.nan,
            lymphocyte_nucleus=float(np.median(lym[:, 3])) if len(lym) else math.nan,
        )

    def granules_hidden(self, reference: DysplasiaReference) -> str:
        """Return why missing granules cannot be told on this slide; empty where they can."""
        if self.n_eosinophils < MIN_EOSINOPHILS:
            return "too-few-eosinophils"
        if reason := self.nuclei_hidden(reference):
            return reason
        if self.eosinophil_granularity < reference.eosinophil_granularity_from:
            return "eosinophil-granules-faint"
        if self.eosinophil_eosin < reference.eosinophil_eosin_from:
            return "eosin-faint"
        return ""

    def nuclei_hidden(self, reference: DysplasiaReference) -> str:
        """Return why condensed chromatin cannot be told on this slide; empty where it can."""
        if self.n_lymphocytes < MIN_LYMPHOCYTES:
            return "too-few-lymphocytes"
        return "nuclear-stain-faint" if self.lymphocyte_nucleus < reference.lymphocyte_nucleus_from else ""

    def gain(self, reference: DysplasiaReference) -> float:
        """Return how visible granules are on the slide, over the reference."""
        return self.eosinophil_granularity / reference.eosinophil_granularity_od


def granularity_score(granularity: npt.ArrayLike, reference: DysplasiaReference) -> FloatArray:
    """Return ``cytoplasm_granularity`` (OD) over that of a usual normal neutrophil; 1 is usual, less is paler."""
    return np.asarray(granularity, np.float64) / reference.neutrophil_granularity_od


def hypogranular(score: npt.ArrayLike, stain: SlideStain, reference: DysplasiaReference) -> npt.NDArray[np.bool_]:
    """Return whether scores lie below the cut-off, moved by how visible granules are on the slide.

    Only where :meth:`SlideStain.granules_hidden` is empty does it mean anything.
    """
    return np.asarray(score, np.float64) < reference.hypogranular_below * stain.gain(reference)


def pseudo_pelger(
    lobes: npt.ArrayLike,
    form_factor: npt.ArrayLike,
    nucleus_od: npt.ArrayLike,
    stain: SlideStain,
    reference: DysplasiaReference,
) -> npt.NDArray[np.bool_]:
    """Return whether nuclei are of one or two plump lobes with condensed chromatin.

    Only of segmented neutrophils, and where :meth:`SlideStain.nuclei_hidden` is empty, does it mean anything.

    Parameters
    ----------
    lobes, form_factor, nucleus_od
        Columns ``nucleus_lobes``, ``nucleus_form_factor`` and ``nucleus_od`` (OD).

    References
    ----------
    Cunningham JM et al., Br J Haematol 144:1, 2009, on bilobed and round nuclei with clumped chromatin.
    """
    number, form = np.asarray(lobes, np.float64), np.asarray(form_factor, np.float64)
    condensed = np.asarray(nucleus_od, np.float64) >= reference.condensed_from * stain.lymphocyte_nucleus
    plump = ((number == 1) & (form >= reference.round_from)) | ((number == 2) & (form >= reference.bilobed_from))
    return np.asarray(plump & condensed)


@dataclass(kw_only=True)
class DysplasiaPass:
    """Scores and flags the neutrophils of the bands of a typed table, and counts them.

    Judged are neutrophils that no edge cuts and that have a score. Each is worked out from its own row and the slide's
    stain, so bands and their order change nothing.

    Parameters
    ----------
    taxonomy
        Of the classes.
    reference
        Of normal neutrophils.
    stain
        Of the slide.
    granules_hidden, nuclei_hidden
        Why the flags are not given; empty where they are.

    Attributes
    ----------
    counts
        ``neutrophils`` (judged), ``segmented`` (of these), ``hypogranular``, ``pseudo_pelger``, ``dysplastic``
        (either), ``truncated`` and ``unmeasured`` (not judged).
    """

    taxonomy: Taxonomy
    reference: DysplasiaReference
    stain: SlideStain
    granules_hidden: str
    nuclei_hidden: str
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._neutrophils = np.asarray(codes_of(self.taxonomy, NEUTROPHILS), object)
        self._segmented = np.asarray(codes_of(self.taxonomy, (SEGMENTED,)), object)

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """The columns that are added."""
        return tuple(pa.field(name, kind) for name, kind in COLUMNS)

    def __call__(self, band: pa.Table) -> pa.Table:
        """Return a band with its scores and flags; null where there is none."""
        names = band.column("class_name").to_numpy(zero_copy_only=False)
        white = pa.compute.equal(band.column("kind"), "white").to_numpy()
        n = len(band)
        score = np.full(n, np.nan)
        flags = {"hypogranular": np.zeros(n, bool), "pseudo_pelger": np.zeros(n, bool)}
        known = {"hypogranular": np.zeros(n, bool), "pseudo_pelger": np.zeros(n, bool)}
        rows = np.flatnonzero(white & np.isin(names, self._neutrophils))
        if rows.size:
            values = measures(band, rows)
            cut = band.column("truncated").to_numpy()[rows]
            measured = np.isfinite(values[:, 0])
            score[rows[measured]] = granularity_score(values[measured, 0], self.reference)
            judged = rows[measured & ~cut]
            values = values[measured & ~cut]
            segmented = np.isin(names[judged], self._segmented)
            self.counts.update(
                neutrophils=len(judged), segmented=int(segmented.sum()), truncated=int(cut.sum()),
                unmeasured=int((~measured & ~cut).sum()),
            )  # fmt: skip
            if not self.granules_hidden:
                flags["hypogranular"][judged] = hypogranular(score[judged], self.stain, self.reference)
                known["hypogranular"][judged] = True
            if not self.nuclei_hidden:
                found = pseudo_pelger(values[:, 1], values[:, 2], values[:, 3], self.stain, self.reference)
                flags["pseudo_pelger"][judged] = found & segmented
                known["pseudo_pelger"][judged[segmented]] = True
            self.counts.update({name: int(flag.sum()) for name, flag in flags.items()})
            self.counts["dysplastic"] += int((flags["hypogranular"] | flags["pseudo_pelger"]).sum())
        columns = [pa.array(score, pa.float32(), mask=np.isnan(score))]
        columns += [pa.array(flags[name], pa.bool_(), mask=~known[name]) for name in flags]
        for added, column in zip(self.fields, columns, strict=True):
            band = band.append_column(added, column)
        return band


def codes_of(taxonomy: Taxonomy, meanings: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of a taxonomy's classes of these meanings."""
    wanted = set(meanings)
    return tuple(c.code for c in taxonomy.classes if c.meaning in wanted)


def measures(table: pa.Table, rows: npt.NDArray[np.intp] | None = None) -> FloatArray:
    """Return ``(n, len(MEASURES))`` float64 of rows of a cell table, NaN where null."""
    table = table.select(MEASURES)
    if rows is not None:
        table = table.take(pa.array(rows))
    return np.stack([table.column(name).to_numpy().astype(np.float64) for name in MEASURES], axis=1)


def stain_of(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> SlideStain:
    """Return the stain of a slide from its white cells: ``class_name``, ``truncated`` and :data:`MEASURES`."""
    found: dict[str, list[FloatArray]] = {EOSINOPHIL: [], LYMPHOCYTE: []}
    for table in tables:
        names = table.column("class_name").to_numpy(zero_copy_only=False)
        whole = ~table.column("truncated").to_numpy()
        for meaning, parts in found.items():
            rows = np.flatnonzero(whole & np.isin(names, np.asarray(codes_of(taxonomy, (meaning,)), object)))
            if rows.size:
                parts.append(measures(table, rows))
    empty = np.empty((0, len(MEASURES)))
    return SlideStain.of(*(np.concatenate(parts) if parts else empty for parts in found.values()))
