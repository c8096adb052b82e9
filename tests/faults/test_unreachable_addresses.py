"""An address that cannot be read is told as such, and never as a damaged file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import map_work
import numpy as np
import pytest
from failing_server import FailingServer, serving
from raster_files import write_tif
from small_cubes import make_scene
from typer.testing import CliRunner

import geobiomass as gb
from geobiomass.cli import app
from geobiomass.cube import verify
from geobiomass.cube.schema import UnreachableError
from geobiomass.maps.reading import open_layer

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:Both zarr.json"),  # a page for each name
]

# Of each fault: the error, and what it says.
FAULTS: dict[Any, tuple[type[Exception], str]] = {
    404: (FileNotFoundError, r"There is nothing at {}"),
    403: (PermissionError, r"{} may not be read without permission.* 403"),
    401: (PermissionError, r"{} may not be read without permission.* 401"),
    500: (UnreachableError, r"{} cannot be reached \(its server answers 500\)"),
    503: (UnreachableError, r"{} cannot be reached \(its server answers 503\)"),
    "stops": (UnreachableError, r"{} cannot be reached \(its server stops"),
    "page": (UnreachableError, r"{} cannot be reached \(its server answers with a web"),
}
NOWHERE = r"{} cannot be reached \("


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube, a map as Zarr and a map as GeoTIFF."""
    made = tmp_path_factory.mktemp("served")
    gb.write_cube(make_scene(64, 64, [4, 7]), made / "cube.zarr")
    for name in ("map.zarr", "map.tif"):
        map_work.write(made / name, map_work.Work(made / "log"))
    values = np.random.default_rng(0).random((1, 900, 900), np.float32)
    write_tif(made / "large.tif", values, names=["agb"])
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[FailingServer]:
    with serving(folder) as made:
        yield made


def _labelled(address: str) -> Any:
    scene = gb.as_cube(make_scene(64, 64, [4, 7]), crs="EPSG:3067").drop_vars("agb")
    return gb.with_labels(scene, address, column="agb")


DOORS: dict[str, tuple[Callable[[str], Any], ...]] = {
    "map.tif": (
        gb.describe,
        lambda a: open_layer(a, "agb").values,
        lambda a: gb.change(a, a).compute(),
        _labelled,
        gb.from_rasters,
    ),
    "map.zarr": (gb.describe, lambda a: open_layer(a, "agb"), verify),
    "cube.zarr": (gb.describe, gb.open_cube, verify),
}


def check(door: Callable[[str], Any], address: str, said: str, *kinds: type) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        door(address)
    error, text = raised.value, str(raised.value)
    assert type(error) in (*kinds, gb.CubeError), repr(error)  # of several files
    assert re.search(said.format(re.escape(address)), text), text
    assert "damaged" not in text
    assert "/vsi" not in text


@pytest.mark.parametrize("fault", FAULTS)
def test_each_door_says_what_the_server_does(server: FailingServer, fault: Any) -> None:
    server.fail(fault)
    kind, said = FAULTS[fault]
    for name, doors in DOORS.items():
        # The headers of the raster are in the third that comes.
        for number, door in enumerate(doors[: 3 if fault == "stops" else None]):
            check(door, f"{server.address}/{fault}-{number}/{name}", said, kind)


def test_an_address_without_a_server_and_what_the_command_line_says(
    folder: Path,
) -> None:
    for base in ("https://host.invalid", "http://127.0.0.1:9"):
        for name, doors in DOORS.items():
            for door in doors:
                check(door, f"{base}/{name}", NOWHERE, UnreachableError)
        plots = folder / "plots.csv"
        plots.write_text("x,y,agb\n1,1,1\n")
        for name in ("map.tif", "map.zarr"):
            for command in (["info"], ["totals", "--plots", str(plots)]):
                found = CliRunner().invoke(
                    app, [command[0], f"{base}/{name}", *command[1:]]
                )
                assert isinstance(found.exception, UnreachableError), found.exception


def test_a_server_that_fails_later_is_told_and_right_again(
    server: FailingServer, folder: Path
) -> None:
    wanted = open_layer(str(folder / "large.tif"), "agb").values
    layer = open_layer(f"{server.address}/later/large.tif", "agb")
    server.fail(503, "tif")
    with pytest.raises(UnreachableError, match=r"large\.tif cannot be reached"):
        np.asarray(layer)
    server.fail("")
    again = open_layer(f"{server.address}/again/large.tif", "agb")
    np.testing.assert_array_equal(np.asarray(again), wanted)
    cube = gb.open_cube(f"{server.address}/later/cube.zarr")
    for fault in (500, 403, "stops"):
        server.fail(fault, "/c/")
        kind, said = FAULTS[fault]
        check(
            lambda _: cube["image"].compute(),
            f"{server.address}/later/cube.zarr",
            said,
            kind,
        )
    server.fail(404, "image/c/")
    with pytest.raises(gb.DamagedError, match=r"image of .* damaged or gone"):
        cube["image"].compute()
    server.fail("")
    wanted = gb.open_cube(folder / "cube.zarr")["image"].values
    np.testing.assert_array_equal(cube["image"], wanted)
    assert verify(f"{server.address}/later/cube.zarr").empty
