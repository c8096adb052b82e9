"""What a path leads to: pipes, devices, files that name others, and no path at all."""

from __future__ import annotations

import gzip
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
from conftest import make_chips, make_scene
from rasterio.transform import from_origin
from shapely.geometry import box

import geobiomass as gb
import pasture
from geobiomass.cube import seal, verify
from geobiomass.cube.region import Region
from geobiomass.evaluation.residuals import read_residuals
from geobiomass.maps.web import explore_map
from geobiomass.tables import TableError, read_table
from geobiomass.training.given_paths import check_file
from geobiomass.training.json_files import JsonError, read_json
from geobiomass.training.one_writer import DiskError, one_writer

Call = Callable[[Any], Any]

# Imported here, which takes seconds, and not in a test.
assert gb.BiomassRegressor
assert gb.CrossValidation
assert gb.write_report
assert gb.write_stac_item
assert pasture.load


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that are asked of it."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


# --- pipes and devices ---


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    ends = ("csv", "json", "tif", "xlsx", "parquet", "geojson")
    for end in ends:
        os.mkfifo(tmp_path / f"pipe.{end}")
        (tmp_path / f"zero.{end}").symlink_to("/dev/zero")
    for kind, said in {"pipe": "got a pipe", "zero": "got a device"}.items():
        at = {end: str(tmp_path / f"{kind}.{end}") for end in ends}
        for end in ("csv", "xlsx", "parquet", "geojson"):
            with pytest.raises(
                TableError, match=rf"{kind}\.{end} must be a file, {said}"
            ):
                read_table(at[end])
        with pytest.raises(JsonError, match=said):
            read_json(at["json"])
        for read in (gb.describe, explore_map, gb.from_rasters):
            with pytest.raises(gb.CubeError, match=said):
                read(at["tif"])
        with pytest.raises(TableError, match=said):
            pasture.read_photos(at["csv"])
    check_file("/dev/stdin")  # what a shell opens has a writer
    check_file(tmp_path)
    with (tmp_path / "wide.csv").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(TableError, match="at most 2,147,483,648 bytes, got 3,221,"):
        read_table(tmp_path / "wide.csv")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_where_no_file_can_be_nothing_is_waited_for() -> None:
    with pytest.raises(DiskError), one_writer(Path("/proc/model"), wait=60):
        pass


# --- what is no path ---


def test_what_is_no_path_is_said(tmp_path: Path) -> None:
    scene = make_scene(32, 32)
    takes: dict[str, Call] = {
        "open_cube": gb.open_cube,
        "describe": gb.describe,
        "load": gb.load,
        "pasture.load": pasture.load,
        "BiomassRegressor.load": gb.BiomassRegressor.load,
        "CrossValidation.load": gb.CrossValidation.load,
        "from_biomassters": gb.from_biomassters,
        "read_residuals": read_residuals,
        "write_stac_item": gb.write_stac_item,
        "write_cube": lambda path: gb.write_cube(scene, path),
        "write_report": lambda path: gb.write_report("m", scene, path),
        "verify": verify,
        "seal": seal,
    }
    words = "must be (a|an|new) |must be a path|must be a table"
    for name, call in takes.items():
        for wrong in (None, 5, {"a": 1}, b"/tmp/x"):
            with pytest.raises((ValueError, TypeError), match=words) as told:
                call(wrong)
            assert type(wrong).__name__ in str(told.value), name
        for wrong in ("x" * 5000 + ".html", str(tmp_path / ("y" * 300 + ".html"))):
            with pytest.raises(
                ValueError, match="cannot be the path of a file"
            ) as told:
                call(wrong)
            assert len(str(told.value)) < 500
        with pytest.raises((ValueError, OSError), match=r"path|nothing|file|missing"):
            call(str(tmp_path / "a\0b.html"))


