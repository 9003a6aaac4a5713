"""A real Slurm of one node: every way to run there gives what a local run gives, also after it was killed.

Names of slides and of the output folder are as hostile as file systems allow.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import wsi_pipeline
from tests.slurm.private_slurm import PrivateSlurm, missing, private_slurm
from wsi_pipeline.evaluation.identical import first_difference
from wsi_pipeline.simulation import make_virtual_slide

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"without {', '.join(missing())} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs as root only"),
]

SCRIPTS = Path(__file__).parents[2] / "slurm"
SETTINGS = [
    word
    for setting in (
        "cells.classifier=null", "cells.red_classifier=null", "exports.report=false", "runtime.device=cpu",
        "runtime.workers=1", "tiling.core_px=256",
    )
    for word in ("--set", setting)
]  # fmt: skip
NAMES = ('it\'s "a" b;$(touch PWNED) %j.tiff', "new\nline `touch PWNED` – ß漢.tiff", "plain.tiff")
OUT = "out dir; $(touch PWNED) 'q' \"d\" ü"
PATIENCE_S = float(os.environ.get("WSI_PIPELINE_PATIENCE_S", "180"))
WALLTIME_MIN = int(os.environ.get("WSI_PIPELINE_WALLTIME_MIN", "2"))
"""For one job, and of the job that is to reach its limit; a machine that does other work needs more."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A Slurm, slides, and what a local run makes of them."""

    slurm: PrivateSlurm
    folder: Path
    manifest: Path
    reference: Path
    ids: tuple[str, ...]

    def out(self, name: str) -> Path:
        return self.folder / name / OUT

    def run(self, out: Path, *words: str | Path, **options: object) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            ["wsi-pipeline", "run", self.manifest, "--out", out, *SETTINGS, *words],
            env=self.slurm.environment, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            **options,  # type: ignore[call-overload]
        )  # fmt: skip

    def submit(self, script: str, out: Path, *options: str) -> str:
        """Submit one of our scripts, with what Slurm prints into a log beside the output."""
        out.parent.mkdir(exist_ok=True)
        return self.slurm.submit(
            "--cpus-per-task=1", "--mem=2G", f"--output={out.parent}/%A-%a.log", *options, SCRIPTS / script,
            self.manifest, out, *SETTINGS, cwd=self.folder,
        )  # fmt: skip

    def check(self, out: Path) -> None:
        """Check that a run gave what the local one gave, and left nothing outside its folder."""
        logs = "\n".join(p.read_text(errors="replace")[-3000:] for p in out.parent.glob("*.log"))
        assert (out / "slides.csv").is_file(), logs
        for slide_id in self.ids:
            assert first_difference(self.reference, out, slide_id) is None
        with (out / "slides.csv").open(newline="", encoding="utf-8") as file:
            assert [row["slide_id"] for row in csv.DictReader(file)] == list(self.ids)
        assert not [p for p in self.folder.rglob("PWNED*")], "a name was run"
        beside = {p.name for p in out.parent.iterdir() if p.suffix != ".log"}
        assert beside == {OUT}, "something was written outside the run's folder"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # Not pytest's own folder: munge's socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    programs = folder / "bin"
    programs.mkdir()
    command = programs / "wsi-pipeline"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsi_pipeline.cli.main "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        patch.setenv("HOME", str(folder))
        root = str(Path(wsi_pipeline.__file__).parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))))
        patch.setenv("OMP_NUM_THREADS", "1")
        try:
            with private_slurm(_made(folder / "slurm")) as slurm:
                yield _site(slurm, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _site(slurm: PrivateSlurm, folder: Path) -> Site:
    slides = _made(folder / "slides")
    manifest = slides / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["slide", "slide_id"])
        for seed, name in enumerate(NAMES):
            made = make_virtual_slide(slides / f"{seed}.tiff", profile="normal", size_px=640, seed=seed)
            made.path.rename(slides / name)
            rows.writerow([name, "../../up; rm -rf x" if name == "plain.tiff" else ""])
    site = Site(slurm=slurm, folder=folder, manifest=manifest, reference=folder / "local" / OUT, ids=())
    site.reference.parent.mkdir()
    local = site.run(site.reference)
    said, _ = local.communicate(timeout=PATIENCE_S)
    assert local.returncode == 0, said
    ids = tuple(row["slide_id"] for row in csv.DictReader((site.reference / "slides.csv").open(encoding="utf-8")))
    assert len(ids) == len(NAMES)
    assert sorted(p.name for p in (site.reference / "slides").iterdir()) == sorted(ids)
    return Site(slurm=slurm, folder=folder, manifest=manifest, reference=site.reference, ids=ids)


