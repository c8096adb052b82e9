"""All that writes: what is there before, the call that is interrupted, what it leaves.

A call is made again after an interruption, so it is the same each time. Scripts of
other processes import this module.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kept
import pandas as pd
from kept import SMALL, TILES, labelled, untrained
from outcomes import Reading

import geobiomass as gb

PIPELINES = ("zarr-python", "zarrs")


@dataclass(frozen=True)
class Writer:
    """One way to write."""

    name: str
    entry: str
    """What it writes, in the folder."""
    write: Callable[[Path], object]
    """Takes the folder."""
    read: Callable[[Path], Reading]
    """Takes the path of the entry."""
    prepare: Callable[[Path], object] = lambda folder: None
    """Fills the folder before."""
    replaces: bool = False
    """Whether the entry exists before, and must never be absent."""
    pipelines: tuple[str, ...] = PIPELINES
    """Codec pipelines that make a difference."""
    sizes: tuple[int, ...] = ()
    """Sizes of files at which libraries that are not of Python are killed."""

    def entries(self, folder: Path) -> list[Path]:
        return sorted(folder.iterdir())


def use_pipeline(name: str) -> None:
    """Read and write with this pipeline in this process from now on."""
    find = importlib.util.find_spec

    def without_zarrs(name: str, package: str | None = None) -> Any:
        return None if name == "zarrs" else find(name, package)

    if name == "zarr-python":  # as where zarrs is not installed
        importlib.util.find_spec = without_zarrs


# --- cubes ----------------------------------------------------------------------


def append(folder: Path) -> None:
    from conftest import make_chips

    gb.write_cube(make_chips(5).isel(chip=[3, 4]), folder / "chips.zarr", append=True)


def three_chips(folder: Path) -> None:
    from conftest import make_chips

    gb.write_cube(make_chips(5).isel(chip=[0, 1, 2]), folder / "chips.zarr")


def overwrite_cube(folder: Path) -> None:
    from conftest import make_scene

    new = make_scene(32, 300, months=(7, 8), seed=5)
    gb.write_cube(new, folder / "scene.zarr", overwrite=True)


def rasters(folder: Path) -> None:
    from raster_files import draw, write_tif

    for month in (7, 8):
        write_tif(folder / f"images/s2_2023-{month:02d}.tif", draw((2, 40, 48), month),
                  names=("B04", "B08"), compress="deflate")  # fmt: skip


def ingest(folder: Path) -> None:
    images = str(folder / "images/s2_{year}-{month}.tif")
    command("ingest", "rasters", images, str(folder / "cube.zarr"))


# --- models ---------------------------------------------------------------------


def fit(folder: Path) -> None:
    settings = SMALL | {"epochs": 2}
    model = gb.fit(
        labelled(), "quick", folder=folder / "training", block=32, **settings
    )
    model.save(folder / "model")


def cross_validate(folder: Path) -> None:
    crossed = gb.cross_validate(
        labelled(), "quick", folds=2, folder=folder / "training", block=32, **SMALL
    )
    crossed.save(folder / "validation", progress=False)


# --- maps, tables and pages -----------------------------------------------------


def _wide_map(folder: Path, overviews: bool) -> None:
    from conftest import make_scene

    wide = make_scene(260, 300, months=(7,)).drop_vars("agb")
    untrained().predict_to(
        folder / "map.zarr", wide, tile=128, overlap=0, block=256,
        overviews=overviews, progress=False, check="off",
    )  # fmt: skip


def map_without_overviews(folder: Path) -> None:
    _wide_map(folder, False)


def zarr_map_with_overviews(folder: Path) -> None:
    _wide_map(folder, True)


def map_with_interval(folder: Path) -> None:
    settings = TILES | {"progress": False, "check": "off"}
    model = gb.load(folder / "model")
    model.predict_to(folder / "map.zarr", kept.scene(), applicability=True, **settings)


def submission(folder: Path) -> None:
    from conftest import make_chips

    chips = make_chips(3).isel(month=[1, 2]).drop_vars("agb")
    untrained().predict_chips_to(
        folder / "submission", chips, tile=32, overlap=16, progress=False, check="off"
    )


def read_submission(path: Path) -> Reading:
    import rasterio

    reading: dict[str, Any] = {}
    for file in sorted(path.glob("*_agbm.tif")):
        with rasterio.open(file) as source:
            reading[file.name] = (source.read().tobytes(), kept.text_of(source.tags()))
    if len(reading) < 3:
        raise ValueError(f"{path} has {len(reading)} of 3 files, as anyone sees")
    return reading


def _with_checksums(read: Callable[[Path], Reading]) -> Callable[[Path], Reading]:
    """Return what reads a map, and whether all of it agrees with its checksums."""

    def both(path: Path) -> Reading:
        from geobiomass.cube import CubeError, verify

        reading = dict(read(path))
        try:
            return reading | {"sealed": verify(path).empty}
        except CubeError:  # it has none, although it opens
            return reading | {"sealed": False}

    return both


def overwrite_map(folder: Path) -> None:
    settings = TILES | {"progress": False, "check": "off", "overwrite": True}
    untrained(1).predict_to(folder / "map.zarr", kept.scene(), **settings)


def chip_map(folder: Path) -> None:
    from conftest import make_chips

    chips = make_chips(3).isel(month=[1, 2]).drop_vars("agb")
    settings = TILES | {"progress": False, "check": "off"}
    untrained().predict_to(folder / "map.zarr", chips, **settings)


def report(folder: Path) -> None:
    gb.write_report(
        untrained(), labelled(), folder / "report.html", samples=1, progress=False
    )


def read_page(path: Path) -> Reading:
    # Pictures differ in their metadata from time to time; what is written does not.
    text = path.read_text()
    return {"ends": text.rstrip().endswith("</html>"), "sections": text.count("<h2")}


def table(folder: Path) -> None:
    kept.make_table(folder)


def other_table(folder: Path) -> None:
    """Write the table that another one replaces: half of its rows, in other units."""
    from geobiomass.evaluation.residuals import read_residuals, write_residuals

    table(folder)
    found = read_residuals(folder / "residuals.csv")
    half = found[: len(found) // 2]
    half.attrs = found.attrs | {"target": "agb", "units": "t/ha"}
    write_residuals(half, folder / "residuals.csv")


def old_report(folder: Path) -> None:
    (folder / "report.html").write_text("<html>geobiomass, as it was</html>")


def model_cube_and_old_table(folder: Path) -> None:
    untrained().save(folder / "model")
    gb.write_cube(labelled(), folder / "cube.zarr")
    (folder / "table.csv").write_text("old,pixel_rmse\n1,2\n")


def evaluate(folder: Path) -> None:
    paths = [str(folder / name) for name in ("model", "cube.zarr")]
    command("evaluate", *paths, "--check", "off", "--csv", str(folder / "table.csv"))


def map_and_old_table(folder: Path) -> None:
    kept.make_zarr_map(folder)
    (folder / "errors.json").write_text(json.dumps(kept.errors().to_dict()))
    (folder / "table.csv").write_text("old,map_mean\n1,2\n")


def totals(folder: Path) -> None:
    errors, out = str(folder / "errors.json"), str(folder / "table.csv")
    command("totals", str(folder / "map.zarr"), "--residuals", errors, "--csv", out)


def old_table(folder: Path) -> None:
    (folder / "table.csv").write_text("sample_id,target\n1,2\n")


def predictions(folder: Path) -> None:
    from pasture.photos import TARGETS, write_submission

    photos = pd.Index(["a", "b"], name="photo")
    grams = pd.DataFrame([range(5), range(5, 10)], photos, TARGETS)
    write_submission(grams, folder / "table.csv")


def read_file(path: Path) -> Reading:
    return {"bytes": path.read_bytes()}


def stac_item(folder: Path) -> None:
    when = (datetime(2023, 7, 1, tzinfo=UTC), datetime(2023, 8, 31, tzinfo=UTC))
    gb.write_stac_item(folder / "map.zarr", folder / "item.json", datetime=when)


def read_json(path: Path) -> Reading:

    item = json.loads(path.read_text())
    for name in ("created", "updated"):  # the time of writing
        item["properties"].pop(name, None)
    return {"item": kept.text_of(item)}


class CommandError(Exception):
    """A command ended with an error; its text is what the user saw."""


def command(*words: str) -> None:
    """Run a command in this process."""
    from geobiomass import cli

    before, said = sys.argv, io.StringIO()
    sys.argv = ["geobiomass", *words]
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(said),
        ):
            cli.main()
    except SystemExit as stop:
        if stop.code:
            lines = [line for line in said.getvalue().splitlines() if "%|" not in line]
            raise CommandError("\n".join(lines)) from stop
    finally:
        sys.argv = before


def _model(seed: int) -> Callable[[Path], None]:
    return lambda folder: untrained(seed).save(folder / "model")


def _ensemble(folder: Path) -> None:
    gb.Ensemble([untrained(2), untrained(1)]).save(folder / "model")


WRITERS = {
    writer.name: writer
    for writer in (
        Writer("write_cube, scene", "scene.zarr", kept.make_scene_cube, kept.read_cube,
               sizes=(100, 3000, 30_000)),
        Writer("write_cube, overwrite", "scene.zarr", overwrite_cube, kept.read_cube,
               kept.make_scene_cube, replaces=True),
        Writer("append", "chips.zarr", append, kept.read_cube, three_chips,
               replaces=True, sizes=(3000,)),
        Writer("ingest", "cube.zarr", ingest, kept.read_cube, rasters, sizes=(2000,)),
        Writer("fit and save", "model", fit, kept.read_model,
               pipelines=PIPELINES[:1], sizes=(50_000, 500_000)),
        Writer("save over a model", "model", _model(1), kept.read_model, _model(0),
               replaces=True, pipelines=PIPELINES[:1], sizes=(500_000,)),
        Writer("save over an ensemble", "model", _ensemble, kept.read_model,
               kept.make_ensemble, replaces=True, pipelines=PIPELINES[:1]),
        Writer("cross_validate and save", "validation", cross_validate,
               kept.read_validation, sizes=(50_000,)),
        Writer("predict_to, Zarr", "map.zarr", kept.make_zarr_map, kept.read_map,
               sizes=(100, 8000)),
        Writer("predict_to, overwrite", "map.zarr", overwrite_map, kept.read_map,
               kept.make_zarr_map),
        Writer("predict_to, overviews", "map.zarr", zarr_map_with_overviews,
               _with_checksums(kept.read_map)),
        Writer("overviews, added", "map.zarr", zarr_map_with_overviews,
               _with_checksums(kept.read_map), map_without_overviews, replaces=True),
        Writer("predict_to, chips", "map.zarr", chip_map,
               _with_checksums(kept.read_layers)),
        Writer("predict_to, interval and applicability", "map.zarr", map_with_interval,
               _with_checksums(kept.read_layers), kept.make_interval_model),
        Writer("predict_chips_to", "submission", submission, read_submission,
               pipelines=PIPELINES[:1], sizes=(2000,)),
        Writer("predict_to, COG", "map.tif", kept.make_geotiff, kept.read_map,
               sizes=(8000, 40_000)),
        Writer("report", "report.html", report, read_page, pipelines=PIPELINES[:1]),
        Writer("change, Zarr", "change.zarr", kept.change_zarr,
               _with_checksums(kept.read_layers), kept.two_maps),
        Writer("change, GeoTIFF", "change.tif", kept.change_tif, kept.read_layers,
               kept.two_maps, pipelines=PIPELINES[:1], sizes=(2000,)),
        Writer("residuals", "residuals.csv", table, kept.read_table,
               pipelines=PIPELINES[:1]),
        Writer("residuals, again", "residuals.csv", table, kept.read_table,
               other_table, replaces=True, pipelines=PIPELINES[:1]),
        Writer("report, again", "report.html", report, read_page, old_report,
               replaces=True, pipelines=PIPELINES[:1]),
        Writer("evaluate, table", "table.csv", evaluate, read_file,
               model_cube_and_old_table, replaces=True, pipelines=PIPELINES[:1]),
        Writer("totals, table", "table.csv", totals, read_file, map_and_old_table,
               replaces=True, pipelines=PIPELINES[:1]),
        Writer("submission of photos", "table.csv", predictions, read_file, old_table,
               replaces=True, pipelines=PIPELINES[:1]),
        Writer("stac item", "item.json", stac_item, read_json, kept.make_zarr_map,
               pipelines=PIPELINES[:1]),
    )
}  # fmt: skip
"""All of them, by name."""