def test_a_name_that_is_not_unicode_is_said(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/map\xff.tif")
    try:
        Path(name).write_bytes(b"x")
    except (OSError, UnicodeError):
        pytest.skip("this file system has names of Unicode only")
    for read in (gb.describe, explore_map):
        with pytest.raises(gb.CubeError, match=r"map\\udcff\.tif cannot be read"):
            read(name)
    with pytest.raises(gb.CubeError, match="it cannot be opened"):
        gb.from_rasters([name], months=[7])


def test_what_is_no_cube_to_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop.zarr").symlink_to("loop.zarr")
    loop: dict[str, Any] = {}
    loop["within"] = loop
    scene, chips = make_scene(32, 32), make_chips(2)
    calls: list[tuple[str, Any, dict[str, Any]]] = [
        (r"file is a file; give", scene, {"path": tmp_path / "file" / "c.zarr"}),
        ("cannot be the path of a file", scene, {"path": tmp_path / "loop.zarr"}),
        ("quantum must be a mapping of bands", scene, {"quantum": "B04"}),
        ("workers must be a whole number from 1, got 0", scene, {"workers": 0}),
        ("workers must be a whole number from 1, got 'a'", scene, {"workers": "a"}),
        ("'note' must be of plain values", scene.assign_attrs(note=loop), {}),
    ]
    for ids in (["a", None], [1.5, "b"]):
        named = chips.assign_coords(chip=("chip", np.array(ids, object)))
        calls.append(("Names along 'chip' must be text or whole", named, {}))
    for said, cube, options in calls:
        with pytest.raises(gb.CubeError, match=said):
            gb.write_cube(cube, **({"path": tmp_path / "c.zarr"} | options))
    assert not (tmp_path / "c.zarr").exists()
    with pytest.raises(gb.CubeError, match="region must have four finite bounds"):
        Region.of((np.nan, 0.0, 1.0, 2.0), scene)


def test_what_is_no_map_is_said(tmp_path: Path) -> None:
    (tmp_path / "map.img").write_text("<html>404</html>")
    path = str(tmp_path / "map.img")
    for read in (explore_map, lambda path: gb.change(path, path)):
        with pytest.raises(gb.CubeError, match=r"map\.img is no map that can be read"):
            read(path)


# --- files that name other files ---


def test_a_vector_file_names_no_other_file(
    tmp_path: Path, asked: tuple[str, list[str]]
) -> None:
    secret = tmp_path / "secret.geojson"
    areas = geopandas.GeoDataFrame(
        {"name": ["x"]}, geometry=[box(0, 0, 1, 1)], crs=4326
    )
    areas.to_file(secret)
    assert read_table(secret)["name"].tolist() == ["x"]
    server, paths = asked
    for source in (secret, f"/vsicurl/{server}/x.geojson"):
        names = (
            '<OGRVRTDataSource><OGRVRTLayer name="secret"><SrcDataSource>'
            f"{source}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
        )
        for end in ("geojson", "json", "gpkg", "shp", "kml", "fgb"):
            fake = tmp_path / f"areas.{end}"
            fake.write_text(f"\n {names}")
            with pytest.raises(
                TableError, match=rf"areas\.{end} must have .* OGRVRTData"
            ):
                read_table(fake)
        packed, archive = tmp_path / "areas.geojson.gz", tmp_path / "areas.zip"
        packed.write_bytes(gzip.compress(names.encode()))
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("areas.geojson", names)
        for fake in (packed, archive):
            with pytest.raises(TableError, match="got a file of the kind OGRVRTData"):
                read_table(fake)
    command = tmp_path / "areas.json"
    command.write_text('{"type": "gdal_streamed_alg", "command_line": "gdal vector"}')
    with pytest.raises(TableError, match="of the kind gdal_streamed_alg"):
        read_table(command)
    assert paths == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_image_names_no_other_file(
    tmp_path: Path, asked: tuple[str, list[str]]
) -> None:
    secret = tmp_path / "secret.tif"
    size = {"width": 8, "height": 8, "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(0, 80, 10, 10)}
    with rasterio.open(secret, "w", driver="GTiff", **size, **place) as file:
        file.write(np.full((1, 8, 8), 42, np.uint8))
    data_set = (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>0,10,0,80,0,-10</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        f"{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    server, paths = asked
    tiles = (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{server}/${{z}}.png</ServerUrl>'
        "</Service><DataWindow><SizeX>8</SizeX><SizeY>8</SizeY></DataWindow></GDAL_WMS>"
    )
    scene = make_scene(32, 32)
    for content in (data_set, tiles):
        for end in (".jp2", ".img", ".png", ".asc", ""):
            fake = tmp_path / f"B04{end}"
            fake.write_text(content)
            table = pd.DataFrame({"path": [str(fake)], "month": [7], "band": ["B04"]})
            with pytest.raises(gb.CubeError, match="it must be an image, got XML or J"):
                gb.from_rasters(table)
            if end not in ("", ".asc"):
                with pytest.raises(gb.CubeError, match="it must be an image, got XML"):
                    gb.with_labels(scene, str(fake))
    assert paths == []
    # By a name that says so it is what the caller wants.
    (tmp_path / "mosaic.vrt").write_text(data_set)
    table = pd.DataFrame({"path": [str(tmp_path / "mosaic.vrt")], "month": [7]})
    found = gb.from_rasters(table.assign(band="B04"))
    assert (found["image"].values == 42).all()


def test_long_headers_many_columns_and_wide_letters(tmp_path: Path) -> None:
    long = "x" * 70_000  # longer than what decides the delimiter
    (tmp_path / "a.csv").write_text(f"{long},y\n1,2\n")
    assert read_table(tmp_path / "a.csv").to_dict("list") == {long: [1], "y": [2]}
    (tmp_path / "b.csv").write_bytes("x,y\n1,2\n".encode("utf-32"))
    assert read_table(tmp_path / "b.csv").to_dict("list") == {"x": [1], "y": [2]}
    (tmp_path / "c.csv").write_text(",".join(map(str, range(100_000))) + "\n1\n")
    with pytest.raises(TableError, match="at most 16,384 columns, got 100,000"):
        read_table(tmp_path / "c.csv")
