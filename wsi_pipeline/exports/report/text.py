"""Numbers and codes in words. Everything returned is plain text; the templates escape it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from wsi_pipeline.exports.report.summary import Answer, CellularityFact, Scalar, Seams
from wsi_pipeline.sentences import Sentence, say

SPECIMENS = {
    "blood_smear": "Peripheral blood smear",
    "marrow_smear": "Bone marrow smear",
    "trephine": "Bone marrow trephine",
}

TASKS = {
    "smear_diagnosis": "Smear overall",
    "aml": "Acute myeloid leukaemia range",
    "apl": "Acute promyelocytic leukaemia alert",
    "mds": "Myelodysplastic neoplasm",
    "mpn": "Myeloproliferative neoplasm",
    "fibrosis": "Fibrosis (reticulin)",
}

CLASSES = {
    "normal": "Within normal ranges",
    "aml_range": "Blasts in AML range",
    "below_range": "Blasts below AML range",
    "mds_like": "MDS-like",
    "other_abnormal": "Other abnormal",
    "apl_alert": "APL alert",
    "no_alert": "No alert",
    "fibrosis_index": "Fibrosis index",
}

MODEL_TASKS = {
    "aml": "Acute myeloid leukaemia",
    "apl": "Acute promyelocytic leukaemia",
    "apl_normal": "Acute promyelocytic leukaemia versus normal",
    "mds_reactive": "Myelodysplastic neoplasm versus reactive cytopenia",
}
MODEL_CLASSES = {
    "normal": "Normal",
    "aml": "Acute myeloid leukaemia",
    "aml_other": "Other acute myeloid leukaemia",
    "apl": "Acute promyelocytic leukaemia",
    "mds": "Myelodysplastic neoplasm",
    "reactive": "Reactive cytopenia",
}
"""Of trained models, which answer with a disease where the criteria answer with a range."""

REASONS = {
    "too-few-cells": "too few cells",
    "few-cells": "few cells: read with caution",
    "too-few-red-cells": "too few red cells",
    "too-few-neutrophils": "too few neutrophils",
    "too-few-eosinophils": "too few eosinophils on the slide to judge its stain by",
    "too-few-lymphocytes": "too few lymphocytes on the slide to judge its stain by",
    "eosinophil-granules-faint": "stain or focus do not even show the granules of the slide's eosinophils",
    "eosin-faint": "the slide's eosinophils are stained too faintly",
    "nuclear-stain-faint": "the slide's lymphocytes are stained too faintly",
    "eosinophils-not-classified": "the classifier does not know eosinophils, by which the stain is judged",
    "lymphocytes-not-classified": "the classifier does not know lymphocytes, by which the stain is judged",
    "segmented-not-told-from-bands": "the classifier does not tell segmented neutrophils from bands",
    "resolution-differs": "the working resolution differs from that of the reference",
    "unlike-training": "the slide is unlike what the classifier has seen",
    "interval-spans-1-percent": "the interval spans 1 %",
    "within-false-positives": "no more than the classifier's false positives",
    "not-classified": "cells were not classified",
    "interval-spans-20-percent": "the interval spans 20 %",
    "promyelocytes-may-be-blast-equivalents": "promyelocytes may be blast equivalents",
    "no-real-training-data": "no model trained on real cases",
    "uncertain": "no class can be left out",
    "out-of-distribution": "the subject is unlike those of the training",
    "no-dysplasia-classes": "dysplasia is not among the model's classes",
    "no-abnormal-promyelocyte-class": "abnormal promyelocytes are not among the model's classes",
    "only-auer-bundles": "of abnormal promyelocytes, the model knows only those with bundles of Auer rods",
    "no-blast-class": "blasts are not among the model's classes",
    "no-confusion-in-card": "the classifier's card does not say how it errs",
    "too-few-calibration-images": "the classifier was tested on too few images of a class",
    "no-inner-borders": "the slide is one block, without borders inside",
    "no-differential": "a section has no differential",
    "background": "background",
    "pen": "pen",
    "no-data": "not scanned",
    "too-small": "too small",
    "outside-drawn": "outside the drawn areas",
    "bone": "bone",
    "haemorrhage": "haemorrhage",
    "crush": "crushed cells",
    "fold": "fold of the section",
    "no-marrow": "no marrow was found",
    "too-few-megakaryocytes": "too few megakaryocytes",
    "no-model": "no model of phenotypes was given",
    "crash": "the process died, which a broken file can cause",
    "timeout": "it took longer than allowed",
    "out-of-memory": "memory ran out",
    "disk-full": "the disk is full",
    "read-only": "the folder cannot be written",
    "worker-lost": "the worker was lost",
    "run-stopped": "the run was stopped",
    "unreachable": "the storage does not answer",
    "changed": "the file changed during the run",
    "slide-error": "the slide cannot be used",
    "bad-configuration": "the configuration cannot be used",
    "bad-model": "the model cannot be used",
    "bad-data": "a table cannot be read",
    "bad-output": "a result cannot be written",
    "download-failed": "a download failed",
    "held": "another run holds the folder",
    "lease-lost": "another run took the folder over",
    "wrong-stain": "the slide's colours are of another stain than the configuration is for",
    "reticulin-stain": "not told on a reticulin stain",
    "too-little-marrow": "too little marrow",
    "too-few-marrow-spaces": "too few marrow spaces for an interval",
    "resolution-too-low": "the image is too coarse to tell marrow from bone",
    "missing-mpp": "the slide carries no microns per pixel",
    "implausible-mpp": "the slide's microns per pixel are implausible",
    "unreadable": "the file is damaged or incomplete",
    "corrupt-tile": "a part of the pixels cannot be decoded",
    "unsupported-format": "the format is not supported",
    "not-found": "the file does not exist or cannot be read",
    "not-brightfield": "the image is not brightfield",
    "glass-only": "nothing but glass was found",
    "too-thick": "red cells lie over one another: too thick to read",
    "too-thin": "too few red cells: the feathered edge",
    "out-of-focus": "out of focus",
    "too-dark": "too dark: underexposed",
    "particle": "marrow particles, too dense to read",
    "air-bubble": "air bubbles under the cover slip",
    "stain-precipitate": "precipitated stain",
    "scanner-stripe": "stripes left by the scanner",
    "bad-regions": "the regions file cannot be used",
    "no-images": "the patient's folder holds no image",
    "bad-folder": "the patient's folder cannot be used",
    "image-too-small": "images are too small for their resolution",
    "missing-weights": "model weights are missing",
    "missing-device": "the device asked for is not there",
    "no-cells": "no cell was found",
    "no-tissue": "no tissue was found",
    "no-stained-area": "no stained area was found",
    "internal-error": "the program itself failed",
    "blast-lineage-undetermined": "some blasts are of undetermined lineage",
    "apl-alert": "abnormal promyelocytes alert",
    "nothing-left-to-correct": "nothing is left to correct",
    "glass": "glass",
}

MEASURES = {
    "hypogranular": "Hypogranular",
    "pseudo_pelger": "Pseudo-Pelger (of segmented neutrophils)",
    "dysplastic_fraction": "Either: dysplastic fraction",
}

KINDS = {
    "white": "Nucleated cells",
    "red": "Red cells",
    "platelet": "Platelets",
    "nucleus": "Nuclei",
    "megakaryocyte": "Megakaryocytes",
    "other": "Other objects",
}

INDICES = {
    "me_ratio": "M:E ratio",
    "neutrophils_percent": "Neutrophils, band and segmented",
    "nrbc_per_100_wbc": "Nucleated red cells per 100 WBC",
    "artefacts_per_100_wbc": "Artefacts and smudged cells per 100 WBC",
    "artefacts_per_100_cells": "Artefacts and smudged cells per 100 cells",
    "platelets_per_1000_red_cells": "Platelets per 1,000 red cells",
    "red_cells_per_field": "Red cells per field",
    "platelets_per_field": "Platelets per field",
    "nucleus_per_mm2": "Nuclei per mm²",
    "megakaryocyte_per_mm2": "Megakaryocytes per mm²",
}

GROUPS = {
    "neutrophils": "Neutrophils, band and segmented",
    "granulocyte_precursors": "Promyelocytes to metamyelocytes",
    "granulocytic": "Granulocytes and their precursors",
}

PHENOTYPES = (
    "bare", "small", "large", "round nucleus", "hyperlobated", "pale", "hyperchromatic", "scant cytoplasm",
    "wide cytoplasm", "intermediate",
)  # fmt: skip
"""Words that names of phenotypes are made of (:mod:`wsi_pipeline.training.phenotypes.names`)."""

_CONTRADICTS = "contradicts-"
CONTRADICTS = "contradicts the answer to: "
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_UNITS = (("_um2", "µm²"), ("_mm2", "mm²"), ("_um", "µm"), ("_px", "px"), ("_percent", "%"), ("_s", "s"))
_UPPER = {"mpp": "Microns per pixel", "sha256": "SHA-256", "id": "ID", "mb": "MB"}


def title(code: str) -> str:
    """Turn ``mean_cell_probability`` into ``Mean cell probability``."""
    words = code.replace("_", " ").replace("-", " ").strip()
    if words.lower() in _UPPER:
        return _UPPER[words.lower()]
    return words[:1].upper() + words[1:]


def label(code: str) -> tuple[str, str]:
    """Return a title for a key and the unit that its ending names, or an empty unit."""
    for ending, unit in _UNITS:
        if code.endswith(ending) and len(code) > len(ending):
            return title(code[: -len(ending)]), unit
    return title(code), ""


def by_model(answer: Answer) -> str:
    """Return the trained model that gave an answer; empty for published criteria."""
    return "" if answer.model in (None, "none", "criteria") else str(answer.model)


def question_of(answer: Answer) -> tuple[str, str]:
    """Return what tells the answers about one subject apart: the task, and the trained model that gave it."""
    return answer.task, by_model(answer)


def task_words(answer: Answer) -> str:
    """Return what was asked."""
    return (by_model(answer) and MODEL_TASKS.get(answer.task)) or TASKS.get(answer.task, title(answer.task))


def class_parts(answer: Answer, code: str | None = None) -> list[str]:
    """Return the classes of an answer, or of another of its task; a set (``a|b``) has several."""
    known = {**CLASSES, **MODEL_CLASSES} if by_model(answer) else CLASSES
    parts = (answer.class_name or "" if code is None else code).split("|")
    return [known.get(part, title(part)) for part in parts if part]


def placed_notes(answers: Sequence[Answer]) -> tuple[list[list[str]], list[str]]:
    """Return each answer's own notes, and those of all answers, which stand below them. Each is said once.

    A note of several answers is that of the one with the fewest notes, which asks the narrowest question: that APL
    must be looked for stands with APL, and not with the smear as a whole.
    """
    having: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        for note in dict.fromkeys(answer.notes):
            having.setdefault(note, []).append(number)
    own: list[list[str]] = [[] for _ in answers]
    below = []
    for note, numbers in having.items():
        if len(answers) > 1 and len(numbers) == len(answers):
            below.append(note)
        else:
            own[min(numbers, key=lambda number: len(answers[number].notes))].append(note)
    return own, below


def contradicted(code: str | None) -> str | None:
    """Return the task that an answer would contradict, if that is the reason."""
    return code.removeprefix(_CONTRADICTS) if code and code.startswith(_CONTRADICTS) else None


def reason(code: str | None) -> str:
    """Return a reason code in words; a code without a sentence of its own loses its hyphens."""
    text = code or ""
    if (task := contradicted(code)) is not None:
        return f"{CONTRADICTS}{MODEL_TASKS.get(task) or TASKS.get(task, title(task))}"
    return REASONS.get(text) or (text.replace("-", " ") if _CODE.fullmatch(text) else text)


def count(number: int | float | None) -> str:
    """Return a whole number with thousands set apart."""
    return "–" if number is None else f"{number:,.0f}".replace(",", "\u202f")


def number(value: Scalar, digits: int = 3) -> str:
    """Return a value with about ``digits`` significant digits, text as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-4 <= abs(value) < 10**digits:
        places = 0 if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{places}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return count(value) if abs(value) >= 10**digits else f"{value:.2g}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a percentage (0 to 100) without its sign; below the last digit as ``<0.1``."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:.{digits}f}"


