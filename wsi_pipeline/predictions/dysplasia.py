"""The dysplastic fraction of a slide's neutrophils, beside the published line and what normal neutrophils show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.sentences import Sentence, say

DYSPLASIA_COLUMNS = (
    "slide_id", "measure", "count", "n", "percent", "lower", "upper", "published_percent", "published",
    "learnt_percent", "learnt", "abstained", "reason",
)  # fmt: skip
PUBLISHED_PERCENT = 10.0
"""Share of dysplastic cells of a lineage from which it counts as dysplastic: WHO 2022 (Khoury et al., Leukemia
36:1703, 2022) and ICC 2022 (Arber et al., Blood 140:1200, 2022)."""
FRACTION = "dysplastic_fraction"
_MEASURES = {"hypogranular": "hypogranular", "pseudo_pelger": "pseudo_pelger", FRACTION: "dysplastic"}


@dataclass(frozen=True, kw_only=True)
class DysplasiaRow:
    """A share of neutrophils; percentages 0 to 100.

    Attributes
    ----------
    measure, count, n
        ``hypogranular`` and ``dysplastic_fraction`` are of all judged neutrophils, ``pseudo_pelger`` of segmented ones.
    percent, lower, upper
        With the Wilson interval; None where the row abstains.
    published, learnt
        Where the interval lies of the published line (of the fraction alone) and of ``learnt_percent``, the upper end
        of the interval of what is flagged among normal neutrophils: ``above``, ``below``, ``undecided``, or None.
    reason
        Why the row abstains; empty where it does not.
    """

    measure: str
    count: int
    n: int
    percent: float | None
    lower: float | None
    upper: float | None
    published: str | None
    learnt_percent: float
    learnt: str | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return an entry of ``summary.json``."""
        return {**vars(self), "reason": self.reason or None, "published_percent": self._line}

    @property
    def _line(self) -> float | None:
        return PUBLISHED_PERCENT if self.measure == FRACTION else None


@dataclass(frozen=True, kw_only=True)
class Dysplasia:
    """Dysplasia of a slide's neutrophils.

    Attributes
    ----------
    rows
        ``hypogranular``, ``pseudo_pelger``, ``dysplastic_fraction``.
    wording
        What may be said, in a sentence; never a diagnosis.
    left_out
        Neutrophils that were not judged, by reason.
    stain
        Medians and numbers of the slide's eosinophils and lymphocytes.
    reference
        Name of the reference of normal neutrophils.
    """

    rows: tuple[DysplasiaRow, ...]
    wording: str
    left_out: Mapping[str, int]
    stain: Mapping[str, Any]
    reference: str

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``summary.json``."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "wording": self.wording,
            "left_out": dict(self.left_out),
            "stain": dict(self.stain),
            "reference": self.reference,
        }

    def to_csv(self, slide_id: str) -> str:
        """Return ``dysplasia.csv``."""
        rows: list[list[object]] = []
        for row in self.rows:
            shares = ["" if v is None else f"{v:.4f}" for v in (row.percent, row.lower, row.upper)]
            line = f"{PUBLISHED_PERCENT:g}" if row.measure == FRACTION else ""
            rows.append([
                slide_id, row.measure, row.count, row.n, *shares, line, row.published or "",
                f"{row.learnt_percent:.4f}", row.learnt or "", str(bool(row.reason)).lower(), row.reason,
            ])  # fmt: skip
        return csv_text(DYSPLASIA_COLUMNS, rows)


def dysplasia(
    counts: Mapping[str, int],
    *,
    granules_hidden: str,
    nuclei_hidden: str,
    normal: Mapping[str, tuple[int, int]],
    stain: Mapping[str, Any],
    reference: str,
    min_neutrophils: int,
    confidence: float,
) -> Dysplasia:
    """Return shares of dysplastic neutrophils, or why they are not given.

    Parameters
    ----------
    counts
        As :class:`~wsi_pipeline.cells.dysplasia.DysplasiaPass` counted.
    granules_hidden, nuclei_hidden
        Why hypogranulation, or pseudo-Pelger nuclei, cannot be told on the slide; empty where they can.
    normal
        Flagged and judged normal neutrophils, by flag (``hypogranular``, ``pseudo_pelger``, ``dysplastic``).
    stain, reference
        Of the slide, and the name of the reference; passed on.
    min_neutrophils
        Fewer, and every row abstains.
    confidence
        Of the intervals.

    Notes
    -----
    The fraction needs both flags: where one cannot be told, what is left would be a lower bound, and is given as the
    row of its flag alone.
    """
    n, segmented = counts.get("neutrophils", 0), counts.get("segmented", 0)
    hidden = {
        "hypogranular": granules_hidden,
        "pseudo_pelger": nuclei_hidden,
        FRACTION: granules_hidden or nuclei_hidden,
    }
    rows = []
    for measure, key in _MEASURES.items():
        of = segmented if measure == "pseudo_pelger" else n
        reason = "too-few-neutrophils" if of < min_neutrophils else hidden[measure]
        k = 0 if hidden[measure] else counts.get(key, 0)
        learnt = 100 * wilson(*normal[key], confidence)[1]
        low, high = (100 * v for v in wilson(k, of, confidence))
        told = not reason
        rows.append(
            DysplasiaRow(
                measure=measure,
                count=k,
                n=of,
                percent=100 * k / of if told else None,
                lower=low if told else None,
                upper=high if told else None,
                published=_side(low, high, PUBLISHED_PERCENT) if told and measure == FRACTION else None,
                learnt_percent=learnt,
                learnt=_side(low, high, learnt) if told else None,
                reason=reason,
            )
        )
    return Dysplasia(
        rows=tuple(rows),
        wording=_wording(rows[-1]),
        left_out={name: counts.get(name, 0) for name in ("truncated", "unmeasured")},
        stain=stain,
        reference=reference,
    )


def _side(low: float, high: float, line: float) -> str:
    return "above" if low >= line else "below" if high < line else "undecided"


def _wording(row: DysplasiaRow) -> Sentence:
    if row.percent is None or row.lower is None or row.upper is None:
        return say("No dysplastic fraction of {n} neutrophils.", n=row.n)
    published = {
        "above": say("at or above the published {line:g} % line", line=PUBLISHED_PERCENT),
        "below": say("below the published {line:g} % line", line=PUBLISHED_PERCENT),
        "undecided": say("on both sides of the published {line:g} % line", line=PUBLISHED_PERCENT),
    }[str(row.published)]
    learnt = {
        "above": say("above what is flagged of normal neutrophils"),
        "below": say("below what is flagged of normal neutrophils"),
        "undecided": say("not told from what is flagged of normal neutrophils"),
    }[str(row.learnt)]
    return say(
        "{percent:.1f} % ({lower:.1f} to {upper:.1f} %) of {n} neutrophils are flagged: {published}, {learnt} "
        "(up to {most:.1f} %). Look at the cells before you act on it.",
        percent=row.percent,
        lower=row.lower,
        upper=row.upper,
        n=row.n,
        published=published,
        learnt=learnt,
        most=row.learnt_percent,
    )
