"""The files of each BioMassters chip, listed and checked without reading pixels."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from geobiomass.cube import CubeError
from geobiomass.sources.biomassters.names import (
    NAME,
    NAMED,
    UNKNOWN_SIZE,
    chip_of,
    choose_chips,
    enumerate_some,
)
from geobiomass.sources.rasters.tiff_header import (
    TiffHeader,
    TiffHeaderError,
    read_tiff_header,
)

BANDS_AND_DTYPE = {"S1": (4, "float32"), "S2": (11, "uint16"), "agbm": (1, "float32")}

Size = tuple[int, int]  # pixels: height, width
Faults = dict[str, str]  # by path: the fault of a damaged or missing file


@dataclass(frozen=True)
class ChipPlan:
    """The facts that reading one chip needs; small, as every dask task carries one."""

    chip: str
    features: str  # folder
    labels: str | None  # folder
    radar: tuple[int, ...]  # numbers of the months that have a file, 0 is September
    optical: tuple[int, ...]
    size: Size

    def image_path(self, kind: str, month: int) -> str:
        """Return the path of a Sentinel-1 ("S1") or Sentinel-2 ("S2") file."""
        return os.path.join(self.features, f"{self.chip}_{kind}_{month:02d}.tif")

    def label_path(self) -> str:
        """Return the path of the biomass file."""
        return os.path.join(self.labels or "", f"{self.chip}_agbm.tif")


class _File(NamedTuple):
    path: str
    chip: str
    kind: str
    month: int  # 0 is September; not used for a label
    size: int  # bytes


def plan_chips(
    root: Path,
    split: str,
    *,
    skip: bool,
    chips: int | str | Iterable[str] | None = None,
) -> list[ChipPlan]:
    """Return the plans of the readable chips of a split, in order of id.

    Parameters
    ----------
    root : Path
        The folder that holds ``{split}_features/`` and ``{split}_agbm/``.
    split : str
        "train" must have labels; other splits use labels if their folder exists.
    skip : bool
        Warn about damaged files and plan without them, instead of raising an error.
    chips : int, str or iterable of str, optional
        As `choose_chips` accepts it; files of other chips are not checked.

    Raises
    ------
    CubeError
        If there are no chips, or if files have problems, which are all listed.
    """
    features, labels = root / f"{split}_features", root / f"{split}_agbm"
    faults: Faults = {}
    files = _image_files(root, features, split, chips, faults)
    ids = {file.chip for file in files} | {chip_of(path) for path in faults}
    labelled = split == "train" or labels.is_dir()
    if labelled:
        files += _label_files(root, labels, ids, faults)
    size, misfits = _survey(files, faults)
    _check_files(root, misfits, {} if skip else faults)
    whole = [file for file in files if file.path not in faults]
    plans = _plans(whole, str(features), str(labels) if labelled else None, size)
    if not plans:
        raise CubeError(
            f"{root} must have at least one undamaged chip, got none: "
            f"{enumerate_some(_sentences(faults))}; download the files again."
        )
    if faults:
        _warn(root, faults, sorted(ids - {plan.chip for plan in plans}))
    return plans


def _check_files(root: Path, misfits: list[str], faults: Faults) -> None:
    problems = misfits + _sentences(faults)
    if problems:
        remedy = " Download damaged files again, or pass damaged='skip'."
        raise CubeError(
            f"{root} has {_count(problems, 'problem')}: {enumerate_some(problems)}."
            + (remedy if faults else "")
        )


def _warn(root: Path, faults: Faults, left_out: list[str]) -> None:
    text = f"{root} has {_count(faults, 'damaged file')}, treated as missing: "
    text += f"{enumerate_some(_sentences(faults))}."
    if left_out:
        text += (
            f" Left out because they have no label or no image: "
            f"{enumerate_some(left_out)}."
        )
    # 4: the warning names the line that called from_biomassters.
    warnings.warn(text, stacklevel=4)


def _count(items: Sized, name: str) -> str:
    return f"{len(items)} {name}{'s' * (len(items) != 1)}"


def _sentences(faults: Faults) -> list[str]:
    return [f"{path} {why}" for path, why in sorted(faults.items())]


def _plans(
    files: list[_File], features: str, labels: str | None, size: Size
) -> list[ChipPlan]:
    months: dict[str, dict[str, list[int]]] = {}
    for file in files:
        by_kind = months.setdefault(file.chip, {"S1": [], "S2": [], "agbm": []})
        by_kind[file.kind].append(file.month)
    return [
        ChipPlan(chip, features, labels, _order(by["S1"]), _order(by["S2"]), size)
        for chip, by in sorted(months.items())
        if (by["S1"] or by["S2"]) and (labels is None or by["agbm"])
    ]


def _order(months: list[int]) -> tuple[int, ...]:
    return tuple(sorted(months))


# Listing: the folders, and the tables if they exist ---------------------


def _image_files(
    root: Path,
    folder: Path,
    split: str,
    chips: int | str | Iterable[str] | None,
    faults: Faults,
) -> list[_File]:
    there = {name: f for name, f in _scan(root, folder).items() if f.kind != "agbm"}
    if chips is not None:
        where = f"in {folder} (download=True gets others)"
        chosen = set(choose_chips({f.chip for f in there.values()}, chips, where))
        there = {name: file for name, file in there.items() if file.chip in chosen}
    table = root / "features_metadata.csv"
    listed = _read_table(table, split)
    if listed is None:
        files = list(there.values())
    else:
        begun = {there[name].chip for name in there.keys() & listed.keys()}
        wanted = {name: n for name, n in listed.items() if chip_of(name) in begun}
        files = _compare(there, wanted, folder, table, faults)
    if not files:
        csv = "" if listed is None else f", and {len(listed)} others listed in {table}"
        raise CubeError(
            f"No chips of split {split!r}: {folder} must contain files named like "
            f"0060c0a5_S1_00.tif, got {len(there)} of them{csv}."
        )
    return files


def _label_files(
    root: Path, folder: Path, chips: set[str], faults: Faults
) -> list[_File]:
    there = {name: f for name, f in _scan(root, folder).items() if f.kind == "agbm"}
    table = root / f"{folder.name}_metadata.csv"
    listed = _read_table(table) or {}
    names = [f"{chip}_agbm.tif" for chip in chips]
    wanted = {name: listed.get(name, UNKNOWN_SIZE) for name in names}
    return _compare(there, wanted, folder, table, faults)


def _scan(root: Path, folder: Path) -> dict[str, _File]:
    """Return the files with names of the competition, by name."""
    if not folder.is_dir():
        got = "no folder of that name"
        if root.is_dir():
            got = f"a folder with {sorted(os.listdir(root))[:NAMED]}"
        raise CubeError(
            f"{root} must be a folder that contains {folder.name}/, got {got}."
        )
    files = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if match := NAME.fullmatch(entry.name):
                chip, sensor, month, label = match.groups()
                kind, number = (label, 0) if label else (sensor, int(month))
                size = entry.stat().st_size
                files[entry.name] = _File(entry.path, chip, kind, number, size)
    return files


def _compare(
    there: dict[str, _File],
    wanted: dict[str, int],
    folder: Path,
    table: Path,
    faults: Faults,
) -> list[_File]:
    """Return the wanted files that exist; add the faults of files to `faults`."""
    for name, size in wanted.items():
        if name not in there:
            faults[os.path.join(folder, name)] = "is missing"
        elif size not in (UNKNOWN_SIZE, there[name].size):
            found = there[name].size
            why = f"has {found} bytes, {size} in {table.name}"
            faults[there[name].path] = why
    return [there[name] for name in wanted if name in there]


def _read_table(path: Path, split: str | None = None) -> dict[str, int] | None:
    """Return sizes in bytes by file name; None if there is no table."""
    import pandas as pd

    if not path.is_file():
        return None
    columns = ["filename", "size"] + (["split"] if split else [])
    try:
        table = pd.read_csv(path, usecols=columns)
        sizes = pd.to_numeric(table["size"]).fillna(UNKNOWN_SIZE).astype(int)
    except ValueError as error:  # pandas' own errors of parsing are ValueErrors
        raise CubeError(
            f"{path} must be a CSV table with columns {columns}, sizes in bytes: "
            f"{error}; download it again, or remove it so that file names are used."
        ) from error
    pairs = dict(zip(table["filename"], sizes.tolist(), strict=True))
    if split is None:
        return pairs
    ours = table["filename"][table["split"] == split]
    return {name: pairs[name] for name in ours if NAME.fullmatch(str(name))}


# Checks: one header for all files of a kind that have the same size ------------


def _survey(files: list[_File], faults: Faults) -> tuple[Size, list[str]]:
    """Return the usual size in pixels and the misfits; add to `faults`.

    Misfits are files with other bands, types or sizes than the competition's.
    """
    headers = list(_headers([file for file in files if file.path not in faults]))
    usual = _usual_bytes(headers)
    sound: list[tuple[_File, TiffHeader]] = []
    for file, header in headers:
        if isinstance(header, TiffHeader):
            sound.append((file, header))
        else:
            faults[file.path] = header + usual.get(file.kind, "")
    pixels = Counter((h.height, h.width) for f, h in sound if f.kind != "agbm")
    size = pixels.most_common(1)[0][0] if pixels else (0, 0)
    return size, _misfits(sound, size)


def _headers(files: list[_File]) -> Iterator[tuple[_File, TiffHeader | str]]:
    """Yield each file with its header, or with its fault."""
    groups: dict[tuple[str, int], list[_File]] = defaultdict(list)
    for file in files:
        groups[file.kind, file.size].append(file)
    for group in groups.values():
        first = _header(group[0])
        yield group[0], first
        # The same size means the same header only for uncompressed files.
        shared = isinstance(first, TiffHeader) and not first.compressed
        for file in group[1:]:
            yield file, first if shared else _header(file)


def _header(file: _File) -> TiffHeader | str:
    try:
        header = read_tiff_header(file.path)
    except TiffHeaderError as error:
        return f"{error}, {file.size} bytes"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if header.end > file.size:
        return f"has {file.size} bytes, {header.end} in its header"
    return header


def _usual_bytes(headers: list[tuple[_File, TiffHeader | str]]) -> dict[str, str]:
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    for file, header in headers:
        if isinstance(header, TiffHeader) and not header.compressed:
            sizes[file.kind][file.size] += 1
    return {
        kind: f" (most files of its kind have {counts.most_common(1)[0][0]})"
        for kind, counts in sizes.items()
    }


def _misfits(sound: list[tuple[_File, TiffHeader]], size: Size) -> list[str]:
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file, header in sound:
        if why := _misfit(header, file.kind, size):
            wrong[file.chip, why].append(os.path.basename(file.path))
    return [
        f"{names[0]}{f' and {len(names) - 1} more of chip {chip}' * (len(names) > 1)} "
        + why
        for (chip, why), names in sorted(wrong.items())
    ]


def _misfit(header: TiffHeader, kind: str, size: Size) -> str:
    bands, dtype = BANDS_AND_DTYPE[kind]
    if (header.bands, header.dtype) != (bands, dtype):
        got = f"{header.bands} of {header.dtype}"
        return f"must have {bands} bands of {dtype}, got {got}"
    if (header.height, header.width) != size:
        got = f"{header.height} x {header.width}"
        return f"must be {size[0]} x {size[1]} pixels as most images are, got {got}"
    return ""
