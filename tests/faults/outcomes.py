"""What a fault led to: right, clear, poor or silent."""

from __future__ import annotations

import re
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RIGHT, CLEAR, POOR, SILENT = "right", "clear", "poor", "silent"
ALL = (RIGHT, CLEAR, POOR, SILENT)

MOST_POOR = 0.02
"""Largest share of poor outcomes: two in a hundred."""

_OURS = re.compile(r"[/\\](geobiomass|pasture)[/\\][^/\\]")
_REMEDY = re.compile(
    r"\b(again|restore|cop(y|ied)|give|write|delete|choose|make|install|run|use|fix|"
    r"wait|call|overwrite|pass|free|end|continues?|resume|checkpoint)\b",
    re.IGNORECASE,
)
_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """How one fault ended."""

    case: str
    """What was damaged or stopped, and its number: ``"zarr map:17"``."""
    fault: str
    result: str
    """One of right, clear, poor and silent."""
    said: str = ""

    def __str__(self) -> str:
        return f"{self.result:6} {self.case:24} {self.fault}\n       {self.said}"


Reading = Mapping[str, Any]


def observed(read: Callable[[], Reading]) -> tuple[Reading | None, list[str], Any]:
    """Read; return what was read, the warnings, and the error if there was one."""
    with warnings.catch_warnings(record=True) as caught, _alarm():
        warnings.simplefilter("always")
        found, problem = None, None
        try:
            found = read()
        except Exception as error:
            problem = error
    return found, [str(warning.message) for warning in caught], problem


@contextmanager
def _alarm() -> Iterator[None]:
    """Raise after a minute, so that what hangs is poor."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(
    read: Callable[[], Reading], expected: Reading, names: Iterable[str | Path]
) -> tuple[str, str]:
    """Read what has a fault; return the result, and what was said or differs.

    Parameters
    ----------
    read : callable
        Returns all that a user would get from it.
    expected : mapping
        What `read` returned before.
    names : iterable of str or Path
        Paths of which an error must name one.
    """
    found, told, error = observed(read)
    words = [str(name) for name in names]
    if error is not None:
        said = f"{type(error).__name__}: {error}"
        clear = is_clear(error, words)
        return (CLEAR, said) if clear else (POOR, f"{said} [{_last_frame(error)}]")
    assert found is not None
    differs = differing(found, expected)
    if not differs:
        return RIGHT, "; ".join(told)
    if any(word in said for said in told for word in words):
        return CLEAR, "warned: " + "; ".join(told)
    return SILENT, f"differs: {', '.join(differs)[:300]}; warned: {told}"


def differing(found: Reading, expected: Reading) -> list[str]:
    """Return the names of what is other than before, to the bit."""
    names = sorted({*found, *expected})
    return [name for name in names if found.get(name) != expected.get(name)]


def is_clear(error: BaseException, names: Iterable[str]) -> bool:
    """Return whether an error is of this package, and names the place and a remedy."""
    said = str(error)
    ours = type(error).__module__.startswith(("geobiomass", "pasture"))
    ours = ours or bool(_OURS.search(_last_frame(error)))
    if type(error).__name__ == "CommandError":  # the text that a command printed
        ours = "Traceback" not in said
    return ours and any(n in said for n in names) and bool(_REMEDY.search(said))


def _last_frame(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the number of outcomes of each result."""
    found = Counter(outcome.result for outcome in outcomes)
    return {name: found.get(name, 0) for name in ALL}


def check(outcomes: list[Outcome]) -> None:
    """Assert that none is silent, and that at most two in a hundred are poor."""
    found = counts(outcomes)
    bad = [str(o) for o in outcomes if o.result in (POOR, SILENT)]
    shown = "\n".join([str(found), *bad])
    assert found[SILENT] == 0, shown
    assert found[POOR] <= MOST_POOR * len(outcomes), shown
