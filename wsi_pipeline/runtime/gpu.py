"""How busy the GPUs of this machine are, as NVIDIA's own program says."""

from __future__ import annotations

import os
import subprocess
from typing import Any

_FIELDS = ("index", "name", "utilization.gpu", "memory.used", "memory.total")
_LIMIT_S = 5


def gpu_use(program: str = "nvidia-smi") -> list[dict[str, Any]]:
    """Return index, name, use (percent) and memory (MiB) of each GPU of this machine that the run may use.

    Parameters
    ----------
    program
        The program to ask.

    Returns
    -------
    list
        Empty where the program is missing, fails or does not know; ``CUDA_VISIBLE_DEVICES`` is obeyed.
    """
    try:
        asked = subprocess.run(
            [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=_LIMIT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    allowed = None if visible is None else {name.strip() for name in visible.split(",")}
    found = []
    for line in asked.stdout.splitlines():
        values = [value.strip() for value in line.split(",")]
        try:
            index, name, use, used, total = values[0], values[1], *(float(value) for value in values[2:5])
        except (ValueError, IndexError):
            continue  # "[N/A]", or a GPU that is cut into instances
        if allowed is None or index in allowed or not all(one.isdigit() for one in allowed):
            found.append(
                {"index": index, "name": name, "use_percent": use, "memory_mib": used, "memory_total_mib": total}
            )
    return found
