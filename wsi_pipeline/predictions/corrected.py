"""The differential corrected for the classifier's errors: which classes and groups, of which denominator, or why not.

Criteria do not read it: they ask the counts as answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from wsi_pipeline.config import PredictionsConfig, Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.correction import ConfusionTable, correct_proportions
from wsi_pipeline.predictions.differential import Differential
from wsi_pipeline.sentences import Sentence, say
from wsi_pipeline.taxonomies import Taxonomy

CORRECTED_COLUMNS = ("slide_id", "level", "class", "percent", "lower", "upper")
INTERVAL = say("sampling + classification")
METHOD = (
    "maximum likelihood (EM) of the true proportions given the classifier's confusion on images it was not trained on; "
    "interval from joint Dirichlet draws of the answered proportions and of each row of the confusion"
)
ASSUMPTION = say("It presumes that the classifier errs on this slide as it did on its test images.")
MIN_IMAGES = 10
"""Fewest images of a class, by which its errors can be corrected at all; our choice."""
TAKEN_FOR_EACH_OTHER = 0.2
"""Of classes that the classifier takes for each other as often as this (both ways), only the sum is given; our choice.

Their sum is known far better than they are: see docs/haematology.md."""

# Lists of classes that criteria go by, not groups of cells that are read together.
_NOT_REPORTED = frozenset({"five_part"})


@dataclass(frozen=True, kw_only=True)
class CorrectedRow:
    """A class or several together, in percent of the denominator.

    Attributes
    ----------
    level
        ``class``; ``merged`` for classes that are not told apart, in the place of their own rows; ``group`` for a
        roll-up of the taxonomy, beside the rows of its members.
    name
        Code of the class or roll-up; of merged classes without a roll-up their codes, joined.
    members
        Codes of the classes.
    """

    level: str
    name: str
    members: tuple[str, ...]
    percent: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class CorrectedDifferential:
    """Corrected percentages, or the reason why there are none.

    Parameters
    ----------
    rows
        The classes of the denominator in the taxonomy's order, merged ones at the place of their first, adding up to
        100; then the groups. Empty with a reason.
    reason, wording
        Code and sentence; empty where there are rows.
    confidence
        Level of the intervals.
    n
        Cells in the denominator, as answered.
    n_answered
        All cells the classifier answered: correction is made over them, the denominator is taken afterwards.
    calibration
        The confusion behind the correction; None where there is none.
    """

    rows: tuple[CorrectedRow, ...]
    reason: str
    wording: str
    confidence: float
    n: int
    n_answered: int
    calibration: ConfusionTable | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds; JSON values only."""
        table = self.calibration
        return {
            "reason": self.reason or None,
            "wording": self.wording,
            "method": METHOD,
            "interval": INTERVAL,
            "assumption": ASSUMPTION,
            "confidence": self.confidence,
            "n": self.n,
            "n_answered": self.n_answered,
            "calibration": None
            if table is None
            else {"images": table.images, "n": sum(table.n_per_class.values()), "per_class": table.n_per_class},
            "rows": [
                {
                    "level": r.level,
                    "class": r.name,
                    "members": list(r.members),
                    "percent": r.percent,
                    "lower": r.lower,
                    "upper": r.upper,
                }
                for r in self.rows
            ],
        }


def corrected_differential(
    answered: Mapping[str, int],
    raw: Differential,
    *,
    card: Mapping[str, Any] | None,
    specimen: Specimen,
    taxonomy: Taxonomy,
    config: PredictionsConfig,
) -> CorrectedDifferential:
    """Correct a slide's differential.

    Parameters
    ----------
    answered
        Cells by the classifier's answer, of the cells it saw only: platelets that the segmentation found are none
        of its answers.
    raw
        The differential as answered.
    card
        The classifier's card; None when no classifier ran.

    Raises
    ------
    ConfigError
        The differential is of another specimen or taxonomy.
    ModelError
        The card's confusion cannot be read.
    """
    if (raw.specimen, raw.taxonomy) != (specimen, taxonomy.name):
        raise ConfigError(
            f"the differential is of {raw.specimen} in {raw.taxonomy}, "
            f"correction was asked for {specimen} in {taxonomy.name}"
        )
    table = ConfusionTable.from_card(card, specimen) if card is not None else None
    reason, wording = _why_not(raw, card, table, specimen, config)
    rows: tuple[CorrectedRow, ...] = ()
    if not reason and table is not None:
        rows = _rows(answered, table, specimen, taxonomy, config.confidence)
        if not rows:
            reason = "nothing-left-to-correct"
            wording = say("Corrected for classification error, no cell of the denominator is left.")
    return CorrectedDifferential(
        rows=rows,
        reason=reason,
        wording=wording,
        confidence=config.confidence,
        n=raw.n,
        n_answered=sum(answered.values()),
        calibration=table,
    )


