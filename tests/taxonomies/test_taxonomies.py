"""The shipped taxonomies, and what the loader refuses."""

from __future__ import annotations

import re
from pathlib import Path

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

DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def test_shipped_names() -> None:
    assert taxonomy_names() == (
        "cytologia",
        "deepapl",
        "five-part",
        "matek-marrow",
        "mll23",
        "pbc",
        "pbc-8",
        "pbc-blast",
        "red-cells",
        "section",
    )


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
    # With so many classes no palette is as clear to the colour-blind; none may be the same (Machado et al. 2009,
    # IEEE Trans Vis Comput Graph 15:1291-1298, deuteranopia, on linear light).
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEUTERANOPIA.T, 0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(seen[None])[0]
    distance = deltaE_ciede2000(lab[:, None], lab[None])
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 4


PUBLISHED = {
    "pbc": "BNE SNE BA EO ERB LY MMY MO MY platelet PMY",
    "pbc-8": "SNE EO BA LY MO ig ERB platelet",
    "matek-marrow": "ABE ART BAS BLA EBO EOS FGC HAC KSC LYI LYT MMZ MON MYB NGB NGS NIF OTH PEB PLM PMO",
    "cytologia": "PNN LY MO EO BA Er PM Thromb LAM3 Lysee LyB LLC MBL LGL B M MM LF MoB LH_lyAct LM LZMG SS",
    "mll23": (
        "basophil eosinophil hairy_cell lymphocyte lymphocyte_large_granular lymphocyte_neoplastic "
        "lymphocyte_reactive metamyelocyte monocyte myeloblast myelocyte neutrophil_band neutrophil_segmented "
        "normoblast plasma_cell promyelocyte promyelocyte_atypical smudge_cell"
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_labels_are_the_classes_one_by_one(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert tuple(taxonomy.resolve(label) for label in PUBLISHED[name].split()) == taxonomy.classifier_classes


def test_deepapl_folders_are_its_21_classes() -> None:
    taxonomy = load_taxonomy("deepapl")
    assert len(taxonomy.classifier_classes) == 21
    assert taxonomy.resolve("Blast, no lineage spec") == "blast"
    assert taxonomy.resolve("Lymphocyte, variant") == "variant_lymphocyte"
    assert taxonomy.resolve("Thrombocyte aggregation") == "platelet_clump"


@pytest.mark.parametrize("name", taxonomy_names())
def test_every_class_has_names_and_a_place(name: str) -> None:
    taxonomy = load_taxonomy(name)
    for names in ([c.name_en for c in taxonomy.classes], [c.name_fr for c in taxonomy.classes]):
        assert all(names)
        assert len(set(names)) == len(names)
    for specimen in taxonomy.denominators:
        inside = set(taxonomy.countable(specimen))
        assert inside <= set(taxonomy.classifier_classes)
        assert set(taxonomy.roll_up("five_part")) <= inside
        erythroid = set(taxonomy.roll_ups.get("erythroid", ()))
        assert erythroid <= inside if specimen == "marrow_smear" else not erythroid & inside
        assert not set(taxonomy.roll_ups.get("artefacts", ())) & inside


def test_one_code_is_one_colour_and_one_lineage() -> None:
    seen: dict[str, object] = {}
    for name in taxonomy_names():
        for c in load_taxonomy(name).classes if name != "section" else ():
            assert seen.setdefault(c.code, (c.color, c.lineage, c.maturity)) == (c.color, c.lineage, c.maturity)


@pytest.mark.parametrize("name", taxonomy_names())
def test_what_segmentation_finds_has_a_class(name: str) -> None:
    taxonomy = load_taxonomy(name)
    if name not in {"section", "five-part", "red-cells"}:
        assert {"red_cell", "white_cell", "platelet", "megakaryocyte", "other"} <= set(taxonomy.codes)


@pytest.mark.parametrize("name", taxonomy_names())
def test_kinds_of_blasts_are_never_merged(name: str) -> None:
    groups = load_taxonomy(name).roll_ups
    apart = ("myeloid_blasts", "lymphoblasts", "promyelocytes", "abnormal_promyelocytes", "auer_bundle_promyelocytes")
    for i, one in enumerate(apart):
        for other in (*apart[i + 1 :], "lymphocytes", "monocytes", "granulocytic", "five_part"):
            if {one, other} != {"promyelocytes", "granulocytic"}:
                assert not set(groups.get(one, ())) & set(groups.get(other, ()))
    assert not set(groups.get("neoplastic_lymphocytes", ())) & set(groups.get("lymphocytes", ()))
    if "myeloid_blasts" in groups:
        assert not set(groups["myeloid_blasts"]) & set(groups.get("blasts", ()))


def test_blasts_of_the_data_sets() -> None:
    cytologia = load_taxonomy("cytologia")
    assert set(cytologia.roll_up("myeloid_blasts")) == {"myeloblast", "monoblast"}
    assert cytologia.roll_up("lymphoblasts") == ("lymphoblast",)
    assert cytologia.roll_up("blasts") == ("undifferentiated_blast",)
    assert cytologia.roll_up("abnormal_promyelocytes") == ("abnormal_promyelocyte",)
    assert set(load_taxonomy("deepapl").roll_up("blasts")) == {"blast", "promonocyte"}
    for name in ("matek-marrow", "deepapl"):
        for group in ("myeloid_blasts", "lymphoblasts", "abnormal_promyelocytes"):
            with pytest.raises(ConfigError, match=group):
                load_taxonomy(name).roll_up(group)


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
        ("lineage: none, maturity: none,", "lineage: none, maturity: none, meaning: blast,", "meaning given twice"),
        ("name: small", "name: [", "not YAML"),
    ],
)
def test_broken_taxonomies_are_refused(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_taxonomy(SMALL.replace(old, new), "small.yaml")
    assert "small.yaml" in str(caught.value)


def test_the_page_of_the_documentation_is_that_of_the_files() -> None:
    from wsi_pipeline.taxonomies.document import page

    written = Path(__file__).parents[2] / "docs" / "taxonomies.md"
    message = "run python -m wsi_pipeline.taxonomies.document > docs/taxonomies.md"
    assert written.read_text(encoding="utf-8") == page(), message
