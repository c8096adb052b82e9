"""The dossier of totals: one page for an auditor, and a script that makes it again."""

from __future__ import annotations

import os
import warnings
from inspect import signature
from pathlib import Path
from typing import Any

from geobiomass.accounting.sensitivity_of_totals import sensitivity as vary
from geobiomass.accounting.totals import totals as totals_of
from geobiomass.cube.addresses import is_local
from geobiomass.metadata.record import software
from geobiomass.report.dossier_findings import Findings
from geobiomass.report.dossier_script import MARK, Call, numbers_of, script_of
from geobiomass.report.dossier_sections import sections_of
from geobiomass.report.fingerprints import fingerprint_of
from geobiomass.report.page import page
from geobiomass.tables.files import split_part
from geobiomass.training.files import check_writable, write_whole
from geobiomass.training.given_paths import path_text
from geobiomass.training.own_files import check_own_file
from geobiomass.training.setting_names import check_arguments

_GENERATOR = "<!-- geobiomass dossier -->"


def write_dossier(
    path: str | Path,
    map: str | Path,
    regions: Any = None,
    plots: str | Path | None = None,
    *,
    sensitivity: bool = True,
    progress: bool = True,
    **totals: Any,
) -> Path:
    """Write totals for an auditor: one HTML file, and a script that makes it again.

    The page has a summary, the inputs with their SHA-256 fingerprints, the design, the
    totals by region and by stratum, carbon factors and deductions with their sources,
    every check, the total with each choice changed one at a time, and the script. The
    script is also a file beside the page, ``dossier.py`` for ``dossier.html``: it
    checks the fingerprints, calls :func:`geobiomass.totals` with the same arguments,
    and compares every number digit for digit. It claims no compliance with a standard.

    Parameters
    ----------
    path : str or Path
        The destination, ``.html``; an earlier dossier and its script are replaced.
    map : str or Path
        A finished map, Zarr or GeoTIFF. Inputs are paths, not objects in memory, so
        that the script can read them again.
    regions : optional
        As in :func:`geobiomass.totals`: a vector file, bounds, or a mapping of names to
        these; None: the whole map.
    plots : str or Path, optional
        A table or vector file of the plots; or ``residuals=``, the path of a saved
        cross-validation, a table or an error model.
    sensitivity : bool
        Whether to change each choice (:func:`geobiomass.accounting.sensitivity`). Each
        change reads the map again.
    progress : bool
        Show a progress bar.
    **totals
        The other arguments of :func:`geobiomass.totals`; one estimator, not "all".

    Returns
    -------
    Path
        The page.

    Raises
    ------
    CubeError
        If map, regions or plots cannot be used.
    FileExistsError
        If something else than a dossier, or its script, is at one of the paths.
    FileNotFoundError
        If an input does not exist.
    TypeError
        If an input is an object in memory, or an argument is unknown.
    ValueError
        If `path` does not end with .html, there are neither plots nor residuals or
        both, or ``estimator="all"``.

    Notes
    -----
    A dossier is of the totals of one date. Of a change there is none: keep the table of
    :func:`geobiomass.change_totals` and the text of :func:`geobiomass.explain_totals`.
    """
    path, script = _destinations(path)
    call = _checked_call({"map": map, "regions": regions, "plots": plots, **totals})
    prints = [
        (name, fingerprint_of(one))
        for name, paths in call.paths().items()
        for one in paths
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = totals_of(**call.arguments, progress=progress)
    _tell_again(told)
    varied = None
    if sensitivity:
        varied = vary(**call.arguments, table=table, progress=progress)
    used = software()
    text = script_of(
        path,
        call,
        [one for _, one in prints],
        numbers_of(table, varied),
        str(used["packages"]["geobiomass"]),
        sensitivity,
    )
    findings = Findings(call, table, varied, tuple(prints), used, text, script.name)
    sections = sections_of(findings)
    write_whole(script, text)
    write_whole(path, f"{page('Totals for an auditor', sections)}\n{_GENERATOR}\n")
    return path


def _destinations(path: str | Path) -> tuple[Path, Path]:
    """Return the paths of page and script, after a check that both may be written."""
    page_path = Path(path_text(path, "path of a dossier"))
    if page_path.suffix not in (".html", ".htm"):
        raise ValueError(f"path of a dossier must end with .html, got {page_path}.")
    script = page_path.with_suffix(".py")
    for one in (page_path, script):
        check_writable(one)
    check_own_file(page_path, "dossier", lambda _, end: _GENERATOR.encode() in end)
    check_own_file(
        script, "script of a dossier", lambda first, _: first.startswith(MARK.encode())
    )
    return page_path, script


def _checked_call(arguments: dict[str, Any]) -> Call:
    """Return the call of totals, if a dossier can be made of it."""
    known = [name for name in signature(totals_of).parameters if name != "progress"]
    check_arguments("write_dossier", arguments, [*known, "path", "sensitivity"])
    if isinstance(arguments["map"], list | tuple):
        raise TypeError(
            "A dossier is of the totals of one map, got several; of a change keep the "
            "table of gb.change_totals, and gb.explain_totals(table)."
        )
    given = [name for name in ("plots", "residuals") if arguments.get(name) is not None]
    if len(given) != 1:
        raise ValueError(
            "A dossier needs plots= or residuals=, as gb.totals does, got "
            f"{' and '.join(given) or 'neither'}."
        )
    if arguments.get("estimator") == "all":
        raise ValueError(
            "A dossier is of one estimator, got estimator='all'; leave it out: the "
            "section on sensitivity has the others."
        )
    call = Call.of(arguments)
    for name, paths in call.paths().items():
        for one in paths:
            whole = split_part(one)[0]
            if is_local(whole) and not os.path.exists(whole):
                raise FileNotFoundError(
                    f"There is nothing at {whole}; give another path, {name}=."
                )
    return call


def _tell_again(told: list[warnings.WarningMessage]) -> None:
    """Warn of what totals warned of, at the line of the user."""
    for one in told:
        warnings.warn(one.message, one.category, stacklevel=3)
