"""Maps on a dask cluster: one network for each worker; workers that die or join."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_scene
from map_work import Work, assert_is_the_map, layout, write
from test_maps import BANDS, NETWORK
from traced_network import Traced

import geobiomass as gb
from geobiomass.maps.cluster import Strips

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Start two workers of one thread, in processes that a nanny restarts."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def pids(work: Work, what: str | None = None) -> Counter[int]:
    """Return how often each process unpickled the work, or computed a block."""
    return Counter(
        pid for pid, did in work.lines if (did == "unpacked") == (what is not None)
    )


def test_strips_are_runs_of_neighbours_and_the_longest_is_shared() -> None:
    blocks = layout(10, 30, 100)
    strips = Strips(blocks, ["a", "b"])
    assert [strips.next("a") for _ in range(15)] == blocks[:15]
    late = [strips.next("c") for _ in range(8)]
    assert late == blocks[22:30]
    given = [strips.next(name) for name in "abcabcab" if name]
    assert sorted(given[:7]) == blocks[15:22]
    assert given[7] is None
    assert strips.next("b") is None


def test_the_network_goes_to_each_worker_once(tmp_path: Path, client: Any) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log", seconds=0.1)
    write(path, work, client=client)
    assert_is_the_map(path)
    unpacked = pids(work, "unpacked")
    assert set(unpacked) == set(pids(work)) == set(client.run(os.getpid).values())
    assert set(unpacked.values()) == {1}
    assert len(work.computed) == 12
    assert client.run(worker_keeps) == {name: [] for name in client.nthreads()}
    # Contiguous: a process passes from a block to its neighbour, but where it begins
    # on what another has left, half of it at a time: of twelve blocks four times.
    order = [block.key for block in layout()]
    jumps = 0
    for pid in unpacked:
        mine = [order.index(key) for p, key in work.lines if p == pid and key in order]
        jumps += sum(b - a != 1 for a, b in pairwise(mine))
    assert jumps <= 4


def worker_keeps(dask_worker: Any) -> list[str]:
    from geobiomass.maps import cluster

    plugins = [name for name in dask_worker.plugins if "geobiomass" in name]
    return plugins + list(cluster._READY) + list(cluster._PACKED)


def test_a_worker_that_is_killed_changes_no_bit(tmp_path: Path, client: Any) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log", seconds=0.3)
    before = set(client.run(os.getpid).values())
    killed: list[int] = []

    def kill() -> None:
        while len(work.computed) < 3:
            time.sleep(0.02)
        killed.append(work.lines[-1][0])
        os.kill(killed[0], signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    client.run_on_scheduler(lambda dask_scheduler: allow(dask_scheduler, 3))
    write(path, work, client=client, side=25)
    killer.join()
    client.run_on_scheduler(lambda dask_scheduler: allow(dask_scheduler, 0))
    assert killed[0] in before
    assert_is_the_map(path)
    newcomers = set(pids(work)) - before
    assert newcomers  # the one that the nanny started took part
    assert set(pids(work, "unpacked").values()) == {1}
    assert len(layout(25)) <= len(work.computed) <= len(layout(25)) + 2


def allow(scheduler: Any, failures: int) -> None:
    scheduler.allowed_failures = failures


def test_blocks_that_fail_are_named_and_the_rest_is_written(
    tmp_path: Path, client: Any
) -> None:
    path = tmp_path / "map.zarr"
    work = Work(
        tmp_path / "log", damaged=("0.64", "64.0"), broken=("64.64",), deadly=("128.0",)
    )
    with pytest.raises(gb.IncompleteMapError) as caught:
        write(path, work, client=client)
    said = str(caught.value)
    assert "rows 0 to 64, columns 64 to 128: pixels of" in said
    assert "month 7" in said
    assert "rows 64 to 128, columns 64 to 128: no space left" in said
    assert "rows 128 to 150, columns 0 to 64: " in said
    assert "128.0" in said.split("columns 0 to 64: ")[-1]  # as dask names the task
    again = Work(tmp_path / "again")
    write(path, again, client=client)
    # Except other blocks that the dying worker was computing.
    assert sorted(again.computed) == ["0.64", "128.0", "64.0", "64.64"]
    assert_is_the_map(path)


def test_an_active_client_is_used(tmp_path: Path, client: Any) -> None:
    work = Work(tmp_path / "log")
    with client.as_current():
        write(tmp_path / "map.zarr", work)
    assert set(pids(work)) <= set(client.run(os.getpid).values())
    assert os.getpid() not in pids(work)
    assert_is_the_map(tmp_path / "map.zarr")


def test_a_model_maps_on_a_cluster_with_the_same_bits(
    tmp_path: Path, client: Any
) -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    gb.write_cube(make_scene(96, 96), tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    path = tmp_path / "map.zarr"
    tiling = {"tile": 32, "overlap": 16, "block": 32, "progress": False}
    model.predict_to(path, cube, **tiling, client=client)
    expected = model.predict(cube, 32, 16).agb.values
    np.testing.assert_array_equal(xr.open_zarr(path).agb, expected)


def test_the_command_maps_on_the_cluster_of_a_scheduler(
    tmp_path: Path, client: Any, run: Callable[..., tuple[int, str, str]]
) -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.save(tmp_path / "model")
    gb.write_cube(make_scene(96, 96), tmp_path / "scene.zarr")
    words = ("predict", tmp_path / "model", tmp_path / "scene.zarr")
    tiling = ("--tile", 32, "--overlap", 16, "--block", 32, "--check", "off")
    address = client.scheduler.address
    for name, more in (("here", ()), ("there", ("--scheduler", address))):
        code, said, errors = run(*words, tmp_path / f"{name}.zarr", *tiling, *more)
        assert code == 0, (said, errors)
    here, there = (xr.open_zarr(tmp_path / f"{n}.zarr").agb for n in ("here", "there"))
    np.testing.assert_array_equal(here, there)


def test_a_lazy_map_is_computed_by_the_workers_of_an_active_client(
    tmp_path: Path, client: Any
) -> None:
    scene = make_scene(128, 128)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = traced = Traced(tmp_path / "log")
    with client.as_current():
        lazy = model.predict(cube, tile=32, overlap=0, block=32)
        corner = lazy.agb[:20, :20].compute()
        assert len(traced.where("tile")) == 1
        whole = lazy.agb.compute().values
    workers = set(client.run(os.getpid).values())
    assert set(traced.where("tile")) <= workers
    unpacked = Counter(pid for pid in traced.where("unpacked") if pid in workers)
    # Two computations of two graphs; sixteen blocks do not each bring a network.
    assert max(unpacked.values()) <= 2
    expected = cube["image"].values[0, 0]
    np.testing.assert_array_equal(whole, np.where(np.isnan(whole), np.nan, expected))
    np.testing.assert_array_equal(corner, whole[:20, :20])


def test_strips_run_few_tiles_twice(tmp_path: Path, client: Any) -> None:
    gb.write_cube(make_scene(160, 160).fillna(0), tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network = traced = Traced(tmp_path / "log")
    tiling = {"tile": 32, "overlap": 16, "block": 32, "progress": False}
    model.predict_to(tmp_path / "map.zarr", cube, **tiling, client=client)
    # Of 81 tiles one or two rows are between the strips of the two workers; without
    # strips and kept results there would be 2.5 times as many.
    assert 81 <= len(traced.where("tile")) <= 81 + 3 * 9


def test_workers_write_to_object_storage_themselves(
    tmp_path: Path, client: Any, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geobiomass.maps.blocks import Target

    options = {"endpoint_url": s3, "key": "key", "secret": "secret"}
    monkeypatch.setattr(Target, "write", lambda *a: pytest.fail("the client writes"))
    work = Work(tmp_path / "log", damaged=("64.64",))
    address = "s3://cubes/cluster.zarr"
    with pytest.raises(gb.IncompleteMapError, match=r"^1 of 12 blocks"):
        write(address, work, client=client, storage_options=options)
    again = Work(tmp_path / "again")
    write(address, again, client=client, storage_options=options)
    assert again.computed == ["64.64"]
    from zarr.storage import FsspecStore

    assert_is_the_map(FsspecStore.from_url(address, storage_options=options))
