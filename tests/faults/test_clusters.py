"""Clusters that restart, hang, shrink or differ: the same bits, or a sentence."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import dumps
from threading import Thread
from typing import Any

import dask
import pytest
import xarray as xr
from cluster_processes import Breaking, Cluster, Swelling, until
from conftest import make_scene
from dying import dying
from map_work import Work, assert_is_the_map, write
from outcomes import is_clear, observed

import geobiomass as gb
from geobiomass.cube.cluster_errors import ClusterError
from geobiomass.data.loader import ChipLoader
from geobiomass.data.reader import Reader
from geobiomass.tiles import Sample, Window

# distributed leaves sockets and tasks of a scheduler or worker that was killed.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with Cluster(folder) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Set dask's own timeout, in this process only."""
    import distributed  # noqa: F401  (its defaults come first)

    before = "5 minutes"
    assert dask.config.get("distributed.scheduler.worker-ttl") == before
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}):
        yield
    dask.config.set({"distributed.scheduler.worker-ttl": before})
    gc.collect()  # what is left is of this test, not of the next module


@contextmanager
def connected(cluster: Cluster, workers: int = 1) -> Iterator[Any]:
    from distributed import Client

    client = Client(cluster.address, set_as_default=False)
    client.wait_for_workers(workers, timeout=60)
    try:
        yield client
    finally:
        client.close(timeout=2)


def broken(path: Path, work: Any, client: Any) -> str:
    """Write a map on a cluster that breaks; return the sentence."""
    _, _, error = observed(lambda: {"": write(path, work, client=client)})
    assert isinstance(error, ClusterError), repr(error)
    assert is_clear(error, [str(path)]), repr(error)
    assert "\n" not in str(error)
    return str(error)


def goes_on(path: Path, client: Any, said: str) -> None:
    """Check that the same call ends with the same bits, from what was written."""
    client.wait_for_workers(1, timeout=60)
    again = Work(path.parent / "again")
    write(path, again, client=client)
    assert_is_the_map(path)
    assert f"{12 - len(again.computed)} of 12 blocks are written" in said
    assert len(again.computed) < 12


