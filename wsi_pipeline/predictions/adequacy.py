"""Whether what was seen of a slide is enough to read it: one verdict, from limits that are written here.

The limits are ours, but for the numbers of cells, which are those of the configuration (``predictions.min_cells``,
``predictions.target_cells``). ``docs/reports.md`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wsi_pipeline.config import FibrosisConfig, PredictionsConfig
from wsi_pipeline.sentences import Sentence, say

if TYPE_CHECKING:
    from wsi_pipeline.predictions.fibrosis import FibrosisIndex

Level = Literal["enough", "caution", "not-enough"]

MAX_TRUNCATED = 0.10
"""Share of cells that an edge cuts, above which sizes and shapes are read with caution."""
MAX_CORRUPT, TOO_CORRUPT = 0.01, 0.10
"""Share of the area that could not be decoded: with caution above the first, not enough above the second."""
MAX_OUT_OF_FOCUS = 0.50
"""Share of the film that is left out as out of focus or too dark, above which what is left may not be all of it."""
MAX_UNUSABLE_IMAGES = 0.05
"""Share of a gallery's images that could not be used."""
_UNSHARP = ("out-of-focus", "too-dark")


@dataclass(frozen=True, kw_only=True)
class Shortcoming:
    """One limit that is not met.

    Parameters
    ----------
    code
        ``too-few-cells``, ``few-cells``, ``truncated``, ``corrupt-tile``, ``out-of-focus`` or ``unusable-images``; of
        sections also ``no-marrow``, ``too-little-marrow``, ``too-few-marrow-spaces``, ``too-few-megakaryocytes``,
        ``no-cellularity`` or ``other-stain``.
    level
        How much it matters: ``caution`` or ``not-enough``.
    wording
        What was found, and the limit.
    """

    code: str
    level: Level
    wording: Sentence


