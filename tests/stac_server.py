"""A small archive of COGs, and a server for it with HTTP ranges and a STAC API.

It has two UTM zones, clouds at known pixels, numbers with and without the offset of
2022, a month without images, and both passes of radar. Coordinates and dates determine
the pixels, so that a test can compute the expected composite.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

BOUNDS = (11.985, 50.0, 12.03, 50.03)
PERIOD = "2021-12:2022-03"
S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_COARSE = {"B05", "B06", "B07", "B8A", "B11", "B12", "SCL"}  # 20 m
EARTH_SEARCH_NAMES = {
    **{"B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1"},
    **{"B06": "rededge2", "B07": "rededge3", "B08": "nir", "B8A": "nir08"},
    **{"B11": "swir16", "B12": "swir22", "SCL": "scl", "CLP": "cloud"},
}
# West edge, north edge, columns, rows at 10 m. Within the bounds, zone 32 ends in the
# east and zone 33 in the west; the strip between is in both.
ZONES = {
    32632: (713_000, 5_546_600, 240, 400),
    32633: (284_500, 5_546_600, 320, 400),
}
VEGETATION, CLOUD, SHADOW, SNOW, DARK = 4, 9, 3, 11, 2


@dataclass(frozen=True)
class Raster:
    """Pixels with their georeference."""

    pixels: npt.NDArray[Any]
    zone: int
    west: float
    north: float
    step: float

    def at(self, x: Any, y: Any, crs: int) -> npt.NDArray[Any]:
        """Return the pixel that contains each point; 0 if there is none."""
        to = Transformer.from_crs(crs, self.zone, always_xy=True)
        east, north = to.transform(*np.broadcast_arrays(x, y))
        column = np.floor((east - self.west) / self.step).astype(int)
        row = np.floor((self.north - north) / self.step).astype(int)
        height, width = self.pixels.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = self.pixels[row.clip(0, height - 1), column.clip(0, width - 1)]
        return np.where(inside, found, 0)


@dataclass(frozen=True)
class Image:
    """An item with the contents of its files."""

    name: str
    when: str
    zone: int
    rasters: dict[str, Raster]  # by band
    properties: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of assets, by band
    collection: str = "sentinel-2-l2a"

    def item(self, base: str) -> dict[str, Any]:
        """Return its STAC item, with addresses under `base`."""
        west, north, width, height = ZONES[self.zone]
        corners = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]
        to = Transformer.from_crs(self.zone, 4326, always_xy=True)
        ring = [
            to.transform(west + 10 * width * i, north - 10 * height * j)
            for i, j in corners
        ]
        lons, lats = zip(*ring, strict=True)
        assets = {
            self.names.get(band, band): {
                "href": f"{base}/{self.name}/{band}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
            }
            for band in self.rasters
        }
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": self.name,
            "collection": self.collection,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "bbox": [min(lons), min(lats), max(lons), max(lats)],
            "properties": {"datetime": self.when, **self.properties},
            "links": [],
            "assets": assets,
        }


def raster(zone: int, step: int, pixels: npt.NDArray[Any] | None = None) -> Raster:
    """Return pixels, or zeros, georeferenced on the tile of a zone."""
    west, north, width, height = ZONES[zone]
    if pixels is None:
        pixels = np.zeros((height * 10 // step, width * 10 // step), np.uint16)
    return Raster(pixels, zone, west, north, step)


def ground(zone: int, step: int) -> npt.NDArray[np.float64]:
    """Compute a smooth field over both zones: about one unit every ten metres."""
    blank = raster(zone, step)
    rows, columns = np.indices(blank.pixels.shape) + 0.5
    to = Transformer.from_crs(zone, 4326, always_xy=True)
    lon, lat = to.transform(blank.west + columns * step, blank.north - rows * step)
    return np.asarray(7_000 * (lon - 11.96) + 3_000 * (lat - 49.98))


def optical(
    name: str,
    when: str,
    zone: int,
    shift: int,
    offset: int = 0,
    patches: Sequence[tuple[int, int, int, int, int]] = (),
    **more: Any,
) -> Image:
    """Draw a Sentinel-2 scene.

    `patches` are (first row, last row, first column, last column, class) at 20 m; the
    rest is vegetation. `shift` is added to the reflectance of the ground on this date.
    """
    classes = np.full_like(raster(zone, 20).pixels, VEGETATION, np.uint8)
    for top, bottom, left, right, kind in patches:
        classes[top:bottom, left:right] = kind
    rasters = {"SCL": raster(zone, 20, classes)}
    for index, band in enumerate(S2_BANDS):
        step = 20 if band in _COARSE else 10
        numbers = np.rint(ground(zone, step)) + 100 * index + shift + offset
        # Clouds are bright, so that unmasked ones show.
        covered = np.kron(classes, np.ones((20 // step,) * 2, np.uint8))
        numbers[np.isin(covered, (CLOUD, SHADOW))] = 9_000
        numbers[covered == 0] = 0
        rasters[band] = raster(zone, step, numbers.astype(np.uint16))
    return Image(name, when, zone, rasters, **more)


def radar(name: str, when: str, zone: int, state: str, power: float) -> Image:
    """Draw a Sentinel-1 RTC scene: power rises with the ground; it has a hole."""
    field_ = power * (1 + ground(zone, 10) / 1_000)
    field_[100:120, 100:120] = -32768
    field_[140:150, 140:150] = 0
    rasters = {
        "VV": raster(zone, 10, field_.astype(np.float32)),
        "VH": raster(zone, 10, (field_ / 4).astype(np.float32)),
    }
    properties = {"sat:orbit_state": state, "platform": "SENTINEL-1A"}
    names = {"VV": "vv", "VH": "vh"}
    return Image(name, when, zone, rasters, properties, names, "sentinel-1-rtc")


def images() -> list[Image]:
    """Draw the images of the archive."""
    s2a = {"platform": "Sentinel-2A"}
    old = {**s2a, "s2:processing_baseline": "03.01", "eo:cloud_cover": 20.0}
    new = {**s2a, "s2:processing_baseline": "04.00", "eo:cloud_cover": 5.0}
    done = {**new, "earthsearch:boa_offset_applied": True, "eo:cloud_cover": 60.0}
    december = "2021-12-{:02d}T10:14:{:02d}Z".format
    west_cloud, snowy = (20, 60, 0, 60, CLOUD), (100, 140, 60, 110, SNOW)
    return [
        # One pass, two zones; the tile of zone 32 is cloudy where the other is not.
        optical("s2-dec-03-z33", december(3, 1), 32633, 0, properties=old),
        optical(
            "s2-dec-03-z32", december(3, 15), 32632, 0, 0, [(0, 90, 0, 120, CLOUD)],
            properties=old,
        ),
        optical(
            "s2-dec-13-z33", december(13, 1), 32633, 40, 0,
            [west_cloud, snowy], properties=old,
        ),
        optical(
            "s2-dec-23-z33", december(23, 1), 32633, 80, 0,
            [(50, 90, 40, 100, SHADOW), west_cloud, (150, 200, 0, 150, 0)],
            properties=old,
        ),
        # With the offset, and with it removed; asset names of two archives.
        optical("s2-feb-11-z32", "2022-02-11T10:14:01Z", 32632, 7, 1000,
                properties=new),
        optical(
            "s2-feb-21-z33", "2022-02-21T10:14:01Z", 32633, 7, 0,
            [(0, 60, 0, 60, CLOUD)], properties=done, names=EARTH_SEARCH_NAMES,
        ),
        radar("s1-feb-05-asc", "2022-02-05T16:50:00Z", 32633, "ascending", 0.05),
        radar("s1-feb-17-asc", "2022-02-17T16:50:00Z", 32633, "ascending", 0.15),
        radar("s1-feb-09-desc", "2022-02-09T05:20:00Z", 32632, "descending", 0.02),
        radar("s1-mar-01-asc", "2022-03-01T16:50:00Z", 32633, "ascending", 0.1),
        optical("s2-may-01-z33", "2022-05-01T10:14:01Z", 32633, 0, 1000,
                properties=new),
    ]  # fmt: skip


def write_images(folder: Path, drawn: Sequence[Image]) -> None:
    """Write every band as a cloud-optimised GeoTIFF."""
    for image in drawn:
        (folder / image.name).mkdir(parents=True)
        for band, one in image.rasters.items():
            height, width = one.pixels.shape
            with rasterio.open(
                folder / image.name / f"{band}.tif",
                "w",
                driver="COG",
                height=height,
                width=width,
                count=1,
                dtype=one.pixels.dtype,
                crs=f"EPSG:{one.zone}",
                transform=from_origin(one.west, one.north, one.step, one.step),
                nodata=-32768 if one.pixels.dtype.kind == "f" else 0,
                blocksize=128,
                compress="deflate",
            ) as file:
                file.write(one.pixels, 1)


def cut_short(path: Path) -> None:
    """Truncate a file, so that its header is complete but its pixels are not."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_catalogue(folder: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Write a static catalogue; each item is in the folder of its files."""
    links = []
    for item in items:
        name = item["id"]
        assets = {
            key: {**asset, "href": Path(asset["href"]).name}
            for key, asset in item["assets"].items()
        }
        (folder / name / f"{name}.json").write_text(
            json.dumps({**item, "assets": assets})
        )
        links.append({"rel": "item", "href": f"./{name}/{name}.json"})
    root = folder / "catalog.json"
    described = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "here",
        "description": "A few scenes.",
        "links": links,
    }
    root.write_text(json.dumps(described))
    return root