def interval(lower: float | None, upper: float | None, digits: int = 1) -> str:
    """Return ``lower–upper``; an open end is left open."""
    if lower is None and upper is None:
        return "–"
    return f"{number_or_open(lower, digits)} – {number_or_open(upper, digits)}"


def number_or_open(value: float | None, digits: int) -> str:
    """Return a bound of an interval with fixed decimals, or the sign of no bound."""
    return "∞" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def seams(found: Seams) -> Sentence:
    """Return in one sentence whether the borders of blocks show in the cells."""
    counts, edges = found.count_ratio, found.straight_edges
    if counts is None or edges is None:
        return say("Seams: not measured, {reason}.", reason=reason(found.reason))
    return say(
        "Seams: {ratio} times as many cells by area within {distance} µm of a block's border as in the interiors "
        "(95 % interval {interval}); straight edges {border} µm per mm of border, {control} in the interiors.",
        ratio=number(counts.value),
        distance=number(found.distance_um),
        interval=interval(counts.lower, counts.upper, 2),
        border=number(edges.border_um_per_mm),
        control=number(edges.control_um_per_mm),
    )


def cellularity(found: CellularityFact) -> Sentence:
    """Return in sentences how much of the marrow is haematopoietic, or why that is not said."""
    if found.percent is None:
        why = reason(found.reason)
        if found.reason == "too-little-marrow":
            return say("Cellularity: not measured, {reason} ({area} mm²).", reason=why, area=number(found.area_mm2))
        return say("Cellularity: not measured, {reason}.", reason=why)
    spaces = (
        say("{n} marrow space", n=found.n_spaces) if found.n_spaces == 1 else say("{n} marrow spaces", n=found.n_spaces)
    )
    if found.lower is None or found.upper is None:
        spread = say("{spaces}, {reason}", spaces=spaces, reason=reason(found.reason))
    else:
        spread = say(
            "95 % interval over {spaces} {interval} %",
            spaces=spaces,
            interval=interval(found.lower, found.upper, 0),
        )
    return say(
        "Cellularity: about {percent:.0f} % ({spread}), haematopoietic area over haematopoietic and fat area on "
        "{area} mm². Bone, artefacts and marrow beside cortical bone are left out. Told by colour "
        "and shape, without regard to age, and not compared with a pathologist's estimate: look at the section.",
        percent=found.percent,
        spread=spread,
        area=number(found.area_mm2),
    )


def seconds(value: float) -> str:
    """Return a duration as a person says it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
