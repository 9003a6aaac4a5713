from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.predictions.counts.counts_models import simulated
from tests.predictions.counts.test_counts_batch import write_table
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.counts.features import CLASSES
from wsi_pipeline.predictions.counts.labelled import read_labelled


def test_classes_centres_and_patients_are_read(tmp_path: Path) -> None:
    table = simulated(9)
    values = table.values.copy()
    values[8] = values[5]
    names = ["a", "a", *"bcdefgh"]
    first = write_table(tmp_path / "lyon.csv", values, Response=[CLASSES[i] for i in table.labels], patient=names)
    other = write_table(tmp_path / "nice.csv", simulated(3, 1).values, Response=["LAM", "lal", "LAP"], patient=[*"abc"])
    found = read_labelled([first, other], label="Response")
    assert found.n_by_class == {"ALL": 4, "AML": 4, "APL": 4}
    assert found.centre_names == ("lyon", "nice")
    assert found.centres.tolist() == [0] * 9 + [1] * 3
    assert found.patients[0] == found.patients[1], "one name in one centre"
    assert found.patients[5] == found.patients[8], "the same values throughout"
    assert len(set(found.patients.tolist())) == 10, "patient a of another centre is another patient"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["AML", "CML", "ALL"], "holds 'CML'"),
        (["AML", "", "ALL"], "an empty cell"),
        (["AML", "AML", "AML"], "two classes are needed"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    path = write_table(tmp_path / "t.csv", simulated(3).values, Response=labels)
    with pytest.raises(DataError, match=message):
        read_labelled([path], label="Response")
    with pytest.raises(DataError, match="diagnosis"):
        read_labelled([path], label="diagnosis")


@pytest.mark.data
def test_the_two_centres_are_read_whole(data_root: Path) -> None:
    folder = data_root / "acute-leukaemia-counts"
    found = read_labelled([folder / "lyon.csv", folder / "clermont.csv"], label="Response")
    assert found.n_by_class == {"ALL": 228, "AML": 359, "APL": 92}
    assert np.isnan(found.values).mean() < 0.02
