"""Download Cellpose weights, on demand and never during a run: whole and checked, or not at all.

Names and addresses are those of the installed ``cellpose`` package. Its own downloader is not used: it switches the
check of TLS certificates off, and takes what came for weights.
"""

from __future__ import annotations

import http.client
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import ConfigError, DownloadError, OutputError
from wsi_pipeline.segmentation.cellpose_files import CELLPOSE_NAMES, model_folders, require_dinov3
from wsi_pipeline.segmentation.cellpose_model import build_network, import_cellpose
from wsi_pipeline.segmentation.precision import dtype_of
from wsi_pipeline.weights import file_sha256, shipped_weights

TIMEOUT_S = 30.0
_PIECE = 1 << 20
_EVERY_S = 2.0
_MIB = float(1 << 20)


def addresses() -> dict[str, str]:
    """Return the address of each model, as the installed ``cellpose`` package has them."""
    models = import_cellpose("models")
    names = [*CELLPOSE_NAMES, *(name for name in models.MODEL_NAMES if name not in CELLPOSE_NAMES)]
    return {name: models._MODEL_URL + name for name in names if name in models.MODEL_NAMES}


def plan_fetch(names: list[str], *, force: bool = False) -> dict[str, tuple[str, Path]]:
    """Return address and final path of each model, before anything is downloaded.

    Raises
    ------
    ConfigError
        A name that is unknown, that of a shipped model, or of a file that is there already (without ``force``).
    ModelError
        A ``cpdino`` model where ``dinov3`` is not installed.
    """
    known = addresses()
    folder = model_folders()[0]
    for name in names:
        if name in shipped_weights():
            raise ConfigError(f"model {name} is shipped with this package; there is nothing to fetch")
        if name not in known:
            raise ConfigError(f"model {name!r} is unknown; cellpose offers {', '.join(known)}")
        require_dinov3(name)
        if (folder / name).exists() and not force:
            raise ConfigError(f"{folder / name} is there already; --force fetches it anew and replaces it")
    return {name: (known[name], folder / name) for name in names}


def fetch(name: str, address: str, final: Path, *, report: Callable[[str], None]) -> str:
    """Download a model, check that it loads, and only then give it its name; return its SHA-256.

    Parameters
    ----------
    address
        Where from; ``http`` or ``https``, the latter with a valid certificate.
    final
        Where to; replaced if it is there.
    report
        Told of size and progress.

    Raises
    ------
    DownloadError
        There is no network, or the server does not have the file or breaks off.
    OutputError
        The folder cannot be written, or is too full.
    ModelError
        What came is no Cellpose model.

    Notes
    -----
    Whatever happens, ``final`` is left as it was, or is whole and checked.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(final) as temporary:
            _download(name, address, temporary, final.parent, report)
            report(f"{name}: checking that it loads")
            build_network(temporary, device="cpu", dtype=dtype_of("bf16"), called=address)
            sha256 = file_sha256(temporary)
    except DownloadError:
        raise
    except OSError as error:
        raise OutputError(f"{final} cannot be written: {error.strerror or error}") from None
    return sha256


def _download(name: str, address: str, temporary: Path, folder: Path, report: Callable[[str], None]) -> None:
    try:
        answer: Any = urlopen(Request(address, headers={"User-Agent": "wsi-pipeline"}), timeout=TIMEOUT_S)
    except HTTPError as error:
        raise _failed(name, address, f"the server answers {error.code} {error.reason}") from None
    except (URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _failed(name, address, f"no connection: {getattr(error, 'reason', error)}") from None
    with answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        _check_space(name, folder, total)
        report(f"{name}: {_size(total)} from {address}")
        done, started = 0, time.monotonic()
        said = started
        with temporary.open("wb") as file:
            while True:
                try:
                    piece = answer.read(_PIECE)
                except (http.client.HTTPException, OSError) as error:
                    raise _failed(name, address, f"it broke off after {_size(done)}: {error}") from None
                if not piece:
                    break
                file.write(piece)
                done += len(piece)
                now = time.monotonic()
                if now - said >= _EVERY_S:
                    said = now
                    report(_progress(name, done, total, now - started))
        if total is not None and done != total:
            raise _failed(name, address, f"it broke off after {_size(done)} of {_size(total)}")


def _check_space(name: str, folder: Path, total: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and free < total:
        raise OutputError(f"{folder}: {_size(free)} free, {name} needs {_size(total)}; set CELLPOSE_LOCAL_MODELS_PATH")


def _failed(name: str, address: str, why: str) -> DownloadError:
    return DownloadError(
        f"{name} cannot be downloaded from {address} ({' '.join(str(why).split())}); try again where there is a "
        f"network, or copy the file to {model_folders()[0] / name}"
    )


def _progress(name: str, done: int, total: int | None, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    share = f"{100 * done / total:.0f} %, " if total else ""
    left = f", {(total - done) / rate:.0f} s left" if total else ""
    return f"{name}: {share}{_size(done)}, {_size(int(rate))}/s{left}"


def _size(size: int | None) -> str:
    return "an unknown size" if size is None else f"{size / _MIB:,.1f} MiB"
