"""Errors, each with a stable reason code.

Every error a user can meet is a :class:`WsiPipelineError`. Its ``reason`` is the code that appears in
``slides.csv``; its message names the file, what was found and what is needed. Classes also derive from the
matching builtin, so either can be caught.
"""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 5


def some(names: Iterable[str]) -> str:
    """Return up to five names for a message, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


class WsiPipelineError(Exception):
    """Base of all errors raised on purpose."""

    reason: str = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # The reason survives the pickle that carries an error from a worker to the client.
        return (_rebuild, (type(self), str(self), self.reason))


def _rebuild(cls: type[WsiPipelineError], message: str, reason: str) -> WsiPipelineError:
    return cls(message, reason=reason)


class ConfigError(WsiPipelineError, ValueError):
    """A configuration, manifest or command line that cannot be used (exit status 2)."""

    reason = "bad-configuration"


class SlideError(WsiPipelineError):
    """Base of what can be wrong with one slide."""

    reason = "slide-error"


class SlideNotFoundError(SlideError, FileNotFoundError):
    """The file does not exist or cannot be read by this user."""

    reason = "not-found"


class SlideUnreachableError(SlideError, ConnectionError):
    """The storage behind a slide's URL does not answer, fails, or gives no byte ranges."""

    reason = "unreachable"


class SlideChangedError(SlideError, OSError):
    """The slide's bytes are not those that the run began with."""

    reason = "changed"


class UnsupportedFormatError(SlideError, ValueError):
    """No backend recognises the file."""

    reason = "unsupported-format"


class UnreadableSlideError(SlideError, OSError):
    """A backend recognises the file, but it is damaged or incomplete."""

    reason = "unreadable"


class CorruptTileError(UnreadableSlideError):
    """A part of the pixels cannot be decoded; the message names slide, level and place."""

    reason = "corrupt-tile"


class NotBrightfieldError(SlideError, ValueError):
    """Fluorescence, greyscale or 16-bit images, which the models were not made for."""

    reason = "not-brightfield"


class MissingMppError(SlideError, ValueError):
    """The slide carries no microns-per-pixel and none was given."""

    reason = "missing-mpp"


class ImplausibleMppError(SlideError, ValueError):
    """Microns-per-pixel outside what an optical scanner can produce."""

    reason = "implausible-mpp"


class WrongStainError(SlideError, ValueError):
    """The slide's colours are those of another stain than the configuration is for."""

    reason = "wrong-stain"


class RegionError(SlideError, ValueError):
    """A regions file that cannot be used for its slide."""

    reason = "bad-regions"


class PatientFolderError(SlideError, ValueError):
    """A patient's folder of a gallery that cannot be used: no image, mixed forms, images too small."""

    reason = "bad-folder"


class ModelError(WsiPipelineError, ValueError):
    """A model that is missing, damaged, or does not fit the specimen."""

    reason = "bad-model"


class MissingWeightsError(ModelError, FileNotFoundError):
    """Weights that are not on this machine; nothing is downloaded during a run."""

    reason = "missing-weights"


class DownloadError(WsiPipelineError, ConnectionError):
    """Weights that were asked for and cannot be downloaded; nothing is left half written."""

    reason = "download-failed"


class DeviceError(WsiPipelineError, RuntimeError):
    """A device that was asked for and is not there."""

    reason = "missing-device"


class DataError(WsiPipelineError, ValueError):
    """Training or evaluation data that cannot be used."""

    reason = "bad-data"


class OutputError(WsiPipelineError, OSError):
    """The output folder cannot be written, or belongs to another run."""

    reason = "bad-output"


class LeaseHeldError(OutputError):
    """Another process, named in the message, works on the run or slide."""

    reason = "held"


class LeaseLostError(OutputError):
    """What this process held was taken over by another one, which took it for dead; it must write no more."""

    reason = "lease-lost"
