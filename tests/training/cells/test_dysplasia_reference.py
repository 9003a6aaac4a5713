"""Attenuated granules, and a small reference made of real cells."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.cells.dysplasia import load_reference
from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.attenuation import attenuate_granules
from wsi_pipeline.training.cells import dysplasia as training
from wsi_pipeline.training.cells.dysplasia import paired_auroc, train_dysplasia

LIGHT = np.array([250, 245, 240], np.uint8)


def speckled(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture with noise of one grey level and a disc of cytoplasm with granules, and the disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :120]
    disc = (y - 60) ** 2 + (x - 60) ** 2 < 40**2
    density = np.where(disc[..., None], 0.15, 0.0) + disc[..., None] * 0.1 * (rng.random((120, 120, 1)) < 0.2)
    picture = LIGHT * 10**-density + rng.normal(0, 1, density.shape[:2] + (3,))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), disc


def test_granules_shrink_by_the_dose_and_nothing_else_changes() -> None:
    picture, disc = speckled()
    deep = (np.mgrid[:120, :120] - 60).astype(float)
    deep = np.hypot(*deep) < 30
    spread = []
    for keep in (1.0, 0.6, 0.3, 0.0):
        out = attenuate_granules(picture, disc, mpp=0.2, keep=keep, background=LIGHT, seed=1)
        np.testing.assert_array_equal(out[~disc], picture[~disc])
        density = -np.log10(out[..., 1] / 245)
        spread.append(float(density[deep].std()))
        assert density[deep].mean() == pytest.approx(-np.log10(picture[..., 1][deep] / 245).mean(), abs=0.01)
    assert spread[0] > spread[1] > spread[2] > spread[3]
    assert spread[1] / spread[0] == pytest.approx(0.6, abs=0.08)
    noise = float((-np.log10(picture[~disc][:, 1] / 245)).std())
    assert spread[3] > 0.5 * noise, "a picture without its camera's noise would give itself away"
    np.testing.assert_array_equal(attenuate_granules(picture, disc, mpp=0.2, keep=1, background=LIGHT), picture)
    with pytest.raises(ValueError, match="keep"):
        attenuate_granules(picture, disc, mpp=0.2, keep=1.5, background=LIGHT)


def test_the_area_is_that_of_scikit_learn_and_its_interval_covers_it() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    normal = rng.normal(1, 0.3, 80).round(1)
    changed = normal * 0.7
    found = paired_auroc(normal, changed)
    truth = roc_auc_score([1] * 80 + [0] * 80, np.concatenate([normal, changed]))
    assert found.value == pytest.approx(truth)
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < truth < found.upper


@pytest.mark.data
def test_a_reference_of_real_cells_answers_to_the_dose(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_LEAST", 4)
    monkeypatch.setattr(training, "_LEAST_NUCLEI", 1)
    monkeypatch.setattr(training, "MOST_ATTENUATED", 6)
    monkeypatch.setattr(training, "KEEPS", (0.5, 0.0))
    monkeypatch.setattr(training, "FADES", (0.4,))
    lines: list[str] = []
    path = train_dysplasia(data_root / "pbc", tmp_path, mpp=0.198, name="mine", per_class=32, report=lines.append)
    reference = load_reference(path)
    assert reference.name == "mine"
    shipped = load_reference()
    assert reference.neutrophil_granularity_od == pytest.approx(shipped.neutrophil_granularity_od, rel=0.25)
    with (tmp_path / "dose_response.csv").open() as file:
        half, none = csv.DictReader(file)
    assert float(none["auroc"]) > float(half["auroc"]) > 0.6
    assert float(none["median_score_after"]) < float(half["median_score_after"]) < float(half["median_score_before"])
    faded = load_reference(path).about["faded_stain"][0]
    assert faded["abstains"] is not None
    assert faded["flagged_without_condition"] > faded["n"] / 2


def test_a_folder_without_eosinophils_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lymphocyte").mkdir()
    from PIL import Image

    Image.fromarray(speckled()[0]).save(tmp_path / "lymphocyte" / "a.png")
    with pytest.raises(DataError, match="segmented_neutrophil or band_neutrophil or neutrophil: 0 cells"):
        train_dysplasia(tmp_path, tmp_path / "out", mpp=0.2, report=lambda _: None)
