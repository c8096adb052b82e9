"""A baseline from colours alone: vegetation indices and a ridge regression.

A network, which also sees shapes, must do better than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from geobiomass.training.packages import need

from .loader import PhotoError, open_photo
from .photos import TARGETS

__all__ = ["ColourIndexRidge", "colour_indices", "cross_validate", "index_photos"]

Floats = npt.NDArray[np.float64]

_PERCENTILES = (10, 50, 90)  # of each index over the pixels of a photo
_BINS = 256  # of the histogram for Otsu's threshold
_WIDEST = 1024  # pixels across; wider photos are halved until they are no wider


def colour_indices(
    photo: str | Path | Image.Image | npt.NDArray[np.uint8],
) -> pd.Series:
    """Compute colour statistics of a photo, which do not depend on shapes.

    With r, g and b the chromatic coordinates (R, G and B divided by their sum), the
    indices of each pixel are:

    - ``ExG`` = 2 g - r - b, excess green (Woebbecke et al. 1995, Transactions of the
      ASAE 38(1)).
    - ``ExR`` = 1.4 r - g, excess red, and ``ExGR`` = ExG - ExR (Meyer & Neto 2008,
      Computers and Electronics in Agriculture 63(2)).
    - ``NGRDI`` = (G - R) / (G + R) (Tucker 1979, Remote Sensing of Environment 8(2);
      Hunt et al. 2005, Precision Agriculture 6(4)).
    - ``GLI`` = (2 G - R - B) / (2 G + R + B) (Louhaichi et al. 2001, Geocarto
      International 16(1)).
    - ``VARI`` = (G - R) / (G + R - B) (Gitelson et al. 2002, Remote Sensing of
      Environment 80(1)), clipped to -1 and 1, because it is unbounded where blue is
      strong, and 0 where its divisor is 0.
    - ``saturation`` and ``brightness``, S and V of the HSV colours, 0 to 1.

    Parameters
    ----------
    photo
        A file, an image, or (y, x, 3) uint8 RGB.

    Returns
    -------
    pandas.Series
        Float64. For each index ``_mean``, ``_p10``, ``_p50`` and ``_p90``. The shares
        of pixels ``straw_hue`` (20 to 60 degrees of hue), ``green_hue`` (60 to 170),
        ``cover`` (ExG above the threshold of Otsu 1979, IEEE Transactions on Systems,
        Man, and Cybernetics 9(1)) and ``cover_ExGR`` (ExGR above 0, as in Meyer &
        Neto). The indices of a black pixel are 0; a grey pixel has no hue.

    Raises
    ------
    PhotoError
        The file cannot be read.
    ValueError
        An array of another shape or type.
    """
    pixels = _pixels(photo)
    channels = np.moveaxis(pixels.astype(np.float64) / 255, -1, 0)
    maps = _indices(channels)
    numbers: dict[str, float] = {}
    for name, values in maps.items():
        numbers[f"{name}_mean"] = float(values.mean())
        for share, value in zip(
            _PERCENTILES, np.percentile(values, _PERCENTILES), strict=True
        ):
            numbers[f"{name}_p{share}"] = float(value)
    hue = _hue(channels)
    numbers["straw_hue"] = float(((hue >= 20) & (hue < 60)).mean())
    numbers["green_hue"] = float(((hue >= 60) & (hue < 170)).mean())
    numbers["cover"] = float((maps["ExG"] > otsu(maps["ExG"])).mean())
    numbers["cover_ExGR"] = float((maps["ExGR"] > 0).mean())
    return pd.Series(numbers)


def _pixels(photo: Any) -> npt.NDArray[np.uint8]:
    if isinstance(photo, str | Path):
        photo = open_photo(str(photo))
    if isinstance(photo, Image.Image):
        halvings = max(0, int(np.ceil(np.log2(photo.width / _WIDEST))))
        photo = np.asarray(photo.convert("RGB").reduce(2**halvings))
    array = np.asarray(photo)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            "pixels of a photo must be (y, x, 3) uint8, got "
            f"{array.shape} {array.dtype}; convert them to RGB, red first"
        )
    return array


def _indices(channels: Floats) -> dict[str, Floats]:
    """Return each index, (y, x), by name; `channels` is (3, y, x), 0 to 1."""
    red, green, blue = channels
    total = channels.sum(0)
    r, g, b = (_ratio(channel, total) for channel in channels)
    top, bottom = channels.max(0), channels.min(0)
    excess_green, excess_red = 2 * g - r - b, 1.4 * r - g
    return {
        "ExG": excess_green,
        "ExR": excess_red,
        "ExGR": excess_green - excess_red,
        "NGRDI": _ratio(green - red, green + red),
        "GLI": _ratio(2 * green - red - blue, 2 * green + red + blue),
        "VARI": np.clip(_ratio(green - red, green + red - blue), -1, 1),
        "saturation": _ratio(top - bottom, top),
        "brightness": top,
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotients, 0 where the divisor is 0."""
    nothing = np.abs(below) < 1e-9
    return np.where(nothing, 0.0, above / np.where(nothing, 1.0, below))


def _hue(channels: Floats) -> Floats:
    """Return hues (y, x) in degrees from 0 to below 360, -1 for grey pixels."""
    red, green, blue = channels
    top, spread = channels.max(0), np.ptp(channels, axis=0)
    from_red = _ratio(green - blue, spread) % 6
    from_green = _ratio(blue - red, spread) + 2
    from_blue = _ratio(red - green, spread) + 4
    hue = np.where(top == red, from_red, np.where(top == green, from_green, from_blue))
    return np.where(spread == 0, -1.0, 60 * hue)


