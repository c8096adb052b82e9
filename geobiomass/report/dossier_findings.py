"""All that a dossier shows: the call, its result, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from geobiomass.report.dossier_script import Call
from geobiomass.report.fingerprints import Fingerprint


@dataclass(frozen=True)
class Findings:
    """All that a dossier shows.

    Parameters
    ----------
    call : Call
        The call of totals.
    table : pandas.DataFrame
        Its result.
    varied : pandas.DataFrame, optional
        Its sensitivity.
    fingerprints : tuple of (str, Fingerprint)
        Each input's argument and fingerprint.
    software : mapping
        Versions and machine.
    script, script_name : str
        The script, and its file's name.
    """

    call: Call
    table: pd.DataFrame
    varied: pd.DataFrame | None
    fingerprints: tuple[tuple[str, Fingerprint], ...]
    software: dict[str, Any]
    script: str
    script_name: str
