"""The server: only this page may ask, only this form is read, nothing is logged, hostile input stays text."""

from __future__ import annotations

import logging
import re
import socket
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from tests.serve.fakes import TOKEN, FakeModel, fake_page
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.serve import server
from wsi_pipeline.serve.form import LONGEST_PASTE

FORM = "application/x-www-form-urlencoded"
SECRET = "98.7654"


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def by_id(self, name: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.found if attributes.get("id") == name)


class TestPage(AsyncHTTPTestCase):
    def get_app(self) -> Application:
        self.model = FakeModel()
        return server.make_application(fake_page(self.model), "en")

    def get_http_server(self):  # the limits are the server's, not the application's
        return server.make_server(fake_page(self.model), "en")

    def post(self, fields: dict[str, str], **headers: str) -> HTTPResponse:
        body = urlencode({"token": TOKEN, "lang": "en", "action": "answer", **fields})
        sent = {"Content-Type": FORM, "Origin": self.get_url("").rstrip("/"), **headers}
        return self.fetch("/", method="POST", body=body, headers=sent)

    def answer(self, **values: str) -> HTTPResponse:
        return self.post({"precondition": "yes", **{f"v.{name}": value for name, value in values.items()}})

    def test_get_gives_the_page_with_its_headers(self) -> None:
        page = self.fetch("/?lang=fr")
        assert page.code == 200
        assert '<html lang="fr">' in page.body.decode()
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in page.headers
        assert "Server" not in page.headers

    def test_nothing_inline_and_nothing_from_elsewhere(self) -> None:
        text = self.answer(Platelets_G_L="33", age="45").body.decode()
        for tag, attributes in Elements(text).found:
            assert tag != "style"
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert tag != "script" or attributes["src"] == "/static/page.js"
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/")[0] in "/#"
        assert "//" not in re.sub(r"<!doctype html>", "", text)

    def test_answer_without_script(self) -> None:
        page = self.answer(Platelets_G_L="33", age="45,5", MCHC_g_L="33,2", WBC_G_L="nonsense")
        text = page.body.decode()
        values, precondition = self.model.asked[-1]
        assert precondition
        assert (values["Platelets_G_L"], values["age"], values["MCHC_g_L"]) == (33, 45.5, 332)
        assert values["WBC_G_L"] is None
        assert "Likeliest: acute promyelocytic leukaemia (APL)" in text
        assert "Confirm PML::RARA and coagulation today." in text
        elements = Elements(text)
        assert "autofocus" in elements.by_id("answer-heading")
        wrong = elements.by_id("field-WBC_G_L")
        assert wrong["aria-invalid"] == "true"
        assert wrong["value"] == "nonsense"
        for name in (wrong["aria-describedby"] or "").split():
            assert elements.by_id(name) is not None
        assert "note-WBC_G_L-1" in (wrong["aria-describedby"] or "")
        assert "aria-invalid" not in elements.by_id("field-MCHC_g_L")
        assert "was read as “33,2 g/dL”: 332 g/L is used" in text

    def test_without_the_tick_there_is_no_answer(self) -> None:
        text = self.post({"v.Platelets_G_L": "33"}).body.decode()
        assert self.model.asked[-1][1] is False
        assert "No class is given" in text
        assert "The precondition is not ticked" in text

    def test_without_values_the_model_is_asked_and_says_so(self) -> None:
        assert "Too few usable values" in self.answer().body.decode()

    def test_the_language_changes_and_values_and_answer_stay(self) -> None:
        text = self.post(
            {"action": "", "to": "fr", "answered": "yes", "precondition": "yes", "v.Platelets_G_L": "33"}
        ).body.decode()
        elements = Elements(text)
        assert '<html lang="fr">' in text
        assert elements.by_id("field-Platelets_G_L")["value"] == "33"
        assert "checked" in elements.by_id("precondition")
        assert "Le plus probable" in text
        assert "autofocus" not in elements.by_id("answer-heading")

    def test_paste_fills_the_fields(self) -> None:
        text = self.post({"action": "fill", "paste": "PLT\t33\nFerritin\t900"}).body.decode()
        assert Elements(text).by_id("field-Platelets_G_L")["value"] == "33"
        assert "Not recognised, not used: Ferritin." in text
        assert not self.model.asked

    def test_an_answer_uses_what_is_still_in_the_paste_box(self) -> None:
        self.post({"precondition": "yes", "paste": "PLT\t33"})
        assert self.model.asked[-1][0]["Platelets_G_L"] == 33

    def test_hostile_text_stays_text(self) -> None:
        hostile = "\"'><script>alert(1)</script>"
        fields = {"v.age": hostile, "paste": f"{hostile}\t1\nAge\t{{{{7*7}}}}", "u.age": hostile, "lang": hostile}
        text = self.post({"precondition": "yes", **fields}).body.decode()
        assert "<script>alert" not in text
        assert "49" not in re.sub(r"\d{3,}", "", text).replace("{{7*7}}", "")
        assert [a for t, a in Elements(text).found if t == "script"] == [{"src": "/static/page.js", "defer": None}]

    def test_notes_of_the_model_are_escaped(self) -> None:
        assert "A note &lt;b&gt;" in self.answer(Platelets_G_L="33").body.decode()

    def test_a_foreign_name_for_this_machine_is_refused(self) -> None:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1]:1"):
            for path in ("/", "/static/page.js", "/nothing"):
                assert self.fetch(path, headers={"Host": host}).code == 421, (host, path)
            assert self.post({}, Host=host).code == 421
        assert self.fetch("/", headers={"Host": "localhost:1234"}).code == 200
        assert not self.model.asked

    def test_a_foreign_page_cannot_ask(self) -> None:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"):
            assert self.post({}, Origin=origin).code == 403, origin
        assert self.post({}, **{"Sec-Fetch-Site": "cross-site"}).code == 403
        for token in ("", "wrong", "é", TOKEN + "x"):
            assert self.post({"token": token}).code == 403, token
        assert not self.model.asked
        assert self.post({}).code == 200

    def test_only_this_form_is_read(self) -> None:
        assert self.post({}, **{"Content-Type": "text/plain"}).code == 415
        assert self.post({}, **{"Content-Type": "multipart/form-data; boundary=x"}).code == 415
        assert self.post({f"x{i}": "" for i in range(300)}).code == 415
        assert self.fetch("/", method="PUT", body="").code == 405
        assert self.fetch("/", method="DELETE").code == 405
        assert not self.model.asked

    def test_a_large_body_is_refused_and_the_largest_allowed_paste_is_not(self) -> None:
        page = self.post({"paste": "x" * server.LARGEST_BODY})
        assert page.code == 413
        assert "paste one patient" in page.body.decode()
        assert not self.model.asked
        assert self.post({"action": "fill", "paste": "é€" * (LONGEST_PASTE // 2)}).code == 200

    def test_other_paths_give_nothing(self) -> None:
        for path in ("/static/", "/static/../texts.yaml", "/static/%2e%2e/texts.yaml", "/texts.yaml", "/static/x.js"):
            assert self.fetch(path).code == 404, path
        assert self.fetch("/static/page.css").headers["Content-Type"] == "text/css; charset=utf-8"

    def test_values_that_cannot_be_answered_are_said(self) -> None:
        self.model.fails = DataError("no such <thing>")
        page = self.answer(Platelets_G_L="33")
        assert page.code == 200
        assert "No answer: no such &lt;thing&gt;" in page.body.decode()

    def test_nothing_of_the_values_is_logged(self) -> None:
        records: list[logging.LogRecord] = []
        listener = logging.Handler()
        listener.emit = records.append  # type: ignore[method-assign]
        root = logging.getLogger()
        level = root.level
        root.addHandler(listener)
        root.setLevel(logging.DEBUG)
        try:
            self.answer(Platelets_G_L=SECRET)
            self.model.fails = RuntimeError(f"trouble with {SECRET}")
            page = self.answer(Platelets_G_L=SECRET)
        finally:
            root.removeHandler(listener)
            root.setLevel(level)
        assert page.code == 500
        assert SECRET not in page.body.decode()
        written = "\n".join(logging.Formatter().format(record) for record in records)
        assert SECRET not in written
        assert "RuntimeError at" in written
        assert "POST" not in written


def test_it_listens_on_loopback_alone() -> None:
    sockets = server.bind(0)
    try:
        assert [s.getsockname()[0] for s in sockets] == ["127.0.0.1"]
    finally:
        for listening in sockets:
            listening.close()


def test_a_busy_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: this port of 127\.0\.0\.1 cannot be used"):
            server.bind(port)
