"""Units of targets as people write them, and their conversion.

A table of the spellings of a mass per area, a length and a share, because the units
libraries for Python read "t ha-1" and "kg/m2" but neither "tonnes per hectare" nor
"Mg/ha dry matter".
"""

from __future__ import annotations

import re

MASS_PER_AREA = "Mg/ha"
"""Units in which the package keeps a mass per area."""

# Kilograms. Without the prefixes of case: "Mg" is a megagram and "mg" a milligram.
_MASSES = {
    "Mg": 1e3, "Gg": 1e6, "Tg": 1e9, "kg": 1.0, "Kg": 1.0, "KG": 1.0, "g": 1e-3,
    "megagram": 1e3, "kilogram": 1.0, "gram": 1e-3,
    "t": 1e3, "T": 1e3, "tonne": 1e3, "metric ton": 1e3, "metric tonne": 1e3,
    "lb": 0.45359237, "lbs": 0.45359237, "pound": 0.45359237,
}  # fmt: skip
# Per hectare a ton is a metric one; a short ton comes per acre, and is not guessed.
_TONS = {"ton": 1e3}
# Hectares.
_AREAS = {
    "ha": 1.0, "Ha": 1.0, "HA": 1.0, "hectare": 1.0, "m2": 1e-4, "M2": 1e-4,
    "sqm": 1e-4, "square metre": 1e-4, "square meter": 1e-4,
    "km2": 100.0, "square kilometre": 100.0, "square kilometer": 100.0,
    "ac": 0.40468564224, "acre": 0.40468564224,
}  # fmt: skip
_LENGTHS = {
    "m": 1.0, "metre": 1.0, "meter": 1.0, "dm": 0.1, "decimetre": 0.1, "cm": 0.01,
    "centimetre": 0.01, "centimeter": 0.01, "mm": 0.001, "km": 1000.0,
    "ft": 0.3048, "foot": 0.3048, "feet": 0.3048,
}  # fmt: skip
_SHARES = {
    "1": 1.0, "fraction": 1.0, "m2 m-2": 1.0, "m2/m2": 1.0, "ratio": 1.0,
    "%": 0.01, "percent": 0.01, "per cent": 0.01, "pct": 0.01, "percentage": 0.01,
}  # fmt: skip
_UNSTATED = {"", "-", "none", "nan", "unknown", "n/a", "na", "undefined", "unitless"}

# What is weighed: all of it is dry biomass. Carbon is not, and is left to stand.
_DRY = re.compile(
    r"\(?(?:\b|(?<=[tg])(?=DM))"
    r"(dry[ _]?(matter|weight|mass|biomass)|biomass|agbd?|d\.?m\.?|d\.?w\.?|dry)"
    r"(?![a-z0-9])\.?\)?",
    re.I,
)
_NUMBER = re.compile(r"^([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*[*x\u00d7]?\s+(?=\S)")
# Superscripts, other minus signs, and dots between factors.
_EXPONENTS = str.maketrans(
    "\u207b\u2070\u00b9\u00b2\u00b3\u2212\u2013\u00b7\u22c5", "-0123--  "
)


def plain(units: object) -> str:
    """Return units as text without spaces around it; "" where none are stated."""
    text = "" if units is None else str(units).strip()
    return "" if text.lower() in _UNSTATED else text


def hectare_factor(units: object) -> float | None:
    """Return the factor from a mass per area to Mg/ha; None for other units.

    Parameters
    ----------
    units : object
        As people write them: "kg m-2", "t/ha", "Mg ha^-1", "tonnes per hectare",
        "10 Mg/ha", "t DM/ha".
    """
    text = plain(units).translate(_EXPONENTS)
    factor = 1.0
    if number := _NUMBER.match(text):
        factor, text = float(number[1]), text[number.end() :]
    text = _DRY.sub(" ", text)
    found = _split(text)
    if found is None or factor <= 0:
        return None
    mass, area = found
    hectares = _known(area, _AREAS)
    tons = {**_MASSES, **_TONS} if hectares == 1.0 else _MASSES
    kilograms = _known(mass, tons)
    if mass == "mg" and hectares == 1.0:  # milligrams per hectare make no sense
        kilograms = 1e3
    if kilograms is None or hectares is None:
        return None
    # Powers of ten as divisions, so that 12.3 kg/m2 are 123 and not 122.99999 Mg/ha.
    return float(f"{factor * kilograms / 1e3 / hectares:.12g}")


def _split(text: str) -> tuple[str, str] | None:
    """Return the mass and the area of "mass per area"; None for another form."""
    text = re.sub(r"\s+", " ", text.replace("_", " ").replace(".", " ")).strip()
    text = re.sub(r"\*\*|\^", "", text)
    text = re.sub(r"\s*[*]\s*", " ", text)
    text = re.sub(r"\(\s*(.*?)\s*\)", r"\1", text)
    form = re.fullmatch(r"(.+?)\s*(?:/|\bper\b)\s*(.+)", text, re.I)
    if form is not None:
        area = re.sub(r"\b(k?m) 2$", r"\g<1>2", form[2].strip(), flags=re.I)
        return form[1].strip(), area
    for pattern in (r"(.+?) ?(k?m) ?-2", r"(.+?) ?(ha|hectares?|acres?|ac) ?-1"):
        form = re.fullmatch(pattern, text, re.I)
        if form is not None:
            area = form[2] + ("2" if "2" in pattern else "")
            return form[1].strip(), area
    return None


def _known(word: str, table: dict[str, float]) -> float | None:
    """Return the value of a word, also in the plural or with other capitals."""
    for one in (word, word.lower(), word.lower().removesuffix("s")):
        # Only words of several letters: capitals of "Mg" and "T" have a meaning.
        if one in table and (one == word or len(one) > 2 or one in ("kg", "ha", "m2")):
            return table[one]
    return None


def conversion(given: object, wanted: object) -> float | None:
    """Return the factor from units to other units; None where there is none."""
    one, other = plain(given), plain(wanted)
    if one == other:
        return 1.0
    for factor_of in (hectare_factor, _length, _share):
        found, base = factor_of(one), factor_of(other)
        if found is not None and base is not None:
            return float(f"{found / base:.12g}")
    return None


def _length(units: object) -> float | None:
    return _known(plain(units), _LENGTHS)


def _share(units: object) -> float | None:
    return _known(plain(units), _SHARES)


def is_known(units: object) -> bool:
    """Return whether the units are a mass per area, a length or a share."""
    return any(f(units) is not None for f in (hectare_factor, _length, _share))
