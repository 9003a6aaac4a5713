"""The base of all parts of profiles."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a profile: no keys but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
