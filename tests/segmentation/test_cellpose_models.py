"""Cellpose's networks: filled with what the file holds or refused with a reason, and run as ``cellpose`` runs them."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cellpose import tiny_sam, write_slide, write_tiny

from wsi_pipeline.cohort import plan_cohort
from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.pipeline import run_job
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.segmentation import cellpose_files
from wsi_pipeline.segmentation.cellpose_files import CELLPOSE_NAMES, require_dinov3
from wsi_pipeline.segmentation.cellpose_model import import_cellpose
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.segmentation.precision import computes_in_bf16
from wsi_pipeline.weights import file_sha256

TILES = np.random.default_rng(0).uniform(0, 1, (2, 3, 256, 256)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Return the file of a tiny network, in a process whose ``cellpose`` builds tiny ones."""
    with tiny_sam():
        yield write_tiny(tmp_path / "tiny_cp4")


def load(path: Path, **changes: Any) -> Any:
    return load_model(str(path), **{"specimen": "blood_smear", "device": "cpu", **changes})


# Loaded and run ------------------------------------------------------------------------------------------------------


AUTO = "bf16" if computes_in_bf16("cpu") else "fp32"


@pytest.mark.parametrize(("precision", "runs_in"), [("auto", AUTO), ("bf16", "bf16"), ("fp32", "fp32")])
def test_the_output_is_that_of_cellpose_to_the_bit(tiny: Path, precision: str, runs_in: str) -> None:
    model = load(tiny, precision=precision)
    assert (model.name, model.tile_px, model.kinds, model.precision) == ("tiny_cp4", 256, (), runs_in)
    assert model.sha256 == file_sha256(tiny)
    theirs = import_cellpose("models").CellposeModel(
        pretrained_model=str(tiny), device=torch.device("cpu"), use_bfloat16=runs_in == "bf16"
    )
    with torch.inference_mode():
        expected = theirs.net.eval()(torch.from_numpy(TILES).to(theirs.net.dtype))[0].float().numpy()
    np.testing.assert_array_equal(model.predict(TILES), expected)
    assert expected.shape == (2, 3, 256, 256)
    assert expected.std() > 0.1


def test_the_precisions_differ_a_little_and_take_their_memory(tiny: Path) -> None:
    half, full = load(tiny, precision="bf16"), load(tiny, precision="fp32")
    assert full.model_bytes == 2 * half.model_bytes
    assert full.tile_bytes == 2 * half.tile_bytes
    difference = np.abs(half.predict(TILES) - full.predict(TILES))
    assert 0 < difference.mean() < 0.05


def test_weights_of_several_gpus_lose_their_prefix(tiny: Path, tmp_path: Path) -> None:
    state = torch.load(tiny, weights_only=True)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "parallel")
    np.testing.assert_array_equal(load(tmp_path / "parallel").predict(TILES), load(tiny).predict(TILES))


def test_a_file_in_the_models_folder_is_found_by_its_name(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tiny.parent))
    assert load_model("tiny_cp4", specimen="trephine", device="cpu").sha256 == file_sha256(tiny)


def test_importing_cellpose_leaves_the_matmul_setting() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    import_cellpose("models")
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_our_names_are_those_of_the_package() -> None:
    assert set(CELLPOSE_NAMES) == set(import_cellpose("models").MODEL_NAMES)


# A card beside the file ----------------------------------------------------------------------------------------------


def write_card(weights: Path, **changes: Any) -> None:
    card = {
        "name": "mine", "task": "segmentation", "sha256": file_sha256(weights), "specimens": ["blood_smear"],
        "kinds": ["background", "white"], **changes,
    }  # fmt: skip
    weights.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")


def test_a_card_gives_the_kind_and_the_specimens(tiny: Path) -> None:
    plain = load(tiny).predict(TILES)
    write_card(tiny)
    model = load(tiny)
    assert model.kinds == ("background", "white")
    output = model.predict(TILES)
    np.testing.assert_array_equal(output[:, :3], plain)
    np.testing.assert_array_equal(output[:, 3], 0)
    np.testing.assert_array_equal(output[:, 4], plain[:, 2])
    with pytest.raises(ModelError, match="not trephine"):
        load(tiny, specimen="trephine")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"task": "cells"}, "for cells"), ({"kinds": ["white"]}, "kinds white")],
)
def test_a_card_that_does_not_fit_is_refused(tiny: Path, changes: dict[str, Any], said: str) -> None:
    write_card(tiny, **changes)
    with pytest.raises(ModelError, match=said):
        load(tiny)


