"""Find the files that a table, a list or a folder of photos means."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

from PIL import Image

from .photo_files import PhotoError
from .pixels import RAW

__all__ = ["PhotoFinder", "is_photo_name", "photos_of_folder"]

_HEIC = (".heic", ".heif", ".hif")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# How a file was found if not under its name. The first three say the same name in
# another way; the others are guesses, which are told.
_SAME = ("without spaces around it", "with / for \\", "in another Unicode form")
_GUESSED = (
    "with other capital letters",
    "with the file's ending added",
    "by its name alone, as the table has a path of another computer",
)


def is_photo_name(path: Path) -> bool:
    """Return whether a file's ending is that of a photo; hidden files are none."""
    Image.init()
    ending = path.suffix.lower()
    # Pillow also lists documents and data: endings of photos begin with an image type.
    kinds = {
        end
        for end, kind in Image.EXTENSION.items()
        if (Image.MIME.get(kind) or "").startswith("image/")
    }
    return not path.name.startswith(".") and (
        ending in kinds or ending in RAW or ending in _HEIC
    )


def photos_of_folder(folder: Path) -> list[str]:
    """Return the names of the photos in a folder, sorted.

    Raises
    ------
    PhotoError
        There is none; the message names folders below that have some.

    Warns
    -----
    UserWarning
        Folders below have photos too, which are left out.
    """
    found = [path for path in folder.rglob("*") if path.is_file()]
    photos = [path for path in found if is_photo_name(path)]
    here = sorted(path.name for path in photos if path.parent == folder)
    below = Counter(path.parent for path in photos if path.parent != folder)
    some = ", ".join(f"{path} ({count})" for path, count in sorted(below.items())[:5])
    if not here:
        advice = f"there are some in {some}" if below else "give another folder"
        raise PhotoError(
            f"a folder of photos must hold some, got {folder} with {len(found)} files "
            f"and no photo; {advice}"
        )
    if below:
        warnings.warn(
            f"{len(here)} photos in {folder} are used, and {sum(below.values())} in "
            f"folders below are left out: {some}",
            stacklevel=4,
        )
    return here


class PhotoFinder:
    """Find files by the names in a table, also where they are spelled differently.

    Parameters
    ----------
    root
        The folder that relative names start from.

    Attributes
    ----------
    repairs
        How many names were found in each other way.
    examples
        One name of each, and the file that it was taken for.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repairs: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._listed: dict[Path, list[str]] = {}

    def find(self, name: str) -> str:
        """Return the path of a photo; as the table has it if there is no such file."""
        path = self._within(name)
        if not path.is_file():
            found, ways = self._search(name)
            if found is not None:
                path = found
                for way in ways:
                    self.repairs[way] += 1
                    self.examples.setdefault(way, f"{name} is {found}")
        return str(path)

    def _within(self, name: str) -> Path:
        path = Path(name)
        if name.startswith("~"):
            path = path.expanduser()
        return (self.root / path).resolve()

    def _search(self, name: str) -> tuple[Path | None, list[str]]:
        text, ways = name, []
        if text != text.strip():
            text = text.strip()
            ways.append(_SAME[0])
        if "\\" in text and os.sep != "\\":
            foreign = _WINDOWS.match(text) is not None
            text = text.replace("\\", "/")
            ways.append(_SAME[1])
        else:
            foreign = _WINDOWS.match(text) is not None or Path(text).is_absolute()
        if (path := self._within(text)).is_file():
            return path, ways
        if foreign and not path.parent.is_dir():
            text = text.rsplit("/", 1)[-1]
            ways.append(_GUESSED[2])
            if (path := self._within(text)).is_file():
                return path, ways
        for same, way in (
            (_composed, _SAME[2]),
            (_folded, _GUESSED[0]),
            (_stem, _GUESSED[1]),
        ):
            if same is _stem and Path(text).suffix and is_photo_name(Path(text)):
                continue
            if (found := self._walk(text, same)) is not None:
                return found, [*ways, way]
        return None, []

    def _walk(self, text: str, same: object) -> Path | None:
        """Return the one file whose folders and name are the same but for `same`."""
        parts = Path(text).parts
        absolute = Path(text).is_absolute()
        places = [Path(parts[0])] if absolute else [self.root.resolve()]
        steps = parts[1:] if absolute else parts
        for number, part in enumerate(steps):
            last = number == len(steps) - 1
            if part == "..":
                places = [place.parent for place in places]
                continue
            places = [
                place / entry
                for place in places
                for entry in self._entries(place)
                if _matches(entry, part, same, last)
            ]
        files = [place for place in places if place.is_file()]
        return files[0].resolve() if len(files) == 1 else None

    def _entries(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            self._listed[folder] = os.listdir(folder) if folder.is_dir() else []
        return self._listed[folder]

    @property
    def guesses(self) -> str:
        """What was guessed, with counts and examples, as one text; or nothing."""
        return "; ".join(
            f"{self.repairs[way]} found {way} ({self.examples[way]})"
            for way in _GUESSED
            if self.repairs[way]
        )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _stem(name: str) -> str:
    return _folded(Path(name).stem if is_photo_name(Path(name)) else name)


def _matches(entry: str, part: str, same: object, last: bool) -> bool:
    if same is _stem:
        if not last:
            return _folded(entry) == _folded(part)
        return is_photo_name(Path(entry)) and _stem(entry) == _folded(part)
    compare = _composed if same is _composed else _folded
    return compare(entry) == compare(part)
