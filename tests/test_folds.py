"""Folds: neither held-out labels nor those in the buffer train."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from variants import variants

import geobiomass as gb
from geobiomass.data.folds import Fold, Folds, make_folds
from geobiomass.data.groups import widened
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.recipe import find_recipe
from geobiomass.statistics.variogram import Variogram
from geobiomass.tiles import Sample, Window

SMALL: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "crop": 32,
    "epochs": 1,
    "progress": False,
}


def scene_of(height: int, width: int, labelled: Any = True) -> xr.Dataset:
    """A scene whose labels are the numbers of their pixels."""
    import rioxarray  # noqa: F401  (the .rio accessor)

    numbers = np.arange(height * width, dtype=np.float32).reshape(height, width)
    cube = xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), numbers[None, None] / 100),
            "agb": (("y", "x"), np.where(labelled, numbers, np.float32(np.nan))),
        },
        coords={
            "month": [7],
            "band": ["B04"],
            "y": 6_900_000.0 - 10 * np.arange(height) - 5,
            "x": 400_000.0 + 10 * np.arange(width) + 5,
        },
    )
    return cube.rio.write_crs("EPSG:3067").rio.write_coordinate_system()


def box(cube: xr.Dataset, window: Window) -> tuple[float, float, float, float]:
    """Bounds of a window, in the scene's reference system."""
    left, top = 400_000.0, 6_900_000.0
    return (
        left + 10 * window.left,
        top - 10 * window.bottom,
        left + 10 * window.right,
        top - 10 * window.top,
    )


def whole(cube: xr.Dataset) -> Sample:
    return Sample(Window(0, 0, cube.sizes["y"], cube.sizes["x"]))


def near(held: np.ndarray, buffer: int) -> np.ndarray:
    """Mark pixels within `buffer` rows and columns of held-out ones, one by one."""
    found = np.zeros_like(held)
    for row, column in zip(*np.nonzero(held), strict=True):
        top, left = max(0, row - buffer), max(0, column - buffer)
        found[top : row + buffer + 1, left : column + buffer + 1] = True
    return found


def check_law_9(cube: xr.Dataset, folds: Folds, window: Window) -> None:
    """Every fold: nothing near its ground trains; each label validates at most once."""
    sample, part = whole(cube), window.within(whole(cube).window)
    times = np.zeros(cube["agb"].shape, int)
    for fold in folds:
        held = fold.validates(sample)
        times += held
        assert held.any()
        np.testing.assert_array_equal(fold.trains(sample), ~near(held, folds.buffer))
        # A window of it is cut from the same ground.
        np.testing.assert_array_equal(fold.validates(Sample(window)), held[part])
        np.testing.assert_array_equal(
            fold.trains(Sample(window)), fold.trains(sample)[part]
        )
    inside = folds.ground.groups(sample) >= 0
    np.testing.assert_array_equal(times, inside)


@st.composite
def windows(draw: Callable[..., Any], height: int, width: int) -> Window:
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom = draw(st.integers(top + 1, height))
    return Window(top, left, bottom, draw(st.integers(left + 1, width)))


# --- law 9: nothing that is held out, or near it, trains ---


