"""Training subjects are known again: by name, by cells, by the look of cells; others are not, and no name is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_bags import made_bag, made_training_set, two_groups
from safetensors.numpy import load_file

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.slide_models.known import MOST_CELLS, Known
from wsi_pipeline.predictions.slide_models.storage import save_slide_model
from wsi_pipeline.training.slides.fit import fit_slide_model


def _renamed(bag: CellBag, name: str, *, noise: float = 0.0, ids: bool = False) -> CellBag:
    rng = np.random.default_rng(1)
    assert bag.embedding is not None
    return replace(
        bag,
        subject_id=name,
        patient=name,
        embedding=(bag.embedding + noise * rng.normal(size=bag.embedding.shape)).astype(np.float32),
        cell_ids=np.array([f"{name}-{i}" for i in range(len(bag))]) if ids else bag.cell_ids,
    )


def test_subjects_of_the_training_are_known_by_name_by_cells_and_by_their_look() -> None:
    bags, _ = two_groups(12)
    known = Known.of(bags, [bag.patient for bag in bags])
    for bag in bags:
        assert known.why(bag, bag.patient) == "patient"
        assert known.why(bag, f" {bag.patient.lower()}") == "patient"
        assert known.why(_renamed(bag, "X"), "X") == "identical cells"
        # Compressed anew: other bytes, so other ids, and hardly another embedding.
        assert known.why(_renamed(bag, "X", noise=0.005, ids=True), "X") == "near-identical cells"
        assert known.why(_renamed(bag, "X", noise=0.4, ids=True), "X") == ""
    others, _ = two_groups(12, seed=7)
    assert {known.why(_renamed(bag, f"Y{i}", ids=True), f"Y{i}") for i, bag in enumerate(others)} == {""}


def test_one_shared_image_is_enough_and_one_look_alike_is_not() -> None:
    bags, _ = two_groups(12)
    known = Known.of(bags, [bag.patient for bag in bags])
    other = _renamed(made_bag("Z", seed=999), "Z", ids=True)
    first = bags[0]
    assert other.embedding is not None
    assert first.embedding is not None
    ids, looks = other.cell_ids.astype("U20"), other.embedding.copy()
    ids[3] = first.cell_ids[3]
    assert known.why(replace(other, cell_ids=ids), "Z") == "identical cells"
    same = np.flatnonzero(other.likeliest == first.likeliest[3])[0]
    looks[same] = first.embedding[3]
    assert known.why(replace(other, embedding=looks), "Z") == ""


def test_of_large_subjects_a_later_sample_of_cells_is_known() -> None:
    large = [made_bag(f"L{i}", seed=i, cells=3 * MOST_CELLS) for i in range(2)]
    known = Known.of(large, ["L0", "L1"])
    assert len(known.cells) == 2 * MOST_CELLS
    some = _renamed(large[0], "X").take(np.random.default_rng(0).choice(len(large[0]), 40, replace=False))
    assert known.why(some, "X") == "identical cells"


def test_a_file_holds_no_name_and_damage_is_told(tmp_path: Path) -> None:
    bags, labels = two_groups(12)
    named = [replace(bag, subject_id=f"Jeanne Doe {i}", patient=f"Jeanne Doe {i}") for i, bag in enumerate(bags)]
    model = fit_slide_model(made_training_set(named, labels), ("composition",), seed=0).model
    known = Known.of(named, [bag.patient for bag in named])
    path = tmp_path / "m.slides.safetensors"
    save_slide_model(replace(model, known=known), path)
    content = path.read_bytes()
    assert b"Jeanne" not in content
    assert b"-0001" not in content, "nor the id of a cell"
    tensors = {key.removeprefix("known."): v for key, v in load_file(path).items() if key.startswith("known.")}
    again = Known.load(tensors)
    assert again is not None
    assert again.why(named[3], "Jeanne Doe 3") == "patient"
    assert again.why(_renamed(named[3], "X"), "X") == "identical cells"
    assert Known.load({}) is None
    for harm in ({"owners": tensors["owners"][:-1]}, {"looks": tensors["looks"] * np.float16(np.nan)}, {"salt": None}):
        damaged = {key: v for key, v in {**tensors, **harm}.items() if v is not None}
        with pytest.raises(ModelError, match="training subjects is damaged"):
            Known.load(damaged)


def test_the_same_subjects_give_the_same_bytes_in_any_order() -> None:
    bags, _ = two_groups(6)
    names = [bag.patient for bag in bags]
    first, second = Known.of(bags, names), Known.of(bags[::-1], names[::-1])
    assert first.salt == second.salt
    assert np.array_equal(first.patients, second.patients)
    assert np.array_equal(first.cells, second.cells)
