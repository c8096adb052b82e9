"""Static layers as features of the learner by pixel, from the fit to the map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.data.reader import Reader
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.stack_network import StackNetwork
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.network import AttentionUNet
from geobiomass.network.static_planes import months_of, packed, packed_batch, unpacked
from geobiomass.tiles import Sample, Window

FAST: dict[str, Any] = {"trees": 40, "neighbourhoods": (3,), "progress": False}
LAYERS = ("height", "slope", "e1", "e2")


def with_layers(cube: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Return a cube with four layers, more than its bands; the first tells biomass."""
    draw = np.random.default_rng(seed)
    dims = (*(("chip",) if "chip" in cube.dims else ()), "layer", "y", "x")
    shape = [len(LAYERS) if dim == "layer" else cube.sizes[dim] for dim in dims]
    values = draw.uniform(0, 1, shape).astype(np.float32)
    values[..., 0, :, :] = cube["agb"].values / 10 + draw.normal(0, 0.3, cube.agb.shape)
    values[..., 1, :4, :4] = np.nan
    units = dict(zip(LAYERS, ("m", "degree", "1", "1"), strict=True))
    attrs = {"units": json.dumps(units), "sources": json.dumps({"height": "chm.tif"})}
    static = xr.Variable(dims, values, attrs)
    return cube.assign(static=static).assign_coords(layer=list(LAYERS))


def noisy(height: int = 64, width: int = 64) -> xr.Dataset:
    """Return a scene whose bands say nothing of its biomass, a part unobserved."""
    cube = make_scene(height, width)
    noise = np.random.default_rng(1).normal(0, 1, cube["image"].shape)
    image = cube["image"] * 0 + noise.astype(np.float32)
    image[:, :, 50:54, 20:30] = np.nan
    return cube.assign(image=image)


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return with_layers(noisy())


@pytest.fixture(scope="module")
def plots(full: xr.Dataset) -> xr.Dataset:
    draw = np.random.default_rng(0).random(full["agb"].shape)
    return full.assign(agb=full["agb"].where(draw < 0.04))


@pytest.fixture(scope="module")
def model(plots: xr.Dataset) -> PixelRegressor:
    found = gb.fit(plots, "pixels", block=16, **FAST)
    assert isinstance(found, PixelRegressor)
    return found


@pytest.fixture(scope="module")
def without(plots: xr.Dataset) -> PixelRegressor:
    found = gb.fit(plots.drop_dims("layer"), "pixels", block=16, **FAST)
    assert isinstance(found, PixelRegressor)
    return found


# --- tiles ---


def test_layers_stand_after_the_months_and_none_is_repeated() -> None:
    image = np.random.default_rng(0).random((3, 2, 5, 6)).astype(np.float32)
    static = np.random.default_rng(1).random((3, 5, 6)).astype(np.float32)
    tile = packed(image, static)
    assert tile.shape == (3 + 2, 2, 5, 6)
    batch = torch.from_numpy(tile)[None]
    months, layers = unpacked(batch, 3)
    np.testing.assert_array_equal(months[0].numpy(), image)
    np.testing.assert_array_equal(layers[0].numpy(), static)
    again = packed_batch(months, layers)
    np.testing.assert_array_equal(again.numpy(), batch.numpy())
    assert months_of(batch, 0) is batch


@pytest.mark.parametrize("make", [make_scene, make_chips])
def test_a_tile_is_the_same_on_disk_with_dask_and_in_memory(
    make: Any, tmp_path: Path
) -> None:
    cube = with_layers(make())
    gb.write_cube(cube, tmp_path / "c.zarr", dtype="float32")
    opened = gb.open_cube(tmp_path / "c.zarr")
    chosen = ["e1", "height", "slope"]
    chips = "chip" in cube.dims
    if chips:
        cube, opened = (one.isel(chip=[4, 1, 2]) for one in (cube, opened))
    sample = Sample(Window(-3, 5, 20, 40), 1 if chips else None)
    expected = Reader(cube, ["B08", "VV_asc"], chosen).tile(sample)
    part = cube["static"].isel(chip=1) if chips else cube["static"]
    rows = [2, 1, 0, *range(20)]
    columns = [n if n < part.sizes["x"] else 63 - n for n in range(5, 40)]
    layers = part.sel(layer=chosen).values[:, rows][:, :, columns]
    found = expected[3:].reshape(4, 23, 35)
    np.testing.assert_array_equal(found[:3], layers)
    assert np.isnan(found[3]).all()
    for other in (opened, opened.chunk({"y": 16, "x": 24}), cube.chunk({"y": 16})):
        reader = Reader(other, ["B08", "VV_asc"], chosen)
        for each in (reader, reader.keeping(32, 64)):
            np.testing.assert_array_equal(each.tile(sample), expected)
        reader.cache(10**9)
        np.testing.assert_array_equal(reader.tile(sample), expected)
        alone = reader.layers_alone().read(sample)
        np.testing.assert_array_equal(alone[0], layers)
    plain = Reader(cube, ["B08", "VV_asc"])
    np.testing.assert_array_equal(plain.tile(sample), expected[:3])
    assert plain.identity() != Reader(cube, ["B08", "VV_asc"], chosen).identity()
    both = Reader(cube, ["B08", "VV_asc"], chosen)
    assert both.stored_bytes() == plain.stored_bytes() + 3 * cube["agb"].nbytes
    assert Reader(opened, ["B08"], chosen).stored_bytes() > 0


