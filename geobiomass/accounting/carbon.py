"""Factors from above-ground biomass to carbon: values, their errors and sources."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

from geobiomass.training.setting_names import explain_arguments

CO2_PER_CARBON = 44 / 12
"""Mass of carbon dioxide for a mass of carbon: molecular masses 44 and 12."""

OWN = "own value"


@explain_arguments
@dataclass(frozen=True)
class Factor:
    """A factor, its standard error and its source.

    Parameters
    ----------
    value : float
        Such as 0.47, the carbon fraction of dry biomass; 0 or more.
    se : float, optional
        Its standard error, in the same units. None: not known; it is left out of
        intervals, and tables say so.
    source : str
        Where the value comes from.
    """

    value: float
    se: float | None = None
    source: str = OWN

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise ValueError(
                f"A factor must be a finite number of 0 or more, got {self.value!r}."
            )
        if self.se is not None and not (math.isfinite(self.se) and self.se >= 0):
            raise ValueError(
                "The standard error of a factor must be 0 or more, or None where it "
                f"is not known, got {self.se!r}."
            )

    def __str__(self) -> str:
        error = "error not given" if self.se is None else f"se {self.se:.3g}"
        return f"{self.value:g} ({error}; {self.source})"


@explain_arguments
@dataclass(frozen=True)
class RootShoot:
    """A ratio of below-ground to above-ground biomass that jumps at a density.

    Parameters
    ----------
    low, high : Factor
        The ratio up to the limit, and above it.
    limit : float
        Above-ground biomass density, Mg/ha: 125 in most rows of IPCC (2019).
    by : "region" or "pixels"
        What is compared with the limit: the estimated mean of the region, or each
        pixel of the map. The two give different totals. With "pixels" the ratio is the
        mean of both, weighted by the map's biomass up to the limit and above it.
    """

    low: Factor
    high: Factor
    limit: float = 125.0
    by: Literal["region", "pixels"] = "region"

    def __post_init__(self) -> None:
        if self.by not in ("region", "pixels"):
            raise ValueError(f"by must be 'region' or 'pixels', got {self.by!r}.")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(
                f"limit must be a density above 0 Mg/ha, got {self.limit!r}."
            )

    def at(self, density: float, low_share: float | None = None) -> Factor:
        """Return the ratio for a region.

        Parameters
        ----------
        density : float
            Mean above-ground biomass density, Mg/ha.
        low_share : float, optional
            Share of the map's biomass in pixels up to the limit, for ``by="pixels"``.
        """
        if self.by == "region":
            return self.low if density <= self.limit else self.high
        share = math.nan if low_share is None else low_share
        if not math.isfinite(share):
            raise ValueError(
                "A ratio by pixels needs low_share=, the share of the map's biomass in "
                f"pixels up to {self.limit:g} Mg/ha, got {low_share!r}."
            )
        # Both rows are of one table: their errors are added as fully correlated, which
        # is the larger sum.
        value = share * self.low.value + (1 - share) * self.high.value
        se = None
        if self.low.se is not None and self.high.se is not None:
            se = share * self.low.se + (1 - share) * self.high.se
        return Factor(value, se, self.low.source)

    def __str__(self) -> str:
        decides = "the region's mean" if self.by == "region" else "each pixel"
        return (
            f"{self.low} up to {self.limit:g} Mg/ha, {self.high.value:g} above, which "
            f"{decides} decides"
        )


Given: TypeAlias = "Factor | float | tuple[float, float]"


@dataclass(frozen=True)
class CarbonFactor:
    """Carbon in all pools for one unit of above-ground biomass.

    Parameters
    ----------
    value, se : float
        Mg C for 1 Mg, and the standard error from the factors whose errors are known.
    below_ground, dead_wood : float
        The parts of `value` in these pools.
    without_error : tuple of str
        Factors whose error is not known, and so not in `se`.
    """

    value: float
    se: float
    below_ground: float
    dead_wood: float
    without_error: tuple[str, ...]


@explain_arguments
@dataclass(frozen=True, init=False)
class Carbon:
    """Factors from above-ground biomass to carbon.

    Each may be a :class:`Factor`, a number (whose error is then left out, which the
    table says) or a pair of a value and its standard error.

    Parameters
    ----------
    fraction : Factor, float or tuple of float, optional
        Carbon fraction of dry biomass; by default that of IPCC (2006), 0.47.
    below_ground : Factor, RootShoot, float, tuple of float or str, optional
        Ratio of below-ground to above-ground biomass (root to shoot); or a name of
        :meth:`Carbon.names`, whose ratio is used. None: only above-ground biomass.
    dead_wood : Factor, float, tuple of float or str, optional
        Mass of dead wood as a share of above-ground biomass; or a name of
        :data:`geobiomass.accounting.carbon_factors.DEAD_WOOD`. None: without dead wood.
    dead_wood_fraction : Factor, float or tuple of float, optional
        Carbon fraction of dead wood; by default `fraction`, with the same error.
    name : str
        What the table calls these factors.
    """

    name: str
    fraction: Factor
    below_ground: Factor | RootShoot | None
    dead_wood: Factor | None
    dead_wood_fraction: Factor | None

    def __init__(
        self,
        fraction: Given | None = None,
        below_ground: Given | RootShoot | str | None = None,
        dead_wood: Given | str | None = None,
        dead_wood_fraction: Given | None = None,
        name: str = "own factors",
    ) -> None:
        from geobiomass.accounting.carbon_factors import FRACTION

        made = {
            "name": name,
            "fraction": FRACTION if fraction is None else _factor(fraction),
            "below_ground": _ratio(below_ground),
            "dead_wood": _dead_wood(dead_wood),
            "dead_wood_fraction": _optional(dead_wood_fraction),
        }
        for field, value in made.items():
            object.__setattr__(self, field, value)
        for field in ("fraction", "dead_wood_fraction"):
            part = getattr(self, field)
            if part is not None and not 0 < part.value <= 1:
                raise ValueError(
                    f"{field} must be above 0 and at most 1, such as 0.47, got "
                    f"{part.value!r}."
                )
        if self.dead_wood is None and self.dead_wood_fraction is not None:
            raise ValueError(
                "dead_wood_fraction= needs dead_wood=, the mass of dead wood as a "
                "share of above-ground biomass, got none."
            )

    @classmethod
    def named(cls, name: str) -> Carbon:
        """Return the factors with a name, in any case of letters.

        Raises
        ------
        ValueError
            If there are none; the message has all names.
        """
        from geobiomass.accounting.carbon_factors import NAMED

        wanted = _plain(name)
        for known, (fraction, ratio) in NAMED.items():
            if _plain(known) == wanted:
                return cls(fraction, ratio, name=known)
        plain = {_plain(known): known for known in NAMED}
        near = get_close_matches(wanted, plain, n=1)
        meant = f"; did you mean {plain[near[0]]!r}?" if near else "."
        raise ValueError(
            f"carbon must be a Carbon or one of the names {', '.join(NAMED)}, got "
            f"{name!r}{meant}"
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return all names of factors."""
        from geobiomass.accounting.carbon_factors import NAMED

        return tuple(NAMED)

    def by_pixels(self) -> Carbon:
        """Return these factors with a below-ground ratio that each pixel decides."""
        if not isinstance(self.below_ground, RootShoot):
            return self
        ratio = replace(self.below_ground, by="pixels")
        return replace(self, below_ground=ratio, name=f"{self.name}, by pixels")

    def per_biomass(
        self, density: float, low_share: float | None = None
    ) -> CarbonFactor:
        r"""Return the carbon in all pools for 1 Mg of above-ground biomass.

        With the carbon fraction :math:`c`, the root-to-shoot ratio :math:`R` and dead
        wood :math:`d` with the fraction :math:`c_d`, it is
        :math:`c\,(1 + R) + c_d\,d`. The errors of different factors are independent of
        each other; the relative variance of a product is the sum of the two relative
        variances and their product.

        Parameters
        ----------
        density : float
            Mean above-ground biomass density of the region, Mg/ha: it decides the
            ratio where that jumps.
        low_share : float, optional
            As in :meth:`RootShoot.at`.
        """
        none = Factor(0.0, 0.0)
        ratio = self.below_ground
        if isinstance(ratio, RootShoot):
            ratio = ratio.at(density, low_share)
        used = {
            "carbon fraction": self.fraction,
            "below-ground ratio": ratio or none,
            "dead wood": self.dead_wood or none,
            "carbon fraction of dead wood": self.dead_wood_fraction or none,
        }
        unknown = tuple(name for name, one in used.items() if one.se is None)
        c, r, d, own = used.values()
        below, dead = c.value * r.value, (self.dead_wood_fraction or c).value * d.value
        if self.dead_wood_fraction is None:
            # One fraction for all pools.
            variance = _product(c, 1 + r.value + d.value, _squared(r) + _squared(d))
        else:
            variance = _product(c, 1 + r.value, _squared(r))
            variance += _product(own, d.value, _squared(d))
        value = c.value + below + dead
        return CarbonFactor(value, math.sqrt(variance), below, dead, unknown)

    def to_dict(self) -> dict[str, Any]:
        """Return the factors with values, errors and sources, for JSON."""
        found: dict[str, Any] = asdict(self)
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Carbon:
        """Build factors from the result of ``to_dict``."""
        made: dict[str, Any] = {}
        for name, one in given.items():
            if name == "name":
                made[name] = one
            elif "low" in one:
                ends = {end: Factor(**one[end]) for end in ("low", "high")}
                made[name] = RootShoot(**{**one, **ends})
            else:
                made[name] = Factor(**one)
        return cls(**made)

    def __str__(self) -> str:
        lines = [f"{self.name}: carbon fraction {self.fraction}"]
        if self.below_ground is not None:
            lines.append(f"below-ground to above-ground {self.below_ground}")
        if self.dead_wood is not None:
            lines.append(f"dead wood to above-ground {self.dead_wood}")
        if self.dead_wood_fraction is not None:
            lines.append(f"carbon fraction of dead wood {self.dead_wood_fraction}")
        return "; ".join(lines)


