"""The fields of the form as the page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.numbers import parse_cell
from wsi_pipeline.predictions.counts.reading import CountsTable
from wsi_pipeline.serve.form import Filled, other_units
from wsi_pipeline.serve.texts import Texts


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is said at a field: the kind of finding, and the sentence."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Field:
    """One analyte: what stands in its field, and what is said about it."""

    name: str
    label: str
    value: str
    unit: str
    units: tuple[str, ...]
    hints: tuple[str, ...]
    messages: tuple[Message, ...]

    @property
    def invalid(self) -> bool:
        """Return whether the value was refused."""
        return any(m.kind == "refused" for m in self.messages)

    @property
    def described_by(self) -> str:
        """Return the ids of the elements that describe the field."""
        hints = [f"hint-{self.name}"] if self.hints else []
        return " ".join([*hints, *(f"note-{self.name}-{i}" for i in range(1, len(self.messages) + 1))])


def label_of(analytes: Sequence[Analyte], texts: Texts) -> dict[str, str]:
    """Return the name of each analyte as people read it; with its unit where two have the same."""
    labels = [a.label[texts.language] for a in analytes]
    return {
        a.name: f"{label}, {texts.unit(a.unit)}" if labels.count(label) > 1 else label
        for a, label in zip(analytes, labels, strict=True)
    }


def build_fields(filled: Filled, analytes: Sequence[Analyte], table: CountsTable | None, texts: Texts) -> list[Field]:
    """Return the fields in the order of the analytes; findings of ``table`` stand at the value they are about."""
    form, labels = filled.form, label_of(analytes, texts)
    return [
        Field(
            name=a.name,
            label=labels[a.name],
            value=form.values.get(a.name, ""),
            unit=form.units.get(a.name, a.unit),
            units=(a.unit, *other_units(a)),
            hints=_hints(a, form.units.get(a.name, a.unit), texts),
            messages=() if table is None else _messages(i, a, filled, table, texts),
        )
        for i, a in enumerate(analytes)
    ]


def paste_messages(filled: Filled, analytes: Sequence[Analyte], command: str, texts: Texts) -> list[Message]:
    """Return what is said at the paste box."""
    if not filled.form.paste and not filled.pasted.values:
        return []
    pasted = filled.pasted
    if pasted.several:
        return [Message(kind="refused", text=texts("paste_several", command=command))]
    labels = {a.name: a.short[texts.language] for a in analytes}
    count = len(pasted.values)
    key = "paste_none" if not count else "paste_filled_one" if count == 1 else "paste_filled"
    found = [Message(kind="filled" if count else "refused", text=texts(key, count=count))]
    for key, names in (
        ("paste_unknown", pasted.unknown),
        ("paste_unclear", pasted.unclear),
        ("paste_twice", [labels[name] for name in pasted.twice]),
        ("paste_kept", [labels[name] for name in filled.kept]),
    ):
        if names:
            found.append(Message(kind="refused", text=texts(key, names=", ".join(names))))
    return found


def _hints(analyte: Analyte, unit: str, texts: Texts) -> tuple[str, ...]:
    factor = analyte.factor(unit)
    decimals = max(0, analyte.decimals + math.ceil(math.log10(factor) - 1e-9))
    ranges = {"reference": analyte.reference, "plausible": analyte.plausible}
    return tuple(
        texts(
            key,
            low=texts.number(limits[0] / factor, decimals),
            high=texts.number(limits[1] / factor, decimals),
            unit=texts.unit(unit),
        )
        for key, limits in ranges.items()
        if limits is not None
    )


def _messages(i: int, analyte: Analyte, filled: Filled, table: CountsTable, texts: Texts) -> tuple[Message, ...]:
    """Return what is said at one field, a kind once; that a value is refused stands alone."""
    found = [f for f in table.findings if f.column == analyte.name]
    kinds: dict[str, str] = {f.kind: f.message for f in found if f.kind != "missing"}
    if table.refused[0, i]:
        kinds = {"refused": ""}
    unit = filled.form.units.get(analyte.name, analyte.unit)
    written = filled.form.values.get(analyte.name, "")
    names = {
        "raw": f"{written} {texts.unit(unit)}" if parse_cell(written).unit == "" else written,
        "value": texts.number(float(table.values[0, i]), analyte.decimals),
        "unit": texts.unit(analyte.unit),
        "low": texts.number(analyte.plausible[0], analyte.decimals),
        "high": texts.number(analyte.plausible[1], analyte.decimals),
    }
    messages = []
    for kind, message in kinds.items():
        key = kind
        if kind == "converted" and analyte.name in filled.detected:
            key = "detected"
        elif kind == "refused" and _is_plausible(written, analyte, unit):
            key = "contradicted"
        messages.append(Message(kind=kind, text=texts(f"said_{key}", **names) if f"said_{key}" in texts else message))
    return tuple(messages)


def _is_plausible(written: str, analyte: Analyte, unit: str) -> bool:
    """Return whether a value is possible by itself, so that others must be the reason why it is refused."""
    cell = parse_cell(written)
    bare = cell.state == "number" and not cell.unit and not cell.sign
    return bare and analyte.plausible[0] <= cell.readings[0] * analyte.factor(unit) <= analyte.plausible[1]
