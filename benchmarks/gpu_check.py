"""Check, without the GPU machine, that what runs there imports only what is there.

    python benchmarks/gpu_check.py --pack .pack

Runs network.py and a few training steps on the CPU in processes in which every package is hidden that is neither in
the GPU machine's image nor in gpu_wheels.txt: openslide, dask, distributed, zarr, shapely, cellpose, tiatoolbox and
all others. Exit status 1 when an import is missing. Without packs the training is checked on two made-up fields.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

IN_THE_IMAGE = (
    "torch", "torchgen", "functorch", "triton", "timm", "torchvision", "numpy", "scipy", "skimage", "sklearn", "cv2",
    "numba", "llvmlite", "safetensors", "yaml", "PIL", "tifffile", "imageio", "networkx", "sympy", "mpmath", "jinja2",
    "markupsafe", "filelock", "fsspec", "packaging", "psutil", "tqdm", "lazy_loader", "typing_extensions",
    "typing_inspection", "pandas", "pyarrow", "matplotlib", "joblib", "setuptools", "dateutil", "six", "cuda",
)  # fmt: skip
"""Top-level modules of the image that these benchmarks, or what they import, may want."""

_HIDE = """
import importlib.machinery, sys

ALLOWED = {allowed!r}

class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        top = name.partition(".")[0]
        if spec is None or top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_"):
            return spec
        return None if "site-packages" in str(spec.origin or spec.submodule_search_locations) else spec

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
"""


def carried() -> set[str]:
    """Return the module names of the wheels in gpu_wheels.txt."""
    lines = (HERE / "gpu_wheels.txt").read_text(encoding="utf-8").splitlines()
    names = (line.partition("==")[0].strip() for line in lines if line.strip() and not line.startswith("#"))
    return {name.replace("-", "_").lower() for name in names}


def _made_up_pack(folder: Path) -> None:
    """Write a pack of two small fields of synthetic cells."""
    import numpy as np
    from _inputs import dense_labels
    from _pack import write_pack

    from wsi_pipeline.training.segmentation.data import Sample

    samples = []
    for seed in (1, 2):
        labels = dense_labels(320, spacing_px=26, seed=seed)
        rgb = np.where((labels > 0)[..., None], (190, 110, 130), (245, 240, 245)).astype(np.uint8)
        samples.append(
            Sample(
                name=f"synthetic/{seed}", split="train", rgb=rgb, labels=labels, kinds=(labels > 0).astype(np.uint8),
                known=np.ones(labels.shape, bool), mpp=0.5,
            )
        )  # fmt: skip
    write_pack(folder / "compact-section.npz", samples)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pack", type=Path, help="folder of packs made by pack.py")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack = chosen.pack or folder / "pack"
        if chosen.pack is None:
            _made_up_pack(pack)
        allowed = {*IN_THE_IMAGE, *carried(), "wsi_pipeline", "sitecustomize"}
        (folder / "sitecustomize.py").write_text(_HIDE.format(allowed=allowed), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{HERE.parent}"}
        common = ["--results", str(folder), "--scratch", str(folder)]
        probe = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, ('shapely', 'openslide'))))"
        calls = {
            "hiding works": ["-c", probe],
            "network.py": [str(HERE / "network.py"), "--size", "256", "--batch", "1", "--repeats", "1", *common],
            "gpu_train.py": [
                str(HERE / "gpu_train.py"), "--pack", str(pack), "--steps", "2", "--parts-steps", "1", "--batch", "2",
                "--save", str(folder / "saved"), *common,
            ],
        }  # fmt: skip
        failed = []
        for label, call in calls.items():
            print(f"== {label}", flush=True)
            if subprocess.run([sys.executable, *call], env=environment, check=False).returncode:
                failed.append(label)
    print(f"FAILED: {', '.join(failed)}" if failed else "all that the GPU machine runs imports only what it has")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
