"""Two processes that write to one path at nearly the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from killing import AGAIN, Answer, Killing, name_of
from new_process import NewProcesses
from outcomes import CLEAR, POOR, RIGHT, SILENT, Outcome, differing

DELAYS = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds between the two."""


@dataclass(frozen=True)
class Pair:
    """One writer, twice."""

    killing: Killing

    def at(self, number: int) -> Outcome:
        """Start two, apart as the number says; judge what each said and what is there.

        One works and the other is refused, or both return what was written. Then
        nothing but the same values is there.
        """
        one, delay = self.killing, DELAYS[number % len(DELAYS)]
        one.fresh(one.place)
        answers = [one.place.with_name(f"answer-{which}") for which in (1, 2)]
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(one.do, AGAIN, one.place, answers[0], one.run)
            time.sleep(delay)
            other = pool.submit(one.do, AGAIN, one.place, answers[1], one.run)
            said = [first.result(), other.result()]
        case = f"{one.name}, {one.pipeline}, two processes:{number}"
        result, words = self._judge(said)
        return Outcome(case, f"{delay:g} s apart", result, words)

    def _judge(self, said: list[Answer]) -> tuple[str, str]:
        one = self.killing
        found = one.read(one.place)
        words = "; ".join(answer.said or "done" for answer in said)
        if all(answer.said for answer in said):
            return POOR, f"both refused: {words}"
        if found.reading is None or differing(found.reading, one.expected):
            what = found.said or differing(found.reading or {}, one.expected)
            return SILENT, f"{words}; then {what}"
        if any(answer.said and not answer.clear for answer in said):
            return POOR, words
        left = {name_of(p, one.place) for p in one.place.rglob("*")} - one.names
        if left:
            return POOR, f"{words}; left: {sorted(left)}"
        return (CLEAR if any(a.said for a in said) else RIGHT), words


def paired(
    writer: str,
    pipeline: str,
    folder: Path,
    run: NewProcesses,
    numbers: Iterable[int],
) -> list[Outcome]:
    """Run a writer in two processes, at the delays that the numbers name."""
    pair = Pair(Killing(writer, pipeline, folder, run))
    return [pair.at(number) for number in numbers]
