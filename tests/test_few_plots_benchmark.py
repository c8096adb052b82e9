"""The simulation of few plots has the formulas of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from geobiomass.statistics.estimators import choose_method, estimate
from geobiomass.statistics.interval_of_mean import IntervalRule, interval_of
from geobiomass.statistics.sample import METHODS

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import covered_few_plots as few


@pytest.mark.parametrize("name", ["lognormal 1.2", "95 % zeros"])
def test_samples_at_once_are_samples_one_by_one(name: str) -> None:
    here = few.made(name)
    at = np.random.default_rng(0).integers(0, here.truth.size, (60, 15))
    y, x = here.truth[at], here.mapped[at]
    mean, highest = float(here.mapped.mean()), float(here.mapped.max())
    missing = few.unseen(here.mapped, x.max(axis=1))
    kinds = set()
    for method in METHODS:
        fit = few.fits(y, x, mean)[method]
        lower, upper = few.automatic(fit, y, missing, highest)
        for k in range(len(y)):
            one = estimate(y[k], x[k], mean, method=method)
            assert one.mean == pytest.approx(fit.mean[k])
            assert one.se == pytest.approx(fit.se[k])
            bounds = interval_of(
                one, rule=IntervalRule(highest=highest), unseen=float(missing[k])
            )
            kinds.add(bounds.kind)
            assert (bounds.lower, bounds.upper) == pytest.approx(
                (lower[k], upper[k]), nan_ok=True
            )
    assert {"Hall", "none"} < kinds
    picks = few.chosen(y)
    assert [choose_method(each) == "difference" for each in y] == picks.tolist()


def test_intervals_by_rule_hold_where_students_do_not() -> None:
    """Three standard errors of 1,500 samples below the figures of the page."""
    rows = [few.cell("old forest, 3 %", n, 1500, 1) for n in (15, 60)]
    rows.append(few.cell("lognormal 1.2", 8, 1500, 1))
    rows.append(few.cell("95 % zeros", 15, 1500, 1))
    rows.append(few.cell(few.RARE, 40, 1500, 1))
    for row in rows:
        assert float(row["auto, auto"]) > 92
        assert float(row["t, regr."]) < 85
