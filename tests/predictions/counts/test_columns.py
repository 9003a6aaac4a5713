"""Names of columns."""

from __future__ import annotations

import pytest

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.counts.analytes import key, load_analytes, load_parts, panel_names
from wsi_pipeline.predictions.counts.columns import ColumnNames, read_header

ANALYTES = load_analytes()
NAMES = ColumnNames(ANALYTES)


@pytest.mark.parametrize(
    ("written", "analyte", "unit"),
    [
        # the table of Haematologica 2022, exactly
        ("Age", "age", "years"),
        ("Leucocytes_(G_L)", "WBC_G_L", "G/L"),
        ("VGM_(fL)", "MCV_fL", "fL"),
        ("CCMH_(g_L)", "MCHC_g_L", "g/L"),
        ("PNN_(G_L)", "ANC_G_L", "G/L"),
        ("Lymphos_(%)", "Lymphocytes_percent", "%"),
        ("TP_(%)", "PT_percent", "%"),
        ("Fibrinogene_(g_L)", "Fibrinogen_g_L", "g/L"),
        # French and English laboratory names
        ("GB", "WBC_G_L", None),
        ("Globules blancs (G/L)", "WBC_G_L", "G/L"),
        ("polynucléaires neutrophiles (%)", "ANC_percent", "%"),
        ("Polynucléaires Neutrophiles G/L", "ANC_G_L", "G/L"),
        ("Taux de prothrombine", "PT_percent", None),
        ("Fibrinogène", "Fibrinogen_g_L", None),
        ("âge", "age", "years"),
        ("PLAQUETTES", "Platelets_G_L", None),
        ("Fibrinogen mg/dL", "Fibrinogen_g_L", "mg/dL"),
        ("MCHC (g/dL)", "MCHC_g_L", "g/dL"),
        ("WBC_10^9/L", "WBC_G_L", "G/L"),
        ("WBC [x10⁹/L]", "WBC_G_L", "G/L"),
        ("Platelets 10^3/uL", "Platelets_G_L", "G/L"),
        ("Platelets (/mm³)", "Platelets_G_L", "/mm3"),
        ("WBC /nL", "WBC_G_L", "G/L"),
        ("age (months)", "age", "months"),
        ("LDH µkat/L", "LDH_UI_L", "ukat/L"),
        ("White blood cells (WBC)", "WBC_G_L", None),
        ("monocytes percent", "Monocytes_percent", "%"),
    ],
)
def test_names_and_units(written: str, analyte: str, unit: str | None) -> None:
    found = NAMES.match(written)
    assert found is not None
    assert (ANALYTES[found.analyte].name, found.unit, found.problem) == (analyte, unit, "")


@pytest.mark.parametrize("written", ["PT INR", "TP (INR)", "PT ratio", "PT (seconds)", "TP_(s)", "WBC (foo)"])
def test_units_that_cannot_be_converted_are_refused_with_the_reason(written: str) -> None:
    found = NAMES.match(written)
    assert found is not None
    assert found.problem


@pytest.mark.parametrize(
    "written", ["Response", "INR", "date of birth", "age_group", "LDH_date", "", "date de naissance"]
)
def test_other_names_are_unknown(written: str) -> None:
    assert NAMES.match(written) is None


@pytest.mark.parametrize(
    "written", ["Ne-WX", "IPF %", "ANC", "MCV", "Hb", "PLT", "MPV", "age", "sex", "Hb (g/L)", "VPM"]
)
def test_names_of_the_mds_panel(written: str) -> None:
    assert ColumnNames(load_analytes("mds-cbc")).match(written) is not None


@pytest.mark.parametrize("panel", panel_names())
def test_every_name_of_a_panel_means_one_analyte(panel: str) -> None:
    analytes = load_analytes(panel)
    names = ColumnNames(analytes)
    for position, analyte in enumerate(analytes):
        found = names.match(analyte.name)
        assert found is not None
        assert found.analyte == position
        for synonym in set(analyte.synonyms) - set(analyte.names_with_unit):
            plain = names.match(synonym)
            assert plain is not None
            assert plain.analyte == position, synonym


@pytest.mark.parametrize("panel", panel_names())
def test_limits_and_ranges_are_in_order(panel: str) -> None:
    for analyte in load_analytes(panel):
        low, high = analyte.plausible
        assert low < high
        assert set(analyte.label) == set(analyte.short) == {"en", "fr"}
        assert all(analyte.find_unit(unit) == unit for unit in (analyte.unit, *analyte.units, *analyte.refused_units))
        if analyte.reference:
            assert low <= analyte.reference[0] < analyte.reference[1] <= high
            assert analyte.reference_source
        for unit, (least, most) in analyte.detect.items():
            assert least < most
            if unit in analyte.units:
                factor = analyte.factor(unit)
                assert low <= least * factor * (1 + 1e-9)
                assert most * factor <= high * (1 + 1e-9)


def test_parts_need_all_three_columns() -> None:
    assert len(load_parts(ANALYTES)) == 3
    assert load_parts(load_analytes("mds-cbc")) == ()


def test_an_unknown_panel_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match="acute-leukaemia, mds-cbc"):
        load_analytes("mds")


def test_a_header_without_known_names_is_an_error() -> None:
    with pytest.raises(DataError, match=r"t.csv has no known column; found foo, bar"):
        read_header(["foo", "bar"], ANALYTES, "t.csv")


def test_identity_label_and_unknown_columns() -> None:
    header = read_header(["IPP", "Hôpital", "Dx", "age", "foo"], ANALYTES, "t.csv", label="Dx")
    assert (header.patient, header.centre, header.label) == (0, 1, 2)
    assert header.unknown == ((4, "foo"),)


def test_a_label_that_is_absent_is_an_error() -> None:
    with pytest.raises(DataError, match="no column 'Dx'"):
        read_header(["age"], ANALYTES, "t.csv", label="Dx")


@pytest.mark.parametrize("units", [{"foo": "g/L"}, {"MCHC": "foo"}, {"PT": "INR"}])
def test_declared_units_must_be_known(units: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        read_header(["MCHC", "PT"], ANALYTES, "t.csv", units=units)


def test_names_are_compared_blind_to_case_accents_and_punctuation() -> None:
    assert key("  Fibrinogène_(G/L)") == key("fibrinogene g-l") == "fibrinogenegl"
