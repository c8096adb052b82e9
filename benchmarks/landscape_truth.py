"""How near the synthetic landscape comes to real data.

``python -m benchmarks.landscape_truth [--markdown] [--pictures FOLDER]``

Compares 67 label chips and the two whole chips of BioMassters in the folder
``GEOBIOMASS_DATA`` with both versions of ``gb.landscape``: biomass, its variogram, what
bands say of it, clouds and their flag, what is missing. Landscapes have seeds on which
nothing was set.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

import geobiomass as gb
from geobiomass.sources.landscape.clouds import FLAGGED, sky_of
from geobiomass.sources.landscape.gaps import (
    ACQUISITION_ORDER,
    descending_missing,
    optical_missing,
)
from geobiomass.sources.landscape.random_fields import Patch
from geobiomass.sources.landscape.versions import VERSIONS
from landscape_pictures import draw
from tables import Row, show

Pixels = npt.NDArray[np.float32]
FIRST = 1000  # seeds from here on: version 2 was set on seeds below 100
SIDE = 256  # pixels of a real chip
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
HIGHEST = 500.0  # Mg/ha: a variogram is ruled by outliers above it
BINS = ((0.0, 0.5), (0.5, 25), (25, 50), (50, 100), (100, 200), (200, 300), (300, 9999))
SIGNALS = ("VH_asc", "B04", "B08", "B11")
PAIRS = ((0.5, 100), (100, 200), (200, 9999))
CLOUD, THIN = 0.5, 0.06  # opacities: cloud hides half; thin adds 300 to blue
BRIGHTER = (1000.0, 300.0)  # the same two, as blue above that of July, real chips


@dataclass(frozen=True)
class Amount:
    """How many landscapes: for biomass, for bands and clouds, for gaps."""

    chips: int
    scenes: int
    gaps: int


FULL, QUICK = Amount(67, 24, 300), Amount(3, 2, 20)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison, or why there is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few landscapes")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument("--pictures", type=Path, help="folder to draw pictures into")
    chosen = parser.parse_args(arguments)
    folder = os.environ.get("GEOBIOMASS_DATA")
    if not folder:
        print("GEOBIOMASS_DATA names no folder with real chips: nothing to compare.")
        return
    amount = QUICK if chosen.quick else FULL
    labels = real_labels(Path(folder))
    biomass = {"real": labels}
    for number in VERSIONS:
        biomass[f"version {number}"] = synthetic_labels(number, amount.chips)
    tables = {
        "Biomass of chips": _rows(biomass_figures, biomass),
        "Variogram over variance within chips": _rows(variogram_figures, biomass),
    }
    scenes = {"real": real_scenes(Path(folder))}
    for number in VERSIONS:
        scenes[f"version {number}"] = synthetic_scenes(number, amount.scenes)
    tables["Bands in July, clear pixels"] = _rows(signal_figures, scenes)
    sky = {"real": real_sky(scenes["real"])}
    for number in VERSIONS:
        sky[f"version {number}"] = flag_figures(number, scenes[f"version {number}"])
    tables["Clouds, and the flag from 40 % on"] = _side_by_side(sky)
    gaps = {"real": PUBLISHED_GAPS}
    for number in VERSIONS:
        gaps[f"version {number}"] = gap_figures(number, amount.gaps)
    tables["What is missing"] = _side_by_side(gaps)
    for title, rows in tables.items():
        show(title, rows, markdown=chosen.markdown)
    if chosen.pictures:
        curves = {name: variogram(chips) for name, chips in biomass.items()}
        draw(chosen.pictures, biomass, LAGS, curves)


def _rows(
    figures: Callable[..., dict[str, str]], given: Mapping[str, object]
) -> list[Row]:
    return _side_by_side({name: figures(values) for name, values in given.items()})


def _side_by_side(columns: dict[str, dict[str, str]]) -> list[Row]:
    """Return a row for each figure, with a column for each kind of data."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return [
        {"figure": name} | {kind: column.get(name) for kind, column in columns.items()}
        for name in names
    ]


