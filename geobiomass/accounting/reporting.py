"""What a call of totals asks to be reported beside biomass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.accounting.carbon import Carbon, RootShoot
from geobiomass.accounting.deductions import Deduction, deduction_named
from geobiomass.accounting.region_sums import RegionSum, sum_regions
from geobiomass.accounting.shared_error import ModelErrors, ParameterCovariance

DEFAULT_FRACTION = 0.47


@dataclass(frozen=True)
class Reporting:
    """What a call asks to be reported.

    Parameters
    ----------
    carbon : Carbon or mapping, optional
        Factors, or factors by region; None: only `fraction`, without its error.
    model_error : float or ParameterCovariance, optional
        Error of the models behind the plots' biomass, such as allometric equations.
    deduction : Deduction, optional
        A rule.
    fraction : float
        Carbon fraction where there are no factors.
    """

    carbon: Carbon | Mapping[str, Carbon] | None
    model_error: ModelErrors | None
    deduction: Deduction | None
    fraction: float

    @classmethod
    def of(
        cls,
        carbon: Any,
        model_error: Any,
        deduction: str | None,
        carbon_fraction: float = DEFAULT_FRACTION,
    ) -> Reporting:
        """Return the settings of a call, checked.

        Raises
        ------
        ValueError
            If a name is unknown, or a value out of range.
        """
        if not 0 < carbon_fraction <= 1:
            raise ValueError(
                "carbon_fraction must be above 0 and at most 1, got "
                f"{carbon_fraction!r}."
            )
        if carbon is not None and carbon_fraction != DEFAULT_FRACTION:
            raise ValueError(
                "Totals need carbon= or carbon_fraction=, got both; give the fraction "
                f"as Carbon(fraction={carbon_fraction!r})."
            )
        return cls(
            _carbon_of(carbon),
            _model_error_of(model_error),
            None if deduction is None else deduction_named(deduction),
            carbon_fraction,
        )

    @classmethod
    def of_change(
        cls,
        carbon: Any,
        model_error: Any,
        deduction: str | None,
        carbon_fraction: float = DEFAULT_FRACTION,
    ) -> Reporting:
        """Return the settings of a call of change totals, checked.

        Raises
        ------
        ValueError
            As :meth:`of`, or if a setting is of one date only.
        """
        terms = cls.of(carbon, model_error, deduction, carbon_fraction)
        if isinstance(terms.model_error, ParameterCovariance):
            raise ValueError(
                "model_error of a change must be a relative standard error, such as "
                "0.05, got a covariance: its gradient is that of one date."
            )
        if terms.jumps("pixels"):
            raise ValueError(
                "The below-ground ratio of a change is decided by the first map's mean "
                "in each region, got a ratio by pixels; leave out by_pixels()."
            )
        return terms

    def factors_of(self, region: str) -> Carbon | None:
        """Return the factors of a region."""
        return self.carbon[region] if isinstance(self.carbon, Mapping) else self.carbon

    def check_regions(self, names: Sequence[str]) -> None:
        """Check that what is given by region has all regions.

        Raises
        ------
        ValueError
            If a region has none.
        """
        if isinstance(self.carbon, Mapping):
            bare = [name for name in names if name not in self.carbon]
            if bare:
                raise ValueError(
                    "carbon= by region must have each region, got none for "
                    f"{', '.join(map(repr, bare))}; it has {list(self.carbon)}."
                )
        if isinstance(self.model_error, ParameterCovariance):
            for name in names:
                self.model_error.se_of_mean(name)

    def jumps(self, by: str | None = None) -> list[RootShoot]:
        """Return the ratios that jump at a density, of all regions."""
        whole = self.carbon
        known: list[Carbon | None] = (
            list(whole.values()) if isinstance(whole, Mapping) else [whole]
        )
        ratios = [one.below_ground for one in known if one is not None]
        return [
            one for one in ratios if isinstance(one, RootShoot) and by in (None, one.by)
        ]


def _carbon_of(given: Any) -> Carbon | Mapping[str, Carbon] | None:
    if given is None or isinstance(given, Carbon):
        return given
    if isinstance(given, str):
        return Carbon.named(given)
    if isinstance(given, Mapping):
        found: dict[str, Carbon] = {}
        for key, one in given.items():
            made = _carbon_of(one)
            if isinstance(made, Carbon):
                found[str(key)] = made
        if found and len(found) == len(given):
            return found
    raise TypeError(
        "carbon must be a name, a Carbon, or a mapping of regions to these, got "
        f"{given!r}."
    )


def _model_error_of(given: Any) -> ModelErrors | None:
    if given is None or isinstance(given, ParameterCovariance):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(
            "model_error must be a relative standard error, such as 0.05, or a "
            f"ParameterCovariance, got {given!r}."
        )
    if not 0 <= given < 1:
        raise ValueError(
            "model_error must be a share from 0 to below 1, such as 0.05 for 5 %, got "
            f"{given!r}."
        )
    return float(given)


def low_shares(
    layer: xr.DataArray,
    named: Sequence[tuple[str, Any]],
    terms: Reporting,
    progress: bool,
) -> list[float | None]:
    """Return the share of each region's mapped biomass in pixels up to the limit.

    The map is read once more, and only where a ratio is decided by pixels.
    """
    found: list[float | None] = [None] * len(named)
    for limit in {one.limit for one in terms.jumps("pixels")}:
        # Pixels without a value stay so: a comparison with NaN is false.
        low = layer.where(~(layer > limit), 0.0).rename(layer.name)
        if layer.rio.crs is not None:
            low = low.rio.write_crs(layer.rio.crs)
        both = [
            [RegionSum(name, region, np.zeros(0, bool)) for name, region in named]
            for _ in range(2)
        ]
        for values, sums in zip((low, layer), both, strict=True):
            sum_regions(values, sums, progress=progress)
        for at, (part, whole) in enumerate(zip(*both, strict=True)):
            factors = terms.factors_of(whole.name)
            ratio = None if factors is None else factors.below_ground
            if isinstance(ratio, RootShoot) and ratio.limit == limit:
                found[at] = part.total / whole.total if whole.total > 0 else 1.0
    return found
