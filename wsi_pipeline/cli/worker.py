"""``worker``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import ConfigError


def worker(
    address: Annotated[str, typer.Argument(help="The scheduler's address, as tcp://host:8786 or tls://host:8786.")],
    cpu_processes: Annotated[int, typer.Option(min=0, help="Processes without a GPU.")] = 1,
    gpu_processes: Annotated[int, typer.Option(min=0, help="Processes with a GPU, one a GPU.")] = 0,
    cpu_threads: Annotated[int, typer.Option(min=1, help="Tasks at once of each: one computes, others read.")] = 2,
    gpu_threads: Annotated[int, typer.Option(min=1, help="The same of processes with a GPU.")] = 3,
    compute_threads: Annotated[int, typer.Option(min=1, help="As runtime.threads of the run.")] = 1,
    name: Annotated[str, typer.Option(help="Of the group; default host and task.")] = "",
    nthreads: Annotated[int | None, typer.Option(hidden=True)] = None,
    memory_limit: Annotated[str, typer.Option(help="Of a process, as 4GB.")] = "auto",
    local_directory: Annotated[Path | None, typer.Option(help="For Dask's own files, on the node.")] = None,
    interface: Annotated[str | None, typer.Option(help="Network interface to listen on, as ib0.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of an interface.")] = None,
    protocol: Annotated[str | None, typer.Option(hidden=True)] = None,
    death_timeout: Annotated[float, typer.Option(min=1, help="Seconds without a scheduler before they end.")] = 120,
    lifetime_s: Annotated[float, typer.Option(min=0, help="Seconds after which they drain and end; 0 never.")] = 0,
    stagger_s: Annotated[float, typer.Option(min=0, help="Give or take so much.")] = 0,
    tls_ca_file: Annotated[Path | None, typer.Option(help="Certificate of the authority, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of the workers, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Join workers to a Dask scheduler, for runs with --cluster ADDRESS."""
    from wsi_pipeline.runtime.cluster_config import TlsFiles
    from wsi_pipeline.runtime.layout import Layout
    from wsi_pipeline.runtime.worker_process import WorkerRequest, run_workers

    if not cpu_processes + gpu_processes:
        raise ConfigError("--cpu-processes and --gpu-processes are both 0")
    files = (tls_ca_file, tls_cert, tls_key)
    tls = None
    if tls_ca_file is not None and tls_cert is not None and tls_key is not None:
        tls = TlsFiles(ca_file=tls_ca_file, cert=tls_cert, key=tls_key)
    elif any(files):
        raise ConfigError("--tls-ca-file, --tls-cert and --tls-key go together")
    run_workers(
        WorkerRequest(
            address=address,
            name=name,
            layout=Layout(cpu=cpu_processes, gpu=gpu_processes, cpu_threads=cpu_threads, gpu_threads=gpu_threads),
            compute_threads=compute_threads,
            memory_limit=memory_limit,
            local_directory=local_directory,
            interface=interface,
            host=host,
            death_timeout_s=death_timeout,
            lifetime_s=lifetime_s,
            stagger_s=stagger_s,
            tls=tls,
        )
    )