# Refused -------------------------------------------------------------------------------------------------------------


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("executed"), "yes"))


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("force_pickle", ["0", "1"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force_pickle: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force_pickle)
    torch.save({"W2": Evil()}, tmp_path / "zipped")
    torch.save(Evil(), tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "plain").write_bytes(pickle.dumps(Evil()))
    for name in ("zipped", "old", "plain"):
        assert "never loaded" in refused(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_file_of_cellpose_3_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "cyto3"
    keys = ("downsample.down.res_down_0.conv.conv_0.1.weight", "upsample.up.res_up_0.conv.conv_0.1.weight")
    torch.save({**{key: torch.zeros(2) for key in keys}, "output.2.weight": torch.zeros(3)}, path)
    text = refused(path)
    assert "Cellpose 3 or earlier" in text
    assert "train segmentation --base cellpose" in text


def test_other_files_are_named(tiny: Path, tmp_path: Path) -> None:
    state = torch.load(tiny, weights_only=True)
    whole = tiny.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    cases = {
        "empty": (b"", "empty file"),
        "page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "HTML page"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "noise": (bytes(range(256)) * 40, "damaged"),
        "cut": (whole[: len(whole) // 2], "cut short"),
        "flipped": (bytes(flipped), "does not fit its checksum"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert said in refused(tmp_path / name), name
    wide = {**state, "out.bias": torch.zeros(7)}
    lacking = {key: value for key, value in state.items() if "neck" not in key}
    saved: dict[str, tuple[Any, str]] = {
        "a list": ([1, 2], "a list"),
        "a checkpoint": ({"epoch": 3, "state_dict": state}, "epoch, state_dict"),
        "sam": ({"image_encoder.pos_embed": torch.zeros(1)}, "another network"),
        "wide": (wide, "found out.bias 7, needed 192"),
        "lacking": (lacking, "tensors are missing (encoder.neck"),
        "more": ({**state, "decoder.weight": torch.zeros(1)}, "1 are of no use (decoder.weight)"),
    }
    for name, (value, said) in saved.items():
        torch.save(value, tmp_path / name)
        assert said in refused(tmp_path / name), name


def test_cpdino_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellpose_files, "find_spec", lambda _: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="dinov3"):
        load_model("cpdino", specimen="blood_smear", device="cpu")
    with pytest.raises(ModelError, match="pip install git.*dinov3"):
        require_dinov3("cpdino-vitb")
    state = {
        "W2": torch.zeros(1),
        "encoder.cls_token": torch.zeros(1),
        "encoder.patch_embed.proj.weight": torch.zeros(1),
    }
    torch.save(state, tmp_path / "cpdino")
    with pytest.raises(ModelError, match="pip install git.*dinov3"):
        load_model("cpdino", specimen="blood_smear", device="cpu")
    monkeypatch.setattr(cellpose_files, "find_spec", lambda _: object())
    with pytest.raises(ModelError, match="width 1, needed 1024 or 768"):
        load_model("cpdino", specimen="blood_smear", device="cpu")


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(MissingWeightsError, match="is a folder"):
        load(tmp_path)


def test_a_worker_never_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CELLPOSE_LOCAL_MODELS_PATH", raising=False)
    for name in CELLPOSE_NAMES:
        with pytest.raises(MissingWeightsError, match="nothing is downloaded during a run"):
            load_model(name, specimen="blood_smear", device="cpu")
    assert not list(tmp_path.iterdir())


# From file to provenance ---------------------------------------------------------------------------------------------


def settings_of(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "segmentation.model": str(model), "cells.classifier": None, "exports.report": False,
        "segmentation.batch_size": 2, "segmentation.normalise_tiles": 2, "segmentation.niter": 20, **changes,
    }  # fmt: skip


def test_a_slide_runs_from_the_file_to_the_provenance(tiny: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff")
    keys = set()
    for precision, runs_in in (("auto", AUTO), ("bf16", "bf16"), ("fp32", "fp32")):
        settings = settings_of(tiny, **{"segmentation.precision": precision})
        plan = plan_cohort([slide], tmp_path / precision, overrides=settings)
        summary = run_job(plan.jobs[0], SerialExecutor())
        keys.add(summary["key"])
        about = summary["provenance"]
        assert (about["segmentation model"], about["segmentation SHA-256"]) == ("tiny_cp4", file_sha256(tiny))
        assert (about["precision asked"], about["precision used"]) == (precision, runs_in)
        assert (about["tiles a batch asked"], about["tiles a batch used"]) == (2, 2)
        assert summary["status"] in ("ok", "empty")
        assert (summary["quality"]["byte-comparable"], summary["quality"]["blocks with a halved batch"]) == (True, 0)
        assert (tmp_path / precision / "slides" / "s" / "cells.parquet").is_file()
    assert len(keys) == 3, "the precision, asked and used, is part of the key of the results"


def test_a_run_that_cannot_load_its_model_does_not_start(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff")
    (tmp_path / "page").write_text("<html></html>", encoding="utf-8")
    with pytest.raises(ModelError, match="HTML page"):
        plan_cohort([slide], tmp_path / "out", overrides=settings_of(tmp_path / "page"))
    with pytest.raises(MissingWeightsError, match="does not exist"):
        plan_cohort([slide], tmp_path / "out", overrides=settings_of(tmp_path / "gone"))


@pytest.mark.data
def test_the_full_network_runs_one_tile(data_root: Path, tmp_path: Path) -> None:
    """A ViT-L at random, 1.2 GB: built and saved by ``cellpose``, loaded, run on one tile."""
    path = tmp_path / "cpsam"
    import_cellpose("vit").CPSAM().save_model(path)
    model = load(path)
    output = model.predict(TILES[:1])
    assert output.shape == (1, 3, 256, 256)
    assert np.isfinite(output).all()
    assert model.model_bytes > 6e8
