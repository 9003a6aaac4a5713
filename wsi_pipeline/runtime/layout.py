"""How many worker processes, with how many threads, on which processors: of a machine, of an allocation, of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.config import RuntimeConfig

# A block's arrays are freed and asked for again, over and over. glibc gives each back to the system and takes it anew,
# page by page, which was half of a worker's time: kept, a block took 18 s of processor where it had taken 35.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a worker process, for glibc; others ignore it."""

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
CPU, GPU = "CPU", "GPU"
"""Dask resources of workers; a task takes one."""

_MOST_READERS = 4
_SHARING = "WSI_PIPELINE_PROCESSES_ON_GPU"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Worker processes of one machine or job.

    Attributes
    ----------
    cpu, gpu
        Processes without and with a GPU.
    cpu_threads, gpu_threads
        Tasks at once of each: one computes, the others read ahead.
    """

    cpu: int
    gpu: int = 0
    cpu_threads: int = 2
    gpu_threads: int = 2

    @property
    def processes(self) -> int:
        return self.cpu + self.gpu

    def options(self, gpus: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield threads, resources and environment of each process, those with a GPU first.

        Parameters
        ----------
        gpus
            Names of the GPUs, as CUDA_VISIBLE_DEVICES takes them; processes share them in turn.
        """
        for i in range(self.gpu):
            yield {
                "nthreads": self.gpu_threads,
                "resources": {GPU: self.gpu_threads},
                "env": {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], _SHARING: str(-(-self.gpu // len(gpus)))},
            }
        for _ in range(self.cpu):
            # Without a GPU among them all are alike, and what they see is left as it is.
            hidden = {"env": {"CUDA_VISIBLE_DEVICES": ""}} if self.gpu else {"env": {}}
            yield {"nthreads": self.cpu_threads, "resources": {CPU: self.cpu_threads}, **hidden}


def processes_on_gpu() -> int:
    """Return how many worker processes share the GPU of this one."""
    told = os.environ.get(_SHARING, "")
    return max(1, int(told)) if told.isdigit() else 1


def usable_cores() -> int:
    """Return the cores this process may use: of its affinity and control group, and of its Slurm allocation."""
    from dask.system import CPU_COUNT

    told = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, min(CPU_COUNT, int(told)) if told.isdigit() else CPU_COUNT)


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that PyTorch sees, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else [str(i) for i in range(torch.cuda.device_count())]
    return tuple(names[: torch.cuda.device_count()])


def layout_of(config: RuntimeConfig, *, cores: int, gpus: int) -> Layout:
    """Return the processes for so many cores and, where the run computes on them, GPUs.

    Without a GPU a process for each ``runtime.threads`` cores. With GPUs one process each, which reads ahead on up to
    four cores, and on the other cores processes that merge, answer and export, no more than slides are in flight.
    ``runtime.workers`` is the number of processes that segment, whichever of the two.
    """
    if not gpus:
        return Layout(cpu=config.workers or max(1, cores // config.threads), cpu_threads=1 + config.prefetch)
    segmenting = config.workers or gpus
    readers = max(config.prefetch, min(_MOST_READERS, cores // segmenting // 2))
    left = cores - segmenting * (1 + readers)
    return Layout(
        cpu=max(1, min(config.slides_in_flight, left)),
        gpu=segmenting,
        cpu_threads=1 + config.prefetch,
        gpu_threads=1 + readers,
    )
