"""Files that claim absurd sizes are refused before memory is taken for them."""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import rasterio
from conftest import make_scene
from PIL import Image
from rasterio.transform import from_origin

import geobiomass as gb
from geobiomass.cube.claimed_size import check_tasks, driver_of
from geobiomass.maps.reading import open_map
from geobiomass.tables import TableError, read_table, unpacking
from geobiomass.training import json_files
from geobiomass.training.json_files import JsonError, parse_json, read_json


@pytest.fixture
def few_bytes() -> Iterator[None]:
    """Limit the address space to 6 GB more than now: what is absurd fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 6 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def sparse(path: Path, side: int, block: int = 4096, count: int = 1) -> Path:
    """Write a GeoTIFF of 0.3 MB with any number of pixels, all missing."""
    options = {"tiled": True, "blockxsize": block, "blockysize": block}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=count,
        dtype="float32",
        nodata=-1,
        crs="EPSG:32635",
        transform=from_origin(300_000, 6_900_000, 10, 10),
        SPARSE_OK=True,
        BIGTIFF="YES",
        compress="zstd",
        **options,
    ) as file:
        file.set_band_description(1, "B04")
    return path


# --- rasters ---


@pytest.mark.usefixtures("few_bytes")
def test_a_sparse_raster_of_any_size_takes_no_time(tmp_path: Path) -> None:
    pytest.importorskip("folium", reason="folium is not installed")
    from geobiomass.maps.web import explore_map

    big = sparse(tmp_path / "big.tif", 1_000_000)
    files = pd.DataFrame({"path": [str(big)], "month": [7]})
    for read in (
        gb.describe,
        explore_map,
        open_map,
        lambda path: gb.from_rasters(files),
        lambda path: gb.from_rasters(files, like=str(path)),
    ):
        with pytest.raises(gb.CubeError, match=r"at most 5e\+11 pixels, got 1,000,000"):
            read(str(big))
    # Just below: a few blocks are read, or nothing.
    large = sparse(tmp_path / "large.tif", 700_000)
    found = gb.describe(str(large))
    assert found["size"] == "700000 x 700000 pixels"
    assert "sampled: 8 blocks" in found["values"]
    with pytest.raises(ValueError, match=r"must have overviews to be .* 4\.9e\+11"):
        explore_map(str(large), tiles=None)
    files = pd.DataFrame({"path": [str(large)] * 2, "month": [7, 8]})
    with pytest.raises(gb.CubeError, match="at most 3,000,000 blocks of 256 pixels"):
        gb.from_rasters(files)
    part = gb.from_rasters(
        files, bounds=(3e5, 6.899e6, 3.01e5, 6.9e6), bounds_crs=32635
    )
    assert part.sizes["y"] == 100


def test_blocks_bands_and_tasks_are_bounded(tmp_path: Path) -> None:
    wide = sparse(tmp_path / "wide.tif", 60_000, block=50_000 // 16 * 16)
    with pytest.raises(gb.CubeError, match=r"wide\.tif must have blocks of at most"):
        gb.describe(str(wide))
    check_tasks(12, (100_000, 100_000), 256)
    with pytest.raises(gb.CubeError, match="got 5,868,750,000 for 12 months of 6,4"):
        check_tasks(12, (25_000_000 * 256, 5_000 * 256), 256 * 16)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_file_called_tif_is_a_tiff(tmp_path: Path) -> None:
    secret, fake = sparse(tmp_path / "secret.tif", 64, 16), tmp_path / "map.tif"
    fake.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Float32" '
        f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    files = pd.DataFrame({"path": [str(fake)], "month": [7], "band": ["B04"]})
    with pytest.raises(gb.CubeError, match=r"map\.tif: it cannot be opened"):
        gb.from_rasters(files)
    with pytest.raises(gb.DamagedError, match="not recognized"):
        gb.describe(str(fake))
    assert driver_of("https://a/B.TIF?sig=x") == "GTiff"
    assert driver_of("a.vrt") is None


# --- Zarr ---


def edited(path: Path, name: str, **changes: object) -> None:
    """Change the metadata of an array, where it is and where it is consolidated."""
    for file in (path / name / "zarr.json", path / "zarr.json"):
        content = json.loads(file.read_text())
        inner = content
        if file.parent == path:
            inner = content.get("consolidated_metadata") or {"metadata": {}}
            inner = inner["metadata"].get(name, {})
        inner.update(changes)
        file.write_text(json.dumps(content))


@pytest.mark.usefixtures("few_bytes")
def test_zarr_arrays_of_absurd_shapes_are_refused(tmp_path: Path) -> None:
    scene = make_scene(32, 32)
    for number, (name, changes, said) in enumerate(
        [
            ("x", {"shape": [10**12]}, "Array 'x' of .* at most 100,000,000 values"),
            ("image", {"shape": [12, 2, 10**7, 10**7]}, r"at most 5e\+11 pixels"),
            ("image", {"shape": [10**15, 2, 32, 32]}, r"1e\+15 values"),
        ]
    ):
        path = tmp_path / f"{number}.zarr"
        gb.write_cube(scene, path, progress=False)
        edited(path, name, **changes)
        # A foreign store has no seal, with which the change itself would be told.
        shutil.rmtree(path / "checksums")
        root = json.loads((path / "zarr.json").read_text())
        del root["consolidated_metadata"]["metadata"]["checksums"]
        (path / "zarr.json").write_text(json.dumps(root))
        for read in (gb.open_cube, gb.describe):
            with pytest.raises(gb.CubeError, match=said):
                read(path)
    path = tmp_path / "map.zarr"
    grid = {"chunk_shape": [10**6, 10**6]}
    scene[["agb"]].to_zarr(path, zarr_format=3, consolidated=False)
    edited(path, "agb", chunk_grid={"name": "regular", "configuration": grid})
    for read in (gb.open_cube, open_map):
        with pytest.raises(gb.CubeError, match="chunks of at most 4,294,967,296 bytes"):
            read(str(path))


# --- tables ---


def test_compressed_tables_are_unpacked_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"x,y,agb\n1,2,3\n"
    sound = tmp_path / "a.csv.gz"
    sound.write_bytes(gzip.compress(text) + gzip.compress(b"4,5,6\n") + b"\0" * 9)
    assert read_table(sound)["agb"].tolist() == [3, 6]
    monkeypatch.setattr(unpacking, "MOST_BYTES", 1_000_000)
    bomb = text + b"\n" * 10_000_000
    for name, content, said in (
        ("b.csv.gz", gzip.compress(bomb), "must have at most 1,000,000 bytes"),
        ("c.csv.gz", gzip.compress(text)[:-9], "ends before its data does|invalid"),
        ("d.geojson.gz", gzip.compress(bomb), "must have at most 1,000,000 bytes"),
        ("e.csv.gz", gzip.compress(text) + b"rubbish", "incorrect header check"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=said):
            read_table(tmp_path / name)
    for name in ("f.zip", "g.kmz", "h.xlsx"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", bomb)
        with pytest.raises(TableError, match="must have at most 1,000,000 bytes"):
            read_table(tmp_path / name)


@pytest.mark.usefixtures("few_bytes")
@pytest.mark.slow
def test_tables_that_span_more_cells_than_they_have_are_refused(tmp_path: Path) -> None:
    import openpyxl
    import pyarrow as pa
    import pyarrow.parquet as pq

    book = openpyxl.Workbook()
    book.active["A1"], book.active["B2"] = "x", 1
    book.save(tmp_path / "small.xlsx")
    book.active["XFD1048576"] = 1
    book.save(tmp_path / "a.xlsx")
    (tmp_path / "b.csv").write_text(",".join("x" * 30_000) + "\n" + "1\n" * 30_000)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int8()), ["a"])
    wide = pa.table({f"c{n}": column for n in range(201)})
    pq.write_table(wide, tmp_path / "c.parquet")
    for name in ("a.xlsx", "b.csv", "c.parquet"):
        with (
            pytest.raises(TableError, match="must have at most 200,000,000 cells, got"),
            pytest.warns(UserWarning, match="several")
            if name == "b.csv"
            else _nothing(),
        ):
            read_table(tmp_path / name)
    assert len(read_table(tmp_path / "small.xlsx")) == 1


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def test_tables_are_never_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,note\n1,=1+1\n2,__import__('os').system('x')\n3,@SUM(A1)\n")
    assert read_table(path)["note"].tolist() == [
        *("=1+1", "__import__('os').system('x')", "@SUM(A1)")
    ]


# --- photos ---


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


@pytest.mark.usefixtures("few_bytes")
def test_photos_of_absurd_sizes_and_of_other_programs_are_refused(
    tmp_path: Path,
) -> None:
    from pasture.photo_files import PhotoError, measure_photo, open_photo

    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000))
    whole = io.BytesIO()
    Image.new("L", (8, 8)).save(whole, "GIF")
    wide = bytearray(whole.getvalue())
    wide[6:10] = struct.pack("<HH", 65_000, 65_000)
    (tmp_path / "bomb.jpg").write_bytes(wide)
    (tmp_path / "script.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
        b"(%pipe%touch evil) (w) file\n%%EOF\n"
    )
    for name, said in {
        "bomb.png": "exceeds limit|save it with fewer pixels",
        "bomb.jpg": "exceeds limit|save it with fewer pixels",
        "script.jpg": "it is no image of a kind that Pillow reads",
    }.items():
        for read in (open_photo, measure_photo):
            with pytest.raises(PhotoError, match=said):
                read(str(tmp_path / name))


# --- JSON ---


def test_json_is_bounded_in_size_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = json_files.MOST_DEPTH
    assert parse_json("[" * most + "]" * most, "it") is not None
    path = tmp_path / "x.json"
    for content, said in {
        "[" * (most + 1) + "]" * (most + 1): "nested at most 100 levels deep",
        "[" * 200_000: "must be JSON",
        '{"a":' * 200_000: "must be JSON",
        "[1, 2": "must be JSON, got something else",
        "1" * 5000: "must be JSON",
        "[]": "must be a JSON object, got array",
    }.items():
        path.write_text(content)
        with pytest.raises(JsonError, match=rf"x\.json .*({said})"):
            read_json(path, dict)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(JsonError, match=r"x\.json must be JSON"):
        read_json(path)
    monkeypatch.setattr(json_files, "MOST_BYTES", 10)
    path.write_text("[" + " " * 20 + "]")
    with pytest.raises(JsonError, match="must have at most 10 bytes of JSON, got more"):
        read_json(path, most_bytes=10)
    with pytest.raises(JsonError, match="/dev/zero must be a file, got a device"):
        read_json("/dev/zero")
    with pytest.raises(JsonError, match="must be JSON text, got int"):
        parse_json(7, "The attribute scenes")  # type: ignore[arg-type]
