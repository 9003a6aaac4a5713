"""A small part of the parity matrix: the cells of ``cellpose.dynamics.compute_masks`` on the same flows.

The whole matrix: ``python benchmarks/dynamics.py --parity``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load_parity() -> ModuleType:
    """Import ``benchmarks/_parity.py``, which is no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("_parity", BENCHMARKS / "_parity.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["_parity"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


PARITY = load_parity()
PART = [
    case
    for case in PARITY.MATRIX
    if case.seed == 1
    and (
        case.size == "none"
        or (case.noise, case.size) == ("clean", "large")
        or (case.noise, case.layout, case.size) in {("clean", "sparse", "small"), ("noisy", "dense", "large")}
    )
]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("case", PART, ids=lambda case: case.name)
def test_the_cells_are_cellposes(case) -> None:
    row = PARITY.measure(case)
    assert (row.theirs == 0) == (case.size == "none")
    assert row.agreement >= row.bound, row
    if row.theirs == 0:
        assert row.ours == 0