def wait_for(happened: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def blocks_of(out: Path) -> list[Path]:
    return [p for p in out.glob("work/*/*/blocks/*.parquet") if not p.name.startswith(".")]


@pytest.fixture(scope="module")
def frozen(site: Site) -> str:
    """A job with little walltime that stops in the middle of its work, so that it will reach the limit."""
    out = site.out("walltime")
    job = site.submit("run_dask.sbatch", out, f"--time={WALLTIME_MIN}", "--signal=B:USR1@1", "--no-requeue")
    wait_for(
        lambda: blocks_of(out) or site.slurm.state(job) not in ("PENDING", "CONFIGURING", "RUNNING"),
        "no block was computed",
    )
    assert blocks_of(out), "the job ended before its first block; a busy machine needs WSI_PIPELINE_WALLTIME_MIN"
    listed = site.slurm.ask("scontrol", "listpids", job).splitlines()[1:]
    for pid in (int(line.split()[0]) for line in listed):
        if pid > 0 and pid != os.getpid():
            os.kill(pid, signal.SIGSTOP)
    return job


def test_tasks_of_an_array_share_a_run(site: Site, frozen: str) -> None:
    out = site.out("array")
    job = site.submit("run_array.sbatch", out, "--array=0-1")
    assert site.slurm.wait(job, PATIENCE_S) == "COMPLETED COMPLETED"
    site.check(out)


def test_scheduler_and_workers_inside_one_allocation(site: Site) -> None:
    out = site.out("allocation")
    job = site.submit("run_dask.sbatch", out, "--ntasks-per-node=2", "--mem=6G")
    assert site.slurm.wait(job, PATIENCE_S) == "COMPLETED"
    site.check(out)


def test_a_cancelled_array_goes_on_where_it_was(site: Site) -> None:
    out = site.out("cancelled")
    job = site.submit("run_array.sbatch", out, "--array=0-1")
    wait_for(lambda: blocks_of(out), "no block was computed")
    site.slurm.ask("scancel", job)
    assert "COMPLETED" not in site.slurm.wait(job, 60)
    done = {path: path.stat().st_mtime_ns for path in blocks_of(out)}
    assert done
    assert not (out / "slides.csv").exists()
    again = site.submit("run_array.sbatch", out, "--array=0-1")
    assert site.slurm.wait(again, PATIENCE_S) == "COMPLETED COMPLETED"
    site.check(out)
    kept = [path for path, time_ns in done.items() if path.is_file() and path.stat().st_mtime_ns == time_ns]
    assert kept or not blocks_of(out), "everything was computed again"


def test_a_warned_job_requeues_itself(site: Site) -> None:
    out = site.out("requeued")
    job = site.submit("run_array.sbatch", out, "--array=0")
    wait_for(lambda: blocks_of(out), "no block was computed")
    site.slurm.ask("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: "RESTARTED" in _restarts(site, job), "it was not requeued")
    assert site.slurm.wait(job, PATIENCE_S) == "COMPLETED"
    site.check(out)


def _restarts(site: Site, job: str) -> str:
    shown = site.slurm.ask("scontrol", "show", "job", job, "--oneliner")
    return "RESTARTED" if " Restarts=1 " in shown else shown


def test_jobs_of_a_client_that_was_killed_end_and_the_run_goes_on(site: Site) -> None:
    out = site.out("jobs")
    out.parent.mkdir()
    config = site.folder / "cluster.yaml"
    config.write_text(
        f"cores: 1\nmemory: 2GB\nwalltime: '00:20:00'\ninterface: lo\ntls: temporary\ndeath_timeout_s: 60\n"
        f"scratch: $SCRATCH/it's\nsetup: ['export SCRATCH={site.folder}/scratch']\njobs: {{minimum: 1, maximum: 2}}\n",
        encoding="utf-8",
    )
    before = set(site.slurm.jobs())
    first = site.run(out, "--cluster", "slurm", "--cluster-config", config)
    wait_for(lambda: blocks_of(out) or first.poll() is not None, "no block was computed")
    first.send_signal(signal.SIGKILL)
    said, _ = first.communicate()
    assert blocks_of(out), said
    assert not (out / "slides.csv").exists()
    wait_for(lambda: not set(site.slurm.jobs()) - before, "jobs without a client go on")

    second = site.run(out, "--cluster", "slurm", "--cluster-config", config)
    wait_for(lambda: set(site.slurm.jobs()) - before or second.poll() is not None, "no job was submitted")
    for job in set(site.slurm.jobs()) - before:
        site.slurm.ask("scancel", job)  # Slurm ends one under its hands: another one takes its place
    said, _ = second.communicate(timeout=2 * PATIENCE_S)
    assert second.returncode == 0, said
    site.check(out)
    assert not (site.folder / ".config").exists(), "Dask wrote into the user's home"
    assert not list((out / "work").glob(".keys-*")), "keys are left, of this run or of the one that was killed"
    assert (site.folder / "scratch" / "it's").is_dir()


def test_a_job_that_slurm_refuses_is_an_error_with_slurms_words(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("partition: no-such-partition\n", encoding="utf-8")
    run = site.run(tmp_path / "out", "--cluster", "slurm", "--cluster-config", config)
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 2, said
    assert "sbatch refuses the job" in said
    assert "partition" in said


def test_a_job_that_reached_its_walltime_goes_on_where_it_was(site: Site, frozen: str) -> None:
    out = site.out("walltime")
    assert site.slurm.wait(frozen, 60 * WALLTIME_MIN + 120) == "TIMEOUT"
    assert not (out / "slides.csv").exists()
    job = site.submit("run_dask.sbatch", out)
    assert site.slurm.wait(job, PATIENCE_S) == "COMPLETED"
    site.check(out)
