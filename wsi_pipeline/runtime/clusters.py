"""Where the tasks of a run go: workers of this machine, of Slurm, of this allocation, or of any Dask scheduler.

Whatever the kind, scheduler and dashboard are heard on loopback alone unless an interface or ``--dashboard`` asks for
more, nothing is written outside the run's folder, and a user's own settings of dask-jobqueue are not mixed in.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError, DeviceError, WsiPipelineError
from wsi_pipeline.runtime.cluster_config import ClusterConfig, SlurmConfig, TlsFiles, load_cluster_config
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.kept_workers import keep_workers
from wsi_pipeline.runtime.layout import (
    CPU,
    GPU,
    KEEP_MEMORY,
    THREAD_SETTINGS,
    Layout,
    layout_of,
    usable_cores,
    visible_gpus,
)
from wsi_pipeline.runtime.process import ProcessName, this_process

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster
    from distributed.security import Security

_CLOSE_S = 60
_SILENT = logging.CRITICAL
_ANSWER_S = 20
_FIRST_WORKER_S = 120
LOOPBACK = "127.0.0.1"
_KEYS = ".keys-"
_OWNER = "owner.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClusterRequest:
    """A cluster that is asked for.

    Attributes
    ----------
    kind
        ``local``, ``slurm``, ``srun`` (workers inside the allocation that this process is in), or the address of a
        Dask scheduler.
    config
        What it needs to be told.
    work
        Folder for keys and logs of the cluster; the workers must see it.
    dashboard
        Where Dask's dashboard listens, as ``HOST:PORT``; None is any free port of loopback.
    """

    kind: str = "local"
    config: ClusterConfig = field(default_factory=ClusterConfig)
    work: Path | None = None
    dashboard: str | None = None

    @property
    def is_local(self) -> bool:
        return self.kind == "local"

    @property
    def dashboard_address(self) -> str:
        return self.dashboard or f"{LOOPBACK}:0"


@dataclass(frozen=True, kw_only=True)
class OpenCluster:
    """A cluster with at least one worker, and a client on it.

    Attributes
    ----------
    client
        Connected.
    device
        What segments and classifies.
    pools
        Whether there are workers for the GPU and others, told apart by their resources.
    """

    client: Client
    device: Literal["cpu", "cuda"]
    pools: frozenset[str] = frozenset()

    def resources(self, on_gpu: bool) -> dict[str, float] | None:
        """Return what a task asks for: a GPU's worker, or one that keeps off them; None where all are alike."""
        if self.device == "cpu":
            return None
        wanted = GPU if on_gpu else CPU
        return {wanted: 1} if wanted in self.pools else None


def request_cluster(kind: str, out: Path, config: Path | None = None, dashboard: str | None = None) -> ClusterRequest:
    """Return the request of a run's cluster.

    Parameters
    ----------
    kind
        As :attr:`ClusterRequest.kind`.
    out
        The run's folder.
    config
        A YAML file; see :func:`wsi_pipeline.runtime.cluster_config.load_cluster_config`.
    dashboard
        ``HOST:PORT``.

    Raises
    ------
    ConfigError
        The file cannot be used, or an option has no meaning for the kind.
    """
    started_here = kind in ("local", "slurm", "srun")
    if dashboard is not None:
        host, _, port = dashboard.rpartition(":")
        if not (host and port.isdigit() and int(port) < 65536):
            raise ConfigError(f"--dashboard {dashboard!r}: write HOST:PORT, for example 127.0.0.1:8787")
        if not started_here:
            raise ConfigError(f"--dashboard is for schedulers that the run starts, not for the one at {kind}")
    if kind == "local" and config is not None:
        raise ConfigError("--cluster-config goes with --cluster slurm, srun or an address")
    return ClusterRequest(
        kind=kind,
        config=load_cluster_config(config, kind),
        work=out.absolute() / "work",
        dashboard=dashboard,
    )


def slurm_script(request: ClusterRequest, config: RuntimeConfig) -> str:
    """Return the job script that a run would submit to Slurm."""
    from wsi_pipeline.runtime.slurm import job_script

    layout = _slurm_layout(request, config)[1]
    return job_script(request, config, layout)


def _slurm_layout(request: ClusterRequest, config: RuntimeConfig) -> tuple[Literal["cpu", "cuda"], Layout]:
    slurm = request.config
    if not isinstance(slurm, SlurmConfig):
        raise TypeError("a Slurm cluster needs a SlurmConfig")
    device = gpu_device(config, slurm.gpus, "gpus is 0 in --cluster-config; set how many a job has")
    return device, layout_of(config, cores=slurm.cores, gpus=slurm.gpus if device == "cuda" else 0)


