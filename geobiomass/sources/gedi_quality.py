"""Quality of GEDI footprints, by the flags of either version of the products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.tables import match_column
from geobiomass.tables.coordinates import numbers_or_missing

Quality = Literal["good", "keep"]
Mask = npt.NDArray[np.bool_]

# Columns that only tables of GEDI have. "quality_flag" and "sensitivity" alone are
# names that other tables use too.
_GEDI = (
    "shot_number", "degrade_flag", "degrade_include_flag", "lat_lowestmode",
    "l4_quality_flag", "l2_quality_flag", "l4a_quality_flag_rel3",
    "l2a_quality_flag_rel3", "l2b_quality_flag_rel3", "algorithm_run_flag",
    "l2_algrunflag", "agbd_se", "elev_lowestmode", "rh98",
)  # fmt: skip


@dataclass(frozen=True)
class _Flag:
    names: tuple[str, ...]
    good: Callable[[Any], Any]
    kind: str


def _is_one(values: Any) -> Any:
    return values == 1


def _is_zero(values: Any) -> Any:
    return values == 0


# L4A user guides of version 2.1 (l4_quality_flag ..., degrade_flag 0 is not degraded)
# and version 3 (..._rel3; degrade_include_flag 1: the codes that the gridded product
# L4B admits; elev_highestreturn_outlier_flag 0: no outlier).
_FLAGS = (
    _Flag(("l4a_quality_flag_rel3", "l4_quality_flag"), _is_one, "quality"),
    _Flag(
        ("l2a_quality_flag_rel3", "l2b_quality_flag_rel3", "l2_quality_flag"),
        _is_one,
        "quality",
    ),
    _Flag(("quality_flag", "l2b_quality_flag"), _is_one, "quality"),
    _Flag(("l2_algrunflag", "algorithm_run_flag"), _is_one, "algorithm"),
    _Flag(("elev_highestreturn_outlier_flag",), _is_zero, "outlier"),
)
_DEGRADE = (
    _Flag(("degrade_include_flag",), _is_one, "degrade"),
    _Flag(("degrade_flag",), _is_zero, "degrade"),
)
# Lowest beam sensitivity over land of the version 2 quality flags; version 3's flags
# hold their own by kind of land (0.98, 0.95, 0.5).
_SENSITIVITY = 0.95
_RELEASE_3 = ("l4a_quality_flag_rel3", "l2a_quality_flag_rel3", "l2b_quality_flag_rel3")


@dataclass(frozen=True)
class ShotQuality:
    """Which shots are good, and why others are not.

    Parameters
    ----------
    good : numpy.ndarray
        (row,) bool.
    failed : dict
        Shots that fail, by flag; a shot may fail several.
    absent : tuple of str
        Flags that the table lacks.
    """

    good: Mask
    failed: dict[str, int]
    absent: tuple[str, ...]

    @property
    def reasons(self) -> str:
        """The counts as text."""
        return ", ".join(f"{name}: {count}" for name, count in self.failed.items())


def is_gedi(table: pd.DataFrame) -> bool:
    """Return whether a table has columns that are GEDI's own."""
    return any(match_column(table, (name,)) is not None for name in _GEDI)


def shot_quality(table: pd.DataFrame) -> ShotQuality | None:
    """Return the quality of the shots of a table; None if it is not of GEDI.

    A shot is good if each flag that the table has says so. A shot without a value in a
    flag fails it. Among flags of one meaning the newer version's decides.
    """
    if not is_gedi(table):
        return None
    good = np.ones(len(table), bool)
    failed: dict[str, int] = {}
    kinds: set[str] = set()

    def check(flag: _Flag) -> bool:
        column = match_column(table, flag.names)
        if column is None:
            return False
        passed = np.asarray(flag.good(_numbers(table[column])), bool)
        if not passed.all():
            failed[str(column)] = int((~passed).sum())
        np.logical_and(good, passed, out=good)
        kinds.add(flag.kind)
        return True

    for flag in _FLAGS:
        check(flag)
    any(check(flag) for flag in _DEGRADE)
    if match_column(table, _RELEASE_3) is None:
        at_least = _Flag(("sensitivity",), lambda v: v >= _SENSITIVITY, "sensitivity")
        check(at_least)
    heights = match_column(table, ("rh98",)) is not None  # L2A, which has no biomass
    level = "quality_flag" if heights else "l4_quality_flag"
    usual = {"quality": level, "degrade": "degrade_flag"}
    absent = tuple(name for kind, name in usual.items() if kind not in kinds)
    return ShotQuality(good, failed, absent)


def _numbers(values: pd.Series) -> npt.NDArray[np.float64]:
    if pd.api.types.is_bool_dtype(values.dtype):
        return values.to_numpy(np.float64, na_value=np.nan)
    return numbers_or_missing(values)[0]
