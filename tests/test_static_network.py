"""Static layers in the network: their place in it, training, maps, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.data.reader import Reader
from geobiomass.inference.batch_predictor import BatchPredictor
from geobiomass.models.export import WithStatic, exportable
from geobiomass.models.fit_members import untrained
from geobiomass.network import AttentionUNet
from geobiomass.network.saved_settings import network_of_settings
from geobiomass.network.static_fusion import StaticFusion
from geobiomass.network.static_planes import packed_batch
from geobiomass.recipes.recipe import find_recipe
from geobiomass.tiles import Sample, Window
from geobiomass.training.augment import FLIPS, ORIENTATIONS, Augmentation
from geobiomass.training.label_matching import with_image_layer

LAYERS = ("height", "noise")
SMALL: dict[str, Any] = {
    **{"encoder": "test_resnet", "decoder_channels": (8, 8, 8, 8, 8)},
    **{"crop": 32, "batch_size": 4, "progress": False, "pretrained": False},
}


def with_layers(cube: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Return a cube with two layers; the first tells biomass, with a gap."""
    draw = np.random.default_rng(seed)
    height = cube["agb"].values / 10
    noise = draw.normal(0, 1, height.shape)
    axis = height.ndim - 2
    values = np.stack([height, noise], axis).astype(np.float32)
    values[..., 0, :3, :3] = np.nan
    dims = (*cube["agb"].dims[:-2], "layer", "y", "x")
    attrs = {"units": json.dumps(dict(zip(LAYERS, ("m", "1"), strict=True)))}
    static = xr.Variable(dims, values, attrs)
    return cube.assign(static=static).assign_coords(layer=list(LAYERS))


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    """Return a scene whose bands say nothing of its biomass, a part unobserved."""
    cube = make_scene(64, 96)
    noise = np.random.default_rng(1).normal(0, 1, cube["image"].shape)
    image = cube["image"] * 0 + noise.astype(np.float32)
    image[:, :, 50:54, 20:30] = np.nan
    return with_layers(cube.assign(image=image))


@pytest.fixture(scope="module")
def labelled(scene: xr.Dataset) -> xr.Dataset:
    """Return it with labels in two thirds of it."""
    return scene.assign(agb=scene["agb"].where(scene["x"] < float(scene["x"][64])))


def train(cube: xr.Dataset, **settings: Any) -> gb.BiomassRegressor:
    more = {"epochs": 16, "learning_rate": 1e-2, "validation": 0.0} | settings
    model = gb.fit(cube, "quick", **SMALL, **more)
    assert isinstance(model, gb.BiomassRegressor)
    return model


@pytest.fixture(scope="module")
def model(labelled: xr.Dataset) -> gb.BiomassRegressor:
    return train(labelled)


def small_network(layers: tuple[str, ...] = LAYERS, **settings: Any) -> AttentionUNet:
    torch.manual_seed(0)
    made = AttentionUNet(
        3, "test_resnet", (8, 8, 8, 8, 8), static=layers, **settings
    ).eval()
    if made.fusion is not None:
        made.fusion.set_statistics([10.0, 0.0], [5.0, 1.0])
    return made


def awake(network: AttentionUNet) -> AttentionUNet:
    """Return a network whose layers have an effect, as after training."""
    assert network.fusion is not None
    with torch.no_grad():
        for join in network.fusion.joins:
            torch.nn.init.normal_(join.weight, std=0.3)  # type: ignore[arg-type]
    return network


