"""The page over HTTP on 127.0.0.1: what may ask, how much it may send, and what a browser may do with the page.

Other sites open in the same browser are kept out by the Host header (a foreign name that resolves to this machine),
by the Origin header and by the secret in the form. No request is logged, and an error without its values.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from importlib import resources
from typing import Any, Final

import tornado.httpserver
import tornado.netutil
import tornado.web

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.serve.form import parse_form
from wsi_pipeline.serve.interface import CountsModel
from wsi_pipeline.serve.page import Page, render_error
from wsi_pipeline.serve.texts import LANGUAGES, Language

ADDRESS: Final = "127.0.0.1"
LARGEST_BODY: Final = 256 * 1024
_LARGEST_HEADERS: Final = 16 * 1024
_LARGEST_DISCARDED: Final = 16 * 1024 * 1024
_SECONDS_FOR_BODY: Final = 20.0
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A form of a page without referrer sends the origin "null", which could be any page's.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_log = logging.getLogger(__name__)


class _Guarded(tornado.web.RequestHandler):
    """Refuses what does not come from the page itself."""

    def initialize(self, page: Page, language: Language) -> None:
        self.page = page
        self.language = language

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        host = self.request.headers.get("Host", "")
        if host.rsplit(":", 1)[0].lower() not in (ADDRESS, "localhost"):
            raise tornado.web.HTTPError(421)
        origin = self.request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            raise tornado.web.HTTPError(403)
        if self.request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and (
            self.request.method != "GET"
        ):
            raise tornado.web.HTTPError(403)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish(render_error(status_code, self.language))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, tornado.web.HTTPError):
            while tb is not None and tb.tb_next is not None:
                tb = tb.tb_next
            where = f"{tb.tb_frame.f_code.co_filename}:{tb.tb_lineno}" if tb is not None else "unknown place"
            _log.error("%s at %s; its message is not shown, since it could hold values", typ.__name__, where)


@tornado.web.stream_request_body
class _PageHandler(_Guarded):
    """The page itself. The body is collected here, so that nothing larger or of another kind is ever parsed."""

    def prepare(self) -> None:
        super().prepare()
        self._body = bytearray()
        self._refusal = 0
        if self.request.method != "POST":
            return
        if self.request.headers.get("Content-Type", "").split(";")[0].strip().lower() != _FORM_TYPE:
            self._refusal = 415

    def data_received(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > LARGEST_BODY:
            self._refusal = 413
            self._body.clear()
        if not self._refusal:
            self._body += chunk

    def get(self) -> None:
        asked = self.get_query_argument("lang", self.language)
        self.finish(self.page.empty(asked if asked in LANGUAGES else self.language))

    def post(self) -> None:
        if self._refusal:
            raise tornado.web.HTTPError(self._refusal)
        try:
            form = parse_form(bytes(self._body), self.page.analytes, self.language)
        except ValueError as error:
            raise tornado.web.HTTPError(415) from error
        self.language = form.language
        if not hmac.compare_digest(form.token.encode(), self.page.token.encode()):
            raise tornado.web.HTTPError(403)
        self.finish(self.page.respond(form))


class _StaticHandler(_Guarded):
    """Style, script and icon: files read once from the package, by fixed names."""

    def get(self, name: str) -> None:
        self.set_header("Content-Type", f"{_STATIC[name]}; charset=utf-8")
        self.finish(resources.files(__package__).joinpath("static", name).read_bytes())


class _NothingHandler(_Guarded):
    def prepare(self) -> None:
        super().prepare()
        raise tornado.web.HTTPError(404)


def make_application(page: Page, language: Language) -> tornado.web.Application:
    """Return the application: the page, its three static files, and nothing else."""
    given = {"page": page, "language": language}
    names = "|".join(name.replace(".", r"\.") for name in _STATIC)
    return tornado.web.Application(
        [(r"/", _PageHandler, given), (rf"/static/({names})", _StaticHandler, given)],
        default_handler_class=_NothingHandler,
        default_handler_args=given,
        log_function=lambda _handler: None,
    )


def make_server(page: Page, language: Language) -> tornado.httpserver.HTTPServer:
    """Return the server with its limits; it listens nowhere yet."""
    return tornado.httpserver.HTTPServer(
        make_application(page, language),
        max_body_size=_LARGEST_DISCARDED,
        max_header_size=_LARGEST_HEADERS,
        body_timeout=_SECONDS_FOR_BODY,
        idle_connection_timeout=300.0,
    )


def bind(port: int) -> list[socket.socket]:
    """Return the listening socket on 127.0.0.1.

    Raises
    ------
    ConfigError
        The port is taken or not allowed.
    """
    try:
        return tornado.netutil.bind_sockets(port, ADDRESS, family=socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: this port of {ADDRESS} cannot be used ({error.strerror}); "
            "choose another one, or 0 for any free one"
        ) from error


def serve_page(
    model: CountsModel,
    *,
    model_name: str,
    port: int = 0,
    language: Language = "en",
    ready: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serve the page until the process is interrupted.

    Parameters
    ----------
    port
        Port of 127.0.0.1; 0 takes any free one.
    ready
        Called with the page's address as soon as it can be opened.

    Raises
    ------
    ConfigError
        The port cannot be used.
    """
    sockets = bind(port)
    page = Page(model=model, model_name=model_name, token=secrets.token_urlsafe(32))
    try:
        asyncio.run(_serve(page, sockets, language, ready))
    except KeyboardInterrupt:
        return


async def _serve(page: Page, sockets: list[socket.socket], language: Language, ready: Callable[[str], None]) -> None:
    server = make_server(page, language)
    server.add_sockets(sockets)
    ready(f"http://{ADDRESS}:{sockets[0].getsockname()[1]}/?lang={language}")
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()
        await server.close_all_connections()
