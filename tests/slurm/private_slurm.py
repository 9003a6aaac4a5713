"""A Slurm of one node that only this test sees: its own keys, ports, configuration and spool, without systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
_START_S = 120

CONF = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Return which programs of Slurm are not on this machine."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(frozen=True, kw_only=True)
class PrivateSlurm:
    """A Slurm that runs.

    Attributes
    ----------
    folder
        Its files.
    environment
        With it, Slurm's commands mean this one.
    """

    folder: Path
    environment: dict[str, str]

    def ask(self, *words: str | Path, check: bool = True, cwd: Path | None = None) -> str:
        """Run a command of Slurm's and return what it prints."""
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True, timeout=120, cwd=cwd,
            check=False,
        )  # fmt: skip
        assert not (check and done.returncode), f"{words}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: str | Path, cwd: Path) -> str:
        """Submit a job and return its number."""
        return self.ask("sbatch", "--parsable", *words, cwd=cwd)

    def state(self, job: str) -> str:
        """Return the state of a job, of an array the states of its tasks; empty when it is forgotten."""
        shown = self.ask("scontrol", "show", "job", job, "--oneliner", check=False)
        return " ".join(word.split("=", 1)[1] for word in shown.split() if word.startswith("JobState="))

    def wait(self, job: str, timeout_s: float) -> str:
        """Wait until a job has ended and return its state."""
        until = time.monotonic() + timeout_s
        while True:
            state = self.state(job)
            if not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(state.split()):
                return state
            assert time.monotonic() < until, f"job {job} is still {state}:\n{self.ask('squeue')}"
            time.sleep(0.5)

    def jobs(self) -> list[str]:
        """Return the numbers of all jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%A").split()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def private_slurm(folder: Path) -> Iterator[PrivateSlurm]:
    """Start munge, controller and node, and stop them in the end, with every job."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    import pwd

    conf = folder / "slurm.conf"
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    conf.write_text(
        CONF.format(
            host=socket.gethostname().split(".")[0], port=_free_port(), node_port=_free_port(), folder=folder,
            user=pwd.getpwuid(os.getuid()).pw_name, memory_mb=memory_mb,
        ),
        encoding="utf-8",
    )  # fmt: skip
    (folder / "cgroup.conf").write_text("", encoding="utf-8")
    # Nothing of an allocation that this test may be in.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environment = {**clean, "SLURM_CONF": str(conf)}
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        with (folder / f"{name}.out").open("wb") as out:
            command = [str(_program(name)), *words]
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True))

    try:
        start(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        _await((folder / "munge.socket").exists, folder, started)
        start("slurmctld", "-D", "-i", "-f", str(conf))
        start("slurmd", "-D", "-f", str(conf))
        slurm = PrivateSlurm(folder=folder, environment=environment)
        _await(lambda: "idle" in slurm.ask("sinfo", "--noheader", "--format=%T", check=False), folder, started)
        yield slurm
        for job in slurm.jobs():
            slurm.ask("scancel", job, check=False)
        until = time.monotonic() + 20
        while slurm.jobs() and time.monotonic() < until:
            time.sleep(0.2)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(ready: object, folder: Path, started: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _START_S
    while not ready():  # type: ignore[operator]
        if time.monotonic() > until or any(process.poll() is not None for process in started):
            logs = [f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in folder.glob("*.out")]
            logs += [f"{path.name}: {path.read_text(errors='replace')[-1000:]}" for path in folder.glob("*.log")]
            raise AssertionError("Slurm did not start:\n" + "\n".join(logs))
        time.sleep(0.2)
