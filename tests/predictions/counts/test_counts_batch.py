from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.predictions.counts.counts_models import normal_row, simulated, small_model
from wsi_pipeline.errors import ConfigError, DataError, OutputError
from wsi_pipeline.predictions.counts.batch import COLUMNS, CONTRIBUTION_COLUMNS, FINDING_COLUMNS, predict_table
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray


def write_table(
    path: Path, values: FloatArray, *, separator: str = ",", comma: bool = False, **columns: list[str]
) -> Path:
    lines = [separator.join([*columns, *ANALYTES])]
    for row in range(len(values)):
        cells = ["" if np.isnan(v) else f"{v:.6g}" for v in values[row]]
        cells = [cell.replace(".", ",") for cell in cells] if comma else cells
        lines.append(separator.join([*(column[row] for column in columns.values()), *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_is_answered_in_its_order(tmp_path: Path) -> None:
    values = np.concatenate([simulated(30, seed=20).values, normal_row()])
    names = [f"p{i}" for i in range(31)]
    counts = predict_table(
        [write_table(tmp_path / "t.csv", values, patient=names)], tmp_path / "out.csv", model=small_model()
    )
    rows = read(tmp_path / "out.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["patient"] for row in rows] == names
    assert counts["rows"] == 31
    found = small_model().predict(values)
    for row, p, k in zip(rows, found.probabilities, found.predicted, strict=True):
        assert row["predicted"] == ("" if k < 0 else CLASSES[k])
        for i, name in enumerate(CLASSES):
            assert row[f"p_{name}"] == "" if k < 0 else float(row[f"p_{name}"]) == pytest.approx(p[i], abs=2e-3)
    assert rows[-1]["reason"] == "not-applicable"
    assert rows[-1]["p_AML"] == ""


def test_french_tables_give_the_same_answers(tmp_path: Path) -> None:
    values = simulated(30, seed=21).values
    plain = write_table(tmp_path / "plain.csv", values)
    french = write_table(tmp_path / "french.csv", values, separator=";", comma=True)
    french.write_bytes(b"\xef\xbb\xbf" + french.read_bytes().replace(b"Platelets_G_L", b"Plaquettes (G/L)"))
    for path in (plain, french):
        predict_table([path], tmp_path / f"{path.stem}.out.csv", model=small_model())
    assert (tmp_path / "plain.out.csv").read_text() == (tmp_path / "french.out.csv").read_text()


def test_missing_and_refused_values_are_named(tmp_path: Path) -> None:
    values = simulated(12, seed=22).values
    values[0, ANALYTES.index("LDH_UI_L")] = np.nan
    values[1, ANALYTES.index("MCV_fL")] = 9000.0
    predict_table([write_table(tmp_path / "t.csv", values)], tmp_path / "out.csv", model=small_model())
    rows = read(tmp_path / "out.csv")
    assert rows[0]["missing"] == "LDH_UI_L"
    assert float(rows[0]["lower_AML"]) <= float(rows[0]["p_AML"]) <= float(rows[0]["upper_AML"])
    assert rows[1]["refused"] == "MCV_fL"
    findings = read(tmp_path / "out.findings.csv")
    assert tuple(findings[0]) == FINDING_COLUMNS
    refused = next(f for f in findings if f["kind"] == "refused")
    assert (refused["row"], refused["column"], refused["raw"]) == ("3", "MCV_fL", "9000")


def test_a_name_that_is_a_formula_is_not_computed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", simulated(2, seed=23).values, patient=["=1+1", "@x"])
    predict_table([table], tmp_path / "out.csv", model=small_model())
    assert [row["patient"] for row in read(tmp_path / "out.csv")] == ["'=1+1", "'@x"]


def test_a_bad_table_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("")
    with pytest.raises(DataError, match=r"bad\.csv"):
        predict_table([bad], tmp_path / "out" / "out.csv", model=small_model())
    assert not list((tmp_path / "out").glob("*"))
    with pytest.raises(ConfigError, match="write over"):
        predict_table([bad], bad, model=small_model())
    table = write_table(tmp_path / "t.csv", simulated(2).values)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_table([table], tmp_path / "file" / "out.csv", model=small_model())


def test_contributions_are_written_on_request(tmp_path: Path) -> None:
    values = np.concatenate([simulated(3, seed=24).values, normal_row()])
    table = write_table(tmp_path / "t.csv", values, patient=[*"abcd"])
    predict_table([table], tmp_path / "out.csv", model=small_model(), explain=True)
    rows = read(tmp_path / "out.contributions.csv")
    assert tuple(rows[0]) == CONTRIBUTION_COLUMNS
    assert [row["patient"] for row in rows] == [name for name in "abc" for _ in ANALYTES], "d has no answer"
    answers = read(tmp_path / "out.csv")
    for name, answer in zip("abc", answers, strict=False):
        own = [row for row in rows if row["patient"] == name]
        strength = [abs(float(row[f"effect_{answer['predicted']}"])) for row in own]
        assert strength == sorted(strength, reverse=True)
        assert {row["analyte"] for row in own} == set(ANALYTES)
    other = table.rename(tmp_path / "x.contributions.csv")
    with pytest.raises(ConfigError, match="write over"):
        predict_table([other], tmp_path / "x.csv", model=small_model(), explain=True)
