"""Cohorts: which bag gets which label, and tables that are refused."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import MadeSlide, make_run

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.bags import CellBag, read_bags, read_cohort
from wsi_pipeline.predictions.bags.manifest import patients_of, read_labels, same_name


@dataclass(frozen=True)
class FakeTask:
    """What a cohort needs of a task."""

    name: str = "apl"
    specimens: tuple[str, ...] = ("blood_smear",)
    classes: tuple[str, ...] = ("apl", "aml_other")

    def class_of(self, label: str) -> str | None:
        return {"apl": "apl", "aml-m3": "apl", "aml": "aml_other"}.get(label.casefold())


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[CellBag]:
    run = make_run(
        tmp_path_factory.mktemp("runs") / "r",
        [
            MadeSlide(slide_id="s1", subject="P1", mix={"promyelocyte": 3}, seed=1),
            MadeSlide(slide_id="s2", subject="P1", mix={"promyelocyte": 3}, seed=2),
            MadeSlide(slide_id="P_é", subject="Pé", mix={"blast": 3}, seed=3),
            MadeSlide(slide_id="s4", mix={"blast": 3}, seed=4),
            MadeSlide(slide_id="s5", subject="P5", mix={}, red=9, seed=5),
            MadeSlide(slide_id="s6", subject="P6", mix={"blast": 1}, specimen="marrow_smear", seed=6),
        ],
    )
    return read_bags([run])


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_who_is_in_and_who_is_not(bags: list[CellBag], tmp_path: Path) -> None:
    # The accent is decomposed, as some systems write it.
    rows = "P1,APL\nPe\u0301,AML\nP5,AML\nP6,AML\nP7,apl\nP8,\n"
    cohort = read_cohort(table(tmp_path / "l.csv", f"Patient,Diagnosis\n{rows}"), bags, FakeTask())
    assert [(b.subject_id, label) for b, label in zip(cohort.bags, cohort.labels, strict=True)] == [
        ("P1", "apl"),
        ("Pé", "aml_other"),
    ]
    assert cohort.patients == ("P1", "Pé")
    assert cohort.centres is None
    assert cohort.counts is None
    assert cohort.age is None
    notes = cohort.notes
    assert notes.without_bag == ("P7", "P8")
    assert notes.without_label == ("s4",)
    assert notes.without_cells == ("P5",)
    assert notes.other_specimen == ("P6",)
    assert any(line.startswith("1 subjects of these runs have no label in the table: s4") for line in notes.lines())


def test_the_manifest_of_a_run_is_a_table_of_labels(bags: list[CellBag], tmp_path: Path) -> None:
    path = table(
        tmp_path / "m.csv",
        "slide;slide_id;patient;label\nx/1.svs;s1;P1;apl\nx/2.svs;s2;P1;AML-M3\nx/P_é.svs;;Pé;aml\nx/s4.svs;;;aml\n",
    )
    cohort = read_cohort(path, bags, FakeTask())
    assert list(cohort.labels) == ["apl", "aml_other", "aml_other"]
    assert [b.subject_id for b in cohort.bags] == ["P1", "Pé", "s4"]
    assert cohort.patients == ("P1", "Pé", "s4")
    assert patients_of(read_labels(path)) == {"s1": "P1", "s2": "P1", "P_é": "Pé"}
    one = cohort.take([2, 0])
    assert one.labels == ("aml_other", "apl")
    assert len(one) == 2


def test_slides_of_a_patient_keep_their_patient(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "r",
        [
            MadeSlide(slide_id="s1", subject="P1", mix={"blast": 2}, seed=1),
            MadeSlide(slide_id="s2", subject="P1", mix={"blast": 2}, seed=2),
            MadeSlide(slide_id="s3", mix={"blast": 2}, seed=3),
        ],
    )
    slides = read_bags([run], level="slide")
    path = table(tmp_path / "l.csv", "patient,slide_id,label\nP1,,apl\nP3,s3,aml\n")
    assert read_cohort(path, slides, FakeTask()).patients == ("P1", "P1", "P3")


def test_a_patient_is_one_whoever_names_it(tmp_path: Path) -> None:
    decomposed = "Pe\u0301"
    run = make_run(
        tmp_path / "r",
        [
            MadeSlide(slide_id="s1", subject=decomposed, mix={"blast": 2}, seed=1),
            MadeSlide(slide_id="s2", subject=decomposed, mix={"blast": 2}, seed=2),
            MadeSlide(slide_id="s3", subject="P3", mix={"blast": 2}, seed=3),
        ],
    )
    slides = read_bags([run], level="slide")
    named = table(tmp_path / "l.csv", "slide_id,patient,label\ns1,Pé,apl\ns2,,apl\ns3,,aml\n")
    assert read_cohort(named, slides, FakeTask()).patients == ("Pé", "Pé", "P3")
    two = table(tmp_path / "t.csv", "slide_id,label\ns1,apl\ns2,aml\ns3,aml\n")
    with pytest.raises(DataError, match="two labels: Pé"):
        read_cohort(two, slides, FakeTask())


def test_cohorts_and_routine_counts(bags: list[CellBag], tmp_path: Path) -> None:
    text = "subject,label,cohort,WBC (G/L),age\nP1,apl,Paris,2.5,41\nPé,aml,Lyon,,63\nP1,apl,Paris,3.5,41\n"
    cohort = read_cohort(table(tmp_path / "l.csv", text), bags, FakeTask())
    assert cohort.centres == ("Paris", "Lyon")
    assert cohort.counts is not None
    assert set(cohort.count_names) == {"age", "WBC_G_L"}
    wbc = cohort.counts[:, cohort.count_names.index("WBC_G_L")]
    np.testing.assert_array_equal(wbc, [2.5, np.nan])
    assert cohort.age is not None
    assert cohort.age.tolist() == [41, 63]
    assert any("WBC_G_L: 1 further values of a subject differ" in line for line in cohort.notes.lines())
    own = read_cohort(
        table(tmp_path / "o.csv", "subject,arm,diagnosis,dx\nP1,A,?,apl\nPé,B,?,aml\n"),
        bags,
        FakeTask(),
        label_column="dx",
        cohort_column="arm",
    )
    assert own.centres == ("A", "B")


def test_labels_outside_the_task(bags: list[CellBag], tmp_path: Path) -> None:
    path = table(tmp_path / "l.csv", "patient,label\nP1,apl\nPé,aml\ns4,CML\n")
    with pytest.raises(DataError, match=r"labels outside task apl: 'CML' \(1: s4\).*--ignore-unknown-labels"):
        read_cohort(path, bags, FakeTask())
    cohort = read_cohort(path, bags, FakeTask(), ignore_unknown_labels=True)
    assert len(cohort) == 2
    assert cohort.notes.ignored == {"CML": ("s4",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,label\nP1,apl\nPé,apl\n", "2 subjects with cells, all apl; task apl needs two or more"),
        ("patient,label\nP5,apl\nP6,aml\n", "none of its 1 labelled subjects has a nucleated cell"),
        ("patient,label\nP1,apl\nP1,aml\nPé,aml\n", r"two labels: P1 \(apl in line 2, aml_other in line 3\)"),
        ("patient,label,centre\nP1,apl,A\nP1,apl,B\nPé,aml,A\n", r"two cohorts: P1 \(A in line 2, B in line 3\)"),
        ("slide_id,label\ns1,apl\ns2,aml\nP_é,aml\n", r"two labels: P1 \(apl in line 2, aml_other in line 3\)"),
        ("slide_id,label,cohort\ns1,apl,A\ns2,apl,B\nP_é,aml,A\n", r"two cohorts: P1 \(A in line 2, B in line 3\)"),
        ("patient,label,centre\nP1,apl,A\nPé,aml,\n", "'centre' says nothing of 1 subjects: Pé"),
        ("patient,label\nQ1,apl\nQ2,aml\n", "names none of the subjects with cells: it has Q1, Q2; the runs have P1"),
        ("patient,slide_id,label\nQ,s1,apl\nPé,,aml\n", "s1, s2 is of P1 and of Q"),
        ("patient,label\n,apl\nPé,aml\n", "line 2: neither a patient nor a slide is named"),
        ("patient,class\nP1,apl\n", "has no column of labels; found patient, class"),
        ("name,label\nP1,apl\n", "says of nobody what it is"),
        ("patient,label,Label\nP1,apl,aml\n", "has the column 'label' more than once"),
        ("patient,label\n", "has no rows"),
        ("", "is empty"),
    ],
)
def test_tables_that_are_refused(bags: list[CellBag], tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_cohort(table(tmp_path / "l.csv", text), bags, FakeTask())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6)), min_size=1, max_size=5))
def test_any_text_is_read_back_or_refused_in_one_sentence(tmp_path: Path, names: list[tuple[str, str]]) -> None:
    path = tmp_path / "any.csv"
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        csv.writer(file).writerows([("patient", "label"), *names])
    try:
        rows = read_labels(path).rows
    except DataError as error:
        assert str(path) in str(error)
        return
    written = [(same_name(a.strip()), same_name(b.strip())) for a, b in names]
    assert [(row.patient, row.label) for row in rows] == [pair for pair in written if any(pair)]
