"""Whether an input looks like what a model has learnt: a table, a warning, an error."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.data.band_profile import COLUMNS, BandProfile
from geobiomass.data.input_sample import InputSample
from geobiomass.inference.input_verdicts import (
    OK,
    SCALE,
    SWAPPED,
    UNKNOWN,
    WORST_FIRST,
    Verdict,
    judge,
)

_MOST_LINES = 3
_MOST_BANDS = 6
NO_PROFILE = (
    "the model does not contain the percentiles of its training data, as models of "
    "earlier releases do not; model.learn_percentiles(training_cube) adds them"
)

Learnt = Sequence[tuple[Sequence[str], BandProfile | None]]


def check_input(learnt: Learnt, sample: InputSample) -> pd.DataFrame:
    """Compare a sample of an input with what models have learnt.

    Parameters
    ----------
    learnt : sequence of pairs
        The bands of each model, and the profile of its training data.
    sample : InputSample
        Of the input, with the bands of all models.

    Returns
    -------
    pandas.DataFrame
        As :meth:`geobiomass.BiomassRegressor.check` returns it. A band of several
        models has the worst of their verdicts.
    """
    rows: dict[str, Verdict] = {}
    for bands, profile in learnt:
        for found in judge(profile or BandProfile({}), sample, bands):
            before = rows.get(found.band)
            if before is None or _badness(found) < _badness(before):
                rows[found.band] = found
    table = pd.DataFrame(
        [_row(found, sample) for found in rows.values()],
        index=pd.Index(list(rows), name="band"),
    )
    table.attrs["sample"] = sample.text
    table.attrs["months"] = list(sample.calendar)
    return table


def _badness(found: Verdict) -> int:
    return WORST_FIRST.index(found.verdict)


def _row(found: Verdict, sample: InputSample) -> dict[str, Any]:
    training, values = found.training, found.found
    cause = found.cause
    if found.verdict == UNKNOWN:
        cause = NO_PROFILE
        plain = sample.of(found.band)
        values = np.full(len(COLUMNS), np.nan)
        if plain.size:
            values = np.percentile(plain, [float(name[1:]) for name in COLUMNS])
    return {
        "verdict": found.verdict,
        "cause": cause,
        "outside": found.outside,
        "missing": found.missing,
        **{f"training_{k}": v for k, v in zip(COLUMNS, training, strict=True)},
        **{f"input_{k}": v for k, v in zip(COLUMNS, values, strict=True)},
    }


def summary_of(table: pd.DataFrame) -> str:
    """Return the worst lines of a table in a sentence, "ok" or "unknown".

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`check_input`.
    """
    wrong = table[~table["verdict"].isin((OK, UNKNOWN))]
    if wrong.empty:
        return UNKNOWN if (table["verdict"] == UNKNOWN).any() else OK
    lines: dict[tuple[int, str, str], list[str]] = {}
    for band, verdict, cause in zip(
        wrong.index, wrong["verdict"], wrong["cause"], strict=True
    ):
        key = (WORST_FIRST.index(verdict), verdict, cause)
        lines.setdefault(key, []).append(str(band))
    # First the worst, then what most bands have.
    ranked = sorted(lines.items(), key=lambda line: (line[0][0], -len(line[1])))
    shown = [
        f"{_names(bands)}: {verdict} ({cause})"
        for (_, verdict, cause), bands in ranked[:_MOST_LINES]
    ]
    if len(ranked) > _MOST_LINES:
        shown.append(f"and {len(ranked) - _MOST_LINES} more lines")
    return (
        f"{len(wrong)} of {len(table)} bands do not look like the training data. "
        f"{'. '.join(shown)}"
    )


def _names(bands: Sequence[str]) -> str:
    more = len(bands) - _MOST_BANDS
    return ", ".join(bands[:_MOST_BANDS]) + (f" and {more} more" if more > 0 else "")


def tell(table: pd.DataFrame, check: str, stacklevel: int = 2) -> dict[str, Any]:
    """Warn of what does not look like the training data, or refuse it.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`check_input`.
    check : "warn" or "raise"
        "warn" refuses only what is in another unit or an order off; "raise" all that
        is not ok, and what cannot be checked.
    stacklevel : int
        Of the warning, for the caller of this function.

    Returns
    -------
    dict
        "result", the sentence; "sample"; and "verdicts" by band, where not ok.

    Raises
    ------
    CubeError
        With the worst lines.
    """
    text = summary_of(table)
    verdicts = table["verdict"]
    # Bands of other units in each other's place are an order off, too.
    off = (verdicts == SCALE) | ((verdicts == SWAPPED) & (table["outside"] > 0.95))
    refused = off.any() or (check == "raise" and text != OK)
    if refused:
        reason = f"input cannot be checked: {NO_PROFILE}" if text == UNKNOWN else text
        raise CubeError(
            f"{_sentence(reason)} model.check(cube) shows all; "
            + (
                "check='warn' goes on with a warning."
                if check == "raise" and not off.any()
                else "check='off' goes on all the same."
            )
        )
    if text not in (OK, UNKNOWN):
        warnings.warn(
            f"{_sentence(text)} Looked at {table.attrs['sample']}; model.check(cube) "
            "shows all, check='off' does not look.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    return note_of(table, text)


def note_of(table: pd.DataFrame, text: str) -> dict[str, Any]:
    """Return the result of a check as JSON values, for a map's provenance."""
    wrong: Mapping[str, str] = {
        str(band): str(verdict)
        for band, verdict in table["verdict"].items()
        if verdict not in (OK, UNKNOWN)
    }
    return {"result": text, "sample": table.attrs["sample"], "verdicts": dict(wrong)}


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."
