"""Kill a run's worker, scheduler or client at a random moment, let it go on, and compare what it wrote."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from _dask_processes import dask_processes

What = Literal["worker", "scheduler", "client"]
WHATS: tuple[What, ...] = ("worker", "scheduler", "client")
_RERUNS = 3
_LIMIT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What became of a run that was disturbed.

    Attributes
    ----------
    what, seed
        What was killed, and the seed of the moment.
    moment_s, parts
        Seconds after the start, and blocks that were done by then.
    killed
        False: the run had ended before.
    statuses
        Exit status of the disturbed run and of each rerun.
    difference
        Where the results first differ from those of a run that nothing disturbed; empty when they do not.
    """

    what: What
    seed: int
    moment_s: float
    parts: int
    killed: bool
    statuses: tuple[int, ...]
    difference: str


def command(slides: Path, out: Path, settings: Mapping[str, Any], cluster: str = "local") -> list[str]:
    """Return the command of a run."""
    values = {key: "null" if value is None else str(value).lower() for key, value in settings.items()}
    sets = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
    words = ["-m", "wsi_pipeline.cli.main", "run", str(slides), "--out", str(out), "--cluster", cluster, *sets]
    return [sys.executable, *words]


def undisturbed(slides: Path, out: Path, settings: Mapping[str, Any]) -> float:
    """Make a run that nothing disturbs, and return the seconds it took."""
    began = time.monotonic()
    subprocess.run(command(slides, out, settings), check=True, stdout=subprocess.DEVNULL, timeout=_LIMIT_S)
    return time.monotonic() - began


def kill_one(
    what: What,
    seed: int,
    *,
    slides: Path,
    slide_ids: Sequence[str],
    reference: Path,
    seconds: float,
    settings: Mapping[str, Any],
    scratch: Path,
) -> Killed:
    """Disturb one run and compare it.

    Parameters
    ----------
    seconds
        What an undisturbed run takes; the moment is drawn from it.
    settings
        Of the configuration.
    scratch
        An empty folder.
    """
    from wsi_pipeline.evaluation.identical import first_difference

    out = scratch / "out"
    moment = random.Random(f"{what} {seed}").uniform(0.02, 1.0) * seconds
    statuses = []
    with _cluster(what, settings, scratch / "dask-0") as (address, scheduler):
        process = subprocess.Popen(
            command(slides, out, settings, address),
            stdout=subprocess.DEVNULL, stderr=(scratch / "run.log").open("ab"), start_new_session=True,
        )  # fmt: skip
        killed = _kill_at(moment, what, process, scheduler, seed)
        parts = sum(1 for _ in out.glob("work/*/*/blocks/*.parquet"))
        statuses.append(process.wait(timeout=_LIMIT_S))
    while statuses[-1] != 0 and len(statuses) <= _RERUNS:
        with (
            _cluster(what, settings, scratch / f"dask-{len(statuses)}") as (address, _),
            (scratch / "run.log").open("ab") as log,
        ):
            again = subprocess.run(
                command(slides, out, settings, address), stdout=subprocess.DEVNULL, stderr=log, timeout=_LIMIT_S,
                check=False,
            )  # fmt: skip
            statuses.append(again.returncode)
    difference = "it never ended well" if statuses[-1] else ""
    for slide_id in slide_ids:
        if not difference and (found := first_difference(reference, out, slide_id)) is not None:
            difference = f"{slide_id}: {found}"
    return Killed(
        what=what,
        seed=seed,
        moment_s=round(moment, 2),
        parts=parts,
        killed=killed,
        statuses=tuple(statuses),
        difference=difference,
    )


@contextmanager
def _cluster(what: What, settings: Mapping[str, Any], scratch: Path) -> Iterator[tuple[str, int]]:
    """Yield ``--cluster`` and the scheduler's process id; a local cluster's scheduler is in the client."""
    if what != "scheduler":
        yield "local", 0
        return
    with dask_processes(scratch, workers=int(settings["runtime.workers"])) as cluster:
        yield cluster.address, cluster.scheduler.pid


def _kill_at(moment: float, what: What, process: subprocess.Popen[bytes], scheduler: int, seed: int) -> bool:
    """Kill at the moment, or as soon after it as there is something to kill; return whether anything was."""
    deadline = time.monotonic() + moment
    while process.poll() is None:
        if time.monotonic() >= deadline:
            pids = {"client": [process.pid], "scheduler": [scheduler]}.get(what) or _workers_of(process.pid)
            if pids:
                try:
                    os.kill(random.Random(seed).choice(sorted(pids)), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                return True
        time.sleep(0.02)
    return False


def _workers_of(pid: int) -> list[int]:
    import psutil

    try:
        found = psutil.Process(pid).children(recursive=True)
        return [one.pid for one in found if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:
        return []
