"""Training of the compact networks: a killed run ends as an uninterrupted one, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import DataError
from wsi_pipeline.segmentation.networks import CompactFlowNet
from wsi_pipeline.training.segmentation.data import IGNORE, SET_SHARES, SMEAR_KINDS, Sample
from wsi_pipeline.training.segmentation.fit import (
    RECIPES,
    Recipe,
    batch_of,
    losses,
    sampling_weights,
    train_segmentation,
)

RECIPE = replace(RECIPES["compact-smear"], side=32, batch=2, steps=4)


pytestmark = pytest.mark.usefixtures("one_thread")


def sample(name: str, seed: int, split: str = "train") -> Sample:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :100]
    labels = np.zeros((90, 100), np.int32)
    kinds = np.zeros((90, 100), np.uint8)
    rgb = np.clip(rng.normal(230, 5, (90, 100, 3)), 0, 255).astype(np.uint8)
    for k, (cy, cx) in enumerate([(25, 30), (60, 70)], 1):
        distance = np.hypot(y - cy, x - cx)
        labels[distance < 18] = k
        kinds[distance < 18], kinds[distance < 11] = SMEAR_KINDS.index("cytoplasm"), SMEAR_KINDS.index("white_nucleus")
        rgb[distance < 18], rgb[distance < 11] = (180, 160, 210), (90, 50, 140)
    kinds[:5] = IGNORE
    known = np.ones((90, 100), bool)
    known[:5] = False
    return Sample(name=name, split=split, rgb=rgb, labels=labels, kinds=kinds, known=known, mpp=0.25)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample("bccd/a", 0), sample("bccd/b", 1), sample("pbc/c", 2), sample("bccd/test", 3, "test")]


def weights_of(network: CompactFlowNet) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


class _Killed(BaseException):
    """Stands for a kill, which nothing may catch."""


def kill(_: str) -> None:
    raise _Killed


def test_a_killed_training_ends_as_an_uninterrupted_one(samples: list[Sample], tmp_path: Path) -> None:
    straight = weights_of(train_segmentation(samples, tmp_path / "a", RECIPE, report=str, checkpoint_every=100))
    # The report of a step comes right after its checkpoint; then a later step is lost.
    with pytest.raises(_Killed):
        train_segmentation(samples, tmp_path / "b", RECIPE, report=kill, checkpoint_every=2)
    said: list[str] = []
    resumed = weights_of(train_segmentation(samples, tmp_path / "b", RECIPE, report=said.append, checkpoint_every=3))
    assert said[0] == "resumed at step 2 of 4"
    assert straight.keys() == resumed.keys()
    differing = [key for key, value in straight.items() if not torch.equal(value, resumed[key])]
    assert not differing
    start = weights_of(CompactFlowNet(len(RECIPE.kinds)))
    assert any(not torch.equal(straight[key], start[key]) for key in start)


def test_a_finished_training_is_not_done_again(samples: list[Sample], tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1)
    first = weights_of(train_segmentation(samples, tmp_path, recipe, report=str))
    before = (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns
    again = weights_of(train_segmentation(samples, tmp_path, recipe, report=str))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert (tmp_path / "checkpoint.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"learning_rate": 1e-3}, {"kinds": ("background", "nucleus")}, {"steps": 3}]
)
def test_a_checkpoint_of_another_recipe_is_refused(
    samples: list[Sample], tmp_path: Path, change: dict[str, object]
) -> None:
    train_segmentation(samples, tmp_path, replace(RECIPE, steps=1), report=str)
    with pytest.raises(DataError, match="checkpoint") as caught:
        train_segmentation(samples, tmp_path, replace(RECIPE, **{"steps": 1, **change}), report=str)  # type: ignore[arg-type]
    assert "--out" in str(caught.value)


def test_a_damaged_checkpoint_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a checkpoint")
    with pytest.raises(DataError, match="checkpoint"):
        train_segmentation(samples, tmp_path, RECIPE, report=str)


def test_the_seed_decides(samples: list[Sample], tmp_path: Path) -> None:
    one = weights_of(train_segmentation(samples, tmp_path / "1", replace(RECIPE, steps=1), report=str))
    two = weights_of(train_segmentation(samples, tmp_path / "2", replace(RECIPE, steps=1, seed=5), report=str))
    assert any(not torch.equal(one[key], two[key]) for key in one)


def same(a: list, b: list) -> bool:
    fields = ("image", "flows", "cell", "kinds", "known")
    return all(np.array_equal(getattr(x, f), getattr(y, f)) for x, y in zip(a, b, strict=True) for f in fields)


def test_a_batch_is_a_function_of_seed_and_step(samples: list[Sample]) -> None:
    np.random.seed(1)
    first = batch_of(samples, RECIPE, 3)
    np.random.seed(2)
    for step in (0, 1, 2):
        batch_of(samples, RECIPE, step)
    assert same(batch_of(samples, RECIPE, 3), first)
    assert not same(batch_of(samples, RECIPE, 4), first)
    assert not same(batch_of(samples, replace(RECIPE, seed=1), 3), first)


def test_crops_are_what_the_loss_takes(samples: list[Sample]) -> None:
    for crop in batch_of(samples, replace(RECIPE, batch=8), 0):
        assert crop.image.shape == (3, 32, 32)
        assert crop.image.dtype == crop.flows.dtype == crop.cell.dtype == np.float32
        assert set(np.unique(crop.cell)) <= {0.0, 1.0}
        assert ((crop.kinds < len(SMEAR_KINDS)) | (crop.kinds == IGNORE)).all()
        length = np.hypot(*crop.flows)
        assert (length[crop.cell == 0] == 0).all()
        assert length.max(initial=0) <= 5 + 1e-4


def test_sets_are_drawn_by_their_share_whatever_their_size(samples: list[Sample]) -> None:
    weights = sampling_weights([sample("bccd/x", 0)] * 7 + [sample("pbc/y", 0)] * 2)
    assert weights.sum() == pytest.approx(1)
    assert weights[:7].sum() / weights[7:].sum() == pytest.approx(SET_SHARES["bccd"] / SET_SHARES["pbc"])


def test_only_what_is_known_is_learnt() -> None:
    rng = np.random.default_rng(0)
    output = torch.from_numpy(rng.normal(size=(2, 5, 8, 8)).astype(np.float32))
    flows = torch.from_numpy(rng.normal(size=(2, 2, 8, 8)).astype(np.float32))
    cell = torch.from_numpy(rng.integers(0, 2, (2, 8, 8)).astype(np.float32))
    kinds = torch.from_numpy(rng.integers(0, 2, (2, 8, 8)))
    known = torch.ones(2, 8, 8)
    known[:, :4], kinds[:, :4] = 0, IGNORE
    expected = losses(output, flows, cell, kinds, known)
    noise = output.clone()
    noise[:, :, :4] += 9
    assert torch.equal(losses(noise, flows, cell, kinds, known), expected)
    noise[:, :, 4:] += 9
    assert not torch.equal(losses(noise, flows, cell, kinds, known), expected)


def test_a_perfect_output_has_next_to_no_loss() -> None:
    cell = torch.zeros(1, 8, 8)
    cell[:, 2:6, 2:6] = 1
    flows = torch.zeros(1, 2, 8, 8)
    flows[:, 0, 2:6, 2:6] = 5
    output = torch.cat([flows, (40 * cell - 20)[:, None], (40 - 80 * cell)[:, None], (80 * cell - 40)[:, None]], dim=1)
    assert losses(output, flows, cell, cell.long(), torch.ones(1, 8, 8)).item() < 1e-6


def test_the_recipes_are_those_of_the_shipped_networks() -> None:
    assert set(RECIPES) == {"compact-smear", "compact-section", "compact-megakaryocyte"}
    assert all(isinstance(recipe, Recipe) and recipe.kinds[0] == "background" for recipe in RECIPES.values())
    assert [RECIPES[name].mpp for name in ("compact-smear", "compact-section")] == [0.25, 0.5]
