"""Workers as Slurm jobs, through dask-jobqueue; jobs that end are replaced, jobs that cannot run end the run.

Dask's adaptive scaling counts what it asked for, so a job that Slurm ended (walltime, preemption, a lost node) would
be counted for ever and never replaced (dask-jobqueue issues 498 and 611). Here a watch asks ``squeue`` which jobs there
are and forgets the others.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import SlurmConfig, TlsFiles, shell_path
from wsi_pipeline.runtime.clusters import LOOPBACK, ClusterRequest, close
from wsi_pipeline.runtime.layout import Layout

WORKER_COMMAND = "wsi_pipeline.cli.main worker"
_SECTION = "wsi-pipeline"
_OTHER_KEYS = (
    "name cores memory processes python interface death-timeout local-directory shared-temp-directory extra "
    "worker-command queue account project walltime env-extra job-cpu job-mem job-extra log-directory header-skip"
)
_LIST_KEYS = "worker-extra-args job-script-prologue job-extra-directives job-directives-skip"
_EVERY_S = 5.0
_IDLE_CHECKS = 12
_FUTILE = 3
_SLURM_ANSWER_S = 60

_log = logging.getLogger(__name__)


def job_script(request: ClusterRequest, config: RuntimeConfig, layout: Layout) -> str:
    """Return the job script that a run would submit, and how, with placeholders for what is known later."""
    slurm = _slurm(request)
    tls = slurm.tls if isinstance(slurm.tls, TlsFiles) else None
    keys = Path("KEYS-OF-THE-RUN")
    if tls is None and slurm.tls != "none" and (slurm.tls == "temporary" or slurm.interface not in (None, "lo")):
        tls = TlsFiles(ca_file=keys / "ca_file.pem", cert=keys / "cert.pem", key=keys / "key.pem")
    with _jobqueue() as jobqueue:
        job = jobqueue.slurm.SLURMJob(
            scheduler="tls://SCHEDULER:PORT" if tls else "tcp://SCHEDULER:PORT",
            name="wsi-RUN-0",
            job_name="wsi-RUN",
            **_job_options(slurm, config, layout, tls),
        )
        script = str(job.job_script())
    submit = shlex.join([*_submit(slurm, request), "JOB-SCRIPT"])
    return script.replace("\n", f"\n# {submit}\n", 1)


def _slurm(request: ClusterRequest) -> SlurmConfig:
    if not isinstance(request.config, SlurmConfig):
        raise TypeError("a Slurm cluster needs a SlurmConfig")
    return request.config


@contextmanager
def _jobqueue() -> Iterator[Any]:
    """Import dask-jobqueue without its writing into the user's home, and keep its user-wide settings out."""
    import dask

    ensure_file = dask.config.ensure_file
    dask.config.ensure_file = lambda *_, **__: None
    try:
        import dask_jobqueue
    except ImportError:
        raise ConfigError("--cluster slurm needs dask-jobqueue: pip install 'wsi-pipeline[slurm]'") from None
    finally:
        dask.config.ensure_file = ensure_file
    section = {**dict.fromkeys(_OTHER_KEYS.split()), "shebang": "#!/usr/bin/env bash"}
    lists = dict.fromkeys(_LIST_KEYS.split(), ())
    with dask.config.set({f"jobqueue.{_SECTION}": {**section, **lists, "scheduler-options": {}}}):
        yield dask_jobqueue


