"""Writers to a local S3 server that are killed at a request go on with the same bits.

A process is ended before its n-th request that changes the bucket, which is what a
server sees of a process or a machine that dies.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import kept
import map_work
import pytest
from conftest import make_chips, make_scene
from kill_points import ROOT
from new_process import NewProcesses
from outcomes import Reading, differing, is_clear, observed

import geobiomass as gb
from geobiomass.cube import verify
from geobiomass.maps.reading import open_map
from geobiomass.training.one_writer import FRESH, InUseError

_SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
import os, signal, asyncio
from s3fs.core import S3FileSystem
_call, _seen = S3FileSystem._call_s3, [0]
async def _counted(self, method, *args, **kwargs):
    if method in ("put_object", "delete_object", "delete_objects", "copy_object"):
        _seen[0] += 1
        with open({log!r}, "a") as file:
            file.write(f"{{method}} {{kwargs.get('Key', '')}}\\n")
        if _seen[0] == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep({delay})
    return await _call(self, method, *args, **kwargs)
S3FileSystem._call_s3 = _counted
from test_kills_on_object_storage import WRITERS
WRITERS[{name!r}].write({address!r})
"""


@dataclass(frozen=True)
class Remote:
    """A writer, and what is at its address before."""

    write: Callable[[str], object]
    read: Callable[[str], Reading]
    prepare: Callable[[str], object] = lambda address: None
    replaces: bool = False


def write_scene(address: str) -> None:
    # Two shards of images and of labels, at the edge.
    gb.write_cube(make_scene(32, 300, months=(7, 8)), address)


def write_chips(address: str) -> None:
    gb.write_cube(make_chips(5).isel(chip=[0, 1, 2]), address)


def append(address: str) -> None:
    gb.write_cube(make_chips(5).isel(chip=[3, 4]), address, append=True)


def write_map(address: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        map_work.write(address, map_work.Work(Path(folder) / "log"))


def is_sealed(address: str) -> bool:
    """Return whether all files agree with checksums, which an append removes first."""
    try:
        return bool(verify(address).empty)
    except gb.CubeError:
        return False


def read_cube(address: str) -> Reading:
    cube = gb.open_cube(address)
    reading = kept.of_dataset(cube.load()) | kept.of_table(gb.band_statistics(cube))
    return reading | {"sealed": is_sealed(address)}


def read_map(address: str) -> Reading:
    with open_map(address) as layers:
        reading = kept.of_dataset(layers.load())
    return reading | {"sealed": is_sealed(address)}


WRITERS = {
    "write_cube": Remote(write_scene, read_cube),
    "append": Remote(append, read_cube, write_chips, replaces=True),
    "map": Remote(write_map, read_map),
}
KILLS = 2
IMPORTED = ("geobiomass.cube", "geobiomass.maps", "s3fs", "conftest", "map_work")


@pytest.fixture(scope="module")
def warm(s3: str) -> Iterator[NewProcesses]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3)  # for processes too, which it starts
        # Neither has torch: maps are of numbers.
        with NewProcesses(*IMPORTED) as processes:
            yield processes


@pytest.fixture
def bucket(s3: str, warm: NewProcesses) -> Any:
    return fsspec.filesystem("s3", endpoint_url=s3)


def script(
    name: str, address: str, log: Path, number: int = 0, delay: float = 0
) -> str:
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
    facts = {"name": name, "address": address, "log": str(log)}
    return _SCRIPT.format(paths=paths, number=number, delay=delay, **facts)


def chosen(requests: list[str]) -> list[int]:
    """Return numbers of requests: the first and last of some kinds of objects.

    Not the first request of all, before which nothing is there.
    """
    kinds: dict[str, list[int]] = {}
    for number, request in enumerate(requests, 1):
        kinds.setdefault(re.sub(r"\d+(/\d+)*", "0", request), []).append(number)
    ends = sorted({n for numbers in kinds.values() for n in (numbers[0], numbers[-1])})
    return [ends[k * (len(ends) - 1) // KILLS] for k in range(1, KILLS + 1)]


def found_at(writer: Remote, address: str) -> Reading | None:
    """Return what is read, None where the package says that nothing whole is there."""
    found, _, error = observed(lambda: writer.read(address))
    assert error is None or is_clear(error, [address]), error
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WRITERS)
def test_killed_at_a_request_it_goes_on_with_the_same_bits(
    name: str, tmp_path: Path, bucket: Any, warm: NewProcesses
) -> None:
    writer = WRITERS[name]
    whole = f"s3://cubes/whole_{name}.zarr"
    writer.prepare(whole)
    old = writer.read(whole) if writer.replaces else None
    log = tmp_path / "requests"
    done = warm(script(name, whole, log))
    assert done.returncode == 0, done.stderr[-3000:]
    expected = writer.read(whole)
    names = objects(bucket, whole)
    requests = log.read_text().splitlines()
    for number in chosen(requests):
        address = f"s3://cubes/killed_{name}_{number}.zarr"
        writer.prepare(address)
        killed = warm(script(name, address, tmp_path / "log", number))
        assert killed.returncode == -signal.SIGKILL, (number, killed.stderr[-2000:])
        between = found_at(writer, address)
        assert between is not None or not writer.replaces
        if between is not None:
            # Until an append ends, there are no checksums, or not of its files.
            one = between | {"sealed": True}
            assert not (differing(one, expected) and differing(one, old or {}))
        writer.write(address)  # at once: the process that held the lease is known dead
        assert not differing(writer.read(address), expected), requests[number - 1]
        assert objects(bucket, address) == names, requests[number - 1]


def objects(bucket: Any, address: str) -> list[str]:
    bucket.invalidate_cache()
    place = address.removeprefix("s3://")
    return sorted(key.removeprefix(place) for key in bucket.find(place))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["write_cube", "map"])
def test_a_lease_of_a_dead_machine_ends_and_a_second_writer_is_refused(
    name: str, tmp_path: Path, bucket: Any, warm: NewProcesses
) -> None:
    writer, address = WRITERS[name], f"s3://cubes/lease_{name}.zarr"
    lease = f"{address.removeprefix('s3://')}/written/writer.json"
    killed = warm(script(name, address, tmp_path / "log", number=8))
    assert killed.returncode == -signal.SIGKILL
    holder = json.loads(bucket.cat(lease)) | {"host": "elsewhere"}

    def left(seconds: float) -> None:
        at = {"time": time.time() - FRESH + seconds}
        bucket.pipe_file(lease, json.dumps(holder | at).encode())

    left(30)
    with pytest.raises(InUseError, match=f"{address} .* process .* on elsewhere"):
        writer.write(address)
    left(-1)
    writer.write(address)
    expected = writer.read(address)
    # A living one, slowed down: the second is refused, and the first not disturbed.
    both = f"s3://cubes/both_{name}.zarr"
    slow = partial(warm, script(name, both, tmp_path / "slow", delay=0.2))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow)
        key, end = lease.replace("lease_", "both_"), time.monotonic() + 60
        while time.monotonic() < end and not bucket.exists(key):
            bucket.invalidate_cache()
            time.sleep(0.1)
        with pytest.raises(InUseError, match=f"{both} is being written by process"):
            writer.write(both)
        assert first.result().returncode == 0
    assert not differing(writer.read(both), expected)