def dask_settings(config: RuntimeConfig) -> dict[str, Any]:
    """Return Dask's settings of a run, for scheduler, workers and client."""
    return {
        "distributed.scheduler.allowed-failures": config.retries,
        # Only as many tasks as threads: those waiting behind one that kills its worker would be blamed for the death.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        # A paused worker would wait for ever for memory that no Dask key holds; running out is an error instead.
        "distributed.worker.memory.pause": False,
        "distributed.comm.timeouts.connect": "20s",
        "distributed.admin.large-graph-warning-threshold": "50MB",
        # Set before the process starts: later neither the allocator nor OpenMP reads it.
        "distributed.nanny.pre-spawn-environ": worker_environment(config.threads),
    }


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of worker processes."""
    return {**dict.fromkeys(THREAD_SETTINGS, str(threads)), **KEEP_MEMORY}


@contextmanager
def open_cluster(request: ClusterRequest, config: RuntimeConfig) -> Iterator[OpenCluster]:
    """Yield a cluster; what this process started of it is stopped in the end.

    Raises
    ------
    ConfigError
        The kind is unknown, the address cannot be reached, or Slurm refuses the job or ends it before a worker starts.
    DeviceError
        CUDA was asked for, and no worker would have it.
    """
    import dask
    import distributed  # noqa: F401  its import sets the levels that are set again below

    for name in ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.http.proxy"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its import sets INFO, which fills the user's terminal
    with dask.config.set(dask_settings(config)):
        if request.kind == "local":
            opened = _open_local(request, config)
        elif request.kind == "slurm":
            opened = _open_slurm(request, config)
        elif request.kind == "srun":
            opened = _open_allocation(request, config)
        elif "://" in request.kind:
            opened = _open_address(request, config)
        else:
            raise ConfigError(
                f"--cluster {request.kind!r}: use local, slurm, srun, or a scheduler address such as tcp://host:8786"
            )
        with opened as cluster:
            yield cluster


@contextmanager
def _open_local(request: ClusterRequest, config: RuntimeConfig) -> Iterator[OpenCluster]:
    from distributed import Client, Nanny
    from distributed.deploy.spec import SpecCluster

    device: Literal["cpu", "cuda"] = "cuda" if resolve_device(config.device) == "cuda" else "cpu"
    gpus = visible_gpus() if device == "cuda" else ()
    layout = layout_of(config, cores=usable_cores(), gpus=len(gpus))
    alike = {"host": LOOPBACK, "silence_logs": _SILENT}
    workers = {i: {"cls": Nanny, "options": {**alike, **options}} for i, options in enumerate(layout.options(gpus))}
    for left in reversed(range(_STARTS)):
        try:
            cluster = SpecCluster(workers=workers, scheduler=_scheduler(request, None), silence_logs=_SILENT)
            break
        except RuntimeError as error:  # a worker died before it had started
            if not left:
                raise WsiPipelineError(
                    f"the workers of this machine do not start ({error}); most often memory is short: use fewer "
                    "runtime.workers",
                    reason="run-stopped",
                ) from None
    client = Client(cluster, set_as_default=False)
    try:
        with keep_workers(cluster):
            yield OpenCluster(client=client, device=device, pools=_pools(device))
    finally:
        close(client)
        close(cluster)


_STARTS = 3


def _pools(device: str) -> frozenset[str]:
    return frozenset((CPU, GPU) if device == "cuda" else (CPU,))


def _scheduler(request: ClusterRequest, security: Security | None) -> dict[str, Any]:
    from distributed import Scheduler

    where = {"interface": request.config.interface} if request.config.interface else {"host": LOOPBACK}
    return {
        "cls": Scheduler,
        "options": {
            **where,
            "port": 0,
            "dashboard": True,
            "dashboard_address": request.dashboard_address,
            "security": security,
            "protocol": "tls://" if security is not None else "tcp://",
        },
    }


def gpu_device(config: RuntimeConfig, gpus: int, where: str) -> Literal["cpu", "cuda"]:
    """Return the device of a run whose workers are elsewhere.

    Raises
    ------
    DeviceError
        CUDA was asked for, and the workers have no GPU.
    """
    if config.device == "cuda" and not gpus:
        raise DeviceError(f"device cuda was asked for, but {where}")
    return "cuda" if gpus and config.device != "cpu" else "cpu"


@contextmanager
def _open_slurm(request: ClusterRequest, config: RuntimeConfig) -> Iterator[OpenCluster]:
    from distributed import Client

    from wsi_pipeline.runtime.slurm import slurm_cluster

    device, layout = _slurm_layout(request, config)
    with (
        tls_of(request) as tls,
        slurm_cluster(request, config, layout, tls, _scheduler(request, security_of(tls))) as cluster,
    ):
        client = Client(cluster, set_as_default=False, security=security_of(tls))
        try:
            yield OpenCluster(client=client, device=device, pools=_pools(device))
        finally:
            close(client)


@contextmanager
def _open_allocation(request: ClusterRequest, config: RuntimeConfig) -> Iterator[OpenCluster]:
    from distributed import Client
    from distributed.deploy.spec import SpecCluster

    from wsi_pipeline.runtime.allocation import allocation_of, start_workers

    allocation = allocation_of()
    device = gpu_device(config, allocation.gpus, "the tasks of this allocation have no GPU (sbatch --gpus-per-task=1)")
    layout = layout_of(config, cores=allocation.cores, gpus=allocation.gpus if device == "cuda" else 0)
    with tls_of(request) as tls:
        security = security_of(tls)
        cluster = SpecCluster(
            workers={}, scheduler=_scheduler(request, security), security=security, silence_logs=_SILENT
        )
        workers = start_workers(cluster.scheduler_address, request.config, config, layout, tls)
        try:
            client = Client(cluster, set_as_default=False, security=security)
            try:
                workers.wait_for_first(client)
                workers.watch(cluster)
                yield OpenCluster(client=client, device=device, pools=_pools(device))
            finally:
                workers.let_end()
                close(client)
        finally:
            close(cluster)
            workers.stop()


@contextmanager
def _open_address(request: ClusterRequest, config: RuntimeConfig) -> Iterator[OpenCluster]:
    from distributed import Client

    tls = request.config.tls
    security = security_of(tls) if isinstance(tls, TlsFiles) else None
    try:
        client = Client(request.kind, timeout=_ANSWER_S, set_as_default=False, security=security)
    except (OSError, ValueError, TypeError) as error:
        hint = ""
        if request.kind.startswith("tls://") and security is None:
            hint = "; give the certificates by tls in --cluster-config"
        raise ConfigError(f"--cluster {request.kind}: no Dask scheduler answers there ({error}){hint}") from None
    try:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
        except TimeoutError:
            raise ConfigError(
                f"--cluster {request.kind}: the scheduler has no workers; start some with wsi-pipeline worker"
            ) from None
        resources = pools_of(client.scheduler_info(n_workers=-1)["workers"])
        lacking = f"no worker at {request.kind} has the resource GPU; start some with wsi-pipeline worker --gpus"
        device = gpu_device(config, int(GPU in resources), lacking)
        yield OpenCluster(client=client, device=device, pools=resources)
    finally:
        close(client)


def pools_of(workers: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Return which of our resources the workers of a scheduler have."""
    return frozenset(name for worker in workers.values() for name in worker.get("resources", {}) if name in (CPU, GPU))


