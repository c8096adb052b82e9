"""What was changed in a finished cube or map is noticed, or changes no value."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import make_chips, make_scene
from map_work import Work, write
from variants import variants
from zarr.storage import MemoryStore

import geobiomass as gb
from geobiomass.cube import seal, verify
from geobiomass.cube.publishing import consolidate
from geobiomass.cube.selection import Selection
from geobiomass.maps import opening, overviews
from geobiomass.maps.reading import open_map

SEAL = "checksums/zarr.json"


def files_of(path: Path) -> list[str]:
    found = (f for f in sorted(path.rglob("*")) if f.is_file())
    return [f.relative_to(path).as_posix() for f in found]


def facts_of(*opened: xr.Dataset) -> list[Any]:
    """Return all values and attributes, to compare bits."""
    values = [
        (name, v.dims, v.values.tolist() if v.dtype == object else v.values.tobytes())
        for one in opened
        for name, v in sorted(one.variables.items())
    ]
    attrs = [
        (one.attrs, [(n, v.attrs) for n, v in sorted(one.items())]) for one in opened
    ]
    return [*values, repr(attrs)]


def look_at_cube(path: Path) -> list[Any]:
    cube = gb.open_cube(path)
    return [*facts_of(cube), gb.band_statistics(cube).to_json()]


def look_at_map(path: Path) -> list[Any]:
    levels = (opening.open_layers(path, f"overviews/{k}") for k in (2, 4))
    return facts_of(open_map(str(path)), *levels)


def change(path: Path, how: str, names: tuple[str, ...], draw: random.Random) -> None:
    first = path / names[0]
    content = bytearray(first.read_bytes())
    if how == "gone":
        first.unlink()
        if names[0] == SEAL:
            first.parent.rmdir()  # Zarr warns of a folder without a file
    elif how == "bit":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        first.write_bytes(content)
    elif how == "cut":
        first.write_bytes(content[: draw.randrange(len(content))])
    else:
        first.write_bytes((path / names[1]).read_bytes())
        if how == "swapped":
            (path / names[1]).write_bytes(content)


def try_changes(
    whole: Path, look: Any, draw: random.Random, each: int, pairs: int
) -> dict[str, int]:
    """Change copies of a store; return the number of changes noticed, and not."""
    expected, files = look(whole), files_of(whole)
    changes = [("gone", (file,)) for file in files]
    changes += [(how, (file,)) for file in files for how in ["bit"] * each + ["cut"]]
    both = draw.sample(list(combinations(files, 2)), pairs)
    changes += [(how, pair) for pair in both for how in ("swapped", "copied")]
    draw.shuffle(changes)
    count = {"noticed": 0, "harmless": 0}
    for how, names in changes if each > 1 else changes[:24]:
        copy = whole.with_name("copy.zarr")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        change(copy, how, names, draw)
        try:
            found, error = look(copy), None
        except gb.DamagedError as raised:
            found, error = None, raised
        if error is None:
            assert found == expected, (how, names)
            count["harmless"] += 1
        else:
            assert any(name in str(error) for name in names), (how, names, str(error))
            assert any(error.file.endswith(name) for name in names), error.file
            count["noticed"] += 1
    return count


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
@variants("kind", ["map", "chips", "scene"], quick=1)
def test_a_change_anywhere_is_noticed(
    kind: str, many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.zarr"
    if kind == "map":
        monkeypatch.setattr(overviews, "SMALLEST", 64)
        write(whole, Work(tmp_path / "log"), overviews=True)
    elif kind == "scene":
        gb.write_cube(make_scene(260, 24), whole)
    else:
        gb.write_cube(make_chips(3, 16), whole, "float32")
    draw = random.Random(f"{kind} {many}")
    look = look_at_map if kind == "map" else look_at_cube
    found = try_changes(whole, look, draw, *((2, 20) if many else (1, 6)))
    assert found["noticed"] >= 24
    assert found["harmless"] == 0
    assert verify(whole).empty


def test_damage_is_named_by_month_band_and_window(tmp_path: Path) -> None:
    path = tmp_path / "named.zarr"
    gb.write_cube(make_scene(40, 300), path)
    shards = [path / "image/c/0/0/0" / number for number in "01"]
    one, other = (shard.read_bytes() for shard in shards)
    cube = gb.open_cube(path)
    stored = Selection.of(cube["image"].data).stored  # type: ignore[union-attr]
    again = pickle.loads(pickle.dumps(stored))  # as dask's workers get it
    whole = cube["image"].values
    shards[0].write_bytes(other)
    shards[1].write_bytes(one)
    said = r"image of .* at all months, all bands, y 0 to 39, x 0 to 255: .*/0/0/0/0 is"
    for array in (stored, again):
        for direct in (True, False):  # read by this package, or by Zarr and zarrs
            array.layout = array.layout if direct else None
            with pytest.raises(gb.DamagedError, match=said):
                array[..., :9]
    with pytest.raises(gb.DamagedError, match="x 256 to 299"):
        cube["image"][..., 290:].load()
    shards[0].write_bytes(one)
    np.testing.assert_array_equal(cube["image"][..., :256], whole[..., :256])
    assert verify(path)["file"].tolist() == ["image/c/0/0/0/1"]
    shards[1].unlink()
    with pytest.raises(gb.DamagedError, match=r"x 256 to 299: .*/1 .*is gone"):
        cube["image"].load()
    said = gb.describe(path)["damaged"]
    assert "1 of 4 files of pixels" in str(said)


def test_a_map_names_the_window_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "holes.zarr"
    write(path, Work(tmp_path / "log"))
    (path / "agb/c/1/2").unlink()
    (path / "sd/c/0/0").write_bytes((path / "sd/c/0/1").read_bytes())  # was blank
    layers = open_map(str(path))
    with pytest.raises(gb.DamagedError, match=r"y 64 to 127, x 128 to 191: .*/1/2 is"):
        layers["agb"].isel(y=[70], x=slice(100, 140)).load()
    assert np.isfinite(layers["agb"][:60, 70:]).all()
    with pytest.raises(gb.DamagedError, match=r"sd .* y 0 to 63, x 0 to 63: .*not th"):
        layers["sd"].load()
    with pytest.raises(gb.DamagedError, match=r"agb/c/1/2 .*is gone.*overwrite=True"):
        layers["agb"].load()
    with pytest.raises(gb.DamagedError, match=r"x 128 to 191: .*/1/2 is"):
        gb.describe(path)


def test_copies_and_objects_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "first.zarr"
    gb.write_cube(make_chips(3, 16), path)
    expected = gb.open_cube(path).load()
    memory = MemoryStore()
    gb.write_cube(expected, memory)  # written as objects: sealed by indexes
    uploaded = MemoryStore()
    buffer = type(memory._store_dict["zarr.json"])
    for name in files_of(path):
        uploaded._store_dict[name] = buffer.from_bytes((path / name).read_bytes())
    for objects in (memory, uploaded):
        xr.testing.assert_identical(gb.open_cube(objects).load(), expected)
        assert verify(objects).empty
        kept = dict(objects._store_dict)
        names = [f"image/c/{chip}/0/0/0/0" for chip in (0, 2)]
        cube = gb.open_cube(objects)
        objects._store_dict |= {names[0]: kept[names[1]], names[1]: kept[names[0]]}
        with pytest.raises(gb.DamagedError, match=r"chip chip002.*image/c/2/0/0/0/0"):
            cube["image"][2].load()
        assert verify(objects)["file"].tolist() == names
        objects._store_dict |= kept
        del objects._store_dict[names[0]]
        with pytest.raises(gb.DamagedError, match=r"chip chip000.*is gone"):
            cube["image"].load()
        objects._store_dict |= kept
        objects._store_dict["band/c/0"] = kept["month/c/0"]
        with pytest.raises(gb.DamagedError, match="band/c/0"):
            gb.open_cube(objects)


def test_a_change_on_purpose_is_accepted_by_seal(tmp_path: Path) -> None:
    path = tmp_path / "edited.zarr"
    gb.write_cube(make_scene(), path)
    north = xr.DataArray(np.ones((40, 56), np.float32), dims=("y", "x"))
    north.to_dataset(name="slope").to_zarr(
        path, mode="a", zarr_format=3, consolidated=False
    )
    consolidate(zarr.open_group(path, use_consolidated=False))  # as xarray does
    said = r"edited.zarr is damaged .*zarr.json .*seal\('.*edited.zarr'\)"
    for use in (gb.open_cube, gb.describe, verify):
        with pytest.raises(gb.DamagedError, match=said):
            use(path)
    seal(path)
    assert verify(path).empty
    assert (gb.open_cube(path)["slope"] == 1).all()
    slope = next(f for f in (path / "slope/c").rglob("*") if f.is_file())
    slope.unlink()
    cube = gb.open_cube(path)  # of pixels, damage stops nothing else
    assert cube["image"].notnull().any()
    with pytest.raises(gb.DamagedError, match=r"slope of .*slope/c/0/0 is gone"):
        cube["slope"].load()
    with pytest.raises(FileNotFoundError):
        seal(tmp_path / "none.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(gb.CubeError, match="no Zarr group"):
        seal(tmp_path / "empty")
    shutil.rmtree(path / "checksums")
    for use in (gb.open_cube, gb.describe, verify):
        with pytest.raises(gb.DamagedError, match=r"checksums/zarr\.json is gone"):
            use(path)
    # What xarray copies has no checksums, and does not say that it has some.
    path = tmp_path / "again.zarr"
    gb.write_cube(make_scene(), path)
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        xr.open_zarr(path).load().to_zarr(tmp_path / "copy.zarr", consolidated=True)
    assert gb.open_cube(tmp_path / "copy.zarr").identical(gb.open_cube(path))
    with pytest.raises(gb.CubeError, match="has no checksums"):
        verify(tmp_path / "copy.zarr")
    seal(tmp_path / "copy.zarr")
    assert verify(tmp_path / "copy.zarr").empty
    # An interruption between the checksums and the mark, or of an earlier version.
    root = json.loads((path / "zarr.json").read_text())
    del root["consolidated_metadata"]["metadata"]["checksums"]
    (path / "zarr.json").write_text(json.dumps(root))
    shutil.rmtree(path / "checksums")
    assert gb.open_cube(path).identical(gb.open_cube(tmp_path / "copy.zarr"))
    zarr.open_group(path, mode="r+").attrs["geobiomass_unfinished"] = "yes"
    with pytest.raises(gb.CubeError, match="not finished"):
        seal(path)


@pytest.mark.slow
def test_checksums_follow_what_the_package_changes(tmp_path: Path) -> None:
    path, chips = tmp_path / "grown.zarr", make_chips(4, 16)
    gb.write_cube(chips.isel(chip=[0, 1]), path)
    before = json.loads((path / SEAL).read_text())["attributes"]["files"]
    gb.write_cube(chips.isel(chip=[2, 3]), path, append=True)
    after = json.loads((path / SEAL).read_text())["attributes"]["files"]
    shard = "image/c/1/0/0/0/0"
    assert (after[shard], shard.replace("1", "3", 1) in after) == (before[shard], True)
    assert verify(path).empty
    xr.testing.assert_equal(
        gb.open_cube(path).load(),
        gb.open_cube(path, chunks=None).sel(chip=chips.chip.values),
    )
    plain = xr.open_zarr(path)
    assert set(plain.data_vars) == {"image", "agb"}
    target = tmp_path / "levels.zarr"
    write(target, Work(tmp_path / "log"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overviews, "SMALLEST", 64)
        write(target, Work(tmp_path / "log"), overviews=True)
    assert verify(target).empty
    assert "overviews/2/agb" in zarr.open_group(target, mode="r")
