"""What a simulated trephine core is made of: bone, fat and megakaryocytes of controlled shape and arrangement."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from wsi_pipeline.simulation.strict import Strict

LARGEST_RADIUS_UM = 40.0
"""Of a megakaryocyte or fat cell: two of them must not reach further than a square of the layout."""

_Range = tuple[float, float]


class Between(Strict):
    """A number that differs: beta distributed between ``least`` and ``most``, with a mean and a standard deviation."""

    mean: float
    sd: float = Field(ge=0)
    least: float
    most: float

    @model_validator(mode="after")
    def _is_possible(self) -> Between:
        if not self.least <= self.mean <= self.most:
            raise ValueError(f"mean {self.mean} must lie between least {self.least} and most {self.most}")
        if self.sd and self.sd**2 >= (self.mean - self.least) * (self.most - self.mean):
            raise ValueError(f"sd {self.sd} is too wide for {self.least} to {self.most} with mean {self.mean}")
        return self

    def draw(self, rng: np.random.Generator, n: int = 1) -> npt.NDArray[np.float64]:
        """Return ``n`` numbers."""
        if self.sd == 0:
            return np.full(n, self.mean)
        width = self.most - self.least
        middle, variance = (self.mean - self.least) / width, (self.sd / width) ** 2
        concentration = middle * (1 - middle) / variance - 1
        return self.least + width * rng.beta(middle * concentration, (1 - middle) * concentration, n)


class MegakaryocyteKind(Strict):
    """A kind of megakaryocyte, as pathologists name them.

    Attributes
    ----------
    diameter_um
        Of the disc of the cell's area; of a bare nucleus, of the nucleus.
    nc_ratio
        Area of the nucleus over that of the cell.
    lobes
        Number of lobes, rounded.
    lobulation
        0 round to 1 deeply cut.
    darkness
        Density of its chromatin over that of the other nuclei of the slide.
    bare
        No cytoplasm.
    """

    diameter_um: Between
    nc_ratio: Between
    lobes: Between
    lobulation: Between
    darkness: Between
    bare: bool = False

    @model_validator(mode="after")
    def _can_be_drawn(self) -> MegakaryocyteKind:
        for name, low, high in (
            ("diameter_um", 8.0, 2 * LARGEST_RADIUS_UM), ("nc_ratio", 0.05, 0.9), ("lobes", 1.0, 12.0),
            ("lobulation", 0.0, 1.0), ("darkness", 0.3, 3.0),
        ):  # fmt: skip
            spread: Between = getattr(self, name)
            if not low <= spread.least <= spread.most <= high:
                raise ValueError(f"{name} runs from {spread.least} to {spread.most}; {low:g} to {high:g} can be drawn")
        return self


class Arrangement(Strict):
    """How many megakaryocytes there are, of which kinds, and how they lie.

    Attributes
    ----------
    per_mm2
        Mean number per mm2 of marrow (core less bone); a slide holds a Poisson number.
    shares
        Weights of the kinds.
    clustered
        Share that lies in clusters of three or more.
    cluster_size
        Mean number in a cluster; a cluster has three and a Poisson number more.
    cluster_gap_um
        From edge to edge between a cell of a cluster and the one it joined: 0 touches, some 10 um are a cell between.
    paratrabecular
        Density within 100 um of bone over that elsewhere.
    """

    per_mm2: float = Field(ge=0, le=300)
    shares: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    clustered: float = Field(0.0, ge=0, le=1)
    cluster_size: float = Field(4.0, ge=3, le=20)
    cluster_gap_um: _Range = (0.0, 12.0)
    paratrabecular: float = Field(1.0, ge=0, le=20)

    @model_validator(mode="after")
    def _has_weights(self) -> Arrangement:
        if sum(self.shares.values()) <= 0:
            raise ValueError("the weights of shares sum to 0")
        if not 0 <= self.cluster_gap_um[0] <= self.cluster_gap_um[1] <= 60:
            raise ValueError("cluster_gap_um is two numbers, the lesser first, from 0 to 60")
        return self


class Bone(Strict):
    """Bone of a core.

    Attributes
    ----------
    share
        Of the core that trabeculae take; beside a cortex, of what it leaves.
    thickness_um
        Range of the trabeculae's thickness.
    spacing_um
        Mean distance of the nodes of the network they form.
    cortex_um
        Thickness of a plate of cortical bone along one long side: a core taken along the cortex.
    """

    share: float = Field(0.2, ge=0, le=0.6)
    thickness_um: _Range = (80.0, 190.0)
    spacing_um: float = Field(650.0, ge=200, le=3000)
    cortex_um: float = Field(0.0, ge=0, le=20000)

    @model_validator(mode="after")
    def _has_width(self) -> Bone:
        if not 20 <= self.thickness_um[0] <= self.thickness_um[1] <= 400:
            raise ValueError("thickness_um is two numbers, the lesser first, from 20 to 400")
        return self


class CoreProfile(Strict):
    """A core of a trephine biopsy on glass.

    Attributes
    ----------
    margin_um
        Glass around the core; 0: tissue from edge to edge.
    cellularity
        Share of the marrow that fat does not take; drawn fat cells do not pack closer than to a half.
    fat_radius_um
        Range of the radii of fat cells.
    kinds, megakaryocytes
        Kinds of megakaryocytes by name, and how they lie; None: none.
    """

    margin_um: float = Field(120.0, ge=0, le=5000)
    cellularity: float = Field(0.6, ge=0.5, le=1)
    fat_radius_um: _Range = (15.0, 32.0)
    bone: Bone = Bone()
    kinds: dict[str, MegakaryocyteKind] = Field(default_factory=dict)
    megakaryocytes: Arrangement | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> CoreProfile:
        if not 10 <= self.fat_radius_um[0] <= self.fat_radius_um[1] <= LARGEST_RADIUS_UM:
            raise ValueError(f"fat_radius_um is two numbers, the lesser first, from 10 to {LARGEST_RADIUS_UM:g}")
        if self.megakaryocytes is not None:
            unknown = sorted(set(self.megakaryocytes.shares) - set(self.kinds))
            if unknown:
                raise ValueError(f"megakaryocytes.shares names {', '.join(unknown)}, which kinds does not have")
        return self
