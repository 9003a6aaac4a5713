"""Clusters: how many processes of which kind, who listens where, who may join, and what a Slurm job is told."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError, DeviceError
from wsi_pipeline.runtime.cluster_config import (
    ClusterConfig,
    SlurmConfig,
    TlsFiles,
    load_cluster_config,
    shell_path,
    walltime_s,
)
from wsi_pipeline.runtime.clusters import ClusterRequest, _scheduler, request_cluster, security_of, slurm_script, tls_of
from wsi_pipeline.runtime.executor import Executor, open_executor
from wsi_pipeline.runtime.layout import Layout, layout_of, usable_cores
from wsi_pipeline.runtime.worker import on_device

CPU = RuntimeConfig(device="cpu", workers=1)


pytestmark = pytest.mark.usefixtures("by_value")


def square(x: int) -> int:
    return x * x


@on_device
def segment(x: int) -> int:
    time.sleep(0.05)
    return x


def export(x: int) -> int:
    time.sleep(0.05)
    return x


# Layout -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "expected"),
    [
        ({}, 8, 0, Layout(cpu=8)),
        ({"threads": 4}, 8, 0, Layout(cpu=2)),
        ({"threads": 4}, 2, 0, Layout(cpu=1)),
        ({"workers": 3, "prefetch": 0}, 8, 0, Layout(cpu=3, cpu_threads=1)),
        ({}, 16, 1, Layout(cpu=4, gpu=1, gpu_threads=5)),
        ({"slides_in_flight": 32}, 64, 4, Layout(cpu=32, gpu=4, gpu_threads=5)),
        ({}, 2, 1, Layout(cpu=1, gpu=1, gpu_threads=2)),
        ({"workers": 4}, 16, 1, Layout(cpu=4, gpu=4, gpu_threads=3)),
        ({"prefetch": 6}, 16, 1, Layout(cpu=4, gpu=1, cpu_threads=7, gpu_threads=7)),
    ],
)
def test_a_machine_is_filled(settings: dict[str, Any], cores: int, gpus: int, expected: Layout) -> None:
    assert layout_of(RuntimeConfig(**settings), cores=cores, gpus=gpus) == expected


def test_processes_share_the_gpus_in_turn_and_others_see_none() -> None:
    options = list(Layout(cpu=1, gpu=3, gpu_threads=4).options(("GPU-a", "GPU-b")))
    assert [o["env"]["CUDA_VISIBLE_DEVICES"] for o in options] == ["GPU-a", "GPU-b", "GPU-a", ""]
    assert [o["resources"] for o in options] == [{"GPU": 4}] * 3 + [{"CPU": 2}]
    assert options[0]["env"]["WSI_PIPELINE_PROCESSES_ON_GPU"] == "2"


def test_an_allocation_bounds_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100000")
    assert usable_cores() <= (os.cpu_count() or 1)


# Configuration ------------------------------------------------------------------------------------------------------


def test_the_shipped_file_holds_the_defaults() -> None:
    assert load_cluster_config(None, "slurm") == SlurmConfig()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("partiton: gpu", "partiton"),
        ("partition: 'a b'", "partition"),
        ("walltime: forever", "walltime"),
        ("walltime: '00:05:00'\ndrain_s: 300", "drain_s 300"),
        ("jobs: {minimum: 3, maximum: 2}", "minimum 3"),
        ("gpus: 8\ncores: 8", "8 GPUs"),
        ("directives: ['rm -rf /']", "option of sbatch"),
        ('scratch: "a\\nb"', "one line"),
        ("interface: 'lo; reboot'", "interface"),
        ("[", "cannot be read"),
        ("- a", "list"),
    ],
)
def test_what_is_not_allowed_is_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="cluster.yaml") as caught:
        load_cluster_config(path, "slurm")
    assert named in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        load_cluster_config(tmp_path / "absent.yaml", "slurm")


def test_options_without_a_meaning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--cluster-config goes with"):
        request_cluster("local", tmp_path, tmp_path / "cluster.yaml")
    with pytest.raises(ConfigError, match="--dashboard is for"):
        request_cluster("tcp://host:8786", tmp_path, None, "127.0.0.1:8787")
    for wrong in ("8787", "host:", ":8787", "host:port", "host:99999"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            request_cluster("local", tmp_path, None, wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("04:00:00", 14400), ("90:00", 5400), ("1-00:00:00", 86400), ("2-12:30", 217800), ("0:01", 1)],
)
def test_walltimes_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert walltime_s(text) == seconds


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_path_is_one_word_of_a_shell(path: str) -> None:
    if not path.startswith("$"):
        assert shlex.split(shell_path(path)) == [path]


def test_a_variable_in_front_of_a_path_stays_one() -> None:
    said = subprocess.run(
        ["bash", "-c", f"printf '%s|%s' {shell_path('$X/a b')} {shell_path('${X}')}"],
        env={"X": "/s p; ace"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "/s p; ace/a b|/s p; ace"


# Slurm's job --------------------------------------------------------------------------------------------------------


def job_of(out: Path, config: RuntimeConfig = CPU, **settings: Any) -> str:
    return slurm_script(ClusterRequest(kind="slurm", config=SlurmConfig(**settings), work=out / "work"), config)


def words_of(script: str) -> list[str]:
    return shlex.split(script.strip().splitlines()[-1])


NASTY = 'it\'s "a" $(touch PWNED);`x` \\ %j ü'


def test_every_path_of_a_job_is_quoted(tmp_path: Path) -> None:
    out = tmp_path / NASTY / "new\nline"
    files = TlsFiles(ca_file=out / "ca.pem", cert=out / "cert.pem", key=out / "key.pem")
    python = f"/opt/{NASTY}/python"
    script = job_of(out, python=python, tls=files, scratch=f"$TMPDIR/{NASTY}", log_directory=tmp_path / NASTY)
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    # The words that a shell makes of the command, which here prints them.
    command = script[script.index("'/opt/") :]
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], cwd=tmp_path, env={"TMPDIR": "/t m p", "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    ).stdout.split("\0")[:-1]  # fmt: skip
    assert said[:4] == [python, "-m", "wsi_pipeline.cli.main", "worker"]
    given = {option: value for option, value in pairwise(said) if option.startswith("--")}
    assert given["--tls-ca-file"] == str(files.ca_file)
    assert given["--tls-key"] == str(files.key)
    assert given["--local-directory"] == f"/t m p/{NASTY}"
    assert not (tmp_path / "PWNED").exists()
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert not any("PWNED" in line for line in directives), "Slurm reads no path out of the script"


def test_a_job_asks_for_what_the_file_says(tmp_path: Path) -> None:
    script = job_of(
        tmp_path,
        RuntimeConfig(device="cuda"),
        partition="gpu", account="lab.x", walltime="1-00:00:00", cores=16, memory="64GB", gpus=2, interface="ib0",
        directives=("--qos=long",), setup=("module load python/3.12",), drain_s=600, stagger_s=120,
    )  # fmt: skip
    for line in ("-p gpu", "-A lab.x", "-t 1-00:00:00", "--cpus-per-task=16", "--gres=gpu:2", "--qos=long"):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load python/3.12\n" in script
    words = words_of(script)
    assert words[4] == "tls://SCHEDULER:PORT", "a cluster of several nodes is encrypted unless that is switched off"
    options = dict(pairwise(words))
    assert options["--lifetime-s"] == str(86400 - 600)
    assert (options["--gpu-processes"], options["--interface"]) == ("2", "ib0")
    assert "--host" not in options
    assert "--gpus-per-node=a100:2" in job_of(tmp_path, gpus=2, gpu_request="--gpus-per-node=a100:2")
    with pytest.raises(DeviceError, match="gpus is 0"):
        job_of(tmp_path, RuntimeConfig(device="cuda"))


def test_a_dry_run_prints_the_script_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    from wsi_pipeline.simulation import make_virtual_slide

    settings = tmp_path / "home" / ".config" / "dask"
    settings.mkdir(parents=True)
    (settings / "jobqueue.yaml").write_text("jobqueue: {slurm: {queue: mine, job-extra-directives: ['--x=1']}}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    slide = make_virtual_slide(tmp_path / "s.tiff", profile="normal", size_px=256, seed=1).path
    code, said, err = command("run", slide, "--out", tmp_path / "out", "--cluster", "slurm", "--dry-run")
    assert code == 0, err
    assert "\n#SBATCH --cpus-per-task=8\n" in said
    assert "mine" not in said
    assert "--x=1" not in said
    assert not (tmp_path / "out").exists()
    assert [p.name for p in settings.iterdir()] == ["jobqueue.yaml"]


def test_slurm_elsewhere_and_no_allocation_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="sbatch is not on PATH"):
        with open_executor(ClusterRequest(kind="slurm", config=SlurmConfig(), work=tmp_path), CPU):
            pass
    with pytest.raises(ConfigError, match="inside an allocation"):
        with open_executor(ClusterRequest(kind="srun", work=tmp_path), CPU):
            pass


# Who listens, who may join ------------------------------------------------------------------------------------------


def listening() -> set[str]:
    """Return the addresses on which this process and those it started listen."""
    me = psutil.Process()
    found = set()
    for process in (me, *me.children(recursive=True)):
        found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found


def test_a_local_cluster_is_heard_on_loopback_alone() -> None:
    before = listening()
    with open_executor("local", CPU) as executor:
        assert executor.call(square, 3) == 9
        assert executor.dashboard.startswith("http://127.0.0.1:")
        assert listening() - before <= {"127.0.0.1"}
        assert "127.0.0.1" in listening()


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, TlsFiles]]:
    """A scheduler with keys of its own and a worker beside it."""
    from distributed.deploy.spec import SpecCluster

    request = ClusterRequest(config=ClusterConfig(tls="temporary"), work=tmp_path / "a b")
    with tls_of(request) as files:
        assert files is not None
        assert {p.stat().st_mode & 0o777 for p in files.key.parent.glob("*.pem")} == {0o600}
        assert files.key.parent.stat().st_mode & 0o777 == 0o700
        security = security_of(files)
        cluster = SpecCluster(workers={}, scheduler=_scheduler(request, security), security=security, silence_logs=50)
        worker = subprocess.Popen(
            [
                sys.executable, "-m", "wsi_pipeline.cli.main", "worker", cluster.scheduler_address,
                "--host", "127.0.0.1", "--tls-ca-file", files.ca_file, "--tls-cert", files.cert, "--tls-key", files.key,
                "--local-directory", tmp_path,
            ],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield cluster.scheduler_address, files
        finally:
            worker.terminate()
            _, said = worker.communicate(timeout=60)
            cluster.close(timeout=60)
    assert not files.key.parent.exists()
    assert worker.returncode == 0, said
    assert "Traceback" not in said


def test_who_has_no_certificate_does_not_join(encrypted: tuple[str, TlsFiles]) -> None:
    address, files = encrypted
    assert address.startswith("tls://127.0.0.1:")
    with open_executor(ClusterRequest(kind=address, config=ClusterConfig(tls=files)), CPU) as executor:
        assert executor.call(square, 5) == 25
    with pytest.raises(ConfigError, match="give the certificates by tls"):
        with open_executor(address, CPU):
            pass
    with tls_of(ClusterRequest(config=ClusterConfig(tls="temporary"), work=files.key.parent.parent)) as others:
        with pytest.raises(ConfigError, match="no Dask scheduler answers"):
            with open_executor(ClusterRequest(kind=address, config=ClusterConfig(tls=others)), CPU):
                pass


def test_keys_of_a_run_that_was_killed_are_removed(tmp_path: Path) -> None:
    request = ClusterRequest(config=ClusterConfig(tls="temporary"), work=tmp_path)
    make = (
        "import os, sys; from pathlib import Path; from wsi_pipeline.runtime.clusters import _make_keys\n"
        "_make_keys(Path(sys.argv[1])); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", make, tmp_path / ".keys-left"], check=False)
    assert (tmp_path / ".keys-left" / "key.pem").is_file()
    with tls_of(request) as first, tls_of(request) as second:
        assert first is not None
        assert second is not None
        assert first.key.is_file(), "those of one that lives stay"
        assert not (tmp_path / ".keys-left").exists()
    assert not list(tmp_path.iterdir())


def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    files = TlsFiles(ca_file=tmp_path / "ca.pem", cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="tls.ca_file .*ca.pem cannot be read"):
        with open_executor(ClusterRequest(kind="tls://127.0.0.1:1", config=ClusterConfig(tls=files)), CPU):
            pass


# Which worker -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pools() -> Iterator[str]:
    """A scheduler with a worker that has a GPU, as far as Dask knows, and one that has none."""
    from distributed import Scheduler, Worker
    from distributed.deploy.spec import SpecCluster

    workers = {
        name: {"cls": Worker, "options": {"resources": {name: 2}, "nthreads": 2, "host": "127.0.0.1"}}
        for name in ("GPU", "CPU")
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    with SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster:
        yield cluster.scheduler_address


def done_by(executor: Executor, function: Callable[[int], int]) -> set[str]:
    """Return the addresses of the workers that did twelve tasks."""
    addresses = set()
    executor.on_task = lambda report: addresses.add(report.address)
    assert sorted(executor.map(function, ((i,) for i in range(12)))) == list(range(12))
    return addresses


def test_what_segments_goes_to_the_gpu_and_the_rest_keeps_off_it(pools: str) -> None:
    with open_executor(pools, RuntimeConfig()) as executor:
        assert executor.device("auto") == "cuda"
        segmenting, exporting = done_by(executor, segment), done_by(executor, export)
        assert len(segmenting) == len(exporting) == 1
        assert segmenting != exporting
    with open_executor(pools, RuntimeConfig(device="cpu")) as executor:
        assert executor.device("cpu") == "cpu"
        assert len(done_by(executor, segment)) == 2, "on CPUs all workers are alike"


def test_cuda_without_a_gpu_among_the_workers_is_an_error() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        with pytest.raises(DeviceError, match="no worker at .* has the resource GPU"):
            with open_executor(local.scheduler_address, RuntimeConfig(device="cuda")):
                pass
        with open_executor(local.scheduler_address, RuntimeConfig(device="auto")) as executor:
            assert executor.device("auto") == "cpu"


def test_tasks_of_a_worker_that_retires_go_on_elsewhere() -> None:
    with open_executor("local", RuntimeConfig(device="cpu", workers=2)) as executor:
        client = executor._client
        results = executor.map(export, ((i,) for i in range(60)))
        found = [next(results)]
        leaving = sorted(client.scheduler_info(n_workers=-1)["workers"])[0]
        client.retire_workers([leaving], close_workers=True, remove=True)
        found += results
        assert sorted(found) == list(range(60))
