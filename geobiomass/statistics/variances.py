r"""Variances of estimated means, by the design of the sample.

Every estimator is a sum over plots; each plot has a part :math:`u_i = w_i g_i e_i` (see
:mod:`geobiomass.statistics.estimators`). The variance follows from how the plots were
drawn:

**Strata of the design**, with :math:`n_h` sampling units each. Plots of a cluster are
added first, so the cluster is the unit. Without strata this is the ratio of means,
whose variance is that of :math:`\sum_c (y_c - R m_c)` over :math:`\sum_c m_c`.

.. math:: V = \sum_h (1 - f_h) \frac{n_h}{n_h - 1} \sum_c (u_c - \bar u_h)^2

**Post-strata**: plots were drawn without regard to strata, so that the number in each
is random. With :math:`s_h^2` the variance of :math:`g_i e_i` (Bechtold and Patterson
2005),

.. math:: V = \frac{1}{n} \sum_h W_h s_h^2 + \frac{1}{n^2} \sum_h (1 - W_h) s_h^2

**A systematic grid**: successive differences, between neighbours on the grid. The
variance of a plot is half the mean square of the differences of its P pairs of
neighbours; it leaves out what changes slowly over the area, which a grid averages out.

.. math:: V = n \frac{1}{2 P} \sum_{i \sim j} (u_i - u_j)^2

**A stratum with one unit** (rule ``"collapse"``): the variance of its unit is that of
the units of a pair of strata, about their common mean: the stratum and the one whose
map mean is next to its own, which does not depend on what was observed. For two lone
strata of one size it is :math:`(T_1 - T_2)^2`, as in Cochran (1977), 5A.12. Differences
between the two strata make it too large rather than too small. ``"adjust"``: the
squared distance of its unit from the mean of all, as R's survey has it.

References
----------
Bechtold, W. A. and Patterson, P. L. (2005). The enhanced Forest Inventory and Analysis
program. USDA Forest Service, General Technical Report SRS-80, chapter 4.

Cochran, W. G. (1977). Sampling techniques, 3rd ed. Wiley. 5A.12 (collapsed strata), 6.3
(ratios), 8.11 (systematic samples).

D'Orazio, M. (2003). Estimating the variance of the sample mean in two-dimensional
systematic sampling. Journal of Agricultural, Biological, and Environmental Statistics
8, 280-295.

Lumley, T. (2010). Complex surveys. Wiley (survey.lonely.psu).

Wolter, K. M. (2007). Introduction to variance estimation, 2nd ed. Springer. Chapter 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geobiomass.statistics.sample import Numbers, Positions, SampleError

Lone = Literal["collapse", "adjust", "refuse"]
LONE: tuple[Lone, ...] = ("collapse", "adjust", "refuse")
_ON_GRID = 0.75
_NEXT = 1.2  # neighbours are nearer than 1.2 steps of a grid; its diagonals have 1.41


@dataclass(frozen=True)
class Layout:
    """How sampling units lie in strata.

    Parameters
    ----------
    part : numpy.ndarray
        (unit,) the unit's part of the estimate, u.
    value : numpy.ndarray
        (unit,) mean of the unit's values, less what the map explains: for strata with
        one unit.
    at : numpy.ndarray
        (unit,) number of its stratum.
    shares : numpy.ndarray
        (stratum,) share of the area; they sum to 1.
    populations : numpy.ndarray
        (stratum,) size of the population, infinite if it is not known.
    order : numpy.ndarray
        (stratum,) what strata are paired by, such as the map's mean.
    names : tuple
        Names of strata.
    """

    part: Numbers
    value: Numbers
    at: Positions
    shares: Numbers
    populations: Numbers
    order: Numbers
    names: tuple[Any, ...]

    @property
    def sizes(self) -> Positions:
        """Number of units in each stratum."""
        return np.bincount(self.at, minlength=self.shares.size)

    @property
    def rest(self) -> Numbers:
        """Finite population correction by stratum."""
        return np.clip(1 - self.sizes / self.populations, 0.0, None)


@dataclass(frozen=True)
class Variances:
    """A variance as the sum of components.

    Parameters
    ----------
    parts : numpy.ndarray
        (stratum,) what each stratum adds.
    freedom : numpy.ndarray
        (stratum,) its degrees of freedom.
    notes : tuple of str
        Rules that were applied.
    """

    parts: Numbers
    freedom: Numbers
    notes: tuple[str, ...] = field(default=())


def in_strata(
    layout: Layout, effective: npt.NDArray[Any], lone: Lone = "collapse"
) -> Variances:
    """Return the variance of a sample that was drawn in strata.

    Parameters
    ----------
    layout : Layout
        The sampling units.
    effective : numpy.ndarray
        (stratum,) effective number of units, for degrees of freedom.
    lone : "collapse", "adjust" or "refuse"
        The rule for strata with one unit.

    Raises
    ------
    SampleError
        If a stratum has one unit and the rule is to refuse, or has no other stratum.
    """
    sizes, at = layout.sizes, layout.at
    middle = np.bincount(at, layout.part, minlength=sizes.size) / sizes
    squares = np.bincount(at, (layout.part - middle[at]) ** 2, minlength=sizes.size)
    parts = layout.rest * squares * sizes / np.maximum(sizes - 1, 1)
    freedom = np.maximum(np.asarray(effective, np.float64) - 1, 1.0)
    alone = np.flatnonzero(sizes == 1)
    if not alone.size or sizes.size == 1:
        return Variances(parts, freedom)
    square, own, note = _of_lone(layout, alone, lone)
    parts[alone] = layout.rest[alone] * layout.shares[alone] ** 2 * square
    freedom[alone] = own
    return Variances(parts, freedom, (note,))


def in_post_strata(layout: Layout, lone: Lone = "collapse") -> Variances:
    """Return the variance of a random sample that was divided into strata afterwards.

    Parameters and errors are those of :func:`in_strata`. Units are plots.
    """
    sizes, at, shares = layout.sizes, layout.at, layout.shares
    n = int(sizes.sum())
    raw = layout.part * (sizes / shares)[at]
    middle = np.bincount(at, raw, minlength=sizes.size) / sizes
    squares = np.bincount(at, (raw - middle[at]) ** 2, minlength=sizes.size)
    variance = squares / np.maximum(sizes - 1, 1)
    freedom = np.maximum(sizes - 1, 1).astype(np.float64)
    notes: tuple[str, ...] = ()
    alone = np.flatnonzero(sizes == 1)
    if alone.size and sizes.size > 1:
        square, own, note = _of_lone(layout, alone, lone)
        variance[alone], freedom[alone], notes = square, own, (note,)
    rest = max(0.0, 1 - n / float(layout.populations.sum()))
    parts = variance * (rest * shares / n + (1 - shares) / n**2)
    return Variances(parts, freedom, notes)


def on_a_grid(layout: Layout, places: Numbers) -> Variances:
    """Return the variance of a systematic sample, from differences of neighbours.

    Parameters
    ----------
    layout : Layout
        The sampling units.
    places : numpy.ndarray
        (unit, 2) their coordinates, in any unit of length.

    Raises
    ------
    SampleError
        If fewer than three quarters of the plots of a stratum have a neighbour one step
        of the grid away. Of plots at random 63 % have, on a grid nearly all.
    """
    parts, freedom = np.zeros((2, layout.shares.size))
    for number, name in enumerate(layout.names):
        here = np.flatnonzero(layout.at == number)
        first, second = neighbours(places[here])
        degree = np.bincount(np.r_[first, second], minlength=here.size)
        if np.count_nonzero(degree) < _ON_GRID * here.size or not first.size:
            raise SampleError(
                "plots of a systematic sample must lie on a grid, got "
                f"{np.count_nonzero(degree)} of {here.size} with a neighbour one step "
                "away" + (f" in stratum {name}" if len(layout.names) > 1 else "")
            )
        own = layout.part[here]
        square = float(((own[first] - own[second]) ** 2).sum()) / (2 * first.size)
        parts[number] = here.size * square
        # Of independent values, as the trace of the quadratic form and of its square.
        freedom[number] = degree.sum() ** 2 / (degree**2 + degree).sum()
    return Variances(layout.rest * parts, freedom)


def neighbours(places: Numbers) -> tuple[Positions, Positions]:
    """Return the pairs of plots that are one step of their grid apart.

    Parameters
    ----------
    places : numpy.ndarray
        (plot, 2) coordinates. The step is the median distance to the nearest plot.
    """
    from scipy.spatial import cKDTree

    empty = np.empty(0, np.int64)
    if len(places) < 2:
        return empty, empty
    tree = cKDTree(places)
    step = float(np.median(tree.query(places, k=2)[0][:, 1]))
    pairs = tree.query_pairs(_NEXT * step, output_type="ndarray")
    return pairs[:, 0], pairs[:, 1]


def satterthwaite(variances: Numbers, freedom: npt.NDArray[Any]) -> float:
    """Return the degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    if not variances.sum() > 0:
        return float(freedom.sum())
    return float(variances.sum() ** 2 / (variances**2 / freedom).sum())


