"""Reports in a real browser: no script from data, no request, no fault of accessibility, two printed pages."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_run import EVIL, answers_page, gallery_page, hostile_run
from section_pages import reticulin_page, trephine_page

from tests.serve.chromium import Chromium
from wsi_pipeline.finished_runs.rerender import rerender

AXE = next((Path(__file__).parents[1] / "vendor").glob("axe-core-*.min.js"))
SERIOUS = ("serious", "critical")
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, in both languages, of a run in which all texts are hostile."""
    found = {}
    for language in ("en", "fr"):
        folder = tmp_path_factory.mktemp(language)
        run = hostile_run(folder / "run")
        assert all(one.written for one in rerender(run, language=language))
        found |= {
            f"slide-{language}": run / "slides" / "a" / "report.html",
            f"cohort-{language}": run / "report.html",
            f"patient-{language}": next((run / "patients").glob("*.html")),
        }
        if language == "en":
            found |= {
                "gallery-en": gallery_page(folder / "gallery"),
                "answers-en": answers_page(run, folder / "answers.html"),
            }
    found["trephine-en"] = trephine_page(tmp_path_factory.mktemp("trephine"), "en")
    found["reticulin-fr"] = reticulin_page(tmp_path_factory.mktemp("reticulin") / "run", "fr")
    # A core is long and thin, and may lie either way.
    found["trephine-high-fr"] = trephine_page(tmp_path_factory.mktemp("trephine-high"), "fr", height=6)
    found["reticulin-high-en"] = reticulin_page(tmp_path_factory.mktemp("high") / "run", "en", across=2)
    found["reticulin-wide-fr"] = reticulin_page(tmp_path_factory.mktemp("wide") / "run", "fr", across=18)
    return found


NAMES = (
    "slide-en", "cohort-en", "patient-en", "gallery-en", "answers-en", "slide-fr", "cohort-fr", "patient-fr",
    "trephine-en", "reticulin-fr",
)  # fmt: skip


@pytest.fixture
def tab(browser: Chromium) -> Iterator[Chromium]:
    """The browser at its usual size and colours."""
    browser.patience_s = 240  # axe looks at every element of large pages, and the machine may be busy
    browser.resize(1280, 900)
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    yield browser
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def violations(tab: Chromium) -> list[tuple[str, Any]]:
    """Return what axe-core finds serious or critical, after making sure that it looked."""
    tab.js(f"{AXE.read_text(encoding='utf-8')};0")
    found = json.loads(tab.js("axe.run(document).then((r) => JSON.stringify([r.passes.length, r.violations]))"))
    assert found[0] > 15
    return [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found[1] if v["impact"] in SERIOUS]


@pytest.mark.parametrize("name", NAMES)
def test_no_fault_of_accessibility_in_light_and_dark_wide_and_narrow(
    tab: Chromium, pages: dict[str, Path], name: str
) -> None:
    for scheme in ("light", "dark"):
        for width in (1280, 400):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            tab.resize(width, 900)
            tab.open(pages[name].as_uri())
            assert violations(tab) == [], (scheme, width)
            assert tab.js("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", NAMES)
def test_nothing_from_data_runs_and_nobody_is_asked(tab: Chromium, pages: dict[str, Path], name: str) -> None:
    tab.events.clear()
    tab.open(pages[name].as_uri())
    asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert tab.js("window.hit") is None
    assert tab.js("document.querySelectorAll('script, iframe, object, embed, link, form').length") == 0
    handlers = "[...document.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => /^on/i.test(a.name)))"
    assert tab.js(f"{handlers}.length") == 0
    assert tab.js("[...document.images].every((i) => i.getAttribute('src').startsWith('data:image/'))")
    assert tab.js("[...document.querySelectorAll('a[href]')].every((a) => !/^[a-z]+:/i.test(a.getAttribute('href')))")
    assert "window.hit=1" in tab.js("document.body.textContent")
    assert "49" not in re.findall(r"\b49\b", tab.js("document.querySelector('h1').textContent"))


def test_no_page_scrolls_sideways(tab: Chromium, pages: dict[str, Path]) -> None:
    tab.resize(400, 900)
    for name, path in pages.items():
        tab.open(path.as_uri())
        assert tab.js("document.documentElement.scrollWidth") == 400, name


