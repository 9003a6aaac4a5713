"""A cohort of simulated patients: a small slide each, a manifest that says *simulated*, and what was planted."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.simulation.cohort_profile import (
    CohortProfile,
    Group,
    PatientDraw,
    draw_patient,
    load_cohort_profile,
    patient_profile,
)
from wsi_pipeline.simulation.hypogranular import HYPOGRANULAR, NEUTROPHILS
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.simulation.render import check_variation
from wsi_pipeline.simulation.slide import make_virtual_slide
from wsi_pipeline.simulation.trephine_cohort import (
    MPP as TREPHINE_MPP,
)
from wsi_pipeline.simulation.trephine_cohort import (
    TrephineCohort,
    TrephinePatient,
    counts_rows,
    slide_size_px,
    truth_rows,
)

MANIFEST_COLUMNS = ("slide", "slide_id", "patient", "label", "specimen", "mpp", "simulated")
PLANTED = ("blast", "promyelocyte", "dysplastic")
"""Planted fractions: of the countable white cells, the last of the neutrophils."""
MPP = 0.25
LEAST_MM2, MOST_MM2 = 0.01, 25.0
SMEAR_MM2, TREPHINE_MM2 = 0.25, 2.0

_SETTINGS = "cohort.json"


@dataclass(frozen=True, kw_only=True)
class CohortSettings:
    """Everything that the slides of a cohort depend on.

    Attributes
    ----------
    profile
        The groups.
    seed
        Non-negative; a patient depends on it and on the patient's number alone.
    area_mm2
        Of a slide, which is a square; of the tissue of a trephine.
    equal_profiles
        Draw every patient from the first group, whatever the label says: labels then mean nothing.
    stain_variation, blur_variation
        As of :func:`~wsi_pipeline.simulation.slide.make_virtual_slide`.
    """

    profile: CohortProfile | TrephineCohort
    seed: int
    area_mm2: float
    equal_profiles: bool = False
    stain_variation: float = 1.0
    blur_variation: float = 1.0

    def to_dict(self) -> dict[str, object]:
        """Return the content of ``cohort.json``."""
        return {**vars(self), "profile": self.profile.model_dump(mode="json", by_alias=True), "simulated": True}


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A cohort that was made: ``manifest.csv``, ``truth.csv``, the folder of the slides, and patients by label.

    ``counts`` is the table of labels and simulated blood counts, ``patients.csv``; None for smears.
    """

    manifest: Path
    truth: Path
    slides: Path
    patients: dict[str, int]
    counts: Path | None = None


