"""Cards, pages, residuals and change use the pixels of coarser, thinner, cropped data.

Each stored transform here is that of the whole, as xarray's operations leave it.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import torch
import xarray as xr
from conftest import make_scene
from pyproj import Transformer
from shapely import box
from variants import variants

import geobiomass as gb
from geobiomass.accounting.change_totals import change_totals
from geobiomass.maps.web import explore_map
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.models.training_record import georeference_of

WEST, NORTH = 400_000.0, 6_900_000.0
CHANGES: dict[str, tuple[Any, float, tuple[float, float, float, float]]] = {
    # the change, the side of a pixel, west south east north
    "coarsen": (
        lambda d: d.coarsen(y=4, x=4).mean(),
        40,
        (WEST, NORTH - 480, WEST + 360, NORTH),
    ),
    "stride": (
        lambda d: d.isel(y=slice(1, None, 3), x=slice(1, None, 3)),
        30,
        (WEST, NORTH - 480, WEST + 360, NORTH),
    ),
    "crop": (
        lambda d: d.isel(y=slice(8, 32), x=slice(12, 36)),
        10,
        (WEST + 120, NORTH - 320, WEST + 360, NORTH - 80),
    ),
}


def whole() -> xr.Dataset:
    scene = make_scene(48, 36)
    scene["image"] = scene["image"].fillna(1000)
    return scene.rio.write_transform(scene.rio.transform())


@pytest.mark.slow
@variants("how", CHANGES, quick=1)
def test_every_door_uses_the_pixels_at_hand(how: str) -> None:
    change, side, (west, south, east, north) = CHANGES[how]
    cube = change(whole())
    assert cube.rio.transform().a == 10  # stale, of the whole
    height, width = cube.sizes["y"], cube.sizes["x"]

    card = georeference_of(gb.as_cube(cube))
    assert card["bounds"] == pytest.approx([west, south, east, north])

    first = (cube["agb"] + 7).to_dataset(name="agb")
    first["agb"].attrs["units"] = "Mg/ha"
    errors = gb.residuals(first, gb.as_cube(cube))
    assert errors.attrs["pixel"] == pytest.approx((side, side), rel=1e-3)
    assert errors["x"].max() - errors["x"].min() == pytest.approx(
        side * (width - 1), rel=1e-3
    )

    second = first + 10
    second["agb"].attrs["units"] = "Mg/ha"
    drawn = np.random.default_rng(0).normal(0, 1, (2, len(errors)))
    tables = []
    for noise in drawn:
        table: pd.DataFrame = errors.assign(predicted=errors["observed"] + noise)
        table["unit"] = np.arange(len(table)) % 20
        tables.append(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        sums = change_totals(
            first, second, residuals=(tables[0], tables[1]), progress=False
        )
    hectares = height * width * side**2 / 1e4
    assert sums["area"].iloc[0] == pytest.approx(hectares, rel=1e-3)
    assert sums["map_total"].iloc[0] == pytest.approx(10 * hectares, rel=1e-3)

    page = explore_map(first)
    found = [c.bounds for c in page._children.values() if hasattr(c, "bounds")]
    corners = np.array(next(b for b in found if b is not None), float)
    move = Transformer.from_crs(3067, 4326, always_xy=True)
    lon, lat = move.transform([west, east, west, east], [south, south, north, north])
    pixel = 2 * side / 50_000  # degrees of longitude at 62 degrees north, rounded up
    assert corners[:, 1] == pytest.approx([min(lon), max(lon)], abs=pixel)
    assert corners[:, 0] == pytest.approx([min(lat), max(lat)], abs=pixel)


class ByPixel(torch.nn.Module):
    """A constant map, where a pixel has a value."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"bands": 3, "outputs": 1, "encoder": "none"}
        self.weight = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, image: Any, present: Any = None) -> Any:
        return image.nanmean(1)[:, :1] * 0 + self.weight


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.slow
def test_the_report_has_the_area_of_the_pixels_at_hand(
    how: str, tmp_path: Path
) -> None:
    change, _, (west, south, east, north) = CHANGES[how]
    cube = change(whole())
    bands = tuple(map(str, cube["band"].values))
    model = BiomassRegressor(ByPixel(), bands=bands, months=cube.sizes["month"])  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    plots = pd.DataFrame(
        {
            "x": draw.uniform(west, east, 40),
            "y": draw.uniform(south, north, 40),
            "agb": draw.normal(50, 5, 40),
        }
    )
    third = box(east - (east - west) / 3, south, east + 500, north)
    regions = geopandas.GeoDataFrame({"name": ["third"]}, geometry=[third], crs=3067)
    with pytest.warns(UserWarning, match="1 of 1 regions reach beyond the map"):
        out = gb.write_report(
            model,
            cube,
            tmp_path / f"{how}.html",
            regions=regions,
            plots=plots,
            name="name",
            progress=False,
        )
    page = out.read_text()
    hectares = (east - west) / 3 * (north - south) / 1e4
    row = page[page.index("third<") :]
    numbers = re.findall(r">([\d,.]+)<", row)[:2]
    area, unmapped = (float(number.replace(",", "")) for number in numbers)
    assert area == pytest.approx(hectares, rel=0.02)  # as the page rounds it
    beyond = 500 * (north - south) / 1e4
    assert unmapped == pytest.approx(beyond, rel=0.02)


@pytest.mark.parametrize("away", [0.0, -5.0, 40.0])
def test_the_middle_of_cf_bounds_is_the_centre(away: float) -> None:
    """Bounds that are somewhere else are left: coordinates decide."""
    bands = whole()["image"].to_dataset("band")
    edges = {
        f"{n}_bnds": ((n, "bound"), np.stack([bands[n] - 5, bands[n] + 5], 1))
        for n in ("x", "y")
    }
    moved = bands.assign_coords(x=bands.x + away, y=bands.y + away).assign(edges)
    for name in ("x", "y"):
        moved[name].attrs["bounds"] = f"{name}_bnds"
    bands, moved = bands.drop_vars("spatial_ref"), moved.drop_vars("spatial_ref")
    views = (moved, moved.set_coords(list(edges)).isel(x=slice(None, None, 2)))
    for view in views:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = gb.as_cube(view)
        expected = view.x + 5 if away == -5 else view.x
        np.testing.assert_array_equal(found.x, expected)
        assert len(told) == (away == -5)
        assert ("coordinates_moved" in found.attrs) == (away == -5)