def _job_options(slurm: SlurmConfig, config: RuntimeConfig, layout: Layout, tls: TlsFiles | None) -> dict[str, Any]:
    """Return dask-jobqueue's options of a job. It joins the words of the command as they are, so they come quoted."""
    directives = list(slurm.directives)
    if slurm.gpus:
        directives.insert(0, slurm.gpu_request or f"--gres=gpu:{slurm.gpus}")
    words = [
        "--cpu-processes", layout.cpu, "--gpu-processes", layout.gpu,
        "--cpu-threads", layout.cpu_threads, "--gpu-threads", layout.gpu_threads,
        "--compute-threads", config.threads,
        "--lifetime-s", slurm.lifetime_s, "--stagger-s", slurm.stagger_s,
    ]  # fmt: skip
    if slurm.interface is None:
        words += ["--host", LOOPBACK]
    if tls is not None:
        for option, path in (("--tls-ca-file", tls.ca_file), ("--tls-cert", tls.cert), ("--tls-key", tls.key)):
            words += [option, shlex.quote(str(path))]
    return {
        "config_name": _SECTION,
        "queue": slurm.partition,
        "account": slurm.account,
        "walltime": slurm.walltime,
        # Dask divides threads among processes; Slurm is told cores.
        "cores": layout.processes,
        "processes": layout.processes,
        "job_cpu": slurm.cores,
        "memory": slurm.memory,
        "interface": slurm.interface,
        "death_timeout": slurm.death_timeout_s,
        "local_directory": shell_path(slurm.scratch) if slurm.scratch else '"${TMPDIR:-/tmp}"',
        "python": shlex.quote(slurm.python or sys.executable),
        "worker_command": WORKER_COMMAND,
        "worker_extra_args": [str(word) for word in words],
        "job_extra_directives": directives,
        "job_script_prologue": list(slurm.setup),
    }


def _log_folder(slurm: SlurmConfig, request: ClusterRequest) -> Path:
    return (slurm.log_directory or (request.work or Path()) / "slurm").absolute()


def _submit(slurm: SlurmConfig, request: ClusterRequest) -> list[str]:
    """Return the words that submit a job; the log's path is among them and not in the script, where it may not fit."""
    pattern = str(_log_folder(slurm, request)).replace("%", "%%") + "/%x-%j.log"
    return ["sbatch", f"--output={pattern}", "--open-mode=append"]


@contextmanager
def slurm_cluster(
    request: ClusterRequest, config: RuntimeConfig, layout: Layout, tls: TlsFiles | None, scheduler: dict[str, Any]
) -> Iterator[Any]:
    """Start a scheduler here and submit the first jobs; yield dask-jobqueue's cluster, watched and scaled by need.

    Raises
    ------
    ConfigError
        Slurm is not here, or refuses the job.
    """
    slurm = _slurm(request)
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise ConfigError(f"--cluster slurm: {command} is not on PATH; run it on a login node of a Slurm cluster")
    submit = _submit(slurm, request)
    _log_folder(slurm, request).mkdir(parents=True, exist_ok=True)
    name = f"wsi-{uuid.uuid4().hex[:8]}"
    with _jobqueue() as jobqueue:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cluster = _cluster_class(jobqueue, submit)(
                name=name,
                job_name=name,
                security=scheduler["options"]["security"],
                protocol=scheduler["options"]["protocol"],
                scheduler_options=scheduler["options"],
                **_job_options(slurm, config, layout, tls),
            )
        watch = _Watch(cluster, name, _log_folder(slurm, request))
        try:
            _test(submit, cluster.job_script())
            cluster.scale(jobs=slurm.jobs.minimum)
            cluster.adapt(
                minimum_jobs=slurm.jobs.minimum,
                maximum_jobs=slurm.jobs.maximum,
                worker_key=_job_of,
                interval=f"{_EVERY_S:g}s",
                wait_count=_IDLE_CHECKS,
            )
            watch.start()
            watch.wait_for_first_worker()
            yield cluster
        finally:
            watch.stop()
            close(cluster)


def _job_of(worker: Any) -> str:
    """Return the job of a worker; all of a job's workers are idle before it is given up."""
    return _job_of_name(worker.name)


def _cluster_class(jobqueue: Any, submit: Sequence[str]) -> Any:
    class Job(jobqueue.slurm.SLURMJob):
        submit_command = shlex.join(submit)

    class SlurmCluster(jobqueue.SLURMCluster):
        job_cls = Job

        def _get_worker_security(self, security: Any) -> None:
            """Give the job no security: its files are among the worker's own options, quoted."""

    return SlurmCluster


