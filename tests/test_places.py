"""Windows unlike the training data: a command makes the table of the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_covered import Printed, on_page, tables_of

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import places


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_places_are_the_pages(capsys: Printed) -> None:
    places.main(["--quick", "--markdown"])
    text = capsys.readouterr().out
    (table,) = tables_of(text)
    assert on_page(table, "applicability.md")
    # Even a model that has learnt almost nothing is outside its area without a sensor.
    rows = {row[0]: row for row in table[1:]}
    assert rows["without Sentinel-1"][1] == "0"
    assert rows["water only"][2] == ""  # there is no forest on it
    assert "Rank correlation of index and error" in text
