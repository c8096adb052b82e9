"""A STAC catalogue makes the package read nothing but what its place allows."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import stac_server
from rasterio.transform import from_origin

import geobiomass as gb
from geobiomass.sources.stac import addresses, guarded_requests, search
from geobiomass.sources.stac.addresses import Guard, may_redirect, place_of
from geobiomass.sources.stac.addresses import without_secrets as plain
from geobiomass.sources.stac.archives import PLANETARY_COMPUTER
from geobiomass.sources.stac.read_month import check_image
from geobiomass.sources.stac.scene import as_scene
from geobiomass.sources.stac.search import find_items, item_of

BOX = (11.0, 50.0, 12.0, 51.0)
Answer = tuple[int, bytes, dict[str, str]]


class Server:
    """A server on this machine; `asked` has the paths that were requested."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                owner.asked.append(path)
                status, body, headers = owner.answers.get(path, (404, b"", {}))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET
            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        self.here = f"http://127.0.0.1:{self.port}"
        self.public = f"http://localhost:{self.port}"  # see the fixture

    def json(self, path: str, content: Any) -> None:
        self.answers[path] = (200, json.dumps(content).encode(), {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server; by its name it counts as one on the internet, by its number not."""
    known = {
        "localhost": ["93.184.216.34"],
        "archive.example": ["93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
        "intranet.example": ["10.1.2.3"],
        "both.example": ["93.184.216.34", "127.0.0.1"],
    }
    before = addresses._resolved
    monkeypatch.setattr(addresses, "_resolved", lambda n: known.get(n) or before(n))
    addresses._place_of_host.cache_clear()
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()
    addresses._place_of_host.cache_clear()
    guarded_requests.check_redirects.cache_clear()


def an_item(href: str = "https://archive.example/B04.tif", **changes: Any) -> Any:
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "item-7",
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "bbox": list(BOX),
        "properties": {
            "datetime": "2021-07-01T10:00:00Z",
            "s2:processing_baseline": "04.00",
        },
        "links": [],
        "assets": {name: {"href": href} for name in ("B04", "SCL")},
    }
    return item | changes


def scene_of(item: Any) -> Any:
    return as_scene(item_of(item), PLANETARY_COMPUTER, None)


def in_catalogue(server: Server, item: Any, base: str) -> Any:
    """Return the scene of an item that a catalogue of a server has."""
    server.json("/items.json", {"type": "FeatureCollection", "features": [item]})
    (found,) = find_items(f"{base}/items.json", None, BOX, None)
    return as_scene(found, PLANETARY_COMPUTER, None)


INSIDE = (
    *("/etc/passwd", "file:///etc/passwd", "../../secret.tif", "C:\\secret.tif"),
    *("http://127.0.0.1/x.tif", "http://127.1/x", "http://2130706433/x"),
    *("http://0x7f.1/x", "http://[::1]/x", "http://[::ffff:127.0.0.1]/x"),
    *("http://0.0.0.0/x", "http://169.254.169.254/latest/meta-data"),
    *("http://10.0.0.1/x", "http://192.168.1.1/x", "http://[fd00::1]/x"),
    *("http://100.64.0.1/x", "http://intranet.example/x", "http://both.example/x"),
    *("http://user@127.0.0.1:80/x", "HTTP://127.0.0.1/x", "http://[64:ff9b::7f00:1]/x"),
    *("/vsicurl/http://127.0.0.1/x", "/vsizip/vsicurl/https://archive.example/x.zip"),
    *("zip+file:///x.zip!a.tif", "zip+https://archive.example/x.zip", "vrt:///etc/x"),
    *("<VRTDataset/>", 'NETCDF:"/etc/x":a', "GTIFF_DIR:1:/etc/x", "ftp://a.example/x"),
    *("http://archive.example\\@127.0.0.1/x", "http://archive.example/x y", "http://["),
    *("https://", "\\\\host\\share", "javascript:1", "data:,x"),
)


def test_a_catalogue_on_the_internet_names_only_the_internet(server: Server) -> None:
    relative, refused = [], []
    for href in INSIDE:
        try:
            scene = in_catalogue(server, an_item(href), server.public)
        except gb.CubeError as error:
            refused.append(str(error))
            continue
        address = scene.asset("B04")[1]
        assert address.startswith((f"{server.public}/", "http://archive.example/@")), (
            href
        )
        relative.append(href)
    assert len(relative) <= 7  # names of files are names on the server of the catalogue
    assert len(refused) + len(relative) == len(INSIDE)
    named = ("Asset SCL of item item-7", "Asset B04 of item item-7")
    assert all(text.startswith(named) for text in refused)
    for href in ("https://archive.example/a.tif?sig=x", "s3://bucket/a.tif", "a/b.tif"):
        scene = in_catalogue(server, an_item(href), server.public)
        assert scene.catalogue == f"{server.public}/items.json"
        end = f"/{href}" if href == "a/b.tif" else href
        assert scene.asset("B04")[1].endswith(end)
    # An item that says that it is elsewhere gains nothing.
    links = [{"rel": "self", "href": "/home/me/item.json"}]
    with pytest.raises(gb.CubeError, match=r"/home/me/B04\.tif, a file, which a"):
        in_catalogue(server, an_item("./B04.tif", links=links), server.public)
    assert set(server.asked) == {"/items.json"}


def test_a_catalogue_names_what_is_as_near_as_itself(
    server: Server, tmp_path: Path
) -> None:
    near = f"{server.here}/x.tif"
    assert in_catalogue(server, an_item(near), server.here).asset("B04")[1] == near
    with pytest.raises(gb.CubeError, match=r"refers to file:/+etc/x, a file, which a"):
        in_catalogue(server, an_item("file:///etc/x"), server.here)
    with pytest.raises(gb.CubeError, match="a link-local address"):
        in_catalogue(server, an_item("http://169.254.169.254/x"), server.here)
    # A file of the user, and items that the user's code made, name anything.
    content = {"type": "FeatureCollection", "features": [an_item("/data/x.tif")]}
    (tmp_path / "items.json").write_text(json.dumps(content))
    (found,) = find_items(tmp_path / "items.json", None, BOX, None)
    assert as_scene(found, PLANETARY_COMPUTER, None).asset("B04")[1] == "/data/x.tif"
    assert scene_of(an_item("/data/x.tif")).catalogue == ""
    # In memory, but it says itself that it is from the internet.
    links = [{"rel": "self", "href": "https://archive.example/item-7.json"}]
    with pytest.raises(gb.CubeError, match="may not name"):
        scene_of(an_item("file:///data/x.tif", links=links))


def test_places() -> None:
    wanted = {
        "https://93.184.216.34/x": "public",
        "s3://bucket/x": "public",
        "http://127.0.0.1:8000": "loopback",
        "http://[::]/x": "loopback",
        "http://[fe80::1]/": "link-local",
        "http://10.0.0.1": "private",
        "http://224.0.0.1/": "private",
        "scenes/items.json": "file",
        "/vsis3/bucket/x": "file",
    }
    assert {href: place_of(href) for href in wanted} == wanted
    assert Guard("http://10.0.0.1/").check("http://10.0.0.2/x", "It") is not None
    for store in (
        "https://a.blob.core.windows.net/x",
        "https://b.s3.eu-1.amazonaws.com/x",
    ):
        assert not may_redirect(store)
    assert may_redirect("https://b.s3-website.eu-1.amazonaws.com/x")
    assert may_redirect("https://s3.evil-amazonaws.com/x")


def test_a_table_on_the_internet_names_no_file(server: Server) -> None:
    table = b"path,month\n/data/x.tif,7\n"
    server.answers["/t.csv"] = (200, table, {})
    with pytest.raises(gb.CubeError, match=r"A row of the table refers to /data/x"):
        gb.from_rasters(f"{server.public}/t.csv")


# --- links and redirects ---


def test_links_and_redirects_lead_nowhere_else(server: Server) -> None:
    server.json("/secret.json", {"type": "FeatureCollection", "features": []})
    to_secret = {"Location": f"{server.here}/secret.json"}
    server.answers["/moved.json"] = (302, b"", to_secret)
    server.answers["/file.json"] = (301, b"", {"Location": "file:///etc/passwd"})
    for path in ("moved", "file"):
        with pytest.raises(gb.CubeError, match=r"may not name|No connection adapters"):
            find_items(f"{server.public}/{path}.json", None, BOX, None)
    for target in (f"{server.here}/secret.json", "/etc/passwd", "file:///etc/passwd"):
        links = [{"rel": "item", "href": target}]
        server.json("/catalog.json", {"type": "Catalog", "links": links})
        if target == "/etc/passwd":
            server.asked.clear()
        with pytest.raises(gb.CubeError, match=r"cannot be read as STAC|may not name"):
            find_items(f"{server.public}/catalog.json", None, BOX, None)
    assert "/secret.json" not in server.asked


def test_a_file_whose_server_sends_elsewhere_is_not_read(server: Server) -> None:
    server.answers["/x.tif"] = (302, b"", {"Location": f"{server.here}/secret.tif"})
    scene = in_catalogue(server, an_item(f"{server.public}/x.tif"), server.public)
    with pytest.raises(gb.CubeError, match=r"secret\.tif, a server on this machine"):
        guarded_requests.check_redirects(scene.asset("B04")[1], scene.catalogue)
    assert "/secret.tif" not in server.asked


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_data_set_that_names_other_files_is_no_image(tmp_path: Path) -> None:
    secret, fake = tmp_path / "secret.tif", tmp_path / "B04.tif"
    size = {"width": 8, "height": 8, "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(0, 80, 10, 10)}
    with rasterio.open(secret, "w", driver="GTiff", **size, **place) as file:
        file.write(np.full((1, 8, 8), 42, np.uint8))
    fake.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" '
        f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(fake) as file:  # what GDAL does with it
        assert (file.read() == 42).all()
    with pytest.raises(rasterio.errors.RasterioError, match="not recognized"):
        check_image(str(fake))
    check_image(str(secret))
    with rasterio.open(secret, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(fake))
    check_image.cache_clear()
    with pytest.raises(ValueError, match="names another file as its overviews"):
        check_image(str(secret))


# --- documents ---


def test_documents_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_requests, "MOST_BYTES", 100_000)
    bomb = gzip.compress(b" " * 50_000_000)
    server.answers["/bomb.json"] = (200, bomb, {"Content-Encoding": "gzip"})
    server.answers["/deep.json"] = (200, b'{"type":' + b"[" * 90_000, {})
    server.answers["/wrong.json"] = (200, b'{"type": "Catalog", "links": [1]}', {})
    server.answers["/list.json"] = (200, b"[]", {})
    for path, said in {
        "bomb": "must have at most 100,000 bytes",
        "deep": "nested at most 100 levels|must be JSON",
        "wrong": "links of .*wrong.json must be a list of objects",
        "list": "must be a JSON object, got array",
    }.items():
        with pytest.raises(gb.CubeError, match=said):
            find_items(f"{server.here}/{path}.json", None, BOX, None)


def test_a_search_and_a_catalogue_without_end_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geobiomass.sources.stac.period import parse_period

    monkeypatch.setattr(search, "_MOST", 50)
    conforms = ["https://api.stacspec.org/v1.0.0/" + n for n in ("core", "item-search")]
    again = {"rel": "next", "href": f"{server.here}/search"}
    landing = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "x",
        "description": "x",
        "conformsTo": conforms,
        "links": [
            {
                "rel": "search",
                "href": f"{server.here}/search",
                "type": "application/geo+json",
                "method": "POST",
            }
        ],
    }
    page = {"type": "FeatureCollection", "features": [an_item()] * 9, "links": [again]}
    server.json("/", landing)
    server.json("/search", page)
    period = parse_period("2021-07:2021-07")
    with pytest.raises(gb.CubeError, match="must have at most 50 items, got more"):
        find_items(f"{server.here}/", PLANETARY_COMPUTER, BOX, period)
    assert server.asked.count("/search") == 6
    links = [{"rel": "child", "href": f"./{n}.json"} for n in range(60)]
    for n in range(60):
        server.json(f"/{n}.json", {"type": "Catalog", "links": []})
    server.json("/catalog.json", {"type": "Catalog", "links": links})
    with pytest.raises(gb.CubeError, match="must have at most 50 documents"):
        find_items(f"{server.here}/catalog.json", None, BOX, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bbox": [float("nan"), 50, 12, 51]}, "bbox of item item-7 must be west"),
        ({"bbox": [11, 50, 12]}, "bbox of item item-7 must be west"),
        ({"bbox": ["11", "50", "12", "51"]}, "bbox of item item-7 must be west"),
        ({"bbox": [11, 95, 12, 96]}, "bbox of item item-7 must be west"),
        ({"bbox": [11, 51, 12, 50]}, "bbox of item item-7 must be west"),
        ({"bbox": 5}, "item-7"),
        ({"properties": {}}, "item-7"),
        ({"properties": {"datetime": None}}, "item-7"),
        ({"properties": {"datetime": 5}}, "item-7"),
        ({"properties": []}, "item-7"),
        ({"assets": []}, "item-7"),
        ({"assets": {"B04": 1, "SCL": {"href": 2}}}, "item-7"),
        ({"geometry": 7, "bbox": None}, "item-7"),
        ({"links": 7}, "item-7"),
        (
            {"properties": {"datetime": "2021-07-01T00:00:00Z", "eo:cloud_cover": "x"}},
            "eo:cloud_cover of item item-7 must be a number",
        ),
    ],
)
def test_an_item_of_wrong_types_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(gb.CubeError, match=said):
        gb.from_stac([an_item(**changes)], stac_server.BOUNDS, months="2021-07:2021-07")


def test_addresses_are_kept_without_secrets() -> None:
    secret = "https://user:pw@archive.example/items/item-7.json?sig=SECRET#part"
    links = [{"rel": "self", "href": secret}]
    assert scene_of(an_item(links=links)).address == (
        "https://archive.example/items/item-7.json"
    )
    assert plain("s3://key:secret@bucket/x?y") == "s3://bucket/x"
    assert plain("http://[x?sig=SECRET") == "http://[x"
