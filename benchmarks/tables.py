"""Tables of figures, as plain text or markdown, and fair timing of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Row = dict[str, Any]
THREADS = 2  # every figure is for two cores


def show(title: str, rows: Sequence[Row], *, markdown: bool) -> None:
    """Print rows with the same keys as a table; None is an empty cell."""
    heads = list(rows[0])
    cells = [[_text(row[head]) for head in heads] for row in rows]
    if markdown:
        print(f"\n### {title}\n")
        print("| " + " | ".join(heads) + " |")
        print("|---|" + "---:|" * (len(heads) - 1))
        for line in cells:
            print("| " + " | ".join(line) + " |")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    Console(width=170).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def rate(call: Callable[[Any], object], items: Sequence[Any], seconds: float) -> float:
    """Return calls per second on two threads, after a warm-up pass.

    Parameters
    ----------
    call : callable
        Function of one item.
    items : sequence
        Items; they are repeated.
    seconds : float
        Minimum duration.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call, items))
        begin, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - begin) < seconds or not done:
            done += len(list(pool.map(call, items)))
    return done / spent
