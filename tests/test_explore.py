"""Maps on a page of the web: read a piece at a time, and looked at in Chromium."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from PIL import Image

import geobiomass as gb
from geobiomass.maps.web import explore_map, shrunk
from geobiomass.network import AttentionUNet
from geobiomass.training.packages import MissingPackageError

pytest.importorskip("folium", reason="folium is not installed")

YELLOW, PURPLE = (253, 231, 36), (68, 1, 84)  # the ends of viridis
# Debian's libjs-leaflet, or what the variable names: dist of the npm package leaflet.
LEAFLET = Path(os.environ.get("LEAFLET_FOLDER", "/usr/share/javascript/leaflet"))


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (16, 16, 16, 16, 16))
    return gb.BiomassRegressor(network.eval(), ("VV_asc", "B04", "B08"), months=3)


def two_halves(height: int = 60, width: int = 80) -> xr.Dataset:
    """A map with 200 Mg/ha in the west, none in the east, nodata in the north."""
    scene = make_scene(height, width)[["agb"]]
    scene["agb"][:] = 0
    scene["agb"][:, : width // 2] = 200
    scene["agb"][: height // 6] = np.nan
    return scene


def overlays(page: Any) -> list[Any]:
    return [c for n, c in page._children.items() if n.startswith("image_overlay")]


def picture_of(overlay: Any) -> npt.NDArray[np.uint8]:
    import base64

    data = base64.b64decode(overlay.url.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)))


# --- a map made small ----------------------------------------------------------


def test_a_large_map_is_read_a_piece_at_a_time() -> None:
    largest = {"pixels": 0}
    draw = np.random.default_rng(0)
    values = draw.normal(100, 20, (700, 5000)).astype(np.float32)
    values[:, :13] = np.nan

    class Watched(xr.backends.BackendArray):
        shape, dtype = values.shape, values.dtype

        def __getitem__(self, key: xr.core.indexing.ExplicitIndexer) -> Any:
            part = values[key.tuple]
            largest["pixels"] = max(largest["pixels"], part.size)
            return part

    lazy = xr.core.indexing.LazilyIndexedArray(Watched())
    layer = xr.DataArray(
        xr.Variable(("y", "x"), lazy),
        {"y": 1000.0 - 2 * np.arange(700), "x": 2.0 * np.arange(5000)},
    )
    small = shrunk(layer, 500)
    assert small.shape == (70, 500)
    assert largest["pixels"] <= 2048 * 700
    squares = values.reshape(70, 10, 500, 10)
    with np.errstate(invalid="ignore"):
        expected = np.nansum(squares, (1, 3)) / np.isfinite(squares).sum((1, 3))
    np.testing.assert_allclose(small, expected, rtol=1e-5)
    assert np.isnan(small[:, 0]).all()
    np.testing.assert_allclose(small["x"][:2], [9, 29])
    np.testing.assert_allclose(small["y"][:2], [991, 971])


def test_small_maps_stay_and_ragged_ones_reach_beyond() -> None:
    layer = two_halves(25, 11)["agb"]
    np.testing.assert_array_equal(shrunk(layer, 25), layer)
    small = shrunk(layer, 10)
    assert small.shape == (9, 4)
    assert small[-1, 0] == layer[24, :3].mean()


@pytest.mark.slow
def test_overviews_are_read_instead_of_all(
    model: gb.BiomassRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(300, 560)
    for name, more in (("map.zarr", {"overviews": True}), ("map.tif", {})):
        path = model.predict_to(tmp_path / name, scene, 128, 0, progress=False, **more)
        plain = picture_of(*overlays(model.explore(path, tiles=None)))
        assert 560 <= max(plain.shape) < 700
        page = model.explore(path, tiles=None, largest=300)
        (small,) = overlays(page)
        assert 150 < max(picture_of(small).shape) <= 300
        bounds = np.array(small.get_bounds())
        whole = np.array(overlays(model.explore(scene[["agb"]], tiles=None))[0].bounds)
        # Half a pixel of the small picture, at 62° north, in degrees.
        np.testing.assert_allclose(bounds, whole, atol=20 / 50_000)
    # Full resolution is not even opened where an overview does.
    shutil.rmtree(tmp_path / "map.zarr" / "agb" / "c")
    page = model.explore(tmp_path / "map.zarr", tiles=None, largest=300)
    assert (picture_of(*overlays(page))[..., 3] == 255).any()


def test_the_picture_lies_where_the_map_lies_and_has_its_colours() -> None:
    scene = two_halves()
    page = explore_map(scene, limits=(0, 200), tiles=None)
    (overlay,) = overlays(page)
    (south, west), (north, east) = overlay.get_bounds()
    from rasterio.warp import transform_bounds

    expected = transform_bounds("EPSG:3067", "EPSG:4326", *scene.rio.bounds())
    np.testing.assert_allclose((west, south, east, north), expected, atol=2e-4)
    picture = picture_of(overlay)
    height, width = picture.shape[:2]
    assert tuple(picture[height // 2, width // 4]) == (*YELLOW, 255)
    assert tuple(picture[height // 2, 3 * width // 4]) == (*PURPLE, 255)
    assert picture[3, width // 2, 3] == 0  # nodata is clear
    html = page.get_root().render()
    assert "biomass, Mg/ha" in html
    assert re.search(r"type=.{0,6}range", html)


@pytest.mark.slow
def test_other_layers_and_a_lazy_map(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64)
    both = gb.Ensemble([model, model], spread=True)
    lazy = both.predict(scene, 32, 16)
    page = both.explore(lazy, {"true biomass": scene["agb"]}, tiles=None)
    names = [overlay.layer_name for overlay in overlays(page)]
    assert names == ["agb", "agb_spread", "true biomass"]
    assert [overlay.show for overlay in overlays(page)] == [True, False, False]
    assert any(n.startswith("layer_control") for n in page._children)


def test_what_has_no_place_or_no_value_is_refused(tmp_path: Path) -> None:
    scene = two_halves()
    with pytest.raises(ValueError, match="chips have no georeference"):
        explore_map(make_chips(2)[["agb"]])
    with pytest.raises(ValueError, match="got no reference system"):
        explore_map(scene.drop_vars("spatial_ref"))
    with pytest.raises(ValueError, match="must have a value"):
        explore_map(scene * np.nan)
    with pytest.raises(ValueError, match="opacity must be 0 to 1"):
        explore_map(scene, opacity=2)
    with pytest.raises(FileNotFoundError, match="give the path of a map"):
        explore_map(tmp_path / "gone.tif")
    with pytest.raises(FileNotFoundError, match=r"leaflet\.js"):
        explore_map(scene, leaflet=tmp_path)


def test_without_folium_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: gb.BiomassRegressor
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "folium", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'geobiomass\[plots\]'"):
        model.explore(two_halves())


# --- in a browser --------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window, 900 x 600."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    if not (LEAFLET / "leaflet.js").is_file():
        pytest.skip(f"Leaflet is not in {LEAFLET}; LEAFLET_FOLDER can name another")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("disable-dev-shm-usage", "hide-scrollbars", "force-device-scale-factor=1"),
        *("window-size=900,600", f"user-data-dir={tmp_path / 'profile'}"),
    ):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield opened
    finally:
        opened.quit()


def screenshot(browser: Any) -> npt.NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    return np.asarray(picture.convert("RGB"))


def colour_at(browser: Any, across: float, down: float) -> npt.NDArray[np.float64]:
    """The mean colour of a patch at a share of the overlay's box."""
    box = browser.find_element("css selector", "img.leaflet-image-layer").rect
    x = int(box["x"] + across * box["width"])
    y = int(box["y"] + down * box["height"])
    return screenshot(browser)[y - 5 : y + 5, x - 5 : x + 5].mean((0, 1))


