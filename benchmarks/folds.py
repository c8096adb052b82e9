"""The search for balanced folds: scikit-learn in a loop, compiled seeds, exchanges.

``python -m benchmarks.folds [--seeds N] [--markdown]``

The table is synthetic and like the competition's: 357 photos of four states on 28
dates; those of WA are cut into seven virtual dates. The plain loop splits with each
seed and computes the cost with numpy; the others are `pasture.balanced_folds`. All run
in turns. CPU time is reported with wall time, because other programs lengthen the
latter.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from pasture.folds import balanced_folds, sampling_groups
from pasture.photos import TARGETS
from tables import Row, show

FOLDS, TEN_MILLION, ROUNDS = 5, 10_000_000, 3
WEIGHTS = (0.1, 0.1, 0.1, 0.2, 0.5)
PHOTOS = {"Tas": 138, "Vic": 112, "NSW": 75, "WA": 32}
MEANS = np.array([26.6, 12.0, 6.7])  # grams of green, dead and clover
Found = tuple[float, np.ndarray]


def draw_photos(seed: int = 0) -> pd.DataFrame:
    """Draw a table with the competition's numbers of photos, dates and mean grams."""
    draw = np.random.default_rng(seed)
    days = draw.choice(360, 28, replace=False)
    dates = {"Tas": days[:10], "Vic": np.r_[days[:2], days[10:19]]}
    dates |= {"NSW": days[19:25], "WA": days[25:]}
    level = draw.lognormal(0, 0.5, (360, 3))
    parts = []
    for state, count in PHOTOS.items():
        of_days = np.r_[dates[state], draw.choice(dates[state], count)][:count]
        date = pd.Timestamp(2015, 1, 1) + pd.to_timedelta(of_days, unit="D")
        part = pd.DataFrame({"State": state, "Sampling_Date": date})
        part[list(TARGETS[:3])] = level[of_days] * draw.gamma(2, 0.5, (count, 3))
        parts.append(part)
    photos = pd.concat(parts, ignore_index=True)
    photos.loc[draw.random(len(photos)) < 0.38, "Dry_Clover_g"] = 0
    components = photos[list(TARGETS[:3])]
    photos[list(TARGETS[:3])] = components * (MEANS / components.mean())
    photos["GDM_g"] = photos["Dry_Green_g"] + photos["Dry_Clover_g"]
    photos["Dry_Total_g"] = photos["GDM_g"] + photos["Dry_Dead_g"]
    photos.index = pd.Index([f"ID{n}" for n in draw.permutation(10**6)[: len(photos)]])
    return photos


def plain_loop(photos: pd.DataFrame, seeds: int) -> Found:
    """Try seeds one after the other, in plain Python."""
    groups = sampling_groups(photos).to_numpy()
    states = photos["State"].to_numpy()
    shares = pd.get_dummies(photos["State"]).to_numpy(float)
    grams = photos[list(TARGETS)].to_numpy()
    grams = (grams - grams.mean(0)) / grams.std(0) * np.sqrt(WEIGHTS)
    best: Found = (np.inf, np.zeros(0))
    for seed in range(seeds):
        split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        folds = np.empty(len(photos), int)
        squared = 0.0
        for number, (_, held) in enumerate(split.split(states, states, groups)):
            folds[held] = number
            size = FOLDS * len(held) / len(photos) - 1
            off = shares[held].mean(0) - shares.mean(0)
            squared += size**2 + (off**2).sum() + (grams[held].mean(0) ** 2).sum()
        if (cost := float(np.sqrt(squared / FOLDS))) < best[0]:
            best = cost, folds
    return best


