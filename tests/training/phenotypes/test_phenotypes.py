"""Phenotypes: planted kinds of cells come back, the file is safe to read, and a slide is told by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_trephines import MadeTrephine, make_trephines, two_groups

from wsi_pipeline.errors import ConfigError, DataError, MissingWeightsError, ModelError
from wsi_pipeline.predictions.trephines.megakaryocytes import read_megakaryocytes
from wsi_pipeline.predictions.trephines.phenotypes import load_phenotypes
from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slides = [
        MadeTrephine(slide_id=f"S{i}", mix=(14, 12, 10), seed=i, label="ET" if i % 2 else "reactive") for i in range(8)
    ]
    return make_trephines(tmp_path_factory.mktemp("run") / "out", slides)


@pytest.fixture(scope="module")
def model_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "planted.phenotypes.json"
    train_phenotypes(PhenotypeTraining(runs=(run,), most=5), out)
    return out


def test_planted_kinds_come_back_and_have_plain_names(run: Path, model_file: Path) -> None:
    model = load_phenotypes(model_file)
    assert len(model.phenotypes) == 3
    cells = read_megakaryocytes(run / "slides" / "S3" / "cells.parquet")
    found = np.array(model.of(cells))
    kinds = [found[:14], found[14:26], found[26:]]
    assert [len(set(kind)) for kind in kinds] == [1, 1, 1]
    names = [str(kind[0]) for kind in kinds]
    assert len(set(names)) == 3
    assert names[1].startswith("large-hyperlobated")
    assert names[2].startswith("small")
    assert "hyperchromatic" in names[2]


def test_the_card_says_how_many_were_tried_and_why(model_file: Path) -> None:
    card = json.loads(model_file.read_text())["card"]
    assert [choice["k"] for choice in card["choices"]] == [3, 4, 5]
    assert card["choices"][0]["stability"] > 0.95
    assert "3 phenotypes" in card["chosen"]
    text = model_file.with_name("planted.phenotypes.md").read_text()
    assert "stability, k = 3" in text


def test_reference_shares_are_of_all_and_of_each_label(model_file: Path) -> None:
    groups = {g["label"]: g for g in load_phenotypes(model_file).reference_dict()}
    assert set(groups) == {"all", "ET", "reactive"}
    assert (groups["all"]["n_samples"], groups["ET"]["n_samples"]) == (8, 4)
    assert sum(v["mean"] for v in groups["all"]["percent"].values()) == pytest.approx(100)


def test_a_seed_gives_the_same_file(run: Path, model_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "planted.phenotypes.json"
    train_phenotypes(PhenotypeTraining(runs=(run,), most=5), again)
    assert again.read_bytes() == model_file.read_bytes()


def test_neither_order_nor_company_of_cells_changes_a_phenotype(run: Path, model_file: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model = load_phenotypes(model_file)
    path = run / "slides" / "S0" / "cells.parquet"
    whole = read_megakaryocytes(path)
    pq.write_table(pq.read_table(path)[5:], tmp_path / "cells.parquet")
    part = read_megakaryocytes(tmp_path / "cells.parquet")
    assert model.of(part) == model.of(whole)[5:]


def test_cut_cells_have_no_phenotype(model_file: Path, tmp_path: Path) -> None:
    make_trephines(
        tmp_path / "out", [MadeTrephine(slide_id="S", mix=(20, 5, 0), cut=3)], model=load_phenotypes(model_file)
    )
    told = json.loads((tmp_path / "out/slides/S/summary.json").read_text())["trephine"]["phenotypes"]
    assert told["n"] == 22
    assert sum(row["count"] for row in told["rows"]) == 22
    for row in told["rows"]:
        assert row["lower"] <= row["percent"] <= row["upper"]
    assert told["reference"][0]["label"] == "all"


def test_phenotypes_of_simulated_cells_need_leave(tmp_path: Path) -> None:
    from made_trephines import MPP, WINDOW

    from wsi_pipeline.predictions.trephines.sample import trephine_sample

    slides = [MadeTrephine(slide_id=f"S{i}", mix=(14, 12, 10), seed=i, simulated=True) for i in range(6)]
    run = make_trephines(tmp_path / "run", slides)
    model = train_phenotypes(PhenotypeTraining(runs=(run,), k=3), tmp_path / "sim.phenotypes.json")
    assert model.simulated
    assert "SIMULATED" in (tmp_path / "sim.phenotypes.md").read_text()
    cells = read_megakaryocytes(run / "slides/S0/cells.parquet")
    common = {"mpp": (MPP, MPP), "cellularity": None, "model": model, "minimum": 20, "confidence": 0.95}
    refused = trephine_sample(cells, WINDOW, allow_simulated=False, **common).to_dict()["phenotypes"]
    allowed = trephine_sample(cells, WINDOW, allow_simulated=True, **common).to_dict()["phenotypes"]
    assert refused["reason"] == "no-real-training-data"
    assert refused["rows"] == []
    assert allowed["reason"] is None
    assert len(allowed["rows"]) == 3
    assert "simulated" in allowed["wording"]


def test_a_continuum_says_that_no_number_is_stable(tmp_path: Path) -> None:
    run = make_trephines(tmp_path / "run", [MadeTrephine(slide_id=f"S{i}", mix=(40, 0, 0), seed=i) for i in range(6)])
    train_phenotypes(PhenotypeTraining(runs=(run,), least=6, most=7), tmp_path / "one.phenotypes.json")
    card = json.loads((tmp_path / "one.phenotypes.json").read_text())["card"]
    assert "none of 6 to 7" in card["chosen"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format="pickle"), "format"),
        (lambda d: d["mean"].pop(), "means"),
        (lambda d: d["spread"].__setitem__(0, 0.0), "spread"),
        (lambda d: d["features"].__setitem__(0, "salary"), "salary"),
        (lambda d: d["phenotypes"][0].update(code="../x"), "code"),
        (lambda d: d["phenotypes"][1].update(code=d["phenotypes"][0]["code"]), "twice"),
        (lambda d: d["reference"][0]["mean"].pop(), "reference"),
    ],
)
def test_damaged_files_are_refused(model_file: Path, tmp_path: Path, change: Callable, said: str) -> None:
    document = json.loads(model_file.read_text())
    change(document)
    path = tmp_path / "bad.phenotypes.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=said):
        load_phenotypes(path)


def test_missing_files_and_few_cells_are_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="does not exist"):
        load_phenotypes(tmp_path / "none.phenotypes.json")
    with pytest.raises(ConfigError, match="NAME.phenotypes.json"):
        train_phenotypes(PhenotypeTraining(runs=(run,)), tmp_path / "model.json")
    small = make_trephines(tmp_path / "small", two_groups(4))
    with pytest.raises(DataError, match="on 4 slides"):
        train_phenotypes(PhenotypeTraining(runs=(small,)), tmp_path / "few.phenotypes.json")
