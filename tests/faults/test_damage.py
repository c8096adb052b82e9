"""Damage to any file that the package wrote is told, or changes no value (law 14).

``python -m benchmarks.faults --repeat "zarr map:17"`` repeats the damage of a failure.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import DUPLICATE, damage_of, files_in
from damaging import damaged
from kept import KEPT
from outcomes import CLEAR, POOR, RIGHT, SILENT, Outcome, check, counts, judged
from variants import variants

QUICK, LONG = 7, 10  # of each of thirteen kinds
TRAINED = ("model with interval", "validation", "training")  # seconds to make


@variants(
    "name",
    [*(name for name in KEPT if name not in TRAINED), *TRAINED],
    quick=len(KEPT) - len(TRAINED),
)
def test_damage_is_told_or_changes_no_value(name: str, tmp_path: Path) -> None:
    outcomes = damaged(name, range(QUICK), tmp_path)
    assert len(outcomes) == QUICK
    check(outcomes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
# rasterio cannot decode what GDAL says of a damaged tag, and passes over it.
@pytest.mark.filterwarnings("ignore:Exception ignored in. 'rasterio._env.log_error'")
def test_of_more_damages_none_is_silent_and_few_are_poor(
    tmp_path: Path,
) -> None:
    outcomes = [
        outcome
        for name in KEPT
        for outcome in damaged(name, range(QUICK, QUICK + LONG), tmp_path / name)
    ]
    assert len(outcomes) == LONG * len(KEPT) >= 130
    check(outcomes)


# --- the suite itself -------------------------------------------------------------


def test_numbers_reach_every_file_and_the_same_number_is_the_same(
    tmp_path: Path,
) -> None:
    for file in ("a", "b/c/0", "b/c/1", "b/zarr.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(file.encode() * 40)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    found = [damage_of(tmp_path, number) for number in range(32)]
    assert found == [damage_of(tmp_path, number) for number in range(32)]
    assert {damage.file for damage in found[:4]} == set(before)
    assert len({(damage.file, damage.kind) for damage in found}) == 32
    for damage in found:
        damage.apply(tmp_path)
        now = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
        assert now != before, damage
        changed = {n for n in {*before, *now} if before.get(n) != now.get(n)}
        assert damage.kind == DUPLICATE or changed <= {damage.file, damage.other}
        for name in now:
            (tmp_path / name).unlink()
        for name, content in before.items():
            (tmp_path / name).write_bytes(content)


def test_what_is_said_is_judged() -> None:
    def ours(text: str) -> None:
        from geobiomass.cube import CubeError

        raise CubeError(text)

    def theirs() -> None:
        [].pop()

    def answers(result: dict[str, int]):
        return lambda: result

    expected, place = {"a": 1, "b": 2}, ["/data/map.zarr"]
    cases = {
        RIGHT: answers({"a": 1, "b": 2}),
        CLEAR: lambda: ours("/data/map.zarr is damaged; restore it from a copy."),
        POOR: theirs,
        SILENT: answers({"a": 1, "b": 3}),
    }
    for result, read in cases.items():
        assert judged(read, expected, place)[0] == result
    for lacking in ("it is damaged; restore it", "/data/map.zarr is damaged"):
        assert judged(lambda said=lacking: ours(said), expected, place)[0] == POOR
    assert judged(answers({"a": 1}), expected, place)[0] == SILENT
    bad = [Outcome("x:1", "a fault", POOR)]
    good = [Outcome(f"x:{i}", "a fault", RIGHT) for i in range(49)]
    check(bad + good)
    assert counts(bad + good) == {RIGHT: 49, CLEAR: 0, POOR: 1, SILENT: 0}
    with pytest.raises(AssertionError, match="a fault"):
        check(bad + good[1:])
    with pytest.raises(AssertionError, match="a fault"):
        check([Outcome("x:1", "a fault", SILENT), *good, *good])
