"""Checksums of a model's files, in its README.md, as sha256sum writes and checks them.

They are there since the files of a model are known by name to other programs and to
earlier releases, and a README.md is free text. A person may rewrite it; without the
lines nothing is compared, as with folders of earlier releases.
"""

from __future__ import annotations

import re
from pathlib import Path

from .files import sha256_of_file
from .model_folder import CARD, CONFIG, FILES, MEMBER, broken

_TITLE = "## Checksums"
_NAME = "|".join(map(re.escape, sorted(FILES - {CARD})))
_LINE = re.compile(
    rf"^([0-9a-f]{{64}}) [ *]((?:member-[1-9]\d*/)?(?:{_NAME}))$", re.MULTILINE
)


def write_checksums(folder: Path) -> None:
    """Add the checksums of all files to the README.md of a model, and of its members.

    The list of an ensemble has the ``config.json`` of each member; the member's own
    list has its other files.
    """
    for member in _members(folder):
        write_checksums(member)
    lines = [f"{sha256_of_file(folder / name)}  {name}" for name in _listed(folder)]
    text = (
        f"\n{_TITLE}\n\nSHA-256 of the other files, which loading compares, and "
        "`sha256sum --check README.md` in this folder. Please keep the lines when you "
        "edit this page.\n\n```\n" + "\n".join(lines) + "\n```\n"
    )
    with (folder / CARD).open("a", encoding="utf-8") as card:
        card.write(text)


def check_checksums(folder: Path, members: bool = False) -> int:
    """Compare the files of a model with the checksums in its README.md.

    Parameters
    ----------
    folder : Path
        The model's folder. Without README.md, or lines in it, nothing is compared.
    members : bool
        Also compare the files of members of an ensemble.

    Returns
    -------
    int
        Number of files that were compared.

    Raises
    ------
    ModelError
        If a file has changed, is missing, or is of another model; it names the file.
    """
    known = _read_checksums(folder / CARD)
    for name, digest in known.items():
        path = folder / name
        if not path.is_file():
            raise broken(path, f"{folder / CARD} lists it")
        if sha256_of_file(path) != digest:
            raise broken(
                path,
                "its SHA-256 is not the one that was noted in README.md when the model "
                "was saved",
            )
    others = [name for name in _listed(folder) if name not in known] if known else []
    if others:
        raise broken(
            folder / others[0],
            f"{folder / CARD} does not list it: it is of another model",
        )
    count = len(known)
    if members:
        count += sum(check_checksums(each, members) for each in _members(folder))
    return count


def _read_checksums(card: Path) -> dict[str, str]:
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise broken(card, error) from error
    # The last list counts: a person may quote another one above.
    _, _, listed = text.rpartition(_TITLE)
    return {name: digest for digest, name in _LINE.findall(listed)}


def _listed(folder: Path) -> list[str]:
    """Return the files whose checksums a list has."""
    own = sorted(name for name in FILES - {CARD} if (folder / name).is_file())
    return own + [f"{member.name}/{CONFIG}" for member in _members(folder)]


def _members(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if MEMBER.fullmatch(path.name)]
    return sorted(
        (path for path in found if (path / CONFIG).is_file()),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
