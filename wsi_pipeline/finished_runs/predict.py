"""Answers of trained models about finished runs, written to a folder of their own; the runs stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json, writing
from wsi_pipeline.config import Language
from wsi_pipeline.errors import DataError, OutputError, SlideError, some
from wsi_pipeline.exports.report.answers import Subject, write_answers_report
from wsi_pipeline.exports.report.summary import read_summary
from wsi_pipeline.galleries.survey import MAX_PIXELS
from wsi_pipeline.many_slides.tables import prediction_row, write_csv
from wsi_pipeline.one_slide.answers import QUPATH, ask_about, write_asked
from wsi_pipeline.predictions.attention import FILE
from wsi_pipeline.predictions.bags import FinishedSlide, SkippedSlide, check_embeddings, counts_of, list_runs
from wsi_pipeline.predictions.bags.cells import is_table
from wsi_pipeline.predictions.bags.routine import panel_of
from wsi_pipeline.predictions.bags.runs import SMEARS, UNREADABLE
from wsi_pipeline.predictions.model_answers import check_names
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.prediction import PREDICTION_COLUMNS, PredictionLevel
from wsi_pipeline.predictions.slide_models import SlideEnsemble
from wsi_pipeline.predictions.unanswered import SUBJECT_COLUMNS, Unanswered, of_skipped, unreadable
from wsi_pipeline.runtime.worker import slide_model, use_threads
from wsi_pipeline.sentences import say
from wsi_pipeline.slides.picture import read_image

PROBABILITY_COLUMNS = (
    "slide_id", "level", "subject_id", "task", "model", "class", "probability", "abstained",
)  # fmt: skip
"""Of ``probabilities.csv``: a row a class, also of answers that abstain."""
ANSWERS, SUBJECTS = "answers.json", "subjects.csv"


@dataclass(frozen=True, kw_only=True)
class SlidePredictions:
    """What was answered: subjects, slides before patients; who has no answer; sentences on what was left out."""

    subjects: tuple[Subject, ...]
    unanswered: tuple[Unanswered, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Unanswered, ...]:
        """Return the subjects that should have had an answer."""
        return tuple(own for own in self.unanswered if own.failed)


def predict_slides(
    runs: Sequence[Path],
    out: Path,
    *,
    models: Sequence[str],
    counts: Path | None = None,
    allow_simulated: bool = False,
    language: Language = "en",
    progress: Callable[[str], None] = lambda _: None,
) -> SlidePredictions:
    """Ask models about every slide and every patient of finished runs.

    A subject whose files are damaged, half-written or gone does not keep the others from their answers: it is named
    in :attr:`SlidePredictions.unanswered` and in ``subjects.csv``. So is a patient with such a slide.

    Parameters
    ----------
    runs
        Folders that ``run`` wrote, of slides or galleries. Slides of one patient may lie in several.
    out
        A new folder, or one that this function wrote, whose answers are replaced.
    models
        Files of weights or shipped names.
    counts
        CSV table of patients or slides with routine counts, for models that read them.
    allow_simulated
        Let models of simulated cohorts answer; otherwise they abstain.
    language
        Of the report, ``en`` or ``fr``.
    progress
        Told the name of each subject when it is done.

    Raises
    ------
    DataError
        A run is half-written, has nothing to read, or its slides lack what a model reads; or the table cannot be used.
    ModelError
        A model is missing, damaged, or made for other specimens or another classifier.
    OutputError
        ``out`` holds something else, or cannot be written.
    """
    loaded = [slide_model(name) for name in models]
    check_names(loaded)
    specimens = {s for model in loaded for s in model.card["specimens"]} | set(SMEARS)
    slides, skipped = list_runs(runs, specimens=specimens, keep_going=True)
    notes = _left_out(slides, skipped)
    notes += _check_fit(loaded, slides)
    questions = _questions(slides, loaded)
    told: Sequence[Mapping[str, float] | None] = [None] * len(questions)
    if counts is not None:
        told, remarks = _counts(counts, questions)
        notes += remarks
    _open_folder(out, runs)
    use_threads(1)
    subjects: list[Subject] = []
    unanswered = [own for slide in skipped if (own := of_skipped(loaded, slide)) is not None]
    with writing(out):
        lost = {own.patient: own.message for own in unanswered if own.reason == UNREADABLE and own.patient}
        for subject in _answered(questions, told, loaded, out, allow_simulated, lost=lost):
            if isinstance(subject, Unanswered):
                unanswered.append(subject)
                note = say("{name} has no answer: {why}", name=subject.name, why=subject.message)
                # A patient of one slide fails as its slide does.
                notes += [note] if note not in notes else []
            else:
                subjects.append(subject)
            progress(subject.name)
        _write(out, subjects, unanswered, notes, language)
    return SlidePredictions(subjects=tuple(subjects), unanswered=tuple(unanswered), notes=tuple(notes))


def _left_out(slides: Sequence[FinishedSlide], skipped: Sequence[SkippedSlide]) -> list[str]:
    """Return a sentence on slides without cells, and one on each that cannot be read; refuse runs of these alone."""
    broken = [slide for slide in skipped if slide.status == UNREADABLE]
    if broken and not slides:
        more = f" (nor can {len(broken) - 1} more be read)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0].reason}{more}; no slide of these runs can be read")
    others = [slide for slide in skipped if slide.status != UNREADABLE]
    return [
        *([f"Left out: {some(map(str, others))}."] if others else []),
        *(say("{name} has no answer: {why}", name=slide.slide_id, why=slide.reason) for slide in broken),
    ]


def _check_fit(models: Sequence[SlideEnsemble], slides: Sequence[FinishedSlide]) -> list[str]:
    """Refuse models that fit no slide, and slides without what they read; tell of slides a model is not asked about."""
    notes = []
    for model in models:
        model.check_made_for(*sorted({slide.specimen for slide in slides}), whose="the runs")
        asked = [slide for slide in slides if slide.specimen in model.card["specimens"]]
        typed = [slide for slide in asked if slide.classifier_sha256 != model.card["classifier"]["sha256"]]
        if typed:
            model.check_typed_by(typed[0].classifier_sha256, whose=some(slide.slide_id for slide in typed))
        if model.card["reads_embedding"]:
            for slide in asked:
                # One that is damaged is told of at its turn.
                if is_table(slide):
                    check_embeddings(slide)
        others = [slide.slide_id for slide in slides if slide not in asked]
        if others:
            notes.append(
                f"Model {model.card['name']} was not asked about {some(others)}: it was made for "
                f"{', '.join(model.card['specimens'])}."
            )
    return notes


def _open_folder(out: Path, runs: Sequence[Path]) -> None:
    """Refuse a folder that is a run or holds something else; remove the files of earlier answers."""
    if any(out.resolve() == run.resolve() for run in runs) or (out / "slides.csv").exists():
        raise OutputError(f"--out {out} is a run, which keeps its own answers; give another folder")
    try:
        if out.exists() and not (out / ANSWERS).is_file() and any(out.iterdir()):
            raise OutputError(f"--out {out} holds something else than answers of slides; give a new folder")
        for name in (FILE, QUPATH):
            for path in (out / "slides").glob(f"*/{name}"):
                path.unlink()
        # Says whose the folder is, also when what follows is interrupted.
        write_json(out / ANSWERS, {"subjects": [], "unanswered": [], "notes": []})
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"--out {out} cannot be used: {error.strerror or error}; give another folder") from None


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A slide or a patient that is asked about."""

    subject_id: str
    level: PredictionLevel
    slides: tuple[FinishedSlide, ...]

    @property
    def slide_ids(self) -> tuple[str, ...]:
        return tuple(slide.slide_id for slide in self.slides)

    @property
    def patient(self) -> str:
        return self.slides[0].subject_id


