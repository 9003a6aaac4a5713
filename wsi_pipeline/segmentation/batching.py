"""How many network tiles go into one batch, and what happens when a GPU cannot hold them.

A batch has one shape for a whole run, chosen before it from the free memory of the GPU. There was no GPU where this
was written: the choice was tested as a function of numbers, and the halving with a model that raises
``torch.cuda.OutOfMemoryError``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from wsi_pipeline.errors import DeviceError

CPU_BATCH = 8
"""Tiles a batch on a CPU, whatever its memory."""

MAX_BATCH = 64
"""Beyond this a GPU gains nothing and a block is padded for nothing."""

_SHARE = 0.6
_ATTENTION_COPIES, _WIDTH_COPIES, _HEAD_WIDTH = 4, 16, 64

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def batch_for_memory(free_bytes: int, *, model_bytes: int, tile_bytes: int, workers: int = 1) -> int:
    """Return the tiles a batch that a GPU can hold: a power of two from 1 to :data:`MAX_BATCH`.

    Parameters
    ----------
    free_bytes
        Free memory of the GPU.
    model_bytes
        Of the network's weights, counted once for each worker.
    tile_bytes
        Estimate of what one tile needs on its way through the network.
    workers
        Worker processes that share the GPU.

    Notes
    -----
    Two fifths of the memory are left to the CUDA context, the classifier and the allocator's gaps. The answer is 1
    where not even one tile seems to fit: the estimate is no reason to refuse.
    """
    fits = int((_SHARE * free_bytes / workers - model_bytes) // tile_bytes)
    return 1 if fits < 1 else min(MAX_BATCH, 1 << (fits.bit_length() - 1))


def transformer_tile_bytes(*, tokens: int, width: int, itemsize: int) -> int:
    """Estimate the memory that one tile needs in a vision transformer with global attention.

    The attention of one layer dominates: ``tokens ** 2`` numbers a head (of 64 channels), with its position bias,
    softmax and copies. For ``cpsam`` in bf16 this is 160 MiB a tile.
    """
    heads = max(1, width // _HEAD_WIDTH)
    return itemsize * (_ATTENTION_COPIES * heads * tokens**2 + _WIDTH_COPIES * width * tokens)


def convolution_tile_bytes(*, side: int, width: int, channels: int, itemsize: int) -> int:
    """Estimate the memory that one tile needs in a U-Net of ``width`` channels at full resolution."""
    return side**2 * (itemsize * 12 * width + 4 * (3 + channels))


def model_bytes(network: Any) -> int:
    """Return the memory of a network's parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(kw_only=True)
class Batch:
    """The batch of a run in one worker; it halves at most once, and stays so.

    Attributes
    ----------
    planned
        Tiles, as chosen before the run.
    used
        Tiles, as they are sent through the network now.
    """

    planned: int
    used: int

    @classmethod
    def of(cls, tiles: int) -> Batch:
        return cls(planned=tiles, used=tiles)

    @property
    def halved(self) -> bool:
        return self.used < self.planned

    def halve(self, what: str) -> None:
        """Halve the batch, and say so in the log.

        Raises
        ------
        DeviceError
            It was halved before, or is a single tile.
        """
        if self.halved or self.used == 1:
            was = f", halved from {self.planned}" if self.halved else ""
            raise DeviceError(
                f"{what}: the GPU ran out of memory with {self.used} network tiles a batch{was}; set "
                "segmentation.batch_size lower, run fewer runtime.workers, or end what else uses the GPU",
                reason="out-of-memory",
            )
        self.used //= 2
        _log.warning(
            "%s: the GPU ran out of memory; going on with %d network tiles a batch instead of %d. The results are not "
            "byte-comparable to those of other runs",
            what, self.used, self.planned,
        )  # fmt: skip


def run_halving(run: Callable[[int], _T], batch: Batch, what: str) -> _T:
    """Return ``run(tiles)``; after a CUDA out-of-memory error halve the batch, and run again from the beginning.

    Parameters
    ----------
    what
        Names the work in the log and the error.

    Raises
    ------
    DeviceError
        Reason ``out-of-memory``: half of the batch does not fit either.

    Notes
    -----
    Only ever exercised with a model that raises ``torch.cuda.OutOfMemoryError``; see the module's docstring.
    """
    import torch

    while True:
        try:
            return run(batch.used)
        except torch.cuda.OutOfMemoryError:
            batch.halve(what)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
