"""Writes that are killed, that meet a full disk, or another writer."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kill_points
import numpy as np
import pytest
import xarray as xr
import zarr
from new_process import NewProcesses
from small_cubes import make_chips, make_scene
from variants import variants

import geobiomass as gb
from geobiomass.cube.store import open_group
from geobiomass.training.one_writer import InUseError, lock_path, one_writer

HEAD = """
import sys
sys.path[:0] = ["tests/faults"]
import zarr
zarr.config.set({{"codec_pipeline.path": {pipeline!r}}})
from unittest import mock
if {pipeline!r}.startswith("zarr."):
    import importlib.util
    found = importlib.util.find_spec
    mock.patch("importlib.util.find_spec",
               lambda name, *more: None if name == "zarrs" else found(name, *more)
               ).start()
import geobiomass as gb
from small_cubes import make_chips, make_scene
"""
ZARR = "zarr.core.codec_pipeline.BatchedCodecPipeline"
ZARRS = "zarrs.ZarrsCodecPipeline"
PIPELINES = [ZARR, ZARRS]


def facts_of(path: Path) -> tuple[Any, ...]:
    """Return all that must be the same: values, statistics, attributes, file names."""
    cube = gb.open_cube(path)
    group = zarr.open_group(path, mode="r")
    tally: Any = open_group(path, "r")["statistics"].attrs.asdict()
    names = {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()}
    table = gb.band_statistics(cube).to_csv()
    return cube.load(), table, group.attrs.asdict(), tally, names


def check_same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    xr.testing.assert_identical(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]


@pytest.fixture(scope="module")
def warm() -> Iterator[NewProcesses]:
    with NewProcesses("geobiomass.cube", "dask.array", "zarr") as run:
        yield run


class Write:
    """A call of write_cube in a place of its own, that can be killed and repeated."""

    def __init__(self, folder: Path, call: str, pipeline: str, run: Any) -> None:
        self.place, self.run = folder / "place", run
        self.path = self.place / "c.zarr"
        call = call.format(path=str(self.path))
        self.script = HEAD.format(pipeline=pipeline) + textwrap.dedent(call)
        self.before: Path | None = None

    def begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if self.before is not None:
            shutil.copytree(self.before, self.path)

    def again(self) -> None:
        done = self.run(self.script)
        assert done.returncode == 0, done.stderr[-2000:]

    def facts(self) -> tuple[Any, ...]:
        assert [path.name for path in self.place.iterdir()] == ["c.zarr"]
        return facts_of(self.path)


SCENE = "gb.write_cube(make_scene(70, 300, months=(1, 7)), {path!r}, workers=1)"
CHIPS = "chips = make_chips(4, 16).isel(chip=slice(2, 4))\n"
APPEND = CHIPS + "gb.write_cube(chips, {path!r}, append=True, workers=1)"


@pytest.fixture
def appending(tmp_path: Path, warm: Any) -> Write:
    write = Write(tmp_path, APPEND, ZARR, warm)
    write.before = tmp_path / "before.zarr"
    gb.write_cube(make_chips(4, 16).isel(chip=slice(0, 2)), write.before)
    return write


def test_an_append_killed_at_its_end_counts_no_chip_twice(appending: Write) -> None:
    appending.begin()
    changes = kill_points.operations_of(
        appending.script, appending.place, appending.run
    )
    meant = appending.facts()
    # The root, which shows the new chips, and the statistics' attributes after it.
    named = [
        number
        for number, (kind, path) in enumerate(changes, 1)
        if kind == "os.rename" and path.parent.name in ("statistics", "c.zarr")
    ]
    for number in (named[-2], named[-1]):
        appending.begin()
        assert kill_points.kill_at(
            appending.script, number, appending.place, appending.run
        )
        appending.again()
        check_same(appending.facts(), meant)
    state = (appending.path / "zarr.json").stat()
    appending.again()  # a finished call is recognised, and changes nothing
    assert (appending.path / "zarr.json").stat() == state
    check_same(appending.facts(), meant)
    other = make_chips(4, 16, seed=5).isel(chip=slice(2, 4))
    with pytest.raises(gb.CubeError, match="2 of the chips to append are in"):
        gb.write_cube(other, appending.path, append=True)


@variants("pipeline", PIPELINES, quick=1)
def test_a_shard_that_is_half_written_is_written_again(
    tmp_path: Path, pipeline: str, warm: Any
) -> None:
    if pipeline == ZARRS:
        pytest.importorskip("zarrs")
    write = Write(tmp_path, SCENE, pipeline, warm)
    write.begin()
    write.again()
    meant = write.facts()
    write.begin()
    # The edge of a scene: codecs read such a shard before they write to it.
    assert kill_points.kill_at_size(write.script, 20_000, warm)
    shards = [p for p in (write.path / "image").rglob("c/*/*/*/*") if p.is_file()]
    half = [
        p for p in write.path.rglob("*") if p.is_file() and p.stat().st_size == 20_000
    ]
    assert half
    if pipeline == ZARRS:
        assert half[0] in shards
    write.again()
    check_same(write.facts(), meant)


def test_a_full_disk_is_told_and_the_call_goes_on(tmp_path: Path, warm: Any) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = place / "c.zarr"
    script = HEAD.format(pipeline=ZARR) + SCENE.format(path=str(path))
    for code, words in (
        (errno.ENOSPC, "its disk is full; make room, and make the same call again"),
        (errno.EROFS, "its disk can only be read"),
    ):
        done = kill_points.fail_at(script, 30, place, code, warm)
        said = done.stderr.strip().splitlines()[-1]
        assert said.startswith("geobiomass.training.disk_errors.DiskError: "), said
        assert f"{path} cannot be written: {words}" in said
    assert warm(script).returncode == 0
    scene = make_scene(70, 300, months=(1, 7))
    gb.write_cube(scene, tmp_path / "at_once.zarr")
    check_same(facts_of(path), facts_of(tmp_path / "at_once.zarr"))


def test_a_finished_call_is_recognised_and_another_is_refused(tmp_path: Path) -> None:
    path, read = tmp_path / "c.zarr", []

    def counted(block: Any) -> Any:
        read.append(block.shape)
        return block

    scene = make_scene(60, 300, months=(1, 7)).chunk(y=60, x=256)
    lazy = scene["image"].data.map_blocks(counted, dtype="f4", meta=np.empty(0, "f4"))
    scene = scene.assign(image=scene["image"].copy(data=lazy))
    gb.write_cube(scene, path)
    before, count = (path / "zarr.json").stat(), len(read)
    gb.write_cube(scene, path)
    assert len(read) == count  # no work
    gb.write_cube(make_scene(60, 300, months=(1, 7)), path)  # from elsewhere, the same
    assert (path / "zarr.json").stat() == before
    with pytest.raises(FileExistsError, match="would write something else"):
        gb.write_cube(scene.assign(image=scene["image"] + 1), path)
    regions = ("y", "x"), np.ones((60, 300), np.int16)
    with pytest.raises(FileExistsError, match="would write something else"):
        gb.write_cube(scene.assign_coords(region=regions), path)


def test_of_two_writers_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    holder = f"""
    from geobiomass.training.one_writer import one_writer
    from pathlib import Path
    with one_writer(Path({str(path)!r})):
        print("held", flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(holder)],
        cwd=kill_points.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        for options in ({}, {"overwrite": True}):
            with pytest.raises(InUseError, match=f"by process {process.pid} on "):
                gb.write_cube(make_chips(2, 16), path, **options)
        process.kill()
    assert not path.exists()
    gb.write_cube(make_chips(2, 16), path)
    (tmp_path / "link.zarr").symlink_to(path)
    with one_writer(path), pytest.raises(InUseError, match="being written by process"):
        gb.write_cube(make_chips(3, 16), tmp_path / "link.zarr", append=True)
    assert not lock_path(path).exists()


