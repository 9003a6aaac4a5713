"""Fill the templates; everything is escaped, an undefined name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from wsi_pipeline.atomic import write_text
from wsi_pipeline.exports.report import text


def render(template: str, out: Path, **values: Any) -> None:
    """Render a template of this package to ``out``, atomically."""
    write_text(out, rendered(template, **values))


def rendered(template: str, **values: Any) -> str:
    """Return a template of this package, filled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsi_pipeline.exports.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        title_of=text.title,
        index_of=lambda code: text.INDICES.get(code, text.title(code)),
        group_of=lambda code: text.GROUPS.get(code, text.title(code)),
        class_words=text.class_words,
        task_words=text.task_words,
        by_model=text.by_model,
        reason_text=text.reason,
        attribute_of=text.attribute,
        measure_of=lambda code: text.MEASURES.get(code, text.title(code)),
        grouped=text.count,
        plain=text.number,
        percent=text.percent,
        seconds=text.seconds,
    )
    environment.globals.update(interval=text.interval, label=text.label)
    return environment.get_template(template).render(**values)
