"""The package: its public face, its imports, its wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import geobiomass as gb

ROOT = Path(__file__).parent.parent
FACE = {
    "ArchiveSurvey",
    "accounting",
    "BiomassRegressor",
    "CrossValidation",
    "CubeError",
    "DamagedError",
    "Ensemble",
    "Folds",
    "IncompleteMapError",
    "MapInUseError",
    "ModelError",
    "OmniCloudMask",
    "Recipe",
    "as_cube",
    "band_statistics",
    "change",
    "change_totals",
    "check_cube",
    "cross_validate",
    "describe",
    "explain_totals",
    "fit",
    "from_biomassters",
    "from_embeddings",
    "from_rasters",
    "from_stac",
    "landscape",
    "load",
    "make_folds",
    "open_cube",
    "labels",
    "plots",
    "totals",
    "provenance",
    "residuals",
    "survey_archive",
    "with_labels",
    "with_static",
    "write_cube",
    "write_dossier",
    "write_report",
    "write_stac_item",
}


def python(script: str, cwd: Path = ROOT, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=cwd,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_public_face_is_what_it_says() -> None:
    assert set(gb.__all__) == FACE
    page = (ROOT / "docs" / "api.md").read_text()
    for name in FACE:
        assert getattr(gb, name) is not None
        assert f"gb.{name}" in page, f"docs/api.md does not name {name}"


def test_importing_is_quick_and_light() -> None:
    for package in ("geobiomass", "pasture"):
        seconds, heavy = python(
            f"import time; start = time.perf_counter(); import {package}; "
            "print(time.perf_counter() - start); import sys; "
            "print([m for m in ('torch', 'rasterio', 'pystac') if m in sys.modules])"
        ).splitlines()
        assert float(seconds) < 2
        assert heavy == "[]"


@pytest.mark.slow
def test_pasture_never_needs_rasterio() -> None:
    script = (
        "import sys; sys.modules['rasterio'] = None; sys.modules['zarr'] = None; "
        "import pasture; [getattr(pasture, name) for name in pasture.__all__]; "
        "print(len(pasture.__all__))"
    )
    assert int(python(script)) >= 4


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_works(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(tmp_path), str(ROOT)),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entry).decode()
        archive.extractall(tmp_path / "site")
    for name in (
        "geobiomass/__init__.pyi",
        "geobiomass/py.typed",
        "geobiomass/training/core.py",
        "geobiomass/cube/store.py",
        "geobiomass/sources/landscape/forest.py",
        "pasture/__init__.py",
        "pasture/py.typed",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    assert "geobiomass = geobiomass.cli:main" in commands
    assert "pasture = pasture.cli:main" in commands
    where = python(
        "import geobiomass, pasture; geobiomass.fit; pasture.fit; "
        "print(geobiomass.__file__); print(pasture.__file__)",
        cwd=tmp_path / "site",
    )
    assert where.count(str(tmp_path)) == 2
