"""What a cluster needs to be told: Slurm's limits and names, the network interface, TLS. One YAML file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_pipeline.config import config_folder
from wsi_pipeline.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))(.*)", re.DOTALL)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be one line of printable characters")
    return text


def _option(text: str) -> str:
    if not text.startswith("-"):
        raise ValueError("it must be an option of sbatch, such as --constraint=avx2")
    return _one_line(text)


_Word = Annotated[str, Field(pattern=r"^[\w.,:+@-]+$")]
_Walltime = Annotated[str, Field(pattern=r"^(\d+-)?\d{1,3}(:\d{1,2}){1,2}$")]


class TlsFiles(_Section):
    """Certificates in PEM format, readable where scheduler, workers and client run."""

    ca_file: Path = Field(description="Certificate of the authority that signed the others.")
    cert: Path = Field(description="Certificate of scheduler, workers and client.")
    key: Path = Field(description="Its private key.")


class ClusterConfig(_Section):
    """How the parts of a cluster reach each other."""

    interface: _Word | None = Field(
        None, description="Network interface of scheduler and workers; null is loopback, which one machine alone hears."
    )
    tls: Literal["auto", "temporary", "none"] | TlsFiles = Field(
        "auto", description="auto: keys made for the run where an interface is given; none: neither secret nor checked."
    )
    scratch: Annotated[str, AfterValidator(_one_line)] | None = Field(
        None, description="Folder on the node for Dask's own files; may begin with a variable, as $TMPDIR."
    )
    death_timeout_s: int = Field(
        120, ge=5, description="A worker without a scheduler, or that does not start, ends after so long."
    )


class JobLimits(_Section):
    """How many jobs at once; between the two as the work needs."""

    minimum: int = Field(1, ge=1, le=10_000, description="Jobs kept even when there is little work.")
    maximum: int = Field(10, ge=1, le=10_000, description="Jobs never exceeded.")

    @model_validator(mode="after")
    def _ordered(self) -> JobLimits:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")
        return self


class SlurmConfig(ClusterConfig):
    """One Slurm job and how many of them."""

    partition: _Word | None = Field(None, description="As sinfo -s lists them; null is the site's default.")
    account: _Word | None = Field(None, description="Who is charged; null is your default.")
    walltime: _Walltime = Field("04:00:00", description="Time limit of a job, as Slurm writes it.")
    cores: int = Field(8, ge=1, le=1024, description="Cores of a job; a worker process each.")
    memory: str = Field("24GB", pattern=r"^\d+(\.\d+)?\s*[KMGT]i?B$", description="Memory of a job, as 24GB.")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of a job; a worker process each, beside those on cores.")
    gpu_request: Annotated[str, AfterValidator(_option)] | None = Field(
        None, description="How the site asks for them; null is --gres=gpu:N."
    )
    directives: tuple[Annotated[str, AfterValidator(_option)], ...] = Field((), description="Further sbatch options.")
    setup: tuple[str, ...] = Field((), description="Shell lines that make the environment, as module load python.")
    python: Annotated[str, AfterValidator(_one_line)] | None = Field(
        None, description="Interpreter on the nodes; null is the one that runs the command."
    )
    log_directory: Path | None = Field(None, description="Folder for the jobs' output; null is OUT/work/slurm.")
    jobs: JobLimits = Field(JobLimits(), description="How many jobs at once.")
    drain_s: int = Field(300, ge=1, description="Workers take no more tasks so long before their walltime.")
    stagger_s: int = Field(60, ge=0, description="Spread of that over the workers, so that not all end at once.")

    @model_validator(mode="after")
    def _lasts(self) -> SlurmConfig:
        if self.lifetime_s - self.stagger_s < 10:
            raise ValueError(
                f"walltime {self.walltime} leaves less than 10 s of work after drain_s {self.drain_s} and "
                f"stagger_s {self.stagger_s}"
            )
        if self.gpus >= self.cores and self.gpus:
            raise ValueError(f"{self.gpus} GPUs need more than {self.cores} cores: one each, and one that merges")
        return self

    @property
    def lifetime_s(self) -> int:
        """Return after how many seconds a worker drains."""
        return walltime_s(self.walltime) - self.drain_s


def walltime_s(text: str) -> int:
    """Return the seconds of Slurm's ``[days-]hours:minutes[:seconds]`` or ``minutes:seconds``."""
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return 86400 * int(days) + 3600 * hours + 60 * minutes + seconds
    hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts]
    return 3600 * hours + 60 * minutes + seconds


def shell_path(text: str) -> str:
    """Quote a path for a shell; a variable in front of it stays one."""
    if (match := _VARIABLE.fullmatch(text)) is None:
        return shlex.quote(text)
    rest = match[3]
    return f'"${{{match[1] or match[2]}}}"' + (shlex.quote(rest) if rest else "")


def load_cluster_config(source: Path | None, kind: str) -> ClusterConfig:
    """Load what a cluster needs to be told.

    Parameters
    ----------
    source
        A YAML file; None is the shipped ``configs/cluster/slurm.yaml`` for Slurm, defaults for others.
    kind
        ``slurm``, or anything else, for which Slurm's keys are unknown.

    Raises
    ------
    ConfigError
        The file is missing or not YAML, or a key or value is not allowed.
    """
    model = SlurmConfig if kind == "slurm" else ClusterConfig
    if source is None and kind != "slurm":
        return model()
    path = source or config_folder() / "cluster" / "slurm.yaml"
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"--cluster-config {path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--cluster-config {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(f"--cluster-config {path} holds {type(tree).__name__}, not a mapping of keys")
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']} (found {e['input']!r})"
            for e in error.errors()
        )
        raise ConfigError(f"--cluster-config {path}: {problems}") from None
