"""Grids of cubes."""

from __future__ import annotations

from typing import Any

import pytest

from geobiomass import CubeError
from geobiomass.sources.grid import make_grid


def test_a_grid_covers_the_bounds_on_one_lattice() -> None:
    grid = make_grid((12.001, 50.0, 12.02, 50.013), 20)
    assert grid.crs is not None
    assert grid.crs.epsg == 32633
    for edge in grid.extent.boundingbox:
        assert edge % 20 == 0
    inside = grid.extent.to_crs("EPSG:4326").boundingbox
    assert inside.left <= 12.001
    assert inside.right >= 12.02
    assert inside.bottom <= 50.0
    assert inside.top >= 50.013
    neighbour = make_grid((12.02, 50.0, 12.04, 50.013), 20)
    assert (grid.affine.c - neighbour.affine.c) % 20 == 0


@pytest.mark.parametrize(("south", "zone"), [(-20.0, 32733), (10.0, 32633)])
def test_the_utm_zone_is_that_of_the_bounds(south: float, zone: int) -> None:
    crs = make_grid((14.9, south, 15.0, south + 0.1)).crs
    assert crs is not None
    assert crs.epsg == zone


def test_bounds_and_grid_may_have_other_crs() -> None:
    grid = make_grid((500_000, 5_000_000, 501_000, 5_000_500), 0.0001, "EPSG:4326",
                     bounds_crs="EPSG:32633")  # fmt: skip
    assert grid.crs is not None
    assert grid.crs.epsg == 4326
    same = make_grid((500_003, 5_000_000, 501_000, 5_000_500), 10, "EPSG:32633",
                     bounds_crs="EPSG:32633")  # fmt: skip
    assert same.shape == (50, 100)
    assert tuple(same.extent.boundingbox) == (500_000, 5_000_000, 501_000, 5_000_500)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bounds": (1, 2, 3)}, "west, south, east and north"),
        ({"bounds": (3, 1, 2, 4)}, "west below east"),
        ({"bounds": (1, 1, 2, 2), "resolution": 0}, "positive number, got 0"),
        ({"bounds": (1, 1, 2, 2), "crs": "EPSG:1"}, "got 'EPSG:1'"),
        ({"bounds": (1, 1, 2, 2), "crs": "somewhere"}, "got 'somewhere'"),
    ],
)
def test_invalid_grids_are_errors(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(CubeError, match=said):
        make_grid(**arguments)
