"""What a worker process keeps between tasks: open slides, loaded models, fixed threads."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wsi_pipeline.config import PipelineConfig

if TYPE_CHECKING:
    from wsi_pipeline.cells.classifier import CellClassifier
    from wsi_pipeline.segmentation.batching import Batch
    from wsi_pipeline.segmentation.models import FlowModel
    from wsi_pipeline.slides import Slide, SlideSpec

_OPEN_SLIDES = 4
_lock = threading.RLock()
_slides: OrderedDict[Any, Slide] = OrderedDict()
_models: dict[tuple[str, ...], Any] = {}
_batches: dict[tuple[str, int], Batch] = {}
_threads: int | None = None


def use_threads(threads: int) -> None:
    """Fix the intra-op threads of this process; results in float32 depend on their number."""
    global _threads  # noqa: PLW0603
    with _lock:
        if _threads == threads:
            return
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        logging.getLogger("numba").setLevel(logging.WARNING)
        _threads = threads


def slide_of(spec: SlideSpec) -> Slide:
    """Return the open slide, opening it in this process when needed; the least recently used is closed."""
    with _lock:
        slide = _slides.pop(spec, None)
        if slide is None:
            slide = spec.open()
            while len(_slides) >= _OPEN_SLIDES:
                _slides.popitem(last=False)[1].close()
        _slides[spec] = slide
        return slide


def _once(key: tuple[str, ...], load: Callable[[], Any]) -> Any:
    with _lock:
        if key not in _models:
            _models[key] = load()
        return _models[key]


def segmentation_model(config: PipelineConfig, device: str) -> FlowModel:
    """Return the segmentation model, loaded once a process."""
    from wsi_pipeline.segmentation.models import load_model

    name, specimen, precision = config.segmentation.model, config.specimen, config.segmentation.precision
    model: FlowModel = _once(
        ("segmentation", name, specimen, precision, device),
        lambda: load_model(name, specimen=specimen, device=device, precision=precision),
    )
    return model


def batch_of(model: FlowModel, tiles: int) -> Batch:
    """Return the batch of a model in this process; one that was halved stays so for later blocks."""
    from wsi_pipeline.segmentation.batching import Batch

    with _lock:
        return _batches.setdefault((model.sha256, tiles), Batch.of(tiles))


def classifier_model(name: str, device: str) -> CellClassifier:
    """Return the cell classifier, loaded once a process."""
    from wsi_pipeline.cells.classifier import load_classifier

    model: CellClassifier = _once(("cells", name, device), lambda: load_classifier(name, device=device))
    return model
