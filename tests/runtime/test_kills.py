"""``kill -9`` of a worker, the scheduler and the client at random moments: the results are those of an undisturbed run.

Fifty such runs are in ``benchmarks/kills.py``; these are its first five.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wsi_pipeline.simulation import make_virtual_slide

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SETTINGS: dict[str, Any] = {
    "tiling.core_px": 256, "runtime.workers": 2, "runtime.device": "cpu", "exports.report": False,
    "cells.classifier": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def kills() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("_kills")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    make_virtual_slide(folder / "one.tiff", profile="normal", size_px=512, seed=8)
    return folder


@pytest.fixture(scope="module")
def reference(kills: ModuleType, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    out = tmp_path_factory.mktemp("undisturbed")
    return out, kills.undisturbed(slides, out, SETTINGS)


@pytest.mark.parametrize(
    ("what", "seed"), [("worker", 0), ("scheduler", 1), ("client", 2), ("worker", 3), ("client", 5)]
)
def test_a_kill_changes_no_byte(
    what: str, seed: int, kills: ModuleType, slides: Path, reference: tuple[Path, float], tmp_path: Path
) -> None:
    out, seconds = reference
    found = kills.kill_one(
        what, seed, slides=slides, slide_ids=["one"], reference=out, seconds=seconds, settings=SETTINGS,
        scratch=tmp_path,
    )  # fmt: skip
    assert not found.difference, found
    if what == "worker":
        assert found.statuses == (0,), "a run that lost a worker did not end by itself"
    elif found.killed:
        # A scheduler that is gone is said in one sentence, unless all was computed; the client dies of the signal.
        assert found.statuses[0] in ((2, 0) if what == "scheduler" else (-9,))
    assert found.statuses[-1] == 0
