"""What differs between the versions of the synthetic landscape.

A version keeps its constants, so that figures made with it can be made again.
Version 2 is compared with real data by ``python -m benchmarks.landscape_truth``.
"""

from dataclasses import dataclass

NUMBERS = (1, 2)


@dataclass(frozen=True)
class Version:
    """The constants of a version; `number` 1 has the landscape before `number` 2."""

    number: int

    stand_spacing: float
    """Metres between the centres of stands, on average."""
    merges: tuple[tuple[int, float], ...]
    """Blocks of cells that share one stand: side in cells, probability."""
    stretch: float
    """Length over width of stands; they follow one direction in a landscape."""
    bend: float
    """Amplitude in metres of the borders of stands."""
    asymptote: tuple[float, float, float]
    """Biomass in Mg/ha of mature pine, spruce and birch of average site."""
    site: tuple[float, float]
    """Spread of the logarithm of biomass between stands: by fertility, by stocking."""
    farm_level: float
    """Threshold of the field above which land is field or meadow; standard normal."""
    wet_level: float
    """Likewise for mires."""
    least: float
    """Smaller biomass in Mg/ha is zero: seedlings, which maps do not report."""

    leaf_depth: float
    """Biomass in Mg/ha at which leaf area reaches 63 % of that of closed canopy."""
    radar_depth: tuple[float, float]
    """Biomass in Mg/ha that transmits 1/e both ways, VV and VH."""
    soil_spread: float
    """Spread of the logarithm of the reflectance of the ground, between stands."""
    crown_spread: float
    """Likewise of crowns."""


VERSIONS = {
    1: Version(
        number=1,
        stand_spacing=180.0,
        merges=((2, 0.4),),
        stretch=1.0,
        bend=40.0,
        # Mature stands have the biomass of Finnish forests, and 0.1 to 0.3 % of pixels
        # exceed 400 Mg/ha.
        asymptote=(130.0, 196.0, 138.0),
        site=(0.13, 0.27),
        farm_level=0.98,
        wet_level=1.35,
        least=0.5,
        leaf_depth=52.0,
        # 150 Mg/ha hides 95 % of the soil in VV.
        radar_depth=(50.0, 62.0),
        soil_spread=0.10,
        crown_spread=0.05,
    ),
    2: Version(
        number=2,
        stand_spacing=125.0,
        merges=((2, 0.45), (4, 0.25)),
        stretch=1.6,
        bend=14.0,
        asymptote=(124.0, 205.0, 134.0),
        site=(0.13, 0.20),
        farm_level=0.83,
        wet_level=1.15,
        least=1.0,
        leaf_depth=52.0,
        radar_depth=(26.0, 32.0),
        soil_spread=0.22,
        crown_spread=0.10,
    ),
}
