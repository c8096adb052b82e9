"""What two satellites see of the synthetic ground, month by month.

Sentinel-2 as a mix of canopy and ground under clouds, Sentinel-1 as a water
cloud with speckle, and the gaps that the real monthly data have.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geobiomass.sources.landscape.forest import (
    BIRCH,
    FIELD,
    MEADOW,
    MIRE,
    Floats,
    Ground,
    Integers,
    Patch,
    Stands,
    chance,
    layer_key,
    scatter,
    smooth,
)

RADAR_BANDS = ("VV_asc", "VH_asc", "VV_desc", "VH_desc")
OPTICAL_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# Rows of the tables below: calendar months 1 to 12.
#
# Sun elevation in degrees at 62 degrees north when Sentinel-2 passes, and its
# azimuth, the same all year because the orbit is sun-synchronous.
SUN_ELEVATION = (9, 16, 27, 38, 47, 51, 49, 42, 31, 20, 11, 8)
SUN_AZIMUTH = 168.0

# Share of full green leaf: understorey and grass, birch, spring-sown crops.
GREEN_GROUND = (0, 0, 0, 0.1, 0.55, 0.95, 1.0, 0.95, 0.7, 0.4, 0.1, 0)
GREEN_BIRCH = (0, 0, 0, 0, 0.45, 1.0, 1.0, 0.95, 0.65, 0.15, 0, 0)
GREEN_CROP = (0, 0, 0, 0, 0.1, 0.6, 1.0, 0.65, 0.15, 0.1, 0.05, 0)

# Depth of snow relative to what hides open ground, without relief and weather.
SNOW = (1.2, 1.4, 0.9, -0.1, -9, -9, -9, -9, -9, -9, -0.5, 0.5)

# Height in standard deviations above which the cloud field is cloud, and the
# haze of the clear rest in percent of cloud probability.
CLOUD_LEVEL = (0.9, 1.2, 1.0, 1.2, 1.3, 1.4, 1.3, 0.6, 1.1, 0.8, 0.6, 0.1)
HAZE = (3, 2, 3, 3, 2, 2, 2, 3, 4, 8, 12, 10)

# Backscatter of frozen or wet months relative to summer, dB: VV, VH.
FROST = (
    (-1.3, -1.8), (-1.6, -2.6), (-1.2, -1.8), (-0.4, -0.5), (0.0, 0.0), (0.2, 0.2),
    (0.0, 0.0), (0.1, 0.1), (0.0, 0.0), (0.1, 0.2), (-0.1, -0.1), (-1.1, -1.6),
)  # fmt: skip

# Reflectance x 10^4 of what fills a pixel, by optical band. The order of size
# follows published boreal spectra (understorey: Rautiainen and co-workers 2011;
# stands of pine, spruce and birch: Lukes and co-workers 2013; snow: Warren 1982)
# and the levels the medians of two real BioMassters chips in July.
CANOPY_GREEN = np.array(
    [
        [150, 305, 175, 530, 1620, 1900, 2000, 2080, 940, 430],  # pine
        [115, 250, 135, 430, 1430, 1720, 1810, 1890, 740, 325],  # spruce
        [170, 400, 185, 720, 2650, 3250, 3350, 3450, 1450, 620],  # birch
    ],
    np.float32,
)
CANOPY_DORMANT = np.array(
    [
        [170, 290, 210, 480, 1280, 1460, 1560, 1640, 860, 420],
        [130, 240, 160, 400, 1180, 1380, 1460, 1540, 700, 320],
        [290, 410, 440, 640, 1020, 1180, 1270, 1370, 1400, 820],
    ],
    np.float32,
)
# Heath floor, herb-rich floor, mire, field, meadow, felled ground.
GROUND_GREEN = np.array(
    [
        [360, 620, 540, 1020, 2000, 2250, 2400, 2520, 2150, 1250],
        [270, 560, 370, 950, 2600, 3050, 3150, 3300, 1950, 1000],
        [310, 580, 520, 1060, 1900, 2150, 2300, 2400, 1850, 900],
        [260, 640, 330, 1150, 3500, 4400, 4600, 4750, 1950, 950],
        [310, 650, 390, 1180, 3100, 3700, 3900, 4000, 2150, 1150],
        [330, 580, 580, 1120, 2250, 2550, 2700, 2850, 2650, 1550],
    ],
    np.float32,
)
GROUND_DORMANT = np.array(
    [
        [400, 600, 640, 930, 1600, 1800, 1950, 2100, 2250, 1400],
        [350, 520, 600, 850, 1400, 1600, 1700, 1850, 2100, 1300],
        [360, 540, 680, 930, 1350, 1500, 1600, 1700, 1700, 1000],
        [560, 780, 1020, 1280, 1700, 1850, 2000, 2150, 2700, 2000],
        [420, 620, 720, 1020, 1700, 1900, 2050, 2200, 2400, 1500],
        [450, 640, 840, 1080, 1600, 1800, 1950, 2100, 2700, 1800],
    ],
    np.float32,
)
FELLED = 5
WATER = np.array([150, 170, 105, 95, 75, 70, 65, 60, 30, 20], np.float32)
ROAD = np.array([700, 920, 1020, 1200, 1650, 1800, 1900, 2000, 2100, 1600], np.float32)
SNOWPACK = np.array(
    [6900, 6800, 6800, 6700, 6600, 6400, 6500, 6200, 700, 560], np.float32
)
CLOUD = np.array(
    [5000, 4700, 4700, 4850, 5100, 5050, 5300, 5200, 3000, 2300], np.float32
)
# Share of the haze's brightness and of direct sunlight by band: skylight is blue.
PATH = np.array([1.0, 0.8, 0.65, 0.5, 0.4, 0.35, 0.3, 0.3, 0.1, 0.05], np.float32)
DIRECT = np.array([0.6, 0.7, 0.75, 0.8, 0.85, 0.85, 0.9, 0.9, 1, 1], np.float32)

# Water cloud: backscatter of dense canopy and of bare soil, dB, and the biomass
# in Mg/ha that lets 1/e through both ways: 150 hides 95 % of the soil in VV.
CANOPY_DB = {"VV": -9.1, "VH": -14.5}
SOIL_DB = {"VV": -13.2, "VH": -19.6}
WATER_DB = {"VV": -20.0, "VH": -26.5}
DEPTH = {"VV": 50.0, "VH": 62.0}
INCIDENCE = 39.0
# Equivalent number of looks of a monthly value: 1 dB of speckle, which with the
# persistent texture gives the 1.2 to 2.9 dB of spread inside forest of real chips.
LOOKS = 20.0

# Months with Sentinel-2 from September to August: the six patterns of the real
# chips, with plausible shares (the last and the second are 6 % and 15 % there).
S2_PATTERNS = {
    "111111111111": 0.24,
    "111011111111": 0.30,
    "111001111111": 0.13,
    "110001111111": 0.12,
    "000000111111": 0.15,
    "000000011111": 0.06,
}
ACQUISITION_ORDER = (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Optics:
    """What does not change with the month, arrays (y, x) unless noted.

    `tables` (month, side, band, surface) holds ground and canopy spectra of each
    stand, water and roads last; `surface` indexes it; `grain` is the persistent
    texture; `leaf` the leaf area index of full leaf; `deciduous` a mask.
    """

    tables: Floats
    surface: Integers
    leaf: Floats
    deciduous: npt.NDArray[np.bool_]
    grain: Floats
    slopes: tuple[Floats, Floats]


def observe(ground: Ground, months: tuple[int, ...]) -> Floats:
    """Return the image (month, band, y, x) of a patch: dB, reflectance x 10^4, %.

    The draws of a month depend on seed and place only, not on the other months.
    """
    patch = ground.patch
    image = np.empty((len(months), 15, patch.side, patch.side), np.float32)
    optics = _optics(ground, months)
    radar = _radar(ground)
    for step, month in enumerate(months):
        key = layer_key(patch.seed, "noise", month, patch.row, patch.col)
        random = np.random.Generator(np.random.SFC64(int(key)))
        image[step, :4] = _backscatter(ground, radar, month, random)
        image[step, 4:14] = _reflectance(ground, optics, step, month, random)
        _cover(patch, month, image[step, 4:], random)
        _drop(patch, month, image[step], random)
    return image


def _gradient(surface: Floats, ground: Ground) -> tuple[Floats, Floats]:
    """Return the rise to the south and to the east in metres a metre."""
    step = np.float32(ground.patch.resolution)
    south: Floats = np.gradient(surface, step, axis=0)
    east: Floats = np.gradient(surface, step, axis=1)
    return ground.trimmed(south), ground.trimmed(east)


def _spectra(stands: Stands, month: int) -> Floats:
    """Return ground and canopy reflectance (2, band, surface) of a month."""
    floor = np.where(stands.fertility > 0, 1, 0)
    floor = np.where(stands.biomass < 12, FELLED, floor)
    kinds = {MIRE: 2, FIELD: 3, MEADOW: 4}
    for land, row in kinds.items():
        floor = np.where(stands.land == land, row, floor)
    green = np.where(
        stands.land == FIELD, GREEN_CROP[month - 1], GREEN_GROUND[month - 1]
    )
    birch = stands.species == BIRCH
    leafy = np.where(birch, GREEN_BIRCH[month - 1], GREEN_GROUND[month - 1])
    # A stand keeps its own share of green and brightness through the year.
    green = np.clip(green * (1 + 0.15 * stands.vigour[0]), 0, 1.2)
    soil = GROUND_DORMANT[floor].T
    soil = soil + green * (GROUND_GREEN[floor].T - soil)
    crown = CANOPY_DORMANT[stands.species].T
    crown = crown + leafy * (CANOPY_GREEN[stands.species].T - crown)
    soil = soil * np.exp(0.10 * stands.vigour[1])
    crown = crown * np.exp(0.05 * stands.vigour[2])
    fixed = np.stack([WATER, ROAD], axis=1)
    both = [np.concatenate([spectra, fixed], axis=1) for spectra in (soil, crown)]
    return np.stack(both).astype(np.float32)


def _optics(ground: Ground, months: tuple[int, ...]) -> Optics:
    """Return the canopy as the optical bands see it.

    Leaf area saturates with biomass, as canopies close at about 100 Mg/ha.
    """
    patch, stands = ground.patch, ground.stands
    surface = ground.trimmed(ground.stand)
    deciduous = stands.species[surface] == BIRCH
    lushness = np.exp(np.float32(0.08) * stands.vigour[0])[surface]
    clumping = smooth(patch, ("clumping",), 1.62 * patch.resolution)
    biomass = ground.trimmed(ground.biomass)
    leaf = np.float32(4.3) * (1 - np.exp(biomass / np.float32(-52))) * lushness
    leaf *= np.exp(np.float32(0.28) * clumping)
    # Water and roads stand behind the stands in the tables.
    last = stands.land.size
    surface = np.where(ground.trimmed(ground.road), last + 1, surface)
    surface = np.where(ground.trimmed(ground.water), last, surface)
    grain = smooth(patch, ("grain",), 1.46 * patch.resolution)
    return Optics(
        tables=np.stack([_spectra(stands, month) for month in months]),
        surface=surface,
        leaf=leaf,
        deciduous=deciduous,
        grain=np.exp(np.float32(0.12) * grain),
        slopes=_gradient(ground.elevation, ground),
    )


def _reflectance(
    ground: Ground, optics: Optics, step: int, month: int, random: np.random.Generator
) -> Floats:
    """Return clear-sky reflectance x 10^4 (band, y, x) of a month.

    Light reaches the ground through gaps after Beer and Lambert (Monsi and Saeki
    1953), gap = exp(-0.55 leaf area index); what it meets is mixed linearly.
    """
    leaf = optics.leaf
    if GREEN_BIRCH[month - 1] < 1:
        left = np.float32(0.3 + 0.7 * GREEN_BIRCH[month - 1])
        leaf = np.where(optics.deciduous, left * leaf, leaf)
    gap = np.exp(np.float32(-0.55) * leaf)
    soil, crown = (
        np.take(side, optics.surface, axis=1) for side in optics.tables[step]
    )
    snow = _snow(ground, month)
    if snow is not None:
        pack = SNOWPACK[:, None, None]
        soil += snow * (pack - soil)
        crown += np.float32(0.09) * snow * (pack - crown)
    scene: Floats = crown + gap * (soil - crown)
    scene *= optics.grain
    light, shade = _illumination(ground, optics.slopes, month)
    scene *= 1 + DIRECT[:, None, None] * (light * shade - 1)
    _blur(ground.patch, scene, month, random)
    return scene


def _snow(ground: Ground, month: int) -> Floats | None:
    """Return the share of open ground under snow, or None outside the season."""
    if SNOW[month - 1] < -1:
        return None
    patch = ground.patch
    weather = 0.8 * (chance(patch.seed, "snow", month) - 0.5)
    depth = ground.trimmed(ground.elevation) / np.float32(90)
    depth = depth + np.float32(SNOW[month - 1] + weather)
    depth += np.float32(0.25) * smooth(patch, ("snow", month), 1500.0, octaves=4)
    cover: Floats = np.clip(depth, 0, 1)
    return cover


def _illumination(
    ground: Ground, slopes: tuple[Floats, Floats], month: int
) -> tuple[Floats, Floats]:
    """Return light on the slope over that on level ground, and crown shade.

    The cosine of the incidence angle softened as in the C correction (Teillet,
    Guindon and Goodenough 1982). Shade has two parts: crowns that shade each
    other more the taller they stand, and the shadow of taller neighbours
    towards the sun, traced over the height of the canopy.
    """
    elevation = np.deg2rad(SUN_ELEVATION[month - 1])
    azimuth = np.deg2rad(SUN_AZIMUTH)
    south, east = slopes
    tilt = 1 / np.sqrt(1 + south * south + east * east)
    # The surface normal is (-east, +south, 1) in (east, north, up).
    toward = np.float32(np.cos(azimuth)) * south - np.float32(np.sin(azimuth)) * east
    incidence = tilt * (
        np.float32(np.sin(elevation)) + np.float32(np.cos(elevation)) * toward
    )
    light = (incidence + np.float32(0.5)) / np.float32(np.sin(elevation) + 0.5)
    height = ground.trimmed(ground.height)
    crowns = 1 - np.float32(0.12) * (1 - np.exp(height / np.float32(-7)))
    drop = np.float32(ground.patch.resolution * np.tan(elevation))
    tallest = np.zeros_like(height)
    first, size = ground.margin, height.shape[0]
    for distance in range(1, ground.margin + 1):
        aside = round(distance * np.tan(np.pi - azimuth))
        rows = slice(first + distance, first + distance + size)
        cols = slice(first + aside, first + aside + size)
        tops = ground.height[rows, cols] - drop * np.float32(distance)
        np.maximum(tallest, tops, out=tallest)
    shadow = np.clip((tallest - height) / np.float32(12), 0, 1)
    return np.clip(light, 0.4, 1.6), crowns * (1 - np.float32(0.5) * shadow)


def _blur(patch: Patch, scene: Floats, month: int, random: np.random.Generator) -> None:
    """Add what the atmospheric correction leaves and the noise of pixels."""
    air = smooth(patch, ("air", month), 7000.0, octaves=4)
    clear = chance(patch.seed, "air", month) - 0.5
    gain = np.float32(1 + 0.08 * clear) + np.float32(0.012) * air
    offset = np.float32(60 * clear) + np.float32(7) * air
    scene *= gain
    scene += PATH[:, None, None] * offset
    noise = random.standard_normal(scene.shape, dtype=np.float32)
    scene += noise * (np.float32(14) + np.float32(0.045) * scene)


def _cover(
    patch: Patch, month: int, optical: Floats, random: np.random.Generator
) -> None:
    """Lay clouds over the reflectances and write the cloud probability.

    `optical` (band and CLP, y, x) is changed in place and ends as whole numbers.
    """
    clouds = smooth(patch, ("cloud", month), 16000.0, octaves=9, persistence=0.66)
    level = CLOUD_LEVEL[month - 1] + 1.2 * (chance(patch.seed, "cloud", month) - 0.5)
    edge = np.clip((clouds - np.float32(level)) / np.float32(0.9) + 0.5, 0, 1)
    opacity = edge * edge * (3 - 2 * edge)
    brightness = 1 + np.float32(0.08) * clouds
    thick = opacity * brightness
    optical[:10] *= 1 - opacity
    optical[:10] += CLOUD[:, None, None] * thick
    haze = np.float32(HAZE[month - 1]) * np.exp(np.float32(0.5) * clouds)
    noise = random.standard_normal(edge.shape, np.float32)
    haze *= 1 + np.float32(0.3) * noise
    # The detector wakes up before the cloud is opaque.
    likely = (104 + 7 * noise) * np.sqrt(edge)
    optical[10] = np.clip(haze + likely, 0, 100)
    np.rint(optical, out=optical)
    np.clip(optical[:10], 1, 20000, out=optical[:10])


@dataclass(frozen=True)
class Radar:
    """Backscatter as a linear power, arrays (y, x), before month and speckle.

    `canopy` and `soil` by polarisation, `view` the factor of each pass.
    """

    canopy: dict[str, Floats]
    soil: dict[str, Floats]
    view: dict[str, Floats]


def _radar(ground: Ground) -> Radar:
    """Return the parts of the water-cloud model (Attema and Ulaby 1978).

    Backscatter = canopy (1 - T) + soil T with a two-way transmission
    T = exp(-biomass / depth). Texture makes the product model of Jakeman and
    Pusey (1976): it stays from month to month, as in the real chips.
    """
    patch, stands = ground.patch, ground.stands
    stand, water = ground.trimmed(ground.stand), ground.trimmed(ground.water)
    biomass = ground.trimmed(ground.biomass)
    crop = np.select([stands.land == FIELD, stands.land == MIRE], [0.8, 1.0], 0.0)
    rough = (crop + stands.vigour[1]).astype(np.float32)[stand]
    crowns = (0.35 * stands.vigour[2]).astype(np.float32)[stand]
    texture = np.float32(0.9) * smooth(patch, ("texture",), 1.57 * patch.resolution)
    canopy: dict[str, Floats] = {}
    soil: dict[str, Floats] = {}
    for band in ("VV", "VH"):
        through = np.exp(biomass / np.float32(-DEPTH[band]))
        canopy[band] = _power(CANOPY_DB[band] + crowns) * (1 - through)
        bare = np.where(water, np.float32(WATER_DB[band]), SOIL_DB[band] + rough)
        soil[band] = _power(bare) * through
    view: dict[str, Floats] = {}
    surface = ground.elevation + np.float32(0.35) * ground.height
    _, east = _gradient(surface, ground)
    for orbit, rise in (("asc", east), ("desc", -east)):
        own = smooth(patch, ("texture", orbit), 1.57 * patch.resolution)
        view[orbit] = _facing(rise) * _power(texture + np.float32(0.7) * own)
    return Radar(canopy, soil, view)


def _power(decibels: Floats) -> Floats:
    power: Floats = np.exp(np.float32(np.log(10) / 10) * decibels)
    return power


def _facing(rise: Floats) -> Floats:
    """Return the gain in brightness of a slope that rises away from the radar.

    The area that a resolution cell covers goes with 1 / tan of the local
    incidence angle (Ulander 1996, for slopes along the range). Both passes look
    to the right: ascending ones eastwards, descending ones westwards.
    """
    local = np.float32(np.deg2rad(INCIDENCE)) - np.arctan(rise)
    gain = np.float32(np.tan(np.deg2rad(INCIDENCE))) / np.tan(np.clip(local, 0.2, 1.4))
    return np.clip(gain, 0.6, 1.7)


def _backscatter(
    ground: Ground, radar: Radar, month: int, random: np.random.Generator
) -> Floats:
    """Return backscatter in dB (band, y, x) of a month.

    Speckle is a gamma factor of mean 1 (Goodman 1976).
    """
    patch = ground.patch
    moist = smooth(patch, ("moisture", month), 3500.0, octaves=5)
    wet = 3.0 * (chance(patch.seed, "moisture", month) - 0.5)
    moisture = _power(np.float32(wet) + np.float32(0.9) * moist)
    scene = random.standard_gamma(LOOKS, (4, *moist.shape), dtype=np.float32)
    for index, band in enumerate(RADAR_BANDS):
        polarisation, orbit = band.split("_")
        frost = FROST[month - 1][polarisation == "VH"]
        drift = 0.5 * (chance(patch.seed, "drift", month, orbit) - 0.5)
        level = frost + drift - 0.3 * (orbit == "desc")
        canopy, soil = radar.canopy[polarisation], radar.soil[polarisation]
        scene[index] *= (canopy + moisture * soil) * radar.view[orbit]
        scene[index] *= np.float32(10 ** (level / 10) / LOOKS)
    return np.float32(10) * np.log10(scene)


def _drop(patch: Patch, month: int, image: Floats, random: np.random.Generator) -> None:
    """Take away what the real data lack, in place; ascending passes stay."""
    _damage(image[:4], random)
    image[2:4, _descending_missing(patch, month)] = np.nan
    image[4:, _optical_missing(patch, month)] = np.nan


def _damage(backscatter: Floats, random: np.random.Generator) -> None:
    """Set a few pixels of a pass to exactly 0 dB, as the real files have."""
    side = backscatter.shape[-1]
    for first in (0, 2):
        row, col, length = random.integers(0, (side, side, 5))
        if random.random() < 0.12:
            backscatter[first : first + 2, row, col : col + 1 + length] = 0


def _strip(patch: Patch, orbit: str, lean: float) -> Integers:
    """Return the number of the orbit strip (y, x) of each pixel.

    Strips are 8 to 130 km wide, by seed, and lean like the tracks of the orbit.
    """
    width = 8000.0 * 16 ** chance(patch.seed, orbit, "width")
    start = chance(patch.seed, orbit, "start")
    across = patch.metres(patch.col)[None, :] + lean * patch.metres(patch.row)[:, None]
    return np.floor(across / width + start).astype(np.int64)


def _descending_missing(patch: Patch, month: int) -> npt.NDArray[np.bool_]:
    """Return where a month has no descending pass: 7 to 18 % of all pixels.

    Some strips lack the whole winter half-year, any strip a month now and then.
    """
    strip = _strip(patch, "descending", 0.21)
    column = np.zeros_like(strip)
    lost = scatter(layer_key(patch.seed, "pass", month), strip, column) < 0.075
    if month in (11, 12, 1, 2, 3, 4):
        lost |= scatter(layer_key(patch.seed, "winter"), strip, column) < 0.095
    return lost


def _optical_missing(patch: Patch, month: int) -> npt.NDArray[np.bool_]:
    """Return where a month has no Sentinel-2: absent months and holes."""
    strip = _strip(patch, "optical", -0.23)
    column = np.zeros_like(strip)
    step = ACQUISITION_ORDER.index(month)
    absent = np.array([pattern[step] == "0" for pattern in S2_PATTERNS])
    ends = np.cumsum(list(S2_PATTERNS.values()))[:-1]
    pattern = scatter(layer_key(patch.seed, "pattern"), strip, column)
    lost = absent[np.searchsorted(ends, pattern)]
    # A present file is sometimes all but empty, and often has a few holes.
    empty = scatter(layer_key(patch.seed, "empty", month), strip, column) < 0.02
    holes = smooth(patch, ("holes", month), 1800.0, octaves=5)
    return np.asarray(lost | (holes > np.where(empty, -2.3, 2.6)))