def make_cohort(
    out: Path,
    *,
    patients: int,
    seed: int,
    profile: str | Path = "blood",
    area_mm2: float | None = None,
    equal_profiles: bool = False,
    stain_variation: float = 1.0,
    blur_variation: float = 1.0,
    workers: int = 1,
    report: Callable[[str], None] = lambda _: None,
) -> Cohort:
    """Make a cohort in a folder; slides that are there already are kept, so the same call resumes or enlarges it.

    Patient ``i`` is of group ``i`` modulo the number of groups and depends on the seed and ``i`` alone.

    Parameters
    ----------
    out
        Gets ``slides/``, ``manifest.csv`` (for ``wsi-pipeline run`` and ``train slides``), ``truth.csv`` (a row a
        patient: what was drawn and what was placed) and ``cohort.json`` (the settings); of trephines also
        ``patients.csv``, labels with simulated platelets and haemoglobin.
    patients
        How many, at least one a group.
    profile
        Name of a shipped cohort or a YAML file.
    area_mm2
        Of a smear's slide, or of a trephine's tissue; default 0.25 and 2.
    workers
        Processes, a slide at a time each; the slides are the same.
    report
        Told of each slide.

    Raises
    ------
    ConfigError
        A parameter is out of range, the profile cannot be used, or the folder holds a cohort of other settings.
    DataError
        A process was killed, or a slide's truth is damaged.
    """
    groups = load_cohort_profile(profile)
    usual = TREPHINE_MM2 if isinstance(groups, TrephineCohort) else SMEAR_MM2
    settings = CohortSettings(
        profile=groups, seed=seed, area_mm2=usual if area_mm2 is None else area_mm2, equal_profiles=equal_profiles,
        stain_variation=stain_variation, blur_variation=blur_variation,
    )  # fmt: skip
    _check(settings, patients, workers)
    _settle(out / _SETTINGS, settings)
    slides = out / "slides"
    wanted = [i for i in range(patients) if not _is_made(slides, i)]
    if len(wanted) < patients:
        report(f"{patients - len(wanted)} of {patients} slides are there already")
    for done, number in enumerate(_make(settings, slides, wanted, workers), start=1):
        report(f"[{done}/{len(wanted)}] {patient_name(number)}")
    drawn = [_draw(settings, i)[0] for i in range(patients)]
    _write_manifest(out / "manifest.csv", settings, drawn)
    made = Cohort(
        manifest=out / "manifest.csv",
        truth=out / "truth.csv",
        slides=slides,
        patients=dict(Counter(patient.label for patient in drawn)),
        counts=out / "patients.csv" if isinstance(settings.profile, TrephineCohort) else None,
    )
    names = [patient_name(number) for number in range(patients)]
    if isinstance(settings.profile, TrephineCohort):
        cores = [patient for patient in drawn if isinstance(patient, TrephinePatient)]
        write_text(made.truth, csv_text(*truth_rows(slides, names, cores, settings.profile)))
        write_text(out / "patients.csv", csv_text(*counts_rows(names, cores)))
    else:
        smears = [patient for patient in drawn if isinstance(patient, PatientDraw)]
        _write_truth(made.truth, slides, settings.profile, smears)
    return made


def patient_name(number: int) -> str:
    """Return the name of a patient and slide; it says nothing of the group."""
    return f"sim{number + 1:04d}"


def _check(settings: CohortSettings, patients: int, workers: int) -> None:
    groups = len(settings.profile.groups)
    if not groups <= patients <= 9999:
        raise ConfigError(f"{patients} patients: {groups} (one a group) to 9999 can be made")
    if settings.seed < 0:
        raise ConfigError(f"seed {settings.seed}: must not be negative")
    if not LEAST_MM2 <= settings.area_mm2 <= MOST_MM2:
        raise ConfigError(f"area {settings.area_mm2:g} mm2: a slide has {LEAST_MM2:g} to {MOST_MM2:g} mm2")
    if not 1 <= workers <= 256:
        raise ConfigError(f"workers {workers}: use 1 to 256")
    check_variation(settings.stain_variation, settings.blur_variation)


def _settle(path: Path, settings: CohortSettings) -> None:
    """Write the settings, or refuse a folder whose slides were made with others."""
    mine = settings.to_dict()
    if not path.is_file():
        write_json(path, mine)
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); choose another folder") from None
    other = sorted(key for key in mine if not isinstance(theirs, dict) or theirs.get(key) != mine[key])
    if other:
        raise ConfigError(
            f"{path.parent} holds a cohort made with another {', '.join(other)}; choose another folder or remove it"
        )


def _is_made(slides: Path, number: int) -> bool:
    # The truth is renamed into place after its slide.
    name = patient_name(number)
    return (slides / f"{name}.tiff").is_file() and (slides / f"{name}.truth.csv").is_file()


def _draw(settings: CohortSettings, number: int) -> tuple[PatientDraw | TrephinePatient, int]:
    """Return a patient and the seed of the slide."""
    rng = np.random.default_rng([settings.seed, number])
    profile = settings.profile
    groups = list(profile.groups)
    named = groups[number % len(groups)]
    drawn_of = groups[0] if settings.equal_profiles else named
    patient: PatientDraw | TrephinePatient
    if isinstance(profile, TrephineCohort):
        patient = profile.draw_patient(drawn_of, rng)
    else:
        patient = draw_patient(drawn_of, profile.groups[drawn_of], rng)
    return patient.model_copy(update={"label": profile.groups[named].label}), int(rng.integers(1 << 31))


