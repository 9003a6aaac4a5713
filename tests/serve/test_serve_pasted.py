"""Pasted text: every layout that is promised gives the same values, and what is not understood is said."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.fakes import ANALYTES
from wsi_pipeline.serve.form import Form, fill, raw_values
from wsi_pipeline.serve.pasted import read_pasted


@pytest.mark.parametrize(
    "text",
    [
        "Age\t45,5\nLeucocytes\t12,3\nPlaquettes\t33",
        "age;45,5\r\nWBC_G_L;12,3\r\nPLT;33\r\n",
        "Age: 45,5\nwhite blood cells (WBC) = 12,3\nplatelets 33",
        "age,45,5\nwbc,12,3\nPLT,33",
        "Age\tGlobules blancs\tPLT\n45,5\t12,3\t33",
        "\ufeffAge;WBC;Platelets\n45,5;12,3;33\n\n",
        '"Âge"\t"45,5"\n"GB"\t"12,3"\n"Plaquettes"\t"33"',
    ],
)
def test_every_layout_gives_the_same_values(text: str) -> None:
    filled = fill(Form(language="fr", paste=text), ANALYTES).form
    assert {k: v for k, v in filled.values.items() if v} == {"age": "45,5", "WBC_G_L": "12,3", "Platelets_G_L": "33"}
    assert not filled.units
    assert not filled.paste


def test_commas_between_names_and_decimal_points() -> None:
    filled = fill(Form(language="en", paste="age,WBC,PLT\n45.5,12.3,33"), ANALYTES).form
    assert (filled.values["age"], filled.values["WBC_G_L"], filled.values["Platelets_G_L"]) == ("45.5", "12.3", "33")


@pytest.mark.parametrize(
    "text", ["MCHC (g/dL)\t33,2", "MCHC\t33,2\tg/dL\t32 - 36", "MCHC: 33,2 g/dl", "CCMH [G/DL];33,2"]
)
def test_a_unit_beside_the_value_is_chosen(text: str) -> None:
    filled = fill(Form(language="en", paste=text), ANALYTES).form
    assert filled.values["MCHC_g_L"] == "33,2"
    assert filled.units == {"MCHC_g_L": "g/dL"}
    assert raw_values(filled, ANALYTES) == {"MCHC_g_L": "33,2 g/dL"}


def test_a_second_spelling_of_the_same_unit_is_the_canonical_one() -> None:
    filled = fill(Form(language="en", paste="WBC\t12\t10^9/l"), ANALYTES).form
    assert (filled.values["WBC_G_L"], dict(filled.units)) == ("12", {})


def test_a_unit_nobody_knows_reaches_the_reader_and_is_not_dropped() -> None:
    filled = fill(Form(language="en", paste="Platelets\t33\tapples"), ANALYTES).form
    assert raw_values(filled, ANALYTES) == {"Platelets_G_L": "33 apples"}


def test_a_range_in_the_third_column_is_no_unit() -> None:
    assert read_pasted("Platelets\t33\t150 - 400", ANALYTES).values == {"Platelets_G_L": "33"}


def test_a_typed_value_wins_and_it_is_said() -> None:
    form = Form(language="en", values={"age": "50"}, paste="Age\t45\nWBC\t3")
    filled = fill(form, ANALYTES)
    assert filled.form.values["age"] == "50"
    assert filled.kept == ("age",)
    assert not fill(Form(language="en", values={"age": "45"}, paste="Age\t45"), ANALYTES).kept


def test_percent_and_absolute_counts_are_told_apart_by_their_unit() -> None:
    pasted = read_pasted("Lymphocytes\t40\t%\nLymphocytes\t2,4\tG/L\nPNN\t55 %\nMonocytes\t5", ANALYTES)
    assert pasted.values == {"Lymphocytes_percent": "40 %", "Lymphocytes_G_L": "2,4 G/L", "ANC_percent": "55 %"}
    assert pasted.unclear == ("Monocytes",)


def test_a_number_impossible_in_the_usual_unit_is_read_in_the_one_it_fits() -> None:
    filled = fill(Form(language="en", values={"MCHC_g_L": "33,2", "WBC_G_L": "150"}), ANALYTES)
    assert filled.detected == ("MCHC_g_L",)
    assert raw_values(filled.form, ANALYTES) == {"MCHC_g_L": "33,2 g/dL", "WBC_G_L": "150 G/L"}


def test_unknown_names_and_repeats_are_said() -> None:
    pasted = read_pasted("Age\t45\nage\t46\nFerritin\t900\nMr Smith", ANALYTES)
    assert pasted.values == {"age": "45 years"}
    assert pasted.twice == ("age",)
    assert pasted.unknown == ("Ferritin", "Mr Smith")


def test_several_patients_are_not_used() -> None:
    filled = fill(Form(language="en", paste="Age\tWBC\n45\t3\n46\t4"), ANALYTES)
    assert filled.pasted.several
    assert not any(filled.form.values.values())
    assert filled.form.paste


def test_a_unit_typed_behind_the_number_is_chosen() -> None:
    filled = fill(Form(language="en", values={"MCHC_g_L": "33.2 g/dL"}), ANALYTES).form
    assert raw_values(filled, ANALYTES) == {"MCHC_g_L": "33.2 g/dL"}
    assert filled.values["MCHC_g_L"] == "33.2"


@settings(max_examples=30)
@given(st.text(max_size=400))
def test_no_text_breaks_it_and_only_known_names_come_out(text: str) -> None:
    pasted = read_pasted(text, ANALYTES)
    assert set(pasted.values) <= {a.name for a in ANALYTES}


@pytest.mark.parametrize("piece", [" ", "(", "1", "age ", "a\t", ";", ", 1", "age("])
def test_hostile_text_of_full_length_is_read_quickly(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    started = time.monotonic()
    read_pasted(text, ANALYTES)
    fill(Form(language="en", paste=text, values={"age": text[:40]}), ANALYTES)
    assert time.monotonic() - started < 5