@given(st.data())
def test_no_label_near_held_out_blocks_trains(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    cube = scene_of(height, width)
    block = data.draw(st.integers(2, min(height, width) // 2))
    buffer = data.draw(st.integers(0, 9))
    folds = make_folds(cube, 2, block=block, buffer=buffer)
    check_law_9(cube, folds, data.draw(windows(height, width)))


@given(st.data())
def test_no_label_near_a_held_out_region_trains(data: st.DataObject) -> None:
    cube = scene_of(24, 30)
    seed, kind = data.draw(st.integers(0, 99)), data.draw(st.sampled_from("fUO"))
    zones: Any = np.random.default_rng(seed).integers(0, 4, (6, 6)).astype(float)
    zones = np.kron(zones, np.ones((4, 5)))
    zones[zones == 3] = np.nan
    if kind != "f":
        names = {0.0: "pine", 1.0: "spruce", 2.0: "birch"}
        nothing = "" if kind == "U" else None
        zones = np.vectorize(lambda z: names.get(z, nothing), otypes=[object])(zones)
        zones = zones.astype(object if kind == "O" else str)
    cube = cube.assign_coords(region=(("y", "x"), zones))
    folds = make_folds(cube, 2, "region", buffer=data.draw(st.integers(0, 5)))
    check_law_9(cube, folds, data.draw(windows(24, 30)))


@pytest.mark.slow
@given(st.data())
def test_no_label_near_a_held_out_polygon_trains(data: st.DataObject) -> None:
    cube = scene_of(24, 30)
    # None of these reaches the last of the two that are apart.
    drawn = data.draw(st.lists(windows(24, 25), max_size=3))
    apart = [Window(0, 0, 3, 3), Window(20, 25, 24, 30)]
    regions = [box(cube, window) for window in apart + drawn]
    buffer = data.draw(st.integers(0, 5))
    folds = make_folds(cube, 2, regions, buffer=buffer)
    check_law_9(cube, folds, data.draw(windows(24, 30)))


@given(st.data())
def test_no_label_near_a_held_out_chip_trains(data: st.DataObject) -> None:
    corner = st.tuples(st.integers(-20, 40), st.integers(-20, 40))
    corners = data.draw(st.lists(corner, min_size=3, max_size=6))
    chips = make_chips(len(corners), 16)
    rows, columns = zip(*corners, strict=True)
    chips = chips.assign_coords(top=("chip", [*rows]), left=("chip", [*columns]))
    buffer = data.draw(st.integers(0, 12))
    folds = make_folds(chips, 2, buffer=buffer)
    for fold in folds:
        held = [c for c in range(len(corners)) if folds.fold_of[c] == fold.number]
        for chip, (top, left) in enumerate(corners):
            sample = Sample(Window(0, 0, 16, 16), chip)
            assert fold.validates(sample).all() == (chip in held)
            expected = np.ones((16, 16), bool)
            for other in held:
                y, x = corners[other]
                row, column = np.mgrid[top : top + 16, left : left + 16]
                away = np.maximum(
                    np.maximum(y - row, row - (y + 15)),
                    np.maximum(x - column, column - (x + 15)),
                )
                expected &= away > buffer
            np.testing.assert_array_equal(fold.trains(sample), expected)
            part = Sample(Window(3, 5, 9, 16), chip)
            np.testing.assert_array_equal(fold.trains(part), expected[3:9, 5:])


@variants("by", ["block", "region", "polygons"], quick=2)
def test_what_the_trainer_gets_is_never_held_out(by: str) -> None:
    side = 96
    generator = np.random.default_rng(1)
    cube = scene_of(side, side, generator.random((side, side)) < 0.5)
    # A border that no block of the training follows.
    zones = (np.arange(side)[:, None] + 0.3 * np.arange(side)) // 42
    cube = cube.assign_coords(region=(("y", "x"), zones))
    buffer, how = 5, {}
    what: Any = by
    if by == "block":
        how = {"block": 24}
    if by == "polygons":
        what = [box(cube, Window(0, 0, 50, 41)), box(cube, Window(60, 7, 96, 90))]
    folds = make_folds(cube, 2, what, buffer=buffer, **how)
    labels = cube["agb"].values
    for fold in folds:
        held = fold.validates(whole(cube))
        loaders = make_loaders(
            LabelledCube.open(cube, ["B04"]),
            find_recipe("quick", crop=32, damaged="raise"),
            fold,
        )
        assert loaders.validation is not None
        allowed = set(labels[~near(held, buffer) & np.isfinite(labels)].tolist())
        trained = seen(loaders.training, epochs=6)
        assert trained <= allowed
        assert len(trained) > 0.9 * len(allowed)
        assert seen(loaders.validation) == set(labels[held & np.isfinite(labels)])
        # Neither do labels of the held-out ground enter the scaling.
        mean = loaders.measure().target_shift
        assert mean == pytest.approx(np.mean(list(allowed)), rel=0.01)


def test_what_validates_has_no_part_in_the_scaling() -> None:
    chips, measured = make_chips(4), []
    recipe = find_recipe("quick", crop=32, damaged="raise", progress=False)
    held = chips["chip"] == "chip003"
    for factor in (1, 3):
        cube = chips.assign(
            {name: chips[name] * xr.where(held, factor, 1) for name in chips}
        ).transpose("chip", "month", "band", "y", "x")
        loaders = make_loaders(LabelledCube.open(cube), recipe, ["chip003"])
        measured.append(loaders.measure())
    assert measured[0] == measured[1]


def seen(loader: Any, epochs: int = 1) -> set[float]:
    """All labels in batches of some epochs."""
    found: set[float] = set()
    for number in range(epochs):
        for _, _, target in loader.epoch(number):
            values = target.numpy()
            found |= set(values[np.isfinite(values)].tolist())
    return found


def test_chips_of_a_region_are_held_out_together() -> None:
    chips = make_chips(8, 32)
    chips = chips.assign_coords(flight=("chip", list("aabbccdd")))
    chips["agb"] = chips["agb"] * 0 + np.arange(8, dtype=np.float32)[:, None, None]
    folds = make_folds(chips, 4, "flight")
    recipe = find_recipe("quick", crop=None)
    for fold in folds:
        loaders = make_loaders(LabelledCube.open(chips), recipe, fold)
        (flight,) = fold.held_out
        assert seen(loaders.validation) == {
            2.0 * "abcd".index(flight) + i for i in (0, 1)
        }
        assert seen(loaders.training) == set(map(float, range(8))) - seen(
            loaders.validation
        )
        assert seen(loaders.everything) == set(map(float, range(8)))


# --- the assignment of groups to folds ---


def test_folds_have_about_the_same_size_and_depend_on_the_seed_alone() -> None:
    generator = np.random.default_rng(0)
    share = np.kron(generator.random((8, 8)), np.ones((16, 16)))
    cube = scene_of(128, 128, generator.random((128, 128)) < share)
    folds = make_folds(cube, 5, block=16, seed=3)
    sizes = folds.table["labelled_pixels"]
    assert sizes.sum() == int(np.isfinite(cube["agb"]).sum())
    assert sizes.max() - sizes.min() < 0.05 * sizes.mean()
    assert folds == make_folds(cube, 5, block=16, seed=3)
    assert hash(folds) == hash(pickle.loads(pickle.dumps(folds)))
    assert folds != make_folds(cube, 5, block=16, seed=4)
    assert folds != make_folds(cube, 5, block=16, seed=3, buffer=1)


def test_groups_without_labels_are_assigned_too() -> None:
    labelled = np.zeros((64, 64), bool)
    labelled[:32, :32] = True
    folds = make_folds(scene_of(64, 64, labelled), 2, block=16)
    groups = np.bincount(folds.fold_of)
    assert groups.tolist() == [8, 8]
    assert folds.table["labelled_pixels"].tolist() == [512, 512]


def test_folds_describe_themselves() -> None:
    folds = make_folds(scene_of(64, 64), 2, block=32, buffer=4)
    assert str(folds).splitlines() == [
        "2 folds of 4 blocks of 32 pixels, buffer of 4 pixels",
        "  fold 0: 2 held out, 2,048 labels",
        "  fold 1: 2 held out, 2,048 labels",
    ]
    assert [fold.number for fold in folds] == [0, 1]
    assert repr(folds[1]) == "Fold 1 of 2: 2 blocks of 32 pixels"
    assert sorted(folds[0].held_out + folds[1].held_out) == list("0123")
    with pytest.raises(IndexError, match="from 0 to 1, got 2"):
        folds[2]
    assert folds.groups.index.name == "block"
    assert repr(make_folds(make_chips(4).chunk(), 2)).splitlines()[1:] == [
        "  fold 0: 2 held out",
        "  fold 1: 2 held out",
    ]


def test_polygons_that_overlap_are_held_out_together() -> None:
    cube = scene_of(40, 40)
    regions = {
        "west": box(cube, Window(0, 0, 40, 10)),
        "middle": box(cube, Window(0, 8, 40, 14)),
        "east": box(cube, Window(0, 14, 40, 40)),
    }
    folds = make_folds(cube, 2, regions)
    assert sorted(folds.groups.index) == ["east", "west + middle"]


def test_a_table_of_polygons_is_held_out_by_a_column() -> None:
    geopandas = pytest.importorskip("geopandas")
    from shapely.geometry import box as rectangle

    cube = scene_of(40, 40)
    cuts = [Window(0, left, 40, left + 10) for left in range(0, 40, 10)]
    table = geopandas.GeoDataFrame(
        {"owner": ["state", "church", "state", "farm"]},
        geometry=[rectangle(*box(cube, window)) for window in cuts],
        crs="EPSG:3067",
    )
    folds = make_folds(cube, 3, table, column="owner")
    assert sorted(folds.groups.index) == ["church", "farm", "state"]
    numbers = folds.numbers(whole(cube))[0]
    assert numbers[0] == numbers[20] != numbers[10]
    assert make_folds(cube, 4, table).count == 4


def test_blocks_are_as_large_as_errors_correlate() -> None:
    cube = scene_of(192, 192)
    variogram = Variogram(0.0, 1.0, 200.0, "exponential")
    folds = make_folds(cube, 2, block="auto", variogram=variogram)
    assert folds.block == 64  # 600 m are 60 pixels
    with pytest.raises(ValueError, match="needs variogram= or residuals="):
        make_folds(cube, 2, block="auto")


def test_a_mask_is_widened_by_the_buffer() -> None:
    mask = np.zeros((9, 11), bool)
    mask[4, 5] = mask[0, 0] = True
    for by in range(5):
        np.testing.assert_array_equal(widened(mask, by), near(mask, by))


# --- training ---


@pytest.mark.slow
def test_fit_takes_folds_and_resumes_with_the_same_ones_only(tmp_path: Path) -> None:
    scene = make_scene(64, 64, months=(7,))
    folds = make_folds(scene, 2, block=32, buffer=4)
    model = gb.fit(scene, "quick", folds=folds, folder=tmp_path, **SMALL)
    assert [m.provenance["fold"]["number"] for m in model.models] == [0, 1]
    assert model.models[0].provenance["fold"]["buffer"] == 4
    again = gb.fit(scene, "quick", folds=folds, folder=tmp_path, **SMALL)
    assert again.models[1].history.equals(model.models[1].history)
    other = make_folds(scene, 2, block=32, buffer=8)
    with pytest.raises(ValueError, match="held out was 'fold 0 of 2 blocks of 32 pix"):
        gb.fit(scene, "quick", folds=other, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"held out was .* and is '0\.5 of the data'"):
        gb.fit(scene, "quick", folds=2, folder=tmp_path, **SMALL)


@pytest.mark.slow  # the same folds are quick
def test_a_new_start_may_have_any_fold(tmp_path: Path) -> None:
    scene = make_scene(64, 64, months=(7,))
    gb.fit(scene, "quick", make_folds(scene, 2, block=32)[0], folder=tmp_path, **SMALL)
    other = make_folds(scene, 2, block=32, buffer=8)
    one = gb.fit(scene, "quick", other[1], folder=tmp_path, resume=False, **SMALL)
    assert one.provenance["fold"]["fingerprint"] == other.identity
    held = one.provenance["validation"]["all"]["pixels"]
    assert held == other.table["labelled_pixels"][1]


def test_one_fold_is_a_validation_and_an_error_names_what_is_left() -> None:
    scene = make_scene(64, 64, months=(7,))
    fold = make_folds(scene, 2, block=16, buffer=30)[0]
    with pytest.raises(gb.CubeError, match="no label to train on: give a smaller"):
        gb.fit(scene, "quick", fold, **SMALL)
    with pytest.raises(gb.CubeError, match=r"made of the cube.* 64 x 64 .* 40 x 56"):
        gb.fit(make_scene(), "quick", fold, **SMALL)
    moved = scene.assign_coords(x=scene.x + 1000)
    with pytest.raises(gb.CubeError, match="elsewhere"):
        gb.fit(moved, "quick", folds=fold.folds, **SMALL)


# --- bad input ---


def bad_folds() -> list[tuple[str, Callable[[], object]]]:
    scene, chips = make_scene(), make_chips(4)
    flat: Any = make_folds
    return [
        ("not on offer.*Roberts.*Ploton.*by='block'", lambda: flat(scene, by="pixel")),
        ("'random' is not on offer", lambda: flat(chips, by="random")),
        ("count of folds must be 2 or more, got 1", lambda: flat(scene, 1)),
        ("buffer must be 0 pixels or more, got -1", lambda: flat(scene, buffer=-1)),
        ("block must be pixels, or 'auto', got 0", lambda: flat(scene, block=0)),
        ("block goes with by='block'", lambda: flat(chips, block=8)),
        ("by='block' needs a scene", lambda: flat(chips, by="block")),
        ("by='chip' needs chips", lambda: flat(scene, by="chip")),
        ("regions, got 'zone'; the cube has .'agb'", lambda: flat(scene, by="zone")),
        ("along 'chip', got 'flight'", lambda: flat(chips, by="flight")),
        ("Polygons need a scene", lambda: flat(chips, by=[(0, 0, 1, 1)])),
        ("column goes with polygons", lambda: flat(scene, column="name")),
        ("buffer=4 needs the positions of chips", lambda: flat(chips, 2, buffer=4)),
        ("5 folds need as many groups.* got 4 of 4", lambda: flat(chips, 5)),
        ("no 'agb'", lambda: flat(scene.drop_vars("agb"))),
        (
            "'top' of the cube must be whole numbers along 'chip', the row",
            lambda: flat(chips.assign_coords(top=0.5, left=0), 2),
        ),
    ]


@pytest.mark.parametrize(("said", "call"), bad_folds())
def test_bad_input_is_one_clear_sentence(said: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_a_fold_is_a_value() -> None:
    folds = make_folds(scene_of(64, 64), 2, block=32)
    assert Fold(folds, 0) == folds[0] != folds[1]


# --- the command line ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_the_command_line_holds_out_groups_too(run: Any, tmp_path: Path) -> None:
    scene, store, model = make_scene(64, 64), tmp_path / "s.zarr", tmp_path / "model"
    gb.write_cube(scene, store, progress=False)
    small = ["--recipe", "quick", "--epochs", 1, "--set", "encoder=test_resnet"]
    small += ["--set", "crop=32", "--set", "progress=false"]
    what = ["--folds", 2, "--block", 32, "--buffer", 4]
    code, _, err = run("train", store, model, *small, *what)
    assert code == 0, err
    expected = make_folds(scene, 2, block=32, buffer=4)
    kept = [member.provenance["fold"] for member in gb.load(model).models]
    assert kept == [fold.to_dict() for fold in expected]
    code, out, err = run("evaluate", model, store, "--by", "months")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["all", "3", "2", "1"]
    code, _, err = run("train", store, tmp_path / "other", *small, "--buffer", 4)
    assert code != 0
    assert "give --folds 5" in err
    code, _, err = run(
        "train", store, tmp_path / "other", *small, "--folds", 2, "--folds-by", "pixel"
    )
    assert code != 0
    assert "not on offer" in err
