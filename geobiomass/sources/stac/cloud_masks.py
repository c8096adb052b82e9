"""Clouds and shadows of an image by a detector, in place of its classification."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.sources.stac.archives import REFLECTANCES
from geobiomass.sources.stac.composites import MASKED_CLASSES, UNUSABLE_CLASSES
from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

Mask = npt.NDArray[np.bool_]

# Classes of OmniCloudMask: 0 clear, 1 thick cloud, 2 thin cloud, 3 cloud shadow.
_THICK, _THIN, _SHADOW = 1, 2, 3
_PATCH, _OVERLAP = 1000, 300  # pixels, as the package has them


class CloudMask(Protocol):
    """What ``cloud_mask=`` of :func:`geobiomass.from_stac` takes.

    A function may also have two attributes: `bands`, the names of those it needs, by
    default the bands of Sentinel-2 in the cube; and `margin`, the pixels around a block
    that it looks at too, by default 0.
    """

    def __call__(self, image: xr.DataArray) -> npt.ArrayLike:
        """Return which pixels are cloud or shadow, (y, x) bool.

        Parameters
        ----------
        image : xarray.DataArray
            (band, y, x) float32, reflectance x 10^4 of one image, NaN without data.
        """
        ...


@explain_arguments
@dataclass(frozen=True)
class OmniCloudMask:
    """Detect clouds and their shadows with the networks of OmniCloudMask.

    They look at red, green and near infrared at 10 to 50 m (Wright and co-workers 2025,
    "Training sensor-agnostic deep learning models for remote sensing: achieving
    state-of-the-art cloud and cloud shadow identification with OmniCloudMask").

    Parameters
    ----------
    weights : str or path, optional
        Folder with the files of the networks' weights. By default the package's own
        folder, into which it downloads them once.
    thin, shadow : bool
        Whether thin clouds and cloud shadows are masked too.
    device : str, optional
        Where the networks run, such as "cpu" or "cuda"; by default the fastest there.
    models : torch.nn.Module or list of them, optional
        Other networks from (image, 3, y, x) to (image, 4, y, x), in place of the
        package's.

    Notes
    -----
    A block is looked at with 64 pixels around it, so that the mask hardly depends on
    the size of blocks; it is not equal to the last pixel.
    """

    weights: str | Path | None = None
    thin: bool = True
    shadow: bool = True
    device: str | None = None
    models: Any = None

    bands = ("B04", "B03", "B8A")
    margin = 64

    def __post_init__(self) -> None:
        need("cloud_mask='omnicloudmask'", "clouds", "omnicloudmask")
        if self.weights is not None and not Path(self.weights).is_dir():
            raise CubeError(
                "weights of OmniCloudMask must be a folder with the files of its "
                f"networks, got {str(self.weights)!r}; leave it out to download them."
            )

    def __call__(self, image: xr.DataArray) -> Mask:
        """Return which pixels are cloud or shadow, (y, x) bool."""
        from omnicloudmask import predict_from_array

        values = np.nan_to_num(image.values)  # 0 is its number for no data
        side = min(_PATCH, *values.shape[1:])
        with warnings.catch_warnings():
            # It makes patches smaller than it was asked for, and says so.
            warnings.simplefilter("ignore", UserWarning)
            classes = predict_from_array(
                values,
                patch_size=side,
                patch_overlap=min(_OVERLAP, side // 2),
                inference_device=self.device,
                custom_models=self.models,
                destination_model_dir=self.weights,
            )[0]
        masked = [_THICK, *([_THIN] * self.thin), *([_SHADOW] * self.shadow)]
        return np.isin(classes, masked)


def find_mask(asked: Any) -> CloudMask | None:
    """Return the detector that `cloud_mask=` names, or None for the classification.

    Raises
    ------
    CubeError
        If it is neither a known name nor can be called.
    MissingPackageError
        If its package is not installed.
    """
    if asked is None or asked == "classification":
        return None
    if asked == "omnicloudmask":
        return OmniCloudMask()
    if isinstance(asked, str) or not callable(asked):
        more = (
            ": s2cloudless needs band B10 of Level-1C, which Level-2A does not have"
            if asked == "s2cloudless"
            else ""
        )
        raise CubeError(
            "cloud_mask must be 'classification', 'omnicloudmask', OmniCloudMask(...) "
            f"or a function of an image, got {asked!r}{more}."
        )
    unknown = set(getattr(asked, "bands", ())) - set(REFLECTANCES)
    if unknown:
        raise CubeError(
            f"bands of cloud_mask must be among {', '.join(REFLECTANCES)}, got "
            f"{sorted(unknown)}."
        )
    return cast(CloudMask, asked)


def default_classes(mask: CloudMask | None) -> tuple[int, ...]:
    """Return the classes of the scene classification that are masked beside it."""
    return MASKED_CLASSES if mask is None else UNUSABLE_CLASSES


def words_of(mask: CloudMask) -> str:
    """Return the name of a detector, for a cube's attributes."""
    if isinstance(mask, OmniCloudMask):
        kinds = ["thick", *["thin"] * mask.thin, *["shadow"] * mask.shadow]
        return f"OmniCloudMask ({', '.join(kinds)})"
    return str(getattr(mask, "__qualname__", type(mask).__qualname__))


def cloudy(mask: CloudMask, image: xr.DataArray) -> Mask:
    """Return which pixels of an image a detector masks, (y, x).

    Raises
    ------
    CubeError
        If what it returns is not one bool for each pixel.
    """
    found = np.asarray(mask(image))
    if found.shape != image.shape[1:] or found.dtype != bool:
        raise CubeError(
            f"cloud_mask must return bool of the shape {image.shape[1:]}, got "
            f"{found.dtype} of the shape {found.shape} from {words_of(mask)}."
        )
    return found
