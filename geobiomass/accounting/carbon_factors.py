"""Published factors from biomass to carbon, as data.

Values of IPCC tables were read in secondary copies, not in the volumes themselves; each
source says so. An error is given only where its source gives one.
"""

from __future__ import annotations

from geobiomass.accounting.carbon import Factor, RootShoot

_TABLE_43 = "IPCC (2006), volume 4, table 4.3, read in a secondary copy"
_TABLE_44 = (
    "IPCC (2019 Refinement), volume 4, table 4.4, as in the table lut_rcoeffs of the "
    "public repository giacomo-gcad/carbon (JRC)"
)
_THOMAS = "Thomas and Martin (2012), Forests 3:332-352, 95 % interval of the mean"

FRACTION = Factor(
    0.47,
    (0.49 - 0.44) / (2 * 1.959964),
    f"{_TABLE_43}; its range 0.44 to 0.49 is taken as an interval of 95 %",
)
"""Default carbon fraction, tropical and where no other is known."""

_BROADLEAF = Factor(0.48, None, f"{_TABLE_43}; temperate and boreal broadleaf")
_CONIFER = Factor(0.51, None, f"{_TABLE_43}; temperate and boreal conifer")

Ratio = Factor | RootShoot
_Row = tuple[float, float] | float

# Below-ground to above-ground biomass: one value, or up to 125 Mg/ha and above. Only
# rows that the secondary copy does not mark as missing.
_DEFAULT: dict[str, _Row] = {
    "tropical rainforest Africa": (0.825, 0.532),
    "tropical rainforest Americas": 0.221,
    "tropical rainforest Asia": (0.207, 0.212),
    "tropical moist Africa": 0.232,
    "tropical moist Americas": 0.284,
    "tropical moist Asia": (0.323, 0.246),
    "tropical dry Africa": (0.332, 0.379),
    "tropical dry Americas": (0.341, 0.331),
    "tropical dry Asia": (0.386, 0.362),
    "subtropical humid Africa": 0.232,
    "subtropical humid Americas": (0.175, 0.284),
    "subtropical humid Asia": (0.230, 0.246),
    "subtropical dry Americas": (0.336, 0.352),
    "subtropical dry Asia": 0.440,
    "subtropical steppe": 1.338,
    "tropical rainforest planted Americas": 0.17,
    "tropical rainforest planted Asia": 0.325,
}
_BROADLEAF_ROWS: dict[str, _Row] = {
    "temperate oceanic Europe": (0.192, 0.172),
    "temperate oceanic North America": (0.466, 0.190),
    "temperate oceanic Oceania": (0.213, 0.313),
    "temperate continental North America": (0.481, 0.277),
    "temperate continental Asia": (0.225, 0.305),
    "temperate mountain North America": (0.232, 0.245),
}
_CONIFER_ROWS: dict[str, _Row] = {
    "temperate oceanic Europe": 0.359,
    "temperate oceanic North America": (0.337, 0.338),
    "temperate oceanic planted Europe": (0.359, 0.206),
    "temperate continental North America": (0.243, 0.262),
    "temperate mountain North America": (0.370, 0.217),
}


def _ratio(row: _Row, limit: float = 125.0) -> Ratio:
    if isinstance(row, float):
        return Factor(row, None, _TABLE_44)
    low, high = (Factor(value, None, _TABLE_44) for value in row)
    return RootShoot(low, high, limit)


_BOREAL = _ratio((0.39, 0.24), limit=75.0)

NAMED: dict[str, tuple[Factor, Ratio | None]] = {
    "ipcc 2006": (FRACTION, None),
    "ipcc 2006 temperate broadleaf": (_BROADLEAF, None),
    "ipcc 2006 temperate conifer": (_CONIFER, None),
    "ipcc 2006 tropical rainforest": (
        FRACTION,
        Factor(
            0.37, None, "IPCC (2006), volume 4, table 4.4, read in a secondary copy"
        ),
    ),
    "Thomas Martin 2012 conifer": (Factor(0.508, 0.007 / 1.959964, _THOMAS), None),
    "Thomas Martin 2012 angiosperm": (Factor(0.477, 0.003 / 1.959964, _THOMAS), None),
    **{f"ipcc 2019 {name}": (FRACTION, _ratio(row)) for name, row in _DEFAULT.items()},
    **{
        f"ipcc 2019 {name} broadleaf": (_BROADLEAF, _ratio(row))
        for name, row in _BROADLEAF_ROWS.items()
    },
    **{
        f"ipcc 2019 {name} conifer": (_CONIFER, _ratio(row))
        for name, row in _CONIFER_ROWS.items()
    },
    "ipcc 2019 boreal broadleaf": (_BROADLEAF, _BOREAL),
    "ipcc 2019 boreal conifer": (_CONIFER, _BOREAL),
}
"""Carbon fraction, and ratio of below-ground to above-ground biomass, by name."""

_HARRIS = (
    "Harris et al. (2021), Nature Climate Change 11:234-240, table S4, as in the "
    "public repository giacomo-gcad/carbon (JRC)"
)

DEAD_WOOD: dict[str, Factor] = {
    name: Factor(value, None, _HARRIS)
    for name, value in {
        "tropical below 2000 m, rain below 1000 mm": 0.02,
        "tropical below 2000 m, rain 1000 to 1600 mm": 0.01,
        "tropical below 2000 m, rain above 1600 mm": 0.06,
        "tropical above 2000 m": 0.07,
        "temperate and boreal": 0.08,
    }.items()
}
"""Dead wood as a share of above-ground biomass, tropical with subtropical.

There are no regional defaults of IPCC (2006) for it. No error is given.
"""
