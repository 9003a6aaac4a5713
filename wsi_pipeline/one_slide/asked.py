"""What a slide was asked to be run with, and what changed since: a run is gone on with only where nothing did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsi_pipeline.cells.dysplasia import reference_sha256
from wsi_pipeline.errors import some
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.runtime.ledger import key_of
from wsi_pipeline.segmentation.cellpose_files import find_cellpose_file
from wsi_pipeline.weights import file_sha256, find_weights, shipped_weights

FREE_SECTIONS = frozenset({"tiling", "runtime", "exports"})
"""Sections of the configuration that change no result, so a run may be resumed with other values."""

FINGERPRINT = "slide fingerprint"
_WEIGHTS = "weights of "
_SHOWN_HEX = 12
_SHOWN_TEXT = 60


def attempt_key(job: SlideJob) -> str:
    """Return the hash of all that could be known before opening the slide."""
    spec, known = job.spec, _known(job)
    models = [find_weights(name, "slides").card for name in known.slide_models]
    return key_of(
        path=str(spec.path),
        file=job.source(),
        mpp=[spec.mpp, spec.force_mpp, spec.manifest_mpp],
        regions=known.regions_sha256,
        subject=job.subject_id,
        config=known.sections,
        # Named only where it is so: what was run before manifests had the column stands.
        **({"simulated": True} if job.simulated else {}),
        # What is allowed counts only where a model was asked.
        slide_models=[*models, job.allow_simulated] if models else None,
        **({"phenotypes": [known.phenotypes_sha256, job.allow_simulated]} if known.phenotypes_sha256 else {}),
    )


def asked_of(job: SlideJob) -> dict[str, Any]:
    """Return what :func:`attempt_key` hashes, and the weights, flat and by name: what differs can be said.

    Keys of the configuration are dotted; sections that change no result are left out. Models are named with the
    SHA-256 of their weights, the slide with its fingerprint.
    """
    spec, known = job.spec, _known(job)
    asked: dict[str, Any] = {
        "slide": str(spec.path),
        FINGERPRINT: job.source(),
        "--mpp": spec.mpp,
        "--force-mpp": spec.force_mpp,
        "manifest mpp": spec.manifest_mpp,
        "manifest patient": job.subject_id,
        "manifest simulated": job.simulated,
        "regions file SHA-256": known.regions_sha256,
    }
    for section, value in known.sections.items():
        asked.update(_flat(value, section))
    asked.update({f"{_WEIGHTS}{name}": sha256 for name, sha256 in _weights(job)})
    for name in known.slide_models:
        card = find_weights(name, "slides").card
        asked[f"slide model {card['name']}"] = card["sha256"]
    if known.phenotypes_sha256 is not None:
        asked["phenotypes SHA-256"] = known.phenotypes_sha256
    if known.slide_models or known.phenotypes_sha256 is not None:
        asked["--allow-simulated"] = job.allow_simulated
    return asked


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What hash and names have in common. What slide models and phenotypes are counts, not where their files lie."""

    regions_sha256: str | None
    sections: dict[str, Any]
    slide_models: tuple[str, ...]
    phenotypes_sha256: str | None


def _known(job: SlideJob) -> _Known:
    regions = job.regions_file
    sections = {n: value for n, value in job.config.model_dump(mode="json").items() if n not in FREE_SECTIONS}
    models, phenotypes = sections["predictions"].pop("slide_models"), sections["predictions"].pop("phenotypes")
    return _Known(
        regions_sha256=file_sha256(regions) if regions is not None and regions.is_file() else None,
        sections=sections,
        slide_models=tuple(models),
        phenotypes_sha256=file_sha256(Path(phenotypes)) if phenotypes else None,
    )


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
