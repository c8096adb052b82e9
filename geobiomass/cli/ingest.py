"""``geobiomass ingest ...``: cubes from archives."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geobiomass.cli.ingest_archive import stac
from geobiomass.cli.ingest_options import Damaged, Overwrite, Stored, StoredAs
from geobiomass.cli.output import say
from geobiomass.cli.static_options import (
    Aspect,
    Dem,
    Slope,
    Static,
    StaticUnits,
    static_layers,
    with_layers,
)
from geobiomass.training.option_names import ExplainingGroup

app = typer.Typer(
    cls=ExplainingGroup,
    help="Make a cube from files of an archive.",
    no_args_is_help=True,
)


class Split(StrEnum):
    """Parts of the BioMassters data."""

    train = "train"
    test = "test"


class ShotQuality(StrEnum):
    """Choices for footprints that fail their quality flags."""

    good = "good"
    keep = "keep"


@app.command()
def biomassters(
    root: Annotated[
        Path, typer.Argument(help="Folder with train_features and others.")
    ],
    out: Annotated[Path, typer.Argument(help="The cube to write, such as chips.zarr.")],
    split: Annotated[Split, typer.Option(help="Part of the data.")] = Split.train,
    dtype: Stored = StoredAs.int16,
    damaged: Annotated[
        Damaged, typer.Option(help="Stop at damaged files, or leave them out.")
    ] = Damaged.stop,
    append: Annotated[
        bool, typer.Option("--append", help="Add to an existing cube.")
    ] = False,
    overwrite: Overwrite = False,
    chips: Annotated[
        str | None, typer.Option(help="Number of chips, or their ids: ID,ID,...")
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="First download the files that ROOT lacks."),
    ] = False,
    source: Annotated[
        str,
        typer.Option(
            help="Download from the public bucket in us, eu or as, or an address."
        ),
    ] = "us",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Download damaged files again."),
    ] = False,
) -> None:
    """Read the BioMassters competition's files into one Zarr cube.

    After an interruption the same command continues, downloads included.

    Example: `geobiomass ingest biomassters data/biomassters chips.zarr`

    Example: `geobiomass ingest biomassters data chips.zarr --download --chips 100`
    """
    from geobiomass.cube import write_cube
    from geobiomass.sources.biomassters.from_folder import from_biomassters

    cube = from_biomassters(
        root,
        split.value,
        damaged=damaged.value,
        chips=_chips(chips),
        download=source if download else False,
        verify=verify,
    )
    write_cube(
        cube, out, dtype.value, append=append, overwrite=overwrite, progress=True
    )
    say(f"{out}: {cube.sizes['chip']} chips")


def _chips(words: str | None) -> int | list[str] | None:
    """Return a number, or ids; a word of eight digits is an id of the competition."""
    if words is None:
        return None
    if words.isdecimal() and len(words) < 8:
        return int(words)
    return [word.strip() for word in words.split(",")]


@app.command()
def rasters(
    files: Annotated[
        str,
        typer.Argument(
            help="Pattern of file names, 'S2_{year}-{month}.tif' (also {date}, {band}, "
            "{any}, *), or a CSV table with the columns path, month and band."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The cube to write, such as scene.zarr.")],
    labels: Annotated[
        str | None,
        typer.Option(help="Raster, vector file or table with known biomass."),
    ] = None,
    column: Annotated[
        str,
        typer.Option(
            "--column", "--observed", help="Column of the labels with the values."
        ),
    ] = "agb",
    quality: Annotated[
        ShotQuality,
        typer.Option(
            help="Leave out footprints of GEDI that fail their flags, or not."
        ),
    ] = ShotQuality.good,
    radius: Annotated[
        float | None,
        typer.Option(help="Radius of points in the labels, metres; GEDI's is 12.5."),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            help="Standard errors of the labels: a column of their table, or beside a "
            "raster a raster."
        ),
    ] = None,
    labels_nodata: Annotated[
        float | None, typer.Option(help="Value of missing labels in a raster.")
    ] = None,
    labels_crs: Annotated[
        str | None, typer.Option(help="Reference system of labels that state none.")
    ] = None,
    labels_units: Annotated[
        str | None,
        typer.Option(
            help="Units of the labels, such as kg/m2 or m; by default what a raster "
            "states, else Mg/ha."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Name of a target that is not biomass, such as canopy_height."
        ),
    ] = None,
    band: Annotated[
        list[str] | None, typer.Option(help="A band to read; can be repeated.")
    ] = None,
    month: Annotated[
        list[int] | None, typer.Option(help="A calendar month; can be repeated.")
    ] = None,
    crs: Annotated[
        str | None,
        typer.Option(help="Reference system of the cube: EPSG:32633, or utm."),
    ] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Side of a pixel, in units of --crs.")
    ] = None,
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="West, south, east, north, in degrees."),
    ] = None,
    resampling: Annotated[
        str, typer.Option(help="nearest, bilinear, cubic, average, ...")
    ] = "bilinear",
    nodata: Annotated[
        float | None,
        typer.Option(help="Value of missing pixels, instead of the file's."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Factor of the stored values, instead of the file's."),
    ] = None,
    dem: Dem = None,
    slope: Slope = False,
    aspect: Aspect = False,
    static: Static = None,
    static_units: StaticUnits = None,
    dtype: Stored = StoredAs.int16,
    damaged: Annotated[
        Damaged, typer.Option(help="Stop at damaged files, or leave them out.")
    ] = Damaged.stop,
    overwrite: Overwrite = False,
) -> None:
    """Read GeoTIFFs of any reference system, by month, into one Zarr cube.

    After an interruption the same command continues.

    Example: `geobiomass ingest rasters "data/S2_{year}-{month}.tif" scene.zarr
    --labels plots.gpkg --radius 12.5`

    Example: `geobiomass ingest rasters "data/S2_{year}-{month}.tif" scene.zarr
    --dem dem.tif --slope --static canopy_height=chm.tif`
    """
    from geobiomass.cube import write_cube
    from geobiomass.sources.labels import with_labels
    from geobiomass.sources.rasters.from_files import from_rasters

    if error is not None and labels is None:
        raise ValueError("--error needs the labels, got none; give --labels.")
    layers = static_layers(dem, slope, aspect, static, static_units)
    cube = from_rasters(
        files,
        bands=band or None,
        months=month or None,
        bounds=bounds,
        resolution=resolution,
        crs=crs,
        resampling=resampling,  # type: ignore[arg-type]  # checked there
        nodata=nodata,
        scale=scale,
        damaged=damaged.value,
    )
    labelled = ""
    if labels is not None:
        cube = with_labels(
            cube,
            labels,
            column=column,
            quality=quality.value,
            radius=radius,
            nodata=labels_nodata,
            crs=labels_crs,
            units=labels_units,
            target=target,
            error=error,
        )
        labelled = f", {cube['agb'].attrs['labelled_pixels']} labelled"
        if "agb_se" in cube:
            labelled += " with standard errors"
    cube = with_layers(cube, layers)
    write_cube(cube, out, dtype.value, overwrite=overwrite, progress=True)
    months, bands = (_count_text(cube.sizes[dim], dim) for dim in ("month", "band"))
    size = f"{cube.sizes['y']} x {cube.sizes['x']} pixels"
    say(f"{out}: {months}, {bands}, {size}{labelled}")


def _count_text(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


@app.command()
def embeddings(
    source: Annotated[
        str,
        typer.Argument(
            help="alphaearth, tessera, or the path or address of an index, of tiles or "
            "of a Zarr store."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The cube to write, such as scene.zarr.")],
    year: Annotated[int, typer.Option(help="The year.")],
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="West, south, east and north in degrees."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Vector file, whose bounding box is used.")
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="Side of a pixel; by default the archive's pixels."),
    ] = None,
    crs: Annotated[
        str | None, typer.Option(help="Reference system: EPSG:32633, or utm.")
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(help="Only the first ones, of releases that are ordered."),
    ] = None,
    dtype: Stored = StoredAs.int16,
    overwrite: Overwrite = False,
) -> None:
    """Read a year of embeddings into one Zarr cube.

    After an interruption the same command continues.

    Example: `geobiomass ingest embeddings alphaearth scene.zarr --year 2023 --bbox
    24.0 61.8 24.2 61.9`
    """
    from geobiomass.cube import write_cube
    from geobiomass.sources.embeddings.from_embeddings import from_embeddings

    cube = from_embeddings(
        source,
        region if region is not None and bbox is None else bbox,
        year,
        resolution=resolution,
        crs=crs,
        dimensions=dimensions,
    )
    write_cube(cube, out, dtype.value, overwrite=overwrite, progress=True)
    sizes = cube.sizes
    say(f"{out}: {sizes['band']} bands, {sizes['y']} x {sizes['x']} pixels")
    if attribution := cube.attrs.get("attribution"):
        say(f"To show on maps: {attribution}")


app.command()(stac)
