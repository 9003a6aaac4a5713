"""Cohorts of trephines: groups differ as written, what is planted is told, the same bytes however they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
import yaml
from typer.testing import CliRunner
from written import digests, rows_of

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.simulation import make_cohort
from wsi_pipeline.simulation.cohort import Cohort
from wsi_pipeline.simulation.cohort_profile import COHORTS_FOLDER, load_cohort_profile
from wsi_pipeline.simulation.trephine_cohort import (
    MARGIN_UM,
    MPP,
    TRUTH_COLUMNS,
    TrephineCohort,
    TrephinePatient,
    read_core_truth,
    slide_size_px,
)

AREA = 0.15


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_cohort(tmp_path_factory.mktemp("trephines"), patients=4, seed=6, profile="trephine", area_mm2=AREA)


def shipped() -> TrephineCohort:
    found = load_cohort_profile("trephine")
    assert isinstance(found, TrephineCohort)
    return found


def test_groups_differ_as_the_literature_says() -> None:
    profile = shipped()
    drawn: dict[str, list[TrephinePatient]] = {
        name: [profile.draw_patient(name, np.random.default_rng([2, i])) for i in range(150)] for name in profile.groups
    }
    assert list(drawn) == ["reactive", "ET", "PV", "PMF"]

    def mean(name: str, key: str) -> float:
        return float(np.mean([getattr(patient, key) for patient in drawn[name]]))

    for patients in drawn.values():
        assert all(sum(p.shares.values()) == pytest.approx(1) for p in patients)
        assert np.std([p.per_mm2 for p in patients]) > 2, "patients differ"
    assert all(mean("reactive", "per_mm2") < mean(name, "per_mm2") for name in ("ET", "PV", "PMF"))
    assert mean("PMF", "clustered") > mean("ET", "clustered") > mean("reactive", "clustered")
    assert mean("PMF", "paratrabecular") > 1 > mean("ET", "paratrabecular")
    assert min(mean(name, "cellularity") for name in ("PV", "PMF")) > mean("ET", "cellularity") + 0.1
    assert np.mean([p.shares["giant"] for p in drawn["ET"]]) > 0.35
    assert np.mean([p.shares["bulbous"] for p in drawn["PMF"]]) > 0.35
    assert all(p.platelets_g_l >= 450 for p in drawn["ET"])
    assert all(p.haemoglobin_g_dl > 16 for p in drawn["PV"])
    kinds = profile.kinds
    assert kinds["giant"].lobulation.mean > kinds["ordinary"].lobulation.mean > kinds["bulbous"].lobulation.mean
    assert kinds["bulbous"].darkness.mean > kinds["ordinary"].darkness.mean
    assert kinds["bare"].bare


def test_the_slide_of_a_patient_has_the_tissue_asked_for() -> None:
    width, height = (side * MPP - 2 * MARGIN_UM for side in slide_size_px(2.0))
    assert width * height * 1e-6 == pytest.approx(2.0, rel=0.01)
    assert height > width


def test_truth_manifest_and_counts_say_what_was_made(cohort: Cohort) -> None:
    entries = read_manifest(cohort.manifest)
    assert [e.label for e in entries] == ["reactive", "ET", "PV", "PMF"]
    assert all(e.simulated and e.specimen == "trephine" and e.mpp == MPP for e in entries)
    truth = rows_of(cohort.truth)
    assert tuple(truth[0])[: len(TRUTH_COLUMNS)] == TRUTH_COLUMNS
    for row in truth:
        cells = rows_of(cohort.slides / f"{row['slide_id']}.truth.csv")
        own = [cell for cell in cells if cell["kind"] == "megakaryocyte"]
        assert int(row["n_megakaryocytes"]) == len(own) > 0
        assert sum(int(row[f"n_{kind}"]) for kind in shipped().kinds) == len(own)
        core = read_core_truth(cohort.slides / f"{row['slide_id']}.truth.json")
        assert float(row["per_mm2"]) == pytest.approx(len(own) / core["areas_mm2"]["marrow"], rel=1e-3)
        areas = [shapely.from_wkt(c["outline"]).area * MPP**2 for c in own if c["truncated"] == "false"]
        assert float(row["mean_area_um2"]) == pytest.approx(np.mean(areas), rel=1e-3)
        assert float(row["cellularity"]) == pytest.approx(float(row["drawn_cellularity"]), abs=0.03)
    assert cohort.counts is not None
    counts = rows_of(cohort.counts)
    assert list(counts[0]) == ["patient", "label", "Platelets_G_L", "Hb_g_dL"]
    assert [row["label"] for row in counts] == ["reactive", "ET", "PV", "PMF"]


def test_a_cohort_is_the_same_to_the_byte_resumed(cohort: Cohort, tmp_path: Path) -> None:
    whole = digests(cohort.manifest.parent)
    make_cohort(tmp_path, patients=4, seed=6, profile="trephine", area_mm2=AREA, workers=2)
    (tmp_path / "slides" / "sim0003.truth.csv").unlink()
    make_cohort(tmp_path, patients=4, seed=6, profile="trephine", area_mm2=AREA)
    assert digests(tmp_path) == whole


def test_equal_profiles_draw_all_from_the_first_group(tmp_path: Path) -> None:
    made = make_cohort(tmp_path, patients=4, seed=6, profile="trephine", area_mm2=0.05, equal_profiles=True)
    assert {r["group"] for r in rows_of(made.truth)} == {"reactive"}
    assert [r["label"] for r in rows_of(made.truth)] == ["reactive", "ET", "PV", "PMF"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_mm2": {"mean": 400, "sd": 5, "least": 300, "most": 500}}, "per_mm2"),
        ({"shares": {"unheard": 1}}, "unheard"),
        ({"cluster_gap_um": [9, 2]}, "cluster_gap_um"),
        ({"cellularity": {"mean": 0.3, "sd": 0.01, "least": 0.2, "most": 0.4}}, "cellularity"),
        ({"label": "=x"}, "label"),
    ],
)
def test_bad_groups_are_refused_before_a_slide_is_made(tmp_path: Path, change: dict[str, object], message: str) -> None:
    tree = yaml.safe_load((COHORTS_FOLDER / "trephine.yaml").read_text())
    tree["groups"]["ET"].update(change)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=message):
        load_cohort_profile(path)


def test_damaged_truth_is_named(cohort: Cohort, tmp_path: Path) -> None:
    broken = tmp_path / "a.truth.json"
    for text, message in (("{", "cannot be read"), ("{}", "lacks areas_mm2"), ("[]", "lacks areas_mm2")):
        broken.write_text(text)
        with pytest.raises(DataError, match=message):
            read_core_truth(broken)


def test_the_command_makes_a_cohort_and_says_where_the_counts_are(tmp_path: Path) -> None:
    arguments = ["simulate", "cohort", "--profile", "trephine", "--patients", "4", "--area", "0.05", "--out"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "c")])
    assert result.exit_code == 0, result.output
    assert "patients.csv" in result.output
    assert "1 reactive, 1 ET, 1 PV, 1 PMF" in result.output