def batch(height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    image = torch.randn(2, 3, 3, height, width, generator=draw)
    static = 10 + 5 * torch.randn(2, 2, height, width, generator=draw)
    return image, static


# --- the network ---


def test_a_network_begins_as_it_is_without_layers() -> None:
    plain, made = small_network(()), small_network()
    assert plain.static_layers == ()
    assert not any("static" in name for name in plain.settings)
    more = {k for k in made.state_dict() if k not in plain.state_dict()}
    assert more
    assert all(name.startswith("fusion.") for name in more)
    for name, values in plain.state_dict().items():
        assert torch.equal(values, made.state_dict()[name]), name
    image, static = batch()
    with torch.inference_mode():
        found = made(packed_batch(image, static))
        assert torch.equal(found, plain(image))
        assert not torch.equal(found, awake(made)(packed_batch(image, static)))


def test_what_stands_in_missing_data_never_matters_and_missing_is_not_zero() -> None:
    network = awake(small_network())
    image, static = batch(40, 48)
    static[:, 0, 5:20, 5:30] = torch.nan
    other = static.clone()
    other[:, 0, 5:20, 5:30] = torch.inf
    mean = static.clone()
    mean[:, 0, 5:20, 5:30] = 10.0  # zero once it is scaled
    with torch.inference_mode():
        maps = [network(packed_batch(image, one)) for one in (static, other, mean)]
    assert maps[0].isfinite().all()
    assert torch.equal(maps[0], maps[1])
    assert (maps[0] - maps[2]).abs().max() > 1e-3
    # And months, as without layers.
    image[:, 1] = torch.nan
    with torch.inference_mode():
        two = network(packed_batch(image[:, [0, 2]], static))
        found = network(packed_batch(image, static))
    torch.testing.assert_close(found, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "expected"), [("finest", (0,)), ("coarsest", (4,)), ("both", (0, 4))]
)
def test_levels_are_chosen_and_saved(levels: Any, expected: tuple[int, ...]) -> None:
    made = small_network(static_levels=levels)
    assert made.fusion is not None
    assert made.fusion.levels == expected
    again = network_of_settings(json.loads(json.dumps(made.settings)))
    assert again.settings == made.settings
    assert again.static_layers == LAYERS
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.fusion.scale, torch.tensor([5.0, 1.0]))
    awake(made)
    image, static = batch()
    with torch.inference_mode():
        pooled = made._pool(image, None, None)[1]
        joined = made._joined(pooled, static)
    same = [torch.equal(*pair) for pair in zip(pooled, joined, strict=True)]
    assert same == [level not in expected for level in range(5)]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="each once, got"):
        small_network(("a", "a"))
    with pytest.raises(ValueError, match=r"static_levels must be one of .*middle"):
        small_network(static_levels="middle")
    with pytest.raises(ValueError, match="static_levels must be one of"):
        find_recipe("quick", static_levels="none")
    settings = small_network().settings
    with pytest.raises(ValueError, match="static must be a list of texts"):
        network_of_settings(settings | {"static": [3]})
    with pytest.raises(ValueError, match="must be multiples of each other"):
        StaticFusion(["a"], [8, 8], [2, 3])
    with pytest.raises(ValueError, match="must have 2 values"):
        small_network().fusion.set_statistics([1.0], [1.0])


