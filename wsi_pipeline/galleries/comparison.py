"""Given labels against answers: a confusion table, and the agreement by class with its Wilson interval."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_text
from wsi_pipeline.galleries.labels import GivenLabel
from wsi_pipeline.predictions.intervals import wilson

AGREEMENT_COLUMNS = (
    "level", "slide_id", "class", "taxonomy", "compared", "agrees", "n", "agree", "percent", "lower", "upper",
    "confidence", "note",
)  # fmt: skip
"""Of ``agreement.csv``; percentages 0 to 100, ``agrees`` answers that say the same, with a blank between. The class
``(all)`` adds the compared ones."""
CONFUSION_COLUMNS = ("level", "slide_id", "class", "taxonomy", "answer", "count")
"""Of ``confusion.csv``; pairs that were met."""
ALL = "(all)"


@dataclass(frozen=True, kw_only=True)
class ComparedClass:
    """Cells of one given class: what was answered, and which answers say the same."""

    name: str
    taxonomy: str
    agrees: tuple[str, ...]
    note: str
    answers: Mapping[str, int]

    @property
    def n(self) -> int:
        return sum(self.answers.values())

    @property
    def n_agree(self) -> int:
        return sum(self.answers.get(code, 0) for code in self.agrees)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All given classes of a patient, or of a run.

    Attributes
    ----------
    classes
        In the order of their names.
    confidence
        Level of the intervals.
    """

    classes: tuple[ComparedClass, ...]
    confidence: float

    @classmethod
    def of(
        cls,
        labels: Sequence[str | None],
        answers: Sequence[str],
        given: Iterable[GivenLabel],
        confidence: float,
    ) -> Comparison:
        """Compare the label of each cell (None: it has none) with its answer."""
        by_label = {g.label: g for g in given}
        counts: dict[tuple[str, str], Counter[str]] = {}
        meaning: dict[tuple[str, str], GivenLabel] = {}
        for label, answer in zip(labels, answers, strict=True):
            if label is not None:
                key = by_label[label].key
                meaning.setdefault(key, by_label[label])
                counts.setdefault(key, Counter())[answer] += 1
        classes = tuple(
            ComparedClass(
                name=key[1],
                taxonomy=key[0],
                agrees=meaning[key].agrees,
                note=meaning[key].note,
                answers=dict(sorted(counts[key].items())),
            )
            for key in sorted(counts, key=lambda k: (k[1], k[0]))
        )
        return cls(classes=classes, confidence=confidence)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a class, then, where any was compared, that of all compared ones."""
        rows = [self._row(c.name, c.taxonomy, c.agrees, c.n, c.n_agree, c.note) for c in self.classes]
        compared = [c for c in self.classes if c.agrees]
        if compared:
            total = self._row(ALL, "", ("",), sum(c.n for c in compared), sum(c.n_agree for c in compared), "")
            rows.append({**total, "agrees": []})
        return rows

    def _row(self, name: str, taxonomy: str, agrees: Sequence[str], n: int, agree: int, note: str) -> dict[str, Any]:
        compared = bool(agrees)
        low, high = wilson(agree, n, self.confidence)
        return {
            "class": name,
            "taxonomy": taxonomy,
            "compared": compared,
            "agrees": list(agrees),
            "n": n,
            "agree": agree if compared else None,
            "percent": 100 * agree / n if compared else None,
            "lower": 100 * low if compared else None,
            "upper": 100 * high if compared else None,
            "note": note,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds: JSON values only."""
        return {
            "confidence": self.confidence,
            "rows": self.rows(),
            "confusion": [
                {"class": c.name, "taxonomy": c.taxonomy, "agrees": list(c.agrees), "answers": dict(c.answers)}
                for c in self.classes
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Comparison:
        """Return what :meth:`to_dict` wrote."""
        notes = {(row["class"], row["taxonomy"]): row["note"] for row in record["rows"]}
        return cls(
            classes=tuple(
                ComparedClass(
                    name=c["class"],
                    taxonomy=c["taxonomy"],
                    agrees=tuple(c["agrees"]),
                    note=notes[c["class"], c["taxonomy"]],
                    answers=dict(c["answers"]),
                )
                for c in record["confusion"]
            ),
            confidence=float(record["confidence"]),
        )


def pool_comparisons(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Add the counts of patients; None without any."""
    pooled: dict[tuple[str, str], ComparedClass] = {}
    for one in comparisons:
        for c in one.classes:
            before = pooled.get((c.name, c.taxonomy))
            total = Counter(dict(before.answers) if before else {})
            total.update(c.answers)
            pooled[c.name, c.taxonomy] = ComparedClass(
                name=c.name, taxonomy=c.taxonomy, agrees=c.agrees, note=c.note, answers=dict(sorted(total.items()))
            )
    if not comparisons:
        return None
    return Comparison(classes=tuple(pooled[k] for k in sorted(pooled)), confidence=comparisons[0].confidence)


def comparison_tables(by_patient: Sequence[tuple[str, Comparison]]) -> tuple[str, str] | None:
    """Return ``agreement.csv`` and ``confusion.csv`` of a run, the whole run first; None without a label."""
    pooled = pool_comparisons([c for _, c in by_patient])
    if pooled is None:
        return None
    agreement, confusion = io.StringIO(), io.StringIO()
    first = csv.DictWriter(agreement, AGREEMENT_COLUMNS, lineterminator="\n")
    second = csv.DictWriter(confusion, CONFUSION_COLUMNS, lineterminator="\n")
    first.writeheader()
    second.writeheader()
    for level, slide_id, one in [("run", "", pooled), *(("slide", name, c) for name, c in by_patient)]:
        for row in one.rows():
            numbers = {k: "" if row[k] is None else round(row[k], 4) for k in ("agree", "percent", "lower", "upper")}
            words = {"compared": "true" if row["compared"] else "false", "agrees": " ".join(row["agrees"])}
            where = {"level": level, "slide_id": slide_id, "confidence": one.confidence}
            first.writerow({**row, **numbers, **words, **where})
        for c in one.classes:
            for answer, n in c.answers.items():
                what = {"class": c.name, "taxonomy": c.taxonomy, "answer": answer, "count": n}
                second.writerow({"level": level, "slide_id": slide_id, **what})
    return agreement.getvalue(), confusion.getvalue()


def write_comparison(out: Path, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Write ``agreement.csv`` and ``confusion.csv`` of a run whose images have labels; remove older ones otherwise."""
    found = [(s["slide_id"], Comparison.from_dict(s["agreement"])) for s in summaries if s.get("agreement")]
    tables = comparison_tables(found)
    for name, text in zip(("agreement.csv", "confusion.csv"), tables or (None, None), strict=True):
        if text is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_text(out / name, text)
