"""The data loader: every sample once, order of seed and epoch, bounded prefetching."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import crops_in, samples_of
from geobiomass.network.attention_unet import UNKNOWN
from geobiomass.recipes.scaling import measure_statistics

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


def labels_of(batch) -> list[int]:
    return [int(value) for value in batch[-1].flatten()]


def images(loader: ChipLoader, epoch: int = 0, **sample: int) -> list[torch.Tensor]:
    """Decoded batches of an epoch."""
    decoded = [
        decode_batch(batch[:-1], batch[-1]) for batch in loader.epoch(epoch, **sample)
    ]
    return [
        torch.cat([image.flatten(1), agb.flatten(1)], 1) for (image,), agb in decoded
    ]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Twelve chips of 72 x 80 pixels on disk."""
    path = tmp_path_factory.mktemp("stored") / "chips.zarr"
    parts = make_chips(12, 80).isel(y=slice(0, 72))
    gb.write_cube(parts, path)
    return gb.open_cube(path)


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 4),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
    start=st.integers(0, 12),
)
def test_every_sample_once_in_every_epoch(
    count: int,
    batch_size: int,
    ranks: int,
    epoch: int,
    seed: int,
    shuffle: bool,
    start: int,
) -> None:
    reader = numbered(count)
    loader = ChipLoader(
        reader, samples_of(reader, 8), batch_size, shuffle=shuffle, seed=seed
    )
    if count < ranks:
        with pytest.raises(ValueError, match=f"{count} samples cannot be shared"):
            loader.batches_per_epoch(ranks)
        return
    seen: list[int] = []
    for rank in range(ranks):
        batches = [labels_of(batch) for batch in loader.epoch(epoch, rank, ranks)]
        assert len(batches) == loader.batches_per_epoch(ranks)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= batch_size + (batch_size == 1 < ranks)
        assert min(sizes) >= 1
        seen += [value for batch in batches for value in batch]
        again = [labels_of(b) for b in loader.epoch(epoch, rank, ranks, start)]
        assert again == batches[start:]
    assert sorted(seen) == list(range(count))
    if not shuffle and ranks == 1:
        assert seen == list(range(count))


@pytest.mark.slow
@given(
    batch_size=st.integers(1, 7),
    ranks=st.integers(1, 3),
    crop=st.sampled_from([None, 1, 33, 64, 72]),
    epoch=st.integers(0, 2),
    seed=st.integers(0, 9),
    threads=st.integers(1, 4),
    memory=st.sampled_from([0, 300_000, 2**30]),
    decoded=st.booleans(),
)
def test_batches_depend_on_seed_and_epoch_alone(
    stored: xr.Dataset,
    batch_size: int,
    ranks: int,
    crop: int | None,
    epoch: int,
    seed: int,
    threads: int,
    memory: int,
    decoded: bool,
) -> None:
    reader = Reader(stored, BANDS)
    samples = samples_of(reader, 8)
    plain = ChipLoader(reader, samples, batch_size, crop, seed=seed, threads=1)
    loader = ChipLoader(
        reader.decoded() if decoded else reader,
        samples,
        batch_size,
        crop,
        seed=seed,
        threads=threads,
        memory=memory,
    )
    chips: list[int | None] = []
    for rank in range(ranks):
        sample = {"rank": rank, "ranks": ranks}
        assert same(images(loader, epoch, **sample), images(plain, epoch, **sample))
        for batch, planned in zip(
            images(loader, epoch, **sample),
            loader.plan(epoch, rank, ranks),
            strict=True,
        ):
            chips += [p.chip for p in planned]
            for values, p in zip(batch.numpy(), planned, strict=True):
                expected = [reader.read(p).ravel(), reader.labels(p).ravel()]
                np.testing.assert_array_equal(values, np.concatenate(expected))
    assert sorted(map(int, chips)) == list(range(12))