def _questions(slides: Sequence[FinishedSlide], models: Sequence[SlideEnsemble]) -> list[_Question]:
    """Return the slides that some model is asked about, then their patients by specimen, in order of their ids."""
    asked = [slide for slide in slides if _fitting(models, slide.specimen)]
    pooled: dict[tuple[str, str], list[FinishedSlide]] = {}
    for slide in asked:
        if slide.subject_id:
            pooled.setdefault((slide.subject_id, slide.specimen), []).append(slide)
    return [
        *(_Question(subject_id=slide.slide_id, level="slide", slides=(slide,)) for slide in asked),
        *(
            _Question(subject_id=patient, level="patient", slides=tuple(own))
            for (patient, _), own in sorted(pooled.items())
        ),
    ]


def _counts(table: Path, questions: Sequence[_Question]) -> tuple[list[Mapping[str, float] | None], list[str]]:
    """Return the routine counts of each subject, of the analytes that stand beside its specimen, and remarks."""
    told: list[Mapping[str, float] | None] = [None] * len(questions)
    said: list[str] = []
    panels = [panel_of(question.slides[0].specimen) for question in questions]
    for panel in sorted(set(panels)):
        places = [i for i, own in enumerate(panels) if own == panel]
        found, remarks = counts_of(table, [questions[i] for i in places], panel=panel)
        said += remarks
        for i, values in zip(places, found, strict=True):
            told[i] = values
    return told, said


