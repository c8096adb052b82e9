"""Maps in memory: laws 3, 6 and 8, regions, and bad settings."""

from __future__ import annotations

import mmap
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from torch import Tensor, nn

import geobiomass as gb
from geobiomass.cube.region import Region
from geobiomass.data.reader import Reader, Sample
from geobiomass.inference.machine import resolve_precision
from geobiomass.inference.map_settings import MapSettings
from geobiomass.inference.mapper import Mapper
from geobiomass.inference.thread_pools import THREADS
from geobiomass.network import AttentionUNet
from geobiomass.tiles import Window, mirror

BANDS = ("VV_asc", "B04", "B08")


def small_network(outputs: int = 1, encoder: str = "test_resnet") -> AttentionUNet:
    torch.manual_seed(0)
    network = AttentionUNet(3, encoder, (16, 16, 16, 16, 16), outputs)
    with torch.no_grad():  # statistics of batch norm that are not the identity
        for _ in range(3):
            network.train()(torch.randn(2, 3, 3, 64, 64))
    network.set_statistics(
        [-10, 2000, 2000], [5, 900, 900], [60] * outputs, [40] * outputs
    )
    return network.eval()


NETWORK = small_network()


@pytest.fixture
def model() -> gb.BiomassRegressor:
    return gb.BiomassRegressor(NETWORK, BANDS, months=3)


