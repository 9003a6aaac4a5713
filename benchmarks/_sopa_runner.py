"""Sopa's staining-based segmentation of an RGB zarr, with the compact network; runs in an environment of its own.

    python _sopa_runner.py REQUEST.json

Called by ``segmentation.py``, which watches its memory. Writes what it took as JSON and the cells as WKB in parquet.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _compact_in_cellpose import compact_cellpose


class Method:
    """Labels of one patch, ``(3, h, w)`` uint8, as ``sopa.segmentation.custom_staining_based`` calls it."""

    def __init__(self, weights: str, threads: int, eval_kwargs: dict[str, Any]) -> None:
        self.weights, self.threads, self.eval_kwargs = weights, threads, eval_kwargs

    def __call__(self, image: np.ndarray) -> np.ndarray:
        model = compact_cellpose(self.weights, self.threads)()
        return np.asarray(model.eval(image.transpose(1, 2, 0), **self.eval_kwargs)[0])


def main() -> None:
    import dask.distributed
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely
    import sopa
    import spatialdata
    import zarr
    from spatialdata.models import Image2DModel

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    image = np.asarray(zarr.open(request["rgb"], mode="r")[...]).transpose(2, 0, 1)
    made = Image2DModel.parse(image, dims=("c", "y", "x"), chunks=(3, 1024, 1024), c_coords=["r", "g", "b"])
    spatialdata.SpatialData(images={"slide": made}).write(request["sdata"], overwrite=True)
    del image, made
    cluster = {"seconds": 0.0}

    class TimedClient(dask.distributed.Client):
        def __init__(self, **kwargs: Any) -> None:
            started = time.monotonic()
            super().__init__(**kwargs)
            cluster["seconds"] += time.monotonic() - started

    dask.distributed.Client = TimedClient
    sopa.settings.parallelization_backend = "dask"
    sopa.settings.dask_client_kwargs = {
        "n_workers": request["workers"], "threads_per_worker": 1, "dashboard_address": ":0",
    }  # fmt: skip
    print("ready", flush=True)
    sys.stdin.readline()  # the watcher resets its memory peak here
    started = time.monotonic()
    sdata = spatialdata.read_zarr(request["sdata"])
    sopa.make_image_patches(sdata, patch_width=request["block"], patch_overlap=request["overlap"])
    sopa.segmentation.custom_staining_based(
        sdata,
        Method(request["weights"], request["threads"], request["eval"]),
        channels=None,
        min_area=request["min_area"],
        clip_limit=0,
        gaussian_sigma=0,
    )
    seconds = time.monotonic() - started
    cells = shapely.get_parts(np.asarray(sdata["custom_boundaries"].geometry.to_numpy(), object))
    cells = cells[shapely.get_type_id(cells) == shapely.GeometryType.POLYGON]
    pq.write_table(pa.table({"geometry": pa.array(shapely.to_wkb(cells), pa.binary())}), request["cells"])
    took = {"seconds": seconds, "cluster": cluster["seconds"], "sopa": sopa.__version__}
    Path(request["took"]).write_text(json.dumps(took), encoding="utf-8")


if __name__ == "__main__":
    main()
