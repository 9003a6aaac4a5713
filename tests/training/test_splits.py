"""Near-duplicate groups and the fixed split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.splits import SPLITS, fingerprint, near_duplicate_groups, near_duplicates, split_by_group


def _scene(seed: int, side: int = 120) -> np.ndarray:
    """A smooth random picture."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def _noisy(image: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_a_noisy_copy_joins_and_other_pictures_do_not() -> None:
    images = np.stack([_scene(k) for k in range(20)] + [_noisy(_scene(3), 99)])
    groups = near_duplicate_groups(images, window_px=100)
    assert groups[3] == groups[20]
    assert len(set(groups.tolist())) == 20


def test_a_moved_copy_joins_only_when_moves_are_tried() -> None:
    wide = _scene(50, 160)
    images = np.stack([wide[20:140, 20:140], wide[32:152, 11:131], *[_scene(k) for k in range(10)]])
    still = near_duplicate_groups(images, window_px=80)
    moved = near_duplicate_groups(images, window_px=80, reach_px=15, step_px=3)
    assert still[0] != still[1]
    assert moved[0] == moved[1]
    assert len(set(moved.tolist())) == 11


def test_groups_chain_and_together_joins() -> None:
    images = np.stack([_scene(k) for k in range(6)])
    groups = near_duplicate_groups(images, window_px=100, together=np.array([7, 7, 5, 5, 7, 1]))
    assert groups[0] == groups[1] == groups[4]
    assert groups[2] == groups[3]
    assert len(set(groups.tolist())) == 3


def test_near_duplicates_agree_with_a_plain_loop() -> None:
    images = np.stack([_noisy(_scene(k % 5), k) for k in range(30)])
    prints = fingerprint(images)
    bits = np.unpackbits(prints.bits.view(np.uint8), axis=1).astype(int)
    grey = prints.thumbnails.astype(int)
    expected = {
        (i, j)
        for i in range(30)
        for j in range(30)
        if i != j and np.abs(bits[i] - bits[j]).sum() <= 48 and np.abs(grey[i] - grey[j]).mean() <= 6
    }
    assert expected
    assert {tuple(p) for p in near_duplicates(prints, prints).tolist()} == expected


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_a_group_is_never_split_and_order_does_not_matter(groups: list[int]) -> None:
    array = np.array(groups)
    digests = [f"{k:04x}" for k in range(len(groups))]
    split = split_by_group(array, digests)
    assert set(split.tolist()) <= set(SPLITS)
    for group in set(groups):
        assert len(set(split[array == group].tolist())) == 1
    order = np.random.default_rng(0).permutation(len(groups))
    again = split_by_group(array[order], [digests[k] for k in order])
    assert (again == split[order]).all()


def test_shares_salt_and_held_out() -> None:
    n = 4000
    digests = [f"{k:x}" for k in range(n)]
    split = split_by_group(np.arange(n), digests)
    assert abs((split == "train").mean() - 0.8) < 0.03
    assert (split != split_by_group(np.arange(n), digests, salt="other")).any()
    held_out = np.zeros(n, dtype=bool)
    held_out[:100] = True
    forced = split_by_group(np.arange(n), digests, held_out=held_out)
    assert (forced[:100] == "test").all()
    assert (forced[100:] == split[100:]).all()


def test_the_split_is_frozen() -> None:
    # Shipped figures rest on this split; a change of the hash would move cells from test to train.
    split = split_by_group(np.arange(12), [f"{k:064x}" for k in range(12)])
    assert split.tolist() == [
        "train",
        "train",
        "test",
        "train",
        "val",
        "test",
        "val",
        "train",
        "val",
        "train",
        "train",
        "train",
    ]


def test_mistakes_are_typed_errors() -> None:
    with pytest.raises(DataError, match="too small"):
        fingerprint(np.zeros((1, 10, 10, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="no room"):
        near_duplicate_groups(np.zeros((2, 40, 40, 3), dtype=np.uint8), window_px=36, reach_px=6)
    with pytest.raises(DataError, match="2 groups but 1 digests"):
        split_by_group(np.array([0, 1]), ["a"])
    with pytest.raises(DataError, match="add up to 1"):
        split_by_group(np.array([0]), ["a"], fractions=(0.5, 0.2, 0.2))
