"""Numbers as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.predictions.counts.numbers import Separators, parse_cell


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5.2", 5.2),
        ("5,2", 5.2),
        (" 12 ", 12),
        ("1 234,5", 1234.5),
        ("1\u00a0234,5", 1234.5),
        ("1\u202f234,5", 1234.5),
        ("1.234,5", 1234.5),
        ("1,234.5", 1234.5),
        ("1,234,567", 1234567),
        ("1'234.5", 1234.5),
        ("0,375", 0.375),
        ("1234,567", 1234.567),
        (".5", 0.5),
        ("1e3", 1000),
        ("1,2E+01", 12),
        ("−3", -3),
    ],
)
def test_a_number_is_read_however_it_is_written(text: str, value: float) -> None:
    assert parse_cell(text).readings == (pytest.approx(value),)


@pytest.mark.parametrize(("text", "mark"), [("1,234", ","), ("12.345", "."), ("123,456", ",")])
def test_three_digits_behind_one_separator_have_two_readings(text: str, mark: str) -> None:
    cell = parse_cell(text)
    assert cell.ambiguous == mark
    assert cell.readings == (float(text.replace(",", ".")), float(text.replace(mark, "")))


@pytest.mark.parametrize("text", ["", "NA", "n.d.", "ND", "-", "nan", "#N/A", " ", "Non fait"])
def test_words_for_missing(text: str) -> None:
    assert parse_cell(text).state == "missing"


@pytest.mark.parametrize(
    "text", ["mars-45", "12.03.2020", "5-6", "52 10", "12,", "inf", "abc", "++", "1.2.3", "=1+1", "1,23,456"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    cell = parse_cell(text)
    assert cell.state == "refused"
    assert cell.reason


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("33,2 g/dL", "g/dL"),
        ("5.2 10^9/L", "10^9/L"),
        ("5,2x10⁹/L", "x109/L"),
        ("5200/mm3", "/mm3"),
        ("8 mois", "mois"),
        ("45%", "%"),
    ],
)
def test_a_unit_behind_the_number(text: str, unit: str) -> None:
    cell = parse_cell(text)
    assert cell.unit == unit
    assert len(cell.readings) == 1


@pytest.mark.parametrize(("text", "sign"), [("<0,5", "<"), ("> 100", ">"), ("≤5", "<"), (">=100 %", ">")])
def test_signs_of_comparison(text: str, sign: str) -> None:
    assert parse_cell(text).sign == sign


@pytest.mark.parametrize(
    ("decimal", "thousands", "mark", "role"),
    [
        ("", "", ".", "decimal"),
        ("", "", ",", None),
        (",", "", ",", "decimal"),
        (",", "", ".", None),
        (",", ".", ".", "thousands"),
        (".", "", ",", "thousands"),
        (".", ",", ",", "thousands"),
        (".,", "", ",", None),
        (".,", "", ".", "decimal"),
    ],
)
def test_the_file_decides_what_a_separator_means(decimal: str, thousands: str, mark: str, role: str | None) -> None:
    assert Separators(decimal=set(decimal), thousands=set(thousands)).role(mark) == role


@given(st.text(max_size=30))
def test_no_text_raises(text: str) -> None:
    cell = parse_cell(text)
    assert (cell.state == "number") == bool(cell.readings)


@given(st.integers(0, 999_999_999), st.integers(1, 99))
def test_french_and_english_spellings_agree(whole: int, cents: int) -> None:
    value = float(f"{whole}.{cents:02d}")
    french = f"{whole:,}".replace(",", "\u202f") + f",{cents:02d}"
    assert parse_cell(french).readings == (value,)
    assert parse_cell(f"{whole:,}.{cents:02d}").readings == (value,)
