"""Published JSON schemas of STAC extensions, for tests that validate by them.

They are others' work and so not in this repository. pystac keeps what its servers
answered in the source archives of its own packages, which the package index serves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ARCHIVES = (
    "pystac-ext-mlm==1.4.1",
    "pystac-ext-file==2.1.1",
    "pystac-ext-projection==2.0.1",
)
ADDRESSES = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in (
        "projection/v2.0.0",
        "raster/v1.1.0",
        "processing/v1.1.0",
        "file/v2.1.0",
        "mlm/v1.4.0",
    )
)


def published_schemas(folder: Path) -> dict[str, Any]:
    """Give the schemas by address; skip the test where no package index is reached."""
    # pip asks each archive for its metadata. The package that answers is installed once
    # here: else pip does that several times, which takes more than a minute.
    backend = folder / "backend"
    _pip("install", "--no-compile", "--target", str(backend), "hatchling")
    _pip(
        *("download", "--no-deps", "--no-binary=:all:", "--no-build-isolation"),
        *("--dest", str(folder), *ARCHIVES),
        paths=str(backend),
    )
    found: dict[str, Any] = {}
    for archive in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(archive) as files:
            for member in files.getmembers():
                if "/cassettes/" in member.name and member.name.endswith(".yaml"):
                    content = files.extractfile(member)
                    assert content is not None
                    found |= _answers(content.read().decode())
    assert set(found) == set(ADDRESSES), sorted(found)
    return found


def _pip(*words: str, paths: str = "") -> None:
    """Run pip; skip the test where it fails."""
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pip", words[0], "--quiet", *words[1:]],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package index did not give the published schemas in time")
    if result.returncode:
        pytest.skip(f"the published schemas cannot be had: {result.stderr[-300:]}")


def _answers(recorded: str) -> dict[str, Any]:
    """Give what servers answered to requests for the schemas."""
    return {
        call["request"]["uri"]: json.loads(call["response"]["body"]["string"])
        for call in yaml.load(recorded, Loader=yaml.CSafeLoader)["interactions"]
        if call["request"]["uri"] in ADDRESSES
    }
