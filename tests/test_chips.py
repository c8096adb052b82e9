"""The feed: every sample once, in an order of seed and epoch, ahead and bounded."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_scene
from hypothesis import given
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.chips import ChipFeed, Place, Reader, measure_statistics
from geobiomass.splits import (
    crops_in,
    fixed_crops,
    groups_of,
    hold_out,
    labelled,
    places_of,
    refuse_overlap,
)
from geobiomass.tiles import Window, mirror

BANDS = ("VV_asc", "B04", "B08")


def numbered(count: int) -> Reader:
    """Chips of one pixel whose label is their number."""
    chips = xr.Dataset(
        {
            "image": (
                ("chip", "month", "band", "y", "x"),
                np.zeros((count, 1, 1, 1, 1)),
            ),
            "agb": (("chip", "y", "x"), np.arange(float(count)).reshape(-1, 1, 1)),
        },
        coords={
            "chip": [str(i) for i in range(count)],
            "month": [7],
            "band": ["B04"],
        },
    )
    return Reader(chips.astype(np.float32), ["B04"])


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 4),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
)
def test_every_sample_once_in_every_epoch(
    count: int, batch_size: int, ranks: int, epoch: int, seed: int, shuffle: bool
) -> None:
    reader = numbered(count)
    feed = ChipFeed(
        reader, places_of(reader, 8), batch_size, shuffle=shuffle, seed=seed
    )
    if count < ranks:
        with pytest.raises(ValueError, match=f"{count} samples cannot be shared"):
            feed.batches_per_epoch(ranks)
        return
    seen: list[int] = []
    for rank in range(ranks):
        batches = list(feed.epoch(epoch, rank, ranks))
        assert len(batches) == feed.batches_per_epoch(ranks)
        sizes = [len(agb) for _, agb in batches]
        assert max(sizes) <= batch_size + (batch_size == 1 < ranks)
        assert min(sizes) >= 1
        seen += [int(value) for _, agb in batches for value in agb.flatten()]
        again = list(feed.epoch(epoch, rank, ranks))
        for one, other in zip(batches, again, strict=True):
            assert torch.equal(one[1], other[1])
    assert sorted(seen) == list(range(count))
    if not shuffle and ranks == 1:
        assert seen == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    reader = numbered(30)

    def order(seed: int, epoch: int) -> list[float]:
        feed = ChipFeed(reader, places_of(reader, 8), 4, seed=seed)
        return [v for _, agb in feed.epoch(epoch) for v in agb.flatten().tolist()]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_crops_are_cut_from_image_and_labels_alike(scene: xr.Dataset) -> None:
    reader = Reader(scene, BANDS)
    places = crops_in(places_of(reader, 20), 16)
    feed = ChipFeed(reader, places, 4, crop=16)
    image, agb = next(feed.epoch(0))
    assert image.shape == (4, 3, 3, 16, 16)
    assert agb.shape == (4, 1, 16, 16)
    whole = torch.from_numpy(scene["agb"].values)
    for index in range(4):
        where = (whole == agb[index, 0, 0, 0]).nonzero()
        assert len(where) == 1
        top, left = where[0].tolist()
        rows, columns = slice(top, top + 16), slice(left, left + 16)
        assert torch.equal(agb[index, 0], whole[rows, columns])
        expected = scene["image"].values[:, :, rows, columns]
        np.testing.assert_array_equal(image[index], expected)


def test_reading_beyond_the_edge_reflects(scene: xr.Dataset) -> None:
    reader = Reader(scene, ("B08", "VV_asc"))
    found = reader.read(Place(Window(-7, 30, 50, 130)))
    rows, columns = mirror(-7, 50, 40), mirror(30, 130, 56)
    expected = scene["image"].values[:, [2, 0]][:, :, rows][:, :, :, columns]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_batches_are_read_ahead_within_the_memory_given() -> None:
    reader = numbered(40)
    started: list[int] = []
    read = reader.batch
    threads = set()

    def watch(places):
        threads.add(threading.current_thread().name)
        started.append(len(places))
        return read(places)

    reader.batch = watch  # type: ignore[method-assign]
    # Eight bytes a sample, two samples a batch: room for three batches.
    feed = ChipFeed(reader, places_of(reader, 8), 2, memory=48)
    batches = feed.epoch(0)
    next(batches)
    deadline = time.monotonic() + 10
    while len(started) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # were there no bound, the rest would have come by now
    assert len(started) == 4  # one in use, three ahead
    assert threading.current_thread().name not in threads
    batches.close()
    assert len(started) <= 5


def test_what_fits_is_read_once() -> None:
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
            reader.read(Place(Window(0, 0, 8, 8)))
        assert len(reads) == expected
        reads.clear()


def test_a_failing_read_reaches_the_trainer() -> None:
    reader = numbered(4)

    def fail(places):
        raise gb.CubeError("chip 3 is damaged")

    reader.batch = fail  # type: ignore[method-assign]
    with pytest.raises(gb.CubeError, match="chip 3"):
        next(ChipFeed(reader, places_of(reader, 8), 2).epoch(0))


def test_statistics_are_robust() -> None:
    scene = make_scene(64, 64)
    scene["image"][:, 1, :2] = 30_000  # clouds on three in a hundred pixels
    scene["image"][:, 2] = np.nan
    scene["agb"][0, 0] = 12_900
    reader = Reader(scene, BANDS)
    found = measure_statistics(ChipFeed(reader, [Place(reader.whole)], 1))
    radar = scene["image"].sel(band="VV_asc").values
    assert found.shift[0] == pytest.approx(np.nanmedian(radar), abs=0.3)
    assert 400 < found.scale[1] < 1500
    assert (found.shift[2], found.scale[2]) == (0.0, 1.0)
    truth = scene["agb"].values.ravel()
    assert found.target_shift == pytest.approx(np.sort(truth)[:-5].mean(), rel=0.02)
    assert found.target_scale < 100


# --- splits -------------------------------------------------------------------


@given(st.integers(2, 60), st.floats(0.01, 0.9), st.integers(0, 99), st.integers(2, 9))
def test_nothing_leaks_between_training_and_validation(
    count: int, fraction: float, seed: int, groups: int
) -> None:
    places = [Place(Window(0, 0, 1, 1), chip) for chip in range(count)]
    names = [str(chip % groups) for chip in range(count)]
    training, validation = hold_out(places, fraction, seed, names)
    assert sorted(p.chip for p in [*training, *validation]) == list(range(count))
    assert training
    assert validation
    assert not {p.chip % groups for p in training} & {
        p.chip % groups for p in validation
    }
    assert hold_out(places, fraction, seed, names) == (training, validation)


@given(
    st.integers(33, 200), st.integers(33, 200), st.integers(8, 64), st.integers(0, 9)
)
def test_crops_for_training_never_touch_a_validation_block(
    height: int, width: int, crop: int, seed: int
) -> None:
    reader = Reader(make_scene(1, 1), BANDS)
    reader.height, reader.width = height, width
    places = places_of(reader, 2 * crop)
    if len(places) < 2:
        return
    training, validation = hold_out(places, 0.2, seed)
    narrowest = min(min(p.window.height, p.window.width) for p in places)
    crop = min(crop, narrowest)
    feed = ChipFeed(reader, crops_in(training, crop), 4, crop=crop, seed=seed)
    drawn = [p.window for batch in feed._plan(0, 0, 1) for p in batch]
    held = [p.window for p in fixed_crops(validation, crop)]
    assert all((w.height, w.width) == (crop, crop) for w in [*drawn, *held])
    for one in drawn:
        assert all(one.intersect(other) is None for other in held)


def test_groups_of_chips_stay_together(chips: xr.Dataset) -> None:
    regions = ["north", "south"] * 3
    chips = chips.assign_coords(region=("chip", regions))
    reader = Reader(chips, BANDS)
    places = places_of(reader, 8)
    training, validation = hold_out(places, 0.1, 0, groups_of(chips, places, "region"))
    held = {regions[p.chip] for p in validation}
    assert len(held) == 1
    assert {regions[p.chip] for p in training} == {"north", "south"} - held
    with pytest.raises(gb.CubeError, match="groups='tile' must be a coordinate"):
        groups_of(chips, places, "tile")


def test_places_without_labels_are_left_out() -> None:
    scene = make_scene(64, 96)
    scene["agb"][:, :48] = np.nan
    reader = Reader(scene, BANDS)
    places = places_of(reader, 32)
    assert len(places) == 6
    kept = labelled(reader, places)
    assert all(p.window.right > 48 for p in kept)
    assert len(kept) == 4
    scene["agb"][:] = np.nan
    with pytest.raises(gb.CubeError, match="'agb' has no label"):
        labelled(Reader(scene, BANDS), places)


def test_every_process_has_something_to_validate_on() -> None:
    places = [Place(Window(0, 0, 1, 1), chip) for chip in range(9)]
    assert len(hold_out(places, 0.1, 0)[1]) == 1
    assert len(hold_out(places, 0.1, 0, least=3)[1]) == 3


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(gb.CubeError, match="cannot be split"):
        hold_out([Place(Window(0, 0, 1, 1))], 0.1, 0)


def test_validation_on_training_ground_is_refused(chips: xr.Dataset) -> None:
    scene = make_scene(64, 64)
    west, east = scene.isel(x=slice(0, 32)), scene.isel(x=slice(32, 64))
    refuse_overlap(west, east)
    refuse_overlap(chips.isel(chip=[0, 1]), chips.isel(chip=[2]))
    refuse_overlap(chips, scene)
    with pytest.raises(gb.CubeError, match="covers ground of the training scene"):
        refuse_overlap(west, scene.isel(x=slice(31, 64)))
    with pytest.raises(gb.CubeError, match=r"1 chips are in training .*chip001"):
        refuse_overlap(chips.isel(chip=[0, 1]), chips.isel(chip=[1, 2]))
