"""The reader: windows of a cube, on disk, lazy or in memory; and the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given, settings
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import (
    check_no_overlap,
    crops_in,
    fixed_crops,
    groups_of,
    hold_out,
    labelled,
    samples_of,
)
from geobiomass.tiles import Window, mirror

BANDS = ("VV_asc", "B04", "B08")


def as_codes(reader: Reader, sample: Sample) -> np.ndarray:
    """Return one sample as the data loader yields it to the trainer, decoded."""
    shape, dtype = reader.cells([sample])
    codes = np.empty((1, *shape), dtype)
    size = (sample.window.height, sample.window.width)
    agb = np.empty((1, *size), np.float32)
    corner = reader.fill(sample, codes[0], agb)
    np.testing.assert_array_equal(agb[0], reader.labels(sample))
    return reader.decoder.decode(torch.from_numpy(codes), [corner], size)[0].numpy()


@settings(max_examples=15)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.data(),
    st.sampled_from(["int16", "int32", "float32"]),
)
@pytest.mark.slow
def test_on_disk_lazy_or_in_memory_the_same_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    data: st.DataObject,
    dtype: str,
) -> None:
    chips = make_chips(3, 90).isel(y=slice(0, height), x=slice(0, width))
    path = tmp_path_factory.mktemp("c") / "c.zarr"
    gb.write_cube(chips, path, dtype)
    cube = gb.open_cube(path)
    top, left = (data.draw(st.integers(0, n - 1)) for n in (height, width))
    window = Window(
        top,
        left,
        data.draw(st.integers(top + 1, height)),
        data.draw(st.integers(left + 1, width)),
    )
    bands = data.draw(st.permutations(BANDS))[: data.draw(st.integers(1, 3))]
    chosen = data.draw(st.permutations(range(3)))
    cube = cube.isel(chip=chosen, month=data.draw(st.sampled_from([[0, 1, 2], [2, 0]])))
    sample = Sample(window, data.draw(st.integers(0, 2)))
    plain = cube.sel(band=list(bands)).isel(chip=sample.chip).load()
    expected = plain["image"].values[..., window.rows, window.columns]
    on_disk, cached = Reader(cube, bands), Reader(cube, bands)
    cached.cache(2**30)
    untraceable = cube.copy()
    untraceable["image"] = cube["image"] + 0
    for reader in (
        on_disk,
        cached,
        Reader(untraceable, bands),
        Reader(cube.load(), bands),
    ):
        np.testing.assert_array_equal(reader.read(sample), expected)
        np.testing.assert_array_equal(as_codes(reader, sample), expected)
        np.testing.assert_array_equal(as_codes(reader.decoded(), sample), expected)


def test_a_cube_on_disk_is_read_as_it_is_stored(tmp_path: Path) -> None:
    gb.write_cube(make_chips(4), tmp_path / "c.zarr")
    cube = gb.open_cube(tmp_path / "c.zarr")
    for part in (
        cube,
        cube.isel(chip=[2, 0]),
        cube.sel(band=["B08"]).isel(x=slice(3, 20)),
    ):
        reader = Reader(part, tuple(part["band"].values))
        sample = Sample(reader.whole, 0)
        assert reader.cells([sample])[1] == np.int16
        np.testing.assert_array_equal(reader.read(sample), part["image"][0])
        # Of a changed cube the changed values are read, not the stored ones.
        for changed in (part["image"] * 2, part["image"].where(part["image"] > 0)):
            reader = Reader(part.assign(image=changed), tuple(part["band"].values))
            assert reader.cells([sample])[1] == np.float32
            np.testing.assert_array_equal(reader.read(sample), changed[0])


def test_reading_beyond_the_edge_reflects(scene: xr.Dataset) -> None:
    reader = Reader(scene, ("B08", "VV_asc"))
    found = reader.read(Sample(Window(-7, 30, 50, 130)))
    rows, columns = mirror(-7, 50, 40), mirror(30, 130, 56)
    expected = scene["image"].values[:, [2, 0]][:, :, rows][:, :, :, columns]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_a_cube_that_fits_into_the_cache_is_read_once() -> None:
    reads: list[int] = []

    def count(block: np.ndarray) -> np.ndarray:
        reads.append(1)
        return block

    scene = make_scene(64, 64).chunk(y=64, x=64)
    image = scene["image"].data.map_blocks(count, dtype=np.float32)
    scene["image"] = scene["image"].copy(data=image)
    reads.clear()
    for limit, expected in ((0, 4), (4 * 64 * 64 * 10 - 1, 4), (4 * 64 * 64 * 10, 1)):
        reader = Reader(scene, BANDS)
        reader.cache(limit)
        for _ in range(4):
            reader.read(Sample(Window(0, 0, 8, 8)))
        assert len(reads) == expected
        reads.clear()


# --- splits -------------------------------------------------------------------


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 99), st.integers(2, 9))
def test_nothing_leaks_between_training_and_validation(
    count: int, fraction: float, seed: int, groups: int
) -> None:
    samples = [Sample(Window(0, 0, 1, 1), chip) for chip in range(count)]
    names = [str(chip % groups) for chip in range(count)]
    training, validation = hold_out(samples, fraction, seed, names)
    assert sorted(p.chip for p in [*training, *validation]) == list(range(count))
    assert training
    assert validation
    assert not {p.chip % groups for p in training} & {
        p.chip % groups for p in validation
    }
    assert hold_out(samples, fraction, seed, names) == (training, validation)


@given(
    st.integers(33, 200), st.integers(33, 200), st.integers(8, 64), st.integers(0, 9)
)
def test_crops_for_training_never_touch_a_validation_block(
    height: int, width: int, crop: int, seed: int
) -> None:
    reader = Reader(make_scene(1, 1), BANDS)
    reader.height, reader.width = height, width
    samples = samples_of(reader, 2 * crop)
    if len(samples) < 2:
        return
    training, validation = hold_out(samples, 0.2, seed)
    narrowest = min(min(p.window.height, p.window.width) for p in samples)
    crop = min(crop, narrowest)
    loader = ChipLoader(reader, crops_in(training, crop), 4, crop=crop, seed=seed)
    drawn = [p.window for batch in loader.plan(0) for p in batch]
    held = [p.window for p in fixed_crops(validation, crop)]
    assert all((w.height, w.width) == (crop, crop) for w in [*drawn, *held])
    for one in drawn:
        assert all(one.intersect(other) is None for other in held)


def test_groups_of_chips_stay_together(chips: xr.Dataset) -> None:
    regions = ["north", "south"] * 3
    chips = chips.assign_coords(region=("chip", regions))
    reader = Reader(chips, BANDS)
    samples = samples_of(reader, 8)
    training, validation = hold_out(
        samples, 0.1, 0, groups_of(chips, samples, "region")
    )
    held = {regions[p.chip] for p in validation}
    assert len(held) == 1
    assert {regions[p.chip] for p in training} == {"north", "south"} - held
    with pytest.raises(gb.CubeError, match="groups='tile' must be a coordinate"):
        groups_of(chips, samples, "tile")


def test_blocks_without_labels_are_left_out() -> None:
    scene = make_scene(64, 96)
    scene["agb"][:, :48] = np.nan
    reader = Reader(scene, BANDS)
    samples = samples_of(reader, 32)
    assert len(samples) == 6
    kept = labelled(reader, samples)
    assert all(p.window.right > 48 for p in kept)
    assert len(kept) == 4
    scene["agb"][:] = np.nan
    with pytest.raises(gb.CubeError, match="'agb' has no label"):
        labelled(Reader(scene, BANDS), samples)


def test_every_process_has_something_to_validate_on() -> None:
    samples = [Sample(Window(0, 0, 1, 1), chip) for chip in range(9)]
    assert len(hold_out(samples, 0.1, 0)[1]) == 1
    assert len(hold_out(samples, 0.1, 0, least=3)[1]) == 3


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(gb.CubeError, match="cannot be split"):
        hold_out([Sample(Window(0, 0, 1, 1))], 0.1, 0)


def test_validation_on_training_ground_is_refused(chips: xr.Dataset) -> None:
    scene = make_scene(64, 64)
    west, east = scene.isel(x=slice(0, 32)), scene.isel(x=slice(32, 64))
    check_no_overlap(west, east)
    check_no_overlap(chips.isel(chip=[0, 1]), chips.isel(chip=[2]))
    check_no_overlap(chips, scene)
    with pytest.raises(gb.CubeError, match="covers ground of the training scene"):
        check_no_overlap(west, scene.isel(x=slice(31, 64)))
    with pytest.raises(gb.CubeError, match=r"1 chips are in training .*chip001"):
        check_no_overlap(chips.isel(chip=[0, 1]), chips.isel(chip=[1, 2]))
