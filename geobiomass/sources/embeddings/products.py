"""The products of embeddings that are known: bands, licence, attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Product:
    """What is known of the embeddings of an archive.

    Parameters
    ----------
    name : str
        Its name in titles and in provenance.
    bands : tuple of str
        Names of the dimensions of a vector, in order.
    version : str
        The release; "" where it is not stated.
    licence, attribution : str
        Terms of use, and the text that maps have to show; "" where they are unknown.
    unit_length : bool
        Whether vectors have length 1, so that a mean of them has to be scaled to it.
    step : float, optional
        The step with which values are stored in int16, None where it is unknown.
    """

    name: str
    bands: tuple[str, ...]
    version: str = ""
    licence: str = ""
    attribution: str = ""
    unit_length: bool = False
    step: float | None = None


ALPHAEARTH = Product(
    name="AlphaEarth Foundations Satellite Embedding",
    bands=tuple(f"A{number:02d}" for number in range(64)),
    version="v1 annual",
    licence="CC-BY-4.0",
    # The text that the readme of the files asks for.
    attribution="The AlphaEarth Foundations Satellite Embedding dataset is produced by "
    "Google and Google DeepMind.",
    unit_length=True,
    # Values reach from -1 to 1; neighbouring ones are at least 1 / 127.5**2 apart,
    # twice this step, so that int16 keeps all of them apart.
    step=1 / 32_767,
)
"""AlphaEarth: 64 bands at 10 m, a year each from 2017 to 2025."""

TESSERA = Product(
    name="TESSERA",
    bands=tuple(f"T{number:03d}" for number in range(128)),
    licence="CC0-1.0",
    attribution="TESSERA embeddings, https://geotessera.org",
    # Values are int8 x scale with a scale of at most 1, so all of them fit into int16.
    step=127 / 32_767,
)
"""TESSERA: 128 bands at 10 m, a year each from 2017 to 2025."""


def product_of_store(attrs: Mapping[str, Any], dimensions: int) -> Product:
    """Return the product of a Zarr store of the geo-embeddings convention.

    Parameters
    ----------
    attrs : mapping
        Attributes of its root: ``geoemb:model``, ``geoemb:build_version``, and
        ``license`` and ``attribution`` where the store states them.
    dimensions : int
        Length of a vector.

    Returns
    -------
    Product
        AlphaEarth or TESSERA where the address of the model says so. Any other product
        has the bands E000, E001, ... and no licence but the one that the store states.
    """
    model = str(attrs.get("geoemb:model", ""))
    low = model.lower()
    if "geotessera.org" in low:
        known = replace(TESSERA, version=model.rstrip("/").rpartition("/")[2])
    elif "2507.22291" in low or "alphaearth" in low:  # the number of its article
        known = ALPHAEARTH
    else:
        names = tuple(f"E{number:03d}" for number in range(dimensions))
        known = Product(name=model or "embeddings of an unnamed model", bands=names)
    if len(known.bands) != dimensions:  # another release than those that are known
        letter = known.bands[0][0]
        names = tuple(f"{letter}{number:03d}" for number in range(dimensions))
        known = replace(known, bands=names)
    build = str(attrs.get("geoemb:build_version", ""))
    if build:
        known = replace(known, version=" ".join(filter(None, (known.version, build))))
    licence = attrs.get("license") or attrs.get("licence") or known.licence
    attribution = attrs.get("attribution") or known.attribution
    return replace(known, licence=str(licence), attribution=str(attribution))