def test_a_layer_is_one_feature_and_settings_without_are_as_before() -> None:
    cube = with_layers(make_scene())
    bands, months = ["VV_asc", "B04", "B08"], (6, 7, 8)
    plain = PixelFeatures(bands, months, (3,))
    features = PixelFeatures(bands, months, (3,), layers=["slope", "height"])
    assert set(plain.settings) == {"bands", "months", "neighbourhoods", "monthly"}
    assert PixelFeatures.of_settings(features.settings).names == features.names
    assert features.names == (*plain.names, "static slope", "static height")
    reader = Reader(cube, bands, ["slope", "height"])
    found = features(torch.from_numpy(reader.tile(Sample(reader.whole)))[None])[0]
    image = torch.from_numpy(reader.read(Sample(reader.whole)))[None]
    np.testing.assert_array_equal(found[:-2].numpy(), plain(image)[0].numpy())
    layers = cube["static"].sel(layer=["slope", "height"]).values
    np.testing.assert_array_equal(found[-2:].numpy(), layers)
    inner = features(torch.from_numpy(reader.tile(Sample(reader.whole)))[None], None, 2)
    np.testing.assert_array_equal(inner[0, -1].numpy(), layers[1, 2:-2, 2:-2])


# --- the model ---


def test_a_layer_that_tells_biomass_is_learnt(
    full: xr.Dataset, model: PixelRegressor, without: PixelRegressor
) -> None:
    assert model.static_layers == LAYERS
    assert model.features[-4:] == tuple(f"static {name}" for name in LAYERS)
    assert "4 static layers" in repr(model)
    errors = [
        one.evaluate(full, bootstrap=0, check="off").loc["all", "pixel_rmse"]
        for one in (model, without)
    ]
    assert errors[0] < 0.6 * errors[1]
    assert without.static_layers == ()
    assert "static" not in repr(without)
    assert gb.describe(model)["network"].count("height/slope/e1/e2") == 1


def test_a_map_does_not_depend_on_tiles_blocks_or_the_order_of_layers(
    full: xr.Dataset, plots: xr.Dataset, model: PixelRegressor, tmp_path: Path
) -> None:
    agb = model.predict(full, tile=64, overlap=0)["agb"].values
    gone = np.isnan(agb)
    assert gone[50:54, 20:30].all()  # known ground that no image shows
    assert gone.sum() == 40
    unseen = np.isfinite(plots["agb"].values[50:54, 20:30]).sum()
    assert unseen
    assert model.provenance["learner"]["without an image"] == unseen
    turned = full.isel(layer=[3, 1, 0, 2])
    for cube in (turned, turned.chunk({"y": 20, "x": 30})):
        found = model.predict(cube, tile=32, overlap=8, block=32)["agb"].values
        np.testing.assert_allclose(found, agb, rtol=1e-6)
    gb.write_cube(full, tmp_path / "c.zarr", dtype="float32")
    opened = gb.open_cube(tmp_path / "c.zarr")
    model.predict_to(tmp_path / "map.zarr", opened, tile=64, overlap=0, progress=False)
    made = gb.provenance(tmp_path / "map.zarr")
    known = made["input"]["static layers"]
    assert known["height"] == {"units": "m", "source": "chm.tif"}
    assert "height of chm.tif, slope, e1, e2" in str(made)
    stored = xr.open_zarr(tmp_path / "map.zarr")["agb"].values
    np.testing.assert_array_equal(stored, agb)