def test_what_one_answer_says_stands_with_it_also_in_print(tab: Chromium, pages: dict[str, Path]) -> None:
    tab.open(pages["slide-en"].as_uri())
    tab.call("Emulation.setEmulatedMedia", media="print")
    items = "[...document.querySelectorAll('#answers %s li')].filter((e) => e.offsetHeight).map((e) => e.innerText)"
    own, below = (tab.js(items % where) for where in (".answer > ul:not(.notes)", "> ul"))
    assert any("do not hold for a child" in note for note in own)
    assert len({*own, *below}) == len(own) + len(below)


def test_hostile_text_stands_as_it_is(tab: Chromium, pages: dict[str, Path]) -> None:
    for name in ("slide-en", "patient-fr", "gallery-en"):
        tab.open(pages[name].as_uri())
        assert EVIL in tab.js("document.body.textContent"), name


def test_links_of_the_run_lead_to_pages(tab: Chromium, pages: dict[str, Path]) -> None:
    tab.open(pages["cohort-en"].as_uri())
    links = tab.js("[...document.querySelectorAll('main a')].map((a) => decodeURIComponent(a.getAttribute('href')))")
    assert {Path(link).parts[0] for link in links} == {"slides", "patients"}
    assert all((pages["cohort-en"].parent / link).is_file() for link in links)


def test_the_outlines_are_switched_by_keyboard(tab: Chromium, pages: dict[str, Path]) -> None:
    tab.open(pages["slide-en"].as_uri())
    shown = "getComputedStyle(document.querySelector('#cells .over')).display"
    assert tab.js(shown) == "none"
    for _ in range(40):
        tab.press("Tab")
        if tab.js("document.activeElement.closest('#cells .toggle') !== null"):
            break
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
    tab.press(" ")
    assert tab.js(shown) != "none"


def test_the_first_tab_skips_to_the_content(tab: Chromium, pages: dict[str, Path]) -> None:
    tab.open(pages["slide-en"].as_uri())
    tab.press("Tab")
    assert tab.js("document.activeElement.className") == "skip"
    assert tab.js("document.activeElement.getBoundingClientRect().left >= 0")
    tab.press("Enter")
    assert tab.js("location.hash") == "#content"


@pytest.mark.parametrize("name", ["slide-en", "slide-fr", "gallery-en"])
def test_a_slide_is_printed_on_two_pages(tab: Chromium, pages: dict[str, Path], name: str) -> None:
    tab.open(pages[name].as_uri())
    pdf = base64.b64decode(tab.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2
    tab.call("Emulation.setEmulatedMedia", media="print")
    for what, seen in (("#differential", True), ("#cells .key", True), (".toggle", False), ("nav", False)):
        assert tab.js(f"document.querySelector('{what}').getClientRects().length > 0") is seen, what


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("trephine-en", "#marrow"), ("trephine-high-fr", "#marrow"), ("reticulin-fr", "#fibrosis"),
        ("reticulin-high-en", "#fibrosis"), ("reticulin-wide-fr", "#fibrosis"),
    ],
)  # fmt: skip
def test_a_section_is_printed_on_two_pages_with_its_map(
    tab: Chromium, pages: dict[str, Path], name: str, kept: str
) -> None:
    tab.open(pages[name].as_uri())
    pdf = base64.b64decode(tab.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2
    tab.call("Emulation.setEmulatedMedia", media="print")
    for what, seen in ((f"{kept} .printed .over", True), (f"{kept} table", True), (".toggle", False), ("nav", False)):
        assert tab.js(f"document.querySelector('{what}').getClientRects().length > 0") is seen, what


def test_the_page_says_its_language(tab: Chromium, pages: dict[str, Path]) -> None:
    for name in NAMES:
        tab.open(pages[name].as_uri())
        assert tab.js("document.documentElement.lang") == name[-2:]


def test_pages_are_small(pages: dict[str, Path]) -> None:
    assert {name: path.stat().st_size for name, path in pages.items() if path.stat().st_size > MOST_BYTES} == {}
