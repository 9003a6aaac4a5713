"""Dysplasia of neutrophils: the score, the flags, and when a slide's stain forbids them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import ndimage

from tests.cells.shapes import disc, lobes
from wsi_pipeline.cells.dysplasia import (
    MEASURES,
    MIN_EOSINOPHILS,
    MIN_LYMPHOCYTES,
    DysplasiaPass,
    DysplasiaReference,
    SlideStain,
    granularity_score,
    hypogranular,
    load_reference,
    pseudo_pelger,
    stain_of,
)
from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies import load_taxonomy

PBC = load_taxonomy("pbc-blast")
REFERENCE = load_reference()


def cells(name: str, n: int, **values: float) -> pa.Table:
    """Return ``n`` white cells of a class that look as the reference's usual ones do."""
    usual = {
        "cytoplasm_granularity": REFERENCE.neutrophil_granularity_od,
        "nucleus_lobes": 3.0,
        "nucleus_form_factor": 0.4,
        "nucleus_od": REFERENCE.lymphocyte_nucleus_od,
        "cytoplasm_eosin": 2 * REFERENCE.eosinophil_eosin_from,
    }
    if name == "eosinophil":
        usual["cytoplasm_granularity"] = REFERENCE.eosinophil_granularity_od
    columns: dict[str, Any] = {key: np.full(n, values.get(key, usual[key]), np.float32) for key in MEASURES}
    return pa.table({"kind": ["white"] * n, "class_name": [name] * n, "truncated": np.zeros(n, bool), **columns})


def judge(table: pa.Table, **changes: str) -> DysplasiaPass:
    stain = stain_of([table], PBC)
    hidden = {"granules_hidden": stain.granules_hidden(REFERENCE), "nuclei_hidden": stain.nuclei_hidden(REFERENCE)}
    return DysplasiaPass(taxonomy=PBC, reference=REFERENCE, stain=stain, **{**hidden, **changes})


SURROUNDINGS = pa.concat_tables([cells("eosinophil", MIN_EOSINOPHILS), cells("lymphocyte", MIN_LYMPHOCYTES)])


def test_pale_and_plump_neutrophils_are_flagged_whatever_the_bands() -> None:
    pale = {"cytoplasm_granularity": 0.9 * REFERENCE.hypogranular_below * REFERENCE.neutrophil_granularity_od}
    round_ = {"nucleus_lobes": 1.0, "nucleus_form_factor": 0.97}
    cut = cells("segmented_neutrophil", 1, **pale)
    table = pa.concat_tables([
        SURROUNDINGS, cells("segmented_neutrophil", 4), cells("segmented_neutrophil", 3, **pale),
        cells("band_neutrophil", 2, **pale), cells("segmented_neutrophil", 2, **round_),
        cells("band_neutrophil", 2, **round_), cells("monocyte", 3, **pale),
        cut.set_column(2, "truncated", pa.array([True])),
    ])  # fmt: skip
    found = judge(table)
    out = found(table)
    n = len(SURROUNDINGS)
    pale_flags = out.column("hypogranular").to_pylist()[n:]
    assert pale_flags == [False] * 4 + [True] * 5 + [False] * 4 + [None] * 4
    plump = out.column("pseudo_pelger").to_pylist()[n:]
    assert plump == [False] * 7 + [None] * 2 + [True] * 2 + [None] * 6, "bands need not be segmented"
    score = out.column("granularity_score").to_pylist()
    assert score[:n] == [None] * n
    assert score[n] == pytest.approx(1, rel=1e-5)
    assert score[-1] is not None, "a cut cell has a score, but no flag"
    assert out.column("class_name").equals(table.column("class_name"))
    assert dict(found.counts) == {
        "neutrophils": 13, "segmented": 9, "truncated": 1, "unmeasured": 0, "hypogranular": 5, "pseudo_pelger": 2,
        "dysplastic": 7,
    }  # fmt: skip
    parts = judge(table)
    again = pa.concat_tables([parts(table.slice(i, 7)) for i in range(0, len(table), 7)])
    assert again.equals(out.combine_chunks()) or again.combine_chunks().equals(out.combine_chunks())
    assert parts.counts == found.counts


@pytest.mark.parametrize(
    ("table", "granules", "nuclei"),
    [
        (SURROUNDINGS, "", ""),
        (SURROUNDINGS.slice(1), "too-few-eosinophils", ""),
        (SURROUNDINGS.slice(0, len(SURROUNDINGS) - 1), "too-few-lymphocytes", "too-few-lymphocytes"),
        (
            pa.concat_tables([cells("eosinophil", 9, cytoplasm_granularity=0.004), cells("lymphocyte", 20)]),
            "eosinophil-granules-faint",
            "",
        ),
        (pa.concat_tables([cells("eosinophil", 9, cytoplasm_eosin=0.03), cells("lymphocyte", 20)]), "eosin-faint", ""),
        (
            pa.concat_tables([cells("eosinophil", 9), cells("lymphocyte", 20, nucleus_od=0.2)]),
            "nuclear-stain-faint",
            "nuclear-stain-faint",
        ),
    ],
)
def test_the_slides_own_eosinophils_and_lymphocytes_must_be_stained(
    table: pa.Table, granules: str, nuclei: str
) -> None:
    pale = cells("segmented_neutrophil", 5, cytoplasm_granularity=0.001, nucleus_lobes=1.0, nucleus_form_factor=0.98)
    whole = pa.concat_tables([table, pale])
    found = judge(whole)
    assert (found.granules_hidden, found.nuclei_hidden) == (granules, nuclei)
    out = found(whole).slice(len(table))
    assert set(out.column("hypogranular").to_pylist()) == {None if granules else True}
    assert set(out.column("pseudo_pelger").to_pylist()) == {None if nuclei else True}
    assert found.counts["hypogranular"] == (0 if granules else 5)