def test_only_what_the_package_made_is_deleted(tmp_path: Path) -> None:
    chips = make_chips(2, 16)
    documents = tmp_path / "documents.zarr"
    documents.mkdir()
    (documents / "thesis.docx").write_text("years of work")
    other = tmp_path / "other.zarr"
    xr.Dataset({"rain": ("x", np.arange(3.0))}).to_zarr(other, consolidated=False)
    mixed = tmp_path / "mixed.zarr"
    gb.write_cube(chips, mixed)
    (mixed / "notes").mkdir()
    (mixed / "notes" / "field.csv").write_text("1")
    for path, found in (
        (documents, "thesis.docx"),
        (other, "other software"),
        (mixed, "notes/field.csv"),
    ):
        before = sorted(map(str, path.rglob("*")))
        with pytest.raises(FileExistsError, match=f"{found}.*did not make"):
            gb.write_cube(chips, path, overwrite=True)
        assert sorted(map(str, path.rglob("*"))) == before
    shutil.rmtree(mixed / "notes")
    gb.write_cube(chips.isel(chip=[0]), mixed, overwrite=True)
    assert gb.open_cube(mixed).sizes["chip"] == 1
    making = tmp_path / "new.zarr.making"
    making.mkdir()
    (making / "thesis.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds thesis\.docx"):
        gb.write_cube(chips, tmp_path / "new.zarr")
    assert (making / "thesis.docx").exists()


# --- every change to a file ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("call", "pipeline"), [("scene", ZARR), ("append", ZARRS)])
def test_killed_before_any_change_it_ends_with_the_same_bits(
    tmp_path: Path, call: str, pipeline: str, warm: Any
) -> None:
    if pipeline == ZARRS:
        pytest.importorskip("zarrs")
    write = Write(tmp_path, SCENE if call == "scene" else APPEND, pipeline, warm)
    if call == "append":
        write.before = tmp_path / "before.zarr"
        gb.write_cube(make_chips(4, 16).isel(chip=slice(0, 2)), write.before)
    write.begin()
    changes = kill_points.operations_of(write.script, write.place, warm)
    meant = write.facts()
    draw = np.random.default_rng(len(changes))
    early = draw.choice(np.arange(1, len(changes) - 39), 3, replace=False)
    for number in [*sorted(early.tolist()), *range(len(changes) - 39, len(changes), 5)]:
        write.begin()
        if not kill_points.kill_at(write.script, number, write.place, warm):
            continue
        write.again()
        write.again()
        check_same(write.facts(), meant)
