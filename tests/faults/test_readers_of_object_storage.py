"""Readers of a local S3 server beside a writer: old or new, and few requests."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pytest
from small_cubes import make_chips
from zarr.storage import FsspecStore

from geobiomass import cube, describe
from geobiomass.cube import one_state, store_objects
from geobiomass.cube.schema import ChangedError
from geobiomass.maps.reading import open_map

changes: list[tuple[float, str]] = []
"""When objects were written and deleted, and which."""


@pytest.fixture
def mine(s3: str) -> dict[str, Any]:
    return {"endpoint_url": s3}


@pytest.fixture
def theirs(s3: str) -> dict[str, Any]:
    # Another instance of s3fs, with listings of its own, as another process has.
    return {"endpoint_url": s3, "default_fill_cache": False}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """Return what counts the requests since its last call, by array or ROOT."""
    from s3fs.core import S3FileSystem

    seen: list[str] = []
    call = S3FileSystem._call_s3
    changes.clear()

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        key = str(kwargs.get("Key", kwargs.get("Prefix"))).split(".zarr/")[-1]
        if method in ("put_object", "delete_object", "delete_objects"):
            changes.append((time.monotonic(), f"{method} {key}"))
        seen.append(key.split("/c/")[0] if method == "get_object" else method)
        return await call(self, method, *args, **kwargs)

    def counts() -> Counter[str]:
        found = Counter(seen)
        seen.clear()
        return found

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    return counts


@pytest.mark.slow
def test_chips_that_another_process_appended_are_read_whatever_was_listed(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    address, chips = "s3://cubes/listed.zarr", make_chips(5, 16)
    names = [str(name) for name in chips["chip"].values]
    cube.write_cube(chips.isel(chip=[0, 1, 2]), address, storage_options=mine)
    lazy = cube.open_cube(address, storage_options=mine)
    own = FsspecStore.from_url(address, storage_options=mine)
    for folder in ("", "/chip/c", "/image/c", "/statistics/present/c/0/0"):
        assert cube.store_objects.synchronise(own.fs._ls(own.path + folder))
    cube.write_cube(
        chips.isel(chip=[3, 4]), address, append=True, storage_options=theirs
    )
    there = cube.open_cube(address, storage_options=theirs)
    for place, options in ((address, mine), (own, None)):
        found = cube.open_cube(place, storage_options=options)
        assert found["chip"].values.tolist() == names
        np.testing.assert_array_equal(found["image"].values, there["image"].values)
        assert np.isfinite(found["image"].isel(chip=4).values).any()
        assert cube.verify(place, storage_options=options).empty
    assert lazy["chip"].values.tolist() == names[:3]
    np.testing.assert_array_equal(lazy["image"].values, there["image"][:3].values)


@pytest.mark.slow
def test_a_read_adds_no_request_and_what_is_replaced_is_never_read(
    mine: dict[str, Any],
    theirs: dict[str, Any],
    requests: Callable[[], Counter[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, chips = "s3://cubes/replaced.zarr", make_chips(3, 16)
    cube.write_cube(chips, address, storage_options=mine)
    requests()
    lazy = cube.open_cube(address, storage_options=mine)
    opening = requests()
    assert not {"head_object", "list_objects_v2"} & opening.keys(), opening
    sent = pickle.dumps(lazy)

    def read(chip: int, of: Any = lazy) -> Any:
        return of["image"].isel(chip=chip).values

    old = [read(chip) for chip in range(3)]
    requests()
    with monkeypatch.context() as patch:
        patch.setattr(one_state, "LOOK", 1000)
        read(0)
        pixels = requests()
        assert set(pixels) == {"image"}
        assert pixels["image"] <= 2  # the shard's index, and its one chunk
        elsewhere = pickle.loads(sent)
        read(0, elsewhere)  # on another machine: it looks, once
        assert requests()["zarr.json"] == 1
        read(0, elsewhere)
        assert requests() == pixels
        patch.setattr(one_state, "LOOK", 0)
        read(0)
        assert requests() == pixels + Counter({"zarr.json": 1})
    changes.clear()
    assert store_objects.PAUSE >= 2 * one_state.LOOK
    replace = ThreadPoolExecutor(1).submit(
        cube.write_cube, chips * 2, address, overwrite=True, storage_options=theirs
    )
    right = 0

    def read_on() -> None:
        nonlocal right
        while not replace.done():
            np.testing.assert_array_equal(read(right % 3), old[right % 3])
            right += 1

    with pytest.raises(ChangedError, match="is being written again by process"):
        read_on()
    assert right > 3
    replace.result()
    # Longer than a reader goes without a look, nothing is deleted below a new root.
    first = next(at for at, what in changes if what == "put_object zarr.json")
    deleted = next(
        at
        for at, what in changes
        if what.startswith("delete_object") and "written" not in what and at > first
    )
    assert deleted - first >= store_objects.PAUSE
    for one in (lazy, pickle.loads(sent)):
        with pytest.raises(ChangedError, match="was written again since it was opened"):
            read(1, one)
    now = cube.open_cube(address, storage_options=mine)
    there = np.isfinite(old[1])
    np.testing.assert_allclose(read(1, now)[there], 2 * old[1][there], atol=2)


def test_nothing_at_an_address_is_one_sentence(
    s3: str, mine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    for address in ("s3://cubes/nothing.zarr", "s3://no-bucket/nothing.zarr"):
        for read in (open_map, cube.open_cube, describe, cube.verify, cube.seal):
            with pytest.raises(FileNotFoundError) as caught:
                read(address)
            said = str(caught.value)
            expected = f"There is nothing at {address}; give the address of a "
            assert said.startswith(expected), said
    # What is there and is no cube is not said to be nothing.
    fsspec.filesystem("s3", **mine).pipe_file("cubes/other.zarr/notes.txt", b"notes")
    for read in (open_map, cube.open_cube):
        with pytest.raises(cube.CubeError, match=r"^s3://cubes/other.zarr is "):
            read("s3://cubes/other.zarr")
