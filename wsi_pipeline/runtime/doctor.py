"""Is this machine fit to run: libraries that load, pixels that decode, devices, weights, memory, disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.runtime.provenance import versions


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    found: str


def _openslide() -> str:
    import openslide

    return f"openslide-python {openslide.__version__}, library {openslide.__library_version__}"


def _read_back() -> str:
    """Write a small pyramidal JPEG TIFF and read it through the chunk lattice."""
    import numpy as np
    import tifffile

    from wsi_pipeline.slides import open_slide
    from wsi_pipeline.units import Box

    pixels = np.full((1024, 1024, 3), 230, np.uint8)
    pixels[256:512, 256:512] = (120, 60, 140)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.tiff"
        tifffile.imwrite(
            path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg",
            resolution=(40000, 40000), resolutionunit="CENTIMETER",
        )  # fmt: skip
        with open_slide(path) as slide:
            read = slide.read(Box(x0=300, y0=300, x1=301, y1=301), slide.mpp.x)
            if np.abs(read[0, 0].astype(int) - (120, 60, 140)).max() > 8:
                raise WsiPipelineError(f"a test slide was read back as {read[0, 0].tolist()}, not as (120, 60, 140)")
            return f"{slide.backend}, {slide.mpp.x:g} um/px, pixels as written"


def _tiatoolbox() -> str:
    from importlib.metadata import version

    import cv2

    return f"tiatoolbox {version('tiatoolbox')}, OpenCV {cv2.__version__}"


def _torch() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"torch {torch.__version__}; GPUs: {', '.join(gpus) or 'none (models run on the CPU)'}"


def _cellpose() -> str:
    from wsi_pipeline.errors import MissingWeightsError
    from wsi_pipeline.segmentation.models import CELLPOSE_NAMES, cellpose_weights

    here = []
    for name in CELLPOSE_NAMES:
        try:
            cellpose_weights(name)
            here.append(name)
        except MissingWeightsError:
            continue
    found = ", ".join(here) or "none (the compact networks need none)"
    return f"cellpose {versions()['cellpose']}; local weights: {found}"


def _weights() -> str:
    from wsi_pipeline.weights import shipped_weights

    for weights in shipped_weights().values():
        weights.verify()
    return f"{', '.join(shipped_weights())}: intact"


def _memory() -> str:
    import psutil

    gib = psutil.virtual_memory().available / 2**30
    cores = os.cpu_count() or 1
    if gib < 1.5 * cores:
        raise WsiPipelineError(f"{gib:.1f} GiB free for {cores} cores; set runtime.workers to {max(1, int(gib / 1.5))}")
    return f"{gib:.1f} GiB free, {cores} cores"


def _disk() -> str:
    folder = tempfile.gettempdir()
    gib = shutil.disk_usage(folder).free / 2**30
    if gib < 2:
        raise WsiPipelineError(f"{gib:.1f} GiB free in {folder}; at least 2 are needed")
    return f"{gib:.0f} GiB free in {folder}"


_CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("OpenSlide", _openslide),
    ("reading a slide", _read_back),
    ("TIAToolbox", _tiatoolbox),
    ("PyTorch", _torch),
    ("Cellpose", _cellpose),
    ("shipped weights", _weights),
    ("memory", _memory),
    ("disk", _disk),
)


def check_all() -> Iterator[Check]:
    """Yield every check; one that raises is a problem, not the end."""
    for name, check in _CHECKS:
        try:
            yield Check(name=name, ok=True, found=check())
        except Exception as error:  # noqa: BLE001  whatever is wrong is the finding
            yield Check(name=name, ok=False, found=str(error) or type(error).__name__)