# Serving -------------------------------------------------------------------------


@dataclass
class Site:
    """The served folder and items, and a record of the requests."""

    folder: Path
    items: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    page: int = 100  # items a page of a search
    delay: float = 0.0  # seconds before each part of a file
    signature: str = ""  # if set, files need ?sig=
    answers: list[tuple[str, int]] = field(default_factory=list)  # path, status
    searches: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes by path
    lock: Any = field(default_factory=threading.Lock)

    def statuses(self, ending: str = ".tif") -> list[int]:
        """Return the status codes of requests for files."""
        with self.lock:
            return [status for path, status in self.answers if path.endswith(ending)]

    def forget(self) -> None:
        """Clear the record of requests."""
        with self.lock:
            self.answers.clear()
            self.searches.clear()
            self.sent.clear()


class Archive(BaseHTTPRequestHandler):
    """Files by range, and a STAC API with landing page, collections and search."""

    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if urlsplit(self.path).path == "/search":
            self._search(json.loads(body))
        else:
            self._answer(404)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: value[0] for name, value in parse_qs(parts.query).items()}
        if parts.path == "/":
            self._json(self._landing())
        elif parts.path == "/search":
            self._search(asked)
        elif parts.path.startswith("/collections"):
            self._json({"collections": [], "links": []})
        else:
            self._file(parts.path, asked)

    do_HEAD = do_GET

    def _landing(self) -> dict[str, Any]:
        url = self.site.url
        search = {
            "rel": "search",
            "href": f"{url}/search",
            "type": "application/geo+json",
        }
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "local",
            "description": "A local archive.",
            "conformsTo": [
                "https://api.stacspec.org/v1.0.0/core",
                "https://api.stacspec.org/v1.0.0/item-search",
            ],
            "links": [
                {"rel": "self", "href": f"{url}/", "type": "application/json"},
                {"rel": "root", "href": f"{url}/", "type": "application/json"},
                {**search, "method": "GET"},
                {**search, "method": "POST"},
            ],
        }

    def _search(self, asked: dict[str, Any]) -> None:
        with self.site.lock:
            self.site.searches.append(asked)
        found = [item for item in self.site.items if _matches(item, asked)]
        first = int(asked.get("token", 0))
        size = min(self.site.page, int(asked.get("limit", 100)))
        links = []
        if first + size < len(found):
            following = {**asked, "token": str(first + size)}
            links = [
                {
                    "rel": "next",
                    "href": f"{self.site.url}/search",
                    "method": "POST",
                    "body": following,
                }
            ]
        features = found[first : first + size]
        self._json({"type": "FeatureCollection", "features": features, "links": links})

    def _file(self, path: str, asked: dict[str, str]) -> None:
        target = self.site.folder / path.lstrip("/")
        if self.site.signature and asked.get("sig") != self.site.signature:
            self._answer(403)
        elif not target.is_file():
            self._answer(404)
        else:
            time.sleep(self.site.delay)
            self._part(target.read_bytes())

    def _part(self, content: bytes) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            self._answer(200, content, {"Accept-Ranges": "bytes"})
            return
        first, _, last = wanted.partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        stop = len(content)
        if first and last:  # without the first, they are the last bytes
            stop = min(int(last) + 1, stop)
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        span = f"bytes {start}-{stop - 1}/{len(content)}"
        headers = {"Content-Range": span, "Accept-Ranges": "bytes"}
        self._answer(206, content[start:stop], headers)

    def _json(self, content: Any) -> None:
        headers = {"Content-Type": "application/json"}
        self._answer(200, json.dumps(content).encode(), headers)

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        with self.site.lock:
            path = urlsplit(self.path).path
            self.site.answers.append((path, status))
            if self.command != "HEAD":
                self.site.sent[path] = self.site.sent.get(path, 0) + len(body)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _matches(item: dict[str, Any], asked: dict[str, Any]) -> bool:
    collections = asked.get("collections", [item["collection"]])
    if isinstance(collections, str):
        collections = collections.split(",")
    box = asked.get("bbox", item["bbox"])
    if isinstance(box, str):
        box = [float(edge) for edge in box.split(",")]
    west, south, east, north = item["bbox"]
    meets = west <= box[2] and box[0] <= east and south <= box[3] and box[1] <= north
    when = datetime.fromisoformat(item["properties"]["datetime"])
    edges = [
        datetime.fromisoformat(t) for t in asked.get("datetime", "").split("/") if t
    ]
    first, last = edges or (datetime.min.replace(tzinfo=UTC), when)
    return item["collection"] in collections and meets and first <= when <= last


@contextmanager
def serve(folder: Path, drawn: Sequence[Image]) -> Iterator[Site]:
    """Serve a folder of images locally, as files and as a STAC API."""
    site = Site(folder)
    handler = type("OneArchive", (Archive,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    site.items = [image.item(site.url) for image in drawn]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
