"""From a form to the whole page: pasted text into fields, values to the reader, the model's answer into HTML."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jinja2

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.reading import CountsTable, read_values
from wsi_pipeline.serve.fields import build_fields, paste_messages
from wsi_pipeline.serve.form import LONGEST_PASTE, LONGEST_VALUE, Form, fill, raw_values
from wsi_pipeline.serve.interface import CountsModel
from wsi_pipeline.serve.texts import LANGUAGES, Language, Texts, load_texts
from wsi_pipeline.serve.view import AnswerView, build_answer

BATCH_COMMAND: Final = "wsi-pipeline predict counts"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page of one model.

    Parameters
    ----------
    model
        What answers.
    model_name
        As it was asked for, shown on the page.
    token
        Secret of this process, in every form, without which nothing is answered.
    """

    model: CountsModel
    model_name: str
    token: str

    @property
    def analytes(self) -> tuple[Analyte, ...]:
        """Return the values the page asks for."""
        return self.model.analytes

    def empty(self, language: Language) -> str:
        """Return the page without values."""
        return self.respond(Form(language=language))

    def respond(self, form: Form) -> str:
        """Return the page with the form's values, and the answer where one was asked for."""
        texts = load_texts(form.language)
        filled = fill(form, self.analytes)
        raw = raw_values(filled.form, self.analytes)
        asked = form.action == "answer" or (form.action == "show" and form.answered)
        table: CountsTable | None = None
        answer: AnswerView | None = None
        problem = ""
        try:
            table = read_values(raw, analytes=self.analytes) if raw else None
            if asked:
                given = self.model.answer("", self._values(table), precondition=form.precondition)
                answer = build_answer(given, self.analytes, texts)
        except DataError as error:
            problem = texts("problem", message=str(error))
        fields = build_fields(filled, self.analytes, table, texts)
        refused = sum(f.invalid for f in fields)
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                **_frame(texts),
                form=filled.form,
                token=self.token,
                fields=fields,
                paste_messages=paste_messages(filled, self.analytes, BATCH_COMMAND, texts),
                refused=texts("refused_one" if refused == 1 else "refused_count", count=refused) if refused else "",
                answer=answer,
                problem=problem,
                focus_answer=form.action == "answer",
                model_name=self.model_name,
                trained_on=self.model.trained_on,
                command=BATCH_COMMAND,
                longest_value=LONGEST_VALUE,
                longest_paste=LONGEST_PASTE,
            )
        )

    def _values(self, table: CountsTable | None) -> dict[str, float | None]:
        """Return the value of each analyte in its canonical unit, None where missing or refused."""
        if table is None:
            return {a.name: None for a in self.analytes}
        row = [float(v) for v in table.values[0]]
        return {a.name: None if math.isnan(v) else v for a, v in zip(self.analytes, row, strict=True)}


def render_error(status: int, language: Language) -> str:
    """Return the page that says why a request was not answered."""
    texts = load_texts(language)
    key = f"error_{status}"
    return (
        _environment()
        .get_template("error.html.j2")
        .render(**_frame(texts), message=texts(key if key in texts else "error_500"))
    )


def _frame(texts: Texts) -> Mapping[str, Any]:
    return {"t": texts, "language": texts.language, "languages": LANGUAGES}


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("wsi_pipeline.serve"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