def _test(submit: Sequence[str], script: str) -> None:
    """Ask Slurm whether it would take the job: otherwise every submission would fail, out of sight."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as file:
        file.write(script)
        file.flush()
        answer = _ask([*submit, "--test-only", file.name])
    if answer.returncode:
        raise ConfigError(f"--cluster slurm: sbatch refuses the job: {' '.join(answer.stderr.split())}")


def _ask(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_SLURM_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


class _Watch(threading.Thread):
    """Forgets jobs that ended, so that they are replaced; ends the run when none comes to work."""

    def __init__(self, cluster: Any, job_name: str, logs: Path) -> None:
        super().__init__(name="slurm jobs", daemon=True)
        self._cluster, self._job_name, self._logs = cluster, job_name, logs
        self._stopping = threading.Event()
        self._came: set[str] = set()
        self._unsubmitted: set[str] = set()
        self._futile = 0
        self._problem = ""
        self._said = ""

    def stop(self) -> None:
        """Let the jobs end without replacing them."""
        self._stopping.set()
        if self._cluster._adaptive is not None:
            self._cluster._adaptive.stop()
        if self.is_alive():
            self.join(_SLURM_ANSWER_S)

    def wait_for_first_worker(self) -> None:
        """Wait while Slurm keeps the jobs in its queue, however long.

        Raises
        ------
        ConfigError
            Jobs end before a worker comes.
        """
        while not self._cluster.scheduler_info["workers"]:
            if self._problem:
                raise ConfigError(f"--cluster slurm: {self._problem}")
            time.sleep(0.2)

    def run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            try:
                self._look()
            except Exception:  # noqa: BLE001  of a cluster that closes, or of a Slurm that will answer again
                if not self._stopping.is_set():
                    _log.exception("the jobs of the run could not be looked at")
            if self._problem:
                if self._came:  # the run is under way: without a scheduler it ends, where it would wait for ever
                    _log.error("%s", self._problem)
                    self._cluster.sync(self._cluster.scheduler.close)
                return

    def _look(self) -> None:
        jobs = dict(self._cluster.workers)
        answer = _ask(["squeue", "--noheader", f"--name={self._job_name}", "--format=%A %T %r"])
        if answer.returncode:
            _log.warning("squeue: %s", " ".join(answer.stderr.split()))
            return
        states = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in answer.stdout.splitlines() if " " in line}
        working = {_job_of_name(w["name"]) for w in list(self._cluster.scheduler_info["workers"].values())}
        if working - self._came:
            self._futile = 0
        self._came |= working
        if not self._came and (now := ", ".join(sorted(states.values())) or "no job yet") != self._said:
            self._said = now
            _log.warning("waiting for Slurm: %s", now)
        unsubmitted = {name for name, job in jobs.items() if job.job_id is None}
        ended = {name for name, job in jobs.items() if job.job_id is not None and job.job_id not in states}
        ended |= unsubmitted & self._unsubmitted  # seen twice: its submission is not just under way
        self._unsubmitted = unsubmitted
        for name in sorted(ended):
            futile = name not in self._came
            _log.warning("Slurm job %s ended%s", jobs[name].job_id, " before a worker came of it" if futile else "")
            self._futile += futile
        if self._futile >= _FUTILE and not working:
            loopback = ""
            if LOOPBACK in str(self._cluster.scheduler.address):
                loopback = "; the scheduler is on loopback, which other nodes do not reach (interface in "
                loopback += "--cluster-config)"
            self._problem = f"{self._futile} jobs ended before a worker came of them{loopback}; see {self._logs}"
        elif ended:
            self._cluster.sync(self._cluster.scale_down, ended)


def _job_of_name(name: object) -> str:
    """Return the job of a worker's name: ``wsi-RUN-JOB``, and a process number where a job has several."""
    return "-".join(str(name).split("-")[:3])