def test_saved_is_loaded_with_its_layers(
    full: xr.Dataset, model: PixelRegressor, without: PixelRegressor, tmp_path: Path
) -> None:
    model.save(tmp_path / "m")
    again = gb.load(tmp_path / "m")
    assert again.static_layers == LAYERS
    np.testing.assert_array_equal(
        again.predict(full)["agb"].values, model.predict(full)["agb"].values
    )
    assert "height" in (tmp_path / "m" / "README.md").read_text()
    wrong = json.loads(json.dumps(model.network.settings))
    wrong["features"]["layers"] = "height"
    with pytest.raises(ValueError, match="layers must be a list of names"):
        PixelNetwork.of_settings(wrong)
    without.save(tmp_path / "plain")
    assert "layer" not in json.dumps(without.settings)


def test_a_cube_without_the_layers_is_refused_in_one_sentence(
    full: xr.Dataset, model: PixelRegressor, without: PixelRegressor
) -> None:
    bare = full.drop_dims("layer")
    for call in (model.predict, model.check, model.evaluate):
        with pytest.raises(gb.CubeError, match=r"learnt the static layers .*no static"):
            call(bare)
    with pytest.raises(gb.CubeError, match=r"add \['slope'\] with gb.with_static"):
        model.predict(full.sel(layer=["height", "e1", "e2"]))
    # A model that learnt none takes a cube that has some.
    np.testing.assert_array_equal(
        without.predict(full)["agb"].values, without.predict(bare)["agb"].values
    )


def test_the_training_cube_is_recognised_with_its_layers(
    plots: xr.Dataset, model: PixelRegressor, without: PixelRegressor
) -> None:
    assert model.was_trained_on(plots)
    assert without.was_trained_on(plots)
    assert not model.was_trained_on(plots.drop_dims("layer"))
    changed = plots.assign(static=plots["static"] + np.float32(1))
    changed["static"].attrs = plots["static"].attrs
    assert not model.was_trained_on(changed)


def test_an_unusual_layer_is_told_and_not_applicable(
    full: xr.Dataset, model: PixelRegressor, without: PixelRegressor
) -> None:
    table = model.check(full)
    assert table.index.tolist()[-4:] == [f"static {name}" for name in LAYERS]
    assert set(table["verdict"]) == {"ok"}
    assert "static height" not in without.check(full).index
    attrs = full["static"].attrs
    moved = full["static"] + np.float32(30) * (full["layer"] == "e1")
    moved = full.assign(static=moved.astype(np.float32).assign_attrs(attrs))
    found = model.check(moved)["verdict"]
    assert found["static e1"] == "unusual"
    assert found["static e2"] == "ok"
    with pytest.warns(UserWarning, match="static e1: unusual"):
        model.predict(moved)
    index, far = (
        float(model.applicability(one, check="off")["dissimilarity"].compute().median())
        for one in (full, moved)
    )
    assert index < 1 < 10 < far
    again = gb.Ensemble([model, without])
    assert again.check(moved)["verdict"]["static e1"] == "unusual"


def test_an_ensemble_gives_each_member_its_layers(
    full: xr.Dataset,
    plots: xr.Dataset,
    model: PixelRegressor,
    without: PixelRegressor,
) -> None:
    few = plots.sel(layer=["e2", "height"], band=["B08", "VV_asc"])
    other = gb.fit(few, "pixels", block=16, **FAST)
    both = gb.Ensemble([without, other, model])
    assert both.static_layers == ("e2", "height", "slope", "e1")
    each = [one.predict(full)["agb"] for one in (without, other, model)]
    mean = (each[0] + each[1] + each[2]) / 3
    found = both.predict(full)["agb"]
    np.testing.assert_allclose(found.values, mean.values, rtol=1e-5)
    with pytest.raises(gb.CubeError, match="the cube has no static layers"):
        both.predict(full.drop_dims("layer"))


def test_learnt_percentiles_and_domain_have_the_layers(
    plots: xr.Dataset, model: PixelRegressor, tmp_path: Path
) -> None:
    model.save(tmp_path / "m")
    other = gb.load(tmp_path / "m")
    other.provenance = {}
    gb.write_cube(plots, tmp_path / "c.zarr", dtype="float32")
    other.learn_percentiles(gb.open_cube(tmp_path / "c.zarr"))
    assert set(other.check(plots)["verdict"]) == {"ok"}
    other.learn_applicability(plots, cells=64)
    assert float(other.applicability(plots)["dissimilarity"].compute().median()) < 1


def test_a_cross_validation_knows_its_layers(plots: xr.Dataset, tmp_path: Path) -> None:
    found = gb.cross_validate(plots, "pixels", 2, block=16, **FAST)
    assert found.model.static_layers == LAYERS
    error = found.evaluate(bootstrap=0).loc["all", "pixel_rmse"]
    assert error < 0.3 * float(plots["agb"].std())
    found.save(tmp_path / "cv", progress=False)
    gb.CrossValidation.load(tmp_path / "cv", plots)
    changed = plots.assign(static=(plots["static"] + np.float32(1)))
    changed["static"].attrs = plots["static"].attrs
    with pytest.warns(UserWarning, match="static layers in memory was"):
        gb.CrossValidation.load(tmp_path / "cv", changed)


