"""The red-cell differential: shares of shapes with their intervals, and what the classifier's errors leave of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.config import PredictionsConfig, Specimen
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.correction import ConfusionTable, correct_proportions
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.sentences import say

RED_CELL_COLUMNS = (
    "slide_id", "class", "count", "percent", "lower", "upper", "corrected_percent", "corrected_lower",
    "corrected_upper", "false_positive_percent", "false_positive_upper", "above_false_positives",
)  # fmt: skip
NORMAL = "red_cell_normal"
SCHISTOCYTE = "schistocyte"
SCHISTOCYTE_PERCENT = 1.0
"""Share from which schistocytes speak for thrombotic microangiopathy where no other change of shape leads; counted on
at least 1,000 red cells. ICSH: Zini et al., Int J Lab Hematol 43:1264, 2021."""


@dataclass(frozen=True, kw_only=True)
class RedCellRow:
    """A shape among the judged red cells; percentages 0 to 100.

    Attributes
    ----------
    count, percent, lower, upper
        As answered, with the Wilson interval of counting.
    corrected
        Percent, lower and upper after the classifier's errors; its interval carries counting and classification. None
        where nothing can be corrected.
    false_positives
        Percent of red cells that the classifier wrongly takes for this shape, and the upper end of its Wilson interval:
        of normal cells in cross-validation, or of another laboratory's cells, whichever is more. None for normal cells
        and for those without a name.
    above
        Whether the answered share lies above that upper end, and the corrected one above zero; None where that is
        not known.
    """

    name: str
    count: int
    percent: float
    lower: float
    upper: float
    corrected: tuple[float, float, float] | None = None
    false_positives: tuple[float, float] | None = None
    above: bool | None = None


@dataclass(frozen=True, kw_only=True)
class RedCellDifferential:
    """The shapes of a slide's red cells.

    Attributes
    ----------
    rows
        In the order of the classifier's classes, cells without a name last; empty without judged cells.
    n
        Judged cells: the denominator.
    left_out
        Red cells that were not judged, by reason.
    reason, wording
        Why shares are not interpreted; empty where they are.
    schistocytes
        ``answer`` (``at-least-1-percent``, ``below-1-percent`` or None), ``reason`` and ``wording``.
    model, images
        The classifier, and the cells on which its errors were measured.
    """

    rows: tuple[RedCellRow, ...]
    n: int
    left_out: Mapping[str, int]
    reason: str
    wording: str
    schistocytes: Mapping[str, Any]
    model: str
    images: str

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``summary.json``."""
        return {
            "n": self.n,
            "left_out": dict(self.left_out),
            "reason": self.reason or None,
            "wording": self.wording,
            "schistocytes": dict(self.schistocytes),
            "model": self.model,
            "calibration": self.images,
            "rows": [
                {
                    "class": row.name,
                    "count": row.count,
                    "percent": row.percent,
                    "lower": row.lower,
                    "upper": row.upper,
                    "corrected": list(row.corrected) if row.corrected else None,
                    "false_positives": list(row.false_positives) if row.false_positives else None,
                    "above_false_positives": row.above,
                }
                for row in self.rows
            ],
        }

    def to_csv(self, slide_id: str) -> str:
        """Return ``red_cells.csv``: percentages with four decimals, since shapes of a tenth of a percent matter."""
        rows: list[list[object]] = []
        for row in self.rows:
            figures = [row.percent, row.lower, row.upper, *(row.corrected or (None,) * 3)]
            figures += row.false_positives or (None, None)
            above = "" if row.above is None else str(row.above).lower()
            rows.append([slide_id, row.name, row.count, *("" if v is None else f"{v:.4f}" for v in figures), above])
        return csv_text(RED_CELL_COLUMNS, rows)