def _of_lone(
    layout: Layout, alone: Positions, lone: Lone
) -> tuple[Numbers, Numbers, str]:
    """Return the variance of one unit in strata with one, its freedom, and a note."""
    sizes = layout.sizes
    few = ", ".join(f"{layout.names[h]} has 1" for h in alone)
    if lone == "refuse":
        raise SampleError(f"2 plots are needed in each stratum, {few}")
    square, freedom = np.zeros(alone.size), np.ones(alone.size)
    if lone == "adjust":
        means = np.bincount(layout.at, layout.value, minlength=sizes.size) / sizes
        middle = float(layout.shares @ means)
        square = (means[alone] - middle) ** 2
        return square, freedom, f"strata with one plot are centred at the mean: {few}"
    pairs = []
    for k, number in enumerate(alone):
        partner = _partner(layout.order, int(number))
        values = layout.value[np.isin(layout.at, (number, partner))]
        square[k], freedom[k] = values.var(ddof=1), values.size - 1
        if sizes[partner] == 1:  # both strata have this variance: one freedom for two
            freedom[k] /= 2
        pairs.append(f"{layout.names[number]} with {layout.names[partner]}")
    return square, freedom, f"strata with one plot are collapsed: {', '.join(pairs)}"


def _partner(order: Numbers, number: int) -> int:
    distance = np.abs(order - order[number])
    distance[number] = np.inf
    return int(distance.argmin())
