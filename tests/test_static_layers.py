"""Static layers of a cube: checked, stored, sliced, counted and shown like bands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.cube import layer_statistics, verify
from geobiomass.cube.axes import find_axes
from geobiomass.cube.static_layers import units_of_layers
from geobiomass.cube.store import LAYER_STATISTICS
from geobiomass.info.notebook import dataset_html

NAMES = ("elevation", "slope", "aspect_sin")
UNITS = {"elevation": "m", "slope": "degree", "aspect_sin": "1"}


def with_layers(cube: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Return a cube with three static layers, some of their values missing."""
    dims = (*(("chip",) if "chip" in cube.dims else ()), "layer", "y", "x")
    shape = [len(NAMES) if dim == "layer" else cube.sizes[dim] for dim in dims]
    values = np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)
    values[..., 0, :3, :2] = np.nan
    attrs = {"units": json.dumps(UNITS)}
    made = cube.assign(static=xr.Variable(dims, values, attrs))
    return made.assign_coords(layer=list(NAMES))


def lazily(cube: xr.Dataset, calls: list[int], limit: int = 99) -> xr.Dataset:
    """Return the same cube, lazily: its layers fail after `limit` chips."""

    def pass_on(block: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > limit:
            raise InterruptedError
        return block

    lazy = cube["static"].chunk({"chip": 1}).data
    lazy = lazy.map_blocks(pass_on, dtype=lazy.dtype, meta=lazy._meta)
    image = cube["image"].chunk({"chip": 1})
    return cube.assign(static=cube["static"].copy(data=lazy), image=image)


def same_values(one: xr.Dataset, other: xr.Dataset) -> None:
    for name in ("image", "agb", "static"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    assert one["layer"].values.tolist() == other["layer"].values.tolist()
    assert units_of_layers(one["static"]) == units_of_layers(other["static"])


def same_table(one: pd.DataFrame, other: pd.DataFrame) -> None:
    # Sums of float64 by block: equal to the rounding of a sum.
    pd.testing.assert_frame_equal(one, other, rtol=1e-12)


@pytest.mark.parametrize("make", [make_scene, make_chips])
def test_layers_are_stored_exactly_and_read_lazily(
    make: object, tmp_path: Path
) -> None:
    cube = with_layers(make())  # type: ignore[operator]
    gb.write_cube(cube, tmp_path / "c.zarr", dtype="float32")
    opened = gb.open_cube(tmp_path / "c.zarr")
    assert opened["static"].chunks is not None
    same_values(opened, cube)
    part = {dim: slice(1, 3) for dim in cube["static"].dims if dim != "layer"}
    same_values(opened.isel(part), cube.isel(part))
    assert verify(tmp_path / "c.zarr").empty
    gb.write_cube(cube, tmp_path / "c.zarr", dtype="float32")  # nothing to do
    plain = xr.open_zarr(tmp_path / "c.zarr")
    np.testing.assert_array_equal(plain["static"].values, cube["static"].values)


def test_a_flipped_bit_in_a_layer_is_noticed(tmp_path: Path) -> None:
    gb.write_cube(with_layers(make_scene()), tmp_path / "c.zarr")
    shard = tmp_path / "c.zarr/static/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[20] ^= 1
    shard.write_bytes(content)
    assert verify(tmp_path / "c.zarr")["file"].tolist() == ["static/c/0/0/0"]
    with pytest.raises(gb.DamagedError, match=r"static of .*all layers"):
        gb.open_cube(tmp_path / "c.zarr")["static"].load()


def test_statistics_are_counted_while_writing(tmp_path: Path) -> None:
    cube = with_layers(make_chips(3, 16))
    gb.write_cube(cube, tmp_path / "c.zarr")
    opened = gb.open_cube(tmp_path / "c.zarr")
    stored = layer_statistics(opened)
    assert LAYER_STATISTICS not in opened.attrs
    assert stored.index.tolist() == list(NAMES)
    values = cube["static"].isel(layer=0).values
    assert stored.loc["elevation", "count"] == np.isfinite(values).sum()
    assert stored.loc["elevation", "missing"] == pytest.approx(np.isnan(values).mean())
    assert stored.loc["elevation", "maximum"] == np.nanmax(values)
    assert stored.loc["elevation", "mean"] == pytest.approx(np.nanmean(values))
    same_table(stored, layer_statistics(cube))
    assert layer_statistics(opened.isel(layer=[2])).index.tolist() == ["aspect_sin"]
    bands = gb.band_statistics(opened)
    assert bands.index.tolist() == cube["band"].values.tolist()
    with pytest.raises(gb.CubeError, match="need a cube with 'static'"):
        layer_statistics(make_scene())


def test_an_append_and_an_interrupted_one_count_each_chip_once(tmp_path: Path) -> None:
    chips = with_layers(make_chips(5, 16))
    first, rest = chips.isel(chip=slice(0, 2)), chips.isel(chip=slice(2, 5))
    gb.write_cube(first, tmp_path / "c.zarr")
    broken = lazily(rest, [], limit=1)
    with pytest.raises(InterruptedError):
        gb.write_cube(broken, tmp_path / "c.zarr", append=True, workers=1)
    assert gb.open_cube(tmp_path / "c.zarr").sizes["chip"] == 2
    calls: list[int] = []
    gb.write_cube(lazily(rest, calls), tmp_path / "c.zarr", append=True, workers=1)
    assert len(calls) == 2  # the chip that was written is not computed again
    opened = gb.open_cube(tmp_path / "c.zarr")
    np.testing.assert_array_equal(opened["static"].values, chips["static"].values)
    same_table(layer_statistics(opened), layer_statistics(chips))
    assert verify(tmp_path / "c.zarr").empty
    swapped = rest.isel(layer=[2, 0, 1]).assign_coords(chip=["x", "y", "z"])
    gb.write_cube(swapped, tmp_path / "c.zarr", append=True)  # layers go by name
    last = gb.open_cube(tmp_path / "c.zarr")["static"].values[5:]
    np.testing.assert_array_equal(last, rest["static"].values)
    other = swapped.assign_coords(chip=["u", "v", "w"])
    few = other.sel(layer=["elevation"])
    with pytest.raises(gb.CubeError, match=r"the static layers .*'slope'"):
        gb.write_cube(few, tmp_path / "c.zarr", append=True)
    other["static"].attrs["units"] = json.dumps(UNITS | {"elevation": "ft"})
    with pytest.raises(gb.CubeError, match="units of static layers"):
        gb.write_cube(other, tmp_path / "c.zarr", append=True)
    bare = with_layers(make_chips(1, 16)).drop_vars("agb").assign_coords(chip=["t"])
    with pytest.raises(gb.CubeError, match="must have its variables"):
        gb.write_cube(bare, tmp_path / "c.zarr", append=True)


def test_an_undeclared_fill_value_of_a_layer_is_missing_and_told(
    tmp_path: Path,
) -> None:
    cube = with_layers(make_scene())
    cube["static"][1, 4, 5] = -9999.0
    with pytest.warns(UserWarning, match="slope -9999 \\(1 pixels\\)"):
        gb.write_cube(cube, tmp_path / "c.zarr")
    with pytest.warns(UserWarning, match="static 1"):
        gb.write_cube(cube.chunk(), tmp_path / "lazy.zarr")
    for name in ("c.zarr", "lazy.zarr"):
        assert np.isnan(gb.open_cube(tmp_path / name)["static"][1, 4, 5])


def test_layers_are_described(tmp_path: Path) -> None:
    cube = with_layers(make_scene())
    gb.write_cube(cube, tmp_path / "c.zarr")
    words = "elevation (m), slope (degree), aspect_sin"
    for thing in (cube, gb.open_cube(tmp_path / "c.zarr"), tmp_path / "c.zarr"):
        assert gb.describe(thing)["static layers"] == words
    rows = str(gb.describe(tmp_path / "c.zarr")["static values"]).splitlines()
    assert [row.split()[0] for row in rows[-3:]] == list(NAMES)
    assert float(rows[-3].split()[1]) == 0.3  # percent missing: 6 of 2,240 pixels
    assert "aspect_sin" in dataset_html(cube)
    assert "static layers" not in gb.describe(make_scene())


def test_a_cube_without_layers_is_written_as_before(tmp_path: Path) -> None:
    gb.write_cube(make_chips(2, 16), tmp_path / "c.zarr")
    group = zarr.open_group(tmp_path / "c.zarr", mode="r")
    assert not [name for name in group.attrs if "layer" in name]
    assert set(group["statistics"].attrs) == {"tally"}
    assert group["statistics/histogram"].shape[0] == 3  # type: ignore[union-attr]
    assert not (tmp_path / "c.zarr/layer").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.transpose("y", "x", "layer"), "Dimensions of 'static' must be"),
        (lambda s: s.fillna(0).astype("int16"), "'static' must be floating point"),
        (lambda s: s.assign_coords(layer=[1, 2, 3]), "must hold the names"),
        (lambda s: s.assign_coords(layer=["a", "b", "a"]), "must not repeat names"),
        (lambda s: s.drop_attrs(), "Units of the static layers .*unknown"),
        (lambda s: s.assign_attrs(units='{"slope": "1"}'), "'elevation', 'aspect_sin'"),
        (lambda s: s.isel(layer=slice(0)), "must have a layer"),
    ],
)
def test_what_is_wrong_with_layers_is_named(change: object, words: str) -> None:
    cube = with_layers(make_scene())
    wrong = cube.drop_dims("layer").assign(static=change(cube["static"]))  # type: ignore[operator]
    with pytest.raises(gb.CubeError, match=words):
        gb.check_cube(wrong)


def test_layers_of_chips_have_their_chip() -> None:
    cube = with_layers(make_chips(2, 16))
    gb.check_cube(cube)
    with pytest.raises(gb.CubeError, match=r"chip.*layer.*got \('layer'"):
        gb.check_cube(cube.assign(static=cube["static"].isel(chip=0, drop=True)))


def test_layers_are_no_axis_of_the_image() -> None:
    cube = with_layers(make_chips(2, 16))
    axes = find_axes(cube)
    assert axes == {dim: dim for dim in ("chip", "month", "band", "y", "x")}


def test_conversion_keeps_layers() -> None:
    cube = with_layers(make_scene()).rename(y="latitude", x="longitude")
    made = gb.as_cube(cube.rename(month="t").drop_vars("spatial_ref"), crs="EPSG:3067")
    assert made["static"].dims == ("layer", "y", "x")
    np.testing.assert_array_equal(made["static"].values, cube["static"].values)
    assert made["band"].size == 3