def _plain(name: str) -> str:
    return re.sub(r"[\s,_-]+", " ", str(name)).strip().lower()


def _factor(given: Any) -> Factor:
    if isinstance(given, Factor):
        return given
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise ValueError(
                f"A factor must be a value, or a value and its standard error, got "
                f"{given!r}."
            )
        return Factor(float(given[0]), float(given[1]))
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(
            "A factor must be a number, a pair of a value and its standard error, or "
            f"a Factor, got {given!r}."
        )
    return Factor(float(given))


def _optional(given: Given | None) -> Factor | None:
    return None if given is None else _factor(given)


def _ratio(given: Given | RootShoot | str | None) -> Factor | RootShoot | None:
    if isinstance(given, str):
        return Carbon.named(given).below_ground
    return given if isinstance(given, RootShoot) else _optional(given)


def _dead_wood(given: Given | str | None) -> Factor | None:
    from geobiomass.accounting.carbon_factors import DEAD_WOOD

    if not isinstance(given, str):
        return _optional(given)
    if given not in DEAD_WOOD:
        raise ValueError(
            "dead_wood must be a share of above-ground biomass or one of "
            f"{', '.join(map(repr, DEAD_WOOD))}, got {given!r}."
        )
    return DEAD_WOOD[given]


def _squared(factor: Factor) -> float:
    return 0.0 if factor.se is None else factor.se**2


def _product(factor: Factor, other: float, variance: float) -> float:
    """Return the exact variance of the product of two independent quantities."""
    own = _squared(factor)
    return own * other**2 + factor.value**2 * variance + own * variance
