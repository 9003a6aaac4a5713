"""What QuPath shows beside a slide: the run's answers as short metadata, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_pipeline.exports.finished_run import RunSlide

RESEARCH = "Research use only."


def answers_of(summary: Mapping[str, Any], slide: RunSlide) -> dict[str, str]:
    """Return names and texts for the metadata of the slide's entry in a project.

    Parameters
    ----------
    summary
        ``summary.json`` of the slide.
    slide
        The slide.
    """
    found = {
        "Slide ID": slide.slide_id,
        "Patient": slide.subject_id,
        "Label": slide.label,
        "Specimen": slide.specimen,
        "Cells": str(summary.get("n_cells", "")),
        "Counted": str((summary.get("denominator") or {}).get("n", "")),
        **{f"Answer: {answer['task']}": _answer(answer) for answer in summary.get("predictions") or ()},
        "Fingerprint": slide.fingerprint,
    }
    return {name: _line(text) for name, text in found.items() if text}


def describe(summary: Mapping[str, Any], slide: RunSlide) -> str:
    """Return the answers and the differential in words, a line each."""
    lines = [f"{slide.slide_id}, {slide.specimen}. {RESEARCH}"]
    for answer in summary.get("predictions") or ():
        lines.append(f"{answer['task']}: {answer.get('wording') or _answer(answer)}")
    names = {cell.code: cell.name_en for taxonomy in slide.taxonomies() for cell in taxonomy.classes}
    n = (summary.get("denominator") or {}).get("n")
    for row in summary.get("differential") or ():
        if row.get("in_denominator") and row.get("percent") is not None and row.get("count"):
            lines.append(
                f"{names.get(row['class'], row['class'])}: {row['percent']:.1f} % "
                f"({row['lower']:.1f}-{row['upper']:.1f} %), {row['count']} of {n}"
            )
    lines += [f"Caution: {warning}" for warning in summary.get("warnings") or ()]
    return "\n".join(_line(line) for line in lines)


def _answer(answer: Mapping[str, Any]) -> str:
    if answer.get("abstained"):
        return f"no answer: {answer.get('reason')}"
    text = str(answer.get("class"))
    if answer.get("probability") is not None:
        of = answer.get("probability_of")
        text += f", {of or 'probability'} {100 * answer['probability']:.1f} %"
        if answer.get("lower") is not None and answer.get("upper") is not None:
            text += f" ({100 * answer['lower']:.1f}-{100 * answer['upper']:.1f} %)"
    return text


def _line(text: str) -> str:
    """Return text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
