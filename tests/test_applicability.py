"""The area of applicability: its numbers, its laws, and what it detects."""

from __future__ import annotations

import json
import pickle
from contextlib import nullcontext
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from earlier_models import without_checksums
from scipy.spatial.distance import cdist
from test_maps import BANDS, NETWORK, Counting, small_network
from variants import variants

import geobiomass as gb
from benchmarks.places import (
    OPTICAL,
    RADAR,
    changed,
    forests,
    judged,
    rmse,
    train,
)
from geobiomass.applicability import Domain
from geobiomass.applicability.cells import cell_of, strides_of, views_of
from geobiomass.applicability.learning import learn_domain, upper_whisker
from geobiomass.data.reader import Reader, Sample
from geobiomass.inference.map_settings import MapSettings
from geobiomass.tiles import Window

matplotlib.use("Agg")
TILING = {"tile": 32, "overlap": 16}
SMALL = {
    "recipe": "quick",
    "encoder": "resnet10t",
    "decoder_channels": (16, 16, 16, 16, 16),
    "crop": 32,
    "epochs": 1,
    "batch_size": 3,
    "progress": False,
}


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    return model.learn_applicability(make_chips(12, 32))


# --- the numbers ------------------------------------------------------------------


def test_the_whisker_is_that_of_a_box_plot() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 20])
    # Quartiles 2.75 and 6.25: up to 6.25 + 1.5 * 3.5 = 11.5.
    assert upper_whisker(values) == 7
    assert upper_whisker(np.append(values, 11.4)) == 11.4
    box = matplotlib.cbook.boxplot_stats(values)[0]
    assert upper_whisker(values) == box["whishi"]


def test_the_index_is_that_of_the_paper() -> None:
    # Its cells differ smoothly, so that between their centres the index does too.
    network = small_network(encoder="resnet10t")
    reader, draw = Reader(make_chips(12, 32), BANDS), np.random.default_rng(0)
    samples = [Sample(reader.whole, chip) for chip in range(12)]
    domain = learn_domain(network, reader, samples, cells=48)
    assert domain is not None
    assert (domain.samples, domain.cells, domain.cell) == (12, 48, 16)
    ratios = []
    for view in domain.views:
        reference = view.reference.astype(np.float64)
        apart = cdist(reference, reference)
        # Order of cells: four of each chip, one chip after the other.
        chip = np.arange(48) // 4
        mean = apart[~np.eye(48, dtype=bool)].mean()
        assert view.mean_distance == pytest.approx(mean, rel=1e-5)
        own = np.where(chip[:, None] == chip, np.inf, apart).min(axis=1) / mean
        assert view.threshold == pytest.approx(upper_whisker(own), rel=1e-5)
        ratios.append(own / view.threshold)
    expected = np.percentile(np.max(ratios, axis=0), np.arange(101))
    np.testing.assert_allclose(domain.quantiles, expected, rtol=1e-4)
    # A map of one tile: the distance of each cell to the nearest reference.
    scene = make_scene(64, 96, seed=77)
    tensor = torch.from_numpy(scene.image.values.copy())[None]
    with torch.inference_mode():
        look = network.look(tensor)
        views = views_of(look, strides_of(network), cell_of(network))
        torch.testing.assert_close(look.maps, network(tensor), rtol=0, atol=0)
    each = []
    for view, seen in zip(domain.views, views, strict=True):
        rows = (seen[0].flatten(1).T.numpy() - view.mean) @ view.projection
        nearest = cdist(rows, view.reference).min(axis=1)
        each.append(nearest / view.mean_distance / view.threshold)
    expected = np.max(each, axis=0).reshape(4, 6)
    model = gb.BiomassRegressor(network, BANDS, 3)
    model._domain = domain
    found = model.applicability(scene, tile=96, overlap=0).dissimilarity.values
    # Between the centres of cells the index is interpolated.
    middle = (found[7::16, 7::16] + found[8::16, 8::16]) / 2
    np.testing.assert_allclose(middle, expected, rtol=0.05)
    draw.shuffle(expected.ravel())
    assert not np.allclose(middle, expected, rtol=0.05)