class Counting(nn.Module):
    """A network that counts forward passes of a plain function of the image."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return self.function(image)


class Failing(Counting):
    """A network that fails after some forward passes, as a machine may."""

    def __init__(self, limit: int) -> None:
        super().__init__(NETWORK)
        self.limit = limit

    def forward(self, image: Tensor) -> Tensor:
        if self.calls >= self.limit:
            raise KeyboardInterrupt
        return super().forward(image)

    def state_dict(self, *args, **kwargs):
        return NETWORK.state_dict(*args, **kwargs)


def mapper(cube: xr.Dataset, network: nn.Module, **chosen) -> Mapper:
    return Mapper(network, Reader(cube, BANDS), MapSettings(**chosen))


# --- law 3: a map does not depend on how it was made --------------------------


@settings(max_examples=10)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(32, 0), (32, 16), (64, 32), (64, 63), (256, 64)]),
    st.lists(st.integers(7, 120), min_size=2, max_size=2, unique=True),
    st.sampled_from([1, 2]),
    st.sampled_from([{}, {"blend": "crop"}, {"precision": "bf16"}, {"turns": True}]),
)
def test_any_block_gives_the_same_bits(
    height: int,
    width: int,
    tiling: tuple[int, int],
    blocks: list[int],
    batch: int,
    more: dict,
) -> None:
    scene = make_scene(height, width)
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    tile, overlap = tiling
    if overlap == 63:
        height = min(height, 65)  # a stride of one pixel: keep it short
        scene = scene.isel(y=slice(0, height), x=slice(0, 65))
    one, other = (
        model.predict(scene, tile, overlap, block, batch, **more).agb.values
        for block in blocks
    )
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


def test_order_and_workers_do_not_matter(model: gb.BiomassRegressor) -> None:
    scene = make_scene(100, 130)
    lazy = model.predict(scene, tile=64, overlap=32, block=40)
    whole = lazy.agb.compute(scheduler="synchronous").values
    four = lazy.agb.compute(scheduler="threads", num_workers=4).values
    np.testing.assert_array_equal(whole, four)
    parts = [(y, x) for y in range(0, 100, 25) for x in range(0, 130, 65)]
    np.random.default_rng(0).shuffle(parts)
    threads = torch.get_num_threads()
    for number in (1, 3):  # nor does the number of threads of torch's own
        torch.set_num_threads(number)
        again = model.predict(scene, tile=64, overlap=32).agb.values
        assert torch.get_num_threads() == number
        np.testing.assert_array_equal(again, whole)
    torch.set_num_threads(threads)
    for y, x in parts:
        part = lazy.agb[y : y + 25, x : x + 65].values
        np.testing.assert_array_equal(part, whole[y : y + 25, x : x + 65])


def test_batches_follow_the_lattice_and_not_the_block() -> None:
    # A network that mixes the tiles of a batch shows which tiles were in it.
    mixing = Counting(lambda i: i.nan_to_num().mean().expand(len(i), 1, 32, 32))
    scene = make_scene(100, 130)
    maps = []
    for block in (20, 47, 200):
        found = mapper(scene, mixing, tile=32, overlap=8, block=block, batch_size=3)
        whole = np.empty((100, 130))
        for window in found.blocks():
            whole[window.rows, window.columns] = found.compute(window)[0]
        maps.append(whole)
    assert len(np.unique(maps[0])) > 4
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_blending_against_a_plain_computation() -> None:
    # The whole scene reflected, every tile run by itself, weighted sums in numpy.
    scene = make_scene(70, 90)
    tile, overlap = 64, 32
    rows, columns = mirror(0, 128, 70), mirror(0, 128, 90)
    image = scene["image"].values[:, :, rows][:, :, :, columns]
    distance = np.minimum(np.arange(64), np.arange(64)[::-1]) + 0.5
    ramp = np.sin(np.pi / 2 * np.minimum(distance / overlap, 1)) ** 2
    window = ramp[:, None] * ramp[None, :]
    total, weight = np.zeros((128, 128)), np.zeros((128, 128))
    for top in (0, 32):
        for left in (0, 32):
            part = image[:, :, top : top + tile, left : left + tile]
            with torch.inference_mode():
                values = NETWORK(torch.from_numpy(part.copy())[None])[0, 0].numpy()
            total[top : top + tile, left : left + tile] += values * window
            weight[top : top + tile, left : left + tile] += window
    found = mapper(scene, NETWORK, tile=tile, overlap=overlap).compute(
        Window(0, 0, 70, 90)
    )
    expected = total[:70, :90] / weight[:70, :90]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("overlap", [0, 16, 63])
def test_a_constant_map_stays_that_constant_to_the_edge(overlap: int) -> None:
    constant = Counting(lambda image: torch.full((len(image), 1, 64, 64), 0.1))
    scene = make_scene(100, 77).fillna(0)
    found = mapper(scene, constant, tile=64, overlap=overlap).compute(
        Window(0, 0, 100, 77)
    )
    assert (found == np.float32(0.1)).all()


def test_flips_are_all_used_and_really_averaged() -> None:
    scene = make_scene(64, 64).fillna(0)
    ramp = torch.arange(64.0)[None, :] + 100 * torch.arange(64.0)[:, None] ** 2

    def skewed(image: Tensor) -> Tensor:
        return image[:, 0, :1] + ramp

    network = Counting(skewed)
    found = mapper(scene, network, tile=64, overlap=0, flips=True).compute(
        Window(0, 0, 64, 64)
    )
    turned = [ramp, ramp.flip(1), ramp.flip(0), ramp.flip(0, 1)]
    expected = scene["image"].values[0, 0] + np.mean([t.numpy() for t in turned], 0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert network.calls == 4


@pytest.mark.parametrize("flips", [False, True])
def test_turns_are_all_used_and_really_averaged(flips: bool) -> None:
    scene = make_scene(64, 64).fillna(0)
    ramp = torch.arange(64.0)[None, :] + 100 * torch.arange(64.0)[:, None] ** 2
    network = Counting(lambda image: image[:, 0, :1] + ramp)
    found = mapper(scene, network, tile=64, overlap=0, flips=flips, turns=True).compute(
        Window(0, 0, 64, 64)
    )
    turned = [np.rot90(ramp.numpy(), number) for number in range(4)]
    turned += [np.rot90(ramp.numpy().T, number) for number in range(4) if flips]
    expected = scene["image"].values[0, 0] + np.mean(turned, 0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert network.calls == len(turned)


def test_quarter_turns_of_tiles_that_are_not_square(
    model: gb.BiomassRegressor,
) -> None:
    scene = make_scene(20, 90)
    found = model.predict(scene, tile=64, overlap=32, turns=True).agb.values
    assert found.shape == (20, 90)
    assert np.isfinite(found).all()


def test_with_crop_each_pixel_has_the_value_of_one_tile() -> None:
    scene = make_scene(32, 56).fillna(0)
    numbers = iter(range(100))
    counted = Counting(lambda i: torch.full((len(i), 1, 32, 32), next(numbers) * 1.0))
    torch.set_num_threads(1)  # tiles in their order
    found = mapper(scene, counted, tile=32, overlap=8, blend="crop").compute(
        Window(0, 0, 32, 56)
    )
    np.testing.assert_array_equal(found[0, 5], np.repeat([0.0, 1.0], 28))


def test_bf16_is_near_float32_and_not_in_steps(model: gb.BiomassRegressor) -> None:
    scene = make_scene(96, 96)
    exact = model.predict(scene, tile=64, overlap=32).agb.values
    near = model.predict(scene, tile=64, overlap=32, precision="bf16").agb.values
    assert 0 < np.abs(near - exact).max() < 0.05 * np.ptp(exact)
    # Eight-bit numbers would have only a few hundred different values.
    assert len(np.unique(near)) > 5000
    chosen = model.predict(scene, tile=64, overlap=32, precision="auto").agb.values
    has_it = resolve_precision("auto") == "bf16"
    np.testing.assert_array_equal(chosen, near if has_it else exact)


def test_a_tile_of_two_blocks_is_computed_once() -> None:
    scene = make_scene(128, 160).fillna(0)
    network = Counting(lambda image: image[:, 0, :1])
    found = mapper(scene, network, tile=32, overlap=16, block=40)
    whole = np.concatenate([found.compute(w).ravel() for w in found.blocks()])
    rows, columns = found.lattice.shape
    assert network.calls == rows * columns == 63
    # Where no result can be kept, tiles are computed again, with the same values.
    forgetful = mapper(scene, network, tile=32, overlap=16, block=40)
    with THREADS:
        forgetful.running._kept = 0
    again = [forgetful.compute(w).ravel() for w in forgetful.blocks()]
    np.testing.assert_array_equal(np.concatenate(again), whole)
    assert network.calls > 2 * 63


def test_kept_tiles_stay_within_their_limit() -> None:
    scene = make_scene(64, 640).fillna(0)
    network = Counting(lambda image: image[:, 0, :1])
    found = mapper(scene, network, tile=32, overlap=16, block=16)
    with THREADS:
        running = found.running
    running._kept = limit = 10 * 32 * 32 * 5
    for window in found.blocks():
        found.compute(window)
        entries = list(running._entries.values())
        assert sum(entry.bytes for entry in entries) <= limit
    # Enough for the blocks of a row to share tiles, not for the next row of blocks.
    rows = [
        found.lattice.touching(Window(y, 0, y + 16, 640))[0] for y in (0, 16, 32, 48)
    ]
    assert network.calls == sum(map(len, rows)) * found.lattice.shape[1]


def test_the_next_tiles_are_read_while_the_network_works() -> None:
    scene = make_scene(32, 320).fillna(0)
    several = threading.Event()

    def patient(image: Tensor) -> Tensor:
        assert several.wait(30), "nothing is read while the network works"
        return image[:, 0, :1]

    found = mapper(scene, Counting(patient), tile=32, overlap=0)
    read, count = found.reader.read, iter(range(100))

    def watch(sample: Sample) -> np.ndarray:
        if next(count) >= torch.get_num_threads():  # more than the network has taken
            several.set()
        return read(sample)

    found.reader.read = watch  # type: ignore[method-assign]
    assert np.isfinite(found.compute(Window(0, 0, 32, 320))).all()


def test_a_stopped_map_runs_no_further_tile() -> None:
    scene = make_scene(32, 640).fillna(0)
    stopping = threading.Event()

    def stop(image: Tensor) -> Tensor:
        found.stop()
        stopping.set()
        return image[:, 0, :1]

    network = Counting(stop)
    found = mapper(scene, network, tile=32, overlap=0)
    with pytest.raises(InterruptedError):
        found.compute(Window(0, 0, 32, 640))
    assert stopping.is_set()
    assert network.calls <= found.running.slots < 20


@pytest.mark.slow
def test_little_memory_means_fewer_tiles_side_by_side() -> None:
    scene = make_scene(512, 1024).fillna(0)
    lock, at_work, most = threading.Lock(), 0, []

    def watched(image: Tensor) -> Tensor:
        nonlocal at_work
        with lock:
            at_work += 1
            most.append(at_work)
        # The process grows, as with a network. The memory comes from the system, since
        # memory that other tests released could be used instead.
        with mmap.mmap(-1, 120_000_000) as ballast:
            ballast[:: mmap.PAGESIZE] = b"1" * len(ballast[:: mmap.PAGESIZE])
            time.sleep(0.03)
        with lock:
            at_work -= 1
        return image[:, 0, :1]

    torch.set_num_threads(4)
    maps = []
    for memory, expected in ((300_000_000, 2), (None, 4)):
        most.clear()
        found = mapper(scene, Counting(watched), tile=256, overlap=0, memory=memory)
        maps.append(found.compute(Window(0, 0, 512, 1024)))
        assert max(most) == expected
    np.testing.assert_array_equal(*maps)


def test_months_that_a_tile_lacks_are_not_encoded(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64)
    scene["image"][1, :, :, :32] = np.nan  # in the west one month is missing
    scene["image"][:, :, 32:, 32:] = np.nan  # and in the south east all of them
    encoded = []
    hook = NETWORK.encoder.register_forward_hook(lambda _, i, __: encoded.append(i[0]))
    found = model.predict(scene, tile=32, overlap=0).agb.values
    hook.remove()
    assert sorted(len(images) for images in encoded) == [2, 2, 3]
    assert np.isnan(found).sum() == 32 * 32


def test_what_dask_computes_is_computed_once() -> None:
    scene = make_scene(128, 128)
    calls = []

    def noted(part: np.ndarray) -> np.ndarray:
        calls.append(part.shape)
        return part * 1.0

    image = scene["image"].chunk(y=64, x=64)
    lazy = image.data.map_blocks(noted, dtype=np.float32, meta=np.empty((0,) * 4))
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    found = model.predict(scene.assign(image=(image.dims, lazy)), tile=32, overlap=16)
    np.testing.assert_array_equal(found.agb, model.predict(scene, 32, 16).agb)
    assert len(calls) == 4  # chunks; 49 tiles


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_nothing_observed_is_nodata_and_costs_nothing(
    model: gb.BiomassRegressor,
) -> None:
    scene = make_scene(128, 128)
    scene["image"][:, :, :, :70] = np.nan
    scene["image"][:, :, 5, 100] = np.nan
    found = model.predict(scene, tile=32, overlap=0).agb.values
    empty = np.zeros((128, 128), bool)
    empty[:, :70] = empty[5, 100] = True
    np.testing.assert_array_equal(np.isnan(found), empty)
    network = Counting(lambda image: image[:, 0, :1].nan_to_num())
    mapper(scene, network, tile=32, overlap=0).compute(Window(0, 0, 128, 128))
    assert network.calls == 8  # of sixteen tiles, two columns have a pixel


def test_only_accessed_blocks_are_computed(scene: xr.Dataset) -> None:
    scene = make_scene(256, 256)
    network = Counting(lambda image: image[:, 0, :1].nan_to_num())
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = network
    lazy = model.predict(scene, tile=32, overlap=0, block=64)
    assert network.calls == 0
    lazy.agb[:20, :20].compute()
    assert network.calls == 4
    lazy.rio.clip_box(*scene.isel(y=slice(70, 80), x=slice(70, 80)).rio.bounds()).load()
    assert network.calls == 8
    corner = scene.isel(y=slice(140, 150), x=slice(10, 20))
    lazy.rio.clip([box(*corner.rio.bounds())]).load()
    assert network.calls == 12
    lazy.agb.sel(x=corner.x, y=corner.y).plot()
    assert network.calls == 16


def test_the_map_is_on_the_scenes_own_grid(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    before = scene.copy(deep=True)
    found = model.predict(scene)
    assert found.agb.dims == ("y", "x")
    assert found.agb.dtype == np.float32
    assert found.agb.attrs["units"] == "Mg/ha"
    assert found.rio.crs == scene.rio.crs
    assert found.rio.transform() == scene.rio.transform()
    xr.testing.assert_identical(found["x"], scene["x"])
    found.load()
    xr.testing.assert_identical(scene, before)


def test_chips_are_mapped_one_by_one(model: gb.BiomassRegressor) -> None:
    chips = make_chips(3, side=40)
    found = model.predict(chips, tile=32, overlap=16, block=25)
    assert found.agb.dims == ("chip", "y", "x")
    assert found["chip"].values.tolist() == chips["chip"].values.tolist()
    for index in range(3):
        alone = make_scene(40, 40, seed=index)
        expected = model.predict(alone, tile=32, overlap=16).agb.values
        np.testing.assert_array_equal(found.agb[index].values, expected)


def test_bands_are_matched_by_name(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    expected = model.predict(scene).agb.values
    other = scene.isel(band=[2, 0, 1])
    extra = scene.isel(band=[0]).assign_coords(band=["slope"])
    both = xr.concat([extra, other], "band", data_vars="minimal")
    np.testing.assert_array_equal(model.predict(both).agb.values, expected)
    with pytest.raises(gb.CubeError, match=r"Bands \['B08'\] are needed"):
        model.predict(scene.sel(band=["VV_asc", "B04"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tile": 0, "overlap": 0}, "tile must be a whole number above 0, got 0"),
        ({"overlap": 256}, "got overlap=256 and tile=256"),
        ({"block": -1}, "block must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"memory": 0}, "memory must be"),
        ({"blend": "hard"}, "blend must be 'smooth' or 'crop', got 'hard'"),
        ({"precision": "fp16"}, "precision must be .* got 'fp16'"),
    ],
)
def test_bad_settings(
    model: gb.BiomassRegressor, scene: xr.Dataset, settings: dict, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model.predict(scene, **settings)


# --- regions ------------------------------------------------------------------


def test_a_region_is_mapped_and_nothing_else(model: gb.BiomassRegressor) -> None:
    scene = make_scene(128, 128)
    whole = model.predict(scene, tile=32, overlap=0, block=64).agb
    part = scene.isel(y=slice(10, 40), x=slice(70, 100))
    bounds = part.rio.bounds()
    network = Counting(lambda image: NETWORK(image))
    model.network = network
    found = model.predict(scene, tile=32, overlap=0, block=64, region=bounds).agb.load()
    inside = np.zeros((128, 128), bool)
    inside[10:40, 70:100] = True
    np.testing.assert_array_equal(np.isfinite(found), inside)
    np.testing.assert_array_equal(found.values[inside], whole.values[inside])
    assert network.calls == 4  # tiles of 32 that it touches, of sixteen


def test_a_region_as_geojson_is_in_longitude_and_latitude(
    model: gb.BiomassRegressor,
) -> None:
    from rasterio.warp import transform_geom

    scene = make_scene(64, 64)
    left, bottom, right, top = scene.isel(y=slice(16, 48), x=slice(8, 32)).rio.bounds()
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    square = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": transform_geom(scene.rio.crs, "EPSG:4326", square),
    }
    collection = {"type": "FeatureCollection", "features": [feature]}
    for region in (feature, collection):
        found = model.predict(scene, region=region).agb.values
        rows, columns = np.nonzero(np.isfinite(found))
        assert (rows.min(), rows.max() + 1) == (16, 48)
        assert (columns.min(), columns.max() + 1) == (8, 32)


def test_a_region_as_geopandas_in_its_own_reference_system(
    model: gb.BiomassRegressor,
) -> None:
    import geopandas

    scene = make_scene(128, 128)
    part = scene.isel(y=slice(16, 48), x=slice(8, 32))
    far = scene.isel(y=slice(100, 102), x=slice(100, 102))
    frame = geopandas.GeoDataFrame(
        geometry=[box(*part.rio.bounds()), box(*far.rio.bounds())], crs=scene.rio.crs
    ).to_crs("EPSG:4326")
    network = Counting(lambda image: image[:, 0, :1].nan_to_num())
    model.network = network
    found = model.predict(scene, tile=16, overlap=0, block=32, region=frame)
    values = found.agb.values
    inside = np.zeros((128, 128), bool)
    inside[16:48, 8:32] = inside[100:102, 100:102] = True
    np.testing.assert_array_equal(np.isfinite(values), inside)
    assert network.calls == 5
    whole = Region.of(frame, scene)
    blocks = mapper(scene, network, block=32)
    blocks.region = whole
    assert len(blocks.blocks()) == 3  # of sixteen: two, and the far one


def test_impossible_regions_are_refused(
    model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    with pytest.raises(ValueError, match="region must be bounds"):
        model.predict(scene, region="Finland")
    with pytest.raises(gb.CubeError, match="chips have no georeference"):
        model.predict(make_chips(2), region=(0, 0, 1, 1))
    with pytest.raises(gb.CubeError, match="reference system"):
        model.predict(scene.drop_vars("spatial_ref"), region={"type": "Point"})


@pytest.mark.slow
def test_masks_are_drawn_while_other_threads_set_filters_of_warnings_back() -> None:
    square = {"type": "Polygon", "coordinates": [[(0, 0), (9, 0), (9, -9), (0, 0)]]}
    region = Region((square,), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    stopped = threading.Event()

    def others() -> None:
        while not stopped.is_set():
            with warnings.catch_warnings():
                time.sleep(0)

    thread = threading.Thread(target=others)
    thread.start()
    try:  # rasterio's own warning, which it hides for one thread only, is an error here
        masks = [region.mask(Window(0, 0, 16, 16)) for _ in range(300)]
    finally:
        stopped.set()
        thread.join()
    assert masks[0].any()
    assert all((mask == masks[0]).all() for mask in masks)


# --- law 8: memory is bounded by the settings ---------------------------------


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    import dask.array as da

    def peak(side: int, traced: bool = True) -> int:
        shape = (2, 3, side, side)
        lazy = da.ones(shape, chunks=(2, 3, 128, 128), dtype=np.float32)
        scene = make_scene(1, 1, months=(7, 8)).drop_vars(["agb", "image", "y", "x"])
        scene["image"] = (("month", "band", "y", "x"), lazy)
        scene = scene.assign_coords(y=-10.0 * np.arange(side), x=10.0 * np.arange(side))
        model = gb.BiomassRegressor(NETWORK, BANDS, months=2)
        model.network = Counting(lambda image: image[:, 0, :1] * 0)
        if traced:
            tracemalloc.start()
        model.predict_to(
            tmp_path / f"{side}.zarr", scene, 128, 0, block=128, progress=False
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(256, traced=False)  # imports and caches
    # At 768 pixels there are more chunks than are kept for neighbouring tiles.
    small, large = peak(768), peak(1152)
    assert large < 1.2 * small + 2_000_000, (small, large)


def test_reading_stays_near_the_block(scene: xr.Dataset) -> None:
    seen: list[Window] = []
    scene = make_scene(300, 300)
    found = mapper(scene, Counting(lambda i: i[:, 0, :1] * 0), tile=32, overlap=8)
    read = found.reader.read

    def watch(sample: Sample) -> np.ndarray:
        seen.append(sample.window)
        return read(sample)

    found.reader.read = watch  # type: ignore[method-assign]
    found.compute(Window(100, 100, 150, 150))
    assert max(window.height for window in seen) == 32
    assert all(w.left >= 50 and w.right <= 200 for w in seen)
