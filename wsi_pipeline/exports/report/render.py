"""Fill the templates; everything is escaped, an undefined name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from wsi_pipeline.atomic import write_text
from wsi_pipeline.exports.report import text
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.sentences import say


def environment_of(words: Words) -> jinja2.Environment:
    """Return the environment of one language.

    Notes
    -----
    What ``gettext`` returns counts as safe HTML: templates give it literal texts alone (``{% trans %}``), never a
    value; values are put in escaped. Words that come from data go through the filters ``tr`` and ``said``, whose
    results are escaped as any other value.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsi_pipeline.exports.report"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        gettext=words.tr, ngettext=words.ngettext, newstyle=True
    )
    environment.filters.update(
        tr=words.tr,
        said=words.sentence,
        capital=lambda words: words[:1].upper() + words[1:],
        title_of=words.title,
        class_of=words.class_name,
        specimen_of=words.specimen,
        kind_of=words.kind,
        index_of=words.index,
        phenotype_of=words.phenotype,
        group_of=words.group,
        class_words=words.answer_class,
        task_words=words.task,
        by_model=text.by_model,
        reason_text=words.reason,
        attribute_of=words.attribute,
        measure_of=words.measure,
        grouped=text.count,
        plain=words.number,
        percent=words.percent,
        decimals=words.decimals,
        seconds=words.seconds,
    )
    environment.globals.update(
        interval=words.interval,
        label=words.label,
        language=words.language,
        colon="\u00a0:" if words.language == "fr" else ":",
        placed_notes=text.placed_notes,
        semicolon="\u202f; " if words.language == "fr" else "; ",
        interval_words=lambda confidence: words.sentence(say("{level:g} % interval", level=100 * confidence)),
    )
    return environment


def render(template: str, out: Path, words: Words, **values: Any) -> None:
    """Render a template of this package to ``out``, atomically."""
    write_text(out, rendered(template, words, **values))


def rendered(template: str, words: Words, **values: Any) -> str:
    """Return a template of this package, filled."""
    return environment_of(words).get_template(template).render(**values)
