"""Maps on object storage: written, interrupted, continued, one writer at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from conftest import make_scene
from map_work import Stop, Work, assert_is_the_map, expected, interrupted, write
from test_maps import BANDS, NETWORK
from variants import variants
from zarr.storage import FsspecStore, MemoryStore

import geobiomass as gb
from geobiomass.cube import lease
from geobiomass.cube.store_objects import LEASE, as_buffer, synchronise
from geobiomass.info import describe
from geobiomass.maps import MapInUseError
from geobiomass.training.one_writer import Writer

TESTS = Path(__file__).parent


@pytest.fixture
def options(s3: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)  # for what takes no options
    return {"endpoint_url": s3}


def there(address: str, options: dict[str, str]) -> FsspecStore:
    return FsspecStore.from_url(address, storage_options=options)


def names(pattern: str, options: dict[str, str]) -> list[str]:
    files = fsspec.filesystem("s3", **options)
    files.invalidate_cache()
    return sorted(files.glob(pattern))


@pytest.mark.slow
def test_a_map_on_object_storage_goes_on_where_it_stopped(
    tmp_path: Path, options: dict[str, str]
) -> None:
    address, work = "s3://cubes/map.zarr", Work(tmp_path / "log")
    with interrupted(work, after=5) as stopping:
        write(address, stopping, storage_options=options)
    facts = describe(address)
    assert facts["state"] == (
        "unfinished, 5 of 12 blocks written (41 %), blocks of 64 x 64 pixels"
    )
    assert facts["being written"] == "no"
    with pytest.raises(ValueError, match="begun with block=64"):
        write(address, work, side=50, storage_options=options)
    with pytest.raises(FileExistsError, match=r"s3://cubes/map.zarr exists and holds"):
        write(address, work, fingerprint="another", storage_options=options)
    files = fsspec.filesystem("s3", **options)
    files.rm("cubes/map.zarr/agb/c/0/1")  # written, and lost since
    with pytest.warns(UserWarning, match="1 of 5 blocks that were written are damaged"):
        write(address, work, storage_options=options)
    assert len(work.computed) == 12 + 1
    assert_is_the_map(there(address, options))
    write(address, work, storage_options=options)
    assert len(work.computed) == 12 + 1
    assert names("cubes/map.zarr/written*", options) == []
    assert describe(address)["state"] == "finished"
    again = Work(tmp_path / "again")
    chosen = {"fingerprint": "another", "overwrite": True}
    write(address, again, storage_options=options, **chosen)
    assert len(again.computed) == 12
    assert_is_the_map(there(address, options))


def test_something_else_in_the_bucket_is_kept(
    tmp_path: Path, options: dict[str, str]
) -> None:
    files = fsspec.filesystem("s3", **options)
    files.pipe({"cubes/a.zarr/thesis.txt": b"mine", "cubes/a.tif": b"mine"})
    for address in ("s3://cubes/a.zarr", "s3://cubes/a.tif"):
        with pytest.raises(FileExistsError, match="holds something else"):
            write(address, Work(tmp_path / "log"), storage_options=options)
    assert files.cat("cubes/a.zarr/thesis.txt") == files.cat("cubes/a.tif") == b"mine"
    assert names("cubes/a.zarr/*", options) == ["cubes/a.zarr/thesis.txt"]


@pytest.mark.slow  # law 4 is quick for a map
def test_making_it_is_interrupted(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, work = "s3://cubes/made.zarr", Work(tmp_path / "log")

    def stop(*arguments: object) -> None:
        raise Stop

    for step in ("create_array", "consolidate", "_mark_finished"):
        with monkeypatch.context() as patch:
            patch.setattr(f"geobiomass.maps.map_writer.{step}", stop)
            with pytest.raises(Stop):
                write(address, work, storage_options=options)
        assert "unfinished" in describe(address)["state"]
    write(address, work, storage_options=options)
    assert len(work.computed) == 12
    assert_is_the_map(there(address, options))


@pytest.mark.slow
def test_a_geotiff_is_made_beside_and_put_into_the_bucket(
    tmp_path: Path, options: dict[str, str]
) -> None:
    address, work = "s3://cubes/map.tif", Work(tmp_path / "log", damaged=("64.0",))
    with pytest.raises(gb.IncompleteMapError, match="1 of 12 blocks of s3://cubes/map"):
        write(address, work, storage_options=options)
    assert "11 of 12 blocks" in describe(address)["state"]
    assert names("cubes/map.tif*", options) == ["cubes/map.tif.unfinished.zarr"]
    again = Work(tmp_path / "again")
    write(address, again, storage_options=options)
    assert again.computed == ["64.0"]
    assert names("cubes/map.tif*", options) == ["cubes/map.tif"]
    fsspec.filesystem("s3", **options).get("cubes/map.tif", str(tmp_path / "map.tif"))
    with rasterio.open(tmp_path / "map.tif") as source:
        np.testing.assert_array_equal(source.read(), expected())
    facts = describe(address)
    assert (facts["what"], facts["size"]) == ("raster", "150 x 220 pixels")
    write(address, again, storage_options=options)
    assert again.computed == ["64.0"]
    with pytest.raises(FileExistsError, match="holds something else"):
        write(address, again, fingerprint="another", storage_options=options)
    chosen = {"fingerprint": "another", "overwrite": True}
    write(address, Work(tmp_path / "more"), storage_options=options, **chosen)
    assert len(Work(tmp_path / "more").computed) == 12


@pytest.mark.slow
def test_a_store_of_obstore(tmp_path: Path, s3: str) -> None:
    from obstore.store import S3Store

    bucket = S3Store(
        "cubes",
        prefix="obstore_map.zarr",
        endpoint=s3,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    store = zarr.storage.ObjectStore(bucket)
    work = Work(tmp_path / "log")
    with interrupted(work, after=7) as stopping:
        write(store, stopping)
    write(store, work)
    assert len(work.computed) == 12
    assert_is_the_map(store)


def test_addresses_of_this_disk_and_stores_of_it_are_paths(tmp_path: Path) -> None:
    for index, name in enumerate(("a.zarr", "b.zarr")):
        path, work = tmp_path / name, Work(tmp_path / f"log {name}")
        target = [path.as_uri(), zarr.storage.LocalStore(path)][index]
        write(target, work)
        write(path, work)
        assert len(work.computed) == 12
        assert_is_the_map(path)


WRITE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from map_work import Work, write
write({address!r}, Work(Path({log!r}), seconds=0.4), storage_options={options!r})
"""


