"""Deductions for uncertainty that named rules have, as formulas.

They are arithmetic on a half-width. Whether a project complies with a standard depends
on much more, and is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from geobiomass.training.setting_names import explain_arguments

Floats = npt.NDArray[np.float64]

T_70, T_95 = 0.524417, 1.645006  # of ART TREES 2.0: Student's t at 10,000 degrees


@explain_arguments
@dataclass(frozen=True)
class Deduction:
    """A rule that turns a relative half-width into a deduction.

    Parameters
    ----------
    name : str
        Name and version of the rule.
    formula : str
        In words and symbols; HW90 is half the 90 % interval over the estimate.
    source : str
        Where the formula was read.
    share : callable
        The deduction as a share, from HW90 as a share; of arrays.
    """

    name: str
    formula: str
    source: str
    share: Callable[[Floats], Floats]

    def percent(self, half_width: npt.ArrayLike) -> Floats:
        """Return the deduction in percent, from HW90 in percent; NaN stays NaN."""
        share = np.asarray(half_width, np.float64) / 100
        found = np.where(np.isnan(share), np.nan, self.share(np.abs(share)))
        return np.asarray(100 * found, np.float64)

    def to_dict(self) -> dict[str, str]:
        """Return name, formula and source, for JSON."""
        return {"rule": self.name, "formula": self.formula, "source": self.source}


def _art(share: Floats) -> Floats:
    return np.asarray(T_70 * share / T_95, np.float64)


def _vm0047(share: Floats) -> Floats:
    return np.where(share > 1, 1.0, np.clip(share - 0.10, 0.0, 1.0))


def _fcpf(share: Floats) -> Floats:
    steps = np.array([0.0, 0.04, 0.08, 0.12, 0.15])
    # A margin equal to a limit has the smaller discount; 1e-12 for rounding of floats.
    at = np.searchsorted([0.15, 0.30, 0.60, 1.00], share - 1e-12, "left")
    return np.asarray(steps[at], np.float64)


RULES = {
    rule.name: rule
    for rule in (
        Deduction(
            "ART TREES 2.0",
            "0.524417 x HW90 / 1.645006",
            "ART, The REDD+ Environmental Excellence Standard 2.0, equations 10 and "
            "11, read in a copy",
            _art,
        ),
        Deduction(
            "VM0047 1.1",
            "min(1, max(0, HW90 - 0.10)), and 1 where HW90 is above 1",
            "Verra VM0047 version 1.1 of 14 May 2025, read in a transcription",
            _vm0047,
        ),
        Deduction(
            "FCPF",
            "HW90 up to 15 %: 0; up to 30 %: 4 %; up to 60 %: 8 %; up to 100 %: 12 %; "
            "above: 15 %; here HW90 is over the estimate, in the rule over the median",
            "Forest Carbon Partnership Facility, as in public code that applies it",
            _fcpf,
        ),
    )
}


def deduction_named(name: str) -> Deduction:
    """Return the rule with a name, in any case of letters.

    Raises
    ------
    ValueError
        If there is none; the message has all names.
    """
    wanted = " ".join(str(name).lower().split())
    for known, rule in RULES.items():
        if known.lower() == wanted:
            return rule
    near = get_close_matches(wanted, {one.lower(): one for one in RULES}, n=1)
    meant = [one for one in RULES if one.lower() in near]
    raise ValueError(
        f"deduction must be one of {', '.join(map(repr, RULES))}, got {name!r}"
        + (f"; did you mean {meant[0]!r}?" if meant else ".")
    )


@explain_arguments
def half_width_of_change(
    se_first: float, se_last: float, *, correlation: float = 0.0, quantile: float
) -> float:
    r"""Return the half-width of a change between two dates, as VM0047 1.1 has it.

    It is :math:`T \sqrt{s_0^2 + s_t^2 - 2 \rho s_0 s_t}`.

    Parameters
    ----------
    se_first, se_last : float
        Standard errors of the two dates.
    correlation : float
        Correlation of the two estimates, -1 to 1; the rule allows one only for plots
        that were measured at both dates.
    quantile : float
        Two-sided quantile T, such as Student's t at 90 %.
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must be from -1 to 1, got {correlation!r}.")
    shared = 2 * correlation * se_first * se_last
    return float(quantile * np.sqrt(max(0.0, se_first**2 + se_last**2 - shared)))