def test_training_data_have_an_index_of_zero(model: gb.BiomassRegressor) -> None:
    # All cells of these chips are references.
    found = model.applicability(make_chips(12, 32), tile=32, overlap=0)
    index = found.dissimilarity.values
    corners = index[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # beyond centres: as the cell
    np.testing.assert_allclose(corners, 0, atol=1e-4)
    assert (found.applicable == 1).all()
    far = make_chips(2, 32)
    far["image"] = far.image.where(far.band == "VV_asc", far.image + 3000)
    outside = model.applicability(far, tile=32, overlap=0)
    assert (outside.dissimilarity > 1).all()
    assert (outside.applicable == 0).all()


def test_what_was_always_there_and_is_not_is_far() -> None:
    chips = make_chips(12, 32).fillna(1000)
    model = gb.BiomassRegressor(NETWORK, BANDS, 3).learn_applicability(chips)
    gone = chips.copy(deep=True)
    gone["image"] = gone.image.where(gone.band != "VV_asc")
    assert (model.applicability(chips, tile=32, overlap=0).applicable == 1).all()
    assert (model.applicability(gone, tile=32, overlap=0).applicable == 0).all()


# --- the map ------------------------------------------------------------------------


def test_one_pass_gives_the_map_and_both_layers(model: gb.BiomassRegressor) -> None:
    scene = make_scene(70, 50)
    scene["image"][..., :20, :15] = np.nan
    found = model.predict(scene, **TILING, applicability=True)
    assert list(found) == ["agb", "dissimilarity", "applicable"]
    assert found.agb.chunks is not None
    assert list(model.applicability(scene)) == ["dissimilarity", "applicable"]
    values = found.compute()
    np.testing.assert_array_equal(values.agb, model.predict(scene, **TILING).agb)
    assert values.dissimilarity.dtype == values.applicable.dtype == np.float32
    index = values.dissimilarity.values
    assert np.isnan(index[:20, :15]).all()
    assert np.isfinite(index[20:]).all()
    assert (index[20:] >= 0).all()
    expected = np.where(np.isnan(index), np.nan, index <= 1)
    np.testing.assert_array_equal(values.applicable, expected)
    assert values.applicable.attrs["flag_values"] == [0.0, 1.0]
    assert values.applicable.attrs["flag_meanings"] == "outside inside"
    assert values.dissimilarity.attrs["units"] == "1"
    assert values.agb.attrs["units"] == "Mg/ha"
    assert found.dissimilarity.encoding["grid_mapping"] == "spatial_ref"


@variants(
    "chosen",
    [{"flips": True}, {"batch_size": 3}, {}, {"precision": "bf16"}],
    quick=1,
)
def test_blocks_do_not_change_it(model: gb.BiomassRegressor, chosen: dict) -> None:
    scene = make_scene(90, 70)
    scene["image"][:, :, :40, :40] = np.nan  # a tile without any observation
    one, other = (
        model.applicability(scene, **TILING, block=side, **chosen).compute()
        for side in (33, 128)
    )
    np.testing.assert_array_equal(one.dissimilarity, other.dissimilarity)
    np.testing.assert_array_equal(one.applicable, other.applicable)
    plain = model.applicability(scene, **TILING).dissimilarity
    seen = np.isfinite(plain.values)
    np.testing.assert_array_equal(np.isfinite(one.dissimilarity), seen)
    # bf16 and turned images are other numbers, but not far off.
    found = np.corrcoef(one.dissimilarity.values[seen], plain.values[seen])[0, 1]
    assert found > 0.7


def test_missing_means_missing(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 48)
    absent = scene.image.isel(month=[0]).assign_coords(month=[9]) * np.nan
    longer = xr.concat([scene.image, absent], "month")
    more = scene.drop_dims("month").assign(image=longer)
    # Huge values at missing pixels, as from a store with another nodata value.
    odd = scene.copy(deep=True)
    odd["image"] = odd.image.where(odd.image.notnull(), np.inf)
    expected = model.applicability(scene, **TILING).dissimilarity.values
    for other, told in ((more, nullcontext()), (odd, pytest.warns(match="768 pixels"))):
        with told:
            found = model.applicability(other, **TILING).dissimilarity.values
        np.testing.assert_array_equal(found, expected)


def test_on_disk_it_is_another_map(model: gb.BiomassRegressor, tmp_path: Path) -> None:
    scene = make_scene(64, 64)
    options = {**TILING, "block": 32, "progress": False}
    path = tmp_path / "map.zarr"
    model.predict_to(path, scene, **options, applicability=True)
    expected = model.predict(scene, **TILING, applicability=True).compute()
    found = xr.open_zarr(path).compute()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert found.applicable.attrs["flag_meanings"] == "outside inside"
    with pytest.raises(FileExistsError):
        model.predict_to(path, scene, **options)
    other = gb.BiomassRegressor(NETWORK, BANDS, 3)
    other.learn_applicability(make_chips(9, 32, seed=40))
    with pytest.raises(FileExistsError):  # by another domain it is another map too
        other.predict_to(path, scene, **options, applicability=True)
    import rasterio

    model.predict_to(tmp_path / "map.tif", scene, **options, applicability=True)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.descriptions == ("agb", "dissimilarity", "applicable")
        np.testing.assert_array_equal(source.read(3), expected.applicable)


def test_it_is_pickled_for_workers(model: gb.BiomassRegressor) -> None:
    scene = make_scene(48, 48)
    mapper = model._mapper(scene, MapSettings(32, 16, 48), applicability=True)
    whole = Window(0, 0, 48, 48)
    far = pickle.loads(pickle.dumps(mapper))
    np.testing.assert_array_equal(far.compute(whole), mapper.compute(whole))


def test_the_command_line_maps_it(
    run, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    scene = make_scene(64, 64)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    words = ("predict", tmp_path / "model", tmp_path / "scene.zarr")
    code, out, err = run(*words, tmp_path / "m.zarr", "--applicability", "--json")
    assert code == 0, err
    assert json.loads(out)["outputs"] == ["agb", "dissimilarity", "applicable"]
    found = xr.open_zarr(tmp_path / "m.zarr")
    expected = model.applicability(gb.open_cube(tmp_path / "scene.zarr"))
    np.testing.assert_array_equal(found.dissimilarity, expected.dissimilarity)


def test_what_is_outside_is_hatched(model: gb.BiomassRegressor) -> None:
    scene = make_scene(64, 64)
    scene["image"][:, 1:, :32] += 3000
    found = model.applicability(scene, **TILING)
    axes = gb.plots.applicability(found)
    inside = float(found.applicable.mean())
    assert 0.1 < inside < 0.9
    assert f"{inside:.0%} inside" in axes.get_title()
    assert axes.get_xlabel() == "x, km"
    hatched = [c for c in axes.collections if "////" in getattr(c, "hatches", ())]
    assert len(hatched) == 1
    # Rows of the north are outside, and hatched.
    north = hatched[0].get_paths()[0].vertices[:, 1].max()
    assert north == pytest.approx(float(found.y.max()) / 1000, abs=0.01)
    matplotlib.pyplot.close("all")
    with pytest.raises(ValueError, match="dissimilarity"):
        gb.plots.applicability(scene)


# --- learning and keeping -------------------------------------------------------------


@pytest.mark.slow
def test_a_training_ends_with_it_and_is_the_same_without(tmp_path: Path) -> None:
    chips = make_chips(8, 32)
    state = torch.random.get_rng_state()
    model = gb.fit(chips, **SMALL, folder=tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)
    bare = gb.fit(chips, **SMALL, domain_cells=0)
    for name, weights in bare.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], weights), name
    pd.testing.assert_frame_equal(
        model.history.drop(columns="seconds"), bare.history.drop(columns="seconds")
    )
    assert bare.domain is None
    domain = model.domain
    assert isinstance(domain, Domain)
    held_out = model.provenance["validation"] if model.provenance else None
    assert held_out is not None
    assert domain.samples == 7  # one of eight chips is held out
    again = gb.fit(chips, **SMALL, folder=tmp_path / "run").domain
    assert again is not None
    assert again.fingerprint() == domain.fingerprint()
    facts = json.loads(json.dumps(domain.to_dict()))
    assert facts["places"] == 7
    with pytest.raises(ValueError, match="learn_applicability"):
        bare.applicability(chips)
    with pytest.raises(ValueError, match="domain_cells"):
        gb.fit(chips, **SMALL, domain_cells=-1)


