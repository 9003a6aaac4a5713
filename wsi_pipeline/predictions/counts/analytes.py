"""What is read from tables of blood counts: analytes, their names, units and limits, from ``analytes.yaml``."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline.errors import ConfigError

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ColumnUnit:
    """A unit that only a whole column shows.

    Of at least ``rows`` values other than zero, the share ``share`` lies in ``within``.
    """

    within: Interval
    share: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Analyte:
    """One measured quantity.

    Parameters
    ----------
    name
        Canonical column, such as ``MCHC_g_L``.
    label, short
        Names shown to people, by language (``en``, ``fr``).
    unit
        Canonical unit, shown to people.
    synonyms
        Names of columns, without units; compared blind to case, accents, spaces and punctuation (:func:`key`).
    units
        Other units and the factor to the canonical one.
    plausible
        In the canonical unit; a value outside is refused.
    reference
        Adult reference range in the canonical unit, or None; ``reference_source`` says where it comes from.
    decimals
        Shown to people.
    names_with_unit
        Those of ``synonyms`` that mean this analyte only beside one of its units.
    bare_names
        Those of ``synonyms`` that, without a unit, may mean percent or an absolute count.
    refused_units
        Units that are never converted, with the reason.
    detect
        Undeclared units that single values can show, with the limits in that unit.
    column_units
        Undeclared units that only a whole column shows.
    at_limit
        ``<x`` is taken as x up to the first number, ``>x`` from the second on; None: never.
    codes
        Words and the number each stands for; empty for numeric analytes.
    """

    name: str
    label: dict[str, str]
    short: dict[str, str]
    unit: str
    synonyms: tuple[str, ...]
    units: dict[str, float]
    plausible: Interval
    reference: Interval | None
    decimals: int
    reference_source: str = ""
    names_with_unit: tuple[str, ...] = ()
    bare_names: tuple[str, ...] = ()
    refused_units: dict[str, str] = field(default_factory=dict)
    detect: dict[str, Interval] = field(default_factory=dict)
    column_units: dict[str, ColumnUnit] = field(default_factory=dict)
    at_limit: Interval | None = None
    codes: dict[str, float] = field(default_factory=dict)

    def find_unit(self, written: str) -> str | None:
        """Return the unit of this analyte, refused ones included, that ``written`` spells, or None."""
        return _unit_keys(self.unit, *self.units, *self.refused_units).get(key(written))

    def unit_keys(self) -> Mapping[str, str]:
        """Return the spellings (:func:`key`) of all units of this analyte, refused ones included."""
        return _unit_keys(self.unit, *self.units, *self.refused_units)

    def factor(self, unit: str) -> float:
        """Return what turns ``unit`` into the canonical one; NaN for a refused unit."""
        return 1.0 if unit == self.unit else self.units.get(unit, float("nan"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Names of the analytes that tell one count as percent and absolute, and of their whole."""

    percent: str
    absolute: str
    whole: str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Reference(_Model):
    range: Interval
    source: str


class _ColumnUnit(_Model):
    within: Interval
    share: float = Field(gt=0, le=1)
    rows: int = Field(ge=1)


class _Analyte(_Model):
    label: dict[str, str]
    short: dict[str, str]
    unit: str
    decimals: int = Field(ge=0, le=4)
    names: tuple[str, ...] = ()
    names_with_unit: tuple[str, ...] = ()
    bare_names: tuple[str, ...] = ()
    units: dict[str, Annotated[float, Field(gt=0)]] = {}
    refused: dict[str, str] = {}
    detect: dict[str, Interval] = {}
    column_units: dict[str, _ColumnUnit] = {}
    plausible: Interval
    reference: _Reference | None = None
    at_limit: Interval | None = None
    codes: dict[str, float] = {}

    def build(self, name: str, sources: dict[str, str]) -> Analyte:
        reference = self.reference.range if self.reference else None
        return Analyte(
            name=name,
            label=self.label,
            short=self.short,
            unit=self.unit,
            synonyms=tuple(dict.fromkeys((*self.names, *self.names_with_unit, *self.bare_names))),
            units=self.units,
            plausible=self.plausible,
            reference=reference,
            decimals=self.decimals,
            reference_source=sources[self.reference.source] if self.reference else "",
            names_with_unit=self.names_with_unit,
            bare_names=self.bare_names,
            refused_units=self.refused,
            detect=self.detect,
            column_units={unit: ColumnUnit(**rule.model_dump()) for unit, rule in self.column_units.items()},
            at_limit=self.at_limit or reference,
            codes={key(word): number for word, number in self.codes.items()},
        )


class _Part(_Model):
    percent: str
    absolute: str
    whole: str


class _Identity(_Model):
    patient: tuple[str, ...]
    centre: tuple[str, ...]


class _File(_Model):
    sources: dict[str, str]
    identity: _Identity
    missing: tuple[str, ...]
    spellings: dict[str, tuple[str, ...]]
    analytes: dict[str, _Analyte]
    parts: tuple[_Part, ...]
    panels: dict[str, tuple[str, ...]]


@functools.lru_cache(maxsize=1 << 14)
def key(text: str) -> str:
    """Return letters, digits and ``%`` of a name, without case and accents: what names are compared by."""
    plain = unicodedata.normalize("NFKD", text).casefold().replace("μ", "u")
    return "".join(c for c in plain if c == "%" or (c.isalnum() and not unicodedata.combining(c)))


@functools.cache
def _file() -> _File:
    source = resources.files("wsi_pipeline.predictions.counts") / "analytes.yaml"
    try:
        return _File.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"analytes.yaml of this installation is damaged: {error}") from None


@functools.cache
def _unit_keys(*units: str) -> dict[str, str]:
    spellings = _file().spellings
    return {key(written): unit for unit in units for written in (unit, *spellings.get(unit, ()))}


def panel_names() -> tuple[str, ...]:
    """Return the panels there are."""
    return tuple(_file().panels)


@functools.cache
def load_analytes(name: str = "acute-leukaemia") -> tuple[Analyte, ...]:
    """Return the analytes of a panel, in the order of the model's columns.

    Raises
    ------
    ConfigError
        There is no such panel.
    """
    file = _file()
    if name not in file.panels:
        raise ConfigError(f"there is no panel {name!r} of analytes; give one of {', '.join(file.panels)}")
    return tuple(file.analytes[analyte].build(analyte, file.sources) for analyte in file.panels[name])


def load_parts(analytes: tuple[Analyte, ...]) -> tuple[Part, ...]:
    """Return the counts that ``analytes`` tell both as percent and absolute, with their whole."""
    names = {analyte.name for analyte in analytes}
    parts = (Part(**part.model_dump()) for part in _file().parts)
    return tuple(part for part in parts if {part.percent, part.absolute, part.whole} <= names)


@functools.cache
def missing_words() -> frozenset[str]:
    """Return what stands for a missing value, in lower case."""
    return frozenset(word.casefold() for word in _file().missing)


def identity_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names (:func:`key`) of columns with the patient and with the centre, the preferred first."""
    identity = _file().identity
    return tuple(key(name) for name in identity.patient), tuple(key(name) for name in identity.centre)
