"""``docs/counts-input.md`` says what ``analytes.yaml`` holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.predictions.counts.analytes import Analyte, load_analytes, panel_names

PAGE = Path(__file__).parents[3] / "docs" / "counts-input.md"


def row(analyte: Analyte) -> str:
    """Return the row of the page's table for an analyte; the page is written with it."""
    low, high = analyte.plausible
    reference = "-" if analyte.reference is None else "{:g} to {:g}".format(*analyte.reference)
    source = "Davis" if analyte.reference_source.startswith("Van Leeuwen") else "ours"
    converted = ", ".join(f"{unit} (x {factor:.6g})" for unit, factor in analyte.units.items())
    refused = ", ".join(analyte.refused_units)
    detected = [*analyte.detect, *analyte.column_units]
    cells = (
        f"`{analyte.name}`",
        analyte.unit,
        ", ".join(analyte.synonyms),
        converted or "-",
        refused or "-",
        ", ".join(dict.fromkeys(detected)) or "-",
        f"{low:g} to {high:g}",
        reference if analyte.reference is None else f"{reference} ({source})",
    )
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("panel", panel_names())
def test_the_page_lists_every_analyte_as_it_is(panel: str) -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for analyte in load_analytes(panel):
        assert row(analyte) in lines, f"docs/counts-input.md lacks this row:\n{row(analyte)}"
