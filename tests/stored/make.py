"""Make the stored examples: a small one of each kind of file that the packages write.

``tests/test_stored.py`` reads them with today's code. The examples here were written by
the code of commit 4a4cc77, as ``expected.json`` notes. Do not make them again after a
change of the code: that would hide what the test is for. To add a new kind of file, run
this script with the code of the commit before, in an empty folder, where it writes the
examples unpacked::

    git worktree add ../before 4a4cc77
    repository=$PWD; mkdir ../examples; cd ../examples
    export OMP_NUM_THREADS=1 PYTHONPATH=$repository/../before
    python $repository/tests/stored/make.py 4a4cc77

Each example is packed as a ``.tar.xz`` beside this file, with ``expected.npz`` in it
where a network computes values. No file contains a path of the machine. Networks are
small: an encoder of a few hundred weights, registered with timm here, is trained; other
networks get weights that repeat, which xz packs well.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import platform
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  (the .rio accessor)
import timm
import torch
import xarray as xr
from PIL import Image, ImageDraw
from timm.models import FeatureInfo, register_model
from torch import Tensor, nn

import geobiomass as gb
import pasture

HERE = Path(__file__).parent
ENCODER = "stored_tiny"
CHANNELS = (4, 6)
SEED = 61  # also the length of the pattern: prime, so that no row of weights repeats

# --- a small encoder ------------------------------------------------------------------


class SmallEncoder(nn.Module):
    """Encoder of two levels, 4 and 6 channels; also a backbone of `pasture`.

    Attributes
    ----------
    passes : int
        Forward passes of all encoders of this kind.
    most : float
        Number of passes after which KeyboardInterrupt is raised.
    """

    passes = 0
    most = math.inf
    num_features = head_hidden_size = CHANNELS[-1]

    def __init__(self, bands: int) -> None:
        super().__init__()
        one, two = CHANNELS
        # A bias before batch norm would learn from rounding alone, which differs.
        self.first = nn.Conv2d(bands, one, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(one)
        self.second = nn.Conv2d(one, two, 3, stride=2, padding=1)
        levels = [
            {"num_chs": channels, "reduction": 2 ** (level + 1), "module": name}
            for level, (channels, name) in enumerate(
                zip(CHANNELS, ("first", "second"), strict=True)
            )
        ]
        self.feature_info = FeatureInfo(levels, out_indices=(0, 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        if SmallEncoder.passes >= SmallEncoder.most:
            raise KeyboardInterrupt
        SmallEncoder.passes += 1
        fine = self.norm(self.first(image)).relu()
        return [fine, self.second(fine).relu()]

    def forward_features(self, image: Tensor) -> Tensor:
        return self(image)[-1]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features.mean((-2, -1))


if not timm.is_model(ENCODER):

    @register_model
    def stored_tiny(
        pretrained: bool = False, in_chans: int = 3, **_: Any
    ) -> SmallEncoder:
        return SmallEncoder(in_chans)


def set_pattern(network: nn.Module) -> None:
    """Set weights to short binary fractions that repeat: exact on every machine."""
    numbers = np.random.default_rng(SEED).integers(-8, 9, SEED)
    with torch.no_grad():
        for number, weight in enumerate(network.parameters()):
            index = (np.arange(weight.numel()) + 7 * number) % SEED
            values = torch.from_numpy(numbers[index]).float().view(weight.shape)
            if weight.ndim > 1:  # the spread that keeps values of their size
                inputs = weight[0].numel()
                values = values / 4 * 2.0 ** -round(np.log2(inputs) / 2)
            else:
                values = values / 64 + 0.5
            weight.copy_(values)


def measure_norms(network: nn.Module, image: Tensor) -> None:
    """Measure the running statistics of batch norm with these weights."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.train()(image)
        network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


# --- data, and settings that continuing needs too -------------------------------------