@pytest.mark.slow
def test_a_model_maps_from_bucket_to_bucket(
    tmp_path: Path, options: dict[str, str]
) -> None:
    scene = make_scene(300, 280, months=(7,))
    gb.write_cube(scene, "s3://cubes/scene.zarr", storage_options=options)
    cube = gb.open_cube("s3://cubes/scene.zarr", storage_options=options)
    model = gb.BiomassRegressor(NETWORK, BANDS, months=1)
    given = {"progress": False, "storage_options": options}
    address = "s3://cubes/whole.zarr"
    assert model.predict_to(address, cube, **given, overviews=True) == address
    expected = model.predict(cube).agb.values
    found = xr.open_zarr(address, storage_options=options)
    np.testing.assert_array_equal(found.agb, expected)
    level = xr.open_zarr(address, group="overviews/2", storage_options=options)
    assert level.agb.shape == (150, 140)
    # The plan counts what the bucket holds.
    plan = model.plan(cube, tile=100, overlap=0)
    held = fsspec.filesystem("s3", **options).du("cubes/scene.zarr/image")
    assert plan.bytes_read == held


@pytest.mark.slow
@pytest.mark.parametrize("address", ["s3://cubes/two.zarr", "s3://cubes/two.tif"])
def test_a_second_writer_is_refused(
    tmp_path: Path, options: dict[str, str], address: str
) -> None:
    work, mine = Work(tmp_path / "log"), Work(tmp_path / "mine")
    script = WRITE.format(
        tests=str(TESTS), address=address, log=str(work.log), options=options
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=TESTS.parent) as process:
        end = time.monotonic() + 120
        while len(work.computed) < 5 and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(MapInUseError, match=f"by process {process.pid} on "):
            write(address, mine, storage_options=options)
        facts = describe(address)
        assert facts["being written"].startswith(f"by process {process.pid} on")
        process.kill()
    # Dead, on this machine: its lease is not waited for.
    assert describe(address)["being written"] == "no"
    write(address, mine, storage_options=options)
    assert 12 <= len(work.computed) + len(mine.computed) <= 12 + 2


@pytest.mark.slow
@variants(
    ("age", "host", "refused"),
    [(90, "elsewhere", False), (30, "elsewhere", True), (30, "here", True)],
    quick=1,
)
def test_a_lease_runs_out(
    tmp_path: Path, options: dict[str, str], age: float, host: str, refused: bool
) -> None:
    address, work = f"s3://cubes/lease{age}{host}.zarr", Work(tmp_path / "log")
    lease: dict[str, Any] = {
        "host": socket.gethostname() if host == "here" else host,
        "pid": os.getpid() if host == "here" else 7,
        "time": time.time() - age,
        "token": "another",
    }
    key = address.removeprefix("s3://") + "/written/writer.json"
    fsspec.filesystem("s3", **options).pipe_file(key, json.dumps(lease).encode())
    if refused:
        with pytest.raises(MapInUseError, match=f"process {lease['pid']} on"):
            write(address, work, storage_options=options)
        assert work.computed == []
    else:
        write(address, work, storage_options=options)
        assert_is_the_map(there(address, options))
    assert names(key, options) == ([key] if refused else [])


@pytest.mark.slow
def test_a_lease_is_renewed_and_a_failure_to_is_told(
    tmp_path: Path,
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from geobiomass.cube import lease as writers

    monkeypatch.setattr(writers, "_RENEW", 0.05)
    written = writers._write_lease
    times: list[float] = []

    def watched(store: Any, writer: Any) -> None:
        times.append(time.time())
        if len(times) == 3:
            raise OSError("no network")
        written(store, writer)

    monkeypatch.setattr(writers, "_write_lease", watched)
    address, work = "s3://cubes/renewed.zarr", Work(tmp_path / "log", seconds=0.1)
    write(address, work, storage_options=options)
    assert len(times) >= 6
    assert "could not be renewed: no network" in caplog.text
    assert names("cubes/renewed.zarr/written*", options) == []


def test_a_lease_is_created_only_where_there_is_none() -> None:
    store: Any = MemoryStore()
    first, second = Writer.here(), Writer.here()
    lease._create_lease(store, first)
    lease._create_lease(store, second)
    found = lease.read_lease(store)
    assert found is not None
    assert found.token == first.token


def test_of_two_that_find_no_lease_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = MemoryStore(), Writer("elsewhere", 7, time.time())
    create = lease._create_lease

    def overtaken(store: Any, writer: Any) -> None:
        create(store, other)
        create(store, writer)

    monkeypatch.setattr(lease, "_create_lease", overtaken)
    work = Work(tmp_path / "log")
    with pytest.raises(MapInUseError, match="process 7 on elsewhere"):
        write(store, work)
    assert work.computed == []


def test_a_lease_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    store, work = MemoryStore(), Work(tmp_path / "log")
    synchronise(store.set(LEASE, as_buffer("{half a lea")))
    write(store, work)
    assert len(work.computed) == 12
    assert synchronise(store.exists(LEASE)) is False
