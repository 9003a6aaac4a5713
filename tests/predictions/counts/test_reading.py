"""Tables of blood counts, good and bad."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.counts import findings
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.reading import CountsTable, Finding, iter_counts, read_counts, read_values

NAMES = [analyte.name for analyte in load_analytes()]


def write(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def read(folder: Path, text: str, **options: object) -> CountsTable:
    return read_counts(write(folder, text), **options)  # type: ignore[arg-type]


def column(table: CountsTable, name: str) -> list[float]:
    return table.values[:, [a.name for a in table.analytes].index(name)].tolist()


def of_kind(table: CountsTable, kind: str) -> list[Finding]:
    return [finding for finding in table.findings if finding.kind == kind]


def lines(header: str, rows: Sequence[object]) -> str:
    return "\n".join([header, *map(str, rows)]) + "\n"


# ---- form of the file ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_encodings_and_separators(tmp_path: Path, encoding: str, separator: str) -> None:
    text = "âge;Fibrinogène (g/L);GB (G/L)\n45;3,2;1 234,5\n".replace(";", separator).replace("1 234,5", "12,5")
    table = read_counts(write(tmp_path, text, encoding=encoding))
    assert [column(table, n)[0] for n in ("age", "Fibrinogen_g_L", "WBC_G_L")] == [45, 3.2, 12.5]
    assert bool(of_kind(table, "encoding")) == (encoding in {"cp1252", "utf-16"})


def test_quoted_decimal_commas_among_commas_and_excels_first_line(tmp_path: Path) -> None:
    assert column(read(tmp_path, 'age,MCV\n45,"92,5"\n'), "MCV_fL") == [92.5]
    assert column(read(tmp_path, "sep=;\nage;MCV\n45;92,5\n"), "MCV_fL") == [92.5]


def test_unquoted_decimal_commas_among_commas_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: 3 values for 2 columns \(decimal commas"):
        read(tmp_path, "age,MCV\n45,92\n46,92,5\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"age,WBC_G_L\n", "no rows"),
        (b"age,WBC_G_L\n\n,\n", "no rows"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x01", "no text"),
        (b"PK\x03\x04\x14\x00", "workbook"),
        (b"a,b\n1,2\n", "no known column"),
        (b"age,MCV\n1,2\n3\n", "line 3: 1 values for 2 columns"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_counts(path)
    assert "bad.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_counts(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no table"):
        read_counts([])


def test_blank_rows_are_counted_and_lines_stay_right(tmp_path: Path) -> None:
    table = read(tmp_path, "age,MCV,\n45,90,\n\n , ,\n46,x,\n\n47,91,,,\n")
    assert table.patients == ("row 2", "row 5", "row 7")
    assert [(f.row, f.raw) for f in of_kind(table, "refused")] == [(5, "x")]
    assert "3 empty rows" in of_kind(table, "empty-row")[0].message


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["", "12", "12.5", "NA", " 7 ", "x"]), st.sampled_from(["", "33.2", "330", "-"])),
        min_size=1,
        max_size=30,
    ),
    chunk=st.integers(1, 7),
    quoted=st.booleans(),
)
def test_arrows_reader_and_the_careful_one_agree(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], chunk: int, quoted: bool
) -> None:
    """A quote anywhere sends a file to the careful reader; chunks of any size give the same rows."""
    folder = tmp_path_factory.mktemp("parity")
    body = "".join(f"{a},{b},{n}\n" for n, (a, b) in enumerate(rows))
    plain, careful = (write(folder, f"{head}\n{body}", f"{head[0]}.csv") for head in ("WBC,MCHC,age", '"WBC",MCHC,age'))
    tables = list(iter_counts(plain if quoted else careful, chunk_rows=chunk))
    whole = read_counts(careful if quoted else plain)
    np.testing.assert_array_equal(np.concatenate([table.values for table in tables]), whole.values)
    assert tuple(name for table in tables for name in table.patients) == whole.patients
    refused = [(f.row, f.column, f.raw) for table in tables for f in of_kind(table, "refused") if f.row]
    assert sorted(refused) == sorted((f.row, f.column, f.raw) for f in of_kind(whole, "refused") if f.row)


# ---- numbers ----


def test_missing_words_are_missing_and_not_refused(tmp_path: Path) -> None:
    table = read(tmp_path, lines("age,MCV", [f"{n},{word}" for n, word in enumerate(["", "NA", "ND", "-", "n/a"])]))
    assert all(math.isnan(value) for value in column(table, "MCV_fL"))
    assert not table.refused.any()


def test_text_in_a_numeric_cell_is_refused_alone_with_its_place(tmp_path: Path) -> None:
    table = read(tmp_path, "patient,age,MCV\na,45,mars-45\nb,46,92\n")
    assert column(table, "MCV_fL")[1] == 92
    assert table.refused.sum() == 1
    (found,) = of_kind(table, "refused")
    assert (found.row, found.patient, found.column, found.raw, found.message) == (
        2,
        "a",
        "MCV",
        "mars-45",
        "is no number",
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [("95,25", [90.123, 95.25]), ("95.25", [math.nan, 95.25])],
)
def test_a_comma_before_three_digits_means_what_it_means_elsewhere(
    tmp_path: Path, other: str, expected: list[float]
) -> None:
    table = read(tmp_path, f"MCV_fL;age\n90,123;40\n{other};41\n")
    np.testing.assert_array_equal(column(table, "MCV_fL"), expected)


def test_a_comma_that_nothing_explains_is_refused_or_read_the_only_plausible_way(tmp_path: Path) -> None:
    table = read(tmp_path, "LDH_UI_L;Platelets_G_L\n1,234;150\n")
    assert column(table, "LDH_UI_L") == [1234]
    assert "only plausible reading" in of_kind(table, "converted")[0].message
    table = read(tmp_path, "LDH_UI_L;Platelets_G_L\n800;1,234\n")
    assert table.refused[0, NAMES.index("Platelets_G_L")]


def test_limits_are_taken_where_they_are_a_methods_and_refused_where_they_say_too_little(tmp_path: Path) -> None:
    table = read(tmp_path, "Fibrinogen_g_L,PT_percent,LDH_UI_L\n<0.5,>100,<250\n>3,<50,>10000\n")
    np.testing.assert_array_equal(column(table, "Fibrinogen_g_L"), [0.5, math.nan])
    np.testing.assert_array_equal(column(table, "PT_percent"), [100, math.nan])
    np.testing.assert_array_equal(column(table, "LDH_UI_L"), [math.nan, 10000])
    assert len(of_kind(table, "at-limit")) == 3
    assert table.refused.sum() == 3


# ---- units ----


@pytest.mark.parametrize(
    ("header", "cell", "name", "value"),
    [
        ("MCHC (g/dL)", "33.2", "MCHC_g_L", 332),
        ("MCHC_g_L", "33.2", "MCHC_g_L", 332),
        ("MCHC", "33.2 g/dL", "MCHC_g_L", 332),
        ("MCHC (g/dL)", "332", "MCHC_g_L", 332),
        ("MCHC (mmol/L)", "20.6", "MCHC_g_L", 20.6 * 16.114),
        ("WBC_10^9/L", "5.2", "WBC_G_L", 5.2),
        ("WBC (/mm3)", "5200", "WBC_G_L", 5.2),
        ("WBC", "5200", "WBC_G_L", 5.2),
        ("WBC (/mm3)", "800", "WBC_G_L", 0.8),
        ("Platelets 10^3/uL", "12", "Platelets_G_L", 12),
        ("Plaquettes", "12000/mm3", "Platelets_G_L", 12),
        ("Fibrinogen mg/dL", "320", "Fibrinogen_g_L", 3.2),
        ("Fibrinogen", "320", "Fibrinogen_g_L", 3.2),
        ("LDH (µkat/L)", "4", "LDH_UI_L", 240),
        ("TP", "0.65", "PT_percent", 65),
        ("age", "8 mois", "age", 8 / 12),
        ("âge (jours)", "30", "age", 30 * 0.00273785),
        ("age", "3 ans", "age", 3),
    ],
)
def test_one_value_in_its_unit(tmp_path: Path, header: str, cell: str, name: str, value: float) -> None:
    table = read(tmp_path, f"{header};MCV\n{cell};90\n")
    assert column(table, name) == [pytest.approx(value)]
    written = column(table, name)[0] == float(re.match(r"[\d.]+", cell)[0])  # type: ignore[index]
    reported = [f for f in of_kind(table, "converted") if f.column == header]
    assert bool(reported) == (not written or header == "MCHC (g/dL)")


@pytest.mark.parametrize(
    ("header", "cell"),
    [("PT (INR)", "1.2"), ("PT ratio", "1.2"), ("TP (sec)", "13"), ("TP", "2.5"), ("TP", "1.2"), ("TP", "13 s")],
)
def test_prothrombin_times_are_never_made_percent(tmp_path: Path, header: str, cell: str) -> None:
    table = read(tmp_path, f"{header};MCV\n{cell};90\n")
    assert math.isnan(column(table, "PT_percent")[0])
    assert table.refused[0, NAMES.index("PT_percent")]
    assert of_kind(table, "refused")[0].column == header


def test_a_column_that_looks_like_seconds_is_refused(tmp_path: Path) -> None:
    table = read(tmp_path, lines("PT_percent", [11.5, 12, 13.1, 12.4, 14, 15.5, 19, 12, 13, 12.9, 25, 31]))
    assert table.refused[:, NAMES.index("PT_percent")].all()
    assert "look like s;" in of_kind(table, "refused")[0].message


def test_mixed_units_are_converted_value_by_value_and_each_is_reported(tmp_path: Path) -> None:
    table = read(tmp_path, lines("MCHC_g_L", [332, 33.2, 340, 34, 100]))
    np.testing.assert_allclose(column(table, "MCHC_g_L"), [332, 332, 340, 340, math.nan])
    assert [f.row for f in of_kind(table, "converted")] == [3, 5]
    assert [f.row for f in of_kind(table, "refused")] == [6]


def test_a_centre_in_another_unit_is_found_and_named(tmp_path: Path) -> None:
    rows = [f"Lyon,{330 + n}" for n in range(10)] + [f"Nantes,{33 + n / 10:.1f}" for n in range(10)]
    table = read(tmp_path, lines("centre,MCHC_g_L", rows))
    expected = [330 + n for n in range(10)] * 2
    np.testing.assert_allclose(column(table, "MCHC_g_L"), expected)
    (found,) = of_kind(table, "converted")
    assert found.row is None
    assert found.message.startswith("centre Nantes: 10 of the 10 values")
    assert table.centres == ("Lyon",) * 10 + ("Nantes",) * 10


def test_values_that_fit_two_units_follow_those_of_their_centre(tmp_path: Path) -> None:
    small, large = [2.5, 7, 12, 30, 55], [2500, 7000, 12000, 30000, 55000]
    rows = [f"a,{v}" for v in [*small, 800]] + [f"b,{v}" for v in [*large, 800]]
    table = read(tmp_path, lines("centre,WBC_G_L", rows))
    np.testing.assert_allclose(column(table, "WBC_G_L"), [*small, 800, *small, 0.8])


def test_a_value_that_fits_two_units_is_refused_in_a_mixed_column_and_reported_where_nothing_tells(
    tmp_path: Path,
) -> None:
    table = read(tmp_path, lines("WBC_G_L", [2.5, 7, 12000, 30000, 800]))
    np.testing.assert_allclose(column(table, "WBC_G_L"), [2.5, 7, 12, 30, math.nan])
    assert read(tmp_path, lines("WBC", [800])).refused.any()
    declared = read(tmp_path, lines("WBC_G_L", [800]))
    assert column(declared, "WBC_G_L") == [800]
    assert "/mm3" in of_kind(declared, "ambiguous")[0].message


def test_a_unit_the_user_declares_is_never_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, lines("MCHC", [33.2, 332]))
    table = read_counts(path, units={"MCHC": "g/dL"})
    np.testing.assert_allclose(column(table, "MCHC_g_L"), [332, math.nan])
    with pytest.raises(ConfigError, match="furlongs"):
        read_counts(path, units={"MCHC_g_L": "furlongs"})


@pytest.mark.parametrize("cell", ["-1", "121", "500"])
def test_impossible_ages_are_refused(tmp_path: Path, cell: str) -> None:
    assert read(tmp_path, f"age,MCV\n{cell},90\n").refused[0, 0]


# ---- percent and absolute ----


def test_the_missing_form_is_derived_from_the_white_cells(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,ANC_percent,Lymphocytes_G_L\n10,20,3\n,20,3\n")
    np.testing.assert_allclose(column(table, "ANC_G_L"), [2, math.nan])
    np.testing.assert_allclose(column(table, "Lymphocytes_percent"), [30, math.nan])
    assert len(of_kind(table, "derived")) == 2


def test_contradicting_forms_are_both_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,ANC_percent,ANC_G_L\n10,20,5\n10,20,2.05\n")
    np.testing.assert_allclose(column(table, "ANC_G_L"), [math.nan, 2.05])
    np.testing.assert_allclose(column(table, "ANC_percent"), [math.nan, 20])
    assert table.refused.sum() == 2
    assert [f.row for f in of_kind(table, "inconsistent")] == [2]


def test_white_cells_that_two_counts_contradict_alike_are_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,ANC_percent,ANC_G_L,Lymphocytes_percent,Lymphocytes_G_L\n3.62,47,2.71,29,1.67\n")
    assert math.isnan(column(table, "WBC_G_L")[0])
    assert column(table, "ANC_G_L") == [2.71]
    assert "agree on 5.7" in of_kind(table, "inconsistent")[0].message


def test_a_part_above_the_whole_is_refused(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,Monocytes_percent,Monocytes_G_L\n2.19,24.7,24.7\n")
    assert column(table, "Monocytes_G_L") == [pytest.approx(0.54093)]
    assert of_kind(table, "refused")[0].row == 2


def test_percentages_above_100_are_refused_and_their_sum_is_reported(tmp_path: Path) -> None:
    table = read(tmp_path, "ANC_percent,Lymphocytes_percent\n114,20\n70,60\n")
    np.testing.assert_array_equal(column(table, "ANC_percent"), [math.nan, 70])
    assert [f.row for f in of_kind(table, "inconsistent")] == [3]


def test_a_column_of_fractions_is_converted_and_reported(tmp_path: Path) -> None:
    rows = [
        f"{a},{b},{c}"
        for a, b, c in [(0.2, 0.5, 0), (0.31, 0.3, 0.01), (0, 0.9, 0), (0.6, 0.2, 0.05), (1, 0, 0), (0.4, 0.1, 0)]
    ]
    table = read(tmp_path, lines("ANC_percent,Lymphocytes_percent,Monocytes_percent", rows))
    np.testing.assert_allclose(column(table, "ANC_percent"), [20, 31, 0, 60, 100, 40])
    np.testing.assert_allclose(column(table, "Monocytes_percent"), [0, 1, 0, 5, 0, 0])
    assert {f.column for f in of_kind(table, "converted")} == {
        "ANC_percent",
        "Lymphocytes_percent",
        "Monocytes_percent",
    }


def test_one_fraction_is_found_by_its_absolute_count_else_doubt_is_reported(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,ANC_percent,ANC_G_L\n10,0.4,4\n")
    assert column(table, "ANC_percent") == [40]
    assert of_kind(table, "converted")
    doubtful = read(tmp_path, "WBC_G_L,ANC_percent,Lymphocytes_percent\n10,0.4,0.5\n")
    assert column(doubtful, "ANC_percent") == [0.4]
    assert of_kind(doubtful, "ambiguous")


WHITE = [5, 10, 40, 3, 8, 12, 2, 9, 90, 6]
SHARE = [20, 30, 5, 60, 45, 25, 70, 33, 4, 50]


@pytest.mark.parametrize("header", ["ANC_G_L", "PNN"])
def test_an_absolute_column_that_holds_percentages(tmp_path: Path, header: str) -> None:
    rows = [f"{w},{p}" for w, p in zip(WHITE, SHARE, strict=True)]
    table = read(tmp_path, lines(f"GB (G/L),{header}", rows))
    np.testing.assert_allclose(column(table, "ANC_percent"), SHARE)
    np.testing.assert_allclose(column(table, "ANC_G_L"), np.array(WHITE) * SHARE / 100)
    assert any("taken as percent" in f.message for f in of_kind(table, "converted"))


def test_a_name_without_unit_is_absolute_where_values_show_it_and_refused_where_nothing_does(tmp_path: Path) -> None:
    absolute = [w * p / 100 for w, p in zip(WHITE, SHARE, strict=True)]
    rows = [f"{w},{a:.4g}" for w, a in zip(WHITE, absolute, strict=True)]
    np.testing.assert_allclose(column(read(tmp_path, lines("WBC,PNN", rows)), "ANC_G_L"), absolute, rtol=1e-3)
    short = read(tmp_path, lines("WBC,PNN", rows[:3]))
    assert short.refused[:, NAMES.index("ANC_G_L")].all()
    signed = read(tmp_path, "WBC,PNN\n10,20 %\n")
    assert column(signed, "ANC_G_L") == [2]


# ---- columns, patients ----


def test_two_columns_of_one_analyte_must_agree(tmp_path: Path) -> None:
    table = read(tmp_path, "WBC_G_L,GB (/mm3),age\n5.2,5200,40\n")
    assert of_kind(table, "duplicate")[0].column == "GB (/mm3)"
    with pytest.raises(DataError, match=r"'WBC_G_L' and 'GB \(G/L\)' .* differ .*line 3"):
        read(tmp_path, "WBC_G_L,GB (G/L)\n5.2,5.2\n5.2,5.3\n")


def test_unknown_and_missing_columns_are_reported(tmp_path: Path) -> None:
    table = read(tmp_path, "age,date of birth\n45,1970\n")
    assert [f.column for f in of_kind(table, "unknown-column")] == ["date of birth"]
    assert {f.column for f in of_kind(table, "missing")} == set(NAMES) - {"age"}


def test_repeated_patients_and_rows_are_reported_across_chunks_and_kept(tmp_path: Path) -> None:
    text = "id,age,WBC_G_L,MCV,MCHC,LDH\na,1,5,90,330,200\nb,2,6,91,331,300\na,3,7,92,332,400\nc,2,6.0,91,331,300\n"
    path = write(tmp_path, text)
    tables = list(iter_counts(path, chunk_rows=1))
    assert [len(table.patients) for table in tables] == [1, 1, 1, 1]
    found = [(f.row, f.message) for table in tables for f in of_kind(table, "duplicate")]
    assert found == [
        (4, "the same patient as row 2; both are kept"),
        (5, "the same values as row 3; both are kept"),
    ]


def test_several_files_are_centres(tmp_path: Path) -> None:
    one = write(tmp_path, "age,Dx\n40,AML\n", "lyon.csv")
    other = write(tmp_path, "Dx;âge\nALL;41,5\n", "brest.csv")
    table = read_counts([one, other], label="Dx")
    assert table.centres == ("lyon", "brest")
    assert table.labels == ("AML", "ALL")
    assert table.patients == ("lyon row 2", "brest row 2")
    assert column(table, "age") == [40, 41.5]


def test_findings_are_bounded_and_say_how_many_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MOST", 3)
    table = read(tmp_path, lines("age", ["x"] * 8))
    refused = of_kind(table, "refused")
    assert [f.row for f in refused] == [2, 3, 4, None]
    assert refused[-1].message.startswith("5 more")
    assert table.refused[:, 0].all()


# ---- one patient, typed ----


def test_a_form(tmp_path: Path) -> None:
    table = read_values({"patient": "Z", "MCHC_g_L": "33,2 g/dL", "GB": "5,2", "PT_percent": "", "foo": "1"})
    assert table.patients == ("Z",)
    assert column(table, "MCHC_g_L") == [332]
    assert column(table, "WBC_G_L") == [5.2]
    assert not table.refused.any()
    assert all(f.row is None for f in table.findings)
    assert [f.column for f in of_kind(table, "unknown-column")] == ["foo"]


def test_the_mds_panel_reads_words_for_sex(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Ne-WX;IPF %;ANC;MCV;Hb;PLT;MPV;age;sexe\n310;3,1;1,9;94;96 g/L;113;11,4;70;F\n300;;2;90;10;99;10;71;1\n",
    )
    table = read_counts(path, analytes=load_analytes("mds-cbc"))
    np.testing.assert_allclose(table.values[0], [310, 3.1, 1.9, 94, 9.6, 113, 11.4, 70, 1])
    assert table.refused[1].tolist() == [False] * 8 + [True]


# ---- properties and real data ----


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(250, 420).map(lambda v: round(v, 1)), min_size=1, max_size=12),
    in_dl=st.lists(st.booleans(), min_size=12, max_size=12),
    comma=st.booleans(),
)
def test_any_mixture_of_units_and_decimals_gives_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], in_dl: list[bool], comma: bool
) -> None:
    cells = [f"{v / 10:.2f}" if small else f"{v:.1f}" for v, small in zip(values, in_dl, strict=False)]
    text = lines("MCHC_g_L;age", [f"{cell};{40 + n}" for n, cell in enumerate(cells)])
    table = read(tmp_path_factory.mktemp("mix"), text.replace(".", ",") if comma else text)
    np.testing.assert_allclose(column(table, "MCHC_g_L"), values)


@settings(max_examples=80, deadline=None)
@given(cells=st.lists(st.text(max_size=12), min_size=14, max_size=14))
def test_no_cell_breaks_reading_and_every_value_is_given_refused_or_missing(
    cells: list[str],
) -> None:
    table = read_values(dict(zip(NAMES, cells, strict=True)))
    assert not (table.refused & ~np.isnan(table.values)).any()
    low, high = (np.array([a.plausible[i] for a in table.analytes]) for i in (0, 1))
    with np.errstate(invalid="ignore"):
        assert not ((table.values < low * (1 - 1e-6)) | (table.values > high * (1 + 1e-6))).any()


@pytest.mark.data
def test_the_real_tables_are_read_as_pandas_reads_them_but_for_contradictions(data_root: Path) -> None:
    folder = data_root / "acute-leukaemia-counts"
    paths = [folder / "lyon.csv", folder / "clermont.csv"]
    table = read_counts(paths, label="Response")
    plain = pd.concat([pd.read_csv(path) for path in paths])
    assert table.labels == tuple(plain["Response"])
    expected = plain[NAMES].to_numpy()
    same = np.isclose(table.values, expected, rtol=1e-12, equal_nan=True)
    assert same.size - same.sum() == 10
    assert table.refused.sum() == 9
    told = {(f.row, f.message.split(":")[0]) for f in table.findings if f.kind in {"refused", "inconsistent"}}
    changed = {(int(n) + 2, "lyon") if n < 424 else (int(n) - 422, "clermont") for n in np.argwhere(~same)[:, 0]}
    assert changed <= told


@pytest.mark.data
def test_the_real_table_in_french_dress_gives_the_same_values(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "acute-leukaemia-counts" / "lyon.csv"
    with source.open() as file:
        header, *rows = csv.reader(file)
    place = header.index("MCHC_g_L")
    for row in rows:
        row[place] = f"{float(row[place]) / 10:.1f}" if row[place] else "ND"
    text = "\r\n".join(";".join(row).replace(".", ",") for row in [header, *rows])
    dressed = read_counts(write(tmp_path, text, encoding="utf-8-sig"))
    np.testing.assert_allclose(dressed.values, read_counts(source).values, rtol=1e-9)
