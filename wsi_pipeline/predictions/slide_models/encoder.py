"""A cell network whose last stages were tuned to the labels of subjects: one answer a cell, averaged over a subject.

Only immature cells are looked at, as in DeepAPL (Sidhom et al., npj Precision Oncology 5:38, 2021): they carry what a
count of classes leaves out. Each cell's logits say how much its look speaks for each class of the task; the mean over
the cells, each weighted by the probability that it is immature, is the subject's. Several tunings (seeds) of one trunk
are averaged.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_pipeline.cells.network import CellNetwork, NetworkSpec
from wsi_pipeline.cells.preparation import Preparation, Stain
from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features import immature_weight
from wsi_pipeline.predictions.slide_features.groups import labelled_immature
from wsi_pipeline.predictions.slide_models.cell_windows import CellWindows, read_windows

LEAST_WEIGHT = 0.2
"""Cells that are less probably immature are not looked at."""
_BATCH = 64
_MOST, _MOST_BLOCKS = 4096, 16
_PRIOR_CELLS = 3.0
"""Cells without an opinion that a subject's mean is drawn to: few cells say little."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What is needed to rebuild an encoder around its tensors, and to look at cells as it was taught to.

    Parameters
    ----------
    network
        Description of the cell network (:class:`~wsi_pipeline.cells.network.NetworkSpec`).
    classifier, classifier_sha256
        Weights it started from.
    mpp, window_px, stain
        Windows it takes: resolution, um per pixel, side, and preparation of the stain.
    n_classes
        Classes of the task.
    frozen_stages
        Stages of the network that were left as they were.
    cells
        Immature cells of a subject that are looked at, at most: the likeliest, of equal ones the first by id.
    tunings
        Tunings that are averaged.
    """

    network: dict[str, Any]
    classifier: str
    classifier_sha256: str
    mpp: float
    window_px: int
    stain: Stain
    n_classes: int
    frozen_stages: int
    cells: int
    tunings: int

    def __post_init__(self) -> None:
        # A file that nobody vouches for must not ask for more than a network of single cells needs.
        sizes = [self.network["stem"], self.network["embedding_dim"], *self.network["widths"], self.window_px]
        depths = self.network["depths"]
        within = all(0 < size <= _MOST for size in (*sizes, self.cells)) and all(0 <= d <= _MOST_BLOCKS for d in depths)
        stages = 0 < self.frozen_stages < len(self.network["widths"]) <= _MOST_BLOCKS
        if not (within and stages and 0 < self.tunings <= _MOST_BLOCKS and 0.01 <= self.mpp <= 5):
            raise ModelError("the description of the tuned encoder is out of bounds")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)

    @property
    def preparation(self) -> Preparation:
        """Return how windows are prepared; each is looked at once."""
        return Preparation(stain=self.stain)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Cells of a subject that an encoder looked at: ``m`` rows of its bag.

    Parameters
    ----------
    rows
        ``(m,)`` of the bag, ascending.
    weight
        ``(m,)`` probability that each is immature.
    logits
        ``(m, classes)``, mean over the tunings; the mean over classes is 0.
    """

    rows: npt.NDArray[np.int64]
    weight: FloatArray
    logits: FloatArray

    def subject(self, times: FloatArray) -> FloatArray:
        """Return the subject's logits ``(B, classes)`` of resamples; zeros where no cell was looked at.

        Parameters
        ----------
        times
            ``(B, n)`` how often each cell of the bag counts.
        """
        own = times[:, self.rows] * self.weight
        found: FloatArray = own @ self.logits / (own.sum(axis=1, keepdims=True) + _PRIOR_CELLS)
        return found


