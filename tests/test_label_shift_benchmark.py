"""The comparison of shifted footprints: their places, the table, that a run resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import label_cases
import label_shift

CELL = "landscape | footprints, random | 300"


def cells_of(printed: str) -> list[list[str]]:
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_footprints_of_a_track_are_off_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Biomass is the column, so a label minus its column is how far off it is.
    side = 80
    truth = np.broadcast_to(np.arange(side, dtype=np.float32), (side, side))
    scene = xr.Dataset({"agb": (("y", "x"), truth)}, {"x": 10.0 * np.arange(side)})
    free = np.ones((side, side), bool)
    free[:, :5] = free[:, -5:] = False
    monkeypatch.setattr(label_cases, "FOOTPRINT_ERROR", 0.0)
    spreads = {}
    for kind in (label_cases.BY_TRACK, "footprints"):
        cell = label_cases.Cell("landscape", kind, "clustered", 150)
        labels = label_cases._footprints(cell, scene, free, np.random.default_rng(1))
        tracks = label_cases._tracks(free, 150, 10.0, np.random.default_rng(1))
        np.testing.assert_array_equal(tracks >= 0, np.isfinite(labels))
        off = (labels - truth)[tracks >= 0]
        number = tracks[tracks >= 0]
        assert len(np.unique(number)) > 5
        own = [off[number == one].std() for one in np.unique(number)]
        spreads[kind] = float(np.mean(own)), float(off.std())
    within, of_all = spreads[label_cases.BY_TRACK]
    assert within < 0.5 * of_all
    assert 0.6 < of_all < 1.5  # pixels of 10 m
    assert spreads["footprints"][0] > 0.7


def test_a_table_compares_seed_by_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shift.jsonl"
    known = {
        ("pixels, shift 0", 0): (40.0, -1.0, 1.0),
        ("pixels, shift 0", 1): (20.0, -3.0, 3.0),
        ("pixels, shift 0", 2): (99.0, 0.0, 9.0),  # without the other of its seed
        ("pixels, shift 1", 0): (44.0, 1.0, 2.0),
        ("pixels, shift 1", 1): (18.0, 3.0, 4.0),
    }
    lines = [
        {"cell": CELL, "row": row, "seed": seed, "rmse": rmse, "bias": bias}
        | {"seconds": seconds}
        for (row, seed), (rmse, bias, seconds) in known.items()
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    label_shift.main(["--out", str(out), "--markdown", "--show"])
    head, line = cells_of(capsys.readouterr().out)
    found = dict(zip(head, line, strict=True))
    assert (found["recipe"], found["labels"]) == ("pixels", "footprints, random, 300")
    assert (found["RMSE, shift 0"], found["RMSE, shift 1"]) == ("30", "31")
    assert (found["bias, shift 0"], found["bias, shift 1"]) == ("-2", "2")
    # 1.1 and 0.9, seed by seed.
    assert (found["seeds"], found["1 over 0"]) == ("2", "1")
    assert found["least, most"] == "0.90, 1.10"


def test_a_cell_without_a_match_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        label_shift.main(["--cells", "nowhere"])
    assert "names are" in capsys.readouterr().err


@pytest.mark.slow
def test_every_row_trains_and_a_run_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shift.jsonl"
    arguments = ["--quick", "--out", str(out), "--markdown", "--cells", "| 300"]
    label_shift.main(arguments)
    first = capsys.readouterr()
    rows = 2 * len(label_shift.ROWS)  # footprints at random and by track
    assert first.err.count(" in ") == rows
    assert len(cells_of(first.out)) == 1 + rows // 2
    label_shift.main(arguments)
    again = capsys.readouterr()
    assert again.err == ""
    assert again.out == first.out
