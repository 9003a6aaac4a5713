"""TIAToolbox's viewer on this computer's loopback: its server of tiles and its page.

``tiatoolbox visualize`` lets other computers reach the page and other sites' pages reach the server of tiles, which
writes files where it is told. So its two parts are started here: the tiles in this process, answering the page alone,
and the page (Bokeh) in another, both on 127.0.0.1.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.slides.backends.tiatoolbox_backend import import_readers

LOOPBACK = "127.0.0.1"
_START_S = 600.0
_STOP_S = 10.0
# A session that ends takes the whole page down; so none ends before the viewer does.
_SESSION_MS = 7 * 24 * 3600 * 1000


def view_folders(slides: Path, overlays: Path, *, port: int, log: Path, ready: Callable[[str], None]) -> None:
    """Show folders of slides and overlays until the process is interrupted or told to end (SIGTERM).

    Parameters
    ----------
    slides, overlays
        As :func:`wsi_pipeline.exports.viewer_folders.link_folders` makes them.
    port
        Of the page; 0 takes any free one. The tiles take any free one.
    log
        File for what the page's process says.
    ready
        Called once with the page's address.

    Raises
    ------
    ConfigError
        The port is taken, or a package of the viewer is missing.
    OutputError
        The viewer does not start, or ends by itself.
    """
    missing = [name for name in ("bokeh", "flask", "flask_cors") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the viewer needs the package(s) {', '.join(missing)}; install tiatoolbox anew")
    number = _free_port(port)
    page_at, tiles_at = f"http://{LOOPBACK}:{number}", _free_port(0)
    with _told_to_end() as told:
        try:
            # Both take long to load, so the page begins beside the tiles.
            with _page(slides, overlays, number, tiles_at, log) as page, _tiles(tiles_at, page_at):
                _wait(page, f"{page_at}/bokeh_app", log)
                ready(f"{page_at}/bokeh_app")
                page.wait()
                raise OutputError(f"the viewer ended by itself: {_last_line(log)}")
        except (Exception, KeyboardInterrupt):
            if not told.is_set():  # what is interrupted while it loads may fail in its own way
                raise


def _free_port(port: int) -> int:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; give another, or 0 for any free one") from None
        return int(trial.getsockname()[1])


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Yield what is set when the process is interrupted or told to end; the main thread alone hears it."""
    told = threading.Event()

    def stop(*_: object) -> None:
        told.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tile_app(page: str) -> Any:
    """Return TIAToolbox's server of tiles as a WSGI application that answers the page at ``page`` alone.

    A request is refused when its ``Host`` is not the loopback (a name that was made to point here) or its ``Origin``
    is another page's.
    """
    from flask import abort, request
    from flask_cors import CORS

    import_readers()
    from tiatoolbox.annotation.storage import SQLiteStore
    from tiatoolbox.visualization.tileserver import TileServer

    import_readers()  # gives what was loaded now a logger of its own, too
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        # TIAToolbox switches the loading of extensions on before it asks for SQLite's options, without need.
        SQLiteStore.compile_options = staticmethod(_sqlite_options)
    app = TileServer(title="tiles", layers={})
    app.json.sort_keys = False
    CORS(app, origins=[page])

    @app.before_request
    def own_page_only() -> None:
        host = request.host.rpartition(":")[0] or request.host
        if host != LOOPBACK or request.headers.get("Origin", page) != page:
            abort(403)

    return app


def _sqlite_options() -> list[str]:
    with sqlite3.connect(":memory:") as connection:
        return [option for (option,) in connection.execute("PRAGMA compile_options")]


@contextmanager
def _tiles(port: int, page: str) -> Iterator[None]:
    """Serve tiles in this process."""
    import logging

    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a tile else
    server = make_server(LOOPBACK, port, tile_app(page), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_STOP_S)


@contextmanager
def _page(slides: Path, overlays: Path, port: int, tiles: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the page in a process of its own; it is ended with the block."""
    import tiatoolbox

    app = Path(tiatoolbox.__file__).parent / "visualization" / "bokeh_app"
    command = [
        sys.executable, "-m", "bokeh", "serve", str(app), "--address", LOOPBACK, "--port", str(port),
        "--allow-websocket-origin", f"{LOOPBACK}:{port}", "--unused-session-lifetime", str(_SESSION_MS),
        "--check-unused-sessions", str(_SESSION_MS), "--args", str(slides), str(overlays),
    ]  # fmt: skip
    environment = {**os.environ, "TIATOOLBOX_TILESERVER_PORT": str(tiles), "BOKEH_RESOURCES": "server"}
    with log.open("wb") as written:
        # A session of its own: Ctrl-C in the terminal comes here alone, and the page is ended in order.
        process = subprocess.Popen(
            command, stdout=written, stderr=written, stdin=subprocess.DEVNULL, env=environment, cwd=log.parent,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(page: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until the page answers; the first answer takes long, since it loads the viewer."""
    ends = time.monotonic() + _START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while page.poll() is None and time.monotonic() < ends:
        try:
            with opener.open(address, timeout=_START_S) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise OutputError(f"the viewer did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
