"""The notebooks run from start to end, on synthetic data or on real chips.

Their models are small here and train for two epochs: two thirds of the time of a
notebook are training and mapping, and no test looks at the figures.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.ipynb"))

_EPOCHS = re.compile(r"""(\bepochs(?:=|": ))\d+""")
_PHOTOS = re.compile(r"(\bdraw_swards\(folder, count=)\d+")
_SMALL = "**{'encoder': 'test_resnet', 'decoder_channels': (8, 8, 8, 8, 8)}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = [cell.outputs for cell in cells]
    assert all(cell.execution_count for cell in cells), "commit it as it was run"
    if any("GEOBIOMASS_DATA" in cell.source for cell in cells):
        _need_real_data()
    trained = [
        _EPOCHS.search(cell.source) or '"pixels"' in cell.source for cell in cells
    ]
    assert any(trained), "it trains no model"
    for cell in cells:
        # The networks of pasture's notebook are small as they are; its photos are many.
        cell.source = _PHOTOS.sub(r"\g<1>36", cell.source)
        small = f", {_SMALL}" if "gb." in cell.source else ""
        cell.source = _EPOCHS.sub(rf"\g<1>2{small}", cell.source)
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    # A cell shows pictures and tables where the committed notebook does.
    for cell, before in zip(cells, kept, strict=True):
        kinds = [_kinds(outputs) for outputs in (before, cell.outputs)]
        assert kinds[0] == kinds[1], cell.source


def test_there_is_a_notebook_for_each_story() -> None:
    names = {path.stem for path in NOTEBOOKS}
    stories = {
        "first-map",
        "stac",
        "biomassters",
        "cluster",
        "uncertainty",
        "audit",
        "pasture",
    }
    assert stories <= names
    index = (NOTEBOOKS[0].parent / "index.md").read_text()
    assert all(f"\n{name}\n" in index for name in names)


def _need_real_data() -> None:
    if "GEOBIOMASS_DATA" not in os.environ:
        pytest.skip("GEOBIOMASS_DATA names no folder with real BioMassters chips")


def _kinds(outputs: list[nbformat.NotebookNode]) -> set[str]:
    return {kind for output in outputs for kind in output.get("data", {})}