# Data ----------------------------------------------------------------------------


def real_labels(folder: Path) -> list[Pixels]:
    """Return the label chips, Mg/ha."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    found = []
    with warnings.catch_warnings():
        # The competition's chips have no place.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for path in sorted((folder / "biomassters_labels").rglob("*.tif")):
            with rasterio.open(path) as source:
                found.append(source.read(1))
    return found


def synthetic_labels(version: int, number: int) -> list[Pixels]:
    """Return the biomass of landscapes, one a seed, Mg/ha."""
    seeds = range(FIRST, FIRST + number)
    return [
        gb.landscape(SIDE, 1, seed, block=SIDE, version=version)["agb"].values
        for seed in seeds
    ]


def real_scenes(folder: Path) -> list[xr.Dataset]:
    """Return the whole real chips."""
    cube = gb.from_biomassters(folder / "biomassters")
    return [cube.isel(chip=chip).load() for chip in range(cube.sizes["chip"])]


def synthetic_scenes(version: int, number: int) -> list[xr.Dataset]:
    """Return landscapes of twelve months, one a seed."""
    return [
        gb.landscape(SIDE // 2, 12, seed, version=version).load()
        for seed in range(FIRST, FIRST + number)
    ]


# Biomass -------------------------------------------------------------------------


def biomass_figures(chips: list[Pixels]) -> dict[str, str]:
    """Return mean, spread, zeros, shares and quantiles of biomass."""
    pixels = np.concatenate([chip.ravel() for chip in chips]).astype(float)
    means = [chip.mean() for chip in chips]
    zeros = [100 * (chip == 0).mean() for chip in chips]
    found = {
        "mean, sd": f"{pixels.mean():.1f}, {pixels.std():.1f}",
        "exact zeros, %": f"{100 * (pixels == 0).mean():.1f}",
        "zeros of a chip, % (quantiles 10, 50, 90)": _quantiles(zeros, 0),
        "mean of a chip (quantiles 10, 50, 90)": _quantiles(means, 0),
        "quantiles 40, 50, 75, 90, 99": ", ".join(
            f"{q:.0f}" for q in np.quantile(pixels, (0.4, 0.5, 0.75, 0.9, 0.99))
        ),
    }
    for least in (100, 200, 300, 400):
        found[f"above {least}, %"] = f"{100 * (pixels > least).mean():.3g}"
    found["largest"] = f"{pixels.max():.0f}"
    amid, around = zip(*map(_around, chips), strict=True)
    found["trees amid zeros, %"] = f"{100 * np.nanmean(amid):.1f}"
    found["spread over 3 x 3 forest pixels, % of their mean"] = (
        f"{100 * np.nanmedian(around):.0f}"
    )
    return found


def _around(chip: Pixels) -> tuple[float, float]:
    """Return the share of trees among zeros, and the relative spread of forest."""
    windows = np.lib.stride_tricks.sliding_window_view(chip, (3, 3)).reshape(-1, 9)
    open_land = np.median(windows, axis=1) == 0
    alone = (windows[open_land, 4] > 0).mean() if open_land.any() else np.nan
    mean = windows.mean(axis=1)
    forest = (windows.min(axis=1) > 0) & (mean > 50)
    spread = np.median(windows[forest].std(axis=1) / mean[forest])
    return float(alone), float(spread)


def _quantiles(values: Sequence[float], digits: int) -> str:
    found = np.quantile(values, (0.1, 0.5, 0.9))
    return ", ".join(f"{value:.{digits}f}" for value in found)


def variogram(chips: list[Pixels]) -> Pixels:
    """Return the semivariance at `LAGS` over the variance within chips."""
    clipped = [np.minimum(chip, HIGHEST) for chip in chips]
    within = np.mean([chip.var() for chip in clipped])
    curve = [np.mean([_semivariance(chip, lag) for chip in clipped]) for lag in LAGS]
    return np.asarray(np.array(curve) / within, np.float32)


def _semivariance(chip: Pixels, lag: int) -> float:
    down = (chip[lag:] - chip[:-lag]) ** 2
    right = (chip[:, lag:] - chip[:, :-lag]) ** 2
    return float(down.mean() + right.mean()) / 4


def variogram_figures(chips: list[Pixels]) -> dict[str, str]:
    """Return the variogram by distance in metres."""
    pairs = zip(LAGS, variogram(chips), strict=True)
    return {f"{10 * lag} m": f"{value:.2f}" for lag, value in pairs}


# Bands ---------------------------------------------------------------------------


def _clear(scene: xr.Dataset, month: int) -> tuple[xr.DataArray, npt.NDArray[np.bool_]]:
    image = scene["image"].sel(month=month)
    return image, (image.sel(band="CLP") <= 20).values


def signal_figures(scenes: list[xr.Dataset]) -> dict[str, str]:
    """Return medians by biomass over all scenes, and correlations within scenes."""
    found = {}
    for band in SIGNALS:
        values, biomass = [], []
        for scene in scenes:
            image, clear = _clear(scene, 7)
            values.append(image.sel(band=band).values[clear])
            biomass.append(scene["agb"].values[clear])
        value, agb = np.concatenate(values), np.concatenate(biomass)
        medians = [
            np.nanmedian(value[(agb >= low) & (agb < high)]) for low, high in BINS
        ]
        digits = 1 if band.startswith("V") else 0
        text = ", ".join(f"{median:.{digits}f}" for median in medians)
        found[f"{band} at 0, to 25, 50, 100, 200, 300, more"] = text
    for low, high in PAIRS:
        for band in SIGNALS:
            rs = [_correlation(scene, band, low, high) for scene in scenes]
            rs = [r for r in rs if np.isfinite(r)]
            upto = f"{low:.0f} to {high}" if high < 9999 else f"above {low:.0f}"
            found[f"r of {band} and biomass, {upto}"] = (
                f"{np.mean(rs):.2f}" if rs else ""
            )
    return found


def _correlation(scene: xr.Dataset, band: str, low: float, high: float) -> float:
    image, clear = _clear(scene, 7)
    value, agb = image.sel(band=band).values, scene["agb"].values
    kept = clear & np.isfinite(value) & (agb >= low) & (agb < high)
    if kept.sum() < 300:
        return np.nan
    return float(np.corrcoef(agb[kept], value[kept])[0, 1])


# Clouds --------------------------------------------------------------------------


@dataclass
class Flags:
    """Pixels of an image by truth: opaque cloud, thin cloud or haze, clear."""

    opaque: npt.NDArray[np.bool_]
    thin: npt.NDArray[np.bool_]
    clear: npt.NDArray[np.bool_]
    flagged: npt.NDArray[np.bool_]


def real_sky(scenes: list[xr.Dataset]) -> dict[str, str]:
    """Return the figures of the real chips in August, with July as clear sky."""
    images = []
    for scene in scenes:
        blue = scene["image"].sel(band="B02")
        brighter = (blue.sel(month=8) - blue.sel(month=7)).values
        flagged = (scene["image"].sel(month=8, band="CLP") >= FLAGGED).values
        opaque, thin = (brighter > least for least in BRIGHTER)
        images.append(Flags(opaque, thin & ~opaque, brighter < 200, flagged))
    found = _flag_rates(images)
    found["flagged rightly, all months, %"] = "84 to 91 (published)"
    found["median CLP, April to July (quantiles 10, 50, 90)"] = _quantiles(
        _medians(scenes), 0
    )
    return found


def flag_figures(number: int, scenes: list[xr.Dataset]) -> dict[str, str]:
    """Return how often the flag errs, where the truth of the sky is known."""
    images, august, haze, shade = [], [], [], []
    for seed, scene in enumerate(scenes, FIRST):
        patch = Patch(seed, 0, 0, SIDE // 2, 10.0, (0, 1, 2), VERSIONS[number])
        for month in scene["month"].values.tolist():
            probability = scene["image"].sel(month=month, band="CLP").values
            sky = sky_of(patch, month)
            opacity = sky.cloud if number == 1 else sky.opacity
            seen = np.isfinite(probability)
            opaque, thin = (opacity[seen] >= least for least in (CLOUD, THIN))
            flagged = probability[seen] >= FLAGGED
            images.append(Flags(opaque, thin & ~opaque, ~thin, flagged))
            august += images[-1:] if month == 8 else []
            if seen.any() and number > 1:
                haze.append(100 * float(sky.haze.mean()))
                dark = (sky.shade > 0.5) & (sky.opacity < 0.2)
                shade.append(100 * float(dark.mean()))
    found = _flag_rates(august)
    wrong = sum(
        (i.opaque & ~i.flagged).sum()
        + (i.thin & ~i.flagged).sum()
        + (i.clear & i.flagged).sum()
        for i in images
    )
    total = sum(i.flagged.size for i in images)
    found["flagged rightly, all months, %"] = f"{100 * (1 - wrong / total):.0f}"
    found["median CLP, April to July (quantiles 10, 50, 90)"] = _quantiles(
        _medians(scenes), 0
    )
    found["opacity of haze, % (quantiles 10, 50, 90)"] = (
        _quantiles(haze, 1) if haze else "0"
    )
    found["pixels in cloud shadow, %"] = f"{np.mean(shade):.1f}" if shade else "0"
    return found


def _flag_rates(images: list[Flags]) -> dict[str, str]:
    def share(what: str, flagged: bool) -> str:
        masks = [(getattr(image, what), image.flagged == flagged) for image in images]
        number = sum(int(mask.sum()) for mask, _ in masks)
        wrong = sum(int((mask & other).sum()) for mask, other in masks)
        return f"{100 * wrong / number:.0f}" if number else ""

    return {
        "opaque clouds missed, August, %": share("opaque", False),
        "thin clouds missed, August, %": share("thin", False),
        "clear pixels flagged, August, %": share("clear", True),
    }


def _medians(scenes: list[xr.Dataset]) -> list[float]:
    """Return the median cloud probability from April to July, by image."""
    found = []
    for scene in scenes:
        for month in (4, 5, 6, 7):
            values = scene["image"].sel(month=month, band="CLP").values
            if np.isfinite(values).mean() > 0.5:
                found.append(float(np.nanmedian(values)))
    return found


# Gaps ----------------------------------------------------------------------------

PUBLISHED_GAPS = {
    "chips with Sentinel-2 from March on only, %": "15.1 of training, 0 of test",
    "chips with Sentinel-2 from April on only, %": "6.0 of training, 0 of test",
    "pixels without a descending pass, % by month": "7 to 18",
    "patterns of months with Sentinel-2": "6",
}


def gap_figures(number: int, seeds: int) -> dict[str, str]:
    """Return the shares of months and passes that are missing."""
    patterns, descending = [], []
    for seed in range(FIRST, FIRST + seeds):
        patch = Patch(seed, 0, 0, 4, 10.0, (0, 1, 2), VERSIONS[number])
        lost = [optical_missing(patch, month) for month in ACQUISITION_ORDER]
        patterns.append("".join("0" if mask.all() else "1" for mask in lost))
        descending.append(
            [descending_missing(patch, month).mean() for month in ACQUISITION_ORDER]
        )
    months = 100 * np.mean(descending, axis=0)
    late = [p.startswith("0000001") for p in patterns]
    later = [p.startswith("00000001") for p in patterns]
    common = {p for p in patterns if patterns.count(p) > 0.02 * seeds}
    return {
        "chips with Sentinel-2 from March on only, %": f"{100 * np.mean(late):.1f}",
        "chips with Sentinel-2 from April on only, %": f"{100 * np.mean(later):.1f}",
        "pixels without a descending pass, % by month": (
            f"{months.min():.0f} to {months.max():.0f}"
        ),
        "patterns of months with Sentinel-2": f"{len(common)}",
    }


if __name__ == "__main__":
    main()
