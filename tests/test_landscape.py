import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rioxarray  # noqa: F401  registers the accessor .rio
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from geobiomass.sources.landscape.clouds import FLAGGED, Sky, add_sky, sky_of
from geobiomass.sources.landscape.gaps import descending_missing, optical_missing
from geobiomass.sources.landscape.random_fields import Patch
from geobiomass.sources.landscape.scene import landscape
from geobiomass.sources.landscape.versions import VERSIONS

pytestmark = pytest.mark.filterwarnings(
    # rioxarray multiplies transforms with *, which affine 3 would rename.
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)

BANDS = "VV_asc VH_asc VV_desc VH_desc B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 CLP"
OPTICAL = BANDS.split()[4:14]
S2 = BANDS.split()[4:]
YEAR = [9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8]

Pixels = npt.NDArray[np.float32]


def same_bits(a: xr.DataArray, b: xr.DataArray) -> None:
    left, right = np.asarray(a.values), np.asarray(b.values)
    assert left.shape == right.shape
    np.testing.assert_array_equal(left.view(np.uint32), right.view(np.uint32))


@pytest.fixture(scope="module")
def year() -> xr.Dataset:
    """A landscape whose July is clear enough for statistics, of version 1."""
    return landscape(384, seed=3, version=1).load()


def by_biomass(
    scene: xr.Dataset, band: str, month: int, low: float, high: float
) -> Pixels:
    seen = scene.image.sel(band=band, month=month).values
    clear = scene.image.sel(band="CLP", month=month).values < 10
    return np.asarray(
        seen[clear & (scene.agb.values >= low) & (scene.agb.values < high)]
    )


@pytest.mark.parametrize("size", [1, (130, 70), 256])
@pytest.mark.slow
def test_a_scene_cube_has_the_schema_of_one(size: int | tuple[int, int]) -> None:
    scene = landscape(size, block=100)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert scene.image.dims == ("month", "band", "y", "x")
    assert scene.agb.dims == ("y", "x")
    assert scene.image.shape == (12, 15, height, width)
    assert scene.image.dtype == scene.agb.dtype == np.float32
    assert scene.band.values.tolist() == BANDS.split()
    assert scene.month.values.tolist() == YEAR
    assert scene.agb.attrs["units"] == "Mg/ha"
    assert scene.image.chunks is not None
    assert scene.image.chunks[0] == (12,)
    assert scene.image.chunks[3][0] == min(100, width)
    values = scene.compute()
    assert values.image.dtype == values.agb.dtype == np.float32
    assert np.isfinite(values.agb).all()
    assert (values.agb >= 0).all()


def test_the_grid_is_read_by_rioxarray_with_pixel_centres() -> None:
    scene = landscape((30, 50), months=1, resolution=20.0, crs="EPSG:32635")
    for variable in (scene.image.isel(month=0), scene.agb):
        assert variable.rio.crs == CRS.from_epsg(32635)
        transform = variable.rio.transform()
        assert (transform.a, transform.e) == (20.0, -20.0)
        assert (transform.c, transform.f) == (400_000.0, 6_900_000.0)
        written = variable.spatial_ref.attrs["GeoTransform"].split()
        assert [float(part) for part in written] == list(transform.to_gdal())
        assert scene.x[0] == transform.c + 10
        assert scene.y[0] == transform.f - 10
        assert variable.rio.transform(recalc=True) == transform
    assert (np.diff(scene.y) == -20).all()
    assert scene.image.encoding["grid_mapping"] == "spatial_ref"
    assert landscape(1).rio.crs == CRS.from_epsg(3067)
    assert landscape(1).rio.transform().a == 10.0


@pytest.mark.parametrize("months", [1, 3, 12])
def test_short_cubes_hold_the_last_months_up_to_august(months: int) -> None:
    short = landscape(40, months=months, seed=3)
    assert short.month.values.tolist() == YEAR[-months:]
    whole = landscape(40, seed=3)
    same_bits(short.image, whole.image.isel(month=slice(-months, None)))


def test_the_seed_decides_and_another_seed_differs() -> None:
    first, again, other = (landscape(90, 2, seed).compute() for seed in (5, 5, 6))
    same_bits(first.image, again.image)
    same_bits(first.agb, again.agb)
    assert (first.agb.values != other.agb.values).mean() > 0.4
    # Missing pixels stay missing; others are equal only by chance.
    assert (first.image.values == other.image.values).mean() < 0.1