@contextmanager
def when_asked(work: Breaking, act: Callable[[], Any]) -> Iterator[None]:
    """Do something when a block asks for it, and tell the block."""

    def wait() -> None:
        until(work.begun.exists)
        act()
        work.acted.touch()

    thread = Thread(target=wait)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_a_scheduler_that_is_lost_and_comes_back(
    fault: str, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "map.zarr"
    dask.config.set({"distributed.scheduler.worker-ttl": "12s"})
    cluster.start_worker()
    with connected(cluster) as client:
        pids = (cluster.scheduler.pid,)
        said = broken(path, Breaking(tmp_path / "log", fault=fault, pids=pids), client)
        silent = f"{cluster.address}, has not answered for 12 seconds; "
        if fault == "kill":
            lost = "map.zarr was being written: the connection to it was lost; "
            # On a busy machine its silence may be noticed before the lost connection.
            assert lost in said or silent in said
            cluster.start_scheduler()  # at the same address
            cluster.start_worker()
            until(lambda: client.status == "running")
        else:
            assert silent in said
            os.kill(cluster.scheduler.pid, signal.SIGCONT)
        goes_on(path, client, said)


@pytest.mark.parametrize("fault", ["die", "pause"])
def test_workers_that_are_all_lost(
    fault: str, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "map.zarr"
    cluster.start_worker()
    with connected(cluster) as client:
        said = broken(path, Breaking(tmp_path / "log", fault=fault), client)
        what = "it has no workers"
        if fault == "pause":
            what = "none of its workers (1) runs: their memory is full"
        assert re.search(rf"written: {re.escape(what)}, for \d seconds now", said)
        cluster.start_worker()
        client.wait_for_workers(1, timeout=60)
        goes_on(path, client, said)


@pytest.mark.parametrize("fault", ["kill", "retire"])
def test_one_of_two_workers_that_is_lost_changes_no_bit(
    fault: str, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start_worker()
    cluster.start_worker()
    pids = (cluster.workers[0].pid,)
    work = Breaking(
        tmp_path / "log", fault="ask" if fault == "retire" else fault, pids=pids
    )
    with connected(cluster, 2) as client:

        def retire() -> None:
            client.retire_workers([next(iter(client.nthreads()))])

        with when_asked(work, retire if fault == "retire" else int):
            write(tmp_path / "map.zarr", work, client=client)
        assert len(client.nthreads()) == 1
    assert_is_the_map(tmp_path / "map.zarr")


def test_a_cluster_that_is_restarted(cluster: Cluster, tmp_path: Path) -> None:
    path, work = tmp_path / "map.zarr", Breaking(tmp_path / "log")
    cluster.start_worker("--nanny")
    with connected(cluster) as client, connected(cluster) as other:

        def restart() -> None:
            other.restart(wait_for_workers=False)

        with when_asked(work, restart):
            said = broken(path, work, client)
        assert "written: it was restarted; " in said
        goes_on(path, client, said)


def test_workers_of_another_version_are_named(cluster: Cluster, tmp_path: Path) -> None:
    path, work = tmp_path / "map.zarr", Breaking(tmp_path / "log")
    other = tmp_path / "other.py"
    other.write_text("import geobiomass\ngeobiomass.__version__ = '0.0.9'\n")
    none = tmp_path / "none.py"
    none.write_text(
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'geobiomass':\n"
        "            raise ModuleNotFoundError(f'no {name}', name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    cluster.start_worker()
    plain = ("--no-nanny", "--memory-limit", "0", "--preload")
    with connected(cluster) as client:

        def join() -> None:
            cluster.start_worker(*plain, str(other))
            client.wait_for_workers(2, timeout=60)

        with when_asked(work, join):
            said = broken(path, work, client)
        assert re.search(
            r"written: its worker tcp://\S+ has geobiomass 0\.0\.9, this process "
            rf"geobiomass {re.escape(gb.__version__)}; install the same version", said
        )  # fmt: skip
        cluster.workers.pop().kill()
        until(lambda: len(client.nthreads()) == 1)
        cluster.start_worker(*plain, str(none))
        client.wait_for_workers(2, timeout=60)
        assert "has no geobiomass, this process" in broken(path, work, client)
        cluster.workers.pop().kill()
        until(lambda: len(client.nthreads()) == 1)
        goes_on(path, client, said)


def test_a_block_that_needs_more_memory_than_a_worker_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    # The nanny starts another worker in the meantime.
    dask.config.set({"distributed.scheduler.no-workers-timeout": "90s"})
    path = tmp_path / "map.zarr"
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.start_worker("--nanny", "--memory-limit", "700MB")
        with connected(cluster) as client:
            work = Swelling(tmp_path / "log", large=("64.64",))
            with pytest.raises(gb.IncompleteMapError, match=r"^1 of 12 blocks") as told:
                write(path, work, client=client)
            assert "1 workers died while they computed it alone" in str(told.value)
            assert "their memory is too small: use a smaller tile" in str(told.value)
            goes_on(path, client, "11 of 12 blocks are written")


def test_chunks_and_batches_that_a_cluster_keeps(
    cluster: Cluster, tmp_path: Path
) -> None:
    path, flag = tmp_path / "scene.zarr", tmp_path / "flag"
    scene = make_scene(64, 1024, months=(7,))
    bands = list(map(str, scene["band"].values))
    cluster.start_worker()
    with connected(cluster) as client:
        with client.as_current():
            kept = scene.chunk({"x": 256}).persist()
        meta = kept["image"].data._meta  # so that dask does not try the function
        image = kept["image"].data.map_blocks(dying, str(flag), meta=meta)
        lazy = kept.assign(image=kept["image"].copy(data=image))
        _, _, error = observed(lambda: {"": gb.write_cube(lazy, path, workers=1)})
        assert isinstance(error, ClusterError), repr(error)
        assert re.search(
            rf"{path} was being written: it has no workers, for \d seconds now .*; "
            r"2 of 4 blocks are written; connect a client, make anew what was "
            r"persisted .*: it goes on where it stopped\.$", str(error),
        ), str(error)  # fmt: skip
        cluster.start_worker()  # dask computes again what the first one kept
        client.wait_for_workers(1, timeout=60)
        gb.write_cube(lazy, path)
        gb.write_cube(scene, tmp_path / "expected.zarr")
        expected = gb.open_cube(tmp_path / "expected.zarr").load()
        xr.testing.assert_identical(gb.open_cube(path).load(), expected)
        with pytest.raises(gb.CubeError, match=r"kept by the dask cluster \(persist\)"):
            dumps(Reader(kept, bands))

        reader = Reader(gb.open_cube(path), bands)
        windows = [Sample(Window(0, x, 64, x + 64)) for x in range(0, 1024, 64)]
        loader = ChipLoader(reader, windows, 1, memory=1, client=client)
        batches = loader.epoch(0)
        next(batches)
        cluster.workers[-1].kill()
        with pytest.raises(ClusterError, match=r"with folder= the training goes on"):
            list(batches)
        with (
            client.as_current(),
            pytest.raises(ClusterError, match=r"labels were being read: it has no"),
        ):
            gb.residuals(expected["image"][0, 0].chunk(), expected)
