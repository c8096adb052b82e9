"""Readers beside a writer, full and unwritable disks, no home, forks, clusters."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import kept
import numpy as np
import pytest
import xarray as xr
from conftest import make_scene
from kill_points import fail_at, fail_at_size
from killing import AGAIN, Killing
from new_process import NewProcesses
from outcomes import Reading, differing, is_clear, observed
from writers import WRITERS

import geobiomass as gb

WATCHED = ["append", "write_cube, overwrite", "write_cube, scene", "ingest",
           "save over a model", "predict_to, Zarr", "predict_to, overwrite",
           "predict_to, COG"]  # fmt: skip


# --- a reader beside a writer -------------------------------------------------------


def parts_of(found: Reading) -> list[list[str]]:
    """Return the names that one call has read: of a map its totals are another."""
    parts: dict[str, list[str]] = {}
    for name in found:
        own = name if name == "availability" else name.partition("total ")[1]
        parts.setdefault(own, []).append(name)
    return list(parts.values())


def check_sentence(error: BaseException, name: str, path: Path, replaces: bool) -> None:
    """Check what a reader beside a writer is told.

    Nothing is there yet, it is not finished, it is written just now, or was replaced
    between opening and reading.
    """
    replaced = "was written again since it was opened" in str(error)
    assert not replaces or replaced, repr(error)
    assert not replaced or "overwrite" in name, repr(error)
    assert "damaged" not in str(error), repr(error)
    assert is_clear(error, [str(path)]), repr(error)


@pytest.mark.slow
@pytest.mark.parametrize("name", WATCHED)
def test_a_reader_beside_a_writer_sees_the_old_or_the_new(
    name: str, tmp_path: Path, warm: NewProcesses
) -> None:
    one = Killing(name, WRITERS[name].pipelines[-1], tmp_path / "k", warm)
    path, whole = one.place / one.writer.entry, [one.old, one.expected]
    seen: list[str] = []
    one.fresh(one.place)
    writer = Thread(target=one.do, args=(AGAIN, one.place))
    writer.start()
    try:
        while writer.is_alive():
            found, _, error = observed(lambda: one.writer.read(path))
            seen.append("told" if error is not None else "read")
            if error is not None:
                check_sentence(error, name, path, one.writer.replaces)
                continue
            assert found is not None
            # Each is read by another call, which may see what is newer.
            for names in parts_of(found):
                other = [
                    {name for name in names if found.get(name) != w.get(name)}
                    for w in whole
                    if w is not None
                ]
                assert not all(other), other
    finally:
        writer.join()  # the processes are shared with other tests
    assert seen
    found, _, error = observed(lambda: one.writer.read(path))
    assert error is None
    assert not differing(found or {}, one.expected)


@pytest.mark.slow
def test_a_lazy_reader_of_what_is_replaced_gets_no_mixture(tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    old, new = make_scene(32, 300, seed=1), make_scene(32, 300, seed=2)
    gb.write_cube(old, path)
    expected = gb.open_cube(path)["image"].load().values
    lazy = gb.open_cube(path)["image"]
    left = lazy[..., :256].values  # the first of two shards
    gb.write_cube(new, path, overwrite=True)
    found, _, error = observed(lambda: {"right": lazy[..., 256:].values})
    np.testing.assert_array_equal(left, expected[..., :256])
    if error is None:
        assert found is not None
        np.testing.assert_array_equal(found["right"], expected[..., 256:])
    else:
        assert is_clear(error, [str(path)]), repr(error)


# --- disks ----------------------------------------------------------------------------

DISK = {
    errno.ENOSPC: "disk is full",
    errno.EROFS: "read-only|Read-only|written|writable",
    errno.EACCES: "ermission|written|writable",
}
ON_DISKS = ["write_cube, scene", "append", "save over a model", "predict_to, Zarr",
            "predict_to, COG", "residuals"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ON_DISKS)
def test_a_disk_that_fails_is_said_and_the_same_call_goes_on(
    name: str, tmp_path: Path, warm: NewProcesses
) -> None:
    import re

    one = Killing(name, WRITERS[name].pipelines[-1], tmp_path / "k", warm)
    count = len(one.operations)
    script = one.script(AGAIN, one.place, one.answer)
    # The disk that fails at a place is another one for the next writer.
    shift = ON_DISKS.index(name)
    codes = [*DISK][shift % 3 :] + [*DISK][: shift % 3]
    told = 0
    for operation, code in zip((1, count // 2, count * 3 // 4), codes, strict=True):
        one.fresh(one.place)
        one.answer.unlink(missing_ok=True)
        done = fail_at(script, operation, one.place, code, warm)
        assert done.returncode == 0, done.stderr[-2000:]
        said = one.taken(one.answer)
        where = f"{name}, operation {operation} of {count}, {os.strerror(code)}"
        if said.said:  # what frees nothing and needs nothing goes on
            assert said.clear, f"{where}: {said.said}"
            assert re.search(DISK[code], said.said), f"{where}: {said.said}"
            told += 1
        again = one.do(AGAIN, one.place)
        assert not again.said, f"{where}: again: {again.said}"
        found = one.read(one.place)
        assert found.reading is not None, found.said
        assert not differing(found.reading, one.expected), where
    assert told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict_to, COG", "save over a model"])
def test_libraries_on_a_full_disk_are_said_too(
    name: str, tmp_path: Path, warm: NewProcesses
) -> None:
    one = Killing(name, WRITERS[name].pipelines[-1], tmp_path / "k", warm)
    script = one.script(AGAIN, one.place, one.answer)
    for size in one.writer.sizes:
        one.fresh(one.place)
        one.answer.unlink(missing_ok=True)
        done = fail_at_size(script, size, warm)
        assert done.returncode == 0, done.stderr[-2000:]
        said = one.taken(one.answer)
        assert said.said
        assert said.clear, said.said
        assert not one.do(AGAIN, one.place).said
        found = one.read(one.place)
        assert not differing(found.reading or {}, one.expected)


def test_a_folder_that_vanished_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    gb.write_cube(make_scene(), path)
    lazy = gb.open_cube(path)
    shutil.rmtree(path)
    for read in (lambda: lazy["image"].load(), lambda: gb.open_cube(path)):
        _, _, error = observed(lambda read=read: {"": read()})
        assert is_clear(error, [str(path)]), repr(error)
    for write in (
        lambda: gb.write_cube(make_scene(), tmp_path / "gone" / "scene.zarr"),
        lambda: kept.untrained().predict_to(
            tmp_path / "gone" / "map.tif", kept.scene(), check="off", progress=False
        ),
    ):
        _, _, error = observed(lambda write=write: {"": write()})
        assert error is None or is_clear(error, [str(tmp_path / "gone")]), repr(error)


# --- processes ------------------------------------------------------------------------

ALONE = """
import os, sys
import numpy as np
import geobiomass as gb
path, answer = sys.argv[1:]
cube = gb.open_cube(path)
before = cube["image"].load().values
pid = os.fork()
if pid == 0:
    again = gb.open_cube(path)["image"].load().values
    same = np.array_equal(before, again, equal_nan=True)
    gb.write_cube(cube.load(), answer)
    os._exit(0 if same else 3)
