"""Climates of the synthetic landscape: light, leaves, snow, frost and growth."""

from dataclasses import dataclass

Year = tuple[float, ...]
"""A value for each calendar month, January to December."""


@dataclass(frozen=True)
class Climate:
    """What differs between climates."""

    sun_elevation: Year
    """Degrees above the horizon when Sentinel-2 passes."""
    green_ground: Year
    """Share of full green leaf of understorey and grass."""
    green_birch: Year
    """Likewise of broadleaved trees."""
    green_crop: Year
    """Likewise of spring-sown crops."""
    snow: Year
    """Snow depth over the depth that hides open ground, before relief and weather."""
    frost_vv: Year
    """Backscatter of frozen or wet months relative to summer, dB."""
    frost_vh: Year
    growth: float
    """Biomass of mature stands over that of the landscape's version."""


CLIMATES = {
    # At 62 degrees north.
    "boreal": Climate(
        sun_elevation=(9, 16, 27, 38, 47, 51, 49, 42, 31, 20, 11, 8),
        green_ground=(0, 0, 0, 0.1, 0.55, 0.95, 1.0, 0.95, 0.7, 0.4, 0.1, 0),
        green_birch=(0, 0, 0, 0, 0.45, 1.0, 1.0, 0.95, 0.65, 0.15, 0, 0),
        green_crop=(0, 0, 0, 0, 0.1, 0.6, 1.0, 0.65, 0.15, 0.1, 0.05, 0),
        snow=(1.2, 1.4, 0.9, -0.1, -9, -9, -9, -9, -9, -9, -0.5, 0.5),
        frost_vv=(-1.3, -1.6, -1.2, -0.4, 0.0, 0.2, 0.0, 0.1, 0.0, 0.1, -0.1, -1.1),
        frost_vh=(-1.8, -2.6, -1.8, -0.5, 0.0, 0.2, 0.0, 0.1, 0.0, 0.2, -0.1, -1.6),
        growth=1.0,
    ),
    # At 50 degrees north. The sun is 12 degrees higher. Leaves come a month earlier:
    # spring moves north by 2 to 3 days in 100 km (Rötzer and Chmielewski 2001,
    # "Phenological maps of Europe"). They fall a month later. Snow stays on hills
    # only, and no month has hard frost. Crops are sown in autumn and harvested in July.
    # That stands grow to 1.4 times the biomass is an assumption.
    "temperate": Climate(
        sun_elevation=(21, 28, 39, 50, 59, 63, 61, 54, 43, 32, 23, 20),
        green_ground=(0.1, 0.1, 0.3, 0.6, 0.95, 1, 1, 0.95, 0.85, 0.6, 0.3, 0.1),
        green_birch=(0, 0, 0.05, 0.5, 1.0, 1.0, 1.0, 1.0, 0.9, 0.6, 0.1, 0),
        green_crop=(0.25, 0.3, 0.5, 0.8, 1.0, 0.8, 0.3, 0.1, 0.1, 0.15, 0.2, 0.25),
        snow=(-0.2, -0.4, -0.9, -9, -9, -9, -9, -9, -9, -9, -9, -0.7),
        frost_vv=(-0.2, -0.2, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.2, 0.1),
        frost_vh=(-0.3, -0.3, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.2, 0.1),
        growth=1.4,
    ),
}
