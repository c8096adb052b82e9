"""A cluster that is closed, scaled to nothing or killed for good, in the middle."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import dask
import distributed
import numpy as np
import pytest
import xarray as xr
from cluster_processes import Breaking, Cluster, asking, until
from conftest import make_scene
from map_work import Work, assert_is_the_map, write

import geobiomass as gb
from geobiomass.cube.cluster_errors import ClusterError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # distributed leaves sockets and tasks of a scheduler or worker that was killed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FAULTS = ("close", "scale", "kill")


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    # The defaults of distributed come first: it is imported above.
    patience = {
        "distributed.scheduler.no-workers-timeout": "4s",
        "distributed.scheduler.worker-ttl": "12s",
        "distributed.comm.timeouts.connect": "3s",
    }
    with dask.config.set(patience):
        yield
    gc.collect()  # what is left is of this test, not of the next module


@pytest.fixture(params=FAULTS)
def lost(request: Any, tmp_path: Path) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """A client, and what makes its cluster be lost for good."""
    if request.param == "kill":
        with Cluster(tmp_path) as processes:
            processes.start_worker()
            client = distributed.Client(processes.address, set_as_default=False)
            client.wait_for_workers(1, timeout=60)
            yield client, processes.scheduler.kill
            client.close(timeout=2)
        return
    local: Any = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
    )
    client = distributed.Client(local, set_as_default=False)
    client.wait_for_workers(1, timeout=60)
    yield client, local.close if request.param == "close" else lambda: local.scale(0)
    client.close(timeout=2)
    local.close(timeout=10)


def lose(log: Path, act: Callable[[], Any], work: Callable[[], Any]) -> None:
    """Do some work, and lose its cluster when a block asks for it."""
    begun, acted = log.with_suffix(".begun"), log.with_suffix(".acted")

    def wait() -> None:
        until(begun.exists)
        acted.touch()  # the block goes on: closing waits for it
        act()

    thread = Thread(target=wait)
    thread.start()
    work()
    thread.join()


def sentence(log: Path, act: Callable[[], Any], work: Callable[[], Any]) -> str:
    """Lose a cluster; return what the work says."""

    def fails() -> None:
        with pytest.raises(ClusterError) as raised:
            work()
        said.append(str(raised.value))

    said: list[str] = []
    lose(log, act, fails)
    assert "\n" not in said[0]
    return said[0]


def test_a_map_goes_on_without_a_cluster_that_is_lost(
    lost: tuple[Any, Callable[[], Any]], tmp_path: Path
) -> None:
    client, act = lost
    path, log = tmp_path / "map.zarr", tmp_path / "log"
    work = Breaking(log, seconds=0.5)
    said = sentence(log, act, lambda: write(path, work, client=client))
    assert "map.zarr was being written: " in said
    again = Work(tmp_path / "again")
    write(path, again)
    assert_is_the_map(path)
    assert f"{12 - len(again.computed)} of 12 blocks are written" in said
    assert 0 < len(again.computed) < 12


@pytest.mark.parametrize("kept", [True, False])
def test_a_cube_goes_on_without_a_cluster_that_is_lost(
    lost: tuple[Any, Callable[[], Any]], tmp_path: Path, kept: bool
) -> None:
    client, act = lost
    path, log = tmp_path / "scene.zarr", tmp_path / "log"
    scene = make_scene(64, 2048, months=(7,))

    def lazy(scene: xr.Dataset) -> xr.Dataset:
        meta = np.empty(0, np.float32)
        image = scene["image"]
        slow = image.data.map_blocks(asking, str(log), meta=meta)
        return scene.assign(image=image.copy(data=slow))

    given = scene.chunk({"x": 256})
    if kept:
        with client.as_current():
            given = given.persist()
        client.gather(distributed.futures_of(given))

    def work() -> None:
        with client.as_current():
            gb.write_cube(lazy(given), path, workers=1)

    if kept:
        said = sentence(log, act, work)
        assert "scene.zarr was being written: " in said
        assert "make anew what was persisted" in said
        gb.write_cube(lazy(scene.chunk({"x": 256})), path, workers=1)
    else:  # its chunks are read in this process, which needs no cluster
        lose(log, act, work)
    gb.write_cube(scene, tmp_path / "expected.zarr")
    expected = gb.open_cube(tmp_path / "expected.zarr").load()
    xr.testing.assert_identical(gb.open_cube(path).load(), expected)