_, status = os.waitpid(pid, 0)
back = gb.open_cube(answer)["image"].values
assert os.waitstatus_to_exitcode(status) == 0, status
assert np.array_equal(before, back, equal_nan=True)
print("right")
"""


@pytest.mark.slow
def test_a_fork_after_import_reads_and_writes_without_a_home(tmp_path: Path) -> None:
    gb.write_cube(make_scene(), tmp_path / "scene.zarr")
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER")}
    environment |= {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/cache"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "scene.zarr"),
         str(tmp_path / "again.zarr")],
        env=environment, cwd=Path(__file__).parents[2], text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "right\n", done.stderr


def test_a_full_temporary_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/full")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    _, _, error = observed(lambda: {"": WRITERS["report"].write(tmp_path)})
    assert "No space left" in str(error)
    assert "/tmp/full" in str(error)
    assert list(tmp_path.iterdir()) == []


# --- clusters -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def slow_cube(folder: Path) -> xr.Dataset:
    """Return a lazy cube of eight parts, of which each takes a part of a second."""
    scene = make_scene(64, 1024, months=(7,)).chunk({"x": 256})

    def wait(values: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return values

    image = xr.apply_ufunc(
        wait, scene["image"], dask="parallelized", output_dtypes=[np.float32],
        keep_attrs=True,
    )  # fmt: skip
    return scene.assign(image=image.transpose(*scene["image"].dims))


def broken(client: Any, how: str) -> None:
    if how == "close":
        client.close()
    else:
        pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), 9)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["die", "close"])
@pytest.mark.parametrize("what", ["map", "cube"])
def test_a_cluster_that_breaks_leaves_the_same_bits_or_a_sentence(
    what: str, how: str, cluster: Any, tmp_path: Path
) -> None:
    from distributed import Client
    from map_work import Work, assert_is_the_map, write

    place, begun = tmp_path / f"{what}.zarr", Event()

    def make(client: Any) -> None:
        if what == "map":
            write(place, Work(tmp_path / "log", seconds=0.2), client=client)
        else:
            with client.as_current():
                gb.write_cube(slow_cube(tmp_path), place)

    def interfere(client: Any) -> None:
        begun.wait()
        time.sleep(0.6)
        broken(client, how)

    client = Client(cluster, set_as_default=False)
    meddler = Thread(target=interfere, args=(client,))
    meddler.start()
    begun.set()
    _, _, error = observed(lambda: {"": make(client)})
    meddler.join()
    client.close()
    if error is not None:
        assert is_clear(error, [str(place)]), repr(error)
        with Client(cluster, set_as_default=False) as second:
            second.wait_for_workers(2)
            make(second)
    if what == "map":
        assert_is_the_map(place)
    else:
        gb.write_cube(make_scene(64, 1024, months=(7,)), tmp_path / "expected.zarr")
        expected = gb.open_cube(tmp_path / "expected.zarr").load()
        xr.testing.assert_identical(gb.open_cube(place).load(), expected)
