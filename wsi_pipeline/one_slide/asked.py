"""What a slide was asked to be run with, and what changed since: a run is gone on with only where nothing did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsi_pipeline.cells.dysplasia import reference_sha256
from wsi_pipeline.errors import some
from wsi_pipeline.one_slide.job import FREE_SECTIONS, SlideJob
from wsi_pipeline.segmentation.cellpose_files import find_cellpose_file
from wsi_pipeline.weights import file_sha256, find_weights, shipped_weights

FINGERPRINT = "slide fingerprint"
_WEIGHTS = "weights of "
_SHOWN_HEX = 12
_SHOWN_TEXT = 60


def asked_of(job: SlideJob) -> dict[str, Any]:
    """Return all that a slide's results depend on and that is known before it is opened, flat, by name.

    Keys of the configuration are dotted; sections that change no result are left out. Models are named with the
    SHA-256 of their weights, the slide with its fingerprint.
    """
    spec, config = job.spec, job.config.model_dump(mode="json")
    regions = job.regions_file
    asked: dict[str, Any] = {
        "slide": str(spec.path),
        FINGERPRINT: job.source(),
        "--mpp": spec.mpp,
        "--force-mpp": spec.force_mpp,
        "manifest mpp": spec.manifest_mpp,
        "manifest patient": job.subject_id,
        "manifest simulated": job.simulated,
        "regions file SHA-256": file_sha256(regions) if regions is not None and regions.is_file() else None,
    }
    for section, value in config.items():
        if section not in FREE_SECTIONS:
            asked.update(_flat(value, section))
    asked.update({f"{_WEIGHTS}{name}": sha256 for name, sha256 in _weights(job)})
    # What these models are counts, not where their files lie.
    models = asked.pop("predictions.slide_models")
    phenotypes = asked.pop("predictions.phenotypes")
    for name in models:
        card = find_weights(name, "slides").card
        asked[f"slide model {card['name']}"] = card["sha256"]
    if phenotypes is not None:
        asked["phenotypes SHA-256"] = file_sha256(Path(phenotypes))
    if models or phenotypes is not None:
        asked["--allow-simulated"] = job.allow_simulated
    return asked


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}")
    else:
        yield key, value


def _weights(job: SlideJob) -> Iterator[tuple[str, str]]:
    """Yield what the weights are called in the configuration, and their SHA-256."""
    config = job.config
    name = config.segmentation.model
    path = None if name in shipped_weights() else find_cellpose_file(name)
    yield name, find_weights(name, "segmentation").sha256 if path is None else _sha256_once(path, _stamp(path))
    for kind, one in (("cells", config.cells.classifier), ("red_cells", config.cells.red_classifier)):
        if one is not None:
            yield one, find_weights(one, kind).sha256
    if config.cells.dysplasia_reference is not None and (found := reference_sha256(config.cells.dysplasia_reference)):
        yield config.cells.dysplasia_reference, found
    second = config.segmentation.megakaryocyte_model
    for kind, one in (("segmentation", second), ("fibrosis", config.fibrosis.model)):
        if one is not None:
            yield one, find_weights(one, kind).sha256


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


@lru_cache(maxsize=16)
def _sha256_once(path: Path, _: tuple[int, int]) -> str:
    return file_sha256(path)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs, ``key old -> new`` each, in the order of the keys now; nothing where all is the same."""
    gone = [key for key in before if key not in now]
    return [
        f"{key} {_short(before[key]) if key in before else '(none)'} -> {_short(now[key]) if key in now else '(none)'}"
        for key in (*now, *gone)
        if key not in before or key not in now or before[key] != now[key]
    ]


def asked_by_summary(summary: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``summary.json`` tells of what a finished slide was run with, for the keys of ``now`` it knows.

    It is used where the ledger is gone, and knows the slide and the weights but not the configuration.
    """
    known: dict[str, Any] = {"slide": summary.get("path"), "manifest patient": summary.get("subject_id")}
    provenance = summary.get("provenance", {})
    known[FINGERPRINT] = provenance.get("slide fingerprint")
    for what in ("segmentation", "cell classifier", "red-cell classifier"):
        name = provenance.get(f"{what} model" if what == "segmentation" else what)
        known[f"{_WEIGHTS}{name}"] = provenance.get(f"{what} SHA-256")
    return {key: known.get(key, value) if known.get(key) is not None else value for key, value in now.items()}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    hexadecimal = len(text) == 64 and set(text) <= set("0123456789abcdef")
    limit = _SHOWN_HEX if hexadecimal else _SHOWN_TEXT
    return text if len(text) <= limit else f"{text[:limit]}..."


def told(differences: list[str]) -> str:
    """Return differences as part of a sentence."""
    return some(differences) if differences else "what was asked for differs, and the ledger does not know in what"
