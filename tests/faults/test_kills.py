"""Writers that are killed go on; two at one path do not harm each other (law 14).

``python -m benchmarks.faults --repeat "append, zarrs:161"`` repeats a kill.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from killing import Killing
from new_process import NewProcesses
from outcomes import check
from pairing import DELAYS, paired
from writers import PIPELINES, WRITERS

INSTALLED = [name for name in PIPELINES if name != "zarrs" or find_spec("zarrs")]
# All writers take an hour; ``python -m benchmarks.faults`` has the others. Here is one
# of each kind of file, and of each way to replace it.
KILLED = ["write_cube, scene", "write_cube, overwrite", "append", "ingest",
          "fit and save", "save over an ensemble", "predict_to, Zarr",
          "predict_to, COG", "overviews, added", "predict_chips_to",
          "cross_validate and save", "report, again", "totals, table",
          "submission of photos"]  # fmt: skip
PAIRED = ["write_cube, scene", "append", "predict_to, COG", "overviews, added",
          "predict_chips_to", "fit and save", "totals, table"]  # fmt: skip


def cases(names: list[str]) -> list[tuple[str, str]]:
    """Return each writer with its last codec pipeline, the first one with all."""
    here = {n: [p for p in WRITERS[n].pipelines if p in INSTALLED] for n in names}
    first = [(names[0], pipeline) for pipeline in here[names[0]][:-1]]
    return first + [(name, pipelines[-1]) for name, pipelines in here.items()]


QUICK = ["write_cube, scene"]
APART = (0.0, 0.4)  # seconds, of those that the benchmark has
SOME = 2  # kills of each writer; ``python -m benchmarks.faults --kinds kills`` does all


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_writer_goes_on_with_the_same_bits(
    name: str, tmp_path: Path, warm: NewProcesses
) -> None:
    pipeline = [p for p in WRITERS[name].pipelines if p in INSTALLED][-1]
    killing = Killing(name, pipeline, tmp_path / "k", warm)
    kills = killing.kills()
    # A kill near the end is what ended in other numbers most often.
    chosen = [kills[len(kills) * 4 // 5]]
    check([killing.outcome(kill) for kill in chosen])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "pipeline"), cases(KILLED))
def test_writers_go_on_from_a_kill_at_each_kind_of_operation(
    name: str, pipeline: str, tmp_path: Path, warm: NewProcesses
) -> None:
    killing = Killing(name, pipeline, tmp_path / "k", warm)
    check([killing.outcome(kill) for kill in killing.some(SOME)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "pipeline"), cases(PAIRED))
def test_two_writers_at_one_path_do_not_harm_each_other(
    name: str, pipeline: str, tmp_path: Path, warm: NewProcesses
) -> None:
    delays = [DELAYS.index(seconds) for seconds in APART]
    outcomes = paired(name, pipeline, tmp_path / "k", warm, delays)
    assert len(outcomes) == len(APART)
    check(outcomes)
