"""CONTRIBUTING.md names quick tests for each law, and they exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAWS = {*range(1, 17)}


def named_tests() -> Iterator[tuple[int, str, str]]:
    """Yield law, file and test from the rows of the table of laws."""
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        if row := re.match(r"\| (\d+) \|", line):
            for file, test in re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", line):
                yield int(row[1]), file, test


def is_slow(decorators: list[ast.expr]) -> bool:
    return any("mark.slow" in ast.unparse(decorator) for decorator in decorators)


def test_each_law_has_quick_tests() -> None:
    assert {law for law, _, _ in named_tests()} == LAWS


@pytest.mark.parametrize(("law", "file", "test"), [*named_tests()])
def test_the_test_of_a_law_exists_and_is_quick(law: int, file: str, test: str) -> None:
    module = ast.parse((ROOT / file).read_text())
    for node in module.body:
        assert not ast.unparse(node).startswith("pytestmark = pytest.mark.slow")
    body: list[ast.stmt] = module.body
    for name in test.split("::"):
        found = [node for node in body if getattr(node, "name", None) == name]
        assert found, f"law {law}: {file} has no {name}"
        assert isinstance(found[0], ast.FunctionDef | ast.ClassDef)
        assert not is_slow(found[0].decorator_list), f"law {law}: {test} is slow"
        body = found[0].body
