"""The chips that the benchmarks read, in all formats; real chips if they exist.

The real chips are two of the competition, in the folder ``GEOBIOMASS_DATA``. More chips
are links to the same files under new ids, or the same pixels rotated and mirrored. So
no pixel is invented, and the compression is that of real data.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import geobiomass as gb

if TYPE_CHECKING:
    import xarray as xr

SIDE = 256  # side of a chip, pixels
MISSING = -(2**15)
RADAR_BANDS = 4  # the first ones, stored in steps of 0.01 dB
Codes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Material:
    """A folder with the same chips as TIFFs, as a cube and as a numpy file."""

    folder: Path

    @property
    def tiffs(self) -> Path:
        """The folder with the layout of the competition."""
        return self.folder / "tiffs"

    @property
    def cube(self) -> Path:
        """The store that geobiomass writes."""
        return self.folder / "cube.zarr"

    @property
    def codes(self) -> Path:
        """The int16 codes (chip, month, band, y, x), as a file to memory-map."""
        return self.folder / "codes.npy"

    @property
    def labels(self) -> Path:
        """The float32 labels (chip, y, x), as a file to memory-map."""
        return self.folder / "labels.npy"


def real_folder() -> Path | None:
    """Return the folder of the two real chips, or None."""
    data = os.environ.get("GEOBIOMASS_DATA")
    folder = Path(data, "biomassters") if data else None
    return folder if folder and folder.is_dir() else None


def describe() -> str:
    """Return a sentence about the data."""
    if real_folder():
        return "Data: two real BioMassters chips, 12 months x 15 bands x 256 x 256."
    return (
        "Data: chips cut from gb.landscape (synthetic), since GEOBIOMASS_DATA is not "
        "set; real chips compress differently."
    )


def prepare(folder: Path, chips: int) -> Material:
    """Return a number of chips in all formats, written now or by an earlier run.

    Raises
    ------
    ValueError
        If the folder has another number of chips, or chips from other data.
    """
    material = Material(folder)
    stamp = folder / "made.json"
    wanted = {"chips": chips, "real": real_folder() is not None}
    if stamp.exists():
        found = json.loads(stamp.read_text())
        if found != wanted:
            raise ValueError(
                f"{folder} must contain {wanted}, got {found}; choose another folder."
            )
        return material
    source = real_folder() or _landscape_tiffs(folder / "landscape")
    _link(source, material.tiffs, chips)
    cube = gb.from_biomassters(material.tiffs)
    gb.write_cube(cube, material.cube, overwrite=True)
    _write_numpy(cube, material)
    stamp.write_text(json.dumps(wanted))
    return material


def _link(source: Path, target: Path, chips: int) -> None:
    """Link the files of the source's chips under new ids, with torchgeo's table."""
    ids = sorted(path.name.split("_")[0] for path in (source / "train_agbm").iterdir())
    for name in ("train_features", "train_agbm"):
        (target / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(chips):
        old, new = ids[index % len(ids)], f"{index:08x}"
        _link_file(
            source / "train_agbm" / f"{old}_agbm.tif",
            target / "train_agbm" / f"{new}_agbm.tif",
        )
        for path in sorted((source / "train_features").glob(f"{old}_*.tif")):
            _, sensor, month = path.stem.split("_")
            name = f"{new}_{sensor}_{month}.tif"
            _link_file(path, target / "train_features" / name)
            rows.append([name, new, sensor, "train", int(month), f"{new}_agbm.tif"])
    heads = ["filename", "chip_id", "satellite", "split", "month", "corresponding_agbm"]
    table = target / "biomassters_features_metadata.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])


def _link_file(source: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve())


def _landscape_tiffs(folder: Path) -> Path:
    """Write two chips of the landscape as the competition's TIFFs."""
    scene = gb.landscape((SIDE, 2 * SIDE), version=1)
    image, agb = scene["image"].values, scene["agb"].values
    for chip in range(2):
        columns = slice(chip * SIDE, (chip + 1) * SIDE)
        _write_chip(folder, f"{chip:08x}", image[..., columns], agb[:, columns])
    return folder


def _write_chip(
    folder: Path, chip: str, image: npt.NDArray[Any], agb: npt.NDArray[Any]
) -> None:
    features = folder / "train_features"
    for month, values in enumerate(image):
        radar = np.nan_to_num(values[:RADAR_BANDS], nan=-9999.0).astype(np.float32)
        _write_tiff(features / f"{chip}_S1_{month:02d}.tif", radar)
        optical = np.where(np.isnan(values[RADAR_BANDS:]), 0, values[RADAR_BANDS:])
        optical[-1][np.isnan(values[-1])] = 255  # the competition's value for unusable
        _write_tiff(features / f"{chip}_S2_{month:02d}.tif", optical.astype(np.uint16))
    _write_tiff(folder / "train_agbm" / f"{chip}_agbm.tif", agb[None])


def _write_tiff(path: Path, values: npt.NDArray[Any]) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width}
    profile = {"driver": "GTiff", "dtype": values.dtype, "interleave": "pixel"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # the competition's have no georeference either
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **size) as file:
            file.write(values)


def _write_numpy(cube: xr.Dataset, material: Material) -> None:
    shape = cube["image"].shape
    codes = np.lib.format.open_memmap(material.codes, "w+", np.int16, shape)
    labels = np.lib.format.open_memmap(
        material.labels, "w+", np.float32, cube["agb"].shape
    )
    for chip in range(len(codes)):
        codes[chip] = encode(cube["image"].isel(chip=chip))
        labels[chip] = cube["agb"].isel(chip=chip).values


def encode(image: xr.DataArray) -> Codes:
    """Convert physical values to the int16 codes that a cube stores."""
    steps = np.ones((image.sizes["band"], 1, 1))
    steps[:RADAR_BANDS] = 0.01
    codes = np.rint(image.values / steps)
    limited = np.clip(codes, -(2**15) + 1, 2**15 - 1)
    return np.where(np.isnan(codes), MISSING, limited).astype(np.int16)


def varied_chips(count: int) -> Codes:
    """Return codes (chip, month, band, y, x): the chips, also rotated and mirrored."""
    folder = real_folder()
    if folder:
        cube = gb.from_biomassters(folder)
        codes = [encode(cube["image"].isel(chip=chip)) for chip in range(2)]
    else:
        scene = encode(gb.landscape((SIDE, 2 * SIDE), version=1)["image"])
        codes = [scene[..., :SIDE], scene[..., SIDE:]]
    out = np.empty((count, *codes[0].shape), np.int16)
    for index in range(count):
        chip = np.rot90(codes[index % 2], index // 2 % 4, (2, 3))
        out[index] = chip[..., ::-1] if index // 8 % 2 else chip
    return out


def mosaic(codes: Codes) -> Codes:
    """Join a square number of chips to a scene of (month, band, y, x)."""
    side = round(len(codes) ** 0.5)
    rows = [np.concatenate(codes[r * side : (r + 1) * side], -1) for r in range(side)]
    return np.concatenate(rows, -2)
