"""A reader beside a writer: the old state, the new one, or a sentence; never half."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import kept
import numpy as np
import pytest
import small_cubes
from kill_points import steps_of
from outcomes import Reading, differing, is_clear, observed
from variants import variants
from zarr.storage import MemoryStore

import geobiomass.cube as cube
from geobiomass.cube.summary import describe_cube

# --- a writer that waits while the reader looks ---------------------------------------

BEFORE = {
    "append": small_cubes.make_chips(5, 16).isel(chip=[0, 1, 2]),
    "overwrite": small_cubes.make_scene(16, 20, (7, 8)),
    "new": None,
}
AFTER = {
    "append": "small_cubes.make_chips(5, 16).isel(chip=[3, 4])",
    "overwrite": "small_cubes.make_scene(16, 20, (5, 6)) / 2",
    "new": "small_cubes.make_scene(16, 20, (5, 6)) / 2",
}
OPTIONS = {"append": "append=True", "overwrite": "overwrite=True", "new": ""}

SCRIPT = """
import importlib.util as util
find = util.find_spec
if {pipeline!r} == "zarr-python":
    util.find_spec = lambda name, *more: None if name == "zarrs" else find(name, *more)
import geobiomass.cube, small_cubes
geobiomass.cube.write_cube({new}, {path!r}, {options})
"""


class Story:
    """A cube before and after a call, and the script of the call.

    Parameters
    ----------
    what : str
        "append", "overwrite" or "new".
    folder : Path
        An empty folder.
    pipeline : str
        The codec pipeline of the writer.
    """

    def __init__(self, what: str, folder: Path, pipeline: str = "zarrs") -> None:
        self.what, self.folder = what, folder / "place"
        self.path = self.folder / "cube.zarr"
        self.folder.mkdir()
        self.old = None
        if BEFORE[what] is not None:
            cube.write_cube(BEFORE[what], self.path)
            self.old = kept.read_cube(self.path)
        begun = folder / "expected"
        shutil.copytree(self.folder, begun)
        facts = {"new": AFTER[what], "options": OPTIONS[what], "pipeline": pipeline}
        self.script = SCRIPT.format(path=str(self.path), **facts)
        cube.write_cube(
            eval(AFTER[what]),
            begun / "cube.zarr",
            append=what == "append",
            overwrite=what == "overwrite",
        )
        self.new = kept.read_cube(begun / "cube.zarr")

    def judge(self, found: Reading | None, error: Exception | None) -> str:
        """Return what a reader met: old, new, or told; anything else fails."""
        if error is not None:
            # Something is there all the time; it may be replaced between opening and
            # reading.
            replaced = "was written again since it was opened" in str(error)
            allowed = {"append": False, "overwrite": replaced, "new": not replaced}
            assert allowed[self.what], repr(error)
            assert is_clear(error, [str(self.path)]), repr(error)
            return "told"
        assert found is not None
        # It is read by a second call, which may see what is newer by then.
        counts = {"availability": found.pop("availability")}
        states = [self._state_of(part) for part in (found, counts)]
        assert states in (["old", "old"], ["old", "new"], ["new", "new"]), states
        return states[0]

    def _state_of(self, part: Reading) -> str:
        same = [
            name
            for name, whole in (("old", self.old), ("new", self.new))
            if whole is not None and all(whole[key] == part[key] for key in part)
        ]
        # Of a part that the writer does not change, the new one.
        return same[-1] if same else f"neither: {sorted(part)}"

    def end(self) -> None:
        """Check that the writer has written all, and left nothing else."""
        assert not differing(kept.read_cube(self.path), self.new)
        assert [path.name for path in self.folder.iterdir()] == ["cube.zarr"]


class Beside:
    """Lets a writer take steps while this process opens files.

    Parameters
    ----------
    steps : iterator
        Of :func:`kill_points.steps_of`.
    folder : Path
        Only files in it count.
    every : int
        The writer takes a step at every so many-th file that is opened.
    """

    now: Beside | None = None

    def __init__(self, steps: Iterator[Any], folder: Path, every: int) -> None:
        self.steps, self.folder, self.every = steps, str(folder), every
        self.lock = threading.Lock()
        self.opened, self.ended = 0, False

    def note(self, place: Any) -> None:
        if isinstance(place, str | os.PathLike) and str(place).startswith(self.folder):
            with self.lock:
                self.opened += 1
                if self.opened % self.every == 0:
                    self.ended = self.ended or next(self.steps, None) is None

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.now is not None and event == "open":
            cls.now.note(arguments[0])


sys.addaudithook(Beside.hook)  # which stays; it does nothing outside `beside`


@contextmanager
def beside(steps: Iterator[Any], folder: Path, every: int) -> Iterator[Beside]:
    Beside.now = Beside(steps, folder, every)
    try:
        yield Beside.now
    finally:
        Beside.now = None


def interleaved(story: Story, every: int, read: Callable[[Path], Reading]) -> list[str]:
    """Read again and again until the writer has ended; return what was met."""
    met: list[str] = []
    with beside(steps_of(story.script, story.folder), story.folder, every) as one:
        while not one.ended:
            found, _, error = observed(lambda: read(story.path))
            met.append(story.judge(found, error))
            if error is not None:  # nothing is there to be opened
                one.ended = one.ended or next(one.steps, None) is None
    story.end()
    return met


@variants("what", ["append", "overwrite"], quick=1)
def test_a_reader_beside_a_writer_reads_one_state(what: str, tmp_path: Path) -> None:
    met = interleaved(Story(what, tmp_path), 3, kept.read_cube)
    assert met[0] == "old"
    assert met == sorted(met, key=["old", "told", "new"].index)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("what", "pipeline"),
    [("append", "zarrs"), ("overwrite", "zarr-python"), ("new", "zarrs")],
)
def test_a_reader_finds_one_state_before_each_step_of_a_writer(
    what: str, pipeline: str, tmp_path: Path
) -> None:
    story = Story(what, tmp_path, pipeline)
    met = []
    for _ in steps_of(story.script, story.folder):
        found, _, error = observed(lambda: kept.read_cube(story.path))
        if isinstance(error, FileNotFoundError):
            assert what == "new"
        met.append(story.judge(found, error))
    story.end()
    first = "told" if what == "new" else "old"
    assert met[0] == first
    assert met == sorted(met, key=[first, "new"].index)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("what", "every"),
    [("append", 23), ("overwrite", 2), ("overwrite", 23)],
)
def test_a_reader_and_a_writer_at_other_speeds(
    what: str, every: int, tmp_path: Path
) -> None:
    met = interleaved(Story(what, tmp_path), every, kept.read_cube)
    assert met == sorted(met, key=["old", "told", "new"].index)


# --- object storage -------------------------------------------------------------------


class Recorded(MemoryStore):
    """Keeps what it held before each change; Zarr makes further stores of it."""

    states: ClassVar[list[dict[str, Any]]] = []

    async def set(self, key: str, value: Any, byte_range: Any = None) -> None:
        self.states.append(dict(self._store_dict))
        await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        self.states.append(dict(self._store_dict))
        await super().delete(key)


@pytest.mark.parametrize("what", ["append", "overwrite"])
@pytest.mark.slow
def test_on_object_storage_a_reader_finds_one_state_or_is_told(what: str) -> None:
    content: dict[str, Any] = {}
    cube.write_cube(BEFORE[what], MemoryStore(content))
    old = kept.read_cube(MemoryStore(content))
    lazy = cube.open_cube(MemoryStore(content))
    grown = what == "append"
    Recorded.states.clear()
    new = eval(AFTER[what])
    cube.write_cube(new, Recorded(content), append=grown, overwrite=not grown)
    new = kept.read_cube(MemoryStore(content))
    met = []
    for number, state in enumerate(Recorded.states):
        if number % 3:  # each third change is enough for a quick test
            continue
        there = MemoryStore(state)
        found, _, error = observed(partial(kept.read_cube, there))
        if error is None:
            met.append("old" if not differing(found, old) else "new")
            assert met[-1] == "old" or not differing(found, new)
        else:
            met.append("told")
            assert is_clear(error, [str(there)]), repr(error)
            assert f"is being written by process {os.getpid()}" in str(error)
    order = ["old", "new"] if grown else ["old", "told", "new"]
    assert met == sorted(met, key=order.index)
    assert set(met) >= set(order) - {"new"}
    # Opened before, read after.
    found, _, error = observed(lambda: kept.of_dataset(lazy.load()))
    if grown:
        assert all(old[name] == value for name, value in found.items())
    else:
        assert "was written again since it was opened; open it again" in str(error)


# --- opened before, read after --------------------------------------------------------


def test_what_was_open_before_an_append_is_read_right_after_it(tmp_path: Path) -> None:
    path = tmp_path / "chips.zarr"
    chips = small_cubes.make_chips(5, 16)
    named = chips.assign_coords(place=("chip", [f"p{i}" for i in range(5)]))
    cube.write_cube(named.isel(chip=[0, 1, 2]), path)
    lazy, sent = cube.open_cube(path), pickle.dumps(cube.open_cube(path))
    for number in (3, 4):
        cube.write_cube(named.isel(chip=[number]), path, append=True)
    for one in (lazy, pickle.loads(sent)):
        assert one["chip"].values.tolist() == ["chip0", "chip1", "chip2"]
        assert one["place"].values.tolist() == ["p0", "p1", "p2"]
        for name in ("image", "agb"):
            both = cube.open_cube(path)[name].isel(chip=[0, 1, 2])
            np.testing.assert_array_equal(one[name].values, both.values)
    assert "3 chips" in describe_cube(lazy)["size"]


def test_what_was_open_before_it_was_replaced_says_so(tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    old = small_cubes.make_scene(16, 300, (7, 8))
    old["layer"] = (("y", "x"), np.arange(16.0 * 300).reshape(16, 300))
    cube.write_cube(old, path)
    lazy, sent = cube.open_cube(path), pickle.dumps(cube.open_cube(path))
    before = cube.open_cube(path)["image"].values
    left = lazy["image"][..., :256].values  # the first of two shards
    cube.write_cube(old * 2, path, overwrite=True)
    for read in (
        lambda: lazy["image"][..., :256].values,
        lambda: lazy["image"][..., 256:].values,
        lambda: lazy["agb"].values,
        lambda: lazy["layer"].values,
        lambda: pickle.loads(sent)["image"].values,
        lambda: describe_cube(lazy),
    ):
        _, _, error = observed(lambda read=read: {"": read()})
        assert isinstance(error, cube.schema.ChangedError), repr(error)
        assert str(error) == (
            f"{path} was written again since it was opened; open it again."
        )
    np.testing.assert_array_equal(left, before[..., :256])
    # The same, moved away and back, is the same.
    now = cube.open_cube(path)["image"]
    expected = now.values
    shutil.copytree(path, tmp_path / "copy.zarr")
    shutil.rmtree(path)
    (tmp_path / "copy.zarr").rename(path)
    np.testing.assert_array_equal(now.values, expected)
