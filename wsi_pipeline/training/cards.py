"""Model cards: what a set of weights is, what it was made of, how good it is and where it fails.

A card is written beside its weights twice: as JSON, which the package reads and checks, and as Markdown for
people. The form follows Mitchell et al., "Model Cards for Model Reporting", FAT* 2019 (doi
10.1145/3287560.3287596).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_bytes, write_json, write_text
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.weights import file_sha256


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set the weights were trained on, with its licence and how many items of it were used."""

    title: str
    licence: str
    attribution: str
    n_train: int


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Parameters
    ----------
    name, on
        What was measured, and on which items.
    n
        How many items.
    value, lower, upper
        The figure and its 95 % interval; None where undefined.
    baseline
        What a trivial method reaches there; None where there is none.
    """

    name: str
    on: str
    n: int
    value: float | None
    lower: float | None = None
    upper: float | None = None
    baseline: float | None = None


def figure_of(name: str, on: str, n: int, found: Estimate, baseline: Estimate | None = None) -> Figure:
    """Return an estimate as a figure of a card."""
    return Figure(
        name=name,
        on=on,
        n=n,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        baseline=None if baseline is None else baseline.value,
    )


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a card says.

    Parameters
    ----------
    name, task, description
        Name of the weights, the task they do (``cells``, ``segmentation``, ...), and one sentence for people.
    classes
        Outputs, in order.
    specimens
        Specimens the model may be used on; the pipeline refuses it on others.
    mpp
        Working resolution, um per pixel.
    data, licence
        What the model was trained on, and the licence of the weights.
    split
        How train, validation and test were told apart, and the number of items in each.
    figures
        Measured figures, those on the test split first.
    fails_on
        Known failures, one sentence each.
    date
        ISO date of the training.
    details
        Further entries of the JSON card that the task needs (``window_px``, ``network``, ...).
    tables
        Titles and plain-text tables for the Markdown card.
    """

    name: str
    task: str
    description: str
    classes: tuple[str, ...]
    specimens: tuple[str, ...]
    mpp: float
    data: tuple[DataSource, ...]
    licence: str
    split: Mapping[str, Any]
    figures: tuple[Figure, ...]
    fails_on: tuple[str, ...]
    date: str
    details: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)


def save_weights(tensors: Mapping[str, Any], path: Path, *, half: bool = False) -> None:
    """Write torch tensors by name as safetensors, atomically; ``half`` stores matrices and kernels as float16."""
    from safetensors.torch import save

    kept = {
        key: (value.half() if half and value.is_floating_point() and value.ndim >= 2 else value)
        .detach()
        .cpu()
        .contiguous()
        for key, value in tensors.items()
    }
    # Not save_file, whose files only their owner may read.
    write_bytes(path, save(kept))


def write_card(card: Card, weights: Path) -> Path:
    """Write ``<weights>.json`` and ``.md`` beside the weights, with the weights' SHA-256; return the JSON's path.

    Raises
    ------
    DataError
        The weights do not exist, or an entry of ``details`` repeats one of the card's own.
    """
    if not weights.is_file():
        raise DataError(f"{weights} does not exist; a card is written after its weights")
    entries = asdict(card)
    details = entries.pop("details")
    entries.pop("tables")
    entries["metrics"] = entries.pop("figures")
    repeated = sorted(set(details) & {*entries, "sha256"})
    if repeated:
        raise DataError(f"card {card.name}: details repeat {', '.join(repeated)}")
    sha256 = file_sha256(weights)
    path = weights.with_suffix(".json")
    write_text(weights.with_suffix(".md"), render_markdown(card, sha256))
    write_json(path, {**entries, **details, "sha256": sha256})
    return path


def render_markdown(card: Card, sha256: str) -> str:
    """Return the card for people."""
    lines = [
        f"# {card.name}",
        "",
        card.description,
        "",
        "Research use only; not a medical device.",
        "",
        f"- Task: {card.task}",
        f"- Classes: {', '.join(card.classes)}",
        f"- Specimens: {', '.join(card.specimens)}",
        f"- Resolution: {card.mpp:g} um per pixel",
        f"- Licence of the weights: {card.licence}",
        f"- Trained: {card.date}",
        f"- SHA-256: `{sha256}`",
        "",
        "## Data",
        "",
        "| set | items trained on | licence | attribution |",
        "|---|---|---|---|",
        *(f"| {_cell(d.title)} | {d.n_train} | {_cell(d.licence)} | {_cell(d.attribution)} |" for d in card.data),
        "",
        "Split: " + "; ".join(f"{key} {value}" for key, value in card.split.items()) + ".",
        "",
        "## How good",
        "",
        "| figure | on | n | value | 95 % interval | trivial baseline |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_cell(f.name)} | {_cell(f.on)} | {f.n} | {_number(f.value)} | "
            f"{'-' if f.lower is None else f'{_number(f.lower)} to {_number(f.upper)}'} | {_number(f.baseline)} |"
            for f in card.figures
        ),
    ]
    for title, table in card.tables.items():
        lines += ["", f"### {title}", "", "```", table, "```"]
    lines += ["", "## Where it fails", "", *(f"- {text}" for text in card.fails_on)]
    return "\n".join(lines) + "\n"


_FAILURES = "## Where it fails\n"


def replace_entry(
    weights: Path,
    key: str,
    entry: Mapping[str, Any],
    tables_of: Callable[[Mapping[str, Any]], Mapping[str, str]],
) -> None:
    """Put an entry into the card beside weights, in place of an earlier one; all else stays as it is.

    Parameters
    ----------
    key, entry
        Of the JSON card.
    tables_of
        Titles and plain-text tables of an entry for the Markdown card.

    Raises
    ------
    DataError
        The card is missing, or its Markdown is not one of :func:`render_markdown`.
    """
    path, text_path = weights.with_suffix(".json"), weights.with_suffix(".md")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        text = text_path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{weights}: its card cannot be read ({error})") from None
    head, found, failures = text.partition(_FAILURES)
    if not found:
        raise DataError(f"{text_path} has no section {_FAILURES.strip()!r}; it is not a card of this package")
    if key in card:
        for title, table in tables_of(card[key]).items():
            head = head.replace(_section(title, table), "")
    head += "".join(_section(title, table) for title, table in tables_of(entry).items())
    write_text(text_path, head + found + failures)
    write_json(path, {**card, key: dict(entry)})


def _section(title: str, table: str) -> str:
    return f"### {title}\n\n```\n{table}\n```\n\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
