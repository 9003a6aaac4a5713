"""How many GPUs one Dask scheduler and one client can feed: a simulation with measured costs.

    python benchmarks/scheduler_load.py --scheduler-ms 2 --client-ms 2
    python benchmarks/scheduler_load.py --measure             measures both first, with tasks that do nothing

A discrete-event model of one run: ``W`` workers with two task slots each (one computes, one reads ahead), a client
that keeps four tasks a worker queued, a scheduler that serves one message at a time, and a client that does. A task's
way: computed on its worker (lognormal, coefficient of variation 0.5); then the scheduler (``scheduler-ms``) gives the
slot the next queued task, if there is one; then the client (``client-ms``) takes the result, records it in the ledger
and submits another. The network takes 0.5 ms each way. Printed are the share of time that the computing slots wait,
and how busy scheduler and client are. Not modelled: workers that come and go, and slow storage.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from _harness import parser, print_table, record, start

_WAY_S = 0.0005
_QUEUED = 4
_SPREAD = 0.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a simulated run showed; shares of the time."""

    waiting: float
    scheduler: float
    client: float
    tasks_per_s: float


def simulate(*, workers: int, task_s: float, scheduler_s: float, client_s: float, tasks: int, seed: int = 1) -> Load:
    """Simulate a run of ``tasks`` tasks.

    Parameters
    ----------
    workers
        Workers, each of which computes one task at a time and holds one more, already read.
    task_s
        Mean seconds of computing.
    scheduler_s, client_s
        Seconds of the scheduler's and the client's processor a task costs.
    """
    rng = random.Random(seed)
    sigma = math.sqrt(math.log(1 + _SPREAD**2))
    mean = math.log(task_s) - sigma**2 / 2
    # Events: (time, number, kind, worker). A worker's first slot computes when it holds a task.
    events: list[tuple[float, int, str, int]] = []
    number = 0

    def at(when: float, kind: str, worker: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, kind, worker))

    held = [0] * workers
    computing = [False] * workers
    idle: deque[int] = deque()  # slots without a task, by worker
    queued = min(tasks, _QUEUED * workers)
    left = tasks - queued
    scheduler_free = client_free = scheduler_busy = client_busy = computed = 0.0
    done = 0
    for worker in range(workers):
        for _ in range(2):
            if queued:
                queued -= 1
                at(0.0, "arrives", worker)
            else:
                idle.append(worker)
    now = 0.0
    while events:
        now, _, kind, worker = heapq.heappop(events)
        if kind == "arrives":
            held[worker] += 1
        elif kind == "computed":
            computing[worker] = False
            held[worker] -= 1
            done += 1
            begin = max(now + _WAY_S, scheduler_free)
            scheduler_free = begin + scheduler_s
            scheduler_busy += scheduler_s
            at(scheduler_free, "slot", worker)
            begin = max(scheduler_free + _WAY_S, client_free)
            client_free = begin + client_s
            client_busy += client_s
            if left:
                left -= 1
                at(client_free + _WAY_S, "queued", -1)
        elif kind == "slot":
            idle.append(worker)
        elif kind == "queued":
            queued += 1
        while queued and idle:
            queued -= 1
            at(now + _WAY_S, "arrives", idle.popleft())
        if worker >= 0 and held[worker] and not computing[worker]:
            computing[worker] = True
            took = rng.lognormvariate(mean, sigma)
            computed += took
            at(now + took, "computed", worker)
    return Load(
        waiting=1 - computed / (workers * now),
        scheduler=scheduler_busy / now,
        client=client_busy / now,
        tasks_per_s=done / now,
    )


def nothing(*_: object) -> None:
    """Do nothing."""


def measure(scratch: Path, *, tasks: int) -> tuple[float, float]:
    """Return the processor seconds a task costs the scheduler and the client, with a slide's arguments."""
    import sys

    import cloudpickle
    import psutil
    from _dask_processes import dask_processes

    from wsi_pipeline.config import load_config
    from wsi_pipeline.one_slide.job import SlideJob
    from wsi_pipeline.runtime.executor import open_executor
    from wsi_pipeline.runtime.run_ledger import open_run_ledger
    from wsi_pipeline.runtime.tasks import TaskReport
    from wsi_pipeline.slides import SlideSpec

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = load_config("blood_smear")
    job = SlideJob(slide_id="a", spec=SlideSpec(path=Path("/a.svs")), config=config, out=scratch)
    ledger = open_run_ledger(scratch / "work", writer="x")

    def note(report: TaskReport) -> None:
        # As a block that wrote its part.
        ledger.add("a", [(f"work/a/key/blocks/{report.ended}.parquet", 1000)])

    with dask_processes(scratch / "dask", workers=1) as cluster, open_executor(cluster.address, config.runtime) as one:
        one.on_task = note
        list(one.map(nothing, [(job, i) for i in range(200)], timeout_s=60))
        scheduler = psutil.Process(cluster.scheduler.pid)
        before, mine = sum(scheduler.cpu_times()[:2]), time.process_time()
        list(one.map(nothing, [(job, i) for i in range(tasks)], timeout_s=60))
        after, ours = sum(scheduler.cpu_times()[:2]), time.process_time()
    ledger.close()
    return (after - before) / tasks, (ours - mine) / tasks


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--scheduler-ms", type=float, default=2.0)
    options.add_argument("--client-ms", type=float, default=2.0)
    options.add_argument("--measure", action="store_true", help="measure both costs first")
    options.add_argument("--measured-tasks", type=int, default=3000)
    options.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 25, 50, 100, 200, 400])
    options.add_argument("--task-s", type=float, nargs="+", default=[0.5, 1.0, 2.0, 5.0])
    chosen: argparse.Namespace = start(options.parse_args())
    scheduler_s, client_s = chosen.scheduler_ms / 1e3, chosen.client_ms / 1e3
    if chosen.measure:
        with tempfile.TemporaryDirectory(dir=chosen.scratch) as folder:
            scheduler_s, client_s = measure(Path(folder), tasks=chosen.measured_tasks)
    print(f"a task costs the scheduler {1e3 * scheduler_s:.2f} ms and the client {1e3 * client_s:.2f} ms of processor")
    rows, kept = [], []
    for task_s in chosen.task_s:
        for gpus in chosen.gpus:
            found = simulate(
                workers=gpus, task_s=task_s, scheduler_s=scheduler_s, client_s=client_s, tasks=max(4000, 300 * gpus)
            )
            kept.append({"gpus": gpus, "task_s": task_s, **vars(found)})
            rows.append(
                (
                    f"{gpus} GPUs, {task_s:g} s", f"{100 * found.waiting:.1f} %", f"{100 * found.scheduler:.0f} %",
                    f"{100 * found.client:.0f} %", f"{found.tasks_per_s:.0f}",
                )
            )  # fmt: skip
    print_table(("", "GPUs wait", "scheduler", "client", "tasks/s"), rows)
    work = {"scheduler_ms": round(1e3 * scheduler_s, 3), "client_ms": round(1e3 * client_s, 3)}
    record(chosen.results, "scheduler_load", "simulation", {**work, "measured": chosen.measure}, {"rows": kept})


if __name__ == "__main__":
    main()
