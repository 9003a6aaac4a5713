"""Another process that holds a lease."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HOLD = """
import sys, time
from pathlib import Path
from wsi_pipeline.runtime.lease import Leases
lease = Leases(beat_s=0.05).acquire(Path(sys.argv[1]), "it")
print("held", flush=True)
time.sleep(600)
"""


def holding_process(folder: Path) -> subprocess.Popen[str]:
    """Start a process, and return it when it holds the lease of a folder."""
    started = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    return started


def end(started: subprocess.Popen[str]) -> None:
    """Kill a process, as a crash would."""
    started.kill()
    started.wait()
    assert started.stdout is not None
    started.stdout.close()
