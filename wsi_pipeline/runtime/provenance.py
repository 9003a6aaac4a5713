"""What a run depends on: versions, commit, host hardware, weights."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "wsi-pipeline", "torch", "cellpose", "numpy", "scipy", "numba", "openslide-python", "openslide-bin", "tiatoolbox",
    "dask", "distributed", "shapely", "pyarrow", "zarr", "scikit-image", "opencv-python-headless",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """Return the commit of a source checkout, marked when files are changed; None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


def hardware(device: str) -> dict[str, Any]:
    """Return processor, cores and, for CUDA, the GPU's name."""
    import os

    found: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    if device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found
