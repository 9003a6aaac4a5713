"""The batch: chosen from memory, fixed for a run, halved once. No GPU was ever there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cellpose import write_slide

from wsi_pipeline import cohort
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, DeviceError, OutputError
from wsi_pipeline.one_slide import prepare, stages
from wsi_pipeline.runtime import batch as run_batch
from wsi_pipeline.runtime import worker
from wsi_pipeline.runtime.batch import network_batch, settle
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.segmentation.batching import MAX_BATCH, Batch, batch_for_memory, run_halving, transformer_tile_bytes
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.segmentation.precision import resolve_precision

GIB = 1 << 30
CPSAM = {"model_bytes": 620 << 20, "tile_bytes": transformer_tile_bytes(tokens=1024, width=1024, itemsize=2)}


@pytest.mark.parametrize(
    ("gib", "workers", "tiles"), [(0, 1, 1), (1, 1, 1), (4, 1, 8), (8, 1, 16), (24, 1, 64), (80, 1, 64), (24, 4, 16)]
)
def test_the_batch_grows_with_the_free_memory(gib: int, workers: int, tiles: int) -> None:
    assert CPSAM["tile_bytes"] == 160 << 20
    assert batch_for_memory(gib * GIB, workers=workers, **CPSAM) == tiles


def test_the_batch_is_a_power_of_two_that_fits() -> None:
    for free in range(0, 100 * GIB, 3 * GIB // 7):
        tiles = batch_for_memory(free, **CPSAM)
        assert 1 <= tiles <= MAX_BATCH
        assert tiles & (tiles - 1) == 0
        assert tiles == 1 or CPSAM["model_bytes"] + tiles * CPSAM["tile_bytes"] < free


def test_the_configuration_takes_numbers_auto_and_zero() -> None:
    for asked, kept in (("auto", "auto"), (0, "auto"), (4, 4)):
        assert load_config(None, {"segmentation.batch_size": asked}).segmentation.batch_size == kept
    assert load_config().segmentation.batch_size == "auto"
    for asked in (-1, 1000, "many", False):
        with pytest.raises(ConfigError, match="batch_size"):
            load_config(None, {"segmentation.batch_size": asked})


def test_what_is_asked_for_wins_and_a_cpu_takes_eight(tmp_path: Path) -> None:
    model = load_model("compact-smear", specimen="blood_smear", device="cpu")
    assert network_batch(tmp_path, model, load_config(None, {"segmentation.batch_size": 3}), "cuda") == 3
    assert network_batch(tmp_path, model, load_config(), "cpu") == 8
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_the_first_choice_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("compact-smear", specimen="blood_smear", device="cpu")
    monkeypatch.setenv("WSI_PIPELINE_PROCESSES_ON_GPU", "2")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 29, 1 << 34))
    first = network_batch(tmp_path, model, load_config(), "cuda")
    assert 1 < first < MAX_BATCH
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 34, 1 << 34))
    assert network_batch(tmp_path, model, load_config(), "cuda") == first
    assert len(list(tmp_path.glob(run_batch.PATTERN))) == 1


def test_a_choice_that_came_second_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "batch.json"

    def choose_late() -> int:
        path.write_text(json.dumps({"tiles": 4}), encoding="utf-8")
        return 32

    assert settle(path, choose_late) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["batch.json"]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match="damaged"):
        settle(path, choose_late)


# Halving -------------------------------------------------------------------------------------------------------------


class Hungry:
    """Runs out of memory above ``most`` tiles."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []

    def __call__(self, tiles: int) -> int:
        self.tried.append(tiles)
        if tiles > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return tiles


def test_the_batch_halves_once_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    batch, run = Batch.of(8), Hungry(4)
    with caplog.at_level(logging.WARNING):
        assert run_halving(run, batch, "block 0") == 4
        assert run_halving(run, batch, "block 1") == 4
    assert run.tried == [8, 4, 4]
    (record,) = caplog.records
    assert "block 0" in record.message
    assert "not byte-comparable" in record.message
    run.most = 3
    with pytest.raises(
        DeviceError, match="4 network tiles a batch, halved from 8; set segmentation.batch_size"
    ) as caught:
        run_halving(run, batch, "block 2")
    assert caught.value.reason == "out-of-memory"
    assert run.tried == [8, 4, 4, 4]


def test_a_single_tile_cannot_be_halved_and_other_errors_pass() -> None:
    with pytest.raises(DeviceError, match="1 network tiles"):
        run_halving(Hungry(0), Batch.of(1), "block")

    def broken(_: int) -> int:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        run_halving(broken, Batch.of(8), "block")


class OnceOutOfMemory:
    """The shipped network on a GPU that overflows the first time."""

    def __init__(self) -> None:
        self._model: Any = load_model("compact-smear", specimen="blood_smear", device="cpu")
        self.sha256 = "0" * 64
        self.shapes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, tiles: np.ndarray) -> np.ndarray:
        self.shapes.append(len(tiles))
        if len(self.shapes) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self._model.predict(tiles)


def test_a_run_that_ran_out_of_memory_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    model = OnceOutOfMemory()
    for module in (prepare, stages):
        monkeypatch.setattr(module, "segmentation_model", lambda *_: model)
    monkeypatch.setattr(worker, "_batches", {})
    settings = {
        "cells.classifier": None, "exports.report": False, "segmentation.batch_size": 4, "tiling.core_px": 256,
    }  # fmt: skip
    slide = write_slide(tmp_path / "s.tiff", side=600)

    @contextmanager
    def serial(*_: Any) -> Iterator[SerialExecutor]:
        yield SerialExecutor()

    monkeypatch.setattr(cohort, "open_executor", serial)
    (summary,) = cohort.run_cohort([slide], tmp_path / "out", overrides=settings).summaries
    assert set(model.shapes[1:]) == {2}
    blocks = summary["quality"]["blocks"]
    assert blocks > 1
    assert summary["quality"]["blocks with a halved batch"] == blocks
    assert summary["quality"]["byte-comparable"] is False
    assert any("not byte-comparable" in text for text in summary["warnings"])
    use = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["segmentation"]
    precision = resolve_precision("auto", "cpu")
    assert use == {"precision": [precision], "batch_size": [4], "byte_comparable": False, "not_byte_comparable": ["s"]}
