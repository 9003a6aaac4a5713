"""What class folders mean, and which answers say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.galleries import GivenLabel, resolve_labels
from wsi_pipeline.galleries.labels import class_names_only
from wsi_pipeline.taxonomies import load_taxonomy

OWN = load_taxonomy("pbc-blast")


def resolve(*labels: str, **options: object) -> dict[str, GivenLabel]:
    found = resolve_labels(labels, own=OWN, answers=OWN.classifier_classes, where=Path("G"), **options)  # type: ignore[arg-type]
    return {given.label: given for given in found}


def test_codes_aliases_and_names_in_any_writing() -> None:
    found = resolve("BLA", "band_neutrophil", "Band Neutrophil", "segmented-neutrophil", "polynucléaire basophile")
    assert [given.code for given in found.values()] == [
        "blast",
        "band_neutrophil",
        "band_neutrophil",
        "segmented_neutrophil",
        "basophil",
    ]
    assert all(given.agrees == (given.code,) and given.taxonomy == "pbc-blast" for given in found.values())


def test_a_coarser_label_agrees_with_each_of_its_parts() -> None:
    given = resolve("neutrophil", taxonomy="five-part")["neutrophil"]
    assert set(given.agrees) == {"band_neutrophil", "segmented_neutrophil"}


def test_a_finer_label_agrees_with_what_it_is_a_part_of() -> None:
    given = resolve("myeloblast", taxonomy="mll23")["myeloblast"]
    assert given.agrees == ("blast",)


def test_a_cell_that_the_classifier_cannot_name_is_kept_and_not_compared() -> None:
    given = resolve("plasma_cell", taxonomy="matek-marrow")["plasma_cell"]
    assert given.taxonomy == "matek-marrow"
    assert given.agrees == ()
    assert "plasma cell" in given.note


def test_unknown_labels_are_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no classes: weird, x1\..*band_neutrophil.*--keep-unknown-labels"):
        resolve("weird", "blast", "x1")
    given = resolve("weird", "blast", keep_unknown=True)
    assert given["weird"].code is None
    assert given["weird"].agrees == ()
    assert given["weird"].note
    assert given["blast"].agrees == ("blast",)


def test_one_name_for_different_cells_is_refused_unless_the_taxonomy_is_named() -> None:
    taken: dict[str, set[str | None]] = {}
    for name in ("cytologia", "deepapl", "matek-marrow", "mll23"):
        for cell in load_taxonomy(name).classes:
            if cell.classified and OWN.find(cell.code) is None:
                taken.setdefault(cell.code, set()).add(cell.meaning)
    twofold = sorted(code for code, meanings in taken.items() if len(meanings) > 1)
    for code in twofold:
        with pytest.raises(ConfigError, match=f"class folder {code} may be .* --label-taxonomy"):
            resolve(code)


def test_folders_of_classes_are_told_from_patients() -> None:
    assert class_names_only(["BLA", "monocyte"], OWN)
    assert not class_names_only(["BLA", "P1"], OWN)
    assert not class_names_only([], OWN)
