"""``geobiomass ingest stac``: monthly composites from an open archive."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geobiomass.cli.ingest_options import Damaged, Overwrite, Stored, StoredAs
from geobiomass.cli.output import AsJson, answer, say
from geobiomass.cli.static_options import (
    Aspect,
    Dem,
    Slope,
    Static,
    StaticUnits,
    static_layers,
    with_layers,
)


class Composite(StrEnum):
    """Choices of a composite of the clear observations of a month."""

    median = "median"
    best = "best"


class Steps(StrEnum):
    """Choices of what is composed into one image."""

    month = "month"
    dekad = "dekad"
    season = "season"


class ByClouds(StrEnum):
    """Choices of what finds clouds."""

    classification = "classification"
    omnicloudmask = "omnicloudmask"


def stac(
    months: Annotated[str, typer.Option(help="First and last month: 2023-09:2024-08.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="The cube to write, such as scene.zarr; not with --survey."
        ),
    ] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="West, south, east and north in degrees."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Vector file, whose bounding box is used.")
    ] = None,
    archive: Annotated[
        str, typer.Option(help="planetary-computer, earth-search, or an address.")
    ] = "planetary-computer",
    items: Annotated[
        str | None,
        typer.Option(help="Items of an earlier search: a file or an address."),
    ] = None,
    resolution: Annotated[
        float, typer.Option(help="Side of a pixel, in units of --crs.")
    ] = 10.0,
    crs: Annotated[
        str, typer.Option(help="Reference system: EPSG:32633, or utm.")
    ] = "utm",
    bands: Annotated[
        str | None,
        typer.Option(help="Bands, VV_asc,VH_asc,B04; by default all known bands."),
    ] = None,
    step: Annotated[
        Steps, typer.Option(help="What is composed into one image.")
    ] = Steps.month,
    composite: Annotated[
        Composite, typer.Option(help="Composite of Sentinel-2.")
    ] = Composite.median,
    cloud_mask: Annotated[
        ByClouds, typer.Option(help="What finds clouds and their shadows.")
    ] = ByClouds.classification,
    cloud_weights: Annotated[
        Path | None,
        typer.Option(help="With --cloud-mask omnicloudmask: folder of its weights."),
    ] = None,
    max_cloud: Annotated[
        float, typer.Option(help="Largest cloud cover of a scene, in percent.")
    ] = 100.0,
    offset: Annotated[
        int | None,
        typer.Option(help="Offset of reflectance, 0 or 1000, if items have none."),
    ] = None,
    dem: Dem = None,
    slope: Slope = False,
    aspect: Aspect = False,
    static: Static = None,
    static_units: StaticUnits = None,
    dtype: Stored = StoredAs.int16,
    damaged: Annotated[
        Damaged, typer.Option(help="Stop at unreadable images, or leave them out.")
    ] = Damaged.stop,
    block: Annotated[
        int, typer.Option(help="Side of the blocks to compute, pixels.")
    ] = 512,
    overwrite: Overwrite = False,
    survey: Annotated[
        bool,
        typer.Option(
            "--survey",
            help="Only show what there is by month and sensor; read no pixel.",
        ),
    ] = False,
    rate: Annotated[
        str, typer.Option(help="With --survey: rate of the network for its time.")
    ] = "10 MB/s",
    headers: Annotated[
        bool,
        typer.Option(
            help="With --survey: read headers of images whose items state no size."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Make monthly composites of Sentinel-2 and Sentinel-1 from an open archive.

    After an interruption the same command continues.

    Example: `geobiomass ingest stac --bbox 24.0 61.8 24.2 61.9 --months
    2023-09:2024-08 scene.zarr`

    Example: `geobiomass ingest stac --region farm.gpkg --months 2023-04:2023-10
    --survey`
    """
    area = region if region is not None and bbox is None else bbox
    layers = static_layers(dem, slope, aspect, static, static_units)
    source = items if items is not None else archive
    chosen = bands.split(",") if bands is not None else None
    if survey:
        from geobiomass.sources.stac.survey import bytes_a_second, survey_archive

        bytes_a_second(rate)  # a wrong one is told before the search
        found = survey_archive(
            *(source, area, months),
            step=step.value,
            resolution=resolution,
            crs=crs,
            bands=chosen,
            max_cloud=max_cloud,
            offset=offset,
            headers=headers,
        )
        facts = {**found.to_dict(), "seconds": found.seconds(rate), "rate": rate}
        answer(found.summary(rate), facts, as_json)
        return
    if out is None:
        raise ValueError(
            "A cube needs a path to write to, got none; give OUT, such as scene.zarr, "
            "or --survey to see what there is."
        )
    from geobiomass.cube import write_cube
    from geobiomass.sources.stac.cloud_masks import OmniCloudMask
    from geobiomass.sources.stac.from_archive import from_stac, summary

    detects = cloud_mask is ByClouds.omnicloudmask
    if cloud_weights is not None and not detects:
        raise ValueError(
            f"--cloud-weights is of --cloud-mask omnicloudmask, got {cloud_weights} "
            "without it."
        )
    cube = from_stac(
        source,
        area,
        resolution,
        crs,
        months,
        step=step.value,
        bands=chosen,
        composite=composite.value,
        cloud_mask=OmniCloudMask(cloud_weights) if detects else None,
        max_cloud=max_cloud,
        offset=offset,
        damaged=damaged.value,
        block=block,
    )
    say(summary(cube))
    cube = with_layers(cube, layers)
    write_cube(cube, out, dtype.value, overwrite=overwrite, progress=True)
    sizes = cube.sizes
    say(f"{out}: {sizes['month']} {step.value}s, {sizes['y']} x {sizes['x']} pixels")