def red_cell_differential(
    counts: Mapping[str, int],
    left_out: Mapping[str, int],
    *,
    card: Mapping[str, Any],
    uncategorised: str,
    outside: Sequence[str] = (),
    specimen: Specimen,
    config: PredictionsConfig,
) -> RedCellDifferential:
    """Return shares of shapes, corrected for the errors in the classifier's card, and what may be said of schistocytes.

    Parameters
    ----------
    counts
        Judged red cells by class, those without a name under ``uncategorised``.
    left_out
        Red cells that were not judged, by reason.
    outside
        Features in which the slide is unlike all that the classifier has seen.

    Raises
    ------
    ModelError
        The card has no usable errors.
    """
    classes: tuple[str, ...] = tuple(card["classes"])
    table = ConfusionTable.from_card(card, specimen)
    positives = card.get("errors", {}).get("false_positives")
    if table is None or not isinstance(positives, Mapping):
        raise ModelError(f"the card of {card.get('name')} says nothing of the classifier's errors on {specimen}")
    n = int(sum(counts.values()))
    named: dict[str, int] = {c: counts.get(c, 0) for c in classes}
    reason, wording = "", ""
    if n < config.min_red_cells:
        reason = "too-few-red-cells"
        wording = say(
            "{n} red cells could be judged; shares are interpreted from {least} on.", n=n, least=config.min_red_cells
        )
    elif outside:
        reason = "unlike-training"
        wording = say(
            "The slide's red cells lie outside what the classifier has seen ({features}): do not rely on its shapes "
            "here.",
            features=", ".join(outside),
        )
    solved = correct_proportions(named, table) if not reason and any(named.values()) else None
    rows = []
    for name in (*classes, uncategorised) if n else ():
        k = counts.get(name, 0)
        low, high = wilson(k, n, config.confidence)
        corrected: tuple[float, float, float] | None = None
        false: tuple[float, float] | None = None
        above: bool | None = None
        if name in positives:
            false = _false_positives(positives[name], config.confidence)
        if solved is not None and name in classes:
            value, lower, upper = (100 * v for v in solved.share((name,), classes, config.confidence))
            corrected = (value, lower, upper)
            above = None if false is None else 100 * low > false[1] and lower > 0
        rows.append(
            RedCellRow(
                name=name, count=k, percent=100 * k / n, lower=100 * low, upper=100 * high, corrected=corrected,
                false_positives=false, above=above,
            )
        )  # fmt: skip
    return RedCellDifferential(
        rows=tuple(rows),
        n=n,
        left_out=left_out,
        reason=reason,
        wording=wording,
        schistocytes=_schistocytes(rows, reason, wording),
        model=str(card["name"]),
        images=table.images,
    )


def _false_positives(entry: Mapping[str, Any], confidence: float) -> tuple[float, float] | None:
    """Return share and upper end (percent) of the source with the most false positives; None without any cell."""
    rates = [entry[source] for source in ("normal", "elsewhere") if source in entry and entry[source][1]]
    found = [(100 * k / n, 100 * wilson(k, n, confidence)[1]) for k, n in rates]
    return max(found, key=lambda pair: pair[1], default=None)


def _schistocytes(rows: list[RedCellRow], reason: str, wording: str) -> dict[str, Any]:
    """Say on which side of 1 % schistocytes lie, or why that cannot be said."""
    row = next((row for row in rows if row.name == SCHISTOCYTE), None)
    if reason or row is None or row.corrected is None or row.false_positives is None:
        return {"answer": None, "reason": reason or "not-classified", "wording": wording}
    value, lower, upper = row.corrected
    share = say(
        "{answered:.2f} % answered, {corrected:.2f} % corrected ({lower:.2f} to {upper:.2f} %)",
        answered=row.percent,
        corrected=value,
        lower=lower,
        upper=upper,
    )
    errors = say(
        "{percent:.2f} % of normal red cells (up to {upper:.2f} %) are taken for one",
        percent=row.false_positives[0],
        upper=row.false_positives[1],
    )
    if upper < SCHISTOCYTE_PERCENT:
        wording = say(
            "Schistocytes below 1 %: {share}; {errors}. It presumes that no more are missed than on the classifier's "
            "own images.",
            share=share,
            errors=errors,
        )
        return {"answer": "below-1-percent", "reason": None, "wording": wording}
    if row.above and lower >= SCHISTOCYTE_PERCENT:
        return {
            "answer": "at-least-1-percent",
            "reason": None,
            "wording": say(
                "Schistocytes 1 % or more: {share}; {errors}. Look at the cells before you act on it.",
                share=share,
                errors=errors,
            ),
        }
    why = "interval-spans-1-percent" if row.above else "within-false-positives"
    return {
        "answer": None,
        "reason": why,
        "wording": say(
            "Schistocytes are not placed on either side of 1 %: {share}; {errors}.", share=share, errors=errors
        ),
    }
