"""Denominators, zeros, indices, and what a differential never says."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions import (
    Differential,
    differential,
    pool_counts,
    wilson,
)
from wsi_pipeline.predictions.differential import FIELD_AREA_UM2
from wsi_pipeline.taxonomies import load_taxonomy

TAXONOMY = load_taxonomy("pbc-blast")
COUNTS = {
    "segmented_neutrophil": 100,
    "lymphocyte": 60,
    "erythroblast": 40,
    "platelet": 500,
    "artefact": 8,
    "red_cell": 10_000,
}


def index(result: Differential, name: str) -> tuple[float | None, float | None, float | None]:
    found = {i.name: i for i in result.indices}[name]
    return found.value, found.lower, found.upper


def test_blood_leaves_nucleated_red_cells_out() -> None:
    result = differential(COUNTS, specimen="blood_smear", taxonomy=TAXONOMY)
    rows = {r.code: r for r in result.rows}
    assert result.n == 160
    assert rows["lymphocyte"].percent == pytest.approx(37.5)
    low, high = wilson(60, 160)
    assert (rows["lymphocyte"].lower, rows["lymphocyte"].upper) == pytest.approx((100 * low, 100 * high))
    for outside in ("erythroblast", "platelet", "artefact", "red_cell"):
        assert rows[outside].percent is None
        assert not rows[outside].in_denominator
    assert index(result, "nrbc_per_100_wbc")[0] == pytest.approx(25)
    assert index(result, "artefacts_per_100_wbc")[0] == pytest.approx(5)
    assert index(result, "platelets_per_1000_red_cells")[0] == pytest.approx(50)
    assert "without nucleated red cells" in result.denominator


def test_marrow_counts_erythroid_cells() -> None:
    result = differential(COUNTS, specimen="marrow_smear", taxonomy=TAXONOMY)
    rows = {r.code: r for r in result.rows}
    assert result.n == 200
    assert rows["erythroblast"].percent == pytest.approx(20)
    value, lower, upper = index(result, "me_ratio")
    assert value == pytest.approx(2.5)
    assert lower is not None
    assert upper is not None
    assert lower < 2.5 < upper
    assert {i.name for i in result.indices} == {"me_ratio", "artefacts_per_100_cells", "neutrophils_percent"}


def test_me_ratio_leaves_blasts_and_monocytes_out() -> None:
    counts = {"myelocyte": 30, "erythroblast": 10, "blast": 99, "monocyte": 99, "lymphocyte": 99}
    assert index(differential(counts, specimen="marrow_smear", taxonomy=TAXONOMY), "me_ratio")[0] == 3


def test_me_ratio_without_erythroid_cells_has_no_value() -> None:
    result = differential({"myelocyte": 30}, specimen="marrow_smear", taxonomy=TAXONOMY)
    assert index(result, "me_ratio")[0] is None


def test_classes_that_were_not_found_are_listed() -> None:
    rows = differential(COUNTS, specimen="blood_smear", taxonomy=TAXONOMY).rows
    assert [r.code for r in rows] == [*TAXONOMY.classifier_classes, "red_cell"]
    blast = next(r for r in rows if r.code == "blast")
    assert (blast.count, blast.percent, blast.lower) == (0, 0.0, 0.0)
    assert blast.upper == pytest.approx(100 * wilson(0, 160)[1])


def test_per_field_needs_an_area() -> None:
    without = differential(COUNTS, specimen="blood_smear", taxonomy=TAXONOMY)
    assert not any("field" in i.name for i in without.indices)
    result = differential(COUNTS, specimen="blood_smear", taxonomy=TAXONOMY, area_mm2=10 * FIELD_AREA_UM2 / 1e6)
    assert index(result, "red_cells_per_field")[0] == pytest.approx(1000)
    assert index(result, "platelets_per_field")[0] == pytest.approx(50)
    assert pytest.approx(math.pi * 110**2) == FIELD_AREA_UM2


def test_trephine_has_densities_and_no_rows() -> None:
    result = differential(
        {"nucleus": 900, "megakaryocyte": 12, "other": 4},
        specimen="trephine",
        taxonomy=load_taxonomy("section"),
        area_mm2=3.0,
    )
    assert not result.rows
    assert result.n == 912
    assert index(result, "nucleus_per_mm2")[0] == pytest.approx(300)
    value, lower, upper = index(result, "megakaryocyte_per_mm2")
    assert value == pytest.approx(4)
    assert (lower, upper) == pytest.approx((6.2006 / 3, 20.9616 / 3), abs=1e-3)


def test_unclassified_cells_are_in_no_percentage() -> None:
    result = differential({"white_cell": 30, "red_cell": 5}, specimen="blood_smear", taxonomy=TAXONOMY)
    assert result.n == 0
    assert [(r.code, r.count, r.percent) for r in result.rows] == [("red_cell", 5, None), ("white_cell", 30, None)]
    assert "30 nucleated cells were not classified" in result.notes[0]


def test_nothing_found_on_a_classified_slide() -> None:
    rows = differential({}, specimen="blood_smear", taxonomy=TAXONOMY).rows
    assert len(rows) == len(TAXONOMY.classifier_classes)
    assert all(r.percent is None for r in rows)


@pytest.mark.parametrize(
    ("counts", "message"), [({"neutrophil": 3}, "not in taxonomy"), ({"blast": -1}, "negative counts for blast")]
)
def test_bad_counts(counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        differential(counts, specimen="blood_smear", taxonomy=TAXONOMY)


def test_a_smear_needs_a_smear_taxonomy() -> None:
    with pytest.raises(ConfigError, match="no denominator for marrow_smear"):
        differential({}, specimen="marrow_smear", taxonomy=load_taxonomy("five-part"))
    with pytest.raises(DataError, match="area"):
        differential({}, specimen="blood_smear", taxonomy=TAXONOMY, area_mm2=math.nan)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(TAXONOMY.codes), st.integers(0, 3000)),
    st.sampled_from(["blood_smear", "marrow_smear"]),
    st.floats(0.01, 500) | st.none(),
)
def test_percentages_add_up_and_nothing_is_absolute(counts: dict[str, int], specimen: str, area: float | None) -> None:
    result = differential(counts, specimen=specimen, taxonomy=TAXONOMY, area_mm2=area)  # type: ignore[arg-type]
    percents = [r.percent for r in result.rows if r.percent is not None]
    if result.n:
        assert sum(percents) == pytest.approx(100)
    assert all(r.lower <= r.percent <= r.upper for r in result.rows if r.percent is not None)  # type: ignore[operator]
    text = json.dumps([result.to_dict(), result.notes], allow_nan=False)
    assert "10^9" not in text
    assert "/L" not in text


def test_pooling_adds() -> None:
    assert pool_counts([{"blast": 2, "lymphocyte": 1}, {"blast": 3}, {}]) == {"blast": 5, "lymphocyte": 1}


def test_band_and_segmented_neutrophils_are_also_read_together() -> None:
    counts = {"band_neutrophil": 30, "segmented_neutrophil": 90, "lymphocyte": 80}
    result = differential(counts, specimen="blood_smear", taxonomy=TAXONOMY)
    value, lower, upper = index(result, "neutrophils_percent")
    assert value == pytest.approx(60)
    assert (lower, upper) == pytest.approx(tuple(100 * bound for bound in wilson(120, 200, 0.95)))
