"""The script of a dossier, which makes its numbers again and compares them."""

from __future__ import annotations

import json
import math
import os
import pprint
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from geobiomass.accounting.carbon import Carbon
from geobiomass.accounting.shared_error import ParameterCovariance
from geobiomass.cube.addresses import is_local
from geobiomass.report.fingerprints import Fingerprint, check_fingerprints
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.tables.files import split_part

MARK = "# geobiomass dossier script"
FILES = ("map", "regions", "plots", "strata", "poststrata", "residuals")
"""Arguments of totals that may be files."""

_SCRIPT = '''{mark}
"""Make every number of {page} again, and compare them digit for digit.

Run it where it is, beside the inputs it names:  python {name}
It checks the fingerprints of all inputs first. The numbers were made with
geobiomass {release}; {page} names the versions of all packages.
"""

import os
import sys
from math import inf  # noqa: F401
from pathlib import Path

from geobiomass.accounting import Carbon, Factor, ParameterCovariance, RootShoot
from geobiomass.report.dossier_script import make_again
from geobiomass.statistics.interval_of_mean import IntervalRule

os.chdir(Path(__file__).resolve().parent)

FINGERPRINTS = {fingerprints}

# The arguments of gb.totals, and of gb.accounting.sensitivity.
ARGUMENTS = {arguments}

NUMBERS = """
{numbers}
"""

if __name__ == "__main__":
    sys.exit(make_again(ARGUMENTS, FINGERPRINTS, NUMBERS, sensitivity={sensitivity}))
'''


@dataclass(frozen=True)
class Call:
    """A call of totals whose arguments can be written into a script.

    Parameters
    ----------
    arguments : mapping
        Arguments by name: paths, and values of Python.
    """

    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Call:
        """Return a call without arguments that are None, checked.

        Raises
        ------
        TypeError
            If an argument is an object in memory, which a script cannot read again.
        """
        given = {name: one for name, one in arguments.items() if one is not None}
        return cls({name: _plain(name, one) for name, one in given.items()})

    def paths(self) -> dict[str, list[str]]:
        """Return the paths in the arguments, by argument."""
        found = {name: _paths_in(self.arguments.get(name)) for name in FILES}
        return {name: paths for name, paths in found.items() if paths}

    def seen_from(self, folder: Path) -> Call:
        """Return the call with paths that are relative to a folder."""
        return Call(
            {
                name: _moved(one, folder) if name in FILES else one
                for name, one in self.arguments.items()
            }
        )


def script_of(
    page: Path,
    call: Call,
    fingerprints: Sequence[Fingerprint],
    numbers: Mapping[str, Any],
    release: str,
    sensitivity: bool,
) -> str:
    """Return the script that belongs to a page.

    Parameters
    ----------
    page : Path
        The dossier.
    call : Call
        The call of totals, with its paths as the user gave them.
    fingerprints : sequence of Fingerprint
        Of all inputs.
    numbers : mapping
        As :func:`numbers_of` returns them.
    release : str
        The version of the package.
    sensitivity : bool
        Whether the numbers have those of the sensitivity.
    """
    folder = page.resolve().parent
    known = {_relative(one.path, folder): one.sha256 for one in fingerprints}
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items()
    )
    return _SCRIPT.format(
        mark=MARK,
        page=page.name.replace("\\", "_").replace('"', "_"),
        name=page.with_suffix(".py").name.replace("\\", "_").replace('"', "_"),
        release=release,
        fingerprints=_written(known),
        arguments=_written(dict(call.seen_from(folder).arguments)),
        # A name may have any letter, and JSON's escapes have backslashes.
        numbers=f"{{\n{lines}\n}}".replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        sensitivity=sensitivity,
    )


