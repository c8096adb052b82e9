"""Commands with inputs that are no map, cube, model or table: one sentence, no hang."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_scene

import geobiomass as gb

Run = Callable[..., tuple[int, str, str]]


def one_sentence(answer: tuple[int, str, str]) -> str:
    """Check that a command ended with one sentence; return it."""
    code, _, errors = answer
    lines = [line for line in errors.splitlines() if line.startswith("geobiomass: ")]
    assert code == 2, answer
    assert len(lines) == 1, answer
    assert "Traceback" not in errors, answer
    return lines[0]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere", "", "x://y:z"])
def test_no_scheduler_at_an_address_is_one_sentence(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    import dask

    commands: ModuleType = importlib.import_module("geobiomass.cli.predict")
    monkeypatch.setattr(commands, "_PATIENCE", 1.0)
    before = dask.config.get("scheduler", None)
    threads = threading.active_count()
    with pytest.raises(
        ValueError, match=rf"--scheduler must be .*{re.escape(repr(address))}"
    ):
        commands._client(address)
    # Later work in this process does not wait for a scheduler that is not there,
    assert dask.config.get("scheduler", None) == before
    # and no client is left, which would lock another one's start when it is collected.
    assert threading.active_count() == threads


def dates() -> list[xr.Dataset]:
    """Return maps of two dates, with intervals."""
    agb = make_scene(40, 56)["agb"]
    maps = []
    for factor in (1.0, 1.5):
        ends = {"agb": 0, "agb_lower": -10, "agb_upper": 10}
        layers = {
            n: (agb * factor + d).assign_attrs(units="Mg/ha") for n, d in ends.items()
        }
        maps.append(xr.Dataset(layers))
    return maps


@pytest.mark.parametrize("name", ["change.zarr", "change.tif"])
@pytest.mark.slow
def test_change_goes_on_after_its_map(tmp_path: Path, run: Run, name: str) -> None:
    from geobiomass.accounting.change import write_change

    paths = [tmp_path / "first.zarr", tmp_path / "second.zarr"]
    maps = dates()
    for map_, path in zip(maps, paths, strict=True):
        map_.to_zarr(path, zarr_format=3, consolidated=False)
    out, table = tmp_path / name, tmp_path / "table.csv"
    # As if it was killed between its map and its totals.
    write_change(gb.change(*paths), out)
    before = out.stat().st_ino
    code, said, errors = run("change", *paths, out)
    assert (code, out.stat().st_ino) == (0, before), errors
    assert "done" in said
    # Anything else at its path stays, and is an error.
    for other in (
        ("--correlation", "0.5"),
        ("--confidence", "0.8", "--correlation", "0.1"),
    ):
        found = run("change", *paths, out, *other)
        assert found[0] == 2, found
    whole = gb.change(*maps)
    whole["agb_change"][3, 4] += 1
    with pytest.raises(FileExistsError, match="not the map of this call"):
        write_change(whole, out)
    assert out.stat().st_ino == before
    assert not table.exists()


def odd(folder: Path) -> dict[str, Path]:
    """Make inputs that are not what their names say."""
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    made = {
        "pdf.tif": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "page.csv": page,
        "page.json": page,
        "page.zarr": page,
        "empty.tif": b"",
        "new\nline.tif": b"x",
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.tif")
    names = [*made, "folder", "pipe.tif", "missing.zarr"]
    return {name: folder / name for name in names} | {"zero": Path("/dev/zero")}


def calls(odd_one: Path, sound: Path, out: Path) -> list[tuple[Any, ...]]:
    return [
        ("info", odd_one),
        ("train", odd_one, out),
        ("predict", odd_one, sound, out),
        ("totals", odd_one, "--plots", sound),
        ("change", odd_one, odd_one, out),
        ("evaluate", odd_one, sound),
        ("export", odd_one, out),
    ]


@pytest.mark.slow
def test_odd_inputs_are_one_sentence(tmp_path: Path, run: Run) -> None:
    sound = tmp_path / "scene.zarr"
    gb.write_cube(make_scene(16, 16), sound, progress=False)
    for name, path in odd(tmp_path).items():
        for words in calls(path, sound, tmp_path / "out.zarr"):
            said = one_sentence(run(*words))
            assert np.char.str_len(said) < 1500, (name, words)
    assert not (tmp_path / "out.zarr").exists()
