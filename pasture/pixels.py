"""Photos of any kind as RGB of 8 bits, or refused with the remedy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from geobiomass.training.packages import need

__all__ = [
    "NOTES",
    "RAW",
    "UnsuitablePhotoError",
    "check_frames",
    "check_kind",
    "has_16_bits",
    "look_at",
    "photo_formats",
    "to_rgb",
]

NOTES = {
    "grey": "grey, without the colours that tell green from dead",
    "float": "of floating-point numbers from 0 to 1, read as shares of white",
    "CMYK": "CMYK without a colour profile, so that colours are approximate",
    "transparent": "transparent in up to 1 % of their pixels, read with the colours "
    "that are stored there",
    "blank": "of one colour in all pixels",
}
"""What is told of photos that are used, by the word that `to_rgb` returns."""

# Files of camera sensors. Pillow opens some of them, and finds the thumbnail only.
_RAW = """
.3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw
.rw2 .sr2 .srf .srw .x3f
"""
RAW = frozenset(_RAW.split())
_DNG_VERSION = 50706  # the TIFF tag that each DNG has (Adobe, DNG specification)
# Brands of the container's first box, ISO/IEC 23008-12: HEIC and its relatives.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")  # formats with several images in one
_NOT_PHOTOS = frozenset(
    {
        "EPS",
        "WMF",
        "BUFR",
        "GRIB",
        "HDF5",
        "MPEG",
        "PDF",
        "PSD",
        "FLI",
        "IPTC",
        "XVTHUMB",
    }
)
_TRANSPARENT = 0.01  # share of pixels
# Of the range of 16 bits: values of 14 bits and fewer stay below.
_FEW_BITS = 1 / 4


class UnsuitablePhotoError(ValueError):
    """An error of a photo that can be decoded, but not read as colours."""


def check_kind(path: str) -> None:
    """Check that Pillow reads files of this kind; register the reader of HEIC.

    Raises
    ------
    UnsuitablePhotoError
        The file holds the raw values of a camera's sensor.
    geobiomass.training.packages.MissingPackageError
        It is a HEIC photo, and pillow-heif is not installed.
    """
    if Path(path).suffix.lower() in RAW:
        raise UnsuitablePhotoError(
            "it holds the raw values of a camera's sensor; develop it, and save it as "
            "JPEG"
        )
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        need("A HEIC photo", "heic", "pillow_heif")
        import pillow_heif

        pillow_heif.register_heif_opener()


def photo_formats() -> list[str]:
    """Return the formats that a photo may have, whatever the name of its file.

    Pillow decides by content. It runs Ghostscript for EPS, and other programs for the
    formats of weather and documents, none of which are photos.
    """
    Image.init()
    return sorted(set(Image.OPEN) - _NOT_PHOTOS)


def check_frames(image: Image.Image) -> None:
    """Check that an opened file is one photo, not an animation or a stack.

    Raises
    ------
    UnsuitablePhotoError
        It has several images, other than smaller copies of the first one.
    """
    if image.format == "TIFF" and _DNG_VERSION in image.tag_v2:  # type: ignore[attr-defined]
        raise UnsuitablePhotoError(
            "it holds the raw values of a camera's sensor (DNG); develop it, and save "
            "it as JPEG"
        )
    # Phones' JPEGs (MPO) have previews and depth maps behind the photo.
    if image.format not in _FRAMES:
        return
    count = int(getattr(image, "n_frames", 1))
    if count == 1 or (image.format == "TIFF" and _are_copies(image, count)):
        return
    raise UnsuitablePhotoError(
        f"it holds {count} images; save the one to use as a file of its own"
    )


def _are_copies(image: Image.Image, count: int) -> bool:
    """Return whether all pages of a TIFF but the first are smaller (overviews)."""
    width, height = image.size
    smaller = []
    for number in range(1, count):
        image.seek(number)
        smaller.append(image.width < width and image.height < height)
    image.seek(0)
    return all(smaller)


def has_16_bits(image: Image.Image) -> bool:
    """Return whether a file that was opened, but not loaded, has 16 bits a channel."""
    return any(";16" in str(tile[-1]) for tile in getattr(image, "tile", []))


def to_rgb(image: Image.Image, deep: bool = False) -> tuple[Image.Image, list[str]]:
    """Convert a decoded image to RGB of 8 bits.

    16 bits are divided by 257, floating-point numbers from 0 to 1 multiplied by 255,
    CMYK converted by its colour profile if it has one. RGB is left as it is.

    Parameters
    ----------
    image
        As Pillow decodes it.
    deep
        Whether the file has 16 bits a channel (`has_16_bits`). Pillow gives those of
        colours as 8 bits.

    Returns
    -------
    image, notes
        RGB, and the words of `NOTES` that hold for it.

    Raises
    ------
    UnsuitablePhotoError
        Its values have no certain meaning as colours, or more than 1 % of its pixels
        are transparent.
    """
    notes: list[str] = []
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        notes += ["float"] if image.mode == "F" else []
        return Image.fromarray(_as_bytes(values, image.mode)).convert("RGB"), notes
    if image.mode == "CMYK":
        found = _from_profile(image)
        return found or image.convert("RGB"), [] if found else ["CMYK"]
    if _has_alpha(image):
        notes += _check_alpha(image.convert("RGBA").getchannel("A"))
    if image.mode == "LAB":
        raise UnsuitablePhotoError(
            "it is in the colour space LAB; save it as JPEG, which is RGB"
        )
    rgb = image.convert("RGB")
    if deep and max(high for _, high in rgb.getextrema()) < 256 * _FEW_BITS:  # type: ignore[misc]
        raise UnsuitablePhotoError(_few_bits("stay below a quarter of white"))
    return rgb, notes


def look_at(image: Image.Image) -> list[str]:
    """Return the words of `NOTES` that hold for the pixels of an RGB image."""
    if all(low == high for low, high in image.getextrema()):  # type: ignore[misc]
        return ["blank"]
    red, green, blue = np.moveaxis(np.asarray(image), -1, 0)
    return ["grey"] if (red == green).all() and (green == blue).all() else []


def _as_bytes(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """Return values of one channel from 0 to 255."""
    known = values.astype(np.float64)
    low, high = float(known.min()), float(known.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnsuitablePhotoError(
            "it has floating-point values that are NaN or infinite; save it as 8 bits"
        )
    if mode == "F":
        if low < 0 or high > 1 or high <= 1 / 255:
            raise UnsuitablePhotoError(
                f"it has floating-point values from {low:g} to {high:g}, whose black "
                "and white are unknown; save them as 8 bits, 0 to 255"
            )
        return np.rint(known * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise UnsuitablePhotoError(
            f"it has integers of 32 bits from {low:g} to {high:g}, whose black and "
            "white are unknown; save them as 8 bits, 0 to 255"
        )
    if high < 65536 * _FEW_BITS:
        raise UnsuitablePhotoError(_few_bits(f"reach only {high:,.0f} of 65,535"))
    return np.rint(known / 257).astype(np.uint8)


def _few_bits(reach: str) -> str:
    return (
        f"it has values of 16 bits that {reach}, as those of a sensor of 14 bits or "
        "fewer do; scale them to 8 bits, 0 to 255"
    )


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or (
        "transparency" in image.info
    )


def _check_alpha(alpha: Image.Image) -> list[str]:
    seen = float((np.asarray(alpha) < 255).mean())
    if seen > _TRANSPARENT:
        raise UnsuitablePhotoError(
            f"it is transparent in {seen:.0%} of its pixels; cut the photo so that "
            "all of it is seen, and save it as JPEG"
        )
    return ["transparent"] if seen else []


def _from_profile(image: Image.Image) -> Image.Image | None:
    """Convert CMYK by the file's colour profile; None without a usable one."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        return ImageCms.profileToProfile(
            image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:
        return None  # told as CMYK without a profile
