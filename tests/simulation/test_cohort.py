"""Simulated cohorts: drawn from their groups, the same bytes however they are made, and what was placed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from typer.testing import CliRunner
from written import digests, rows_of

from wsi_pipeline.cells.crop_features import CropFeatures
from wsi_pipeline.cells.dysplasia import granularity_score, load_reference
from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.manifest import read_manifest
from wsi_pipeline.simulation import make_cohort
from wsi_pipeline.simulation.cohort import MANIFEST_COLUMNS, Cohort
from wsi_pipeline.simulation.cohort_profile import (
    CohortProfile,
    Group,
    RedCells,
    Spread,
    draw_patient,
    load_cohort_profile,
    patient_profile,
)
from wsi_pipeline.simulation.hypogranular import hypogranular_sprites, sprites_of
from wsi_pipeline.simulation.profile import load_profile
from wsi_pipeline.simulation.sprites import load_sprites, multiply_into, snap
from wsi_pipeline.taxonomies import load_taxonomy

AREA = 0.02


def blood() -> CohortProfile:
    found = load_cohort_profile("blood")
    assert isinstance(found, CohortProfile)
    return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_cohort(tmp_path_factory.mktemp("cohort"), patients=6, seed=4, area_mm2=AREA)


# Drawing ------------------------------------------------------------------------------------------------------------


@given(
    mean=st.floats(0.05, 0.95), concentration=st.floats(0.5, 200), low=st.floats(0, 0.04), high=st.floats(0.96, 1),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_share_stays_in_its_range(mean: float, concentration: float, low: float, high: float, seed: int) -> None:
    spread = Spread(mean=mean, concentration=concentration, least=low, most=high)
    assert low <= spread.draw(np.random.default_rng(seed)) <= high


@given(
    mix=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100), min_size=2),
    concentration=st.floats(2, 100),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_shares_of_a_patient_add_up_to_one(mix: dict[str, float], concentration: float, seed: int) -> None:
    plain = Group(
        label="x", mix=mix, concentration=concentration, dysplastic=Spread(mean=0.1, concentration=10),
        red=RedCells(per_mm2=100), platelets_per_mm2=1,
    )  # fmt: skip
    led = plain.model_copy(
        update={"leading": blood().groups["aml"].leading}  # blasts, 20 to 95 %
    )
    for group in (plain, led):
        patient = draw_patient("g", group, np.random.default_rng(seed))
        assert sum(patient.shares.values()) == pytest.approx(1)
        assert min(patient.shares.values()) >= 0
    assert 0.20 <= patient.shares["blast"] <= 0.95


def test_groups_keep_what_defines_them() -> None:
    cohort = blood()
    countable = set(load_taxonomy("pbc-blast").countable("blood_smear"))
    drawn = {
        name: [draw_patient(name, group, np.random.default_rng([1, i])) for i in range(200)]
        for name, group in cohort.groups.items()
    }
    assert set(drawn) == {"normal", "aml", "apl", "mds", "reactive"}
    for patients in drawn.values():
        assert all(set(p.shares) <= countable for p in patients)
    assert all(p.shares["blast"] >= 0.20 for p in drawn["aml"])
    assert all(p.shares["promyelocyte"] >= 0.20 for p in drawn["apl"])
    assert all(p.shares["blast"] < 0.20 and p.dysplastic >= 0.10 for p in drawn["mds"])
    assert all("blast" not in p.shares for name in ("normal", "reactive") for p in drawn[name])
    blasts = np.array([p.shares["blast"] for p in drawn["aml"]])
    assert blasts.mean() == pytest.approx(0.42, abs=0.04)
    assert blasts.std() > 0.1, "patients differ"
    for name, group in cohort.groups.items():
        means = {k: np.mean([p.shares[k] for p in drawn[name]]) for k in group.mix}
        total = sum(means.values())
        for k, weight in group.mix.items():
            assert means[k] / total == pytest.approx(weight / sum(group.mix.values()), abs=0.03)


def test_a_profile_names_the_dysplastic_neutrophils() -> None:
    cohort = blood()
    patient = draw_patient("mds", cohort.groups["mds"], np.random.default_rng(0))
    mix = patient_profile(cohort, patient).layers["white"].mix
    for name in ("segmented_neutrophil", "band_neutrophil"):
        both = mix[name] + mix[f"{name}:hypogranular"]
        assert both == pytest.approx(100 * patient.shares[name])
        assert mix[f"{name}:hypogranular"] / both == pytest.approx(patient.dysplastic)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("concentration: 40", "concentration: Extra inputs"),
        ("white_per_mm2: -1", "white_per_mm2"),
        ("groups: {a: {label: '=x'}}", "groups.a.label"),
        ("groups: {a: {mix: {blast: 1, lymphocyte: 1}, leading: {class: blast, mean: 0.5, concentration: 1}}}", "once"),
        ("groups: {a: {dysplastic: {mean: 0.5, concentration: 1, most: 0.2}}}", "mean 0.5 must lie between"),
    ],
)
def test_bad_cohorts_are_refused_with_the_key(tmp_path: Path, change: str, message: str) -> None:
    import yaml

    good = {
        "description": "d", "specimen": "blood_smear", "white_per_mm2": 100,
        "groups": {"a": {
            "label": "a", "mix": {"blast": 1, "lymphocyte": 1}, "concentration": 5,
            "dysplastic": {"mean": 0.1, "concentration": 5}, "red": {"per_mm2": 10}, "platelets_per_mm2": 1,
        }},
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(good))
    assert load_cohort_profile(path).name == "mine"
    ((key, value),) = yaml.safe_load(change).items()
    if key == "groups":
        good["groups"]["a"].update(value["a"])  # type: ignore[index]
    else:
        good[key] = value
    path.write_text(yaml.safe_dump(good))
    with pytest.raises(ConfigError, match=message):
        load_cohort_profile(path)
    with pytest.raises(ConfigError, match="not one of blood"):
        load_cohort_profile(tmp_path / "nowhere.yaml")


# Hypogranular neutrophils -------------------------------------------------------------------------------------------


def test_hypogranular_neutrophils_lose_their_granules_and_nothing_else() -> None:
    normal = [s for s in load_sprites() if s.class_name.endswith("neutrophil")]
    paler = hypogranular_sprites(load_sprites())
    assert [s.source for s in paler] == [s.source for s in normal]
    assert {s.variant for s in paler} == {"hypogranular"}
    rough = []
    for before, after in zip(normal, paler, strict=True):
        np.testing.assert_array_equal(before.outline_um, after.outline_um)
        changed = np.abs(before.absorbed - after.absorbed).max(axis=2) > 0.01
        nucleus = before.absorbed[..., 0] > 0.6
        assert (changed & nucleus).sum() <= 0.03 * nucleus.sum()
        assert after.absorbed[changed].mean() == pytest.approx(before.absorbed[changed].mean(), abs=0.03)
        deep = ndimage.binary_erosion(changed, iterations=2)
        if deep.sum() > 40:
            fine = [s.absorbed[..., 1] - ndimage.gaussian_filter(s.absorbed[..., 1], 1.5) for s in (before, after)]
            rough.append(fine[1][deep].std() / fine[0][deep].std())
    assert len(rough) > 50
    assert np.median(rough) < 0.5


def test_a_run_sees_that_the_granules_are_gone() -> None:
    reference, column = load_reference(), NAMES.index("cytoplasm_granularity")
    own = [s for s in load_sprites() if s.class_name.endswith("neutrophil")][::6]
    measure = CropFeatures("cpu")
    flagged = []
    for sprites in (own, hypogranular_sprites(own)):
        crops = np.full((len(sprites), 128, 128, 3), 240, np.uint8)
        for crop, sprite in zip(crops, sprites, strict=True):
            canvas = crop.astype(np.float32)
            x, y = snap(sprite, 64, 64, angle=0.0, flip=False, mpp=0.25)
            multiply_into(canvas, sprite, x, y, angle=0.0, flip=False, gain=1.0, mpp=0.25)
            crop[...] = np.clip(np.rint(canvas), 0, 255)
        values = measure.measure(crops, np.full((len(crops), 3), 240, np.uint8))[:, column]
        score = granularity_score(values[np.isfinite(values)], reference)
        assert len(score) > 10
        flagged.append(float((score < reference.hypogranular_below).mean()))
    assert flagged[0] < 0.2
    assert flagged[1] > 0.8


def test_only_profiles_that_name_them_get_them() -> None:
    assert sprites_of(load_profile("normal")) == load_sprites()
    cohort = blood()
    patient = draw_patient("mds", cohort.groups["mds"], np.random.default_rng(0))
    with_them = sprites_of(patient_profile(cohort, patient))
    assert with_them[: len(load_sprites())] == load_sprites()
    assert Counter(s.variant for s in with_them)["hypogranular"] == len(with_them) - len(load_sprites()) > 0


# Cohorts ------------------------------------------------------------------------------------------------------------


def test_manifest_and_truth_say_what_was_made(cohort: Cohort) -> None:
    entries = read_manifest(cohort.manifest)
    assert [e.label for e in entries] == ["normal", "aml", "apl", "mds", "reactive", "normal"]
    assert all(e.simulated and e.specimen == "blood_smear" and e.mpp == 0.25 for e in entries)
    assert tuple(rows_of(cohort.manifest)[0]) == MANIFEST_COLUMNS
    assert cohort.patients == {"normal": 2, "aml": 1, "apl": 1, "mds": 1, "reactive": 1}
    countable = load_taxonomy("pbc-blast").countable("blood_smear")
    for row in rows_of(cohort.truth):
        assert not any(label in row["patient"] for label in cohort.patients)
        placed = Counter(
            r["class"] for r in rows_of(cohort.slides / f"{row['slide_id']}.truth.csv") if r["kind"] == "white"
        )
        assert {name: int(row[f"n_{name}"]) for name in placed} == dict(placed)
        assert int(row["n_white"]) == sum(n for name, n in placed.items() if name in countable)
        assert int(row["n_hypogranular"]) <= placed["segmented_neutrophil"] + placed["band_neutrophil"]
    aml = rows_of(cohort.truth)[1]
    assert int(aml["n_blast"]) / int(aml["n_white"]) == pytest.approx(float(aml["drawn_blast"]), abs=0.45)


def test_a_cohort_is_the_same_to_the_byte_resumed_enlarged_or_in_parallel(cohort: Cohort, tmp_path: Path) -> None:
    whole = digests(cohort.manifest.parent)
    told: list[str] = []
    make_cohort(tmp_path, patients=5, seed=4, area_mm2=AREA, workers=2)
    (tmp_path / "slides" / "sim0002.truth.csv").unlink()
    make_cohort(tmp_path, patients=6, seed=4, area_mm2=AREA, report=told.append)
    assert digests(tmp_path) == whole
    assert told[0] == "4 of 6 slides are there already"
    assert len(told) == 3


def test_equal_profiles_leave_the_labels_without_meaning(tmp_path: Path) -> None:
    made = make_cohort(tmp_path, patients=5, seed=4, area_mm2=AREA, equal_profiles=True)
    assert [r["label"] for r in rows_of(made.truth)] == ["normal", "aml", "apl", "mds", "reactive"]
    assert {r["group"] for r in rows_of(made.truth)} == {"normal"}
    assert sum(int(r["n_blast"]) for r in rows_of(made.truth)) == 0


def test_what_cannot_be_made_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    folder = cohort.manifest.parent
    with pytest.raises(ConfigError, match="another seed; choose another folder"):
        make_cohort(folder, patients=6, seed=5, area_mm2=AREA)
    for bad, message in (
        ({"patients": 4}, "one a group"), ({"seed": -1}, "seed -1"), ({"area_mm2": 0.001}, "mm2"),
        ({"workers": 0}, "workers 0"), ({"profile": "marrow"}, "not one of blood"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            make_cohort(tmp_path, **{"patients": 5, "seed": 1, **bad})  # type: ignore[arg-type]
    (tmp_path / "cohort.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        make_cohort(tmp_path, patients=5, seed=1)


def test_commands_make_a_slide_or_a_cohort(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["simulate", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "cells:" in run(str(tmp_path / "a.tiff"), "--size", "300")
    assert "cells:" in run("--size", "300", str(tmp_path / "b.tiff"))
    assert "cells:" in run("slide", str(tmp_path / "c.tiff"), "--size", "300")
    assert (tmp_path / "a.tiff").read_bytes() == (tmp_path / "c.tiff").read_bytes()
    assert "1 normal, 1 aml, 1 apl" in run("cohort", "--out", str(tmp_path / "d"), "--patients", "5", "--area", "0.01")
