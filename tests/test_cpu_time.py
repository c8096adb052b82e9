"""The limit for quick tests, held against small suites in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import cpu_time
cpu_time.LIMIT = 0.15
cpu_time.slowness = lambda: 1.0

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: may take long")
    cpu_time.register(config)
"""

BUSY = """
import os, time
begun = time.process_time()
while time.process_time() - begun < 0.2:
    pass
"""

SUITE = f"""
import subprocess, sys, time
import pytest

BUSY = {BUSY!r}
CHILD = [sys.executable, "-S", "-c", BUSY]

@pytest.fixture(scope="module")
def wide():
    exec(BUSY)

@pytest.fixture(scope="module")
def imports_more():
    import takes_longer

@pytest.fixture(scope="session")
def of_the_run():
    exec(BUSY)

@pytest.fixture
def narrow():
    exec(BUSY)

def test_nothing(): pass
def test_waits(): time.sleep(0.2)
def test_itself(): exec(BUSY)
def test_its_fixture(narrow): pass
def test_its_child(): subprocess.run(CHILD, check=True)

def test_a_child_that_still_runs():
    global running
    running = subprocess.Popen(
        [*CHILD[:-1], BUSY + "print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    running.stdout.readline()

def test_ends_the_child_of_another():
    running.kill()
    running.communicate()

def test_shared(wide): pass
def test_shares_too(wide, of_the_run): pass
def test_imports(imports_more): import takes_long

@pytest.mark.slow
def test_slow(): exec(BUSY)
"""


@pytest.mark.parametrize("workers", [("-p", "xdist", "-n", "1"), ()])
@pytest.mark.slow
def test_what_takes_too_long_is_named(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    workers: tuple[str, ...],
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite=SUITE, takes_long=BUSY, takes_longer=BUSY)
    rows = pytester.path / "rows.jsonl"
    monkeypatch.setenv("GEOBIOMASS_TEST_ROWS", str(rows))
    monkeypatch.delenv("GEOBIOMASS_SLOW_UNTIL", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they are many
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", *workers)
    done.assert_outcomes(passed=11)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    named = [line for line in done.outlines if "CPU seconds" in line]
    begins = [
        "test_suite.py::test_itself takes 0.",
        "test_suite.py::test_its_fixture takes 0.",
        "test_suite.py::test_its_child takes 0.",
        "test_suite.py::test_a_child_that_still_runs takes 0.",
        "The fixture test_suite.py::wide, which the quick test test_suite.py::test_sha",
    ]
    for line, begin in zip(named, begins, strict=True):
        assert line.startswith(begin)
        assert "mark" in line
    found = {row["id"]: row for row in map(json.loads, rows.read_text().splitlines())}
    assert len(found) == 11
    for name, part in [
        ("itself", "self"),
        ("imports", "self"),
        ("slow", "self"),
        ("its_child", "kids"),
        ("a_child_that_still_runs", "kids"),
    ]:
        assert 0.15 < found[f"test_suite.py::test_{name}"][part] < 5
    for name in ("nothing", "waits", "ends_the_child_of_another", "imports"):
        assert found[f"test_suite.py::test_{name}"]["seconds"] < 0.1
    assert found["test_suite.py::test_waits"]["wall"] > 0.19


def test_a_suite_of_quick_tests_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_suite="def test_nothing(): pass")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("GEOBIOMASS_TEST_ROWS", raising=False)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert done.ret == pytest.ExitCode.OK
    done.stdout.no_fnmatch_line("*CPU seconds*")


def test_after_its_time_no_slow_test_begins(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_suite="""
        import pytest
        def test_quick(): pass
        @pytest.mark.slow
        def test_slow(): pass
        """
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for until, passed in (("1", 1), ("inf", 2)):
        monkeypatch.setenv("GEOBIOMASS_SLOW_UNTIL", until)
        done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-ra")
        done.assert_outcomes(passed=passed, skipped=2 - passed)
        told = "time for slow tests is over" in done.stdout.str()
        assert told == (passed == 1)
