"""The batch of a run: chosen by the first worker that needs it, then the same for all, also after a resume."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import OutputError
from wsi_pipeline.runtime.layout import processes_on_gpu
from wsi_pipeline.runtime.ledger import key_of
from wsi_pipeline.segmentation.batching import CPU_BATCH, batch_for_memory
from wsi_pipeline.segmentation.models import FlowModel

PATTERN = ".batch-*.json"
"""Files below ``OUT/work`` that hold the choice, one a model."""


def network_batch(work: Path, model: FlowModel, config: PipelineConfig, device: str) -> int:
    """Return the network tiles a batch of a run.

    Parameters
    ----------
    work
        ``OUT/work``, shared by all workers of the run.
    device
        ``cpu`` or ``cuda``.

    Returns
    -------
    int
        What the configuration says; with ``auto`` 8 on a CPU, and on a GPU what its free memory held when the
        first worker asked.
    """
    asked = config.segmentation.batch_size
    if asked != "auto":
        return asked
    if device == "cpu":
        return CPU_BATCH

    def choose() -> int:
        import torch

        free, _ = torch.cuda.mem_get_info()
        return batch_for_memory(
            free, model_bytes=model.model_bytes, tile_bytes=model.tile_bytes, workers=processes_on_gpu()
        )

    key = key_of(model=model.sha256, precision=model.precision, tile_px=model.tile_px)
    return settle(work / PATTERN.replace("*", key), choose)


def settle(path: Path, choose: Callable[[], int]) -> int:
    """Return the number in a JSON file; where there is none choose it, and let the first who chose win.

    Raises
    ------
    OutputError
        The file is damaged.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            mine.write_text(json.dumps({"tiles": choose()}), encoding="utf-8")
            try:
                os.link(mine, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                os.replace(mine, path)
        finally:
            mine.unlink(missing_ok=True)
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["tiles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: the recorded batch size is damaged ({error}); remove the file") from None
