"""What a worker process keeps between tasks: open slides, loaded models, fixed threads."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.runtime.tasks import waiting_for_others

if TYPE_CHECKING:
    from wsi_pipeline.cells.classifier import CellClassifier
    from wsi_pipeline.cells.crop_features import CropFeatures
    from wsi_pipeline.cells.evidence import Evidence
    from wsi_pipeline.predictions.fibrosis import FibrosisModel
    from wsi_pipeline.predictions.slide_models import SlideEnsemble
    from wsi_pipeline.segmentation.batching import Batch
    from wsi_pipeline.segmentation.models import CompactModel, FlowModel
    from wsi_pipeline.segmentation.precision import RequestedPrecision
    from wsi_pipeline.slides import Slide, SlideSpec

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_OPEN_SLIDES = 4
_lock = threading.RLock()
_computing = threading.RLock()
_of_thread = threading.local()
_slides: OrderedDict[Any, Slide] = OrderedDict()
_opening: dict[Any, threading.Lock] = {}
_models: dict[tuple[str, ...], Any] = {}
_batches: dict[tuple[str, int], Batch] = {}


def use_threads(threads: int) -> None:
    """Fix the intra-op threads of this thread's work; results in float32 depend on their number."""
    with _lock:
        if getattr(_of_thread, "threads", None) == threads:
            return
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        logging.getLogger("numba").setLevel(logging.WARNING)
        _of_thread.threads = threads


@contextmanager
def computing() -> Iterator[None]:
    """Hold the worker's processor or GPU; the worker's other threads meanwhile decode what comes next.

    A worker has ``1 + runtime.prefetch`` threads, each with a task: one computes, the others read and then wait here.
    That bounds what is decoded ahead, whichever slides it is of.
    """
    with waiting_for_others():
        _computing.acquire()
    try:
        yield
    finally:
        _computing.release()


def exclusive(task: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Make a task hold the worker's processor or GPU from its first step to its last."""

    @wraps(task)
    def run(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
        with computing():
            return task(*arguments, **named)

    return run


def on_device(task: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Mark a task that segments or classifies: with GPUs in a cluster, it runs on workers that have one."""
    task.on_device = True  # type: ignore[attr-defined]
    return task


def slide_of(spec: SlideSpec) -> Slide:
    """Return the open slide, opening it in this process when needed.

    The least recently used is let go, and closed when no thread reads from it any more.
    """
    with _lock:
        opening = _opening.setdefault(spec, threading.Lock())
    with opening:  # one that is slow to open, behind a URL, keeps only those who want it waiting
        with _lock:
            slide = _slides.pop(spec, None)
        if slide is None:
            slide = spec.open()
        with _lock:
            _slides[spec] = slide
            while len(_slides) > _OPEN_SLIDES:
                _opening.pop(_slides.popitem(last=False)[0], None)
        return slide


def _once(key: tuple[str, ...], load: Callable[[], Any]) -> Any:
    with _lock:
        if key not in _models:
            _models[key] = load()
        return _models[key]


def segmentation_model(config: PipelineConfig, device: str, precision: RequestedPrecision | None = None) -> FlowModel:
    """Return the segmentation model, loaded once a process.

    ``precision`` wins over the configuration's: what ``auto`` meant on the worker that planned the slide holds on all.
    """
    from wsi_pipeline.segmentation.models import load_model

    name, specimen = config.segmentation.model, config.specimen
    precision = precision or config.segmentation.precision
    model: FlowModel = _once(
        ("segmentation", name, specimen, precision, device),
        lambda: load_model(name, specimen=specimen, device=device, precision=precision),
    )
    return model


def megakaryocyte_model(
    config: PipelineConfig, device: str, precision: RequestedPrecision | None = None
) -> CompactModel | None:
    """Return the network that delineates megakaryocytes, loaded once a process; None where none is asked for."""
    from wsi_pipeline.segmentation.megakaryocytes import load_megakaryocyte_model

    name, specimen = config.segmentation.megakaryocyte_model, config.specimen
    if name is None:
        return None
    precision = precision or config.segmentation.precision
    model: CompactModel = _once(
        ("megakaryocytes", name, specimen, precision, device),
        lambda: load_megakaryocyte_model(name, specimen=specimen, device=device, precision=precision),
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


def fibrosis_model(name: str) -> FibrosisModel:
    """Return a model that ranks tiles of reticulin sections, loaded once a process."""
    from wsi_pipeline.predictions.fibrosis import load_fibrosis_model
    from wsi_pipeline.weights import find_weights

    sha256 = find_weights(name, "fibrosis").sha256
    model: FibrosisModel = _once(("fibrosis", name, sha256), lambda: load_fibrosis_model(name))
    return model


def slide_model(name: str) -> SlideEnsemble:
    """Return a model of slides, loaded once a process; a file that was replaced since is loaded anew."""
    from wsi_pipeline.predictions.slide_models import load_slide_model
    from wsi_pipeline.weights import find_weights

    sha256 = find_weights(name, "slides").sha256
    model: SlideEnsemble = _once(("slides", name, sha256), lambda: load_slide_model(name))
    return model


def crop_features(device: str) -> CropFeatures:
    """Return what finds the cell in the middle of a crop, loaded once a process."""
    from wsi_pipeline.cells.crop_features import CropFeatures

    found: CropFeatures = _once(("crops", device), lambda: CropFeatures(device))
    return found


def evidence_of(name: str, device: str) -> Evidence | None:
    """Return the evidence of a cell classifier, loaded once a process; None where its card names none."""
    from wsi_pipeline.cells.evidence import Evidence

    classifier = classifier_model(name, device)
    evidence: Evidence | None = _once(("evidence", name, device), lambda: Evidence.of(classifier))
    return evidence
