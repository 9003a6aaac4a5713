"""Every English text that a report may show and that the package itself wrote."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import jinja2

import wsi_pipeline
from wsi_pipeline.exports.fibrosis_map import TITLES
from wsi_pipeline.exports.report import text, trephine
from wsi_pipeline.exports.report.fibrosis import TILE_GROUPS
from wsi_pipeline.exports.report.quality import MEASURES as MEASURES_OF_QUALITY
from wsi_pipeline.exports.report.render import environment_of
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.ranges import adult_blood_ranges
from wsi_pipeline.regions.regions import REGION_NAMES
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

PACKAGE = Path(wsi_pipeline.__file__).parent
ENGLISH_ONLY = frozenset({"assessment.html.j2"})
"""Reports for those who train and measure models."""
_KEYS = re.compile(r"_(?:quality|provenance)$")


def templates() -> dict[str, str]:
    """Return the source of each template that translates."""
    folder = resources.files("wsi_pipeline.exports.report").joinpath("templates")
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in folder.iterdir()
        if path.name.endswith(".j2") and path.name not in ENGLISH_ONLY
    }


def of_templates() -> Iterator[str]:
    """Yield what is in ``{% trans %}`` and in calls of gettext with a literal."""
    environment = environment_of(Words())
    for source in templates().values():
        for _, function, found in environment.extract_translations(source):
            assert function in ("gettext", "ngettext")
            yield from (found,) if isinstance(found, str) else filter(None, found)


def of_sentences() -> Iterator[str]:
    """Yield the templates given to ``say``; anything but a literal there is an error."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not re.search(r"^from wsi_pipeline\.sentences import .*\bsay\b", source, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                yield from _literals(node.args[0], path)


def _literals(node: ast.expr, path: Path) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield from _literals(node.body, path)
        yield from _literals(node.orelse, path)
    else:
        assert isinstance(node, ast.Constant), f"{path.name}:{node.lineno}: say() needs a literal"
        yield str(node.value)


def of_codes() -> Iterator[str]:
    """Yield words for codes."""
    for table in (
        text.SPECIMENS, text.TASKS, text.CLASSES, text.MODEL_TASKS, text.MODEL_CLASSES, text.REASONS, text.MEASURES,
        text.KINDS, text.INDICES, text.GROUPS, TITLES,
    ):  # fmt: skip
        yield from table.values()
    yield from (*text.PHENOTYPES, *TILE_GROUPS, *MEASURES_OF_QUALITY)
    yield from (name for _, name, _ in (*trephine.TISSUES, *trephine.MEASURES))
    yield from (text.CONTRADICTS, " or ", "probability", "yes", "no")
    yield from ("ok", "empty", "failed", "enough", "caution", "not-enough", "slide", "patient", "criteria")
    yield from ("option", "forced", "manifest", "above", "below", "undecided", "Searched")
    yield from ("truncated", "overlapping", "unmeasured", "the only one")
    yield from REGION_NAMES


def of_keys() -> Iterator[str]:
    """Yield the titles of the entries of quality, provenance and timings that the run itself writes."""
    for kind in text.KINDS:
        yield text.title(f"kind {kind}")
    for key in (
        "images used", "images left out", "images without a measured cell", "other files", "answers", "classification",
        "exports", "merge", "regions", "segmentation", "reading", "morphology", "fibres",
    ):  # fmt: skip
        yield text.title(key)
    for name in ("one_slide/summary.py", "one_slide/fibrosis.py", "galleries/patient.py"):
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _KEYS.search(node.name):
                for inside in ast.walk(node):
                    if isinstance(inside, ast.Dict):
                        for key in inside.keys:
                            if isinstance(key, ast.Constant):
                                yield text.label(str(key.value))[0]


def of_data() -> Iterator[str]:
    """Yield what stands in the package's YAML files, and how the cards of its weights name their test images."""
    ranges = adult_blood_ranges()
    yield from (ranges.population, ranges.source)
    yield from (one.name for one in (*ranges.ranges, *ranges.own_limits))
    yield from (one.why for one in ranges.own_limits)
    for card in PACKAGE.glob("weights/*.json"):
        yield from re.findall(r'"images": "([^"]+)"', card.read_text(encoding="utf-8"))
    for name in taxonomy_names():
        yield from load_taxonomy(name).denominators.values()


def every_message() -> set[str]:
    """Return all of them; those without a letter outside of placeholders need no translation."""
    found = {*of_templates(), *of_sentences(), *of_codes(), *of_keys(), *of_data()}
    return {one for one in found if re.search(r"[^\W\d_]", re.sub(r"\{[^}]*\}|%\(\w+\)s", "", one))}


def bare_text(source: str) -> list[str]:
    """Return the words of a template that a reader sees and that stand outside of ``{% trans %}``."""
    environment = jinja2.Environment(extensions=["jinja2.ext.i18n"], trim_blocks=True, lstrip_blocks=True)
    found, inside, in_tag = [], False, False
    for _, kind, value in environment.lex(source):
        if kind == "name" and value in ("trans", "endtrans"):
            inside = value == "trans"
        if kind != "data":
            continue
        seen = ""
        for letter in value:
            if letter == "<":
                in_tag = True
            elif letter == ">" and in_tag:
                in_tag, seen = False, f"{seen} "
            elif not in_tag:
                seen += letter
        if not inside:
            found += re.findall(r"[^\W\d_]{2,}", re.sub(r"&\w+;|mm²|µm(/px)?", " ", seen))
    return found