def test_epochs_and_seeds_differ() -> None:
    reader = numbered(30)

    def order(seed: int, epoch: int) -> list[int]:
        loader = ChipLoader(reader, samples_of(reader, 8), 4, seed=seed)
        return [value for batch in loader.epoch(epoch) for value in labels_of(batch)]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_image_and_labels_have_the_same_crop(scene: xr.Dataset) -> None:
    reader = Reader(scene, BANDS)
    samples = crops_in(samples_of(reader, 20), 16)
    *inputs, agb = next(ChipLoader(reader, samples, 4, crop=16).epoch(0))
    (image,), agb = decode_batch(tuple(inputs), agb)
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


def watched(reader: Reader) -> list[tuple[str, int | None]]:
    """Record each sample that a reader reads, and the thread."""
    read: list[tuple[str, int | None]] = []
    fill = reader.fill

    def watch(sample, codes, agb):
        read.append((threading.current_thread().name, sample.chip))
        return fill(sample, codes, agb)

    reader.fill = watch  # type: ignore[method-assign]
    return read


def count_after_waiting(read: list, count: int) -> int:
    """Wait until `count` samples are read, and a little longer; return how many."""
    deadline = time.monotonic() + 60
    while len(read) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # without a limit the rest would be read by now
    return len(read)


@pytest.mark.parametrize(("memory", "batches"), [(0, 2), (48, 2), (64, 3), (80, 4)])
def test_prefetched_batches_stay_within_the_memory_limit(
    memory: int, batches: int
) -> None:
    reader = numbered(40)
    read = watched(reader)
    # Eight bytes per sample, two samples per batch. One is prefetched in any case.
    loader = ChipLoader(reader, samples_of(reader, 8), 2, memory=memory)
    epoch = loader.epoch(0)
    next(epoch)
    # The one in use counts too; the next is requested while that one is still held.
    assert count_after_waiting(read, 2 * batches) == 2 * batches
    assert threading.current_thread().name not in {name for name, _ in read}
    epoch.close()
    assert len(read) <= 2 * (batches + 1)


def test_batches_used_before_an_interruption_are_not_read_again() -> None:
    reader = numbered(20)
    read = watched(reader)
    loader = ChipLoader(reader, samples_of(reader, 8), 4)
    used = {p.chip for batch in loader.plan(2)[:3] for p in batch}
    assert len(list(loader.epoch(2, start=3))) == 2
    assert len(read) == 8
    assert not used & {chip for _, chip in read}
    assert list(loader.epoch(2, start=5)) == []


def test_memory_is_used_again_and_never_while_it_is_held(stored: xr.Dataset) -> None:
    reader = Reader(stored, BANDS)
    loader = ChipLoader(reader, samples_of(reader, 8), 3, memory=0)
    held = list(loader.epoch(0))
    kept = [batch[0].clone() for batch in held]
    list(loader.epoch(1))
    assert all(torch.equal(a, batch[0]) for a, batch in zip(kept, held, strict=True))
    del held, kept
    samples = set()
    for epoch in (2, 3):
        for codes, *_ in loader.epoch(epoch):
            samples.add(codes.data_ptr())
            del codes, _
    assert len(samples) <= 5  # of eight batches


