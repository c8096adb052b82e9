"""Files of photos: open, measure and inspect them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from geobiomass.training.given_paths import check_file

from .pixels import (
    check_frames,
    check_kind,
    has_16_bits,
    look_at,
    photo_formats,
    to_rgb,
)

__all__ = [
    "Inspected",
    "PhotoError",
    "inspect_photo",
    "lay_across",
    "measure_photo",
    "open_photo",
]

# A JPEG is decoded at twice the requested size or more, so that the antialiased
# resizing that follows still has pixels to average.
_SPARE = 2
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
# The errors that Pillow raises for damaged files, depending on the format.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class PhotoError(ValueError):
    """An error of photos that cannot be used, or of their table; it names them all."""


def open_photo(path: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Decode a photo as RGB, rotated by its EXIF orientation.

    Photos of 16 bits, of shares from 0 to 1, grey ones and CMYK are converted, see
    `pasture.pixels.to_rgb`.

    Parameters
    ----------
    path
        The photo's file.
    size
        Width and height that it will be resized to. A large JPEG is decoded at a half,
        a quarter or an eighth of its size, but not below twice this size, which takes a
        fraction of the time.

    Raises
    ------
    PhotoError
        The file cannot be decoded completely, or its values are not certain to be
        colours.
    geobiomass.training.packages.MissingPackageError
        It is a HEIC photo, and pillow-heif is not installed.
    """
    return _decode(path, size)[0]


def _decode(
    path: str, size: tuple[int, int] | None
) -> tuple[Image.Image, list[str], tuple[int, int]]:
    """Return a photo, notes of `to_rgb`, and its whole width and height."""
    try:
        check_file(path)
        check_kind(path)
        with Image.open(path, formats=photo_formats()) as image:
            deep = has_16_bits(image)  # first: EXIF of a PNG loads its pixels
            check_frames(image)
            turned, whole = _is_turned(image), image.size
            if size is not None and image.format == "JPEG":
                width, height = size[::-1] if turned else size
                image.draft("RGB", (_SPARE * width, _SPARE * height))
            rgb, notes = to_rgb(ImageOps.exif_transpose(image), deep)
            return rgb, notes, whole[::-1] if turned else whole
    except _DAMAGE as error:
        raise PhotoError(f"photo {path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a kind that Pillow reads; save it as JPEG or PNG"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; save it with fewer pixels"
    return str(error)


def measure_photo(path: str) -> tuple[int, int]:
    """Return a photo's width and height as shown, without decoding its pixels.

    Raises
    ------
    PhotoError
        The file is not an image.
    geobiomass.training.packages.MissingPackageError
        It is a HEIC photo, and pillow-heif is not installed.
    """
    try:
        check_kind(path)
        with Image.open(path, formats=photo_formats()) as image:
            return image.size[::-1] if _is_turned(image) else image.size
    except _DAMAGE as error:
        raise PhotoError(f"photo {path} cannot be read: {_reason(error)}") from error


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation) in _TURNED


def lay_across(image: Image.Image) -> Image.Image:
    """Turn a photo that is higher than wide by a quarter."""
    if image.height <= image.width:
        return image
    return image.transpose(Image.Transpose.ROTATE_90)


@dataclass(frozen=True)
class Inspected:
    """What a look at a whole photo finds.

    Parameters
    ----------
    width, height
        Pixels, as shown.
    notes
        Words of `pasture.pixels.NOTES`.
    """

    width: int
    height: int
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The longer side divided by the shorter one."""
        return max(self.width, self.height) / min(self.width, self.height)


def inspect_photo(path: str) -> Inspected:
    """Decode a photo to its end, and return what is to be told of it.

    Raises
    ------
    PhotoError
        As for `open_photo`.
    """
    # A truncated file has a size too, so the photo is decoded to its end. The smallest
    # size makes JPEGs quick: they are decoded at an eighth.
    image, notes, (width, height) = _decode(path, (1, 1))
    return Inspected(width, height, tuple(dict.fromkeys([*notes, *look_at(image)])))