def _answered(
    questions: Sequence[_Question],
    counts: Sequence[Mapping[str, float] | None],
    models: Sequence[SlideEnsemble],
    out: Path,
    allow_simulated: bool,
    *,
    lost: Mapping[str, str],
) -> Iterator[Subject | Unanswered]:
    """Yield each subject with its answers; a slide's files are written. A patient of one slide has its answers.

    ``lost`` says of patients which slide of theirs cannot be read: what the others say is not the patient's answer.
    """
    of_slide: dict[str, tuple[Mapping[str, Any], ...]] = {}
    damaged: dict[str, str] = {}
    for question, own in zip(questions, counts, strict=True):
        first = question.slides[0]
        fitting = _fitting(models, first.specimen)
        why = next((damaged[name] for name in question.slide_ids if name in damaged), "")
        why = why or (lost.get(question.subject_id, "") if question.level == "patient" else "")
        try:
            if why:
                raise DataError(why)
            answers: tuple[Mapping[str, Any], ...]
            if question.level == "patient" and len(question.slides) == 1:
                answers = tuple({**a, "level": "patient", "slide_id": None} for a in of_slide[first.slide_id])
            else:
                answers = _ask(question, fitting, out, allow_simulated=allow_simulated, counts=own)
        except (DataError, SlideError) as error:
            if question.level == "slide":
                damaged[question.subject_id] = str(error)
            yield unreadable(
                fitting,
                name=question.subject_id,
                level=question.level,
                slide_ids=question.slide_ids,
                patient=first.subject_id,
                message=str(error),
            )
            continue
        if question.level == "slide":
            of_slide[first.slide_id] = answers
        yield Subject(name=question.subject_id, level=question.level, slides=question.slides, answers=answers)


def _ask(
    question: _Question,
    models: Sequence[SlideEnsemble],
    out: Path,
    *,
    allow_simulated: bool,
    counts: Mapping[str, float] | None,
) -> tuple[Mapping[str, Any], ...]:
    """Return the answers about a subject, and write the files of a slide, all or none."""
    first = question.slides[0]
    bag, asked = ask_about(
        models,
        question.slides,
        level=question.level,
        confidence=read_summary(first.folder / "summary.json").confidence,
        allow_simulated=allow_simulated,
        counts=counts,
    )
    if question.level == "slide":
        folder, qupath = out / "slides" / first.slide_id, first.folder / QUPATH
        try:
            write_asked(folder, bag, asked, qupath=qupath if qupath.is_file() else None)
        except DataError:
            (folder / FILE).unlink(missing_ok=True)
            raise
    return tuple(prediction.to_dict() for prediction in asked.predictions)


def _fitting(models: Sequence[SlideEnsemble], specimen: str) -> list[SlideEnsemble]:
    return [model for model in models if specimen in model.card["specimens"]]


def _write(
    out: Path, subjects: Sequence[Subject], unanswered: Sequence[Unanswered], notes: Sequence[str], language: Language
) -> None:
    # Slides before patients, each by its id.
    everybody: list[Subject | Unanswered] = [*subjects, *unanswered]
    everybody.sort(key=lambda own: (own.level != "slide", own.name))
    answers = [answer for subject in everybody for answer in subject.answers]
    write_csv(out / SUBJECTS, SUBJECT_COLUMNS, [_subject_row(subject) for subject in everybody])
    write_csv(out / "predictions.csv", PREDICTION_COLUMNS, [prediction_row(answer) for answer in answers])
    write_csv(out / "probabilities.csv", PROBABILITY_COLUMNS, [row for a in answers for row in _probabilities(a)])
    # A report of many pictures takes longest; what it shows is on disk before.
    write_json(
        out / ANSWERS,
        {
            "subjects": [
                {
                    "name": subject.name,
                    "level": subject.level,
                    "slide_ids": [slide.slide_id for slide in subject.slides],
                    "predictions": list(subject.answers),
                }
                for subject in subjects
            ],
            "unanswered": [
                {
                    "name": own.name,
                    "level": own.level,
                    "slide_ids": list(own.slide_ids),
                    "status": own.status,
                    "reason": own.reason,
                    "message": own.message,
                }
                for own in unanswered
            ],
            "notes": list(notes),
        },
    )
    write_answers_report(
        out / "report.html",
        _once(subjects),
        read_image=lambda path: read_image(path, max_pixels=MAX_PIXELS),
        notes=notes,
        language=language,
    )


def _once(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the subjects without patients of one slide, whose answers are those of the slide."""
    return [subject for subject in subjects if subject.level == "slide" or len(subject.slides) > 1]


def _subject_row(subject: Subject | Unanswered) -> dict[str, str]:
    slide_ids = [slide.slide_id for slide in subject.slides] if isinstance(subject, Subject) else subject.slide_ids
    return {
        "subject_id": safe_cell(subject.name),
        "level": subject.level,
        "slide_ids": safe_cell("|".join(slide_ids)),
        "status": "ok" if isinstance(subject, Subject) else subject.status,
        "reason": "" if isinstance(subject, Subject) else subject.reason,
        "message": "" if isinstance(subject, Subject) else safe_cell(subject.message),
    }


def _probabilities(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known = prediction_row(answer)
    for name, p in (answer.get("probabilities") or {}).items():
        yield {**{key: known[key] for key in PROBABILITY_COLUMNS if key in known}, "class": name, "probability": p}
