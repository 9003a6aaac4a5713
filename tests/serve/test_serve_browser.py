"""The page in a real browser: keyboard alone, names for screen readers, focus, languages, no request elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serve.chromium import Chromium
from tests.serve.conftest import Served

FOCUS = "document.activeElement.id"
CONTRAST = """
(() => {
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(element);
    if (!own || !element.getClientRects().length) continue;
    const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [a, b] = [light(parts(ink).slice(0, 3)), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([element.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)]);
  }
  return poor;
})()
"""


@pytest.fixture
def page(browser: Chromium, served: Served) -> Iterator[Chromium]:
    """The empty English page; afterwards nothing may have gone elsewhere and nothing may stand in the console."""
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.resize(1200, 900)
    browser.open(f"{served.url}?lang=en")
    browser.events.clear()
    yield browser
    for event in browser.events:
        if event["method"] == "Network.requestWillBeSent":
            assert urlsplit(event["params"]["request"]["url"]).netloc == f"127.0.0.1:{served.port}"
    said = [e for e in browser.events if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown")]
    said += [e for e in browser.events if e["method"] == "Log.entryAdded"]
    assert not said


def nodes(browser: Chromium) -> list[tuple[str, str, dict[str, Any]]]:
    """Role, name and properties of all that a screen reader meets."""
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
            | {"description": node.get("description", {}).get("value", "")},
        )
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if not node.get("ignored")
    ]


def tab_to(browser: Chromium, element: str) -> None:
    for _ in range(80):
        if browser.js(FOCUS) == element:
            return
        browser.press("Tab")
    raise AssertionError(f"Tab never reaches {element}")


def ask(browser: Chromium, platelets: str = "33") -> None:
    browser.js("document.getElementById('precondition').click()")
    browser.js(f"document.getElementById('field-Platelets_G_L').value = '{platelets}'")
    browser.js("document.getElementById('ask').click()")
    browser.wait("document.getElementById('predicted')")


def test_keyboard_alone_from_the_empty_page_to_the_answer(page: Chromium, served: Served) -> None:
    page.press("Tab")
    assert page.js("document.activeElement.className") == "skip"
    assert page.js("document.activeElement.getBoundingClientRect().left >= 0")
    tab_to(page, "precondition")
    page.press(" ")
    assert page.js("document.getElementById('precondition').checked")
    tab_to(page, "field-MCHC_g_L")
    page.type("33,2")
    tab_to(page, "unit-MCHC_g_L")
    page.press("ArrowDown")
    tab_to(page, "field-Platelets_G_L")
    page.type("33")
    page.press("Enter")
    page.wait("document.getElementById('predicted')")
    assert page.js("document.getElementById('predicted').textContent").startswith("Likeliest: acute promyelocytic")
    assert page.js(FOCUS) == "answer-heading"
    live = page.js("document.getElementById('live').textContent")
    assert "Likeliest: acute promyelocytic leukaemia (APL)" in live
    assert "Confirm PML::RARA and coagulation today" in live
    assert served.model.asked[-1][0]["MCHC_g_L"] == 332
    assert served.model.asked[-1][1]


def test_every_control_is_reached_in_order_and_its_focus_is_seen(page: Chromium) -> None:
    seen = []
    for _ in range(60):
        page.press("Tab")
        seen.append(page.js(FOCUS))
        if page.js("document.activeElement !== document.body"):
            assert page.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if seen[-1] == "restart":
            break
    fields = page.js("[...document.querySelectorAll('.field input')].map((e) => e.id)")
    wanted = ["to-en", "to-fr", "precondition", "paste", "fill", *fields, "ask", "restart"]
    assert [name for name in seen if name in wanted] == wanted


def test_paste_then_answer_by_keyboard(page: Chromium, served: Served) -> None:
    tab_to(page, "precondition")
    page.press(" ")
    tab_to(page, "paste")
    page.type("Âge\t45,5\nPlaquettes\t33\nLeucocytes\t12,3\tG/L\nFerritine\t900")
    tab_to(page, "fill")
    page.press("Enter")
    page.wait("document.getElementById('paste-notes')")
    assert page.js(FOCUS) == "paste-notes"
    assert "3 pasted values" in page.js("document.getElementById('paste-notes').textContent")
    assert "Ferritine" in page.js("document.getElementById('paste-notes').textContent")
    tab_to(page, "ask")
    page.press("Enter")
    page.wait("document.getElementById('predicted')")
    values = {k: v for k, v in served.model.asked[-1][0].items() if v is not None}
    assert values == {"age": 45.5, "Platelets_G_L": 33, "WBC_G_L": 12.3}


def test_what_a_screen_reader_meets(page: Chromium) -> None:
    page.js("document.getElementById('field-age').value = '450'")
    ask(page)
    found = nodes(page)
    named = {(role, name) for role, name, _ in found}
    roles = [role for role, _, _ in found]
    for role in ("banner", "main", "contentinfo", "status"):
        assert roles.count(role) == 1, role
    for wanted in (
        ("RootWebArea", "Acute leukaemia from routine blood counts"),
        ("region", "Values of the patient"),
        ("region", "Answer"),
        ("heading", "Answer"),
        ("checkbox", "Acute leukaemia is established or strongly suspected in this patient."),
        ("textbox", "Paste values"),
        ("textbox", "Platelets"),
        ("combobox", "Unit of Platelets"),
        ("button", "Get the answer"),
        ("image", "Contribution of each value to acute promyelocytic leukaemia (APL)"),
        ("table", "Probabilities"),
        ("rowheader", "acute promyelocytic leukaemia (APL)"),
        ("link", "Lactate dehydrogenase (LDH)"),
    ):
        assert wanted in named, wanted
    controls = ("textbox", "combobox", "button", "checkbox", "link")
    assert not [item for item in found if item[0] in controls and not item[1]]
    boxes = [name for role, name, _ in found if role == "textbox"]
    assert len(boxes) == len(set(boxes))
    age = next(p for role, name, p in found if (role, name) == ("textbox", "Age"))
    assert age["invalid"] == "true"
    assert "“450 years” is not used: a number from 0 to 120 years is needed." in age["description"]
    platelets = next(p for role, name, p in found if (role, name) == ("textbox", "Platelets"))
    assert platelets["invalid"] == "false"
    assert "Adult reference 150 to 400 G/L." in platelets["description"]
    chart = next(p for role, name, p in found if role == "image" and name.startswith("Contribution"))
    assert "Platelets · 33 G/L: +1.60" in chart["description"]


def test_trust_and_alert_do_not_rest_on_colour(page: Chromium) -> None:
    shapes = set()
    for platelets, words in (("33", "Orange trust"), ("", "Red trust")):
        page.js("document.getElementById('precondition').checked = false")
        ask(page, platelets)
        page.wait(f"document.getElementById('trust').textContent.includes('{words}')")
        shapes.add(page.js("document.querySelector('#trust .shape').outerHTML"))
    assert len(shapes) == 2


def test_the_language_changes_and_keeps_values_unit_and_answer(page: Chromium) -> None:
    page.js("document.getElementById('unit-MCHC_g_L').value = 'g/dL'")
    page.js("document.getElementById('field-MCHC_g_L').value = '33.2'")
    ask(page)
    page.js("document.getElementById('to-fr').click()")
    page.wait("document.documentElement.lang === 'fr'")
    assert page.js("document.title").startswith("Leucémie aiguë")
    assert page.js("document.getElementById('field-MCHC_g_L').value") == "33.2"
    assert page.js("document.getElementById('unit-MCHC_g_L').value") == "g/dL"
    assert page.js("document.getElementById('precondition').checked")
    assert page.js("document.getElementById('predicted').textContent").startswith("Le plus probable")
    assert page.js(FOCUS) == "to-fr"
    assert ("textbox", "Plaquettes") in {(role, name) for role, name, _ in nodes(page)}


def test_an_answer_to_other_values_is_marked_as_old(page: Chromium) -> None:
    ask(page)
    assert page.js("document.getElementById('stale').hidden")
    page.js("document.getElementById('field-Platelets_G_L').focus()")
    page.type("0")
    assert not page.js("document.getElementById('stale').hidden")
    assert "Ask again" in page.js("document.getElementById('live').textContent")


def test_without_script_the_answer_is_the_same_and_takes_the_focus(page: Chromium, served: Served) -> None:
    ask(page)
    with_script = page.js("document.getElementById('answer').innerText.replace('Print', '').trim()")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(f"{served.url}?lang=en")
    tab_to(page, "precondition")
    page.press(" ")
    tab_to(page, "field-Platelets_G_L")
    page.type("33")
    page.press("Enter")
    page.wait("document.getElementById('predicted') && document.readyState === 'complete'")
    assert page.js("location.search") == ""
    assert page.js("document.getElementById('answer').innerText.replace('Print', '').trim()") == with_script
    page.wait("document.activeElement.id === 'answer-heading'")


def test_hostile_text_is_shown_and_not_run(page: Chromium) -> None:
    page.js("document.getElementById('paste').value = '<img src=x onerror=alert(1)>\\t1\\n<b>Mr</b>\\t2'")
    page.js("document.getElementById('field-age').value = '\"><svg onload=alert(1)>'")
    ask(page)
    assert page.js("document.querySelectorAll('img, #page b, svg[onload]').length") == 0
    assert "<img src=x" in page.js("document.getElementById('paste-notes').textContent")
    assert page.js("document.getElementById('field-age').value") == '"><svg onload=alert(1)>'


def test_a_narrow_window_needs_no_sideways_scrolling(page: Chromium) -> None:
    for language in ("en", "fr"):
        page.resize(400, 800)
        page.js(f"document.getElementById('to-{language}').click()")
        page.wait(f"document.documentElement.lang === '{language}'")
        if language == "en":
            ask(page)
        assert page.js("document.documentElement.scrollWidth") <= 400


def test_contrast_of_all_text_is_at_least_4_5(page: Chromium) -> None:
    page.js("document.getElementById('field-age').value = '450'")
    ask(page)
    assert page.js("document.querySelectorAll('#answer *').length") > 50
    assert page.js(CONTRAST) == []


def test_print_shows_values_and_answer_without_the_controls(page: Chromium) -> None:
    ask(page)
    page.call("Emulation.setEmulatedMedia", media="print")
    shown = "document.getElementById('{}').getClientRects().length > 0"
    for name, seen in (("predicted", True), ("field-Platelets_G_L", True), ("paste", False), ("ask", False)):
        assert page.js(shown.format(name)) is seen, name


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("old page", "older than the running program"), ("no server", "Is it still running?")],
)
def test_no_answer_is_said_and_values_stay(page: Chromium, trouble: str, said: str) -> None:
    page.js("document.getElementById('field-age').value = '45'")
    if trouble == "old page":
        page.js("document.querySelector('[name=token]').value = 'of an earlier start'")
    else:
        page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    page.js("document.getElementById('ask').click()")
    page.wait("!document.getElementById('failure').hidden")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    assert said in page.js("document.getElementById('failure').textContent")
    assert page.js("document.getElementById('field-age').value") == "45"
    page.events[:] = [e for e in page.events if e["method"] != "Log.entryAdded"]  # the browser's own line
