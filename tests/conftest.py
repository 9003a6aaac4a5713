"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Examples take as long as the machine's other work lets them. Where a landing is judged they are the same each time.
settings.register_profile("unhurried", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Root of the larger real data; tests that need it are skipped when it is not given."""
    folder = os.environ.get("WSI_PIPELINE_DATA")
    if not folder:
        pytest.skip("WSI_PIPELINE_DATA is not set")
    root = Path(folder)
    if not root.is_dir():
        pytest.fail(f"WSI_PIPELINE_DATA is {folder}, which is not a folder")
    return root
