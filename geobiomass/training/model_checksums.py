"""Checksums of a model's files: in its README.md and, again, in its config.json.

They are in these files since the files of a model are known by name to other programs
and to earlier releases. README.md has them as sha256sum writes and checks them. It is
free text, which a person may rewrite or delete: then those in config.json still count,
which has a checksum of itself. Folders of earlier releases have them in README.md only,
or not at all.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

from .checksums import OWN, agrees, with_checksum
from .files import sha256_of_file
from .json_files import read_json
from .model_folder import CARD, CONFIG, FILES, MEMBER, broken

_TITLE = "## Checksums"
NOTED = "checksums"
"""Entry of ``config.json``."""
_NAME = "|".join(map(re.escape, sorted(FILES - {CARD})))
_LINE = re.compile(
    rf"^([0-9a-f]{{64}}) [ *]((?:member-[1-9]\d*/)?(?:{_NAME}))$", re.MULTILINE
)


def write_checksums(folder: Path, twice: bool = True) -> None:
    """Add the checksums of all files to README.md and config.json, also of members.

    The list of an ensemble has the ``config.json`` of each member; the member's own
    list has its other files.

    Parameters
    ----------
    folder : Path
        A model that is otherwise complete.
    twice : bool
        Whether config.json gets them as well.
    """
    for member in _members(folder):
        write_checksums(member, twice)
    if twice:
        config = read_json(folder / CONFIG, dict)
        noted = {n: sha256_of_file(folder / n) for n in _listed(folder) if n != CONFIG}
        text = json.dumps(with_checksum({**config, NOTED: noted}), indent=2)
        (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")
    lines = [f"{sha256_of_file(folder / name)}  {name}" for name in _listed(folder)]
    text = (
        f"\n{_TITLE}\n\nSHA-256 of the other files, which loading compares, and "
        "`sha256sum --check README.md` in this folder. Please keep the lines when you "
        "edit this page.\n\n```\n" + "\n".join(lines) + "\n```\n"
    )
    with (folder / CARD).open("a", encoding="utf-8") as card:
        card.write(text)


def check_checksums(folder: Path, members: bool = False) -> int:
    """Compare the files of a model with their checksums.

    Parameters
    ----------
    folder : Path
        The model's folder. Where neither README.md nor config.json has checksums,
        nothing is compared.
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

    Warns
    -----
    UserWarning
        If README.md is gone, or has not all checksums any more.
    """
    card = folder / CARD
    noted, listed = _in_config(folder), _read_checksums(card)
    known = {**listed, **noted}
    for name, digest in known.items():
        path = folder / name
        if not path.is_file():
            raise broken(path, f"{CONFIG if name in noted else CARD} lists it")
        found = sha256_of_file(path)
        if found != digest:
            raise broken(
                path,
                f"its SHA-256 is not the one that was noted in "
                f"{CONFIG if name in noted else CARD} when the model was saved",
            )
        if listed.get(name, found) != found:
            raise broken(card, f"it has another SHA-256 of {name} than {CONFIG}")
    others = [n for n in _listed(folder) if n not in {*known, CONFIG}] if known else []
    if others:
        raise broken(
            folder / others[0],
            f"{CONFIG if noted else CARD} does not list it: it is of another model",
        )
    if noted and not {*noted, CONFIG} <= {*listed}:
        state = "has not all checksums any more" if card.is_file() else "is gone"
        warnings.warn(
            f"{card} {state}: it was changed, or a copy is not whole. The other files "
            f"are as they were saved, which {CONFIG} confirms; save the model again "
            "for a new page.",
            UserWarning,
            stacklevel=2,
        )
    count = len({*known, CONFIG} if known else known)
    if members:
        count += sum(check_checksums(each, members) for each in _members(folder))
    return count


def _in_config(folder: Path) -> dict[str, str]:
    """Return the checksums in ``config.json``; none of an earlier release's."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        config: dict[str, Any] = read_json(path, dict)
    except (OSError, ValueError) as error:
        raise broken(path, error) from error
    if NOTED not in config and OWN not in config:
        return {}
    if not agrees(config) or not isinstance(config.get(NOTED), dict):
        raise broken(path, "its checksum differs")
    return dict(config[NOTED])


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
