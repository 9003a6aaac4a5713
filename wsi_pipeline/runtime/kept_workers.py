"""Workers of a local cluster that are gone are replaced: a run without workers would wait for ever.

Dask's nanny starts a worker anew that dies. In two cases nobody does (seen in distributed 2026.7.0):

- One that dies before the nanny has heard of its start makes the nanny close itself. A task that ends its process at
  once does so to the worker that was started for the last one.
- One that is not back within ``distributed.deploy.lost-worker-timeout`` (15 s, which starting Python with its libraries
  takes on a busy machine) is closed by the cluster and forgotten.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dask

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

_EVERY_S = 2.0
LOST_AFTER_S = 300.0
"""Seconds a worker may take to be back before the cluster forgets it."""

_log = logging.getLogger(__name__)


@contextmanager
def keep_workers(cluster: SpecCluster) -> Iterator[None]:
    """Replace workers of a cluster that closed themselves or that it forgot, while the block runs.

    Parameters
    ----------
    cluster
        With workers of this machine, named by numbers.
    """
    ended = threading.Event()
    number = max(cluster.worker_spec, default=-1) + 1

    def keep() -> None:
        nonlocal number
        while not ended.wait(_EVERY_S):
            gone = [name for name in lost_workers(cluster) if name in cluster.worker_spec]
            for name in gone:
                cluster.worker_spec[number] = cluster.worker_spec.pop(name)
                number += 1
            if gone:
                _log.info("%d worker(s) are gone and replaced", len(gone))
                cluster.scale(len(cluster.worker_spec))  # as many as before: the missing ones are started

    thread = threading.Thread(target=keep, name="keep workers", daemon=True)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": f"{LOST_AFTER_S} s"}):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def lost_workers(cluster: SpecCluster) -> list[int]:
    """Return the names of workers that should be there: those whose nannies have closed, and those forgotten."""
    from distributed.core import Status

    nannies = dict(cluster.workers)
    closed = [name for name, nanny in nannies.items() if nanny.status in (Status.closed, Status.failed)]
    return closed + [name for name in list(cluster.worker_spec) if name not in nannies]
