"""Worker processes of one task or job, joined to a scheduler, until they are told to end or their time is up."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import TlsFiles
from wsi_pipeline.runtime.clusters import dask_settings, security_of
from wsi_pipeline.runtime.layout import Layout, visible_gpus

_CLOSE_S = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerRequest:
    """Workers that are asked for.

    Attributes
    ----------
    address
        The scheduler's.
    name
        Of the group; processes have a number behind it. Empty: host and Slurm task, or process id.
    layout
        How many processes and threads.
    compute_threads
        Intra-op threads, as ``runtime.threads``.
    memory_limit
        Of one process, as Dask takes it (``4GB``, ``auto``).
    local_directory
        For Dask's own files.
    interface, host
        Where they listen; one of the two at most.
    death_timeout_s
        Without a scheduler they end after so long.
    lifetime_s, stagger_s
        They drain and end after so long, give or take; 0 is never.
    tls
        Certificates; None for a scheduler without.
    """

    address: str
    layout: Layout
    name: str = ""
    compute_threads: int = 1
    memory_limit: str = "auto"
    local_directory: Path | None = None
    interface: str | None = None
    host: str | None = None
    death_timeout_s: float = 120
    lifetime_s: float = 0
    stagger_s: float = 0
    tls: TlsFiles | None = None


def run_workers(request: WorkerRequest) -> None:
    """Run the workers; returns when they have ended.

    Raises
    ------
    ConfigError
        There are fewer GPUs than asked for, or no scheduler answers.
    """
    import dask
    import distributed  # noqa: F401  its import sets the levels that are set again below

    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.WARNING)
    gpus = visible_gpus() if request.layout.gpu else ()
    if request.layout.gpu and not gpus:
        raise ConfigError("workers with a GPU were asked for, but PyTorch sees no CUDA GPU here; check nvidia-smi")
    security = security_of(request.tls)
    with dask.config.set(dask_settings(RuntimeConfig(threads=request.compute_threads))):
        try:
            asyncio.run(_serve(request, gpus, security))
        except (TimeoutError, OSError, RuntimeError) as error:
            # Dask's own error on what it could not start hides the cause behind it.
            cause = error.__cause__ or error
            raise ConfigError(f"no worker could join {request.address}: {cause or 'no scheduler answers'}") from None


async def _serve(request: WorkerRequest, gpus: tuple[str, ...], security: Any) -> None:
    from distributed import Nanny

    task = os.environ.get("SLURM_PROCID") if os.environ.get("SLURM_STEP_ID") else None
    group = request.name or f"{socket.gethostname()}-{task or os.getpid()}"
    drain = {"lifetime": f"{request.lifetime_s:g}s", "lifetime_stagger": f"{request.stagger_s:g}s"}
    nannies = [
        Nanny(
            request.address,
            name=f"{group}-{i}" if request.layout.processes > 1 else group,
            memory_limit=request.memory_limit,
            local_directory=str(request.local_directory) if request.local_directory else None,
            interface=request.interface,
            host=request.host,
            security=security,
            death_timeout=request.death_timeout_s,
            silence_logs=logging.WARNING,
            **options,
            **(drain if request.lifetime_s else {}),
        )
        for i, options in enumerate(request.layout.options(gpus))
    ]
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)

    async def work() -> None:
        await asyncio.gather(*nannies)
        sys.stderr.write(f"{len(nannies)} worker processes at {request.address}\n")
        await asyncio.gather(*(nanny.finished() for nanny in nannies))

    async def end() -> None:
        await told.wait()
        await asyncio.gather(*(nanny.close(timeout=_CLOSE_S, reason="told to end") for nanny in nannies))

    working, ending = asyncio.create_task(work()), asyncio.create_task(end())
    await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
    if told.is_set():  # what a worker that was starting says of its end is of no account
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await ending
    else:
        ending.cancel()
        working.result()
