"""The shipped taxonomies, and what the loader refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names
from wsi_pipeline.taxonomies.model import parse_taxonomy

SMALL = """
name: small
description: two classes
denominators: {blood_smear: white cells}
classes:
  - {code: a, name_en: a, name_fr: a, color: [0, 0, 0], lineage: none, maturity: none, countable: {blood_smear: true}}
  - {code: b, name_en: b, name_fr: b, color: [9, 9, 9], lineage: none, maturity: none, countable: {blood_smear: false}}
roll_ups: {both: [a, b]}
"""


def test_shipped_names() -> None:
    assert taxonomy_names() == ("five-part", "pbc-blast", "section")


@pytest.mark.parametrize("name", taxonomy_names())
def test_colors_can_be_told_apart(name: str) -> None:
    from skimage.color import deltaE_ciede2000, rgb2lab

    colors = np.array([c.color for c in load_taxonomy(name).classes], float) / 255
    lab = rgb2lab(colors[None])[0]
    distance = deltaE_ciede2000(lab[:, None], lab[None])
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 12
    white = rgb2lab(np.ones((1, 1, 3)))[0]
    assert deltaE_ciede2000(lab, white).min() > 12


def test_pbc_blast_order_is_the_classifier_order() -> None:
    assert load_taxonomy("pbc-blast").classifier_classes == (
        "band_neutrophil",
        "segmented_neutrophil",
        "basophil",
        "eosinophil",
        "erythroblast",
        "lymphocyte",
        "metamyelocyte",
        "monocyte",
        "myelocyte",
        "platelet",
        "promyelocyte",
        "blast",
        "artefact",
    )


def test_denominators_follow_the_specimen() -> None:
    taxonomy = load_taxonomy("pbc-blast")
    blood, marrow = set(taxonomy.countable("blood_smear")), set(taxonomy.countable("marrow_smear"))
    assert marrow - blood == {"erythroblast"}
    assert blood <= marrow
    assert not marrow & {"platelet", "artefact", "red_cell", "white_cell", "megakaryocyte", "other"}
    assert taxonomy.countable("trephine") == ()


def test_blasts_have_no_lineage() -> None:
    taxonomy = load_taxonomy("pbc-blast")
    assert taxonomy.roll_up("blasts") == ("blast",)
    assert "lineage not determined by morphology alone" in taxonomy.get("blast").name_en
    for group in ("myeloid_blasts", "lymphoblasts"):
        with pytest.raises(ConfigError, match="lineage not determined by morphology alone"):
            taxonomy.roll_up(group)
    with pytest.raises(ConfigError, match="not of APL"):
        taxonomy.roll_up("abnormal_promyelocytes")


def test_roll_ups_of_granulocytes() -> None:
    taxonomy = load_taxonomy("pbc-blast")
    assert set(taxonomy.roll_up("granulocyte_precursors")) == {"promyelocyte", "myelocyte", "metamyelocyte"}
    assert set(taxonomy.roll_up("neutrophils")) == {"band_neutrophil", "segmented_neutrophil"}
    assert "blast" not in taxonomy.roll_up("granulocytic")


def test_map_to_five_parts_leaves_immature_cells_out() -> None:
    table = load_taxonomy("pbc-blast").map_to("five-part")
    assert table["band_neutrophil"] == table["segmented_neutrophil"] == "neutrophil"
    assert {code for code, target in table.items() if target is None} == {
        "erythroblast",
        "metamyelocyte",
        "myelocyte",
        "platelet",
        "promyelocyte",
        "blast",
        "artefact",
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [("five-part", "pbc-blast"), ("section", "pbc-blast"), ("pbc-blast", "section"), ("pbc-blast", "nonsense")],
)
def test_other_maps_are_refused(source: str, target: str) -> None:
    with pytest.raises(ConfigError, match="do not mean the same"):
        load_taxonomy(source).map_to(target)


def test_labels_resolve_by_code_and_alias() -> None:
    taxonomy = load_taxonomy("pbc-blast")
    assert taxonomy.resolve("BLA") == taxonomy.resolve("Blast") == "blast"
    assert load_taxonomy("five-part").resolve("ne") == "neutrophil"
    with pytest.raises(DataError, match="NIF"):
        taxonomy.resolve("NIF")
    with pytest.raises(DataError, match="no class 'blasts'"):
        taxonomy.get("blasts")


def test_unknown_taxonomy_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="pbc-blast"):
        load_taxonomy("../pbc-blast")


def test_small_taxonomy_is_read() -> None:
    assert parse_taxonomy(SMALL, "small.yaml").countable("blood_smear") == ("a",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("description: two classes", "description: two classes\nextra: 1", "extra"),
        ("code: b", "code: a", "given twice"),
        ("both: [a, b]", "both: [a, c]", "unknown or repeated"),
        ("color: [9, 9, 9]", "color: [9, 9, 900]", "less than or equal to 255"),
        (", countable: {blood_smear: false}", "", "do not say if they count"),
        ("countable: {blood_smear: false}", "countable: {blood_smear: false, marrow_smear: true}", "no denominator"),
        ("roll_ups: {both: [a, b]}", "refused_roll_ups: {both: why}\nroll_ups: {both: [a]}", "both given and refused"),
        ("roll_ups: {both: [a, b]}", "maps: {five-part: {a: null}}", "every class"),
        ("name: small", "name: [", "not YAML"),
    ],
)
def test_broken_taxonomies_are_refused(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_taxonomy(SMALL.replace(old, new), "small.yaml")
    assert "small.yaml" in str(caught.value)
