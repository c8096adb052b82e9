"""Appending seals new files only: damage to old chips before it is noticed after it."""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import make_chips
from variants import variants

import geobiomass as gb
from geobiomass.cube import sealing, verify, write_end
from geobiomass.cube.publishing import write_root
from geobiomass.cube.write_record import Record
from geobiomass.training.one_writer import one_writer

GONE, FLIPPED = "image/c/0/0/0/0/0", "agb/c/1/0/0"


class Killed(BaseException):
    """Ends a call as kill -9 does: nothing handles it."""


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    gb.write_cube(make_chips(5, 16).isel(chip=[0, 1, 2]), tmp_path / "c.zarr")
    return tmp_path / "c.zarr"


def append(path: Path) -> None:
    gb.write_cube(make_chips(5, 16).isel(chip=[3, 4]), path, append=True, workers=1)


def files_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def damage(path: Path) -> None:
    (path / GONE).unlink()
    content = bytearray((path / FLIPPED).read_bytes())
    content[len(content) // 2] ^= 1
    (path / FLIPPED).write_bytes(content)


def check_damage(path: Path, chips: int) -> None:
    """Check that damage to old chips is named, and all other chips are right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An append of 2 chips")
        assert [*verify(path)["file"]] == [FLIPPED, GONE]
    there = gb.open_cube(path)
    assert there.sizes["chip"] == chips
    with pytest.raises(gb.DamagedError, match=GONE):
        there["image"].isel(chip=0).load()
    meant = make_chips(5, 16)["image"].isel(chip=slice(2, chips)).values
    found = there["image"].isel(chip=slice(2, chips)).values
    np.testing.assert_allclose(found, meant, atol=0.51)
    assert (np.isnan(found) == np.isnan(meant)).all()


def test_damage_before_an_append_is_noticed_after_it(cube: Path) -> None:
    whole = cube.with_name("whole.zarr")
    shutil.copytree(cube, whole)
    damage(cube)
    append(cube)
    check_damage(cube, 5)
    append(whole)
    assert verify(whole).empty
    both = [json.loads((p / "checksums/zarr.json").read_text()) for p in (cube, whole)]
    assert both[0] == both[1]


# Steps of the end of an append, in their order.
STEPS = ["_put_histogram", "_put_counts", "described", "write_root", "tidy_append"]


@variants("step", STEPS, quick=2)
def test_killed_at_its_end_an_append_leaves_checksums_of_old_chips(
    cube: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = cube.with_name("whole.zarr")
    shutil.copytree(cube, whole)
    append(whole)
    module = write_end if hasattr(write_end, step) else sealing

    def killed(*given: object, **named: object) -> None:
        raise Killed

    monkeypatch.setattr(module, step, killed)
    with pytest.raises(Killed):
        append(cube)
    monkeypatch.undo()
    shown = 5 if step == "tidy_append" else 3
    assert gb.open_cube(cube).sizes["chip"] == shown
    said = (
        r"append of 2 chips to .*c\.zarr was interrupted; the cube without them is who"
    )
    with pytest.warns(UserWarning, match=said) if shown == 3 else nullcontext():
        assert verify(cube).empty
    xr_old = gb.open_cube(cube).isel(chip=slice(0, 3)).load()
    copy = cube.with_name("copy.zarr")
    shutil.copytree(cube, copy)
    damage(copy)
    check_damage(copy, shown)
    append(cube)  # the same call again
    assert files_of(cube) == files_of(whole)
    assert gb.open_cube(cube).isel(chip=slice(0, 3)).load().identical(xr_old)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_files_of_an_interrupted_append_are_no_damage(
    cube: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    note = Record.note
    left = [written]

    def killed(*given: object, **named: object) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        note(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Record, "note", killed)
    monkeypatch.setattr(write_end, "seal_part", killed)
    with pytest.raises(Killed):
        append(cube)
    monkeypatch.undo()
    said = (
        "append of 2 chips to .* was interrupted; the cube without them is whole. The"
    )
    with pytest.warns(UserWarning, match=said):
        assert verify(cube).empty
    # What is no chip of the append is named still.
    shutil.copy(cube / "agb/c/1/0/0", cube / "agb/c/1/0/1")
    (cube / GONE).unlink()
    with pytest.warns(UserWarning, match="the cube is shown as it was"):
        assert [*verify(cube)["file"]] == [GONE, "agb/c/1/0/1"]
    with (
        one_writer(cube),
        pytest.warns(UserWarning, match="2 chips are being appended"),
    ):
        verify(cube)


def test_a_cube_without_checksums_gets_them_when_it_grows(cube: Path) -> None:
    group = zarr.open_group(cube, mode="r+", use_consolidated=False)
    root = json.loads((cube / "zarr.json").read_text())
    del root["consolidated_metadata"]["metadata"]["checksums"]
    write_root(group, json.dumps(root).encode())
    shutil.rmtree(cube / "checksums")
    append(cube)
    assert verify(cube).empty
    assert gb.open_cube(cube).sizes["chip"] == 5
