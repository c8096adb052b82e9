"""Writing cubes: continued after any interruption, appended to, on any storage."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from variants import variants

import geobiomass as gb
from geobiomass.cube.encoding import band_quantum
from geobiomass.cube.store import availability

ROOT = Path(__file__).parent.parent


def same_store(ours: Path, theirs: Path) -> None:
    """Compare two cubes: the same files, and in every array the same codes."""
    names = [
        {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}
        for root in (ours, theirs)
    ]
    assert names[0] == names[1]
    groups = [zarr.open_group(root, mode="r") for root in (ours, theirs)]
    assert groups[0].attrs.asdict() == groups[1].attrs.asdict()
    for name in sorted(
        n.removesuffix("/zarr.json") for n in names[0] if "/c/" not in n
    ):
        arrays = [group.get(name) for group in groups]
        if isinstance(arrays[0], zarr.Array):
            np.testing.assert_array_equal(arrays[0][...], arrays[1][...])  # type: ignore[index]


class Interrupt(Exception):
    """Stands for a power cut."""


def failing(cube: xr.Dataset, limit: int | None) -> tuple[xr.Dataset, list[int]]:
    """The same cube, lazily; counts the blocks computed and fails after `limit`."""
    calls: list[int] = []

    def pass_on(block: np.ndarray) -> np.ndarray:
        calls.append(1)
        if limit is not None and len(calls) > limit:
            raise Interrupt
        return block

    chunks = {"chip": 1} if "chip" in cube.dims else {"y": 256, "x": 256}
    lazy = cube["image"].chunk(chunks).data
    lazy = lazy.map_blocks(pass_on, dtype=lazy.dtype, meta=lazy._meta)
    return cube.assign(image=cube["image"].copy(data=lazy)), calls


@given(
    count=st.integers(1, 4),
    stops=st.lists(st.integers(0, 2), max_size=3),
    dtype=st.sampled_from(["int16", "int32", "float32"]),
)
@pytest.mark.slow
def test_interrupted_again_and_again_it_is_the_same_cube(
    tmp_path_factory: pytest.TempPathFactory, count: int, stops: list[int], dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("w")
    chips = make_chips(count, 16)
    done = 0
    for stop in stops:
        if done + stop >= count:
            break
        broken, _ = failing(chips, stop)
        with pytest.raises(Interrupt):
            gb.write_cube(broken, folder / "c.zarr", dtype, workers=1)
        done += stop
        with pytest.raises(gb.CubeError, match="was not finished"):
            gb.open_cube(folder / "c.zarr")
    whole, calls = failing(chips, None)
    gb.write_cube(whole, folder / "c.zarr", dtype, workers=1)
    assert len(calls) == count - done  # nothing twice
    gb.write_cube(chips, folder / "at_once.zarr", dtype, workers=3)
    same_store(folder / "c.zarr", folder / "at_once.zarr")
    tables = [
        gb.band_statistics(gb.open_cube(folder / name))
        for name in ("c.zarr", "at_once.zarr")
    ]
    assert tables[0].equals(tables[1])


def test_a_scene_goes_on_as_well(tmp_path: Path) -> None:
    scene = make_scene(300, 600, months=(7,))
    broken, _ = failing(scene, 4)
    with pytest.raises(Interrupt):
        gb.write_cube(broken, tmp_path / "c.zarr", workers=1)
    with pytest.raises(gb.CubeError, match="first part of another cube"):
        gb.write_cube(scene.isel(x=slice(0, 500)), tmp_path / "c.zarr")
    whole, calls = failing(scene, None)
    gb.write_cube(whole, tmp_path / "c.zarr", workers=1)
    assert len(calls) == 2
    gb.write_cube(scene, tmp_path / "at_once.zarr")
    same_store(tmp_path / "c.zarr", tmp_path / "at_once.zarr")
    known = availability(tmp_path / "c.zarr")
    assert known is not None
    assert known.dims == ("row", "column", "month", "band")
    assert int(known.sum()) == int(scene["image"].notnull().sum())


@pytest.mark.slow
def test_killed_while_writing_it_goes_on(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        sys.path.insert(0, "tests")
        import geobiomass as gb
        from conftest import make_chips
        chips = make_chips(40, 64)
        slow = chips["image"].chunk(chip=1)
        slow = slow.copy(data=slow.data.map_blocks(
            lambda block: (time.sleep(0.05), block)[1], dtype="f4"))
        print("started", flush=True)
        gb.write_cube(chips.assign(image=slow), sys.argv[1])
        print("finished", flush=True)
        """
    )
    path = tmp_path / "c.zarr"
    draw = np.random.default_rng(0)
    kills = 0
    while kills < 4:
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            time.sleep(draw.uniform(0.1, 0.9))
            process.send_signal(signal.SIGKILL)
            finished = process.stdout.read() == b"finished\n"
        if finished:
            break
        kills += 1
        if path.exists():
            with pytest.raises(gb.CubeError, match=r"not finished|not a Zarr group"):
                gb.open_cube(path)
    assert kills >= 2
    gb.write_cube(make_chips(40, 64), tmp_path / "at_once.zarr")
    if not finished:
        gb.write_cube(make_chips(40, 64), path)
    same_store(path, tmp_path / "at_once.zarr")