@contextmanager
def tls_of(request: ClusterRequest) -> Iterator[TlsFiles | None]:
    """Yield the certificates of a cluster that this process starts: given ones, or ones made for the run.

    Raises
    ------
    ConfigError
        A file is missing, or keys cannot be made.
    """
    tls = request.config.tls
    if isinstance(tls, TlsFiles):
        yield tls
    elif tls == "none" or (tls == "auto" and request.config.interface in (None, "lo")):
        yield None
    else:
        if request.work is None:
            raise TypeError("keys need a folder")
        _remove_keys_of_the_dead(request.work)
        folder = request.work / f"{_KEYS}{uuid.uuid4().hex}"
        try:
            yield _make_keys(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_keys_of_the_dead(work: Path) -> None:
    """Remove keys that runs left which were killed on this host; their schedulers are gone."""
    for owner in work.glob(f"{_KEYS}*/{_OWNER}"):
        try:
            process = ProcessName.from_record(json.loads(owner.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
        if process.runs() is False:
            shutil.rmtree(owner.parent, ignore_errors=True)


def _make_keys(folder: Path) -> TlsFiles:
    from distributed.security import Security

    try:
        made = Security.temporary()
    except ImportError:
        raise ConfigError(
            "keys for TLS need the package cryptography: pip install 'wsi-pipeline[slurm]'; or give tls certificates "
            "in --cluster-config"
        ) from None
    folder.mkdir(parents=True, mode=0o700)
    (folder / _OWNER).write_text(json.dumps(this_process().to_record()), encoding="utf-8")
    contents = {"ca_file": made.tls_ca_file, "cert": made.tls_worker_cert, "key": made.tls_worker_key}
    for name, content in contents.items():
        path = folder / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_text(str(content), encoding="ascii")
    return TlsFiles(**{name: folder / f"{name}.pem" for name in contents})


def security_of(tls: TlsFiles | None) -> Security | None:
    """Return Dask's security of certificates, for every role.

    Raises
    ------
    ConfigError
        A file cannot be read.
    """
    from distributed.security import Security

    if tls is None:
        return None
    for name, path in (("ca_file", tls.ca_file), ("cert", tls.cert), ("key", tls.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"tls.{name} {path} cannot be read: {error.strerror or error}") from None
    pairs = {f"tls_{role}_{part}": str(getattr(tls, part)) for role in ("client", "scheduler", "worker")
             for part in ("cert", "key")}  # fmt: skip
    return Security(tls_ca_file=str(tls.ca_file), require_encryption=True, **pairs)


def close(part: Client | Cluster) -> None:
    """Close a client or cluster; what the run found is not lost because a worker is slow to stop."""
    of_callbacks = logging.getLogger("tornado.application")
    level = of_callbacks.level
    of_callbacks.setLevel(_SILENT + 1)  # it prints tracebacks of workers that are slow to stop
    try:
        part.close(timeout=_CLOSE_S)
    except TimeoutError:
        _log.info("%s did not close within %s s", type(part).__name__, _CLOSE_S)
    finally:
        of_callbacks.setLevel(level)
