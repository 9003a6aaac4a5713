"""Which scanner made a slide, as far as the file says; for comparing slides of one scanner with those of another."""

from __future__ import annotations

from collections.abc import Mapping

_MODELS = (
    "aperio.ScanScope ID", "dicom.ManufacturerModelName", "hamamatsu.Product", "leica.device-model",
    "ventana.ScannerModel", "tiff.Model",
)  # fmt: skip
_MAKERS = ("dicom.Manufacturer", "tiff.Make")
_LONGEST = 60


def scanner_name(slide_format: str, properties: Mapping[str, str]) -> str:
    """Return maker and model of the scanner; the format alone where the file tells no more.

    Parameters
    ----------
    slide_format
        Vendor or format, as the backend names it.
    properties
        Technical properties of the slide.
    """
    maker = _first(properties, _MAKERS) or slide_format
    model = _first(properties, _MODELS)
    if model.lower().startswith(maker.lower()):
        maker = ""
    return " ".join(part for part in (maker, model) if part)


def _first(properties: Mapping[str, str], keys: tuple[str, ...]) -> str:
    for key in keys:
        text = "".join(c for c in " ".join(properties.get(key, "").split()) if c.isprintable())[:_LONGEST]
        if text:
            return text
    return ""