@pytest.mark.parametrize("kind", ["raise", "skip"])
def test_a_damaged_chip_is_named_or_left_out(
    tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "chips.zarr"
    gb.write_cube(make_chips(6, 64), path)
    shard = path / "image" / "c" / "2" / "0" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    reader = Reader(gb.open_cube(path), BANDS)
    loader = ChipLoader(reader, samples_of(reader, 8), 2, damaged=kind)  # type: ignore[arg-type]
    if kind == "raise":
        with pytest.raises(gb.CubeError, match=r"chip chip002.*image/c/2/0/0/0/0"):
            list(loader.epoch(0))
        return
    with pytest.warns(UserWarning, match="Left out of training: .*chip002"):
        first = images(loader, 0)
    images(loader, 1)  # warned about once
    assert list(loader.problems) == ["chip chip002"]
    assert str(shard) in loader.problems["chip chip002"]
    planned = [p.chip for batch in loader.plan(0) for p in batch]
    for chip, values in zip(planned, torch.cat(first), strict=True):
        if chip == 2:
            assert values.isnan().all()
        else:
            assert not values.isnan().all()
            expected = reader.read(Sample(reader.whole, chip)).ravel()
            np.testing.assert_array_equal(values[: len(expected)], expected)


def test_a_failing_read_reaches_the_trainer(chips: xr.Dataset) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise OSError("no such disk")

    image = chips["image"].chunk(chip=1)
    image = image.copy(data=image.data.map_blocks(fail, dtype=np.float32))
    reader = Reader(chips.assign(image=image), BANDS)
    with pytest.raises(gb.CubeError, match=r"at chip chip00.: no such disk"):
        next(ChipLoader(reader, samples_of(reader, 8), 2).epoch(0))


@pytest.mark.slow
def test_workers_of_a_cluster_read_the_same_bits(stored: xr.Dataset) -> None:
    from dask.distributed import Client

    reader = Reader(stored, BANDS)
    plain = ChipLoader(reader, samples_of(reader, 8), 5, crop=40, seed=3)
    with Client(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True
    ) as client:
        loader = ChipLoader(
            reader, samples_of(reader, 8), 5, crop=40, seed=3, client=client
        )
        assert same(images(loader, 1), images(plain, 1))
        assert same(images(loader, 1, start=1), images(plain, 1)[1:])
        lazy = stored.assign(image=stored["image"] + 1)
        other = Reader(lazy, BANDS)
        loader = ChipLoader(
            other, samples_of(other, 8), 5, crop=40, seed=3, client=client
        )
        local = ChipLoader(other, samples_of(other, 8), 5, crop=40, seed=3)
        assert same(images(loader), images(local))


def test_bands_are_scaled_by_their_percentiles() -> None:
    scene = make_scene(64, 64)
    scene["image"][:, 1, :1] = 30_000  # clouds on one or two in a hundred pixels
    scene["image"][:, 2] = np.nan
    scene["agb"][0, 0] = 12_900
    reader = Reader(scene, BANDS)
    found = measure_statistics(reader, [Sample(reader.whole)])
    radar = scene["image"].sel(band="VV_asc").values
    low, high = np.percentile(radar, [5, 95])
    assert found.shift[0] - 1.645 * found.scale[0] == pytest.approx(low, rel=0.01)
    assert found.shift[0] + 1.645 * found.scale[0] == pytest.approx(high, rel=0.01)
    assert (found.shift[2], found.scale[2]) == (0.0, UNKNOWN)  # no value at all
    truth = np.sort(scene["agb"].values.ravel())[:-5]
    assert found.target_shift == pytest.approx(truth.mean(), rel=0.02)
    assert found.target_scale == pytest.approx(truth.std(), rel=0.05)


def test_stored_percentiles_of_a_cube_on_disk_are_used(
    stored: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expected(values: np.ndarray) -> tuple[float, float]:
        values = np.sort(values[np.isfinite(values)])
        low, high = (float(values[-(-values.size * p // 100) - 1]) for p in (5, 95))
        return (low + high) / 2, (high - low) / 3.29

    reader = Reader(stored.sel(band=["B08", "VV_asc"]), ("B08", "VV_asc"))
    samples = samples_of(reader, 8)
    optical = stored["image"].sel(band="B08").values
    # Held-out samples have no part in the scaling.
    part = measure_statistics(reader, samples[:3])
    assert (part.shift[0], part.scale[0]) == expected(optical[:3])
    monkeypatch.setattr(Reader, "codes", lambda *args: pytest.fail("reads pixels"))
    for whole in (reader, reader.decoded()):
        found = measure_statistics(whole, samples)
        assert (found.shift[0], found.scale[0]) == expected(optical)
    assert part.shift != found.shift
