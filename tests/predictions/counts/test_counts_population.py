from __future__ import annotations

import numpy as np
import pytest

from tests.predictions.counts.counts_models import simulated
from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.features import (
    ANALYTES,
    engineered,
    from_symmetrised,
    shares_of_analytes,
    symmetrised,
)
from wsi_pipeline.predictions.counts.population import DRAWS, Population


def test_even_scales_go_back_to_the_values() -> None:
    values = simulated(60).values
    assert np.allclose(from_symmetrised(symmetrised(values)), values)


def test_engineered_columns_are_missing_where_a_part_is() -> None:
    values = simulated(6).values
    values[0, ANALYTES.index("LDH_UI_L")] = np.nan
    made = engineered(values)
    assert made.shape == (6, 20)
    assert np.isnan(made[0]).sum() == 3  # LDH, LDH over leucocytes, fibrinogen over LDH
    other = 100 - values[1, 4] - values[1, 6] - values[1, 8]
    assert made[1, 14] == pytest.approx(other)
    assert made[1, 15] == pytest.approx(other * values[1, 1] / 100)


def test_effects_are_shared_without_loss() -> None:
    assert np.allclose(shares_of_analytes().sum(axis=1), 1)


def test_tail_probability_is_that_of_mahalanobis_and_chi_squared() -> None:
    from scipy import stats

    values = simulated(300).values
    found = Population.of(values)
    off = symmetrised(values) - found.mean
    squared = np.einsum("ni,ij,nj->n", off, np.linalg.inv(found.covariance), off)
    assert np.allclose(found.tail_probability(values), stats.chi2.sf(squared, len(ANALYTES)))
    assert (found.tail_probability(values) < found.outlier).mean() == pytest.approx(0.02, abs=0.01)


def test_a_patient_far_out_is_an_outlier_and_an_unknown_one_is_not() -> None:
    found = Population.of(simulated(300).values)
    far = simulated(3).values
    far[0, ANALYTES.index("MCHC_g_L")] = 480.0
    far[1] = np.nan
    tail = found.tail_probability(far)
    assert tail[0] < found.outlier
    assert tail[1] == 1.0


def test_missing_values_are_drawn_as_the_known_ones_suggest() -> None:
    values = simulated(300).values
    found = Population.of(values)
    row = values[:2].copy()
    row[0, ANALYTES.index("ANC_G_L")] = np.nan
    drawn = found.complete(row)
    assert drawn.shape == (2, DRAWS, 14)
    assert (drawn[1] == row[1]).all()
    assert (drawn[0, :, 0] == row[0, 0]).all()
    implied = row[0, 4] * row[0, 1] / 100
    assert np.median(drawn[0, :, ANALYTES.index("ANC_G_L")]) == pytest.approx(implied, rel=0.35)
    assert (found.complete(row) == drawn).all(), "draws are fixed"


def test_values_missing_in_training_are_expected_not_dropped() -> None:
    whole, partial = simulated(400, seed=1), simulated(400, seed=1, missing=0.1)
    a, b = Population.of(whole.values), Population.of(partial.values)
    spread = np.sqrt(np.diag(a.covariance))
    assert (np.abs(a.mean - b.mean) < 0.3 * spread).all()


def test_a_damaged_population_is_refused() -> None:
    entry = Population.of(simulated(60).values).to_json()
    assert np.allclose(Population.from_json(entry).mean, entry["mean"])
    with pytest.raises(ModelError, match="14 values"):
        Population.from_json({**entry, "mean": [1.0]})
    with pytest.raises(ModelError, match="damaged"):
        Population.from_json({"mean": entry["mean"]})