class Tuning(nn.Module):
    """The last stages of a cell network, and a linear layer from its embedding to the classes of a task."""

    def __init__(self, network: CellNetwork, frozen_stages: int, n_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self._frozen_stages = frozen_stages
        self.network = copy.deepcopy(network)
        for unused in ("stem", "head"):
            setattr(self.network, unused, nn.Identity())
        for stage in range(frozen_stages):
            self.network.stages[stage] = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(network.spec.embedding_dim, n_classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return logits ``(n, classes)`` of what the frozen stages gave."""
        logits: torch.Tensor = self.out(self.dropout(self.network.embed_maps(maps, self._frozen_stages)))
        return logits


@dataclass(frozen=True, kw_only=True)
class FrozenMaps:
    """What the frozen stages give of ``m`` cells of a subject.

    Parameters
    ----------
    rows, weight
        As in :class:`Looked`.
    maps
        float16 ``(m, channels, side, side)``.
    """

    rows: npt.NDArray[np.int64]
    weight: FloatArray
    maps: npt.NDArray[np.float16]


class TunedEncoder:
    """A trunk that was left as it was and the tunings on it.

    Parameters
    ----------
    known
        Gives the maps of bags whose pixels were read before, None of others, whose pixels are read.

    Attributes
    ----------
    spec
        Its description.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        trunk: CellNetwork,
        tunings: Sequence[Tuning],
        device: str = "cpu",
        known: Callable[[CellBag], FrozenMaps | None] = lambda bag: None,
    ) -> None:
        self.spec = spec
        self.device = device
        self._trunk = trunk.eval().to(device)
        self._tunings = [tuning.eval().to(device) for tuning in tunings]
        self._known = known
        self._last: tuple[str, Looked] | None = None

    def look(self, bag: CellBag) -> Looked:
        """Look at the immature cells of a bag and answer for each; the last bag's answers are kept.

        Raises
        ------
        DataError
            The pixels are not to be had any more.
        """
        # A local name: patients of a gallery are answered in threads, which share the model.
        key, last = bag_key(bag), self._last
        if last is None or last[0] != key:
            last = key, self._judge(self._known(bag) or self._read(bag))
            self._last = last
        return last[1]

    def _read(self, bag: CellBag) -> FrozenMaps:
        rows, weight = immature_rows(bag, self.spec.cells)
        windows = read_windows(bag, rows, mpp=self.spec.mpp, side=self.spec.window_px)
        return FrozenMaps(rows=rows, weight=weight, maps=trunk_maps(self._trunk, self.spec, windows, self.device))

    def _judge(self, cells: FrozenMaps) -> Looked:
        """Answer for cells in batches of one shape."""
        n = len(cells.rows)
        logits = np.zeros((n, self.spec.n_classes))
        with torch.inference_mode():
            for start in range(0, n, _BATCH):
                stop = min(start + _BATCH, n)
                batch = torch.from_numpy(_padded(cells.maps[start:stop])).to(self.device).float()
                for tuning in self._tunings:
                    logits[start:stop] += tuning(batch)[: stop - start].double().cpu().numpy() / len(self._tunings)
        logits -= logits.mean(axis=1, keepdims=True)
        return Looked(rows=cells.rows, weight=cells.weight, logits=logits)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all tensors by name: what the tunings stand on, and the tunings, which were rounded to float16."""
        found = {f"trunk.{name}": value for name, value in self._trunk.state_dict().items() if self._is_below(name)}
        for number, tuning in enumerate(self._tunings):
            found |= {f"tuning.{number}.{name}": value.half() for name, value in tuning.state_dict().items()}
        return {name: value.detach().cpu().numpy() for name, value in found.items()}

    def _is_below(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        return part == "stem" or (part == "stages" and int(rest.split(".")[0]) < self.spec.frozen_stages)

    @classmethod
    def of_arrays(cls, description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> TunedEncoder:
        """Rebuild an encoder from its description and its arrays.

        Raises
        ------
        ModelError
            They do not fit each other.
        """
        try:
            spec = EncoderSpec(**description)
            network = CellNetwork(NetworkSpec.from_dict(spec.network))
            network.fold()
            tunings = [Tuning(network, spec.frozen_stages, spec.n_classes) for _ in range(spec.tunings)]
            for number, tuning in enumerate(tunings):
                tuning.load_state_dict(_named(arrays, f"tuning.{number}."))
            for unused in ("project", "head"):
                setattr(network, unused, nn.Identity())
            network.stages = nn.Sequential(*list(network.stages)[: spec.frozen_stages])
            network.load_state_dict(_named(arrays, "trunk."))
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"the tuned encoder does not fit its description: {error}") from None
        return cls(spec, network, tunings)


def bag_key(bag: CellBag) -> str:
    """Return a hash of a subject's name, its cells in their order, and what is said of each."""
    digest = hashlib.sha256("\n".join([bag.subject_id, *bag.cell_ids.tolist()]).encode())
    for said in (bag.given, bag.probabilities):
        digest.update(np.ascontiguousarray(said).tobytes())
    if bag.given_labels is not None:
        digest.update("\n".join(bag.given_labels.tolist()).encode())
    return digest.hexdigest()


def immature_rows(bag: CellBag, most: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return the rows of the likeliest immature cells, ascending, and the weight of each.

    A label that a folder or a reader gave counts before the classifier's answer: 1 or 0.
    """
    alone, labelled = immature_weight(bag), labelled_immature(bag)
    alone = np.where(np.isfinite(labelled), labelled, alone)
    weight = np.where(bag.given >= 0, _given_immature(bag), alone)
    ordered = np.argsort(-weight, kind="stable")[:most]
    rows = np.sort(ordered[weight[ordered] >= LEAST_WEIGHT]).astype(np.int64)
    return rows, weight[rows]


def trunk_maps(trunk: CellNetwork, spec: EncoderSpec, windows: CellWindows, device: str) -> npt.NDArray[np.float16]:
    """Return what the frozen stages give of windows, ``(n, channels, side, side)``, in batches of one shape."""
    found = []
    with torch.inference_mode():
        for start in range(0, max(len(windows), 1), _BATCH):
            images = _padded(windows.images[start : start + _BATCH], 255)
            light = _padded(windows.background[start : start + _BATCH], 255)
            prepared = spec.preparation.windows(torch.from_numpy(images).to(device), torch.from_numpy(light).to(device))
            found.append(trunk.maps(prepared, spec.frozen_stages).half().cpu().numpy())
    return np.concatenate(found)[: len(windows)]


def _given_immature(bag: CellBag) -> FloatArray:
    """Return 1 for cells whose given class is immature, else 0, ``(n,)``."""
    one_hot = np.eye(len(bag.classes), dtype=np.float32)[np.maximum(bag.given, 0)]
    return immature_weight(replace(bag, probabilities=one_hot))


def _padded(batch: npt.NDArray[Any], fill: int = 0) -> npt.NDArray[Any]:
    """Return a batch of the one size; a network's answer may depend on the size in the last bit."""
    out = np.full((_BATCH, *batch.shape[1:]), fill, batch.dtype)
    out[: len(batch)] = batch
    return out


def _named(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, torch.Tensor]:
    """Return the arrays below a name; of a file that nobody vouches for, so values that are no numbers are refused."""
    found = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise ModelError(f"the array {prefix}{name} of its encoder holds values that are no numbers")
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in found.items()}