def _why_not(
    raw: Differential,
    card: Mapping[str, Any] | None,
    table: ConfusionTable | None,
    specimen: Specimen,
    config: PredictionsConfig,
) -> tuple[str, Sentence | str]:
    if specimen == "trephine":
        return "no-differential", say("A section has no differential.")
    if card is None:
        return "not-classified", say("No classifier ran, so there is nothing to correct.")
    if table is None:
        return (
            "no-confusion-in-card",
            say(
                "The card of {name} does not say how it errs on a {specimen}.",
                name=str(card.get("name")),
                specimen=specimen.replace("_", " "),
            ),
        )
    if raw.n < config.min_cells:
        return "too-few-cells", say(
            "{n} cells of the denominator; at least {least} are needed.", n=raw.n, least=config.min_cells
        )
    few = [f"{name} ({n})" for name, n in table.n_per_class.items() if n < MIN_IMAGES]
    if few:
        return (
            "too-few-calibration-images",
            say(
                "The classifier was tested on fewer than {least} images of {classes}.",
                least=MIN_IMAGES,
                classes=", ".join(few),
            ),
        )
    return "", ""


def not_told_apart(table: ConfusionTable, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return sets of classes of which neighbours are taken for each other, both ways, in a fifth of their images.

    Parameters
    ----------
    classes
        Those that are asked for, in the order the members come in.
    """
    counts = np.array(table.counts, dtype=np.float64)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    index = [table.classes.index(code) for code in classes]
    often = rates[np.ix_(index, index)] >= TAKEN_FOR_EACH_OTHER
    _, part = connected_components(often & often.T, directed=False)
    sets = [tuple(c for c, p in zip(classes, part, strict=True) if p == number) for number in dict.fromkeys(part)]
    return [members for members in sets if len(members) > 1]


def _rows(
    answered: Mapping[str, int], table: ConfusionTable, specimen: Specimen, taxonomy: Taxonomy, confidence: float
) -> tuple[CorrectedRow, ...]:
    corrected = correct_proportions(answered, table)
    inside = [code for code in taxonomy.countable(specimen) if code in table.classes]
    merged = {code: members for members in not_told_apart(table, inside) for code in members}
    wanted: list[tuple[str, str, tuple[str, ...]]] = []
    for code in inside:
        members = merged.get(code, (code,))
        if code == members[0]:
            wanted.append(("merged" if code in merged else "class", _name_of(members, taxonomy), members))
    wanted += [
        ("group", name, members)
        for name, members in taxonomy.roll_ups.items()
        if name not in _NOT_REPORTED and len(members) > 1 and set(members) <= set(inside)
    ]
    rows: dict[str, CorrectedRow] = {}
    for level, name, members in wanted:
        value, lower, upper = corrected.share(members, inside, confidence)
        if math.isnan(value):
            return ()
        row = CorrectedRow(
            level=level, name=name, members=members, percent=100 * value, lower=100 * lower, upper=100 * upper
        )
        # A roll-up that is a row of merged classes already is not said twice.
        rows.setdefault(name, row)
    return tuple(rows.values())


def _name_of(members: tuple[str, ...], taxonomy: Taxonomy) -> str:
    """Return the class, or the roll-up of exactly these classes, or their codes joined."""
    if len(members) == 1:
        return members[0]
    same = (name for name, other in taxonomy.roll_ups.items() if set(other) == set(members))
    return next(same, " + ".join(members))
