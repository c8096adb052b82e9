"""CPU seconds of every test, and the limit for tests without the marker ``slow``.

A test's seconds are those of its set-up and its call, in this process and in all
processes below it: those that have ended and those that still run. Three things are
measured and left out, because they fall on whichever test happens to come first:

- fixtures wider than a function (class, module, package, session),
- imports of Python modules,
- the teardown, where the last test of a module ends what all of its tests used.

A quick test above the limit fails the run, and so does a fixture of a module or class
that a quick test sets up; a fixture of the session serves the whole run and may take
longer. The test itself still passes: what fails is the run, with a sentence.
The seconds of a process whose parent was killed are lost.

Slow tests are skipped after a time that an environment variable gives.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

# CPU seconds of a quick test on a quiet machine of usual speed. With six processes on a
# core the same test was measured to take up to twice as many.
LIMIT = float(os.environ.get("GEOBIOMASS_TEST_LIMIT", "5"))
USUAL = 0.06  # CPU seconds of `_loop` there
ROWS = "GEOBIOMASS_TEST_ROWS"  # names a file that gets a JSON row for each test
# Seconds since 1970 after which no slow test begins. CI is killed after an hour and a
# half, and what machines do in it differs by more than two times.
UNTIL = "GEOBIOMASS_SLOW_UNTIL"


@dataclass
class Seconds:
    """CPU seconds of this process and of the processes below it."""

    own: float
    below: float

    @classmethod
    def now(cls) -> Seconds:
        used = os.times()
        below = used.children_user + used.children_system
        for process in _running_below():
            try:
                part = process.cpu_times()
            except psutil.Error:  # it ended between the two looks: now it is reaped
                continue
            below += part.user + part.system
            # What its own ended children used is not in os.times() yet either.
            below += getattr(part, "children_user", 0.0)
            below += getattr(part, "children_system", 0.0)
        return cls(used.user + used.system, below)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.own - other.own, self.below - other.below)

    @property
    def total(self) -> float:
        return self.own + self.below


@cache
def slowness() -> float:
    """Return how many times slower than usual this machine is, 1 where it is faster.

    Machines of two cores, all quiet, differed by two to three times.
    """
    times = []
    for _ in range(5):
        begun = time.process_time()
        _loop()
        times.append(time.process_time() - begun)
    return max(1.0, min(times) / USUAL)


def _loop() -> int:
    total = 0
    for number in range(1_000_000):
        total += number * number % 7
    return total


def limit() -> float:
    """Return the CPU seconds that a quick test may take on this machine."""
    return LIMIT * slowness()


def _running_below() -> list[psutil.Process]:
    try:
        # Asks whether there is any child, which costs nothing, and reaps none.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    return psutil.Process().children(recursive=True)


@dataclass
class Row:
    """CPU seconds of one test; the limit applies to `seconds`."""

    id: str
    slow: bool
    self: float = 0.0
    kids: float = 0.0
    wall: float = 0.0
    seconds: float = 0.0
    shared: dict[str, float] = field(default_factory=dict)

    def complaints(self) -> Iterator[str]:
        if self.slow or max([self.seconds, *self.shared.values()]) <= LIMIT:
            return
        most = limit()
        if self.seconds > most:
            yield (
                f"{self.id} takes {self.seconds:.1f} CPU seconds with its child "
                f"processes, and a test without the marker slow may take {most:.3g}: "
                "make it smaller (CONTRIBUTING.md says how) or mark it "
                "@pytest.mark.slow."
            )
        for name, seconds in self.shared.items():
            if seconds > most:
                yield (
                    f"The fixture {name}, which the quick test {self.id} sets up, "
                    f"takes {seconds:.1f} CPU seconds, and {most:.3g} are allowed: "
                    "make it smaller (CONTRIBUTING.md says how) or mark each test "
                    "that uses it @pytest.mark.slow."
                )


class CpuTime:
    """Plugin that measures in each worker and judges in the process that reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.judges = not hasattr(config, "workerinput")  # xdist's workers only measure
        self.row: Row | None = None
        self.begun, self.clock = Seconds(0.0, 0.0), 0.0
        # Seconds of parts that have ended, in the test and in each part that runs.
        self.parts = [0.0]
        self.complaints: list[str] = []
        self.execute = importlib.machinery.SourceFileLoader.exec_module

    # ---- measuring

    @contextmanager
    def _part(self, clock: Callable[[], float]) -> Iterator[list[float]]:
        """Time a part of what runs; yield a list that gets its seconds.

        They do not include the seconds of parts inside it.
        """
        found: list[float] = []
        self.parts.append(0.0)
        begun = clock()
        try:
            yield found
        finally:
            total = clock() - begun
            found.append(total - self.parts.pop())
            self.parts[-1] += total

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        over = time.time() > float(os.environ.get(UNTIL, "inf"))
        if over and item.get_closest_marker("slow"):
            # One reason for all: the summary has their number.
            pytest.skip(f"slow, and the time for slow tests is over: {UNTIL}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item
    ) -> Generator[None, object, object]:
        self.row = Row(item.nodeid, item.get_closest_marker("slow") is not None)
        self.parts = [0.0]
        self.begun, self.clock = Seconds.now(), time.perf_counter()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function" or self.row is None:
            return (yield)
        with self._part(lambda: Seconds.now().total) as found:
            result = yield
        if fixturedef.scope != "session":
            self.row.shared[f"{fixturedef.baseid}::{fixturedef.argname}"] = found[0]
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        row = self.row
        if row is None:
            return report
        used = Seconds.now() - self.begun
        if call.when == "call":
            row.seconds = round(max(used.total - self.parts[0], 0.0), 3)
        if call.when == "teardown":
            row.self, row.kids = round(used.own, 3), round(used.below, 3)
            row.wall = round(time.perf_counter() - self.clock, 3)
            report.cpu_row = asdict(row)  # type: ignore[attr-defined]
        return report

    def time_imports(self) -> None:
        """Leave out the execution of Python modules, however they are imported."""
        loader, execute = importlib.machinery.SourceFileLoader, self.execute

        def timed(this: importlib.machinery.SourceFileLoader, module: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                return execute(this, module)
            with self._part(time.process_time):
                return execute(this, module)

        loader.exec_module = timed  # type: ignore[method-assign, assignment]

    def pytest_unconfigure(self) -> None:
        importlib.machinery.SourceFileLoader.exec_module = self.execute  # type: ignore[method-assign]

    # ---- judging, in the process that reports (xdist's controller, or the only one)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = getattr(report, "cpu_row", None)
        if found is None or not self.judges:
            return
        if path := os.environ.get(ROWS):
            with Path(path).open("a") as file:
                file.write(json.dumps(found) + "\n")
        self.complaints.extend(Row(**found).complaints())

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.complaints and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.complaints:
            terminalreporter.section("tests that are too slow", red=True)
            for sentence in self.complaints:
                terminalreporter.line(sentence)


def register(config: pytest.Config) -> None:
    """Add the plugin to a run, once."""
    if not config.pluginmanager.has_plugin("cpu_time"):
        plugin = CpuTime(config)
        plugin.time_imports()
        config.pluginmanager.register(plugin, "cpu_time")