def test_the_cut_off_follows_the_slides_eosinophils() -> None:
    stain = SlideStain(
        n_eosinophils=50, n_lymphocytes=50, eosinophil_granularity=REFERENCE.eosinophil_granularity_od,
        eosinophil_eosin=1.0, lymphocyte_nucleus=1.0,
    )  # fmt: skip
    sharper = replace(stain, eosinophil_granularity=1.5 * stain.eosinophil_granularity)
    score = np.array([1.01, 0.99]) * REFERENCE.hypogranular_below
    assert hypogranular(score, stain, REFERENCE).tolist() == [False, True]
    assert hypogranular(score, sharper, REFERENCE).tolist() == [True, True]
    assert hypogranular(1.5 * score, sharper, REFERENCE).tolist() == [False, True]
    nobody = SlideStain.of(np.empty((0, 5)), np.full((30, 5), np.nan))
    assert (nobody.n_eosinophils, nobody.n_lymphocytes) == (0, 0)
    assert math.isnan(nobody.eosinophil_granularity)


def drawn(nucleus: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Measure a cell of 13 um around a nucleus, at 0.1 um per pixel, blurred as by a microscope."""
    side = 161
    inner = np.zeros((side, side), bool)
    y, x = ((side - size) // 2 for size in nucleus.shape)
    inner[y : y + nucleus.shape[0], x : x + nucleus.shape[1]] = nucleus
    cell = disc(65, margin=15)
    shade = ndimage.gaussian_filter(np.where(inner, 80.0, np.where(cell, 200.0, 250.0)), 1.5)
    pixels = np.repeat(np.rint(shade).astype(np.uint8)[..., None], 3, axis=2)
    row = measure_morphology(cell.astype(np.int32), pixels, mpp=0.1, background=(250, 250, 250), nucleus=inner & cell)
    return np.asarray(row[0])


def test_drawn_nuclei_of_one_or_two_plump_lobes_are_pseudo_pelger_and_segmented_ones_not() -> None:
    shapes = {
        "round": (disc(36), True),
        "two plump lobes": (lobes(2, 26, 42, 30), True),
        "three lobes": (lobes(3, 18, 40, 6), False),
        "four lobes": (lobes(4, 14, 31, 5), False),
        "a bent band": (disc(45) & ~disc(45, at=(0.0, 22.0)), False),
    }
    for name, (mask, expected) in shapes.items():
        row = drawn(mask)
        lobes_, form, density = (float(row[NAMES.index(m)]) for m in MEASURES[1:4])
        stain = SlideStain(
            n_eosinophils=9, n_lymphocytes=9, eosinophil_granularity=1.0, eosinophil_eosin=1.0,
            lymphocyte_nucleus=density,
        )  # fmt: skip
        found = pseudo_pelger([lobes_], [form], [density], stain, REFERENCE)
        assert found.tolist() == [expected], (name, lobes_, form)
        open_chromatin = replace(stain, lymphocyte_nucleus=density * 1.5)
        assert not pseudo_pelger([lobes_], [form], [density], open_chromatin, REFERENCE).any(), name


def test_the_shipped_reference_says_where_it_is_from_and_how_often_normal_cells_are_flagged() -> None:
    about = REFERENCE.about
    assert about["licence"] == "CC BY 4.0"
    assert "Acevedo" in about["source"]
    assert REFERENCE.mpp == 0.25
    assert 0 < REFERENCE.hypogranular_below < 1
    assert REFERENCE.round_from > REFERENCE.bilobed_from
    for flag, (k, n) in REFERENCE.normal.items():
        assert n >= 50, flag
        assert k / n < 0.1, flag
    assert granularity_score([REFERENCE.neutrophil_granularity_od], REFERENCE).tolist() == [1.0]
    strongest = about["dose_response"][-1]
    assert strongest["granules_kept"] == 0
    assert strongest["auroc_lower"] > 0.9


def test_references_that_do_not_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    with pytest.raises(ConfigError, match=r"mine\.json cannot be read .* pbc-neutrophils"):
        load_reference(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"mine\.json is not JSON"):
        load_reference(path)
    good = dict(REFERENCE.about)
    path.write_text(json.dumps(good))
    assert load_reference(path) == DysplasiaReference.of_document(good, "x")
    for key, value, message in (
        ("hypogranular_below", None, "hypogranular_below is None"),
        ("mpp", -0.25, "mpp is -0.25"),
        ("normal", {"hypogranular": [3, 2]}, r"normal.hypogranular is \[3, 2\]"),
        ("name", "", "name is ''"),
    ):
        path.write_text(json.dumps({**good, key: value}))
        with pytest.raises(ConfigError, match=message):
            load_reference(path)
