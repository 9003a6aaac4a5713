"""The task from table to answers: simulated and messy tables, what is written, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import ConfigError, DataError, ModelError, OutputError
from wsi_pipeline.predictions.mds_counts import predict_mds_counts, read_tree
from wsi_pipeline.simulation.mds_counts import simulated_table, write_simulated_table
from wsi_pipeline.training.mds_counts import forest as mds_counts_forest
from wsi_pipeline.training.mds_counts.train import (
    MdsTraining,
    read_training_table,
    simulated_training,
    train_mds_counts,
)

RUN = CliRunner()


@pytest.fixture(scope="module", autouse=True)
def _small_forest() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mds_counts_forest, "TREES", 25)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated")
    train_mds_counts(simulated_training(120, out, folds=3, repeats=1, seed=1), out)
    return out


def real(path: Path, n: int = 60) -> Path:
    """Write a table without the column ``simulated`` as a laboratory would: semicolons, decimal commas, French."""
    rows = list(csv.DictReader(simulated_table(n, seed=3).splitlines()))
    names = {
        "patient": "IPP", "label": "diagnostic", "Ne_WX": "Ne-WX", "IPF_percent": "IPF (%)", "ANC_G_L": "PNN (G/L)",
        "MCV_fL": "VGM (fL)", "Hb_g_dL": "Hémoglobine (g/dL)", "Platelets_G_L": "Plaquettes (G/L)",
        "MPV_fL": "VPM (fL)", "age": "âge", "sex": "sexe",
    }  # fmt: skip
    lines = [";".join(names.values())]
    lines += [";".join(row[name].replace(".", ",") for name in names) for row in rows]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def request(table: Path, **changes: object) -> MdsTraining:
    return MdsTraining(
        **{"table": table, "label": "diagnostic", "positive": "mds", "folds": 3, "repeats": 1} | changes  # type: ignore[arg-type]
    )


def predicted(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_is_written_and_says_simulated(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "simulated.csv", "tree.json", "tree.txt", "tree.fr.txt", "tree.svg", "tree.fr.svg", "importance.csv",
        "metrics.json", "card.md",
    }  # fmt: skip
    assert read_tree(trained).simulated
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["simulated"] is True
    for name in ("tree.txt", "tree.svg", "card.md"):
        assert "SIMULATED" in (trained / name).read_text()
    assert metrics["trained_on"].startswith("simulated values")


def test_figures_are_counts_over_all_patients(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    n, positive = metrics["table"]["patients"], metrics["table"]["positive"]
    assert (n, positive) == (120, round(168 / 525 * 120))
    point = metrics["operating_point"]
    assert point["sensitivity"]["n"] + point["sensitivity"]["unanswered"] == positive
    assert point["specificity"]["n"] + point["specificity"]["unanswered"] == n - positive
    assert sum(metrics["unanswered"].values()) == sum(point[k]["unanswered"] for k in point)
    assert metrics["auc"]["constant"]["value"] == 0.5
    for name in ("tree", "forest", "single_split"):
        found = metrics["auc"][name]
        assert found["value"] > 0.7
        # Complete separation has no interval.
        assert found["value"] == 1 or 0.5 < found["lower"] < found["value"] < found["upper"] < 1
    ranks = [one["auc_drop"] for one in metrics["importance"]]
    assert ranks == sorted(ranks, reverse=True)
    rows = predicted(trained / "importance.csv")
    assert [row["analyte"] for row in rows] == [one["analyte"] for one in metrics["importance"]]


def test_the_same_request_writes_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    train_mds_counts(simulated_training(120, tmp_path, folds=3, repeats=1, seed=1), tmp_path)
    for path in trained.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_simulated_model_answers_only_when_allowed(trained: Path, tmp_path: Path) -> None:
    table = real(tmp_path / "t.csv")
    out = tmp_path / "answers.csv"
    arguments = ["predict", "mds-counts", str(table), "--model", str(trained), "--out", str(out)]
    assert RUN.invoke(app, arguments).exit_code == 0
    rows = predicted(out)
    assert len(rows) == 60
    assert {(r["reason"], r["predicted"], r["probability"]) for r in rows} == {("no-real-training-data", "", "")}
    assert RUN.invoke(app, [*arguments, "--allow-simulated"]).exit_code == 0
    rows = predicted(out)
    assert {r["simulated"] for r in rows} == {"simulated"}
    answered = [r for r in rows if not r["reason"]]
    assert len(answered) > 40
    assert {r["predicted"] for r in answered} == {"MDS", "non-clonal"}
    assert [r["patient"] for r in rows] == [f"sim{i + 1:06d}" for i in range(60)]


def test_without_a_model_every_row_abstains(tmp_path: Path) -> None:
    table, out = real(tmp_path / "t.csv"), tmp_path / "answers.csv"
    result = RUN.invoke(app, ["predict", "mds-counts", str(table), "--out", str(out)])
    assert result.exit_code == 0
    assert "no-real-training-data 60" in result.output
    assert "diagnostic: " in result.output  # a column that is not read is named
    assert {r["reason"] for r in predicted(out)} == {"no-real-training-data"}


def test_a_laboratorys_own_table_trains_and_answers(tmp_path: Path) -> None:
    table, out = real(tmp_path / "table.csv"), tmp_path / "model"
    arguments = ["train", "mds-counts", str(table), "--label", "diagnostic", "--positive", "MDS", "--out", str(out)]
    result = RUN.invoke(app, [*arguments, "--folds", "3", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    tree = read_tree(out)
    assert not tree.simulated
    assert (tree.positive, tree.negative) == ("MDS", "non-clonal")
    assert len(tree.analytes) == 9
    answers = predict_mds_counts(table, tmp_path / "a.csv", model=out)
    truth = [r["label"] for r in csv.DictReader(simulated_table(60, seed=3).splitlines())]
    right = [a.predicted == t for a, t in zip(answers, truth, strict=True) if not a.reason]
    assert np.mean(right) > 0.8
    assert {r["simulated"] for r in predicted(tmp_path / "a.csv")} == {""}


def test_rows_of_one_patient_are_grouped_by_the_column_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = list(csv.reader(simulated_table(40, seed=3).splitlines()))
    names = ["dossier", *rows[0][2:]]
    lines = [names] + [[row[0], *row[2:]] for row in rows[1:] for _ in range(2)]
    table.write_text("\n".join(",".join(line) for line in lines))
    found, _ = read_training_table(request(table, label="label", patient="dossier"))
    assert (found.counts[1], len(found.positive)) == (40, 80)
    out = tmp_path / "model"
    train_mds_counts(request(table, label="label", patient="dossier"), out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["table"]["patients"], metrics["table"]["repeated"]) == (40, 40)
    assert metrics["operating_point"]["sensitivity"]["n"] <= metrics["table"]["positive"]
    assert not any("more than one fold" in line for line in metrics["leakage"])
    assert "several rows" in (out / "card.md").read_text()


def test_text_in_a_cell_is_a_missing_value_that_is_told(tmp_path: Path) -> None:
    table = real(tmp_path / "t.csv")
    lines = table.read_text(encoding="utf-8").split("\n")
    cells = lines[1].split(";")
    cells[5] = "hémolysé"
    lines[1] = ";".join(cells)
    table.write_text("\n".join(lines), encoding="utf-8")
    rows, findings = read_training_table(request(table))
    assert np.isnan(rows.values).sum() == 1
    assert len(rows.positive) == 60
    assert any("hémolysé" in line for line in findings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv"),
        ("patient,label,Hb,ANC\n", "no rows"),
        ("patient,label,Hb,ANC\n" + "".join(f"p{i},MDS,9,2\n" for i in range(20)), "one class only"),
        ("patient,label,Hb,ANC\n" + "".join(f"p{i},no,9,2\n" for i in range(20)), "no row has the label"),
        ("patient,outcome,Hb,ANC\n" + "".join(f"p{i},MDS,9,2\n" for i in range(20)), "label"),
        ("patient,label,weight\n" + "".join(f"p{i},MDS,9\n" for i in range(20)), "t.csv"),
        ("patient,label,Hb\n" + "".join(f"p{i},{'MDS' if i < 3 else 'no'},9\n" for i in range(20)), "at least 5"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_learnt_from_is_refused(text: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        train_mds_counts(request(table, label="label"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_teaches_nothing_gives_a_tree_that_answers_nothing(tmp_path: Path) -> None:
    table = real(tmp_path / "t.csv", 80)
    lines = table.read_text(encoding="utf-8").splitlines()
    labels = np.random.default_rng(0).permutation([line.split(";")[1] for line in lines[1:]])
    shuffled = [
        ";".join([c[0], label, *c[2:]]) for c, label in zip((x.split(";") for x in lines[1:]), labels, strict=True)
    ]
    table.write_text("\n".join([lines[0], *shuffled]), encoding="utf-8")
    train_mds_counts(request(table, repeats=2), tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = metrics["auc"]["forest"]
    assert found["lower"] < 0.5 < found["upper"]
    assert len(read_tree(tmp_path / "out").nodes) == 1
    assert "does not support a tree" in (tmp_path / "out" / "card.md").read_text()
    answers = predict_mds_counts(table, tmp_path / "a.csv", model=tmp_path / "out")
    assert {a.reason for a in answers} == {"no-split"}


def test_bad_requests_are_refused(trained: Path, tmp_path: Path) -> None:
    table = real(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="two folds"):
        train_mds_counts(request(table, folds=1), tmp_path / "out")
    with pytest.raises(ConfigError, match="table itself"):
        predict_mds_counts(table, table, model=trained)
    with pytest.raises(OutputError, match="cannot be written"):
        predict_mds_counts(table, table / "a.csv", model=trained)
    with pytest.raises(OutputError, match="cannot be written"):
        simulated_training(20, table, folds=3, repeats=1, seed=0)
    with pytest.raises(ConfigError, match="at least 20"):
        simulated_table(19, seed=0)
    for arguments in ([], [str(table)], [str(table), "--label", "x"], [str(table), "--simulate", "30"]):
        result = RUN.invoke(app, ["train", "mds-counts", *arguments])
        assert isinstance(result.exception, ConfigError), arguments


def test_a_model_in_another_unit_is_refused(trained: Path, tmp_path: Path) -> None:
    document = json.loads((trained / "tree.json").read_text())
    document["analytes"][0]["unit"] = "parsec"
    (tmp_path / "tree.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="parsec"):
        predict_mds_counts(real(tmp_path / "t.csv"), tmp_path / "a.csv", model=tmp_path)


def test_the_simulated_table_has_the_published_medians_and_says_what_it_is(tmp_path: Path) -> None:
    write_simulated_table(tmp_path / "s.csv", 4000, seed=0)
    rows = predicted(tmp_path / "s.csv")
    assert {row["simulated"] for row in rows} == {"true"}
    assert all(row["patient"].startswith("sim") for row in rows)
    published = {
        "ANC_G_L": (1.9, 5.5), "Platelets_G_L": (113, 438), "MCV_fL": (94, 87), "Hb_g_dL": (9.6, 10.5),
        "MPV_fL": (11.4, 9.8),
    }  # fmt: skip
    for name, medians in published.items():
        for label, median in zip(("MDS", "non-clonal"), medians, strict=True):
            found = np.median([float(row[name]) for row in rows if row["label"] == label])
            assert found == pytest.approx(median, rel=0.04), (name, label)
    assert (tmp_path / "s.csv").read_text() == simulated_table(4000, seed=0)
    assert simulated_table(50, seed=1) != simulated_table(50, seed=2)