def balanced(photos: pd.DataFrame, seeds: int, **settings: Any) -> Found:
    """Search with `pasture.balanced_folds`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "photos of one day", UserWarning)
        folds = balanced_folds(photos, FOLDS, seeds, progress=False, **settings)
    return folds.attrs["cost"], folds.to_numpy()


def measure(
    ways: dict[str, tuple[int, Callable[[int], Found]]], rounds: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Found]]:
    """Time all methods in turns: (wall, CPU) in seconds; and the folds of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds):
        for name, (candidates, search) in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            found[name] = search(candidates)
            times[name].append(
                (time.perf_counter() - clock, time.process_time() - processor)
            )
    return times, found


def compare(photos: pd.DataFrame, seeds: int, quick: bool) -> list[Row]:
    """Return one row per method, with its median times."""
    many = 2 * seeds if quick else 100 * seeds
    most = many if quick else TEN_MILLION

    def by(search: str, jobs: int) -> Callable[[int], Found]:
        return lambda count: balanced(photos, count, search=search, jobs=jobs)

    ways: dict[str, tuple[int, Callable[[int], Found]]] = {
        "scikit-learn, plain loop": (seeds, lambda count: plain_loop(photos, count)),
        "seeds, as many": (seeds, by("seeds", 1)),
        "seeds, one thread": (many, by("seeds", 1)),
        "seeds, two threads": (many, by("seeds", 2)),
        "seeds-1.7, two threads": (many, by("seeds-1.7", 2)),
        "exchange, as many": (seeds, by("exchange", 1)),
        "exchange, one thread": (most, by("exchange", 1)),
        "exchange, two threads": (most, by("exchange", 2)),
    }
    for search in ("seeds", "exchange"):
        balanced(photos, 1, search=search)  # compiles, or loads the compiled code
    times, found = measure(ways, 1 if quick else ROUNDS)
    check(found)
    loop = [
        statistics.median(one) for one in zip(*times[next(iter(ways))], strict=True)
    ]
    rows = []
    for name, (candidates, _) in ways.items():
        clock, processor = (
            statistics.median(one) for one in zip(*times[name], strict=True)
        )
        rows.append(
            {
                "way": name,
                "candidates": candidates,
                "seconds": clock,
                "of the processor": processor,
                "candidates/s": candidates / clock,
                "over the loop": (candidates / clock) / (seeds / loop[0]),
                "by processor": (candidates / processor) / (seeds / loop[1]),
                "ten million, s": clock * TEN_MILLION / candidates,
                "least cost": f"{found[name][0]:.4f}",
            }
        )
    return rows


def check(found: dict[str, Found]) -> None:
    """Check that the same seeds gave the same folds, photo by photo."""
    plain, ours = found["scikit-learn, plain loop"], found["seeds, as many"]
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-12)
    np.testing.assert_array_equal(ours[1], plain[1])


def brute_force(photos: pd.DataFrame, quick: bool) -> list[Row]:
    """Search ten million seeds of both kinds, and as many exchanges."""
    candidates = 1000 if quick else TEN_MILLION
    rows = []
    for search in ("seeds", "seeds-1.7", "exchange"):
        clock, processor = time.perf_counter(), time.process_time()
        cost, _ = balanced(photos, candidates, search=search, jobs=2)
        rows.append(
            {
                "search": search,
                "candidates": candidates,
                "seconds": time.perf_counter() - clock,
                "of the processor": time.process_time() - processor,
                "least cost": f"{cost:.4f}",
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the methods, and run the whole search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=1000, help="number of seeds of the plain loop"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few seeds, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    photos = draw_photos()
    print(
        f"Data: {len(photos)} photos drawn like the competition's, "
        f"{sampling_groups(photos).nunique()} groups, {FOLDS} folds."
    )
    seeds = min(chosen.seeds, 20) if chosen.quick else chosen.seeds
    rows = compare(photos, seeds, chosen.quick)
    show("Candidates for balanced folds", rows, markdown=chosen.markdown)
    rows = brute_force(photos, chosen.quick)
    show("Ten million, two threads, measured", rows, markdown=chosen.markdown)
    if chosen.quick:
        print("--quick shows that it runs, not its speed.")


if __name__ == "__main__":
    main()
