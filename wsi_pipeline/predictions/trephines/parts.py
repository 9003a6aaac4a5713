"""What the JSON files of phenotypes and of the cohort map are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number."""


class Part(BaseModel):
    """A part of a file that was written by a training: nothing unknown in it, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)