def test_months_left_out_in_training_are_not_foreign() -> None:
    chips = make_chips(12, 32)
    reader = Reader(chips, BANDS)
    samples = [Sample(reader.whole, chip) for chip in range(12)]
    seen: list[torch.Tensor] = []

    def first_only(inputs, target):
        image, _ = inputs
        seen.append(image)
        return (image, torch.tensor([[True, False, False]])), target

    one = gb.BiomassRegressor(NETWORK, BANDS, 3)
    one._domain = learn_domain(NETWORK, reader, samples, augment=first_only)
    assert len(seen) == 12
    found = one.applicability(chips.isel(month=[0]), tile=32, overlap=0)
    corners = found.dissimilarity.values[:, [0, -1], [0, -1]]
    np.testing.assert_allclose(corners, 0, atol=1e-4)


def test_scenes_with_sparse_labels_are_sampled_where_the_labels_are() -> None:
    scene = make_scene(128, 128)
    sparse = scene.copy(deep=True)
    sparse["agb"] = sparse.agb.where((sparse.y < sparse.y[64]) & (sparse.x > 0))
    model = gb.BiomassRegressor(NETWORK, BANDS, 3).learn_applicability(sparse)
    assert model.domain is not None
    assert model.domain.cells <= 64 * 128 / 256
    with pytest.raises(gb.CubeError, match="8 cells"):
        model.learn_applicability(scene.isel(y=slice(0, 20), x=slice(0, 20)))