def test_chips_with_layers_and_labels_that_are_off(tmp_path: Path) -> None:
    chips = with_layers(make_chips(4, 24))
    draw = np.random.default_rng(0).random(chips["agb"].shape)
    few = chips.assign(agb=chips["agb"].where(draw < 0.05))
    model = gb.fit(few, "pixels", label_shift=1, **FAST)
    assert model.static_layers == LAYERS
    maps = model.predict(chips)["agb"].values
    assert np.corrcoef(maps.ravel(), chips["agb"].values.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_an_exported_graph_takes_layers_as_a_second_input(
    full: xr.Dataset, plots: xr.Dataset, tmp_path: Path
) -> None:
    few = plots.sel(band=plots["band"].values[:2])
    small = FAST | {"trees": 10, "neighbourhoods": (3,)}
    model = gb.fit(few, "pixels", block=16, **small)
    assert isinstance(model, PixelRegressor)
    tile = full.isel(y=slice(32), x=slice(32))
    reader = Reader(tile, model.bands)
    image = torch.from_numpy(reader.read(Sample(reader.whole)))[None]
    static = torch.from_numpy(tile["static"].values)[None]
    with torch.inference_mode():
        expected = model.network(packed_batch(image, static)).numpy()
    model.export(tmp_path / "m.onnx", height=32, width=32)
    session = onnxruntime.InferenceSession(
        tmp_path / "m.onnx", providers=["CPUExecutionProvider"]
    )
    given = {"image": image.numpy(), "static": static.numpy()}
    found = session.run(None, given)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_without_a_value_at_any_label_is_refused(plots: xr.Dataset) -> None:
    empty = plots["static"].where(plots["layer"] != "slope")
    with pytest.raises(gb.CubeError, match=r"none of \['slope'\]"):
        gb.fit(plots.assign(static=empty), "pixels", block=16, **FAST)


def test_a_stack_gives_its_network_the_months_alone(full: xr.Dataset) -> None:
    bands, months = ["VV_asc", "B04", "B08"], (6, 7, 8)
    features = PixelFeatures(bands, months, (3,), layers=LAYERS)
    inner = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8))
    plain = PixelFeatures(bands, months, (3,))
    stack = StackNetwork(features.settings, inner=inner.settings).eval()
    stack.inner = inner.eval()
    reader = Reader(full.isel(y=slice(32), x=slice(32)), bands, LAYERS)
    tile = torch.from_numpy(reader.tile(Sample(reader.whole)))[None]
    image = torch.from_numpy(reader.read(Sample(reader.whole)))[None]
    with torch.inference_mode():
        found = stack._features_of(tile, None)
        expected = inner(image)
    np.testing.assert_array_equal(found[:, -1:].numpy(), expected.numpy())
    np.testing.assert_array_equal(found[:, :-1].numpy(), features(tile).numpy())
    assert stack.static_layers == LAYERS
    # One that learnt the layers gets them.
    reads = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8), static=LAYERS)
    stack = StackNetwork(features.settings, inner=reads.settings).eval()
    stack.inner = reads.eval()
    with torch.inference_mode():
        found = stack._features_of(tile, None)
        np.testing.assert_array_equal(found[:, -1:].numpy(), reads(tile).numpy())
    with pytest.raises(ValueError, match="or none, got"):
        StackNetwork(plain.settings, inner=reads.settings)


def test_a_model_that_learnt_layers_is_adapted(
    full: xr.Dataset, model: PixelRegressor
) -> None:
    new = with_layers(noisy(64, 48), seed=7)
    new = new.assign_coords(x=new.x + 10_000)  # other ground
    higher = (2 * new["agb"]).assign_attrs(new["agb"].attrs)
    draw = np.random.default_rng(3).random(new["agb"].shape)
    own = new.assign(agb=higher.where(draw < 0.05))
    adapted = model.adapt(own, "affine", block=8)
    assert adapted.static_layers == LAYERS
    network = adapted.network
    maps = model.predict(new, check="off")["agb"]
    moved = float(network.slope) * maps + float(network.intercept)
    found = adapted.predict(new, check="off")["agb"]
    np.testing.assert_allclose(found.values, moved.values.clip(0), rtol=1e-4)
    assert float(network.slope) > 1.5
    with pytest.raises(gb.CubeError, match="the cube has no static layers"):
        adapted.predict(new.drop_dims("layer"))