BANDS = ("VV_asc", "VH_asc", "B04", "B08")
MONTHS = (6, 7, 8)
TILING: dict[str, Any] = {"tile": 16, "overlap": 0, "block": 16}
PLAIN: dict[str, Any] = {"progress": False, "accelerator": "cpu"}
FIT: dict[str, Any] = PLAIN | {
    "encoder": ENCODER,
    "decoder_channels": (4, 4),
    "crop": 16,
    "epochs": 2,
    "batch_size": 2,
    "domain_cells": 24,
}
AVERAGED: dict[str, Any] = {"moving_average": 0.9, "keep_best": 2, "keep": "average"}
# Recipe, settings, and the share of forward passes after which it is interrupted.
TRAININGS: dict[str, tuple[str, dict[str, Any], float]] = {
    "one-stage": ("default", FIT | AVERAGED | {"checkpoint_minutes": 0}, 0.6),
    # The winner's recipe has four stages; here each has one epoch.
    "stages": ("biomassters", FIT | {"epochs": 1, "checkpoint_minutes": 0}, 0.4),
}
PHOTOS: dict[str, Any] = PLAIN | {"height": 32, "width": 64, "epochs": 1}
PHOTOS_CONTINUED: dict[str, Any] = PLAIN | {
    "epochs": 2,
    "batch_size": 2,
    "checkpoint_minutes": 0,
}
NOTES = {"contact": "maps@example.org", "licence": "CC-BY-4.0"}