# Without shrinking, which takes minutes if the law is broken.
@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_neither_window_nor_block_nor_size_changes_a_bit(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**70), "seed")
    version = data.draw(st.sampled_from([1, 2]), "version")
    height, width = (data.draw(st.integers(1, 300), side) for side in ("h", "w"))
    block = data.draw(st.integers(60, 400), "block")
    whole = landscape((300, 300), 2, seed, version=version).compute()
    part = landscape((height, width), 2, seed, block=block, version=version)
    row = data.draw(st.integers(0, height - 1), "row")
    col = data.draw(st.integers(0, width - 1), "col")
    window = {"y": slice(row, row + 80), "x": slice(col, col + 80)}
    corner = whole.isel(y=slice(0, height), x=slice(0, width))
    for name in ("image", "agb"):
        same_bits(part[name].isel(window), corner[name].isel(window))
    same_bits(part.agb, corner.agb)


@pytest.mark.slow
def test_species_that_do_not_grow_leave_the_rest_as_it_is() -> None:
    every = landscape(256, 2, 3, version=1).compute()
    named = landscape(
        256, 2, 3, species=("birch", "spruce", "pine"), version=1
    ).compute()
    same_bits(named.image, every.image)
    fewer = landscape(256, 2, 3, species=("pine", "spruce"), version=1).compute()
    equal_pixels = (fewer.agb == every.agb).values
    assert 0.4 < equal_pixels.mean() < 1  # fields, lakes, stands of pine and spruce
    same_bits(fewer.agb.where(equal_pixels), every.agb.where(equal_pixels))
    birch = landscape(256, 2, 3, species=("birch",), version=1).compute()
    forest = (every.agb > 80) & (birch.agb > 80)
    green = {"month": 7, "band": "B08"}
    leafy, mixed = (c.image.sel(green).where(forest).mean() for c in (birch, every))
    assert leafy > 1.15 * mixed


def test_another_climate_has_other_seasons_and_taller_stands_on_the_same_terrain() -> (
    None
):
    boreal = landscape(128, 12, 1).load()
    mild = landscape(128, 12, 1, climate="temperate").load()
    assert mild.attrs["synthetic"] == "seed 1, pine spruce birch, temperate, version 2"
    assert "temperate" not in boreal.attrs["synthetic"]
    ratio = (mild.agb / boreal.agb).where(boreal.agb > 50)
    assert float(ratio.median()) == pytest.approx(1.4, rel=0.02)
    assert ((mild.agb > 0) | (boreal.agb == 0)).all()  # fields and water are the same
    clear = (boreal.image.sel(band="CLP") < 20) & (mild.image.sel(band="CLP") < 20)
    blue, near = (
        [cube.image.sel(band=band).where(clear) for cube in (boreal, mild)]
        for band in ("B02", "B08")
    )
    snow, none = (of.sel(month=2).mean() for of in blue)
    assert snow > 3 * none
    bare, green = (of.sel(month=5).where(boreal.agb == 0).mean() for of in near)
    assert green > 1.2 * bare
    frozen, thawed = (
        cube.image.sel(month=2, band="VH_asc").where(boreal.agb > 100).mean()
        for cube in (boreal, mild)
    )
    assert thawed - frozen > 1


@pytest.mark.slow
def test_biomass_resembles_biomassters() -> None:
    samples = [landscape(256, 1, seed, version=1).agb.values for seed in range(30)]
    agb = np.concatenate([sample.ravel() for sample in samples])
    assert 53 < agb.mean() < 73
    assert 61 < agb.std() < 81
    assert 0.19 <= (agb == 0).mean() <= 0.32
    assert 0.0005 < (agb >= 400).mean() < 0.004
    assert 250 < np.quantile(agb, 0.99) < 350


def test_stands_are_uniform_with_texture(year: xr.Dataset) -> None:
    agb = year.agb.values
    deviation = agb - agb.mean()

    def correlation(lag: int) -> float:
        return float((deviation[:, lag:] * deviation[:, :-lag]).mean() / agb.var())

    assert 0.8 < correlation(1) < 0.98
    assert correlation(3) < correlation(1) - 0.05
    assert correlation(100) < 0.3
    forest = agb[:, 1:][(agb[:, 1:] > 50) & (agb[:, :-1] > 50)]
    assert np.unique(forest).size > 0.9 * forest.size


@pytest.mark.parametrize(("band", "least"), [("VH_asc", -2.5), ("B11", 250.0)])
def test_signals_saturate(year: xr.Dataset, band: str, least: float) -> None:
    young, grown, tall = (
        float(np.median(by_biomass(year, band, 7, *limits)))
        for limits in ((5, 25), (80, 130), (200, 1000))
    )
    change = young - grown
    # Radar brightens with biomass and short-wave infrared darkens.
    assert change / least > 1
    assert abs(grown - tall) < 0.35 * abs(change)


