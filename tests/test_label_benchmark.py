"""The comparison by number of labels: its cases, and that a run resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from new_process import NewProcesses

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import adaptation
import label_cases
import label_learners
import label_times
import labels

CELLS = label_cases.make_cells()


def case_of(name: str, seed: int = 0) -> label_cases.Case:
    return label_cases.make_case(CELLS[f"landscape | {name}"], seed, quick=True)


def known(cube: xr.Dataset) -> np.ndarray:
    return np.isfinite(cube["agb"].values)


def test_a_case_has_its_labels_and_none_where_it_tests() -> None:
    truth = label_cases._scene("landscape", 0, True)[0]["agb"].values
    kinds = ("points, random", "points, clustered")
    tests = {}
    for kind in (*kinds, "footprints, random", "footprints, clustered"):
        for count in (30, 300):
            case = case_of(f"{kind} | {count}")
            trained, tested = known(case.training), known(case.test)
            assert trained.sum() == count
            np.testing.assert_array_equal(
                case.test["agb"].values[tested], truth[tested]
            )
            # Blocks of 16 pixels that test have no label in training.
            shape = (6, 16, 6, 16)
            held = tested.reshape(shape).any(axis=(1, 3))
            assert not (held & trained.reshape(shape).any(axis=(1, 3))).any()
            assert held.sum() == 12
            tests[kind, count] = tested
            same = case.training["agb"].values[trained] == truth[trained]
            assert same.all() == (kind in kinds)
    first = tests.pop((kinds[0], 30))
    assert all((tested == first).all() for tested in tests.values())
    dense = case_of("points | dense")
    assert (known(dense.training) | known(dense.test)).sum() == 96 * 96


def test_clustered_labels_lie_together() -> None:
    def spread(name: str) -> float:
        places = np.argwhere(known(case_of(name).training))
        far = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
        np.fill_diagonal(far, np.inf)
        return float(np.median(far.min(axis=1)))

    assert spread("points, clustered | 30") < 0.8 * spread("points, random | 30")
    # Footprints of a track are 60 m apart: six pixels along it, one or two across.
    places = np.argwhere(known(case_of("footprints, clustered | 30").training))
    far = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert ((far > 5.5) & (far < 6.8)).any(axis=1).mean() > 0.5


def test_a_footprint_is_the_mean_of_its_disc() -> None:
    ground = np.zeros((9, 9), np.float32)
    ground[4, 4], ground[4, 5], ground[5, 5], ground[4, 6] = 90, 45, 9, 1000
    # 25 m wide: of pixels of 10 m, the centre and its four neighbours.
    assert label_cases._disc(ground, 4.0, 4.0, 10.0) == pytest.approx((90 + 45) / 5)
    # A footprint beside the scene is the nearest pixel.
    assert label_cases._disc(ground, -9.0, 4.0, 10.0) == 0


def test_errors_are_those_of_the_tests() -> None:
    truth = np.array([10.0, 20.0, 30.0])
    ends = (np.array([9.0, 19.0, 31.0]), np.array([12.0, 20.0, 40.0]))
    found = label_learners.errors(np.array([11.0, 22.0, 28.0]), truth, ends)
    assert found["rmse"] == pytest.approx(np.sqrt(3))
    assert found["bias"] == pytest.approx(1 / 3)
    assert found["covered"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="got 1 without"):
        label_learners.errors(np.array([np.nan, 1, 2]), truth, None)


def test_a_comparison_resumes_after_half_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels.jsonl"
    arguments = ["--quick", "--markdown", "--out", str(out)]
    arguments += ["--cells", "landscape | points, random | 30"]
    labels.main([*arguments, "--rows", "mean", "ridge"])
    # Not the cell of 300 labels, whose name begins with that of 30.
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["row"] for line in lines] == ["mean", "ridge"]
    changed = [lines[0] | {"rmse": 1000.0, "bias": 0.5}, lines[1]]
    text = json.dumps(changed[0]) + "\n" + json.dumps(changed[1])[:40]
    out.write_text(text)
    capsys.readouterr()
    labels.main([*arguments, "--rows", "mean", "ridge"])
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("1 of 1: landscape")
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["row"] for line in again] == ["mean", "ridge"]
    assert again[0]["rmse"] == 1000.0
    assert again[1]["rmse"] == pytest.approx(lines[1]["rmse"])
    title = "### RMSE over that of the best usual choice of the cell"
    relative = printed.out.split(title)[1]
    cells = [line.strip("| ").split(" | ") for line in relative.splitlines()[4:]]
    name, best, least, mean, ridge = cells[0]
    assert (name, best, float(ridge)) == ("landscape, points, random, 30", "ridge", 1)
    assert float(least) == pytest.approx(lines[1]["rmse"], rel=0.01)
    assert float(mean) == pytest.approx(1000 / lines[1]["rmse"], rel=0.01)


def test_times_are_medians_over_seeds_and_their_ratios() -> None:
    def times(forest: float, ours: float) -> dict[str, label_times.Times]:
        return {
            "forest": {"fit": forest, "predict": 0.5},
            "pixels": {"fit": ours - 1, "predict": 0.0},
            "fit": {"fit": ours, "predict": 8.0},
        }

    line = label_times.row_of("a | b | 1", [times(1, 3), times(2, 5), times(9, 40)])
    assert (line["cell"], line["seeds"]) == ("a, b, 1", 3)
    assert [line[f"{side}, s"] for side in ("forest", "pixels", "gb.fit")] == [2, 4, 5]
    assert (line["pixels over forest"], line["fit over forest"]) == (2, 2.5)
    assert (line["forest predicts, s"], line["our map, s"]) == (0.5, 8)


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch, new_process: NewProcesses) -> None:
    """Fork the processes of a comparison, whose imports take longer than its runs."""
    forked = SimpleNamespace(
        run=new_process.run, TimeoutExpired=subprocess.TimeoutExpired
    )
    for module in (labels, label_times):
        monkeypatch.setattr(module, "subprocess", forked)


@pytest.mark.slow  # three processes
@pytest.mark.usefixtures("_forked")
def test_a_whole_call_is_timed_on_disk(capsys: pytest.CaptureFixture[str]) -> None:
    name = "landscape | points, random | 100"
    label_times.main(["--quick", "--markdown", "--maps", "--cells", name])
    text = capsys.readouterr().out
    row = next(x for x in text.splitlines() if x.startswith("| landscape, points"))
    figures = [float(cell) for cell in row.strip("| ").split(" | ")[1:]]
    assert figures[0] == 1
    assert all(figure > 0 for figure in figures)
    assert figures[5] == pytest.approx(figures[3] / figures[1], rel=0.02)
    assert "gb.fit(cube) is" in text


@pytest.mark.slow
def test_adaptation_has_a_row_for_each_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = ["--plots", "90", "--seeds", "0", "--side", "96", "--months", "2"]
    adaptation.main([*tiny, "--grounds", "temperate", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    names = ["as it is", "offset", "affine", "gaussian process", "adapted", "own"]
    assert [row[2] for row in cells[1:]] == names
    assert all(float(row[3]) > 0 and 0 <= float(row[4]) <= 1 for row in cells[1:])
    # What is kept is one of those above it.
    for row in cells[1:]:
        assert (row[-1] in ("none", *names[1:4])) == (row[2] == "adapted")


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes that train
@pytest.mark.usefixtures("_forked")
def test_every_learner_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    labels.main(["--quick", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in rows]
    starts = [number for number, row in enumerate(cells) if row[0] == "cell"]
    ends = [*starts[1:], None]
    tables = [cells[a:b] for a, b in zip(starts, ends, strict=True)]
    learners = ["mean", "ridge", "forest", "boosting", "network"]
    for table in tables[:4]:  # errors, biases, coverage, seconds
        assert table[0][2:] == learners
        assert len(table) == 5
    errors, _, covered, seconds = ([row[2:] for row in t[1:]] for t in tables[:4])
    assert all(float(cell) > 0 for row in [*errors, *seconds] for cell in row)
    assert all(row[3] == "" and row[0].endswith(" %") for row in covered)
    *relative, median, most = tables[4][1:]
    assert (median[0], most[0]) == ("median", "maximum")
    assert all(min(map(float, row[3:7])) == 1 for row in relative)
