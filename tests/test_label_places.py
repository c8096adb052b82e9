"""Which labels a model learnt from: hashed places, kept in the model and its maps."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rioxarray
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from shapely import Point, box

import geobiomass as gb
from geobiomass.data import label_places, learnt_pixels
from geobiomass.data.label_places import (
    LABEL_PLACES,
    LabelPlaces,
    PlacesOnGrid,
    hash_cells,
)
from geobiomass.data.learnt_pixels import LearntPixels, PlaceCollector
from geobiomass.metadata.learnt_labels import places_of_map
from geobiomass.models.adapted_regressor import AdaptedRegressor
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.tiles import Sample, Window

FAST: dict[str, Any] = {"trees": 10, "neighbourhoods": (), "progress": False}
QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "crop": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
}


def some(cube: xr.Dataset, count: int, seed: int = 0) -> xr.Dataset:
    """Return the cube with labels at some pixels only."""
    kept = np.zeros(cube["agb"].size, bool)
    kept[np.random.default_rng(seed).choice(kept.size, count, replace=False)] = True
    return cube.assign(agb=cube["agb"].where(kept.reshape(cube["agb"].shape)))


def collected(cube: xr.Dataset) -> LabelPlaces:
    """Return the places of all labels of a cube, read sample by sample."""
    collector = PlaceCollector(cube)
    labelled = np.isfinite(cube["agb"].values)
    for sample in samples(cube):
        collector.add(sample, labelled[index(sample)])
    found = collector.places()
    assert found is not None
    return found


def samples(cube: xr.Dataset) -> Iterator[Sample]:
    window = Window(0, 0, cube.sizes["y"], cube.sizes["x"])
    if "chip" in cube.dims:
        yield from (Sample(window, chip) for chip in range(cube.sizes["chip"]))
        return
    half = cube.sizes["y"] // 2
    yield Sample(Window(0, 0, half, window.right))
    yield Sample(Window(half, 0, window.bottom, window.right))


def index(sample: Sample) -> Any:
    at = (sample.window.rows, sample.window.columns)
    return at if sample.chip is None else (sample.chip, *at)


def looked_up(places: LabelPlaces, cube: xr.Dataset, asked: Any = None) -> np.ndarray:
    """Return which pixels of a cube are found, of those that are asked for."""
    pixels = LearntPixels(places, cube)
    found = np.zeros(cube["agb"].shape, bool)
    for sample in samples(cube):
        every = np.ones(found[index(sample)].shape, bool)
        part = every if asked is None else asked[index(sample)]
        found[index(sample)] = pixels.among(sample, part)
    return found


def plots_at(cube: xr.Dataset, rows: Any, columns: Any) -> geopandas.GeoDataFrame:
    points = geopandas.points_from_xy(cube["x"].values[columns], cube["y"].values[rows])
    labels = cube["agb"].values[rows, columns]
    return geopandas.GeoDataFrame({"agb": labels}, geometry=points, crs="EPSG:3067")


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return make_scene(64, 80)


@pytest.fixture(scope="module")
def cube(full: xr.Dataset) -> xr.Dataset:
    return some(full, 120)


@pytest.fixture(scope="module")
def model(cube: xr.Dataset) -> BiomassRegressor:
    return gb.fit(cube, "pixels", block=16, **FAST)


@pytest.fixture(scope="module")
def maps(
    model: BiomassRegressor, full: xr.Dataset, tmp_path_factory: Any
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("maps")
    return {
        name: model.predict_to(folder / name, full, progress=False)
        for name in ("map.zarr", "map.tif")
    }


# --- the value ----------------------------------------------------------------


@given(
    labels=st.sets(st.tuples(st.integers(0, 39), st.integers(0, 55)), min_size=1),
    most=st.sampled_from([1, 3, 20, 10_000]),
    chips=st.booleans(),
)
def test_a_labelled_pixel_is_always_found(
    labels: set[tuple[int, int]], most: int, chips: bool
) -> None:
    rows, columns = np.array(sorted(labels)).T
    if chips:
        cube = make_chips(4, 32)
        cube["agb"][:] = np.nan
        chosen = (rows % 4, rows % 32, columns % 32)
        most = max(most, 4)  # one cell for a chip at the coarsest
    else:
        cube = make_scene()
        cube["agb"][:] = np.nan
        chosen = (rows, columns)
    cube["agb"].values[chosen] = 1.0
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(learnt_pixels, "MOST", most)
        places = collected(cube)
    assert len(places) <= most
    places = LabelPlaces.from_dict(json.loads(json.dumps(places.to_dict())))
    labelled = np.isfinite(cube["agb"].values)
    found = looked_up(places, cube)
    assert found[labelled].all()
    if places.cell == 1:
        assert np.array_equal(found, labelled)
    else:
        assert labelled.sum() > most


def test_dense_labels_become_cells_and_fit() -> None:
    cube = make_scene(600, 700)
    cube["agb"][:, 350:] = np.nan
    places = collected(cube)
    assert places.cell == 4  # 150 x 88 cells
    assert len(places) == 150 * 88
    assert len(json.dumps(places.to_dict())) < 120_000
    found = looked_up(places, cube)
    assert found[:, :352].all()
    assert not found[:, 352:].any()


def test_cells_are_the_same_in_whatever_order_labels_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learnt_pixels, "MOST", 200)
    cube = some(make_scene(64, 80), 900)
    labelled = np.isfinite(cube["agb"].values)
    texts = []
    for waiting in (0, 10**6):
        monkeypatch.setattr(learnt_pixels, "_WAITING", waiting)
        collector = PlaceCollector(cube)
        for top in range(0, 64, 8) if waiting else range(56, -1, -8):
            window = Window(top, 0, top + 8, 80)
            collector.add(Sample(window), labelled[window.rows])
        places = collector.places()
        assert places is not None
        texts.append(json.dumps(places.to_dict()))
    assert texts[0] == texts[1]


def test_the_largest_record_of_chips_fits() -> None:
    cube = xr.Dataset(
        {"agb": (("chip", "y", "x"), np.ones((8_689, 2, 2), np.float32))},
        {"chip": [f"{number:08x}" for number in range(8_689)]},
    )
    places = collected(cube)
    assert len(places) == 8_689
    assert len(json.dumps(places.to_dict())) < 120_000
    assert looked_up(places, cube.isel(chip=slice(None, None, 80))).all()


def test_a_hash_never_changes() -> None:
    """Models and maps that are written now are read by later releases."""
    cells = np.array([[0, 0], [0, 11], [0, 12], [7, 123_456]])
    found = hash_cells('["EPSG:3067", null, 1, ""]', "", cells)
    expected = [993918687634, 1094323704478, 286701598583, 626423356558]
    assert found.tolist() == expected


def test_chips_are_known_by_name() -> None:
    cube = some(make_chips(6), 50)
    places = collected(cube)
    labelled = np.isfinite(cube["agb"].values)
    turned = cube.isel(chip=[3, 1])
    assert np.array_equal(looked_up(places, turned), labelled[[3, 1]])
    other = cube.assign_coords(chip=[f"other {n}" for n in range(6)])
    assert not looked_up(places, other).any()
    # Where a crop was in its chip is not known.
    crop = cube.isel(x=slice(8, None))
    assert not looked_up(places, crop).any()
    pixels = LearntPixels(places, crop)
    assert (pixels.comparable, pixels.complete) == (False, False)


def test_scenes_without_a_place_are_not_remembered(full: xr.Dataset) -> None:
    """Row and column alone are those of any other scene."""
    for bare in (full.drop_vars(["y", "x"]), full.drop_vars("spatial_ref")):
        collector = PlaceCollector(bare)
        collector.add(Sample(Window(0, 0, 64, 80)), np.ones((64, 80), bool))
        assert collector.places() is None
        assert not LearntPixels(collected(full), bare).placed


def test_another_part_of_a_scene_is_found_by_its_coordinates(full: xr.Dataset) -> None:
    cube = some(full, 200)
    places = collected(cube.isel(y=slice(10, None), x=slice(5, 70)))
    for part in (
        cube,
        cube.isel(y=slice(None, None, -1)),
        cube.isel(x=slice(3, 40)).transpose("month", "band", "y", "x"),
    ):
        inside = (part["y"] < full["y"][9]) & (part["x"] > full["x"][4])
        inside = (inside & (part["x"] < full["x"][70])).transpose("y", "x")
        expected = np.isfinite(part["agb"]) & inside
        assert expected.any()
        assert np.array_equal(looked_up(places, part), expected)


def test_a_scene_across_180_degrees_is_found_on_either_turn() -> None:
    cube = make_scene(8, 30).drop_vars("spatial_ref")
    lon = 179.9 + 0.01 * np.arange(30)
    cube = cube.assign_coords(x=lon, y=60 - 0.01 * np.arange(8))
    cube = some(cube.rio.write_crs("EPSG:4326"), 50)
    labelled = np.isfinite(cube["agb"].values)
    places = collected(cube)
    for turn in (0, -360, 360):
        moved = cube.assign_coords(x=cube["x"] + turn)
        assert np.array_equal(looked_up(places, moved), labelled)


def test_another_synthetic_landscape_is_other_ground() -> None:
    one, other = (gb.landscape(32, 1, seed).compute() for seed in (0, 1))
    places = collected(one)
    assert looked_up(places, gb.landscape(32, 1, 0)).all()
    assert not looked_up(places, other).any()
    assert LearntPixels(places, other).complete


def test_trainings_are_joined(full: xr.Dataset, monkeypatch: Any) -> None:
    one, other = collected(some(full, 90, 1)), collected(some(full, 90, 2))
    both = LabelPlaces.joined([one, other])
    assert both is not None
    assert len(both.parts) == 1
    expected = looked_up(one, full) | looked_up(other, full)
    assert np.array_equal(looked_up(both, full), expected)
    chips = collected(make_chips(2, 8))
    three = LabelPlaces.joined([both, chips])
    assert three is not None
    assert len(three.parts) == 2
    assert np.array_equal(looked_up(three, full), expected)
    assert looked_up(three, make_chips(2, 8)).all()
    assert not LearntPixels(three, full).complete
    assert LabelPlaces.joined([one, None]) is None
    # Where there are many, hashes are shorter; of too many nothing is kept.
    for room, size in ((5 * len(both) - 1, 4), (4 * len(both) - 1, 3)):
        monkeypatch.setattr(label_places, "_ROOM", room)
        short = LabelPlaces.joined([one, other])
        assert short is not None
        assert short.parts[0].size == size
        assert len(json.dumps(short.to_dict())) < len(json.dumps(both.to_dict()))
        assert looked_up(short, full)[expected].all()
    monkeypatch.setattr(label_places, "_ROOM", 3 * len(both) - 1)
    assert LabelPlaces.joined([one, other]) is None


def test_an_upper_left_part_and_the_whole_are_one_grid(full: xr.Dataset) -> None:
    places = LabelPlaces.joined(
        [collected(full.isel(y=slice(0, 8), x=slice(0, 8))), collected(some(full, 40))]
    )
    assert places is not None
    assert len(places.parts) == 1
    expected = np.isfinite(some(full, 40)["agb"].values)
    expected[:8, :8] = True
    assert np.array_equal(looked_up(places, full), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"hashes": "no base64!"},
        {"hashes": "AAAA"},
        {"hashes": None},
        {"cell": 0},
        {"cell": "1"},
        {"bytes": 8},
        {"grid": [0.0] * 6},
        {"grid": [10.0, 0.0, float("nan"), 0.0, -10.0, 0.0]},
        {"size": [0, 5]},
    ],
)
def test_a_damaged_record_is_told(full: xr.Dataset, change: dict[str, Any]) -> None:
    known = collected(full).to_dict()
    known["parts"][0] |= change
    with pytest.raises(ValueError, match="record of the labels' places is damaged"):
        LabelPlaces.from_dict(known)


def test_positions_at_an_edge_are_looked_for_on_both_sides() -> None:
    cube = make_scene(8, 8)
    cube["agb"][:] = np.nan
    cube["agb"][3, 4] = 1.0
    part: PlacesOnGrid = collected(cube).parts[0]
    rows = np.array([3.5, 3.005, 2.995, 2.98, 3.5, 3.5, np.nan, np.inf, 1e300])
    columns = np.array([4.5, 4.5, 4.5, 4.5, 5.005, 5.02, 4.5, 4.5, 4.5])
    found = part.contain_positions(rows, columns)
    assert found.tolist() == [True, True, True, False, True, False] + [False] * 3


# --- models -------------------------------------------------------------------


def test_a_model_tells_which_pixels_and_plots_trained_it(
    model: BiomassRegressor, cube: xr.Dataset, full: xr.Dataset, tmp_path: Path
) -> None:
    labelled = np.isfinite(cube["agb"].values)
    found = model.learnt_from(full)
    assert found.dims == ("y", "x")
    assert np.array_equal(found, labelled)
    rows, columns = np.nonzero(labelled)
    plots = plots_at(full, rows, columns)
    assert model.learnt_from(plots).all()
    degrees = plots.to_crs("EPSG:4326")
    assert model.learnt_from(degrees).all()
    table = pd.DataFrame({"lon": degrees.geometry.x, "lat": degrees.geometry.y})
    assert model.learnt_from(table).all()
    assert model.learnt_from(plots.to_crs("EPSG:32635")).all()
    table = pd.DataFrame({"x": plots.geometry.x, "y": plots.geometry.y})
    assert model.learnt_from(table, crs="EPSG:3067").all()
    # Points anywhere in the pixel; and one pixel aside, where that has no label.
    rng = np.random.default_rng(0)
    inside = plots.set_geometry(
        geopandas.points_from_xy(
            plots.geometry.x + rng.uniform(-4.99, 4.99, len(plots)),
            plots.geometry.y + rng.uniform(-4.99, 4.99, len(plots)),
            crs="EPSG:3067",
        )
    )
    assert model.learnt_from(inside.to_crs("EPSG:4326")).all()
    aside = plots.set_geometry(plots.geometry.translate(10)).to_crs("EPSG:4326")
    right = np.pad(labelled, ((0, 0), (0, 1)))[rows, columns + 1]
    assert 0 < right.sum() < 20
    assert np.array_equal(model.learnt_from(aside), right)
    model.save(tmp_path / "model")
    assert np.array_equal(gb.load(tmp_path / "model").learnt_from(full), labelled)
    assert "120 pixels remembered" in (tmp_path / "model" / "README.md").read_text()
    assert "120 pixels remembered" in str(gb.describe(tmp_path / "model"))


def test_polygons_are_found_by_the_pixels_that_they_cover(
    model: BiomassRegressor, cube: xr.Dataset
) -> None:
    labelled = np.isfinite(cube["agb"].values)
    row, column = np.argwhere(labelled[4:-4, 4:-4])[0] + 4
    x, y = float(cube["x"][column]), float(cube["y"][row])
    # An L whose middle is outside of it: two arms of a pixel, the label is in one end.
    arms = box(x - 5, y - 5, x + 5, y + 35).union(box(x - 5, y + 25, x + 35, y + 35))
    empty = ~labelled[row - 3 : row + 1, column : column + 4]
    shapes = [arms, Point(x, y).buffer(4), box(x + 1e6, y, x + 1e6 + 9, y + 9)]
    plots = geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:3067")
    assert model.learnt_from(plots).tolist() == [True, True, False]
    assert not empty[3, 0]


def test_what_cannot_be_told_is_an_error(
    model: BiomassRegressor, full: xr.Dataset
) -> None:
    plots = plots_at(full, [1, 2], [1, 2])
    plots.loc[1, "geometry"] = None
    with pytest.raises(gb.CubeError, match="must have a location, got 1 of 2 without"):
        model.learnt_from(plots)
    with pytest.raises(gb.CubeError, match="must have coordinates y and x and a CRS"):
        model.learnt_from(full.drop_vars("spatial_ref"))
    with pytest.raises(ValueError, match="the cube cannot be compared"):
        model.learnt_from(make_chips())
    earlier = BiomassRegressor(model.network, model.bands, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not known which labels this model learnt"):
        earlier.learnt_from(full)


def test_labels_are_not_remembered_on_request(
    cube: xr.Dataset, full: xr.Dataset, tmp_path: Path
) -> None:
    again = FAST | {"block": 16, "folder": tmp_path / "run"}
    assert gb.fit(cube, "pixels", **again).label_places is not None
    # Of a finished model of the folder, too.
    for settings in (again, FAST | {"block": 16}):
        found = gb.fit(cube, "pixels", remember_labels=False, **settings)
        assert found.label_places is None
        attrs = found.evaluate(cube, bootstrap=0).attrs
        assert attrs["trained"] == {"labels": 120, "learnt": None}
    found.save(tmp_path / "model")
    assert LABEL_PLACES not in (tmp_path / "model" / "config.json").read_text()
    assert gb.load(tmp_path / "model").recipe.remember_labels is False
    mapped = found.predict_to(tmp_path / "map.tif", full, progress=False)
    assert places_of_map(mapped) is None


def test_evaluate_tells_labels_that_trained_the_model(
    model: BiomassRegressor, cube: xr.Dataset, full: xr.Dataset
) -> None:
    with pytest.warns(UserWarning, match=r"120 of 120 labels \(100%\) trained the mod"):
        table = model.evaluate(cube, bootstrap=0)
    assert table.attrs["trained"] == {"labels": 120, "learnt": 120}
    # Few of many hardly change an error, and are in the result.
    attrs = model.evaluate(full, bootstrap=0).attrs
    assert attrs["trained"] == {"labels": 64 * 80, "learnt": 120}
    rest = full.assign(agb=full["agb"].where(~model.learnt_from(full)))
    attrs = model.evaluate(rest, bootstrap=0).attrs
    assert attrs["trained"] == {"labels": 64 * 80 - 120, "learnt": 0}
    attrs = model.evaluate(make_chips(2), bootstrap=0, check="off").attrs
    assert attrs["trained"]["learnt"] is None


@pytest.mark.slow
def test_a_network_learns_from_training_validation_and_calibration(
    full: xr.Dataset,
) -> None:
    cube = make_scene(96, 96)
    west, east = cube.isel(x=slice(0, 64)), cube.isel(x=slice(64, None))
    one = gb.fit(west, "quick", validation=east, **QUICK)
    assert one.learnt_from(cube).all()
    chips = make_chips(40, 32)
    fitted = {"crop": 32, "interval": 0.5, "epochs": 1}
    two = gb.fit(chips, "quick", 0.2, **QUICK | fitted)
    assert two.calibration is not None
    assert two.learnt_from(chips).all()
    assert two.label_places is not None
    assert two.label_places.cell == 2


def test_members_of_a_cross_validation_know_what_they_did_not_see() -> None:
    cube = make_scene(64, 96)
    folds = gb.make_folds(cube, 2, block=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two epochs
        cv = gb.cross_validate(some(cube, 300), "pixels", folds, **FAST)
    labelled = np.isfinite(some(cube, 300)["agb"].values)
    window = Sample(Window(0, 0, 64, 96))
    for fold, member in zip(folds, cv.model.models, strict=True):
        learnt = member.learnt_from(cube).values
        assert np.array_equal(learnt, labelled & fold.trains(window))
        held = cube.assign(agb=cube["agb"].where(fold.validates(window)))
        assert member.evaluate(held, bootstrap=0).attrs["trained"]["learnt"] == 0
    assert np.array_equal(cv.model.learnt_from(cube), labelled)
    assert len(cv.model.label_places) == 300
    assert cv.evaluate(bootstrap=0).loc["all", "pixels"] == 300
    # Each pixel of this map is by a model that did not see its label.
    assert places_of_map(cv.predictions) is None


def test_an_ensemble_does_not_know_what_a_member_does_not(
    model: BiomassRegressor, full: xr.Dataset
) -> None:
    other = BiomassRegressor(model.network, model.bands, 3)  # type: ignore[arg-type]
    both = gb.Ensemble([model, other])
    assert both.label_places is None
    assert both.evaluate(full, bootstrap=0).attrs["trained"]["learnt"] is None


def test_plots_that_trained_a_model_do_not_adapt_it(
    model: BiomassRegressor, full: xr.Dataset, tmp_path: Path
) -> None:
    own = some(full, 400, seed=9)
    shared = int(np.isfinite(own["agb"]).where(model.learnt_from(full), 0).sum())
    assert shared > 2
    with pytest.raises(gb.CubeError, match=f"got {shared} of 400 labels .* that did"):
        model.adapt(own, "offset", block=8)
    new = own.assign(agb=own["agb"].where(~model.learnt_from(own)))
    adapted = model.adapt(new, "offset", block=8)
    assert isinstance(adapted, AdaptedRegressor)
    either = model.learnt_from(full) | np.isfinite(new["agb"])
    assert np.array_equal(adapted.learnt_from(full), either)
    adapted.save(tmp_path / "model")
    assert np.array_equal(gb.load(tmp_path / "model").learnt_from(full), either)
    with pytest.warns(UserWarning, match="trained the model: errors at them"):
        adapted.evaluate(new, bootstrap=0)
    silent = model.adapt(new, "offset", block=8, remember_labels=False)
    assert silent.label_places is None
    assert model.label_places is not None


# --- maps and totals ----------------------------------------------------------


def test_a_map_remembers_the_labels_of_its_model(
    maps: dict[str, Path], model: BiomassRegressor
) -> None:
    assert model.label_places is not None
    expected = model.label_places.to_dict()
    for path in maps.values():
        found = places_of_map(path)
        assert found is not None
        assert found.to_dict() == expected
        assert "120 pixels remembered" in str(gb.provenance(path))
    with xr.open_zarr(maps["map.zarr"]) as opened:
        places = places_of_map(opened)
        assert places is not None
        assert places_of_map(opened["agb"]) is None
    with rioxarray.open_rasterio(maps["map.tif"]) as raster:
        assert places_of_map(raster) is not None
    assert places_of_map(model.predict(make_scene(64, 80))) is not None


def test_a_geotiff_holds_the_largest_record(
    model: BiomassRegressor, full: xr.Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    grid = collected(full).parts[0].grid
    hashes = np.arange(label_places.MOST, dtype=np.uint64) * np.uint64(60_000_003)
    places = LabelPlaces((PlacesOnGrid(8, hashes, 5, grid, "EPSG:3067"),))
    changed = {**model.provenance, LABEL_PLACES: places.to_dict()}
    monkeypatch.setattr(model, "provenance", changed)
    path = model.predict_to(tmp_path / "map.tif", full, progress=False)
    found = places_of_map(path)
    assert found is not None
    assert np.array_equal(found.parts[0].hashes, hashes)


def test_a_map_of_another_landscape_has_no_plot_of_the_training() -> None:
    """Synthetic landscapes have the same coordinates."""
    bands = ["VV_asc", "B04"]
    grounds = [gb.landscape(48, 1, n).sel(band=bands).compute() for n in (0, 1)]
    model = gb.fit(some(grounds[0], 60), "pixels", block=16, **FAST)
    for ground, count in zip(grounds, (60, 0), strict=True):
        places = places_of_map(model.predict(ground, check="off"))
        assert places is not None
        assert len(places) == count


@pytest.mark.parametrize("name", ["map.zarr", "map.tif"])
def test_totals_count_plots_that_trained_the_model(
    name: str, maps: dict[str, Path], full: xr.Dataset, model: BiomassRegressor
) -> None:
    learnt = model.learnt_from(full).values
    rows, columns = np.nonzero(learnt)
    new_rows, new_columns = np.argwhere(~learnt)[::170].T
    new = plots_at(full, new_rows, new_columns)
    table = gb.totals(maps[name], plots=new, progress=False)
    assert table.attrs["plots_trained"] == 0
    assert "trained the model" not in table["note"].item()
    mixed = pd.concat([plots_at(full, rows[:7], columns[:7]), new]).to_crs("EPSG:4326")
    text = re.escape(f"7 of {len(mixed)} plots trained the model of the map")
    with pytest.warns(UserWarning, match=text):
        table = gb.totals(maps[name], plots=mixed, progress=False)
    assert table.attrs["plots_trained"] == 7
    assert "7 plots trained the model" in table["note"].item()


def test_totals_of_a_map_that_does_not_say(
    maps: dict[str, Path], full: xr.Dataset, tmp_path: Path
) -> None:
    plots = plots_at(full, np.arange(40), np.arange(40))
    with xr.open_zarr(maps["map.zarr"]) as opened:
        bare = opened.drop_attrs(deep=False)
        known = json.loads(opened.attrs["geobiomass_provenance"])
        known[LABEL_PLACES]["parts"][0]["crs"] = "no such system"
        damaged = opened.assign_attrs(geobiomass_provenance=json.dumps(known))
        for map in (bare, damaged):
            table = gb.totals(map, plots=plots, progress=False)
            assert table.attrs["plots_trained"].startswith("unknown: the map does not")


@pytest.mark.slow
def test_totals_of_change_count_plots_of_either_map(
    maps: dict[str, Path], full: xr.Dataset, model: BiomassRegressor
) -> None:
    learnt = model.learnt_from(full).values
    rows, columns = np.argwhere(~learnt)[::120].T
    plots = plots_at(full, rows, columns)
    plots = plots.assign(agb_first=plots["agb"], agb_second=plots["agb"] + 1)
    pair = (maps["map.zarr"], maps["map.tif"])
    table = gb.change_totals(*pair, plots=plots, progress=False)
    assert table.attrs["plots_trained"] == 0
    trained = plots_at(full, *(each[:3] for each in np.nonzero(learnt)))
    trained = trained.assign(agb_first=trained["agb"], agb_second=trained["agb"])
    both = pd.concat([plots, trained])
    with pytest.warns(UserWarning, match=rf"^3 of {len(both)} plots trained") as told:
        table = gb.change_totals(*pair, plots=both, progress=False)
    # Once, and not for each part of the change.
    assert sum("trained" in str(one.message) for one in told) == 1
    assert table.attrs["plots_trained"] == 3
