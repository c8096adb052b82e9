"""Tables of errors and coverage in the documentation: a command makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geobiomass as gb
from geobiomass.models import network_training

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import covered
import covered_bootstrap
import covered_outputs
import covered_pixels
import covered_space

PAGES = Path(__file__).parent.parent / "docs" / "explanation"
Table = list[list[str]]
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tables_of(text: str) -> list[Table]:
    """Return the cells of the tables in a text, with their heads."""
    found: list[Table] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not previous.startswith("|"):
                found.append([])
            if set(line) - set("|-: "):
                found[-1].append(cells)
        previous = line
    return found


def printed(capsys: Printed, what: str, runs: int = 2) -> list[Table]:
    covered.main([what, "--runs", str(runs), "--processes", "1", "--markdown"])
    return tables_of(capsys.readouterr().out)


def names(table: Table, columns: int = 1) -> Table:
    """Return the head and the names of the rows of a table, without figures."""
    return [table[0], *(row[:columns] for row in table[1:])]


def on_page(table: Table, page: str, columns: int = 1) -> bool:
    """Return whether a page has this table; the figures there are of more runs."""
    known = tables_of((PAGES / page).read_text())
    return names(table, columns) in [names(each, columns) for each in known]


def numbers(table: Table, column: int) -> list[float]:
    return [float(row[column].split()[0]) for row in table[1:]]


def test_errors_in_space_are_the_pages(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        names: covered_space.Case(case.kind, 16, 3, case.parts)
        for names, case in covered_space.CASES.items()
    }
    monkeypatch.setattr(covered_space, "CASES", small)
    (table,) = printed(capsys, "errors-in-space")
    assert on_page(table, "errors-in-space.md", 2)
    assert {*numbers(table, 2), *numbers(table, 3)} <= {0, 50, 100}


@pytest.mark.slow
def test_other_worlds_are_the_pages(capsys: Printed) -> None:
    (table,) = printed(capsys, "other-worlds")
    assert on_page(table, "errors-in-space.md")
    found = {row[0]: row[1:] for row in table[1:]}
    taller = found["region taller than the held-out land"]
    assert taller[0] == "0"  # its biomass is beyond what the map can show
    assert taller[1] == "0"  # and a check says so
    assert len(found) == 15


@pytest.mark.slow
def test_totals_are_the_pages(capsys: Printed) -> None:
    table, few, rare, after = printed(capsys, "totals", 20)
    assert on_page(table, "totals.md")
    assert on_page(rare, "totals.md", 2)
    assert on_page(after, "totals.md", 2)
    # The rows of real labels need their files.
    known = tables_of((PAGES / "totals.md").read_text())
    rows = [names(each, 2) for each in known if each[0] == few[0]]
    assert [row for row in names(few, 2) if row not in rows[0]] == []
    # A map that explains differences between plots lowers the standard error.
    spread = [
        [float(cell.split("(")[1].strip(")")) for cell in r[1:]] for r in table[1:]
    ]
    assert all(regression < plots for plots, _, regression in spread)


@pytest.mark.slow
def test_blocks_are_the_pages(capsys: Printed) -> None:
    by_pixel, by_block, weighted = printed(capsys, "intervals", 20)
    for table in (by_pixel, by_block, weighted):
        assert on_page(table, "intervals.md")
    # Nine blocks that are nearly one number each.
    assert (
        numbers(by_pixel, 3)[-1] < numbers(by_block, 1)[-1] < numbers(weighted, 1)[-1]
    )


@pytest.mark.slow
def test_change_has_a_row_a_part_and_processes_give_the_same(capsys: Printed) -> None:
    alone = printed(capsys, "change", 2)
    assert names(alone[0])[1:] == [["net change"], ["loss"], ["gain"]]
    # What is mapped of losses and gains is far too much, in whatever landscapes.
    assert min(numbers(alone[0], 1)[1:]) > 1.3
    covered.main(["change", "--runs", "2", "--processes", "2", "--markdown"])
    assert tables_of(capsys.readouterr().out) == alone


def test_what_cannot_be_run_is_refused(capsys: Printed) -> None:
    with pytest.raises(SystemExit):
        covered.main(["change", "--runs", "0"])
    assert "1 or more, got 0 and 2" in capsys.readouterr().err


@pytest.mark.slow
def test_landscapes_are_the_pages(capsys: Printed) -> None:
    ways, bins = printed(capsys, "landscapes")
    assert on_page(ways, "intervals.md", 2)
    assert on_page(bins, "intervals.md")
    # A weight at infinity asks nine blocks for nearly the worst of their pixels.
    assert numbers(ways, 2)[4] > 98


@pytest.mark.slow
def test_the_bootstrap_is_the_pages(capsys: Printed) -> None:
    (table,) = printed(capsys, "bootstrap", 4)
    assert on_page(table, "validation.md")
    # Pixels that share their unit's error are far fewer than they seem.
    assert np.mean(numbers(table, 3)) < np.mean(numbers(table, 1)) - 30


@pytest.mark.slow
def test_the_bootstrap_of_independent_pixels_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(covered_bootstrap, "BETWEEN", 0.0)
    held = [covered_bootstrap.run(20, seed)[2] for seed in range(20)]
    assert sum(held) >= 17


@pytest.mark.slow
def test_random_pixels_are_the_pages(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covered_pixels, "SIZE", 256)
    monkeypatch.setattr(covered_pixels, "TREES", 10)
    judged, advised = printed(capsys, "random-pixels")
    assert on_page(judged, "validation.md")
    assert on_page(advised, "validation.md")
    random, _, _, campaigns, truth = numbers(judged, 1)
    assert random < min(campaigns, truth)


def test_campaigns_are_one_in_each_cell() -> None:
    known = covered_pixels.campaigns(np.random.default_rng(0))
    assert known.sum() == 16 * covered_pixels.PLOTS
    for rows in np.split(known, 4):
        for cell in np.split(rows, 4, axis=1):
            y, x = np.nonzero(cell)
            assert len(y) == covered_pixels.PLOTS
            assert max(np.ptp(y), np.ptp(x)) < covered_pixels.CAMPAIGN


@pytest.mark.slow
def test_interval_outputs_are_the_pages(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"EPOCHS": 1, "LEARNT": 18, "NEW": 1, "FRACTION": 0.5}
    for name, value in small.items():
        monkeypatch.setattr(covered_outputs, name, value)
    aside, cubes = [], []
    calibrate, fit = network_training.calibrate_together, gb.fit

    def calibrated(models: Any, data: Any, samples: Any, *more: Any) -> Any:
        chips = data.cube["chip"].values
        aside.append({str(chips[sample.chip]) for sample in samples[0]})
        return calibrate(models, data, samples, *more)

    def fitted(cube: Any, *more: Any, **settings: Any) -> Any:
        cubes.append({str(chip) for chip in cube["chip"].values})
        return fit(cube, *more, **settings)

    monkeypatch.setattr(network_training, "calibrate_together", calibrated)
    monkeypatch.setattr(gb, "fit", fitted)
    (table,) = printed(capsys, "interval-outputs", 1)
    known = tables_of((PAGES / "intervals.md").read_text())
    assert table[0] in [each[0] for each in known]
    assert names(table)[1:] == [["0"], ["mean"]]
    # Both have learnt from the same landscapes: what calibrates is kept from both.
    plain, both = cubes
    assert plain == both - aside[0]
    assert len(aside[0]) >= 9
