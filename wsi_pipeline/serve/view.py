"""An answer as the page shows it: sentences, numbers and the geometry of the bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.answers import CountsAnswer
from wsi_pipeline.serve.fields import label_of
from wsi_pipeline.serve.texts import Texts

_ROW_PX = 40
_LONGEST_BAR = 48.0


@dataclass(frozen=True, kw_only=True)
class Probability:
    """One class: its probability and the range that missing values leave open, as text and in percent of the bar."""

    name: str
    text: str
    open_text: str
    width: float
    low: float
    high: float
    likeliest: bool

    @property
    def is_open(self) -> bool:
        """Return whether the range is wide enough to be drawn."""
        return self.high - self.low > 0.5


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One value in the chart: bar from ``x`` over ``width`` percent, top at ``y`` pixels."""

    label: str
    text: str
    x: float
    width: float
    y: int
    favours: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One value in the table of contributions: effect by class."""

    label: str
    value: str
    words: str
    effects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """Everything the answer's section shows."""

    heading: str
    said: str
    trust: str
    reason: str
    apl_alert: bool
    probabilities: tuple[Probability, ...]
    chart_for: str
    bars: tuple[Bar, ...]
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    baseline: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def chart_height(self) -> int:
        """Height of the chart, pixels."""
        return _ROW_PX * len(self.bars)


def class_name(code: str, texts: Texts, *, short: bool = False) -> str:
    """Return a class's name, or its code where the page has none."""
    key = f"{'short' if short else 'class'}_{code}"
    return texts(key) if key in texts else code


def build_answer(answer: CountsAnswer, analytes: Sequence[Analyte], texts: Texts) -> AnswerView:
    """Return what is shown of an answer."""
    by_name = {a.name: a for a in analytes}
    labels = label_of(analytes, texts)
    classes = tuple(answer.probabilities or answer.baseline)
    leading = answer.predicted
    heading = texts("no_class") if answer.abstained else texts("likeliest", name=class_name(answer.predicted, texts))
    said = texts("said_answer", what=heading, trust=texts(f"trust_{answer.trust}"))
    if answer.apl_alert:
        said = f"{said} {texts('apl_title')}. {texts('apl_do')}"
    return AnswerView(
        heading=heading,
        said=said,
        trust=answer.trust,
        reason=texts(f"reason_{answer.reason}") if answer.reason else "",
        apl_alert=answer.apl_alert,
        probabilities=tuple(_probability(code, answer, texts) for code in answer.probabilities),
        chart_for=class_name(leading, texts) if leading else "",
        bars=_bars(answer, leading, by_name, texts) if leading else (),
        classes=tuple(class_name(code, texts, short=True) for code in classes),
        rows=tuple(
            Row(
                label=by_name[c.analyte].short[texts.language],
                value=_value(c.value, by_name[c.analyte], texts),
                words=_in(texts, c.words),
                effects=tuple(texts.signed(c.effect.get(code, 0.0)) for code in classes),
            )
            for c in answer.contributions
        ),
        baseline=tuple(texts.signed(answer.baseline[code]) for code in classes) if answer.baseline else (),
        missing=tuple((name, labels[name]) for name in answer.missing),
        notes=tuple(_in(texts, note) for note in answer.notes),
    )


def _in(texts: Texts, sentences: Mapping[str, str]) -> str:
    return sentences[texts.language]


def _value(value: float | None, analyte: Analyte, texts: Texts) -> str:
    return (
        texts("missing_one") if value is None else f"{texts.number(value, analyte.decimals)} {texts.unit(analyte.unit)}"
    )


def _probability(code: str, answer: CountsAnswer, texts: Texts) -> Probability:
    share = answer.probabilities[code]
    low, high = answer.spread.get(code, (share, share))
    return Probability(
        name=class_name(code, texts),
        text=texts.percent(share),
        open_text=texts("between", low=texts.percent(low), high=texts.percent(high))
        if low != high
        else texts("open_none"),
        width=round(100 * share, 2),
        low=round(100 * low, 2),
        high=round(100 * high, 2),
        likeliest=code == answer.predicted,
    )


def _bars(answer: CountsAnswer, code: str, by_name: Mapping[str, Analyte], texts: Texts) -> tuple[Bar, ...]:
    """Return one bar a value, from the middle to the right for the class and to the left against it."""
    effects = [c.effect.get(code, 0.0) for c in answer.contributions]
    largest = max((abs(e) for e in effects), default=0.0) or 1.0
    bars = []
    for i, (contribution, effect) in enumerate(zip(answer.contributions, effects, strict=True)):
        analyte = by_name[contribution.analyte]
        width = round(_LONGEST_BAR * abs(effect) / largest, 2)
        bars.append(
            Bar(
                label=f"{analyte.short[texts.language]} · {_value(contribution.value, analyte, texts)}",
                text=texts.signed(effect),
                x=50.0 if effect >= 0 else round(50.0 - width, 2),
                width=width,
                y=i * _ROW_PX,
                favours=effect >= 0,
            )
        )
    return tuple(bars)
