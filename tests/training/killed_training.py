"""A training in a process of its own that is killed at a line it prints."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def kill_training(code: str, *arguments: Path, at: str, limit_s: float = math.inf) -> None:
    """Run Python code, kill it with SIGKILL at the first line that starts with ``at``, and wait for its end.

    Past ``limit_s`` it is killed at whichever line comes. It finds the modules that this process finds.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    limit = time.monotonic() + limit_s
    for line in process.stdout:
        if line.startswith(at) or time.monotonic() > limit:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
