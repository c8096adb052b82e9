"""The benchmark of decoding prints its rows. Speeds are in docs/benchmarks.md."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import photos


def test_every_size_has_its_row(monkeypatch, capsys):
    monkeypatch.setattr(photos, "CASES", ((400, (16, 32)), (64, (32, 64))))
    photos.main(["--seconds", "0.01", "--markdown"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        ["400 x 200", "32 x 16"],
        ["64 x 32", "64 x 32"],
    ]
    small, same = (float(row[-1]) for row in rows)
    assert same == 0 < small < 40
    assert all(float(cell) > 0 for row in rows for cell in row[2:5])
    assert pytest.approx(float(rows[0][3]) / float(rows[0][2]), rel=0.05) == float(
        rows[0][4]
    )