# --- more chips -----------------------------------------------------------------


def grouped(chips: xr.Dataset) -> xr.Dataset:
    count = chips.sizes["chip"]
    dates = np.datetime64("2021-03-01") + np.arange(count) * np.timedelta64(7, "D")
    return chips.assign_coords(
        region=("chip", np.array([f"region {i}" for i in range(count)], object)),
        flight=("chip", [f"flight {i}" for i in range(count)]),  # of fixed width
        flown=("chip", dates.astype("datetime64[ns]")),
        height=("chip", np.linspace(0, 1, count)),
    )


@variants("dtype", ["int16", "int32", "float32"], quick=1)
def test_appended_chips_make_the_cube_that_was_meant(
    tmp_path: Path, dtype: str
) -> None:
    chips = grouped(make_chips(9, 40))
    gb.write_cube(chips.isel(chip=slice(0, 4)), tmp_path / "c.zarr", dtype)
    gb.write_cube(chips.isel(chip=slice(4, 5)), tmp_path / "c.zarr", append=True)
    # Bands in another order and one that is not wanted.
    more = chips.isel(chip=slice(5, 9), band=[2, 0, 1])
    extra = more.isel(band=[0]).assign_coords(band=["CLP"])
    more = xr.concat([more, extra], "band", data_vars="minimal")
    gb.write_cube(more, tmp_path / "c.zarr", append=True)
    gb.write_cube(chips, tmp_path / "at_once.zarr", dtype)
    ours, theirs = (gb.open_cube(tmp_path / n) for n in ("c.zarr", "at_once.zarr"))
    xr.testing.assert_identical(ours.load(), theirs.load())
    assert gb.band_statistics(ours).equals(gb.band_statistics(theirs))
    known, meant = (availability(tmp_path / n) for n in ("c.zarr", "at_once.zarr"))
    xr.testing.assert_identical(known, meant)
    plain = xr.open_zarr(tmp_path / "c.zarr")
    assert plain.sizes["chip"] == 9


def test_until_all_is_appended_the_cube_is_what_it_was(tmp_path: Path) -> None:
    path, chips = tmp_path / "c.zarr", make_chips(9, 40)
    gb.write_cube(chips.isel(chip=slice(0, 4)), path)
    before = gb.open_cube(path).load()
    broken, _ = failing(chips.isel(chip=slice(4, 9)), 2)
    with pytest.raises(Interrupt):
        gb.write_cube(broken, path, append=True, workers=1)
    xr.testing.assert_identical(gb.open_cube(path).load(), before)
    whole, calls = failing(chips.isel(chip=slice(4, 9)), None)
    gb.write_cube(whole, path, append=True, workers=1)
    assert len(calls) == 3
    gb.write_cube(chips, tmp_path / "at_once.zarr")
    xr.testing.assert_identical(
        gb.open_cube(path).load(), gb.open_cube(tmp_path / "at_once.zarr").load()
    )


def test_another_append_after_an_interrupted_one_leaves_no_trace(
    tmp_path: Path,
) -> None:
    path, chips = tmp_path / "c.zarr", make_chips(9, 40)
    gb.write_cube(chips.isel(chip=slice(0, 4)), path)
    broken, _ = failing(chips.isel(chip=slice(4, 9)), 3)
    with pytest.raises(Interrupt):
        gb.write_cube(broken, path, append=True, workers=1)
    empty = chips.isel(chip=[7, 8]).copy(deep=True)
    empty["image"][:] = np.nan
    gb.write_cube(empty, path, append=True)
    found = gb.open_cube(path)
    assert found["chip"].values.tolist() == [
        *chips["chip"].values[:4],
        "chip007",
        "chip008",
    ]
    assert found["image"][4:].isnull().all()