def otsu(values: Floats) -> float:
    """Return Otsu's threshold, which separates values into two classes.

    Of all bin edges of a histogram, it is the one with the largest variance between
    the classes below and above it. Where all values are equal it is that value, so
    that no value is above it.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return high
    counts, edges = np.histogram(values, _BINS, (low, high))
    share = counts / counts.sum()
    middle = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(share)[:-1], np.cumsum(share * middle)[:-1]
    total = float((share * middle).sum())
    between = (total * below - moment) ** 2 / (below * (1 - below))
    return float(edges[1:-1][np.argmax(between)])


def index_photos(photos: pd.DataFrame) -> pd.DataFrame:
    """Return the `colour_indices` of photos, one row per photo on their index.

    Parameters
    ----------
    photos
        A table with the column ``path``.

    Raises
    ------
    PhotoError
        `photos` has no rows or no ``path``, or a photo cannot be read.
    """
    if photos.empty or "path" not in photos:
        raise PhotoError(
            f"photos must have rows and a column path, got {len(photos)} rows and "
            f"{', '.join(map(str, photos.columns)) or 'no column'}; read them with "
            "pasture.read_photos"
        )
    rows = [colour_indices(path) for path in photos["path"]]
    return pd.DataFrame(rows).set_index(photos.index)


class ColourIndexRidge:
    """Ridge regression of green, dead and clover grams on colour indices of photos.

    Indices are standardised to mean 0 and standard deviation 1. The strength of the
    ridge penalty is chosen for each target by leave-one-out cross-validation.
    Predictions below 0 become 0. The other two targets are the sums of these three.

    Parameters
    ----------
    strengths
        Strengths of the ridge penalty to choose from.
    """

    def __init__(self, strengths: Sequence[float] = (0.1, 1, 10, 100, 1000)) -> None:
        self.strengths = tuple(strengths)

    def fit(self, photos: pd.DataFrame, indices: pd.DataFrame | None = None) -> Self:
        """Train on photos.

        Parameters
        ----------
        photos
            Photos with grams, as `pasture.read_photos` returns them.
        indices
            The photos' `index_photos`, if already computed.

        Raises
        ------
        PhotoError
            Photos cannot be read, or have no grams of green, dead or clover.
        """
        need("The baseline", "demo", "sklearn")
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        parts = list(TARGETS[:3])
        if absent := [name for name in parts if name not in photos]:
            raise PhotoError(
                f"photos to fit must have {', '.join(parts)}, got no "
                f"{', '.join(absent)}; add these columns"
            )
        ridge = RidgeCV(np.array(self.strengths, float), alpha_per_target=True)
        self.model_ = make_pipeline(StandardScaler(), ridge)
        seen = _indices_of(photos, indices)
        self.model_.fit(seen.to_numpy(), photos[parts].to_numpy(np.float64))
        return self

    def predict(
        self, photos: pd.DataFrame, indices: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """Predict grams, in the layout of `pasture.PastureRegressor.predict`.

        Parameters
        ----------
        photos
            Photos to predict. Only ``path`` is used.
        indices
            The photos' `index_photos`, if already computed.

        Returns
        -------
        pandas.DataFrame
            Grams, float64, on the photos' index: one column per target.

        Raises
        ------
        PhotoError
            A photo cannot be read.
        RuntimeError
            The model is not fitted.
        """
        if not hasattr(self, "model_"):
            raise RuntimeError(
                "ColourIndexRidge must be fitted before it predicts, got one that is "
                "not; call fit first"
            )
        found = self.model_.predict(_indices_of(photos, indices).to_numpy())
        green, dead, clover = np.maximum(found, 0).T
        matter = green + clover
        grams = np.stack([green, dead, clover, matter, matter + dead], axis=1)
        return pd.DataFrame(grams, index=photos.index, columns=list(TARGETS))


def _indices_of(photos: pd.DataFrame, indices: pd.DataFrame | None) -> pd.DataFrame:
    return index_photos(photos) if indices is None else indices.loc[photos.index]


def cross_validate(
    photos: pd.DataFrame,
    folds: pd.Series,
    model: ColourIndexRidge | None = None,
    indices: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Predict each photo with a ridge regression fitted without the photo's fold.

    These are out-of-fold predictions.

    Parameters
    ----------
    photos
        Photos with grams, as `pasture.read_photos` returns them.
    folds
        Fold number of each photo, on the photos' index. Photos of one sampling date
        belong in one fold.
    model
        A model that is fitted again for each fold; by default a `ColourIndexRidge`.
    indices
        The photos' `index_photos`, if already computed.

    Returns
    -------
    pandas.DataFrame
        Grams, as `ColourIndexRidge.predict` returns them.

    Raises
    ------
    PhotoError
        Photos cannot be read or have no grams.
    ValueError
        A photo is in no fold, or there are fewer than two folds.
    """
    numbers = folds.reindex(photos.index)
    if numbers.isna().any() or numbers.nunique() < 2:
        raise ValueError(
            "folds must give each photo one of 2 folds or more, got "
            f"{numbers.nunique()} folds and {int(numbers.isna().sum())} of "
            f"{len(photos)} photos in none; make them with pasture.balanced_folds"
        )
    seen = _indices_of(photos, indices)
    model = model or ColourIndexRidge()
    parts = []
    for fold in numbers.unique():
        held = numbers == fold
        parts.append(model.fit(photos[~held], seen).predict(photos[held], seen))
    return pd.concat(parts).loc[photos.index]
