"""Maps between taxonomies: nothing is left out, nothing is said that the source did not say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.taxonomies import TaxonomyMap, load_taxonomy, map_taxonomy, taxonomy_names
from wsi_pipeline.taxonomies.maps import IS_A, map_classes
from wsi_pipeline.taxonomies.model import parse_taxonomy

SMEARS = tuple(name for name in taxonomy_names() if name not in {"section", "red-cells"})
PAIRS = tuple(itertools.product(SMEARS, repeat=2))
# A group that a cell may not enter or leave on the way. Blasts are not here: a set with myeloblasts counts as blasts
# only those of undetermined lineage.
KEPT = (
    "abnormal_promyelocytes",
    "lymphoblasts",
    "myeloid_blasts",
    "granulocyte_precursors",
    "promyelocytes",
    "neutrophils",
    "granulocytic",
    "lymphocytes",
    "neoplastic_lymphocytes",
    "plasma_cells",
    "monocytes",
    "eosinophils",
    "basophils",
    "erythroid",
)


def steps(found: TaxonomyMap) -> Iterator[tuple[str, str]]:
    yield from found.mapped.items()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_class_is_mapped_or_refused_with_a_reason(source: str, target: str) -> None:
    found = map_taxonomy(source, target)
    codes = load_taxonomy(source).codes
    assert set(found.mapped) | set(found.refused) == set(codes)
    assert not set(found.mapped) & set(found.refused)
    assert set(found.mapped.values()) <= set(load_taxonomy(target).codes)
    for code, refusal in found.refused.items():
        assert target in refusal.reason
        with pytest.raises(DataError, match=rf"{source} {code} has no counterpart in {target}"):
            found[code]
    with pytest.raises(DataError, match="zebra"):
        found["zebra"]


@pytest.mark.parametrize("name", taxonomy_names())
def test_a_taxonomy_maps_to_itself(name: str) -> None:
    found = map_taxonomy(name, name)
    assert found.mapped == {code: code for code in load_taxonomy(name).codes}
    assert not found.refused


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_lineage_and_groups_are_kept(source: str, target: str) -> None:
    one, other = load_taxonomy(source), load_taxonomy(target)
    for a, b in steps(map_taxonomy(source, target)):
        assert other.get(b).lineage in {one.get(a).lineage, "undetermined"}
        assert other.get(b).maturity == one.get(a).maturity
        for group in KEPT:
            if group in one.roll_ups and group in other.roll_ups:
                assert (a in one.roll_up(group)) == (b in other.roll_up(group)), (a, b, group)
        for specimen in set(one.denominators) & set(other.denominators):
            assert (a in one.countable(specimen)) == (b in other.countable(specimen))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_blasts_of_one_kind_never_become_the_other(source: str, target: str) -> None:
    one, other = load_taxonomy(source).roll_ups, load_taxonomy(target).roll_ups
    apart = ("myeloid_blasts", "lymphoblasts", "promyelocytes", "abnormal_promyelocytes", "auer_bundle_promyelocytes")
    for a, b in steps(map_taxonomy(source, target)):
        for left, right in itertools.permutations(apart, 2):
            if {left, right} != {"abnormal_promyelocytes", "auer_bundle_promyelocytes"}:
                assert not (a in one.get(left, ()) and b in other.get(right, ()))
        if a in {*one.get("abnormal_promyelocytes", ()), *one.get("auer_bundle_promyelocytes", ())}:
            assert b not in other.get("blasts", ())
        if b in {*other.get("lymphocytes", ()), *other.get("monocytes", ())}:
            assert load_taxonomy(source).get(a).maturity == "mature"


@given(st.sampled_from(SMEARS), st.sampled_from(SMEARS), st.sampled_from(SMEARS))
def test_two_steps_say_no_more_than_one(first: str, second: str, third: str) -> None:
    direct = map_taxonomy(first, third).mapped
    there, on = map_taxonomy(first, second).mapped, map_taxonomy(second, third).mapped
    for code, between in there.items():
        if between in on:
            assert code in direct


def test_meanings_are_known_and_end() -> None:
    assert {parent for parents in IS_A.values() for parent in parents} <= set(IS_A)
    used = {c.meaning for name in SMEARS for c in load_taxonomy(name).classes}
    assert used == set(IS_A)


@pytest.mark.parametrize(
    ("source", "target", "code", "kind", "reason"),
    [
        ("five-part", "pbc", "neutrophil", "undecided", "band_neutrophil, segmented_neutrophil"),
        ("pbc-8", "pbc", "immature_granulocyte", "undecided", "metamyelocyte, myelocyte, promyelocyte"),
        ("pbc-blast", "five-part", "blast", "absent", "no class for blast"),
        ("pbc-blast", "mll23", "blast", "undecided", "myeloblast"),
        ("pbc-blast", "cytologia", "blast", "undecided", "lymphoblast"),
        ("cytologia", "pbc-blast", "abnormal_promyelocyte", "absent", "neither as a promyelocyte nor as a blast"),
        ("cytologia", "matek-marrow", "abnormal_promyelocyte", "undecided", "auer_bundle_promyelocyte"),
        ("cytologia", "five-part", "cll_cell", "absent", "counted apart from lymphocytes"),
        ("deepapl", "mll23", "promyelocyte", "undecided", "may be abnormal"),
        ("deepapl", "pbc-blast", "promonocyte", "absent", "blast equivalent"),
        ("matek-marrow", "cytologia", "immature_lymphocyte", "absent", "by itself, a lymphoblast"),
    ],
)
def test_what_is_refused_and_why(source: str, target: str, code: str, kind: str, reason: str) -> None:
    refusal = map_taxonomy(source, target).refused[code]
    assert refusal.kind == kind
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("source", "target", "code", "to"),
    [
        ("pbc", "five-part", "band_neutrophil", "neutrophil"),
        ("pbc", "pbc-8", "myelocyte", "immature_granulocyte"),
        ("matek-marrow", "mll23", "auer_bundle_promyelocyte", "abnormal_promyelocyte"),
        ("cytologia", "pbc-blast", "lymphoblast", "blast"),
        ("cytologia", "mll23", "sezary_cell", "neoplastic_lymphocyte"),
        ("mll23", "deepapl", "reactive_lymphocyte", "variant_lymphocyte"),
        ("matek-marrow", "pbc-blast", "smudge_cell", "artefact"),
    ],
)
def test_what_is_mapped(source: str, target: str, code: str, to: str) -> None:
    assert map_taxonomy(source, target)[code] == to


def test_table_for_scoring_leaves_immature_cells_out() -> None:
    source = load_taxonomy("pbc-blast")
    table = map_taxonomy("pbc-blast", "five-part").table(source.classifier_classes)
    assert tuple(table) == source.classifier_classes
    assert table["band_neutrophil"] == table["segmented_neutrophil"] == "neutrophil"
    assert {code for code, to in table.items() if to is None} == {
        "erythroblast",
        "metamyelocyte",
        "myelocyte",
        "platelet",
        "promyelocyte",
        "blast",
        "artefact",
    }


def test_table_refuses_what_could_be_several_classes() -> None:
    with pytest.raises(ConfigError, match="cannot be mapped to 'pbc-blast'.*neutrophil.*does not say which"):
        map_taxonomy("five-part", "pbc-blast").table(load_taxonomy("five-part").classifier_classes)


@pytest.mark.parametrize(("source", "target"), [("section", "pbc-blast"), ("pbc-blast", "section")])
def test_sections_and_smears_share_nothing(source: str, target: str) -> None:
    with pytest.raises(ConfigError, match="do not mean the same"):
        map_taxonomy(source, target)


def test_unknown_taxonomies_and_meanings_are_named() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        map_taxonomy("pbc-blast", "nonsense")
    text = """
name: small
description: one class
classes:
  - {code: a, name_en: a, name_fr: a, color: [0, 0, 0], lineage: none, maturity: none, meaning: zebra}
"""
    with pytest.raises(ConfigError, match="meaning 'zebra' is unknown"):
        map_classes(parse_taxonomy(text, "small.yaml"), load_taxonomy("pbc"))