def test_speckle_makes_single_pixels_noisy(year: xr.Dataset) -> None:
    forest = (year.agb > 80).values
    months = [
        year.image.sel(band="VH_asc", month=month).values[forest] for month in (6, 7)
    ]
    spread = np.std(months[0] - months[1]) / np.sqrt(2)
    assert 0.8 < spread < 1.4
    # Gamma noise of 20 looks is 1 dB; the persistent texture is added to it.
    assert 1.2 < np.std(months[0]) < 3


def test_birch_drops_its_leaves(year: xr.Dataset) -> None:
    clear = (year.image.sel(band="CLP", month=[7, 5]) < 10).all("month")
    forest = (clear & (year.agb > 100)).values
    july, may = (
        year.image.sel(band="B08", month=month).values[forest] for month in (7, 5)
    )
    leafy = july > np.quantile(july, 0.9)
    needles = july < np.quantile(july, 0.4)
    assert np.median(july[leafy] / may[leafy]) > 1.25
    assert np.median(july[needles] / may[needles]) < 1.2


@pytest.mark.slow
def test_snow_brightens_open_land_in_winter() -> None:
    scene = landscape(256, seed=2, version=1)
    winter = scene.image.sel(month=2)
    open_land = (scene.agb == 0).values & (winter.sel(band="CLP") < 20).values
    forest = (scene.agb > 100).values & (winter.sel(band="CLP") < 20).values
    red, infrared = (winter.sel(band=band).values for band in ("B04", "B11"))
    assert open_land.sum() > 100
    assert forest.sum() > 100
    assert np.median(red[open_land]) > 3000
    assert np.median(infrared[open_land]) < 1200
    assert np.median(red[forest]) < 0.5 * np.median(red[open_land])


def test_values_keep_the_ranges_of_the_real_files(year: xr.Dataset) -> None:
    optical = year.image.sel(band=S2).values
    there = optical[np.isfinite(optical)]
    np.testing.assert_array_equal(there, np.rint(there))
    reflectance = year.image.sel(band=OPTICAL).values
    assert np.nanmin(reflectance) >= 1
    assert np.nanmax(reflectance) <= 20_000
    probability = year.image.sel(band="CLP").values
    assert np.nanmin(probability) >= 0
    assert np.nanmax(probability) <= 100
    radar = year.image.isel(band=slice(0, 4)).values
    assert np.nanquantile(radar, 0.001) > -35
    assert np.nanquantile(radar, 0.999) < 0


def test_clouds_are_bright_and_probable_not_missing() -> None:
    scene = landscape(256, seed=0, months=1, version=1)
    seen = scene.image.sel(month=8).compute()
    cloudy = (seen.sel(band="CLP") > 95).values
    clear = (seen.sel(band="CLP") < 10).values
    assert cloudy.any()
    assert clear.any()
    blue = seen.sel(band="B02").values
    assert blue[cloudy].min() > 5 * np.median(blue[clear])


def gaps(seed: int) -> tuple[Pixels, Pixels]:
    """Return the missing share of Sentinel-2 and of descending passes, by month."""
    patch = Patch(seed, 0, 0, 24, 10.0, (0, 1, 2), VERSIONS[2])
    optical = np.array([optical_missing(patch, month) for month in YEAR])
    descending = np.array([descending_missing(patch, month) for month in YEAR])
    if seed < 10:  # the images, which take longer than their gaps, have these
        missing = np.isnan(landscape(24, 12, seed).image.values)
        assert not missing[:, :2].any()
        assert (missing[:, 2:4] == descending[:, None]).all()
        assert (missing[:, 4:] == optical[:, None]).all()
    return optical.mean((1, 2)), descending.mean((1, 2))


@pytest.mark.slow
def test_gaps_are_as_frequent_as_in_the_real_data() -> None:
    optical, descending = map(np.array, zip(*map(gaps, range(100)), strict=True))
    by_month = dict(zip(YEAR, optical.mean(0), strict=True))
    assert by_month[12] > 0.6
    assert 0.3 < by_month[1] < 0.65
    assert max(by_month[month] for month in (4, 5, 6, 7, 8)) < 0.08
    assert (optical == 1).any(axis=1).mean() > 0.5
    assert (optical == 1).all(axis=1).sum() == 0
    # Published: 7 to 18 % of the pixels by month; 100 samples estimate it to 8 %.
    assert descending.mean(0).min() > 0.02
    assert descending.mean(0).max() < 0.26
    assert 0.09 < descending.mean() < 0.17


