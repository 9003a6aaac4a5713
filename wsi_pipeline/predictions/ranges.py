"""Adult reference ranges of the blood differential, and how far a count lies outside them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.differential import Differential
from wsi_pipeline.predictions.prediction import Proportion
from wsi_pipeline.sentences import Sentence, say
from wsi_pipeline.taxonomies import Taxonomy


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReferenceRange(_Model):
    """Limits of one group in percent; ``decides`` names the side that makes a differential abnormal."""

    roll_up: str
    name: str
    low: float = Field(ge=0, le=100)
    high: float = Field(ge=0, le=100)
    decides: Literal["high", "both"]


class OwnLimit(_Model):
    """A limit in percent that is our choice, for cells that have no reference range."""

    roll_up: str
    name: str
    high: float = Field(ge=0, le=100)
    why: str


class ReferenceRanges(_Model):
    """The ranges, whom they hold for and where they come from."""

    population: str
    source: str
    ranges: tuple[ReferenceRange, ...]
    own_limits: tuple[OwnLimit, ...]
    nrbc_per_100_wbc_limit: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A group outside its range.

    ``certain`` when the whole interval lies outside, else only the point estimate does; ``decides`` when the
    side it lies on makes the differential abnormal.
    """

    proportion: Proportion
    text: Sentence
    certain: bool
    decides: bool


@functools.cache
def adult_blood_ranges() -> ReferenceRanges:
    """Return the shipped adult ranges."""
    source = resources.files("wsi_pipeline.predictions") / "reference_ranges.yaml"
    try:
        return ReferenceRanges.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"reference_ranges.yaml of this installation is damaged: {error}") from None


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """A group beside its adult range, percent; ``certain`` when the whole interval lies outside."""

    limits: ReferenceRange
    share: Proportion

    @property
    def side(self) -> Literal["below", "within", "above"]:
        percent = 100 * self.share.fraction
        return "above" if percent > self.limits.high else "below" if percent < self.limits.low else "within"

    @property
    def certain(self) -> bool:
        if self.side == "above":
            return 100 * self.share.lower > self.limits.high
        return self.side == "below" and 100 * self.share.upper < self.limits.low


def range_rows(counts: Mapping[str, int], n: int, taxonomy: Taxonomy, confidence: float) -> list[RangeRow]:
    """Return every group of blood that has an adult range and that the taxonomy knows.

    Parameters
    ----------
    counts
        Cells by class.
    n
        Cells of the denominator, at least 1.
    """
    rows = []
    for limits in adult_blood_ranges().ranges:
        if limits.roll_up in taxonomy.roll_ups:
            k = sum(counts.get(code, 0) for code in taxonomy.roll_ups[limits.roll_up])
            share = Proportion(name=limits.name, k=k, n=n, confidence=confidence)
            rows.append(RangeRow(limits=limits, share=share))
    return rows


def blood_findings(result: Differential, taxonomy: Taxonomy, confidence: float) -> list[Finding]:
    """Return what lies outside the adult ranges, nucleated red cells first.

    Raises
    ------
    ConfigError
        The specimen is not blood: the ranges hold for nothing else.
    """
    if result.specimen != "blood_smear":
        raise ConfigError(f"blood reference ranges do not apply to {result.specimen}")
    table = adult_blood_ranges()
    findings = _nrbc(result, taxonomy, confidence, table)
    for row in range_rows(result.counts, result.n, taxonomy, confidence):
        limits, share, high = row.limits, row.share, row.side == "above"
        if row.side != "within":
            findings.append(
                Finding(
                    proportion=share,
                    text=say(
                        "{share}, above the adult range {low:g}-{high:g} %"
                        if high
                        else "{share}, below the adult range {low:g}-{high:g} %",
                        share=share.said,
                        low=limits.low,
                        high=limits.high,
                    ),
                    certain=row.certain,
                    decides=high or limits.decides == "both",
                )
            )
    return findings + _own_limits(result, taxonomy, confidence, table)


def _own_limits(result: Differential, taxonomy: Taxonomy, confidence: float, table: ReferenceRanges) -> list[Finding]:
    findings = []
    for limit in table.own_limits:
        share = Proportion(
            name=limit.name,
            k=result.count(taxonomy.roll_ups.get(limit.roll_up, ())),
            n=result.n,
            confidence=confidence,
        )
        if 100 * share.fraction > limit.high:
            certain = 100 * share.lower > limit.high
            text = say("{share}, above {high:g} %: {why}", share=share.said, high=limit.high, why=limit.why)
            findings.append(Finding(proportion=share, text=text, certain=certain, decides=True))
    return findings


def _nrbc(result: Differential, taxonomy: Taxonomy, confidence: float, table: ReferenceRanges) -> list[Finding]:
    k = result.count(taxonomy.roll_ups.get("erythroid", ()))
    per_100 = 100 * k / result.n
    if per_100 <= table.nrbc_per_100_wbc_limit:
        return []
    share = Proportion(
        name=say("nucleated red cells among nucleated cells"), k=k, n=k + result.n, confidence=confidence
    )
    limit = table.nrbc_per_100_wbc_limit / (100 + table.nrbc_per_100_wbc_limit)
    return [
        Finding(
            proportion=share,
            text=say(
                "nucleated red cells: {per_100:.1f} per 100 white cells; normal adult blood has none", per_100=per_100
            ),
            certain=share.lower > limit,
            decides=True,
        )
    ]