def test_chips_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, chips = tmp_path / "c.zarr", grouped(make_chips(6, 32))
    gb.write_cube(chips.isel(chip=slice(0, 4)), path)
    more = chips.isel(chip=slice(4, 6))
    renamed = more.assign_coords(month=[6, 7, 9])
    for cube, said in (
        (chips, r"4 of the chips to append are in .* such as \['chip000'"),
        (more.sel(band=["B04"]), r"Bands \['VV_asc', 'B08'\] are needed"),
        (renamed, r"must have its months, \[6, 7, 8\], got \[6, 7, 9\]"),
        (more.isel(x=slice(0, 9)), r"must have its pixels, \(32, 32\), got \(32, 9\)"),
        (more.drop_vars("agb"), "must have its variables"),
        (more.drop_vars("region"), "must have its variables"),
        (make_scene(), "append needs chips"),
    ):
        with pytest.raises(gb.CubeError, match=said):
            gb.write_cube(cube, path, append=True)
    assert gb.open_cube(path).sizes["chip"] == 4
    with pytest.raises(FileNotFoundError):
        gb.write_cube(more, tmp_path / "absent.zarr", append=True)


def test_clipped_values_are_told_by_band(tmp_path: Path) -> None:
    scene = make_scene()
    scene["image"][0, 1, 0, :3] = [40_000, -50_000, 32_767]
    scene["image"][2, 0, 5, 5] = 400
    with pytest.warns(
        UserWarning, match=r"3 values of bands \['B04', 'VV_asc'\].*50000"
    ):
        gb.write_cube(scene, tmp_path / "c.zarr")
    back = gb.open_cube(tmp_path / "c.zarr")["image"]
    assert back[0, 1, 0, :3].values.tolist() == [32_767, -32_767, 32_767]
    assert float(back[2, 0, 5, 5]) == pytest.approx(327.67)
    assert band_quantum("B04") == 1


# --- storage of other kinds -----------------------------------------------------


@pytest.mark.slow
def test_cubes_on_object_storage(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geobiomass.data.reader import Reader, Sample
    from geobiomass.info import describe

    options = {"endpoint_url": s3}
    address = "s3://cubes/chips.zarr"
    chips = make_chips(6, 40)
    broken, _ = failing(chips.isel(chip=slice(0, 4)), 2)
    with pytest.raises(Interrupt):
        gb.write_cube(broken, address, workers=1, storage_options=options)
    with pytest.raises(gb.CubeError, match="was not finished"):
        gb.open_cube(address, storage_options=options)
    whole, calls = failing(chips.isel(chip=slice(0, 4)), None)
    gb.write_cube(whole, address, storage_options=options)
    assert len(calls) == 2
    with pytest.raises(FileExistsError):
        gb.write_cube(chips, address, storage_options=options)
    more = chips.isel(chip=slice(4, 6))
    gb.write_cube(more, address, append=True, storage_options=options)
    gb.write_cube(chips, tmp_path / "c.zarr")
    there = gb.open_cube(address, storage_options=options)
    here = gb.open_cube(tmp_path / "c.zarr")
    place = Sample(Reader(here, ("B04",)).whole, 5)
    for cube in (here, there):
        assert Reader(cube, ("B04",)).cells([place])[1] == np.int16
    np.testing.assert_array_equal(
        Reader(here, ("B04",)).read(place), Reader(there, ("B04",)).read(place)
    )
    xr.testing.assert_identical(here.load(), there.load())
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    facts = describe(address)
    assert facts["size"] == "6 chips of 40 x 40 pixels"
    assert "kB on disk" in facts["stored as"]
    assert "VV_asc" in facts["value ranges"]


@pytest.mark.slow
def test_cubes_in_a_store_of_obstore(s3: str) -> None:
    from obstore.store import S3Store

    bucket = S3Store(
        "cubes",
        prefix="obstore.zarr",
        endpoint=s3,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    store = zarr.storage.ObjectStore(bucket)
    chips = make_chips(3, 40)
    gb.write_cube(chips, store)
    gb.write_cube(chips.assign_coords(chip=list("abc")), store, append=True)
    back = gb.open_cube(store)
    assert back.sizes["chip"] == 6
    np.testing.assert_allclose(back["image"][3:], chips["image"], atol=0.0051)
    gb.write_cube(chips, store, overwrite=True)
    assert gb.open_cube(store).sizes["chip"] == 3