def numbers_of(table: pd.DataFrame, varied: pd.DataFrame | None) -> dict[str, Any]:
    """Return every number of a dossier by name, as JSON values.

    Parameters
    ----------
    table : pandas.DataFrame
        Totals.
    varied : pandas.DataFrame, optional
        Their sensitivity.
    """
    found: dict[str, Any] = {}
    for region, row in zip(table.index, table.to_dict("records"), strict=True):
        found |= {f"{region}: {name}": value for name, value in row.items()}
    for part in table.attrs.get("strata", ()):
        where = f"{part['region']}, stratum {part['stratum']}"
        found |= {f"{where}: {name}": value for name, value in part.items()}
    for check in table.attrs["checks"]:
        found[f"{check['region']}, check {check['check']}"] = check["figure"]
    if varied is not None:
        for number, row in enumerate(varied.to_dict("records"), 1):
            where = f"sensitivity {number}, {row['choice']}, {row['setting']}"
            found |= {f"{where}: {name}": value for name, value in row.items()}
    return {name: _json_value(value) for name, value in found.items()}


def make_again(
    arguments: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    numbers: str,
    *,
    sensitivity: bool = True,
) -> str | None:
    """Make the numbers of a dossier again, and compare them digit for digit.

    Parameters
    ----------
    arguments : mapping
        Arguments of :func:`geobiomass.totals`.
    fingerprints : mapping of str to str
        SHA-256 by path, which is checked first.
    numbers : str
        The numbers of the dossier, JSON.
    sensitivity : bool
        Whether they have those of the sensitivity.

    Returns
    -------
    str or None
        What differs, for ``sys.exit``; None where all numbers are the same.
    """
    from geobiomass.accounting.sensitivity_of_totals import sensitivity as vary
    from geobiomass.accounting.totals import totals

    check_fingerprints(fingerprints)
    print(f"{len(fingerprints)} inputs have their fingerprints.")
    table = totals(**arguments, progress=False)
    varied = vary(**arguments, table=table, progress=False) if sensitivity else None
    expected, found = json.loads(numbers), numbers_of(table, varied)
    print(table[["area", "total", "total_lower", "total_upper"]].to_string())
    names = [*dict.fromkeys([*expected, *found])]
    other = [
        f"{name}: {expected.get(name)!r} in the dossier, {found.get(name)!r} now"
        for name in names
        if name not in expected or name not in found or expected[name] != found[name]
    ]
    if not other:
        print(f"All {len(names)} values are those of the dossier, digit for digit.")
        return None
    listed = "\n  ".join(other[:20])
    return (
        f"{len(other)} of {len(names)} values are not those of the dossier, such as"
        f"\n  {listed}\nOther versions of packages, or another kind of processor, "
        "change last digits; other differences have another reason."
    )


def _json_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


# --- arguments as Python writes them ---


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping) and not isinstance(value, xr.Dataset):
        return {_plain(name, key): _plain(name, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(name, one) for one in value)
    own = Carbon | IntervalRule | ParameterCovariance
    if value is None or isinstance(value, str | int | float | bool | own):
        return value
    raise TypeError(
        f"{name} of a dossier must be a path, or a value that a script can state, got "
        f"a {type(value).__name__} in memory; write it to a file, and give its path, "
        "so that the numbers can be made again."
    )


def _paths_in(value: Any) -> list[str]:
    """Return the paths in an argument: itself, or the values of a mapping."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) and "type" not in value:  # which is GeoJSON
        return [path for one in value.values() for path in _paths_in(one)]
    return []


def _moved(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return _relative(value, folder)
    if isinstance(value, Mapping) and "type" not in value:
        return {name: _moved(one, folder) for name, one in value.items()}
    return value


def _relative(path: str, folder: Path) -> str:
    """Return a path as it is seen from a folder, so that both can move together."""
    whole, part = split_part(path)
    if not is_local(whole):
        return path
    try:
        seen = os.path.relpath(os.path.realpath(whole), folder)
    except ValueError:  # another drive of Windows
        seen = os.path.realpath(whole)
    seen = seen.replace(os.sep, "/")
    return seen if part is None else f"{seen}|layername={part}"


def _written(value: Any) -> str:
    return pprint.pformat(value, width=88, sort_dicts=False)
