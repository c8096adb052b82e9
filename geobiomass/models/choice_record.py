"""The record of a choice between learners: its plan, its table, its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.outside_text import as_markdown
from geobiomass.training.files import replacing, sha256_of
from geobiomass.training.json_files import read_json

CHOICE = "choice"
"""Name of the choice in a model's provenance."""
RECORD = "choice.json"
"""Name of its file in the folder of a training."""
COLUMNS = (
    *("learner", "rmse", "standard_error", "difference", "difference_error"),
    *("bias", "seconds", "labels", "kept", "note"),
)
_HELD_OUT = "held-out.json"


@dataclass(frozen=True)
class ChoicePlan:
    """What ``gb.fit`` will do without a recipe; prints itself.

    Parameters
    ----------
    text : str
        In one paragraph.
    seconds : float or None
        About the time of it, if it is known.
    """

    text: str
    seconds: float | None = None

    @property
    def hours(self) -> float:
        """Hours that it takes, about; NaN if that is not known."""
        return math.nan if self.seconds is None else self.seconds / 3600

    def __str__(self) -> str:
        """Return the paragraph."""
        return self.text


def in_words(seconds: float) -> str:
    """Return a time in words: seconds, minutes or hours."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.2g} hours"


def minutes_for(seconds: float) -> int:
    """Return minutes that are enough for a time, with something to spare."""
    least = seconds * 1.2 / 60
    step = 1 if least < 10 else 5 if least < 60 else 30
    return max(1, math.ceil(least / step)) * step


def choice_table(provenance: Mapping[str, Any]) -> pd.DataFrame | None:
    """Return the table of a choice from a model's provenance; None without one."""
    found = provenance.get(CHOICE)
    if not found:
        return None
    table = pd.DataFrame(found["rows"], columns=list(COLUMNS))
    numbers = ("rmse", "standard_error", "difference", "difference_error", "bias")
    for name in (*numbers, "seconds"):
        table[name] = table[name].astype(float)
    table.attrs = {"units": found["units"], "why": found["why"]}
    return table


def shown_choice(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of a choice for people: errors with their standard errors."""
    rows = [
        {
            f"RMSE, {found['units']}": _with_error(row["rmse"], row["standard_error"]),
            "minus the best": _with_error(row["difference"], row["difference_error"]),
            "bias": _figure(row["bias"]),
            "seconds": _figure(row["seconds"]),
            "note": row["note"],
        }
        for row in found["rows"]
    ]
    names = pd.Index([row["learner"] for row in found["rows"]], name="learner")
    return pd.DataFrame(rows, names)


def table_in_words(found: Mapping[str, Any]) -> str:
    """Return the table of a choice as text, and what is kept."""
    table = shown_choice(found).reset_index()
    return f"{table.to_string(index=False, justify='left')}\n{found['why']}"


def choice_section(provenance: Mapping[str, Any]) -> list[str]:
    """Return the section of a model's card about the choice, if there was one."""
    found = provenance.get(CHOICE)
    if not found:
        return []
    table = shown_choice(found).reset_index()
    head = f"| {' | '.join(map(as_markdown, table.columns))} |"
    rows = [
        f"| {' | '.join(map(as_markdown, row))} |"
        for row in table.itertuples(index=False)
    ]
    labels = max(row["labels"] for row in found["rows"])
    return [
        f"## Choice\n\nThe learner was chosen on {labels:,} held-out labels in "
        f"{found['groups']:,} groups: the simplest that is not worse than the best by "
        "more than one standard error of their difference (jackknife over groups). "
        f"{as_markdown(found['why'])} {as_markdown(found['warning'])}\n\n"
        + "\n".join([head, "|---" * len(table.columns) + "|", *rows])
    ]


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    if error is None or value == error == 0:
        return f"{value:.4g}"
    return f"{value:.4g} ± {error:.2g}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def check_not_chosen(folder: str | Path | None, resume: bool) -> None:
    """Check that a training with a named recipe is not begun in a choice's folder.

    Raises
    ------
    ValueError
        If the folder has a choice.
    """
    if folder is not None and resume and (Path(folder) / RECORD).exists():
        raise ValueError(
            f"folder must be new or of the same training, got {str(folder)!r}, in "
            "which gb.fit(cube) chose between learners; give another folder, the same "
            "call without a recipe, or resume=False."
        )


class ChoiceFolder:
    """What is kept of a choice in the folder of its training.

    Parameters
    ----------
    folder : Path
        Of the training.
    given : dict
        All that the choice depends on, as JSON has it.
    resume : bool
        Whether an earlier choice is continued.

    Raises
    ------
    ValueError
        If the folder has a choice of other data or settings.
    """

    def __init__(self, folder: Path, given: dict[str, Any], resume: bool) -> None:
        self.folder, self.path = folder, folder / RECORD
        self.known: dict[str, Any] = {"given": json.loads(json.dumps(given))}
        if not resume or not self.path.exists():
            return
        known = _read(self.path, "delete the folder, or give resume=False")
        before = known.get("given") or {}
        given = self.known["given"]
        differ = sorted(k for k in given | before if given.get(k) != before.get(k))
        if differ:
            raise ValueError(
                f"folder must be new or of the same training, got {str(folder)!r}, "
                f"which differs in {', '.join(map(repr, differ[:5]))}; give another "
                "folder, or resume=False to begin again."
            )
        self.known = known

    def __getitem__(self, name: str) -> Any:
        """Return what is known of one step; None if it is not done."""
        return self.known.get(name)

    def keep(self, **steps: Any) -> None:
        """Write what is known after a step."""
        self.known |= json.loads(json.dumps(steps))
        _write(self.path, self.known)


def keep_held_out(folder: Path, values: npt.NDArray[np.float64], cost: float) -> None:
    """Write the predictions of a finished fold; NaN where it has none."""
    plain = [value if math.isfinite(value) else None for value in values.tolist()]
    _write(folder / _HELD_OUT, {"seconds": cost, "values": plain})


def read_held_out(
    folder: Path, resume: bool
) -> tuple[npt.NDArray[np.float64], float] | None:
    """Read the predictions of a finished fold; None if it is not finished.

    Raises
    ------
    ValueError
        If the file has changed since it was written.
    """
    path = folder / _HELD_OUT
    if not resume or not path.exists():
        return None
    found = _read(path, "delete it, and the same call computes it again")
    values = [math.nan if value is None else value for value in found["values"]]
    return np.array(values, np.float64), float(found["seconds"])


def _write(path: Path, facts: dict[str, Any]) -> None:
    """Write a record with a checksum of itself; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"sha256": sha256_of(json.dumps(facts)), **facts}
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read(path: Path, remedy: str) -> dict[str, Any]:
    """Read a record and compare its checksum."""
    found: dict[str, Any] = read_json(path, dict)
    if found.pop("sha256", None) != sha256_of(json.dumps(found)):
        raise ValueError(f"{path} has changed since it was written; {remedy}.")
    return found