def set_opacity(browser: Any, value: float) -> None:
    """Move the slider as a hand would: the value, then the event."""
    browser.execute_script(
        "var slider = document.querySelector('.geobiomass-opacity input');"
        "slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));",
        str(value),
    )
    time.sleep(0.5)


@pytest.mark.slow
def test_chromium_shows_the_map_its_legend_and_its_opacity(
    browser: Any, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import (
        visibility_of_element_located,
    )
    from selenium.webdriver.support.ui import WebDriverWait

    scene = two_halves()
    file = tmp_path / "map.html"
    page = model.explore(
        scene,
        {"turned": scene.isel(x=slice(None, None, -1)).assign_coords(x=scene["x"])},
        limits=(0, 200),
        opacity=1.0,
        tiles=None,
        leaflet=LEAFLET,
    )
    page.save(str(file))
    browser.get(file.as_uri())
    overlay = (By.CSS_SELECTOR, "img.leaflet-image-layer")
    WebDriverWait(browser, 30).until(visibility_of_element_located(overlay))
    time.sleep(1)  # Leaflet fades layers in
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    others = [n for n in browser.execute_script(loaded) if not n.startswith("data:")]
    assert others == []  # nothing comes from elsewhere
    # Where the map has much, the page is yellow; where it has none, purple.
    np.testing.assert_allclose(colour_at(browser, 0.25, 0.5), YELLOW, atol=3)
    np.testing.assert_allclose(colour_at(browser, 0.75, 0.5), PURPLE, atol=3)
    ground = colour_at(browser, 0.5, 0.06)  # nodata
    assert np.ptp(ground) < 5  # grey
    legend = browser.find_element(By.CSS_SELECTOR, ".geobiomass-legend")
    assert legend.text.split("\n") == [
        "biomass, Mg/ha",
        "0",
        "50",
        "100",
        "150",
        "≥ 200",
    ]
    left, right = legend_ends(browser, legend)
    np.testing.assert_allclose(left, PURPLE, atol=12)
    np.testing.assert_allclose(right, YELLOW, atol=12)
    set_opacity(browser, 0.5)
    between = (np.array(YELLOW) + ground) / 2
    np.testing.assert_allclose(colour_at(browser, 0.25, 0.5), between, atol=4)
    set_opacity(browser, 0)
    np.testing.assert_allclose(colour_at(browser, 0.25, 0.5), ground, atol=3)
    # The other layer, at the opacity that the slider has.
    set_opacity(browser, 1)
    for box in browser.find_elements(By.CSS_SELECTOR, ".leaflet-control-layers input"):
        box.click()
    time.sleep(1)
    np.testing.assert_allclose(colour_at(browser, 0.25, 0.5), PURPLE, atol=3)
    np.testing.assert_allclose(colour_at(browser, 0.75, 0.5), YELLOW, atol=3)


def legend_ends(browser: Any, legend: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    bar = legend.find_elements("css selector", "div")[1].rect
    y = int(bar["y"] + bar["height"] / 2)
    row = screenshot(browser)[y]
    return row[int(bar["x"]) + 2], row[int(bar["x"] + bar["width"]) - 3]