def test_saved_is_loaded(model: gb.BiomassRegressor, tmp_path: Path) -> None:
    scene, folder = make_scene(64, 48), tmp_path / "model"
    model.save(folder)
    model.save(folder)  # a model with a domain may be replaced
    loaded = gb.load(folder)
    assert loaded.domain.fingerprint() == model.domain.fingerprint()
    assert loaded.domain.to_dict() == model.domain.to_dict()
    np.testing.assert_array_equal(
        loaded.applicability(scene).dissimilarity,
        model.applicability(scene).dissimilarity,
    )
    (folder / "domain.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(gb.ModelError, match=r"domain\.safetensors is damaged"):
        gb.load(folder)
    # Models saved before had none, and no checksums.
    (folder / "domain.safetensors").unlink()
    without_checksums(folder)
    old = gb.load(folder)
    assert old.domain is None
    np.testing.assert_array_equal(old.predict(scene).agb, model.predict(scene).agb)
    with pytest.raises(ValueError, match="learn_applicability"):
        old.predict(scene, applicability=True)


@pytest.mark.slow
def test_ensembles_take_the_mean_of_their_members(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    other_network = small_network()
    with torch.no_grad():
        other_network.encoder.conv1[0].weight.mul_(0.5)  # type: ignore[index]
    other = gb.BiomassRegressor(other_network, BANDS, 3)
    scene = make_scene(64, 48)
    with pytest.raises(ValueError, match="learn_applicability"):
        gb.Ensemble([model, other]).applicability(scene)
    other.learn_applicability(make_chips(10, 32, seed=5))
    both = gb.Ensemble([model, other], spread=True)
    found = both.predict(scene, **TILING, applicability=True).compute()
    assert list(found) == ["agb", "agb_spread", "dissimilarity", "applicable"]
    plain = both.predict(scene, **TILING)
    for name in ("agb", "agb_spread"):
        np.testing.assert_array_equal(found[name], plain[name])
    each = [m.applicability(scene, **TILING).dissimilarity for m in (model, other)]
    assert abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(found.dissimilarity, sum(each) / 2, rtol=1e-4)
    both.save(tmp_path / "both")
    loaded = gb.load(tmp_path / "both")
    assert loaded.domain.to_dict() == both.domain.to_dict()
    assert loaded.domain.fingerprint() == both.domain.fingerprint()
    nested = gb.Ensemble([both, both])
    np.testing.assert_allclose(
        nested.applicability(scene, **TILING).dissimilarity, found.dissimilarity
    )


def test_networks_that_do_not_return_what_they_pool_are_refused(
    model: gb.BiomassRegressor,
) -> None:
    brought = gb.BiomassRegressor(NETWORK, BANDS, 3)
    brought.network = Counting(NETWORK)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="look"):
        brought.learn_applicability(make_chips(4))
    with pytest.raises(TypeError, match="look"):
        brought.applicability(make_scene(64, 64))


@pytest.mark.slow
def test_a_network_that_knows_the_month_is_asked_in_the_months_of_the_map() -> None:
    chips = make_chips(6, 32)
    model = gb.fit(chips, **SMALL, month_term=True)
    with torch.no_grad():
        for attention in model.network.attention:
            attention.season.weight.normal_()  # type: ignore[union-attr]
    model.learn_applicability(chips)
    scene = make_scene(64, 64)
    renamed = scene.assign_coords(month=[1, 2, 3])
    first, second = (model.applicability(s).dissimilarity for s in (scene, renamed))
    assert np.isfinite(second).all()
    assert abs(first - second).max() > 1e-4


# --- what it sees, on landscapes that training saw and did not ------------------------


@pytest.fixture(scope="module")
def trained() -> gb.BiomassRegressor:
    """Return a network trained on 40 landscapes of pine and spruce, without birch."""
    return train(40)


@pytest.fixture(scope="module")
def new_ground() -> xr.Dataset:
    return forests(range(1000, 1006))


@pytest.mark.slow
def test_inside_the_error_is_as_reported_and_outside_it_is_larger(
    trained: gb.BiomassRegressor, new_ground: xr.Dataset
) -> None:
    reported = float(trained.history["validation_pixel_rmse"].min())
    new = judged(trained, new_ground)
    assert new.inside.mean() > 0.9
    assert 0.7 * reported < rmse(new.error[new.inside]) < 1.3 * reported
    shifted = {
        "birch": forests(range(1000, 1006), ("birch",)),
        "another sensor": changed(new_ground, OPTICAL, lambda v: v + 1000),
        "another radar": changed(new_ground, RADAR, lambda v: v + 3),
        "no radar": changed(new_ground, RADAR, lambda v: v * np.nan),
    }
    tables = {name: judged(trained, cube) for name, cube in shifted.items()}
    for name, table in tables.items():
        forest = table[table.agb > 30]
        assert forest.inside.mean() < 0.15, (name, forest.inside.mean())
        assert table["index"].median() > 1.2 * new["index"].median(), name
    every = pd.concat([new, *tables.values()])
    inside, outside = every[every.inside], every[~every.inside]
    assert rmse(inside.error) < 1.3 * reported
    assert rmse(outside.error) > 1.3 * rmse(inside.error)


@pytest.mark.slow
def test_what_it_cannot_detect(
    trained: gb.BiomassRegressor, new_ground: xr.Dataset
) -> None:
    """The same images with other biomass: no index of images can detect it."""
    denser = new_ground.assign(agb=2 * new_ground.agb)
    table = judged(trained, denser)
    assert table.inside.mean() > 0.9
    usual = judged(trained, new_ground)
    assert rmse(table.error[table.inside]) > 1.5 * rmse(usual.error[usual.inside])
