"""What the package keeps on disk, small, and all that a user reads of it.

A reading is a mapping of names to bytes or texts, so that two readings are equal only
if all values, coordinates and attributes are equal to the bit.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from outcomes import Reading

import geobiomass as gb

BANDS = ("VV_asc", "B04", "B08")
TILES: dict[str, Any] = {"tile": 32, "overlap": 16, "block": 64}
SMALL: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (16, 12, 8, 8, 8),
    "epochs": 1,
    "batch_size": 8,
    "crop": 32,
    "progress": False,
}


@dataclass(frozen=True)
class Kept:
    """A kind of thing on disk: how it is made, and how it is read."""

    name: str
    entry: str
    """Its file or folder, in the folder that `make` fills."""
    make: Callable[[Path], None]
    read: Callable[[Path], Reading]
    """Takes the path of the entry."""


# --- readings -------------------------------------------------------------------------


def of_dataset(found: xr.Dataset, prefix: str = "") -> dict[str, Any]:
    """Return the values and attributes of all variables."""
    reading: dict[str, Any] = {f"{prefix}attrs": text_of(found.attrs)}
    for name, variable in found.variables.items():
        values = variable.to_numpy()
        content = values.tolist() if values.dtype.kind in "OUT" else values.tobytes()
        reading[f"{prefix}{name}"] = (variable.dims, values.shape, content)
        reading[f"{prefix}{name}.dtype"] = values.dtype.kind
        reading[f"{prefix}{name}.attrs"] = text_of(variable.attrs)
    return reading


def of_table(found: pd.DataFrame, prefix: str = "") -> dict[str, Any]:
    """Return the cells and attributes of a table."""
    reading: dict[str, Any] = {
        f"{prefix}{name}": [repr(cell) for cell in found[name].tolist()]
        for name in found
    }
    return reading | {
        f"{prefix}index": [repr(label) for label in found.index.tolist()],
        f"{prefix}attrs": text_of(found.attrs),
    }


def text_of(facts: Mapping[Any, Any]) -> str:
    return json.dumps(dict(facts), sort_keys=True, default=repr)


def read_cube(path: Path) -> Reading:
    from geobiomass.cube.store import availability

    cube = gb.open_cube(path)
    reading = of_dataset(cube.load()) | of_table(gb.band_statistics(cube), "band ")
    counted = availability(path)
    if counted is not None:
        reading["availability"] = counted.to_numpy().tolist()
    return reading


def read_map(path: Path) -> Reading:
    from geobiomass.maps.reading import open_map

    with open_map(str(path)) as layers:
        reading = of_dataset(layers.load())
    totals = gb.totals(path, residuals=errors(), variable="agb", progress=False)
    # The note of where the map is differs from copy to copy.
    totals.attrs = {k: v for k, v in totals.attrs.items() if str(path) not in str(v)}
    return reading | of_table(totals, "total ")


def read_model(path: Path) -> Reading:
    model = gb.load(path)
    predicted = model.predict(scene(), **TILES, check="off")
    settings = getattr(model, "settings", None) or {}
    reading = of_dataset(predicted.load())
    # A part is the same to the bit, and costs what the whole does not.
    if getattr(model, "domain", None) is not None:
        near = model.applicability(scene(), **TILES)
        reading |= of_dataset(near.load(), "near ")
    history = getattr(model, "history", None)
    if isinstance(history, pd.DataFrame):
        # How long each epoch took is another each time.
        reading |= of_table(
            history.drop(columns="seconds", errors="ignore"), "history "
        )
    return reading | {"settings": text_of(settings)}


def read_validation(path: Path) -> Reading:
    found = gb.CrossValidation.load(path, labelled())
    reading = of_dataset(found.predictions.load())
    reading |= of_table(gb.CrossValidation.residuals(found), "residuals ")
    reading |= of_table(found.evaluate("fold", bootstrap=0), "errors ")
    return reading | read_table(path)


def read_table(path: Path) -> Reading:
    from geobiomass.evaluation.residuals import read_residuals

    return of_table(read_residuals(path), "table ")


def read_layers(path: Path) -> Reading:
    from geobiomass.maps.reading import open_map

    with open_map(str(path)) as layers:
        return of_dataset(layers.load())


def read_pasture_model(path: Path) -> Reading:
    import pasture

    model: Any = pasture.load(path)
    weights = {
        f"{number} {name}": value.numpy().tobytes()
        for number, member in enumerate(model.members)
        for name, value in member.network.state_dict().items()
    }
    reading = weights | of_table(model.held_out, "held out ")
    for number, member in enumerate(model.members):
        reading |= of_table(member.history, f"history {number} ")
        reading[f"settings {number}"] = text_of(member.settings)
    return reading | {"blend": model.blend}


def train(folder: Path, epochs: int) -> gb.BiomassRegressor:
    """Train, or go on, in a folder; the weights are the mean of two epochs."""
    settings = SMALL | {
        "epochs": epochs,
        "schedule": "constant",
        "warmup_epochs": 0,
        "keep": "average",
        "keep_last": 2,
    }
    with warnings.catch_warnings():
        # A model of two epochs is as bad as its maps.
        warnings.filterwarnings("ignore", "The error of maps", UserWarning)
        return gb.fit(labelled(), "quick", folder=folder, block=32, **settings)


def go_on(folder: Path) -> Reading:
    """Go on with a training, and return all that it learns."""
    model = train(folder, 2)
    history = model.history.drop(columns="seconds")
    state = model.network.state_dict()
    weights = {name: value.numpy().tobytes() for name, value in state.items()}
    return weights | of_table(history, "history ")


# --- what is made ---------------------------------------------------------------------


@cache
def scene() -> xr.Dataset:
    from conftest import make_scene

    return make_scene(64, 96, months=(7, 8)).drop_vars("agb")


@cache
def labelled() -> xr.Dataset:
    from conftest import make_scene

    return make_scene(64, 96, months=(7, 8))


@cache
def untrained(seed: int = 0) -> gb.BiomassRegressor:
    import torch

    from geobiomass.network import AttentionUNet

    torch.manual_seed(seed)
    network = AttentionUNet(3, "test_resnet", (16, 12, 8, 8, 8))
    network.set_statistics([-10, 2000, 2000], [5, 900, 900], [60], [40])
    return gb.BiomassRegressor(network.eval(), BANDS, 2)


@cache
def errors() -> Any:
    """Return what totals are told of the error of maps: nothing that takes time."""
    from geobiomass.accounting.error_model import ErrorModel
    from geobiomass.statistics.variogram import Variogram

    shared = Variogram(1.0, 0.5, 30.0, "exponential")
    known = {"units": 9, "residuals": 99}
    return ErrorModel((50.0,), (0.0,), (20.0,), ((1.0,),), shared, **known)


def make_scene_cube(folder: Path) -> None:
    from conftest import make_scene

    # Two shards of images and of labels.
    gb.write_cube(make_scene(32, 300, months=(7, 8)), folder / "scene.zarr")


def make_chip_cube(folder: Path) -> None:
    from conftest import make_chips

    chips = make_chips(5)
    gb.write_cube(chips.isel(chip=slice(0, 3)), folder / "chips.zarr")
    gb.write_cube(chips.isel(chip=slice(3, 5)), folder / "chips.zarr", append=True)


def _map(folder: Path, name: str) -> None:
    settings = TILES | {"progress": False, "check": "off"}
    untrained().predict_to(folder / name, scene(), **settings)


def make_zarr_map(folder: Path) -> None:
    _map(folder, "map.zarr")


def make_geotiff(folder: Path) -> None:
    from conftest import make_scene

    # Two tiles of 512 pixels, and an overview.
    wide = make_scene(32, 520, months=(7,)).drop_vars("agb")
    settings = TILES | {"progress": False, "check": "off", "overlap": 0}
    untrained().predict_to(folder / "map.tif", wide, **settings)


def make_plain_model(folder: Path) -> None:
    untrained().save(folder / "model")


def make_interval_model(folder: Path) -> None:
    with warnings.catch_warnings():
        # A model of one epoch is as bad as its maps.
        warnings.filterwarnings("ignore", "The error of maps", UserWarning)
        model = gb.fit(labelled(), "quick", interval=0.5, block=32, **SMALL)
    model.save(folder / "model")


def make_ensemble(folder: Path) -> None:
    gb.Ensemble([untrained(0), untrained(1)]).save(folder / "model")


def make_validation(folder: Path) -> None:
    folds = gb.make_folds(labelled(), 2, block=32)
    both = gb.Ensemble([untrained(0), untrained(1)])
    gb.CrossValidation(labelled(), both, folds, **TILES).save(
        folder / "validation", progress=False
    )


def make_table(folder: Path) -> None:
    from geobiomass.evaluation.residuals import write_residuals

    lazy = untrained().predict(scene(), **TILES, check="off")
    table = gb.residuals(lazy, labelled(), most=300)
    write_residuals(table, folder / "residuals.csv")


def make_pasture_model(folder: Path) -> None:
    import torch

    import pasture
    from pasture.network import PastureNetwork

    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = PastureNetwork("test_resnet", scale=1.0)
        member = pasture.PastureRegressor(network, "quick")
        member.fitted = True
        names = [*member.targets, *(f"measured_{name}" for name in member.targets)]
        index = pd.Index([f"photo {seed}", f"photo {seed + 2}"], name="photo")
        grams = torch.rand(2, len(names), dtype=torch.float64).numpy()
        member.held_out = pd.DataFrame(grams, index, names)
        member.history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.5, 1.25]})
        members.append(member)
    pasture.PastureEnsemble(members, 0.25).save(folder / "model")


def make_training(folder: Path) -> None:
    train(folder / "training", 1)


def two_maps(folder: Path) -> None:
    make_zarr_map(folder)
    (folder / "map.zarr").rename(folder / "first.zarr")
    make_zarr_map(folder)
    (folder / "map.zarr").rename(folder / "second.zarr")


def _change(folder: Path, name: str) -> None:
    from geobiomass.accounting.change import write_change

    both = (errors(), errors())
    first, second = folder / "first.zarr", folder / "second.zarr"
    found = gb.change(first, second, residuals=both, correlation=0.0)
    write_change(found, folder / name)


def change_zarr(folder: Path) -> None:
    _change(folder, "change.zarr")


def change_tif(folder: Path) -> None:
    _change(folder, "change.tif")


def _alone(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a function that leaves a difference map, without the maps it is of."""

    def make(folder: Path) -> None:
        two_maps(folder)
        change(folder)
        for name in ("first.zarr", "second.zarr"):
            shutil.rmtree(folder / name)

    return make


KEPT = {
    kind.name: kind
    for kind in (
        Kept("scene cube", "scene.zarr", make_scene_cube, read_cube),
        Kept("chip cube", "chips.zarr", make_chip_cube, read_cube),
        Kept("zarr map", "map.zarr", make_zarr_map, read_map),
        Kept("geotiff map", "map.tif", make_geotiff, read_map),
        Kept("model", "model", make_plain_model, read_model),
        Kept("model with interval", "model", make_interval_model, read_model),
        Kept("ensemble", "model", make_ensemble, read_model),
        Kept("validation", "validation", make_validation, read_validation),
        Kept("table", "residuals.csv", make_table, read_table),
        Kept("change, Zarr", "change.zarr", _alone(change_zarr), read_layers),
        Kept("change, GeoTIFF", "change.tif", _alone(change_tif), read_layers),
        Kept("pasture model", "model", make_pasture_model, read_pasture_model),
        Kept("training", "training", make_training, go_on),
    )
}
"""All kinds, by name."""