def _make(settings: CohortSettings, slides: Path, numbers: list[int], workers: int) -> Iterator[int]:
    """Make slides and yield their numbers as they are done."""
    if workers == 1 or len(numbers) < 2:
        for number in numbers:
            _make_slide(settings, slides, number)
            yield number
        return
    with ProcessPoolExecutor(min(workers, len(numbers)), get_context("spawn")) as pool:
        futures = {pool.submit(_make_slide, settings, slides, number): number for number in numbers}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool:
            raise DataError(
                "a drawing process was killed, for want of memory most likely; use fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make_slide(settings: CohortSettings, slides: Path, number: int) -> None:
    patient, seed = _draw(settings, number)
    profile, size_px = _slide(settings, patient)
    make_virtual_slide(
        slides / f"{patient_name(number)}.tiff",
        profile=profile,
        size_px=size_px,
        seed=seed,
        mpp=_mpp(settings),
        stain_variation=settings.stain_variation,
        blur_variation=settings.blur_variation,
    )


def _slide(settings: CohortSettings, patient: PatientDraw | TrephinePatient) -> tuple[Profile, tuple[int, int]]:
    """Return what lies on a patient's slide, and its size."""
    profile = settings.profile
    if isinstance(profile, TrephineCohort) and isinstance(patient, TrephinePatient):
        return profile.slide_profile(patient), slide_size_px(settings.area_mm2)
    assert isinstance(profile, CohortProfile)
    assert isinstance(patient, PatientDraw)
    side = round(math.sqrt(settings.area_mm2) * 1000 / MPP)
    return patient_profile(profile, patient), (side, side)


def _mpp(settings: CohortSettings) -> float:
    return TREPHINE_MPP if isinstance(settings.profile, TrephineCohort) else MPP


def _write_manifest(path: Path, settings: CohortSettings, drawn: Sequence[PatientDraw | TrephinePatient]) -> None:
    rows = []
    mpp = f"{_mpp(settings):g}"
    for number, patient in enumerate(drawn):
        name = patient_name(number)
        rows.append((f"slides/{name}.tiff", name, name, patient.label, settings.profile.specimen, mpp, "true"))
    write_text(path, csv_text(MANIFEST_COLUMNS, rows))


def _write_truth(path: Path, slides: Path, profile: CohortProfile, drawn: Sequence[PatientDraw]) -> None:
    """Write drawn fractions and what was placed; a class outside the denominator is counted, not in ``n_white``."""
    groups = profile.groups.values()
    inside = list(dict.fromkeys(name for group in groups for name in _countable(group)))
    outside = sorted({name.partition(":")[0] for group in groups for name in group.outside} - set(inside))
    header = [
        "patient", "slide_id", "group", "label", "simulated", *(f"drawn_{name}" for name in PLANTED), "n_white",
        *(f"n_{name}" for name in (*inside, *outside)), f"n_{HYPOGRANULAR}",
    ]  # fmt: skip
    rows = []
    for number, patient in enumerate(drawn):
        name = patient_name(number)
        placed, paler = _placed(slides / f"{name}.truth.csv")
        shares = [*(patient.shares.get(code, 0.0) for code in PLANTED[:2]), patient.dysplastic]
        counts = [placed[code] for code in (*inside, *outside)]
        rows.append((
            name, name, patient.group, patient.label, "true", *(f"{share:.6f}" for share in shares),
            sum(placed[code] for code in inside), *counts, paler,
        ))  # fmt: skip
    write_text(path, csv_text(header, rows))


def _countable(group: Group) -> list[str]:
    return [*([] if group.leading is None else [group.leading.class_name]), *group.mix]


def _placed(path: Path) -> tuple[Counter[str], int]:
    """Return the white cells of a slide by class, and the hypogranular ones among the neutrophils."""
    classes: Counter[str] = Counter()
    paler = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] == "white":
                    classes[row["class"]] += 1
                    paler += row["class"] in NEUTROPHILS and row["variant"] == HYPOGRANULAR
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a truth table ({error!r}); remove it, and the slide is made anew") from None
    return classes, paler
