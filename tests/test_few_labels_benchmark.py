"""The comparison of settings for few labels: its table, and that a run resumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import few_labels

CELL = "landscape | points, random | 300"


def cells_of(printed: str) -> list[list[str]]:
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_table_compares_seed_by_seed_with_the_forest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "few.jsonl"
    known = {
        ("forest", 0): (40.0, 1.0),
        ("forest", 1): (20.0, 2.0),
        ("base", 0): (44.0, 20.0),
        ("base", 1): (18.0, 22.0),
        ("base", 2): (99.0, 30.0),  # without a forest of this seed
    }
    lines = [
        {"cell": CELL, "row": row, "seed": seed, "rmse": rmse, "bias": -1.0}
        | {"seconds": seconds}
        for (row, seed), (rmse, seconds) in known.items()
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = lines[0] | {"cell": "landscape | points, random | 1000"}
    with out.open("a") as file:
        file.write(json.dumps(other) + "\n")
    arguments = ["--out", str(out), "--markdown", "--show"]
    few_labels.main([*arguments, "--cells", "random | 100"])
    assert cells_of(capsys.readouterr().out) == []
    arguments += ["--cells", "random | 300"]
    few_labels.main(arguments)
    head, forest, base = cells_of(capsys.readouterr().out)
    assert head[3] == "over the forest"
    # 40/44 and 20/18.
    assert forest == ["forest", "2", "30", "1", "1.00, 1.00", "1.01", "-1", "1.5"]
    # 1.1 and 0.9, not 53.7 over 30.
    assert base == ["base", "3", "53.7", "1", "0.90, 1.10", "1", "-1", "24"]


@pytest.mark.slow
def test_every_setting_trains_and_a_run_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "few.jsonl"
    arguments = ["--quick", "--out", str(out), "--markdown", "--cells"]
    arguments += [CELL, f"landscape | {few_labels.WITH_ERRORS}, random | 300"]
    rows = [row for row in few_labels.ROWS if not row.startswith("pretrained")]
    few_labels.main([*arguments, "--rows", *rows])
    first = capsys.readouterr()
    # Each row in one cell: that of exact labels, or that of labels with errors.
    assert first.err.count(" in ") == len(rows)
    assert len(cells_of(first.out)) == 2 + len(rows)  # and the heads of two tables
    few_labels.main([*arguments, "--rows", *rows])
    again = capsys.readouterr()
    assert again.err == ""
    assert again.out == first.out
