"""Balanced folds for grouped cross-validation: photos of a group share a fold."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

from .inspection import listed
from .photos import TARGETS, PhotoError
from .sampling_dates import DATE as _DATE
from .sampling_dates import warn_of_single_groups, with_dates
from .sums import WEIGHTS

__all__ = ["balanced_folds", "check_folds", "fold_balance", "sampling_groups"]

Search = Literal["exchange", "seeds", "seeds-1.7"]
Virtual = Mapping[str, int]

_STATE = "State"
_VIRTUAL: Virtual = {"WA": 7}  # three dates only: too few for five folds


@explain_arguments
def sampling_groups(photos: pd.DataFrame, virtual: Virtual | None = None) -> pd.Series:
    """Return the name of each photo's group; photos of a group belong in one fold.

    A group is a sampling date, in any state: photos of a day share light, season and
    often the paddock. The column is ``Sampling_Date``, or has another usual name, as
    `read_photos` finds it. Without one each photo is a group.

    Parameters
    ----------
    photos
        Photos as `pasture.read_photos` returns them.
    virtual
        Number of groups ("virtual dates") by state. The photos of such a state, in the
        order of date and name, are split into that many groups of nearly equal size.
        Other states keep their dates. By default WA into 7, because it has only three
        dates. ``{}``: none.

    Returns
    -------
    pandas.Series
        str by photo, ``2015-09-04`` or ``WA-1 2015-09-01`` (its first date).

    Raises
    ------
    PhotoError
        Photos have no date, or share a name.
    ValueError
        The number of groups of a state is below 1.
    """
    _check_names(photos)
    cuts = _VIRTUAL if virtual is None else virtual
    if few := [f"{state}: {count}" for state, count in cuts.items() if count < 1]:
        raise ValueError(
            f"virtual dates of a state must be 1 or more, got {few[0]}; leave the "
            "state out to keep its dates"
        )
    photos = with_dates(photos)
    if _DATE not in photos:
        return pd.Series(photos.index.astype(str), photos.index, name="group")
    dates = pd.to_datetime(photos[_DATE])
    if absent := listed(photos.index[dates.isna()]):
        raise PhotoError(
            f"{_DATE} of photos must be known to keep a day's together, got none for "
            f"{absent}; add it, leave these photos out, or pass your own groups"
        )
    days = dates.dt.strftime("%Y-%m-%d")
    groups = days.astype(object).rename("group")
    for state, count in cuts.items() if _STATE in photos else ():
        of_state = days[photos[_STATE] == state]
        order = sorted(of_state.index, key=lambda photo: (of_state[photo], str(photo)))
        for number, part in enumerate(_split_evenly(order, count), start=1):
            groups[part] = f"{state}-{number} {of_state[part[0]]}"
    return groups.astype(str)


def _split_evenly(photos: list[Any], count: int) -> list[list[Any]]:
    """Split a list into `count` parts, or fewer so that none is empty."""
    parts = np.array_split(np.arange(len(photos)), count)
    return [[photos[index] for index in part] for part in parts if len(part)]


@explain_arguments
def balanced_folds(
    photos: pd.DataFrame,
    n_splits: int = 5,
    seeds: int = 10_000_000,
    *,
    groups: pd.Series | None = None,
    virtual: Virtual | None = None,
    search: Search = "exchange",
    jobs: int | None = None,
    progress: bool = True,
) -> pd.Series:
    """Split photos into folds of whole groups that are as similar as possible.

    Similar in the number of photos, the share of each state, and the mean grams
    (stratified group k-fold). The cost is the root of the mean over folds f of ::

        (K n_f / n - 1)^2 + sum over states s of (n_fs / n_f - n_s / n)^2
                          + sum over targets t of w_t ((m_ft - m_t) / d_t)^2

    for K folds and n photos, with the mean m and the standard deviation d of each
    target over photos. Sizes, shares and grams are relative, so that 0.1 of each has
    the same cost. The weights w are from the competition's score (green, dead and
    clover 0.1, GDM 0.2, total 0.5), for the targets in the table, scaled to sum to one.
    Without targets, or without a state, that part is 0.

    Parameters
    ----------
    photos
        Photos as `pasture.read_photos` returns them.
    n_splits
        Number of folds.
    seeds
        Number of candidates to try: seeds from 0 on, or exchanges.
    groups
        Group of each photo; any values that can be sorted. By default
        `sampling_groups`.
    virtual
        States whose dates are split, for `sampling_groups`. Such dates leak: photos of
        one day get into several folds, and a warning is shown.
    search
        ``"exchange"``: starts from the best of the first 1,000 seeds, then moves groups
        between folds or exchanges two, and keeps changes that lower the cost or, early
        in the search, raise it a little. ``"seeds"``: the best of scikit-learn's
        ``StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)`` by state and
        group, with identical folds; the lowest seed if costs are equal.
        ``"seeds-1.7"``: the same as scikit-learn before 1.8, when the shuffle mixed up
        the folds of groups; it reproduces folds made with those releases. Seeds ignore
        grams and reach few of all partitions: exchanges find a better balance in less
        time.
    jobs
        Number of threads. The folds do not depend on it. By default one per core.
    progress
        Whether to show a progress bar.

    Returns
    -------
    pandas.Series
        int64 by photo, 0 to `n_splits` - 1. Its ``attrs`` have the ``cost`` and, if
        the folds come from a seed, the ``seed``.

    Raises
    ------
    PhotoError
        There are fewer groups than folds, or photos lack a date, a group, grams that
        others have, or a unique name.
    ValueError
        A number is out of its range.

    Warns
    -----
    UserWarning
        Photos of one day are in several folds, because of virtual dates; or each photo
        is a group of its own, because no column has dates.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv")  # doctest: +SKIP
    >>> folds = pasture.balanced_folds(photos)  # doctest: +SKIP
    >>> pasture.fold_balance(photos, folds)  # doctest: +SKIP
    """
    need("A search for balanced folds", "pasture", "numba")
    from .fold_search import find_folds, tabulate

    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    _check_numbers(n_splits, seeds, jobs, search)
    if groups is None:
        own = sampling_groups(photos, virtual)
        warn_of_single_groups(with_dates(photos))
    else:
        own = _of(photos, groups)
    names, numbers = np.unique(own.to_numpy(), return_inverse=True)
    if len(names) < n_splits:
        raise PhotoError(
            f"groups of photos must be {n_splits} or more for as many folds, got "
            f"{len(names)}; ask for fewer folds"
        )
    _, strata = np.unique(_states(photos).to_numpy(), return_inverse=True)
    table = tabulate(numbers, strata, _deviations(photos).to_numpy())
    cost, found, seed = find_folds(table, n_splits, seeds, search, jobs, progress)
    if empty := listed(set(range(n_splits)) - set(found.tolist())):
        raise PhotoError(
            f"folds must each have a group, got none for {empty} from search="
            f"{search!r}, seeds={seeds}; try more seeds, or search='exchange'"
        )
    folds = pd.Series(found[numbers], photos.index, name="fold")
    folds.attrs = {"cost": cost} if seed is None else {"cost": cost, "seed": seed}
    if groups is None:
        _warn_of_leaks(photos, folds, _VIRTUAL if virtual is None else virtual)
    return folds


def _check_numbers(n_splits: int, seeds: int, jobs: int, search: str) -> None:
    if n_splits < 2:
        raise ValueError(f"n_splits must be 2 or more, got {n_splits}")
    if not 1 <= seeds <= 2**32:
        raise ValueError(f"seeds must be from 1 to 2^32, got {seeds}")
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    if search not in ("exchange", "seeds", "seeds-1.7"):
        raise ValueError(
            f"search must be 'exchange', 'seeds' or 'seeds-1.7', got {search!r}"
        )


def _warn_of_leaks(photos: pd.DataFrame, folds: pd.Series, virtual: Virtual) -> None:
    """Warn if photos of a day are in several folds, in a state with virtual dates."""
    photos = with_dates(photos)
    if _DATE not in photos or _STATE not in photos:
        return
    cut = photos[_STATE].isin(list(virtual))
    by_day = folds[cut].groupby([photos[_STATE][cut], photos[_DATE][cut]]).nunique()
    if split := listed(by_day[by_day > 1].index.get_level_values(0)):
        warnings.warn(
            f"photos of one day are in several folds, because the dates of {split} are "
            "split into virtual dates: scores of these folds are too high; virtual={} "
            "keeps days together",
            UserWarning,
            stacklevel=3,
        )


def _states(photos: pd.DataFrame) -> pd.Series:
    """Return the stratum of each photo: its state, or one stratum for all."""
    if _STATE not in photos:
        return pd.Series("", photos.index)
    states = photos[_STATE]
    return states.map(str) if states.isna().any() else states


def _deviations(photos: pd.DataFrame) -> pd.DataFrame:
    """Return deviations of grams from their means, scaled for the cost.

    In standard deviations, times the root of the target's weight. A column of zeros if
    there are no grams.
    """
    weights = {t: w for t, w in zip(TARGETS, WEIGHTS, strict=True) if t in photos}
    if not weights:
        return pd.DataFrame({"none": 0.0}, photos.index)
    grams = photos[list(weights)].astype(float)
    if absent := listed(grams.index[grams.isna().any(axis=1)]):
        raise PhotoError(
            f"grams of photos must be known to balance them, got unknown ones of "
            f"{absent}; add them, or leave out these photos or the column"
        )
    varied = grams.max() > grams.min()
    deviation = grams.std(ddof=0).where(varied, 1.0)
    # If all grams are equal, rounding of the mean must not count as a deviation.
    share = (pd.Series(weights) / sum(weights.values())).where(varied, 0.0)
    deviations: pd.DataFrame = (grams - grams.mean()) / deviation * np.sqrt(share)
    return deviations


@explain_arguments
def fold_balance(
    photos: pd.DataFrame, folds: pd.Series, groups: pd.Series | None = None
) -> pd.DataFrame:
    """Return a table that shows how similar the folds are.

    Parameters
    ----------
    photos
        Photos as `pasture.read_photos` returns them.
    folds
        Fold number by photo, as `balanced_folds` returns them.
    groups
        Group by photo. By default `sampling_groups`.

    Returns
    -------
    pandas.DataFrame
        One row per fold, then ``all`` photos, then the ``spread``, the largest minus
        the smallest value of the folds. Columns: the number of photos and of groups,
        the share of each state, the mean of each target in grams, the parts of the cost
        (``size``, ``states`` and ``grams``), and the ``cost``, whose square is the sum
        of their squares. The parts in row ``all`` are root mean squares, so that its
        ``cost`` equals the folds' cost.

    Raises
    ------
    PhotoError
        Folds or groups do not match the photos.
    """
    number = _fold_numbers(photos, folds)
    own = sampling_groups(photos) if groups is None else _of(photos, groups)
    grams = photos[[target for target in TARGETS if target in photos]]
    states = pd.get_dummies(_states(photos), dtype=float)
    states = states.add_prefix("share ") if _STATE in photos else states.iloc[:, :0]
    means = pd.concat([states, grams], axis=1)
    table = means.groupby(number).mean()
    table.insert(0, "photos", number.groupby(number).size())
    table.insert(1, "groups", own.groupby(number).nunique())
    off = _deviations(photos).groupby(number).mean()
    parts = pd.DataFrame(
        {
            "size": table["photos"] * len(table) / len(photos) - 1,
            "states": np.hypot.reduce(table[states.columns] - states.mean(), axis=1)
            if len(states.columns)
            else 0.0,
            "grams": np.hypot.reduce(off, axis=1),
        }
    )
    parts = parts.assign(cost=np.sqrt((parts**2).sum(axis=1)))
    table = pd.concat([table, parts], axis=1).rename_axis("fold")
    every = [len(photos), own.nunique(), *means.mean(), *np.sqrt((parts**2).mean())]
    spread = table.max() - table.min()
    table.loc["all"] = every
    table.loc["spread"] = spread
    return table.astype({"photos": int, "groups": int})


def check_folds(
    photos: pd.DataFrame, folds: pd.Series, groups: pd.Series | None = None
) -> None:
    """Check that folds match the photos, and that each group is in one fold.

    Parameters
    ----------
    photos
        Photos as `pasture.read_photos` returns them.
    folds
        Fold number by photo.
    groups
        Group by photo. By default `sampling_groups`, with or without virtual dates.

    Raises
    ------
    PhotoError
        Folds are of other photos, fewer than two or not numbered 0, 1, ..., or photos
        of a group are in several folds.
    """
    number = _fold_numbers(photos, folds)
    if groups is None:
        meant = [sampling_groups(photos, virtual) for virtual in ({}, _VIRTUAL)]
    else:
        meant = [_of(photos, groups)]
    if split := min((_split_groups(one, number) for one in meant), key=len):
        more = f" (and {len(split) - 1} more groups)" if len(split) > 1 else ""
        raise PhotoError(
            f"photos of a group must be in one fold, got {split[0]}{more}; give each "
            "group one fold, as pasture.balanced_folds does, or pass other groups"
        )


def _split_groups(groups: pd.Series, number: pd.Series) -> list[str]:
    """Return the groups with photos in several folds, and the folds, as texts."""
    held = number.groupby(groups).unique()
    return [
        f"group {group} in folds {listed(sorted(folds))}"
        for group, folds in held.items()
        if len(folds) > 1
    ]


def _fold_numbers(photos: pd.DataFrame, folds: pd.Series) -> pd.Series:
    """Return folds as int64 in the photos' order, after all checks except of groups."""
    given = pd.to_numeric(_of(photos, folds, "folds"), errors="coerce")
    wrong = given.index[~(given % 1 == 0)]
    if len(wrong):
        raise PhotoError(
            f"folds must be whole numbers, got {listed(folds[wrong])} for "
            f"{listed(wrong)}; number them 0, 1, ..."
        )
    there = sorted({int(number) for number in given})
    if len(there) < 2 or there != list(range(len(there))):
        raise PhotoError(
            f"folds must be two or more, numbered 0, 1, ... without a gap, got "
            f"{listed(there)}; renumber them"
        )
    return given.astype(np.int64)


def _of(photos: pd.DataFrame, values: pd.Series, what: str = "groups") -> pd.Series:
    """Return values in the photos' order, after a check that each photo has one."""
    _check_names(photos)
    absent = photos.index.difference(values.index)
    extra = values.index.difference(photos.index)
    twice = values.index[values.index.duplicated()]
    for wrong, text in (
        (absent, "none for"),
        (extra, "some for other photos:"),
        (twice, "several for"),
        (values.index[values.isna()], "an unknown one for"),
    ):
        if len(wrong):
            raise PhotoError(
                f"{what} must be one for each photo, got {text} {listed(wrong)}; "
                "make them from the same table as the photos"
            )
    return values.reindex(photos.index)


def _check_names(photos: pd.DataFrame) -> None:
    twice = listed(photos.index[photos.index.duplicated()])
    if twice or len(photos) == 0:
        raise PhotoError(
            f"photos must be one or more, each with a unique name, got "
            f"{f'several called {twice}' if twice else 'none'}; fix the table's index"
        )