def test_a_look_has_the_layers_and_the_same_maps() -> None:
    network = awake(small_network())
    image, static = batch(40, 48)
    static[:, 1, :, :8] = torch.nan
    with torch.inference_mode():
        look = network.look(packed_batch(image, static))
        torch.testing.assert_close(look.maps, network(packed_batch(image, static)))
        plain = small_network(()).look(image)
    assert look.seen.shape[1] == plain.seen.shape[1] + 4
    stride = 64 // look.seen.shape[-1]
    scaled = torch.nn.functional.avg_pool2d((static[:, :1] - 10) / 5, stride)
    rows, columns = scaled.shape[-2:]
    torch.testing.assert_close(look.seen[:, 6:7, :rows, :columns], scaled)
    there = look.seen[0, 9]
    assert there[0, 8 // stride : columns].eq(1).all()
    assert there[:, : 8 // stride].eq(0).all()
    assert there[rows:].eq(0).all()


def test_layers_reach_no_further_than_their_convolutions() -> None:
    fusion = awake(small_network()).fusion
    static = batch(128, 128)[1]
    sizes = zip((64, 32, 16, 8, 4), fusion_channels(fusion), strict=True)
    pooled = [torch.zeros(2, channels, side, side) for side, channels in sizes]
    part = [level[..., : level.shape[-1] // 2] for level in pooled]
    with torch.inference_mode():
        whole, left = fusion(static, pooled), fusion(static[..., :64], part)
    # Without a norm, the tile does not matter away from its edge.
    torch.testing.assert_close(whole[0][..., :28], left[0][..., :28])


def fusion_channels(fusion: StaticFusion) -> list[int]:
    ends = [join.out_channels for join in fusion.joins]
    return [ends[0], 8, 8, 8, ends[1]]  # type: ignore[list-item]


def test_export_takes_layers_as_a_second_input() -> None:
    network = awake(small_network(missing="validity", passes=(1, 0, 0)))
    image, static = batch(40, 48)
    image[0, 1], static[:, 0, :4] = torch.nan, torch.nan
    with torch.inference_mode():
        found = WithStatic(exportable(network, 3))(image, static)
        expected = network(packed_batch(image, static))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_exported_graph_has_two_inputs(tmp_path: Path) -> None:
    both = gb.Ensemble(
        [
            gb.BiomassRegressor(awake(small_network()), ("VV_asc", "B04", "B08"), 3),
            gb.BiomassRegressor(small_network(()), ("VV_asc", "B04", "B08"), 3),
        ]
    )
    image, static = batch(32, 32)
    with torch.inference_mode():
        expected = both.network(packed_batch(image, static))
    path = tmp_path / "m.pt2"
    both.export(path, height=32, width=32)
    notes = {"static_layers": ""}
    program = torch.export.load(path, extra_files=notes)
    assert notes["static_layers"] == "height,noise"
    found = program.module()(image, static)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --- training data ---


@pytest.mark.parametrize("make", [make_scene, make_chips])
def test_a_batch_has_what_a_tile_of_a_map_has(make: Any, tmp_path: Path) -> None:
    cube = with_layers(make())
    cube = cube.assign(agb_se=(cube["agb"].dims, np.ones_like(cube["agb"].values)))
    gb.write_cube(cube, tmp_path / "c.zarr", dtype="float32")
    bands, chosen = ["B08", "VV_asc"], ["noise", "height"]
    chips = "chip" in cube.dims
    samples = [
        Sample(Window(2, 4, 26, 28), number if chips else None) for number in (0, 2)
    ]
    for one in (cube, gb.open_cube(tmp_path / "c.zarr"), cube.chunk({"y": 16})):
        reader = Reader(one, bands, chosen)
        for each in (reader, reader.decoded(), reader.with_weights(lambda se: 2 * se)):
            loader = ChipLoader(each, samples, 2, shuffle=False)
            ((codes, arrangement, target),) = loader.epoch(0)
            assert target.shape[1] == each.layers
            (image,), labels = decode_batch((codes, arrangement), target)
            tiles = np.stack([reader.tile(sample) for sample in samples])
            np.testing.assert_array_equal(image.numpy(), tiles)
            known = reader.labels(samples[1])
            np.testing.assert_array_equal(labels[1, 0].numpy(), known)
            if each.layers == 2:
                assert labels[:, 1].eq(2).all()


def test_a_damaged_sample_has_no_layer(tmp_path: Path) -> None:
    cube = with_layers(make_scene())
    reader = Reader(cube, ["B08"], LAYERS)
    sample = Sample(reader.whole)
    codes = np.empty(reader.cells([sample])[0], reader.cells([sample])[1])
    ground = np.zeros((reader.ground_layers, 40, 56), np.float32)
    reader.blank(codes, ground)
    assert np.isnan(ground).all()


# --- augmentation ---


def ground() -> torch.Tensor:
    """Return (1, month 3, band 2, y, x): a month, then four planes of layers."""
    image = torch.randn(1, 3, 2, 12, 12, generator=torch.Generator().manual_seed(2))
    image[0, 0] = 1.0
    return image


def test_augmentation_turns_layers_and_never_drops_them() -> None:
    torch.manual_seed(0)
    image = ground().repeat(16, 1, 1, 1, 1)
    image = torch.cat([image[:, :1].repeat(1, 4, 1, 1, 1), image[:, 1:]], dim=1)
    settings: dict[str, Any] = {
        **{"probability_batch": 1.0, "probability_month": 0.9, "pass_dropout": 1.0},
        **{"passes": (0, 1), "optical": 0, "planes": 2},
    }
    target = image[:, -2, :1].clone()
    (found, present), labels = Augmentation(**settings)((image.clone(),), target)
    assert present.shape == (16, 4)
    assert not present.all()
    assert found[:, :4].isnan().any()
    for sample, label in zip(found, labels, strict=True):
        assert torch.equal(sample[-2, 0], label[0])
        # Pixels move and keep their values: an aspect stays one to the north.
        turned = [each.apply(image[0, -2:]) for each in ORIENTATIONS]
        assert any(torch.equal(sample[-2:], each) for each in turned)
    assert not torch.equal(found[:, -2, 0], image[:, -2, 0])
    plain = Augmentation(orientations=False, **settings)
    (found, _), _ = plain((image.clone(),), target)
    assert torch.equal(found[:, -2:], image[:, -2:])
    image[:, :4, :, :6] = torch.nan
    (_, present), seen = with_image_layer(plain, (image,), target, planes=2)
    assert seen[:, -1, :6].eq(0).all()
    assert seen[:, -1, 6:].eq(1).all()


def test_flips_of_a_map_leave_the_values_of_layers() -> None:
    class East(torch.nn.Module):
        """A network that maps the layer of the aspect's sine."""

        static_layers = ("a", "b", "c")

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, -2, 1:2]

    image = ground()
    found = BatchPredictor(East(), 1, FLIPS, "float32")._average(image)[0, 0]
    np.testing.assert_allclose(found, image[0, 1, 1], atol=1e-6)


# --- trained models ---


def rmse(model: Any, scene: xr.Dataset) -> float:
    """Return the error in the third that has no label in training."""
    wrong = (model.predict(scene, check="off")["agb"] - scene["agb"]).values[:, 64:]
    return float(np.sqrt(np.nanmean(wrong**2)))


def test_a_layer_that_tells_biomass_lowers_the_error(
    scene: xr.Dataset, labelled: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    assert model.static_layers == LAYERS
    plain = train(labelled.drop_dims("layer"), epochs=4)
    assert plain.static_layers == ()
    assert rmse(model, scene) < 0.75 * rmse(plain, scene)
    # A model that learnt none takes a cube that has some.
    bare = scene.drop_dims("layer")
    maps = [plain.predict(one, check="off")["agb"].values for one in (scene, bare)]
    np.testing.assert_array_equal(*maps)


def test_the_scaling_is_of_the_training_part(
    labelled: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    fusion = model.network.fusion
    assert fusion is not None
    known = labelled["static"].values[:, :, :64]
    low, high = np.nanpercentile(known, [5, 95], axis=(1, 2))
    np.testing.assert_allclose(fusion.shift, (low + high) / 2, rtol=0.02, atol=0.05)
    np.testing.assert_allclose(fusion.scale, (high - low) / 3.29, rtol=0.02)


def test_the_same_training_gives_the_same_bits_and_another_folder_is_refused(
    labelled: xr.Dataset, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "domain_cells": 0}
    first = train(labelled, **settings, folder=tmp_path)
    again = train(labelled, **settings)
    for name, values in first.network.state_dict().items():
        assert torch.equal(values, again.network.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"static layers.*noise"):
        train(labelled.sel(layer=["noise"]), **settings, folder=tmp_path)
    with pytest.raises(ValueError, match="static_levels"):
        train(labelled, **settings, folder=tmp_path, static_levels="finest")


def test_a_map_does_not_depend_on_blocks_or_the_order_of_layers(
    scene: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    whole = model.predict(scene, tile=96, overlap=0)["agb"].values
    gone = np.isnan(whole)
    assert gone[50:54, 20:30].all()  # known ground that no image shows
    assert gone.sum() == 40
    tile = torch.from_numpy(
        Reader(scene, model.bands, LAYERS).tile(Sample(Window(0, 0, 64, 96)))
    )
    with torch.inference_mode():
        direct = model.network(tile[None])[0, 0].clamp_min(0).numpy()
    np.testing.assert_allclose(whole[~gone], direct[~gone], rtol=1e-5, atol=1e-4)
    tiled = model.predict(scene, tile=64, overlap=32, block=32)["agb"].values
    turned = scene.isel(layer=[1, 0]).chunk({"y": 20, "x": 30})
    found = model.predict(turned, tile=64, overlap=32, block=96)["agb"].values
    np.testing.assert_array_equal(found, tiled)


def test_saved_is_loaded_and_a_missing_layer_is_named(
    scene: xr.Dataset, model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    model.save(tmp_path / "m")
    again = gb.load(tmp_path / "m")
    assert again.static_layers == LAYERS
    np.testing.assert_array_equal(
        again.predict(scene)["agb"].values, model.predict(scene)["agb"].values
    )
    assert "height" in (tmp_path / "m" / "README.md").read_text()
    assert gb.describe(model)["network"].count("height/noise") == 1
    for call in (again.predict, again.check, again.evaluate):
        with pytest.raises(gb.CubeError, match=r"learnt the static layers .*no static"):
            call(scene.drop_dims("layer"))
    with pytest.raises(gb.CubeError, match=r"add \['noise'\] with gb.with_static"):
        again.predict(scene.sel(layer=["height"]))


def test_an_unusual_layer_is_told_and_not_applicable(
    scene: xr.Dataset, model: gb.BiomassRegressor
) -> None:
    table = model.check(scene)
    assert table.index.tolist()[-2:] == ["static height", "static noise"]
    assert set(table["verdict"]) == {"ok"}
    moved = scene["static"] + np.float32(100) * (scene["layer"] == "noise")
    moved = scene.assign(
        static=moved.astype(np.float32).assign_attrs(scene.static.attrs)
    )
    assert model.check(moved)["verdict"]["static noise"] != "ok"
    index, far = (
        float(model.applicability(one, check="off")["dissimilarity"].compute().median())
        for one in (scene, moved)
    )
    assert index < 1 < 3 * index < far


def test_members_of_folds_take_their_layers(labelled: xr.Dataset) -> None:
    fewer = {"epochs": 1, "domain_cells": 0, "block": 32}
    both = gb.fit(labelled, "quick", folds=2, **SMALL, **fewer)
    assert both.static_layers == LAYERS
    each = [one.predict(labelled, check="off")["agb"] for one in both.models]
    found = both.predict(labelled, check="off")["agb"]
    np.testing.assert_allclose(
        found.values, ((each[0] + each[1]) / 2).values, rtol=1e-5
    )


def test_a_start_without_labels_reads_no_layer(labelled: xr.Dataset) -> None:
    model = train(labelled, epochs=1, self_supervised=1, domain_cells=0)
    assert "self-supervised" in model.provenance
    assert model.static_layers == LAYERS
    assert all(each.requires_grad for each in model.network.fusion.parameters())


def test_what_cannot_be_learnt_is_said(labelled: xr.Dataset) -> None:
    fewer: dict[str, Any] = {"epochs": 1, "domain_cells": 0}
    empty = labelled["static"].where(labelled["layer"] != "noise")
    with pytest.raises(gb.CubeError, match=r"got none of \['noise'\]"):
        train(labelled.assign(static=empty), **fewer)
    attrs = labelled["static"].attrs
    flat = labelled["static"].where(labelled["layer"] != "noise", np.float32(3))
    with pytest.warns(UserWarning, match="of one value in the training data: noise"):
        train(labelled.assign(static=flat.assign_attrs(attrs)), **fewer)
    recipe = find_recipe("quick", **SMALL)
    plain = untrained(labelled.drop_dims("layer"), recipe)
    with pytest.warns(UserWarning, match=r"does not read static layers \['height'"):
        plain.fit(labelled, recipe, 0.0, **fewer)
    assert plain.static_layers == ()
