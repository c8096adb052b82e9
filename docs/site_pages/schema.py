"""The page on the schema of a cube, made from a cube that the package makes."""

from __future__ import annotations

import xarray as xr

import geobiomass as gb
from geobiomass.cube.encoding import COLUMNS, MONTHS, ROWS, SHARD, band_quantum

SENSORS = {
    "VV": "Sentinel-1",
    "VH": "Sentinel-1",
    "B": "Sentinel-2",
    "CLP": "Sentinel-2",
}
UNITS = {"VV": "dB", "VH": "dB", "B": "reflectance x 10^4", "CLP": "percent"}


def pages() -> dict[str, str]:
    """Return the text of the page."""
    cube = gb.landscape((256, 256), seed=0)
    rows = "\n".join(_row(str(name)) for name in cube["band"].values)
    return {
        "cube-schema.md": f"""# What a cube is made of

[Cubes](../../cubes.md) tells it as a story; here it is in tables, from
`gb.landscape((256, 256))`.

| variable | dimensions | type | attributes |
|---|---|---|---|
{_variables(cube)}

| coordinate | dimensions | values |
|---|---|---|
{_coordinates(cube)}

A collection of chips has `chip`, the chips' ids, before `month`, and neither `y`, `x` nor
`spatial_ref`. `agb` may be left out.

## Bands

The names of BioMassters. Any other names do: bands are matched by name, and a model asks
for those that it was trained on. `int16` stores a known band in the step given here, and
takes the step of others from `quantum=`.

| band | sensor | unit | step of int16 |
|---|---|---|---|
{rows}

## On disk

Zarr v3. A shard, one file, holds {SHARD} x {SHARD} pixels with all months and bands; a
chunk in it up to {MONTHS} months, all bands and {ROWS} x {COLUMNS} pixels.

| type | missing | values |
|---|---|---|
| `int16` | -32768 | codes of the steps above; `scale_factor` and `multiplier` as in [Cubes](../../cubes.md#on-disk) |
| `int32` | -2147483648 | codes of 1/128 of every band's unit |
| `float32` | NaN | the values themselves |
"""
    }


def _variables(cube: xr.Dataset) -> str:
    return "\n".join(
        f"| `{name}` | ({', '.join(map(str, cube[name].dims))}) | {cube[name].dtype} | "
        f"{', '.join(f'{k}: {v}' for k, v in cube[name].attrs.items())} |"
        for name in cube.data_vars
    )


def _coordinates(cube: xr.Dataset) -> str:
    return "\n".join(
        f"| `{name}` | {', '.join(map(str, c.dims)) or 'none'} | {_values(c)} |"
        for name, c in cube.coords.items()
    )


def _values(coordinate: xr.DataArray) -> str:
    if coordinate.ndim == 0:
        return f"reference system, {coordinate.attrs.get('projected_crs_name', 'CF')}"
    values = coordinate.values.tolist()
    if len(values) <= 15:
        return ", ".join(map(str, values))
    return f"{values[0]}, {values[1]}, ... {values[-1]}"


def _row(name: str) -> str:
    key = next(k for k in UNITS if name.startswith(k))
    return f"| `{name}` | {SENSORS[key]} | {UNITS[key]} | {band_quantum(name):g} |"
