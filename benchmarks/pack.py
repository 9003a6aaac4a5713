"""Pack the training fields of the compact networks into one npz each, to train where the data cannot be fetched.

    python benchmarks/pack.py --data "$WSI_PIPELINE_DATA" --out .pack

Fields are labelled here, where all libraries are, by
``wsi_pipeline.training.segmentation.shipped_fields.load_samples``; the other machine only decodes. Training fields
alone are packed. ``--share`` takes the same fraction of every set, chosen by a hash of the name, when the whole does
not fit; ``--jpeg 95`` makes the RGB about five times smaller (training recompresses its crops anyway).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from _pack import write_pack

MODELS = ("compact-smear", "compact-section")


def _rank(name: str) -> float:
    """Return a fixed place of a name in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    options.add_argument("--out", type=Path, default=Path(".pack"), help="folder of the packs (default .pack)")
    options.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    options.add_argument("--share", type=float, default=1.0, help="fraction of each set's fields, 0 to 1")
    options.add_argument("--jpeg", type=int, help="store RGB as JPEG of this quality instead of PNG")
    chosen = options.parse_args()
    from wsi_pipeline.training.segmentation.shipped_fields import load_samples

    for model in chosen.model:
        print(f"{model}: labelling ...", flush=True)
        samples = [s for s in load_samples(chosen.data, model) if s.split == "train" and _rank(s.name) < chosen.share]
        if not samples:
            raise SystemExit(f"{model}: --share {chosen.share} leaves no field")
        path = chosen.out / f"{model}.npz"
        size = write_pack(path, samples, jpeg=chosen.jpeg)
        megapixels = sum(s.labels.size for s in samples) / 1e6
        print(f"{model}: {len(samples)} fields, {megapixels:.1f} Mpx, {size / 2**20:.1f} MiB in {path}", flush=True)


if __name__ == "__main__":
    main()