@pytest.mark.slow
def test_a_swath_edge_can_cross_a_scene() -> None:
    # Seed 3 has narrow strips: November's descending pass covers a part.
    november = landscape(512, 12, 3).image.sel(band="VV_desc", month=11)
    missing = november.isnull().values
    assert 0.1 < missing.mean() < 0.9
    # One inclined line: every row changes once, further right than the row above.
    edges = np.abs(np.diff(missing.astype(int), axis=1))
    assert (edges.sum(1) == 1).all()
    assert (np.diff(edges.argmax(1)) <= 0).all()
    assert edges.argmax(1)[0] > edges.argmax(1)[-1]


def test_damaged_radar_values_are_exactly_zero_and_rare(year: xr.Dataset) -> None:
    radar = year.image.isel(band=slice(0, 4)).values
    share = (radar == 0).mean()
    assert 0 < share < 1e-4


@pytest.mark.slow
def test_a_huge_landscape_costs_nothing_until_it_is_computed() -> None:
    landscape(1)  # the imports
    tracemalloc.start()
    try:
        start = time.perf_counter()
        scene = landscape(20_000)
        built = time.perf_counter() - start
        light = tracemalloc.get_traced_memory()[1]
        corner = scene.isel(y=slice(-100, None), x=slice(-100, None)).compute()
        heavy = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert corner.image.shape == (12, 15, 100, 100)
    assert np.isfinite(corner.agb).all()
    assert len(scene.agb.__dask_graph__()) < 6400
    assert built < 5
    assert light < 20e6
    assert heavy < 300e6


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"size": 0}, r"size .* whole number, 1 or more, got 0"),
        ({"size": (5, -1)}, "size .* got -1"),
        ({"size": 2.5}, "size .* got 2.5"),
        ({"size": (1, 2, 3)}, r"size .* \(height, width\), got \(1, 2, 3\)"),
        ({"months": 0}, "months .* 1 to 12, got 0"),
        ({"months": 13}, "months .* 1 to 12, got 13"),
        ({"months": True}, "months .* got True"),
        ({"seed": -1}, "seed .* 0 or more, got -1"),
        ({"seed": 1.0}, "seed .* got 1.0"),
        ({"seed": None}, "seed .* got None"),
        ({"block": 0}, "block .* 1 or more, got 0"),
        ({"resolution": 0.0}, "resolution .* 1 to 100 metres, got 0.0"),
        ({"resolution": float("nan")}, "resolution .* got nan"),
        ({"crs": "EPSG:4326"}, "crs .* projected in metres, got 'EPSG:4326'"),
        ({"species": ()}, r"species .* got \(\)"),
        ({"species": ("oak",)}, "species .* got .'oak'"),
        ({"species": "pine"}, "species .* got 'pine'"),
        ({"crs": "nowhere"}, "crs .* got 'nowhere'"),
        ({"climate": "arid"}, "climate .* one of .*'temperate'.*, got 'arid'"),
        ({"version": 3}, "version .* 1 or 2, got 3; older figures are of 1"),
        ({"version": "2"}, "version .* got '2'"),
        ({"version": True}, "version .* got True"),
        ({"version": 2.0}, "version .* got 2.0"),
    ],
)
def test_invalid_settings_are_errors(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        landscape(**{"size": 10, **settings})  # type: ignore[arg-type]


# --- the two versions ------------------------------------------------------------


def test_version_1_is_what_was_stored_before_there_were_versions() -> None:
    # Written at commit a37cf3d.
    stored = np.load(Path(__file__).parent / "stored" / "landscape-1.npz")
    kind = {"resolution": 20.0, "species": ("pine", "birch")}
    found = landscape((9, 12), 12, 3, version=1, **kind).load()  # type: ignore[arg-type]
    np.testing.assert_allclose(found.agb, stored["agb"], rtol=1e-5)
    # Optical bands are whole numbers, so that a last digit can be one of them.
    np.testing.assert_allclose(found.image, stored["image"], rtol=1e-4, atol=1)
    simd = np.show_config(mode="dicts")["SIMD Extensions"]["found"]  # type: ignore[call-overload,index]
    if simd == ["X86_V3"]:  # the kind of CPU that wrote it
        for name in ("agb", "image"):
            same_bits(found[name], xr.DataArray(stored[name]))
    assert found.attrs["title"] == "synthetic landscape, seed 3"


def test_version_2_is_the_default_and_another_landscape() -> None:
    default, second, first = (
        landscape(40, 1, 3, **chosen).load()  # type: ignore[arg-type]
        for chosen in ({}, {"version": 2}, {"version": 1})
    )
    same_bits(default.image, second.image)
    same_bits(default.agb, second.agb)
    assert (second.agb.values != first.agb.values).mean() > 0.5
    assert second.attrs["title"] == "synthetic landscape 2, seed 3"


@pytest.mark.slow
def test_biomass_of_version_2_has_the_marginals_and_variogram_of_real_chips() -> None:
    # Bounds: the 67 real label chips, give or take two standard errors of 40 chips
    # (the means of chips have a standard deviation of 23 Mg/ha, zeros of 20 %).
    samples = [landscape(256, 1, seed).agb.values for seed in range(2000, 2040)]
    agb = np.concatenate([sample.ravel() for sample in samples])
    assert 55 < agb.mean() < 71
    assert 0.19 < (agb == 0).mean() < 0.33
    assert 0.03 < (agb > 200).mean() < 0.07
    assert 0.0003 < (agb > 400).mean() < 0.003
    within = np.mean([sample.var() for sample in samples])

    def ratio(lag: int) -> float:
        steps = [(s[:, lag:] - s[:, :-lag]) ** 2 for s in samples]
        return float(np.mean([step.mean() for step in steps]) / 2 / within)

    # Real: 0.13, 0.57 and 0.87; version 1 has 0.05, 0.43 and 0.89.
    assert ratio(1) == pytest.approx(0.13, abs=0.04)
    assert ratio(8) == pytest.approx(0.57, abs=0.06)
    assert ratio(32) == pytest.approx(0.87, abs=0.08)


def skies(seeds: range, month: int) -> list[tuple[Pixels, Sky]]:
    """Return the cloud probability of landscapes in a month, and their true sky."""
    found = []
    for seed in seeds:
        patch = Patch(seed, 0, 0, 128, 10.0, (0, 1, 2), VERSIONS[2])
        optical = np.full((11, 128, 128), 800, np.float32)
        add_sky(patch, month, optical, np.random.default_rng(seed))
        found.append((optical[10], sky_of(patch, month)))
    return found


def test_the_flag_of_version_2_misses_clouds_and_invents_some() -> None:
    both = skies(range(60), 8)
    flagged = np.stack([probability for probability, _ in both]) >= FLAGGED
    opacity = np.stack([sky.opacity for _, sky in both])
    opaque, thin = opacity >= 0.5, (opacity >= 0.06) & (opacity < 0.5)
    clear = opacity < 0.06
    assert min(opaque.mean(), thin.mean(), clear.mean()) > 0.05
    missed, thin_missed = (~flagged[opaque]).mean(), (~flagged[thin]).mean()
    assert 0.01 < missed < 0.15
    assert 2 * missed < thin_missed < 0.6
    assert 0.02 < flagged[clear].mean() < 0.25
    # Published masks are right for 84 to 91 % of the pixels.
    wrong = (opaque | thin) != flagged
    assert 0.07 < wrong.mean() < 0.18
    # Errors come in patches: most neighbours of a wrong pixel are wrong too.
    neighbours = wrong[:, :, 1:][wrong[:, :, :-1]]
    assert neighbours.mean() > 0.5


def test_clouds_of_version_2_cast_shadows_and_haze_brightens() -> None:
    patch = Patch(5, 0, 0, 128, 10.0, (0, 1, 2), VERSIONS[2])
    flat = np.full((11, 128, 128), 2000, np.float32)
    seen = []
    for seed in range(40):
        image, place = flat.copy(), replace(patch, seed=seed)
        add_sky(place, 8, image, np.random.default_rng(seed))
        seen.append((image, sky_of(place, 8)))
    dark, bare, hazy = ([], [], [])  # type: tuple[list[Pixels], list[Pixels], list[Pixels]]
    for image, sky in seen:
        open_sky = (sky.cloud == 0) & (sky.haze < 0.02)
        dark.append(image[:, open_sky & (sky.shade > 0.9)])
        bare.append(image[:, open_sky & (sky.shade == 0)])
        hazy.append(image[:, (sky.cloud == 0) & (sky.shade == 0) & (sky.haze > 0.1)])
    shadow, clear, veiled = (
        np.median(np.concatenate(pixels, axis=1), axis=1)
        for pixels in (dark, bare, hazy)
    )
    blue, infrared = OPTICAL.index("B02"), OPTICAL.index("B08")
    assert clear[[blue, infrared]] == pytest.approx(2000, rel=0.03)
    assert 0.4 < shadow[infrared] / 2000 < 0.6  # about half in the real August chips
    assert shadow[blue] / 2000 > 0.8
    assert veiled[blue] > 2200
