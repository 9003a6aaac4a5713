"""Errors: a stable reason each, which survives the way from a worker to the client."""

from __future__ import annotations

import copy
import pickle

import pytest

from wsi_pipeline import errors
from wsi_pipeline.errors import SlideNotFoundError, WsiPipelineError
from wsi_pipeline.runtime.executor import RunStoppedError
from wsi_pipeline.runtime.tasks import TaskLostError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, WsiPipelineError)]
CLASSES += [RunStoppedError, TaskLostError]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("reason", [None, "special-reason"])
def test_message_and_reason_survive_a_pickle(cls: type[WsiPipelineError], reason: str | None) -> None:
    error = cls("slide.svs: found this, needed that", reason=reason)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert str(again) == "slide.svs: found this, needed that"
        assert again.reason == (reason or cls.reason)


def test_a_cause_can_be_carried() -> None:
    try:
        raise SlideNotFoundError("a.svs: gone") from OSError(28, "No space left on device")
    except SlideNotFoundError as error:
        again = pickle.loads(pickle.dumps(error))
    assert str(again) == "a.svs: gone"


def test_reasons_are_codes_and_differ() -> None:
    reasons = [c.reason for c in CLASSES]
    assert len(set(reasons)) == len(reasons)
    assert all(r == r.lower() and r.replace("-", "").isalpha() for r in reasons)


def test_builtins_catch_them() -> None:
    with pytest.raises(FileNotFoundError):
        raise errors.SlideNotFoundError("x")
    with pytest.raises(ValueError, match="x"):
        raise errors.ConfigError("x")
    with pytest.raises(OSError, match="x"):
        raise errors.CorruptTileError("x")
    assert issubclass(errors.CorruptTileError, errors.UnreadableSlideError)
    assert issubclass(errors.MissingWeightsError, errors.ModelError)


def test_a_reason_of_one_error_is_not_that_of_its_class() -> None:
    assert errors.SlideError("x", reason="other").reason == "other"
    assert errors.SlideError("x").reason == "slide-error"