@dataclass(frozen=True, kw_only=True)
class Adequacy:
    """The verdict, and every limit that is not met."""

    level: Level
    shortcomings: tuple[Shortcoming, ...]

    @classmethod
    def of(cls, found: tuple[Shortcoming, ...]) -> Adequacy:
        """Return the verdict of what was found: that of the worst."""
        levels = {one.level for one in found}
        return cls(
            level="not-enough" if "not-enough" in levels else "caution" if levels else "enough", shortcomings=found
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``summary.json``."""
        return {"level": self.level, "shortcomings": [vars(one) for one in self.shortcomings]}


def slide_adequacy(
    *,
    n: int | None,
    config: PredictionsConfig,
    n_cells: int,
    truncated: int,
    searched_mm2: float,
    lost_mm2: float,
    facts: Mapping[str, Any],
    trephine: Mapping[str, Any] | None = None,
) -> Adequacy:
    """Judge a slide.

    Parameters
    ----------
    n
        Cells of the denominator; None on a section, which has none.
    n_cells, truncated
        Cells of every kind, and those that an edge cuts.
    searched_mm2, lost_mm2
        Area searched, and area that could not be decoded.
    facts
        Of the search for regions; read are ``film_mm2``, ``excluded_mm2``, ``cellularity`` and ``stain``.
    trephine
        Entry of the summary; None for other specimens.
    """
    found = [] if n is None else cells_shortcomings(n, config)
    if n_cells and truncated / n_cells > MAX_TRUNCATED:
        found.append(
            Shortcoming(
                code="truncated",
                level="caution",
                wording=say(
                    "{percent:.0f} % of the cells are cut by an edge (limit {limit:.0f} %)",
                    percent=100 * truncated / n_cells,
                    limit=100 * MAX_TRUNCATED,
                ),
            )
        )
    found += _lost_shortcomings(searched_mm2, lost_mm2)
    film, excluded = facts.get("film_mm2"), facts.get("excluded_mm2")
    if film and isinstance(excluded, Mapping):
        unsharp = sum(float(excluded.get(name, 0.0)) for name in _UNSHARP) / float(film)
        if unsharp > MAX_OUT_OF_FOCUS:
            found.append(
                Shortcoming(
                    code="out-of-focus",
                    level="caution",
                    wording=say(
                        "{percent:.0f} % of the film is out of focus or too dark and was left out "
                        "(limit {limit:.0f} %)",
                        percent=100 * min(unsharp, 1.0),
                        limit=100 * MAX_OUT_OF_FOCUS,
                    ),
                )
            )
    if trephine is not None:
        found += _trephine_shortcomings(trephine, config.min_megakaryocytes, facts)
    return Adequacy.of(tuple(found))


def _lost_shortcomings(searched_mm2: float, lost_mm2: float) -> list[Shortcoming]:
    corrupt = lost_mm2 / (searched_mm2 + lost_mm2) if searched_mm2 + lost_mm2 > 0 else 0.0
    if corrupt <= MAX_CORRUPT:
        return []
    wording = say(
        "{percent:.1f} % of the area could not be decoded (limit {limit:.0f} %)",
        percent=100 * corrupt,
        limit=100 * (TOO_CORRUPT if corrupt > TOO_CORRUPT else MAX_CORRUPT),
    )
    level: Level = "not-enough" if corrupt > TOO_CORRUPT else "caution"
    return [Shortcoming(code="corrupt-tile", level=level, wording=wording)]


def _trephine_shortcomings(trephine: Mapping[str, Any], least: int, facts: Mapping[str, Any]) -> list[Shortcoming]:
    if trephine["reason"] == "no-marrow":
        return [Shortcoming(code="no-marrow", level="not-enough", wording=say("no marrow was found"))]
    found = []
    if trephine["reason"] == "too-few-megakaryocytes":
        wording = say(
            "{n} megakaryocytes; at least {least} are needed for phenotypes and arrangement",
            n=int(trephine["megakaryocytes"]["n"]),
            least=least,
        )
        found.append(Shortcoming(code="too-few-megakaryocytes", level="caution", wording=wording))
    cellularity = facts.get("cellularity")
    if isinstance(cellularity, Mapping) and cellularity.get("percent") is None:
        wording = say("cellularity could not be measured")
        found.append(Shortcoming(code="no-cellularity", level="caution", wording=wording))
    stain = facts.get("stain")
    if isinstance(stain, Mapping) and stain.get("kind") == "other":
        wording = say("the colours are neither those of H&E nor of a silver stain")
        found.append(Shortcoming(code="other-stain", level="caution", wording=wording))
    return found


def fibrosis_adequacy(
    share: FibrosisIndex, *, config: FibrosisConfig, searched_mm2: float, lost_mm2: float
) -> Adequacy:
    """Judge a reticulin slide by its tiles of marrow (``share``, of the dark pixels) and by what was lost."""
    found = []
    if share.reason == "no-marrow":
        found.append(Shortcoming(code="no-marrow", level="not-enough", wording=say("no marrow was found")))
    elif share.reason is not None:
        wording = say(
            "{n} tiles of marrow; at least {least} are needed for an index", n=share.n_tiles, least=config.min_tiles
        )
        found.append(Shortcoming(code="too-little-marrow", level="not-enough", wording=wording))
    elif share.lower is None:
        wording = say("the marrow lies in too few places for an interval")
        found.append(Shortcoming(code="too-few-marrow-spaces", level="caution", wording=wording))
    return Adequacy.of((*found, *_lost_shortcomings(searched_mm2, lost_mm2)))


def gallery_adequacy(*, n: int, config: PredictionsConfig, images: int, used: int) -> Adequacy:
    """Judge a patient's folder: ``n`` cells of the denominator, ``images`` in it, of which ``used`` could be."""
    found = cells_shortcomings(n, config)
    if images and (images - used) / images > MAX_UNUSABLE_IMAGES:
        found.append(
            Shortcoming(
                code="unusable-images",
                level="caution",
                wording=say(
                    "{left_out} of {images} images could not be used (limit {limit:.0f} %)",
                    left_out=images - used,
                    images=images,
                    limit=100 * MAX_UNUSABLE_IMAGES,
                ),
            )
        )
    return Adequacy.of(tuple(found))


def cells_shortcomings(n: int, config: PredictionsConfig) -> list[Shortcoming]:
    """Return what is short of the cells that are needed, and of those that are wanted."""
    if n < config.min_cells:
        wording = say("{n} cells in the denominator; at least {least} are needed", n=n, least=config.min_cells)
        return [Shortcoming(code="too-few-cells", level="not-enough", wording=wording)]
    if n < config.target_cells:
        wording = say("{n} cells in the denominator; {wanted} are wanted", n=n, wanted=config.target_cells)
        return [Shortcoming(code="few-cells", level="caution", wording=wording)]
    return []
