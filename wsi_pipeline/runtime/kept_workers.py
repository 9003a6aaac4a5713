"""Workers of a local cluster that gave up are replaced.

Dask's nanny starts a worker anew that dies; one that dies before the nanny has heard of its start makes the nanny
close itself, and the cluster does not make another (seen in distributed 2026.7.0). A task that ends its process at once
does so to the worker that was started for the last one, and a run without workers would wait for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

_EVERY_S = 2.0

_log = logging.getLogger(__name__)


@contextmanager
def keep_workers(cluster: SpecCluster) -> Iterator[None]:
    """Replace workers of a cluster that closed themselves, while the block runs.

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
            given_up = [name for name in lost_workers(cluster) if name in cluster.worker_spec]
            for name in given_up:
                cluster.worker_spec[number] = cluster.worker_spec.pop(name)
                number += 1
            if given_up:
                _log.info("%d worker(s) gave up and are replaced", len(given_up))
                cluster.scale(len(cluster.worker_spec))  # as many as before: the missing ones are started

    thread = threading.Thread(target=keep, name="keep workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def lost_workers(cluster: SpecCluster) -> list[int]:
    """Return the names of workers whose nannies have closed."""
    from distributed.core import Status

    return [name for name, nanny in list(cluster.workers.items()) if nanny.status in (Status.closed, Status.failed)]