def draw_image(height: int, width: int, seed: int) -> xr.Dataset:
    """Return an image of few values, which compress well, and its biomass."""
    draw = np.random.default_rng(seed)
    stands = draw.integers(0, 60, (height // 8, width // 8)) * 5.0
    agb = np.kron(stands, np.ones((8, 8))).astype(np.float32)
    agb[:4, :12] = np.nan
    image = np.empty((len(MONTHS), len(BANDS), height, width), np.float32)
    for index, band in enumerate(BANDS):
        noise = draw.integers(0, 2, (len(MONTHS), height, width))
        base = np.nan_to_num(agb)
        if band.startswith("V"):
            image[:, index] = np.rint(-1500 + 2 * base + 40 * noise) / 100
        else:
            image[:, index] = np.rint(2500 - 6 * base + 30 * noise)
    image[0, 2:, : height // 4] = np.nan
    return xr.Dataset(
        {
            "image": (("month", "band", "y", "x"), image),
            "agb": (("y", "x"), agb, {"units": "Mg/ha"}),
        },
        coords={"month": list(MONTHS), "band": list(BANDS)},
    )


def draw_scene() -> xr.Dataset:
    scene = draw_image(32, 48, seed=1).assign_coords(
        y=6_900_000.0 - 10 * np.arange(32) - 5,
        x=400_000.0 + 10 * np.arange(48) + 5,
    )
    scene.attrs |= {
        "title": "Drawn for a test",
        "time_coverage_start": "2023-06-01",
        "time_coverage_end": "2023-08-31",
    }
    return scene.rio.write_crs("EPSG:3067").rio.write_coordinate_system()


def draw_chips() -> xr.Dataset:
    parts = [draw_image(32, 32, seed=2 + number) for number in range(6)]
    chips = xr.concat(parts, "chip", coords="minimal", compat="override")
    return chips.assign_coords(chip=[f"chip{number}" for number in range(6)])


def draw_photos(folder: Path) -> pd.DataFrame:
    """Draw eight photos with discs, without random numbers, and write their table."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for number in range(8):
        image = Image.new("RGB", (64, 32), (120, 90, 60))
        brush = ImageDraw.Draw(image)
        for disc, colour in enumerate(((40, 160, 50), (210, 190, 110), (20, 80, 100))):
            x, y, size = (
                10 + 18 * disc + number,
                8 + 2 * number,
                3 + (number + disc) % 5,
            )
            brush.ellipse((x - size, y - size, x + size, y + size), colour)
        image.save(folder / "photos" / f"ID{number}.png")
        grams = [5.0 * number + 1, 3.0 + number % 3, 2.0 * (number % 4)]
        rows.append(
            {
                "image_path": f"photos/ID{number}.png",
                "Sampling_Date": f"2015/9/{number % 4 + 4}",
                **dict(zip(pasture.TARGETS[:3], grams, strict=True)),
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "photos.csv", index=False)
    return table


def read_photos(folder: Path) -> pd.DataFrame:
    return pasture.read_photos(folder / "photos.csv", folder)


def small_regressor(
    model: pasture.PastureRegressor, folder: Path | None
) -> pasture.PastureRegressor:
    """Return an untrained regressor: the network of a model with small heads."""
    network = model.network
    network.heads = nn.ModuleList(
        nn.Sequential(nn.Linear(CHANNELS[-1], 4), nn.ReLU(), nn.Linear(4, 1))
        for _ in model.targets
    )
    set_pattern(network)
    recipe = model.recipe.with_changes(**PHOTOS_CONTINUED, folder=folder)
    return pasture.PastureRegressor(network, recipe)


# --- checksums ------------------------------------------------------------------------


def checksum(values: Any) -> str:
    """Return a checksum of type, shape and bytes."""
    array = np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    # NaN has many bit patterns; all count as one.
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    digest.update(array.tobytes())
    return digest.hexdigest()


def layers_of(found: xr.Dataset) -> dict[str, Any]:
    return {str(name): values.values for name, values in found.items()}


def checksums(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: checksum(values) for name, values in arrays.items()}


def checksum_of_weights(network: nn.Module) -> str:
    """Return one checksum of all weights and their names."""
    each = {name: checksum(value) for name, value in network.state_dict().items()}
    return hashlib.sha256(json.dumps(each).encode()).hexdigest()


def plain_history(history: pd.DataFrame) -> dict[str, Any]:
    """Return a history as JSON, without the seconds."""
    text = history.drop(columns="seconds").to_json(double_precision=15)
    plain: dict[str, Any] = json.loads(text)
    return plain


def machine() -> str:
    """Return the kind of machine: on the same kind a network gives the same bits."""
    lines: list[str] = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), "unknown")
    gpu = ", CUDA" if torch.cuda.is_available() else ""
    kind = model.partition(":")[2].strip() or platform.processor()
    level = torch.backends.cpu.get_cpu_capability()
    return f"{kind}, {level}{gpu}, torch {torch.__version__}"


# --- the examples ---------------------------------------------------------------------

T = TypeVar("T")
Arrays = dict[str, Any]
Facts = dict[str, Any]


def stop_after(count: int, call: Callable[[], object]) -> None:
    """Interrupt a call after so many forward passes."""
    SmallEncoder.most = SmallEncoder.passes + count
    try:
        call()
    except KeyboardInterrupt:
        return
    finally:
        SmallEncoder.most = math.inf
    raise RuntimeError(f"the call ended within {count} passes; stop it earlier")


def count_passes(call: Callable[[], T]) -> tuple[T, int]:
    """Return the result of a call, and the number of its forward passes."""
    before = SmallEncoder.passes
    return call(), SmallEncoder.passes - before


def make_cubes(out: Path) -> tuple[Arrays, Facts]:
    scene, chips = draw_scene(), draw_chips()
    gb.write_cube(chips, out / "chips.zarr")
    gb.write_cube(scene, out / "scene.zarr")
    gb.write_cube(scene, out / "scene-float32.zarr", dtype="float32")
    gb.write_cube(scene, out / "scene-int32.zarr", dtype="int32")

    def halted(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info and block_info[0]["chunk-location"][0] == 3:
            raise KeyboardInterrupt
        return block

    lazy = chips.chunk(chip=1)
    image = lazy["image"].data.map_blocks(halted, dtype=np.float32)
    lazy = lazy.assign(image=lazy["image"].copy(data=image))
    with suppress(KeyboardInterrupt):
        gb.write_cube(lazy, out / "unfinished.zarr", workers=1)
    facts = {}
    for name in ("chips", "scene", "scene-float32", "scene-int32"):
        cube = gb.open_cube(out / f"{name}.zarr")
        facts[name] = {
            "checksums": checksums(layers_of(cube)),
            "statistics": gb.band_statistics(cube).to_dict("list"),
            "what": gb.describe(out / f"{name}.zarr")["what"],
            "size": gb.describe(out / f"{name}.zarr")["size"],
        }
    return {}, facts


def facts_of_model(folder: Path) -> Facts:
    model = gb.load(folder)
    return {
        "weights": checksum_of_weights(model.network),
        "what": gb.describe(folder)["what"],
    }


def make_model(out: Path) -> tuple[Arrays, Facts]:
    """Make a trained model with an interval and an applicability domain."""
    cubes = out.parent / "cubes"
    chips, scene = (gb.open_cube(cubes / f"{n}.zarr") for n in ("chips", "scene"))
    model = gb.fit(chips, **FIT, interval=0.5, calibration_fraction=0.5)
    model.save(out / "model")
    found = model.predict(scene, **TILING, applicability=True)
    return layers_of(found.compute()), facts_of_model(out / "model")


def make_ensemble(out: Path) -> tuple[Arrays, Facts]:
    """Make a calibrated ensemble of a trained model and one with a timm encoder."""
    cubes = out.parent / "cubes"
    chips, scene = (gb.open_cube(cubes / f"{n}.zarr") for n in ("chips", "scene"))
    small = gb.fit(chips, **FIT, seed=1)
    larger = FIT | {"encoder": "test_efficientnet", "decoder_channels": (8,) * 5}
    large = gb.fit(chips, "quick", **larger | {"domain_cells": 0, "crop": 32})
    set_pattern(large.network)
    measure_norms(large.network, torch.from_numpy(chips["image"].values))
    both = gb.Ensemble([small, large], spread=True)
    both.calibrate(scene, 0.5, unit=16)
    both.save(out / "model")
    found = layers_of(both.predict(scene, **TILING).compute())
    return found, facts_of_model(out / "model")


def make_maps(out: Path) -> tuple[Arrays, Facts]:
    cubes, folder = out.parent / "cubes", out.parent / "model" / "model"
    chips, scene = (gb.open_cube(cubes / f"{n}.zarr") for n in ("chips", "scene"))
    model = gb.load(folder)
    settings: dict[str, Any] = TILING | {"progress": False, "notes": NOTES}
    model.predict_to(
        out / "map.zarr", scene, **settings, applicability=True, overviews=True
    )
    model.predict_to(out / "map.tif", scene, **settings, stac_item=folder)
    stop_after(3, lambda: model.predict_to(out / "unfinished.zarr", scene, **settings))
    few = chips.isel(chip=[0, 1])
    model.predict_to(out / "chips.zarr", few, **settings)
    model.predict_chips_to(out / "competition", few, tile=16, overlap=0, progress=False)
    facts = {
        name: {
            "provenance": gb.provenance(out / name).to_dict(),
            "what": gb.describe(out / name)["what"],
        }
        for name in ("map.zarr", "map.tif", "unfinished.zarr", "chips.zarr")
    }
    for name in ("map.zarr", "chips.zarr"):
        found = xr.open_zarr(out / name)
        facts[name]["checksums"] = checksums(layers_of(found))
    return {}, facts


def make_validation(out: Path) -> tuple[Arrays, Facts]:
    scene = gb.open_cube(out.parent / "cubes" / "scene.zarr")
    folds = gb.make_folds(scene, 2, block=8, buffer=1)
    settings = FIT | {"epochs": 1, "crop": 8, "block": 8, "interval": 0.5}
    found = gb.cross_validate(scene, folds=folds, **settings)
    found.save(out / "validation", progress=False)
    read = gb.CrossValidation.load(out / "validation", scene)
    return {}, {
        "checksums": checksums(layers_of(read.predictions.compute())),
        "weights": checksum_of_weights(read.model.network),
        "errors": json.loads(read.evaluate(bootstrap=0).to_json(double_precision=15)),
        "residuals": checksums(read.residuals().select_dtypes("number")),
        "what": gb.describe(out / "validation")["what"],
    }


def make_training(out: Path) -> tuple[Arrays, Facts]:
    """Make interrupted trainings, and what uninterrupted ones predict."""
    cubes = out.parent / "cubes"
    chips, scene = (gb.open_cube(cubes / f"{n}.zarr") for n in ("chips", "scene"))
    arrays: Arrays = {}
    facts: Facts = {}
    for name, (recipe, settings, share) in TRAININGS.items():
        fit = partial(gb.fit, chips, recipe, **settings)
        whole, passes = count_passes(fit)
        arrays[name] = whole.predict(scene, **TILING)["agb"].values
        facts[name] = {
            "weights": checksum_of_weights(whole.network),
            "history": plain_history(whole.history),
            "passes": passes,
        }
        stop_after(round(share * passes), partial(fit, folder=out / name))
    return arrays, facts


def make_pasture(out: Path) -> tuple[Arrays, Facts]:
    """Make a regressor, an ensemble of both streams and two folds, an adapted model."""
    draw_photos(out)
    photos = read_photos(out)
    single = pasture.fit(photos, "quick", backbone="test_vit", **PHOTOS)
    folds = photos["Sampling_Date"].dt.day.gt(5).astype(int).rename("fold")
    small = PHOTOS | {"backbone": ENCODER}
    both = pasture.fit(photos, "quick", "both", folds=folds, **small)
    train, test = photos.iloc[:6], photos.iloc[6:]
    first = pasture.fit(train, "quick", **small)
    adapted = pasture.adapt(first, train, test[["path"]], epochs=1, last=1)
    for model in (single, *both.members, adapted.first, adapted.second):
        set_pattern(model.network)
    arrays, facts = {}, {}
    for name, model in (("single", single), ("ensemble", both), ("adapted", adapted)):
        model.save(out / name)
        arrays[name] = pasture.load(out / name).predict(photos).to_numpy()
        facts[name] = {"columns": list(model.predict(photos))}
    return arrays, facts


def make_pasture_training(out: Path) -> tuple[Arrays, Facts]:
    base = out.parent / "pasture"
    photos = read_photos(base)

    def regressor(folder: Path | None) -> pasture.PastureRegressor:
        return small_regressor(pasture.load(base / "ensemble").members[0], folder)

    whole, passes = count_passes(lambda: regressor(None).fit(photos))
    stop_after(passes // 2, lambda: regressor(out / "training").fit(photos))
    facts = {
        "weights": checksum_of_weights(whole.network),
        "history": plain_history(whole.history),
        "passes": passes,
    }
    return {"grams": whole.predict(photos).to_numpy()}, facts


EXAMPLES: dict[str, Callable[[Path], tuple[Arrays, Facts]]] = {
    "cubes": make_cubes,
    "model": make_model,
    "ensemble": make_ensemble,
    "maps": make_maps,
    "validation": make_validation,
    "training": make_training,
    "pasture": make_pasture,
    "pasture-training": make_pasture_training,
}


def pack(folder: Path, archive: Path) -> None:
    """Pack a folder in the order of names, without owners and times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as packed:
        for path in sorted(folder.rglob("*")):
            packed.add(path, str(path.relative_to(folder)), False, filter=plain)
    archive.write_bytes(
        lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    )


def main(commit: str) -> None:
    torch.set_num_threads(1)
    expected: Facts = {"made by": commit, "made on": machine()}
    for name, make in EXAMPLES.items():
        out = Path(name)
        out.mkdir()
        arrays, facts = make(out)
        if arrays:
            np.savez(out / "expected.npz", **arrays)
        expected[name] = facts | {"arrays": checksums(arrays)}
        pack(out, HERE / f"{name}.tar.xz")
        print(name, (HERE / f"{name}.tar.xz").stat().st_size)
    text = json.dumps(expected, indent=1, allow_nan=False)
    (HERE / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
