"""Loading models: refusals with reasons, and networks that give the same bits in any batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.segmentation.models import CELLPOSE_NAMES, FlowModel, cellpose_weights, check_model, load_model
from wsi_pipeline.weights import file_sha256, shipped_weights

SMEAR = shipped_weights()["compact-smear"]


@pytest.fixture(scope="module")
def compact() -> FlowModel:
    import torch

    torch.set_num_threads(1)
    return load_model("compact-smear", specimen="blood_smear", device="cpu")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the smear network's weights, with its card beside it."""
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(SMEAR.path.with_suffix(suffix), tmp_path / f"mine{suffix}")
    return tmp_path / "mine.safetensors"


def change_card(weights: Path, **entries: object) -> None:
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    weights.with_suffix(".json").write_text(json.dumps({**card, **entries}), encoding="utf-8")


def test_the_shipped_network_loads(compact: FlowModel) -> None:
    assert compact.name == "compact-smear"
    assert compact.sha256 == SMEAR.sha256 == file_sha256(SMEAR.path)
    assert compact.kinds[0] == "background"
    out = compact.predict(np.zeros((1, 3, compact.tile_px, compact.tile_px), np.float32))
    assert out.shape == (1, 3 + len(compact.kinds), compact.tile_px, compact.tile_px)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


def test_a_pixel_does_not_depend_on_slot_or_batch(compact: FlowModel) -> None:
    rng = np.random.default_rng(0)
    tiles = rng.uniform(-0.2, 1.2, (5, 3, compact.tile_px, compact.tile_px)).astype(np.float32)
    alone = np.concatenate([compact.predict(tile[None]) for tile in tiles])
    np.testing.assert_array_equal(compact.predict(tiles), alone)
    padded = np.zeros((8, *tiles.shape[1:]), np.float32)
    order = [4, 2, 0]
    padded[[1, 3, 7]] = tiles[order]
    np.testing.assert_array_equal(compact.predict(padded)[[1, 3, 7]], alone[order])


def test_in_bf16_the_network_does_not_depend_on_the_threads() -> None:
    """In fp32 it does, in the last bits, which is why the threads of a worker are fixed."""
    compact = load_model("compact-smear", specimen="blood_smear", device="cpu", precision="bf16")
    import torch

    tiles = np.random.default_rng(1).uniform(0, 1, (2, 3, compact.tile_px, compact.tile_px)).astype(np.float32)
    one = compact.predict(tiles)
    torch.set_num_threads(2)
    try:
        np.testing.assert_array_equal(compact.predict(tiles), one)
    finally:
        torch.set_num_threads(1)


def test_a_shipped_model_on_another_specimen_is_refused() -> None:
    with pytest.raises(ModelError, match="blood_smear, marrow_smear, not for trephine"):
        check_model("compact-smear", "trephine")
    with pytest.raises(ModelError, match="not for trephine"):
        load_model("compact-smear", specimen="trephine", device="cpu")


def test_a_users_model_on_another_specimen_is_refused(copied: Path) -> None:
    with pytest.raises(ModelError, match=r"mine\.safetensors.*not trephine"):
        load_model(str(copied), specimen="trephine", device="cpu")


def test_a_users_copy_loads_from_its_path(copied: Path) -> None:
    change_card(copied, name="mine")
    assert load_model(str(copied), specimen="marrow_smear", device="cpu").name == "mine"


@pytest.mark.parametrize("name", CELLPOSE_NAMES)
def test_missing_cellpose_weights_are_said_and_never_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "models"))
    with pytest.raises(MissingWeightsError) as caught:
        load_model(name, specimen="blood_smear", device="cpu")
    assert caught.value.reason == "missing-weights"
    for text in (name, str(tmp_path / "home"), str(tmp_path / "models"), "CELLPOSE_LOCAL_MODELS_PATH"):
        assert text in str(caught.value)
    assert not list(tmp_path.iterdir()), "something was written"


def test_cellpose_weights_are_found_in_the_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    (tmp_path / "cpsam").write_bytes(b"weights")
    assert cellpose_weights("cpsam") == tmp_path / "cpsam"


def test_damaged_cellpose_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cellpose_of_mine"
    path.write_bytes(b"these are not weights")
    with pytest.raises(ModelError, match="cellpose_of_mine"):
        load_model(str(path), specimen="blood_smear", device="cpu")


def test_one_flipped_bit_is_found(copied: Path) -> None:
    data = bytearray(copied.read_bytes())
    data[-1000] ^= 1
    copied.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256") as caught:
        load_model(str(copied), specimen="blood_smear", device="cpu")
    assert caught.value.reason == "bad-model"
    assert str(copied) in str(caught.value)


def test_weights_that_do_not_fit_their_card_are_refused(copied: Path) -> None:
    change_card(copied, kinds=["background", "red"])
    with pytest.raises(ModelError, match="do not fit"):
        load_model(str(copied), specimen="blood_smear", device="cpu")


def test_a_tensor_of_the_wrong_shape_is_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, copied)
    change_card(copied, sha256=file_sha256(copied))
    with pytest.raises(ModelError, match="do not fit") as caught:
        load_model(str(copied), specimen="blood_smear", device="cpu")
    assert name in str(caught.value)


def test_a_file_that_is_no_safetensors_is_refused(copied: Path) -> None:
    copied.write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors at all")
    change_card(copied, sha256=file_sha256(copied))
    with pytest.raises(ModelError, match=r"mine\.safetensors"):
        load_model(str(copied), specimen="blood_smear", device="cpu")


@pytest.mark.parametrize("entry", ["name", "task", "sha256", "specimens", "kinds", "tile_px", "overlap_px", "widths"])
def test_a_card_without_an_entry_is_refused(copied: Path, entry: str) -> None:
    card = json.loads(copied.with_suffix(".json").read_text(encoding="utf-8"))
    del card[entry]
    copied.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ModelError, match=entry):
        load_model(str(copied), specimen="blood_smear", device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_card_that_is_no_card_is_refused(copied: Path, text: str) -> None:
    copied.with_suffix(".json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"mine\.json"):
        load_model(str(copied), specimen="blood_smear", device="cpu")


def test_a_card_or_a_file_that_is_not_there(copied: Path) -> None:
    copied.with_suffix(".json").unlink()
    with pytest.raises(MissingWeightsError, match=r"mine\.json"):
        load_model(str(copied), specimen="blood_smear", device="cpu")
    with pytest.raises(MissingWeightsError, match="unheard-of"):
        load_model("unheard-of", specimen="blood_smear", device="cpu")


def test_a_model_for_another_task_is_refused(copied: Path) -> None:
    change_card(copied, task="cells")
    with pytest.raises(ModelError, match="for cells, not for segmentation"):
        load_model(str(copied), specimen="blood_smear", device="cpu")
