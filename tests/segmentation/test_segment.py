"""A block from pixels to instances: both engines, and input that no network should give or see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
import torch
from flow_fields import discs

from wsi_pipeline.cells.measure import measure_block
from wsi_pipeline.config import SegmentationConfig
from wsi_pipeline.errors import ModelError
from wsi_pipeline.segmentation.diffusion import labels_to_flows
from wsi_pipeline.segmentation.engines import Engine, engine_for
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.segmentation.segment import SegmentedBlock, segment_block
from wsi_pipeline.tiling import TileLattice, halo_px, plan_blocks
from wsi_pipeline.units import Box, FrameTransform

ENGINES: list[Engine] = ["numba", "torch"]
AS_IS = Normalisation(low=(0.0, 0.0, 0.0), high=(255.0, 255.0, 255.0))
Pixels = npt.NDArray[np.uint8]


class PixelModel:
    """A network that reads the flow off the red and green of a pixel, and foreground off its blue."""

    name, sha256, device = "pixel", "0" * 64, "cpu"
    tile_px, overlap_px = 64, 16
    kinds: tuple[str, ...] = ("background", "red")

    def __init__(self, spoil: Callable[[torch.Tensor], None] | None = None) -> None:
        self._spoil = spoil

    def predict(self, tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self.predict_on_device(tiles).numpy()

    def predict_on_device(self, tiles: npt.NDArray[np.float32]) -> torch.Tensor:
        level = torch.from_numpy(tiles) * 255
        flow = 5 * (level[:, :2] - 128) / 120
        logit = torch.where(level[:, 2:] < 128, 6.0, -6.0)
        output = torch.cat([flow, logit, -logit, logit], dim=1)
        if self._spoil:
            self._spoil(output)
        return output


def picture_of(labels: npt.NDArray[np.int32]) -> Pixels:
    """Draw the flows of labels as :class:`PixelModel` reads them."""
    flow = labels_to_flows(labels)
    rgb = np.full((*labels.shape, 3), 255, np.uint8)
    rgb[..., :2] = np.rint(128 + 120 * flow.transpose(1, 2, 0))
    rgb[labels > 0, 2] = 0
    return rgb


def segment(
    rgb: Pixels, *, engine: Engine = "numba", core_px: int = 1000, model: Any = None, **changes: Any
) -> list[SegmentedBlock]:
    """Segment an image as a slide of 0.25 um a pixel."""
    config = SegmentationConfig(**{"batch_size": 4, "max_cell_diameter_um": 15.0, **changes})
    model = model or PixelModel()
    height, width = rgb.shape[:2]
    whole = shapely.box(0, 0, width, height)

    def read(box: Box) -> Pixels:
        padded = np.full((box.height, box.width, 3), 255, np.uint8)
        shared = box.clip(Box(x0=0, y0=0, x1=width, y1=height))
        padded[shared.y0 - box.y0 : shared.y1 - box.y0, shared.x0 - box.x0 : shared.x1 - box.x0] = rgb[
            shared.y0 : shared.y1, shared.x0 : shared.x1
        ]
        return padded

    halo = halo_px(config.max_cell_diameter_um, config.mpp)
    return [
        segment_block(
            read,
            block,
            lattice=TileLattice(tile_px=model.tile_px, overlap_px=model.overlap_px, width=width, height=height),
            dilated_region=whole.buffer(halo, join_style="mitre"),
            normalisation=AS_IS,
            model=model,
            config=config,
            specimen="blood_smear",
            engine=engine,
        )
        for block in plan_blocks((width, height), whole, core_px=core_px, halo=halo)
    ]


SCENE = picture_of(discs(np.random.default_rng(7), (190, 210), 45, 11))


def test_the_engine_follows_the_device() -> None:
    assert [engine_for(device) for device in ("cpu", "cuda", "cuda:1")] == ["numba", "torch", "torch"]


@pytest.mark.parametrize("core_px", [64, 1000])
def test_both_engines_give_the_same_block(core_px: int) -> None:
    cells = 0
    both = [segment(SCENE, engine=engine, core_px=core_px) for engine in ENGINES]
    for by_numba, by_torch in zip(*both, strict=True):
        ours, theirs = by_numba.instances, by_torch.instances
        for name in ("labels", "boxes", "seed_y", "seed_x", "area_px", "flow_error", "moments", "too_large"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name), err_msg=name)
        np.testing.assert_array_equal(theirs.sums[:, 1:5], ours.sums[:, 1:5])
        assert (np.abs(theirs.sums - ours.sums) <= ours.area_px[:, None]).all(), "more than one grey level a pixel"
        np.testing.assert_array_equal(by_torch.nuclear, by_numba.nuclear)
        np.testing.assert_array_equal(by_torch.kind, by_numba.kind)
        cells += len(ours)
    assert cells > 15


def test_both_engines_give_the_same_with_the_shipped_network() -> None:
    """All kind channels, bfloat16, tiles that overlap: random colours are as good as a smear here."""
    torch.set_num_threads(1)
    model = load_model("compact-smear", specimen="blood_smear", device="cpu")
    rgb = np.full((300, 300, 3), (235, 225, 235), np.uint8)
    rgb[discs(np.random.default_rng(2), (300, 300), 18, 16) > 0] = (190, 120, 140)
    (by_numba,), (by_torch,) = (segment(rgb, engine=engine, model=model) for engine in ENGINES)
    assert len(by_numba.instances) > 5
    np.testing.assert_array_equal(by_torch.instances.labels, by_numba.instances.labels)
    np.testing.assert_array_equal(by_torch.instances.flow_error, by_numba.instances.flow_error)
    np.testing.assert_array_equal(by_torch.kind, by_numba.kind)
    np.testing.assert_array_equal(by_torch.nuclear, by_numba.nuclear)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 2, 4])
def test_numbers_that_are_not_finite_stop_the_block(engine: Engine, value: float, channel: int) -> None:
    """A tile of NaN is not a tile without cells."""

    def spoil(output: torch.Tensor) -> None:
        output[0, channel, 20, 30] = value

    with pytest.raises(ModelError, match=r"model pixel gave numbers that are not finite at working pixel") as caught:
        segment(SCENE, engine=engine, model=PixelModel(spoil))
    assert caught.value.reason == "bad-model"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("grey", [0, 127, 255])
def test_constant_tiles(engine: Engine, grey: int) -> None:
    """Glass gives nothing; a field that all flows one way gives what its corner collects, and says it is cut."""
    (found,) = segment(np.full((150, 150, 3), grey, np.uint8), engine=engine, flow_threshold=0.0)
    assert found.instances.too_large.tolist() == ([True] if grey == 0 else [])
    (found,) = segment(np.full((150, 150, 3), grey, np.uint8), engine=engine)
    assert len(found.instances) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_constant_tiles_through_the_shipped_network(engine: Engine) -> None:
    torch.set_num_threads(1)
    model = load_model("compact-smear", specimen="blood_smear", device="cpu")
    for grey in (0, 128, 255):
        (found,) = segment(np.full((260, 260, 3), grey, np.uint8), engine=engine, model=model)
        assert found.instances.area_px.sum() < 0.05 * 260**2, grey


@pytest.mark.parametrize("engine", ENGINES)
def test_pure_noise_finds_next_to_nothing(engine: Engine) -> None:
    """Flows without a source agree with no mask: the flow-error check leaves nothing worth naming."""
    rgb = np.random.default_rng(3).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    (found,) = segment(rgb, engine=engine)
    assert found.instances.area_px.sum() <= 0.01 * rgb[..., 0].size


@pytest.mark.parametrize("engine", ENGINES)
def test_a_block_all_of_foreground(engine: Engine) -> None:
    """Cells side by side without a pixel of background between them come out apart."""
    side = 20
    y, x = np.mgrid[:200, :200]
    labels = (1 + (y // side) * 10 + x // side).astype(np.int32)
    (found,) = segment(picture_of(labels), engine=engine)
    assert len(found.instances) == 100
    assert (found.instances.labels > 0).mean() > 0.99
    assert not found.instances.too_large.any()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cell_beyond_the_largest_diameter_is_kept_truncated_and_counted(engine: Engine) -> None:
    y, x = np.mgrid[:220, :260]
    labels = (np.hypot(y - 110, x - 130) <= 45).astype(np.int32) + 2 * (np.hypot(y - 30, x - 30) <= 12)
    (found,) = segment(picture_of(labels), engine=engine)
    large = found.instances.too_large
    assert large.sum() == 1
    assert (~large).sum() == 1
    # The window of 15 um is 60 px: pixels that start beyond 30 px from where they end are lost, those within stay.
    assert np.pi * 30**2 < found.instances.area_px[large][0] < np.pi * 45**2
    table = measure_block(
        found, frame=FrameTransform(scale_x=1.0, scale_y=1.0), mpp=0.25, slide_size=(260, 220),
        region_px0=shapely.box(0, 0, 260, 220), fingerprint="f",
        background=np.full(3, 240, np.uint8),
    )  # fmt: skip
    assert sorted(table.column("truncated").to_pylist()) == [False, True]
    assert table.schema.metadata[b"too_large"] == b"1"
