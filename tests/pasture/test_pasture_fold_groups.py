"""Groups of photos, the table that describes folds, and checks of folds."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from fold_tables import draw_table

from pasture.folds import (
    balanced_folds,
    check_folds,
    fold_balance,
    sampling_groups,
)
from pasture.photos import PhotoError


@pytest.fixture(scope="module")
def photos() -> pd.DataFrame:
    return draw_table(0)


# --- groups ---


def test_a_group_is_a_date_in_any_state(photos):
    groups = sampling_groups(photos, {})
    assert groups.nunique() == 28
    assert list(groups.index) == list(photos.index)
    dates = photos["Sampling_Date"].dt.strftime("%Y-%m-%d")
    assert (groups == dates).all()
    states = photos["State"].groupby(groups).agg(lambda state: set(state))
    assert sum(shared == {"Tas", "Vic"} for shared in states) == 2


def test_dates_of_wa_are_split_into_seven(photos):
    groups = sampling_groups(photos)
    west = photos["State"] == "WA"
    assert groups.nunique() == 25 + 7
    assert (groups[~west] == sampling_groups(photos, {})[~west]).all()
    cut = groups[west]
    order = sorted(cut.index, key=lambda p: (photos.loc[p, "Sampling_Date"], p))
    assert list(cut[order].value_counts(sort=False)) == [5, 5, 5, 5, 4, 4, 4]
    first = photos.loc[order[5], "Sampling_Date"].strftime("%Y-%m-%d")
    assert cut[order[5]] == f"WA-2 {first}"
    assert list(cut[order]) == sorted(cut)


def test_any_state_can_be_split_and_a_missing_one_is_no_error(photos):
    groups = sampling_groups(photos, {"NSW": 4, "NT": 3, "WA": 1000})
    counts = groups[photos["State"] == "NSW"].value_counts()
    assert sorted(counts) == [18, 19, 19, 19]
    assert groups[photos["State"] == "WA"].is_unique
    without = sampling_groups(photos.drop(columns="State"))
    assert (without == sampling_groups(photos, {})).all()


def test_without_dates_each_photo_is_a_group(photos):
    groups = sampling_groups(photos.drop(columns="Sampling_Date"))
    assert list(groups) == list(photos.index)


def test_virtual_dates_are_warned_of(photos):
    with pytest.warns(UserWarning, match=r"dates of WA are split .* virtual=\{\}"):
        balanced_folds(photos, seeds=1000, progress=False)
    groups = sampling_groups(photos)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = balanced_folds(photos, seeds=1000, virtual={}, progress=False)
        elsewhere = photos[photos["State"] != "WA"]
        balanced_folds(elsewhere, seeds=1000, progress=False)
        balanced_folds(photos, seeds=1000, groups=groups, progress=False)
    days = photos["State"] + photos["Sampling_Date"].astype(str)
    assert (whole.groupby(days).nunique() == 1).all()


# --- the table ---


def test_the_table_describes_each_fold():
    photos = pd.DataFrame(
        {
            "State": ["Tas", "Tas", "Vic", "Vic", "Vic"],
            "Dry_Green_g": [10.0, 20.0, 30.0, 40.0, 50.0],
            "Dry_Total_g": [20.0, 20.0, 30.0, 60.0, 70.0],
        },
        index=list("abcde"),
    )
    folds = pd.Series([1, 0, 0, 1, 0], list("edcba"))
    table = fold_balance(photos, folds, pd.Series(list("xxyzz"), list("abcde")))
    expected = {
        "photos": [3, 2, 5, 1],
        "groups": [3, 2, 3, 1],
        "share Tas": [1 / 3, 1 / 2, 2 / 5, 1 / 6],
        "share Vic": [2 / 3, 1 / 2, 3 / 5, 1 / 6],
        "Dry_Green_g": [80 / 3, 35, 30, 25 / 3],
        "Dry_Total_g": [110 / 3, 45, 40, 25 / 3],
    }
    assert list(table.index) == [0, 1, "all", "spread"]
    for column, values in expected.items():
        np.testing.assert_allclose(table[column].astype(float), values)
    size = [1 / 5, -1 / 5]
    states = [np.sqrt(2) / 15, np.sqrt(2) / 10]
    green = (np.array([80 / 3, 35]) - 30) / np.sqrt(200)
    total = (np.array([110 / 3, 45]) - 40) / np.std([20, 20, 30, 60, 70])
    grams = np.sqrt(green**2 / 6 + total**2 * 5 / 6)
    for name, part in {"size": size, "states": states, "grams": grams}.items():
        root = np.sqrt(np.mean(np.square(part)))
        np.testing.assert_allclose(table[name][:3], [*part, root])


# --- bad input ---


def test_valid_folds_pass_with_and_without_virtual_dates(photos):
    groups = sampling_groups(photos)
    for virtual in (None, {}):
        own = sampling_groups(photos, virtual)
        folds = balanced_folds(photos, groups=own, seeds=1000, progress=False)
        check_folds(photos, folds)
        check_folds(photos, folds.sample(frac=1, random_state=0).astype(float))
    with pytest.raises(PhotoError, match="must be in one fold"):
        check_folds(photos, folds, groups)  # a virtual date spans two


def test_a_group_in_two_folds_is_named_in_one_sentence(photos):
    groups = sampling_groups(photos, {})
    folds = balanced_folds(photos, groups=groups, seeds=100, progress=False)
    folds = folds.copy()
    date = groups[photos["State"] == "NSW"].iloc[0]
    was = folds[groups == date].iloc[0]
    folds[groups[groups == date].index[0]] = other = (was + 1) % 5
    both = ", ".join(map(str, sorted([was, other])))
    message = f"got group {date} in folds {both}; give each group one fold"
    with pytest.raises(PhotoError, match=message) as caught:
        check_folds(photos, folds)
    assert "\n" not in str(caught.value)
    with pytest.raises(PhotoError, match=r"in folds 0, 1.* \(and \d+ more groups\)"):
        check_folds(photos, pd.Series(np.arange(357) % 2, photos.index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[1:], "one for each photo, got none for a;"),
        (lambda f: pd.concat([f, pd.Series([1], ["z"])]), "for other photos: z;"),
        (lambda f: pd.concat([f, f[:1]]), "got several for a;"),
        (lambda f: f.where(f.index != "b"), "got an unknown one for b;"),
        (lambda f: f + 0.5, "whole numbers, got 0.5, 1.5 for a, b, c, d;"),
        (lambda f: f.map({0: "x", 1: "1"}), "whole numbers, got x for a, c;"),
        (lambda f: f * np.inf, "got (inf|an unknown one)|whole numbers"),
        (lambda f: f * 0, "two or more, .* got 0;"),
        (lambda f: f * 2, "without a gap, got 0, 2;"),
        (lambda f: f + 1, "without a gap, got 1, 2;"),
    ],
)
def test_folds_that_do_not_fit_are_refused(change, message):
    photos = pd.DataFrame({"path": list("abcd")}, index=list("abcd"))
    folds = pd.Series([0, 1, 0, 1], list("abcd"))
    check_folds(photos, folds)
    for call in (check_folds, fold_balance):
        with pytest.raises(PhotoError, match=message):
            call(photos, change(folds))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_splits": 1}, "n_splits must be 2 or more, got 1"),
        ({"n_splits": 29}, "29 or more for as many folds, got 28"),
        ({"seeds": 0}, "seeds must be from 1 to 2.32, got 0"),
        ({"seeds": 2**32 + 1}, "seeds must be from 1 to"),
        ({"jobs": 0}, "jobs must be 1 or more, got 0"),
        ({"search": "best"}, "search must be 'exchange', .* got 'best'"),
        ({"virtual": {"WA": 0}}, "must be 1 or more, got WA: 0; leave the state out"),
    ],
)
def test_impossible_settings_are_refused(photos, arguments, message):
    with pytest.raises(ValueError, match=message):
        balanced_folds(photos, **{"virtual": {}, "progress": False} | arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.iloc[:0], "photos must be one or more, .* got none"),
        (lambda p: p.rename({"b": "a"}), "got several called a;"),
        (
            lambda p: p.assign(Sampling_Date=p["Sampling_Date"].where(p.index != "c")),
            "Sampling_Date of photos must be known .* none for c;",
        ),
        (lambda p: p.assign(GDM_g=[1.0, np.nan, 2.0]), "unknown ones of b;"),
    ],
)
def test_photos_that_cannot_be_balanced_are_named(change, message):
    dates = pd.to_datetime(["2015-09-04", "2015-09-05", "2015-09-06"])
    photos = pd.DataFrame({"Sampling_Date": dates}, index=list("abc"))
    with pytest.raises(PhotoError, match=message):
        balanced_folds(change(photos), 2, 10, progress=False)
