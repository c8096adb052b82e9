"""Speed, memory and seams of maps, measured in one run.

``python benchmarks/maps.py [--only speed memory ...] [--quick] [--markdown]``

Prints the throughput relative to the network alone, peers on the same scene, seams,
peak memory at two sizes, two workers relative to one, the time that missing months
save, and the targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import scenes
from bench import Bench, installed_peers, say
from geobiomass.tiles import Lattice
from map_peers import PEERS
from mapping import ALONE, OURS, WAYS
from tables import Row, show
from turns import Contender, Process, take_turns

MEGABYTE = 1e6
PARTS = ("ways", "speed", "peers", "seams", "memory", "workers", "months", "numbers")


def percent(bench: Bench, overlap: int) -> str:
    """Return an overlap as a percentage of the tile."""
    return f"{100 * overlap / bench.tile:.0f} %"


def ways(bench: Bench) -> list[Row]:
    """Find the fastest way to run the network alone, the reference for the rest."""
    tiles = 4
    contenders = [
        bench.contender(bench.order(ALONE, 0, way=way, scene=str(bench.small)))
        for way in WAYS
    ]
    take_turns(contenders, bench.rounds + 2)
    bench.way = min(contenders, key=lambda each: each.median).order.way
    return [
        {
            "network alone": contender.order.way,
            "seconds a tile": contender.median / tiles,
            "best": contender.best / tiles,
            "over the first": contender.speed_over(contenders[0]),
        }
        for contender in contenders
    ]


def speed(bench: Bench) -> list[Row]:
    """Compare maps of the whole scene with the network alone on the same tiles."""
    rows: list[Row] = []
    for overlap in bench.overlaps:
        network = bench.contender(bench.order(ALONE, overlap))
        mappers = [bench.contender(bench.order(OURS, overlap))]
        block = bench.blocks[1]
        order = bench.order(OURS, overlap, f"block-{block}", block=block)
        mappers.append(bench.contender(order, f"in blocks of {block}"))
        say(f"speed at an overlap of {percent(bench, overlap)} ...")
        take_turns([network, *mappers], bench.rounds)
        one, other = (scenes.read_map(mapper.output) for mapper in mappers)
        if not np.array_equal(one, other, equal_nan=True):
            raise RuntimeError("A map must not depend on its blocks, but it does.")
        shape = Lattice(bench.side, bench.side, bench.tile, overlap).shape
        rows += [_speed_row(bench, network, shape)]
        rows += [_speed_row(bench, mapper, shape, network) for mapper in mappers]
    return rows


def _speed_row(
    bench: Bench,
    contender: Contender,
    shape: tuple[int, int],
    network: Contender | None = None,
) -> Row:
    order = contender.order
    share = percent(bench, order.overlap)
    ratio = contender.speed_over(network) if network else 1.0
    if network:
        what = f"speed over the network alone, overlap {share}, block {order.block}"
        bench.target(what, ratio, 0.9, least=True)
    return {
        "overlap": share,
        "what": f"{OURS}, block {order.block}" if network else ALONE,
        "tiles": shape[0] * shape[1],
        "seconds": contender.median,
        "best": contender.best,
        "over network alone": ratio,
        "of best": network.best / contender.best if network else 1.0,
        "peak MB": contender.peak / MEGABYTE if network else None,
    }


def peers(bench: Bench) -> list[Row]:
    """Map the same scene with each peer, at an overlap of a quarter of a tile."""
    overlap = bench.overlaps[1]
    scenes.write_tiff(bench.scene)
    scenes.write_tiff(bench.ragged)
    names = [OURS, *installed_peers()]
    contenders = [bench.contender(bench.order(name, overlap)) for name in names]
    say(f"peers at an overlap of {percent(bench, overlap)} ...")
    take_turns(contenders, bench.rounds)
    rows: list[Row] = []
    for name, contender in zip(names, contenders, strict=True):
        output = contender.output.with_stem(f"ragged-{contender.output.stem}")
        contender.run(scene=str(bench.ragged), output=str(output))
        found = np.isfinite(scenes.read_map(output)).mean()
        ratio = contenders[0].speed_over(contender)
        rows.append(
            {
                "map by": name,
                "seconds": contender.median,
                "best": contender.best,
                "x geobiomass": ratio,
                "peak MB": contender.peak / MEGABYTE,
                "predicted of a ragged scene": f"{100 * found:.1f} %",
            }
        )
        if name != OURS:
            bench.target(f"seconds of {name} over ours", ratio, 1, least=True)
    return rows


def seams(bench: Bench) -> list[Row]:
    """Measure the seams of each way to join tiles, with the demonstration's model."""
    none, quarter, half = bench.overlaps
    plan = {
        "geobiomass, no overlap": (OURS, none, "smooth"),
        "geobiomass, cropped": (OURS, quarter, "crop"),
        "geobiomass": (OURS, quarter, "smooth"),
        "geobiomass, half": (OURS, half, "smooth"),
    } | {name: (name, quarter, "smooth") for name in installed_peers()}
    scenes.write_tiff(bench.scene)
    truth = scenes.truth_of(bench.scene)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    model = str(bench.demo)
    for label, (name, overlap, blend) in plan.items():
        say(f"seams of {label} ...")
        order = bench.order(
            name, overlap, f"seams-{len(rows)}", blend=blend, model=model
        )
        contender = bench.contender(order)
        contender.run()
        seam = scenes.measure_seam(
            values := scenes.read_map(contender.output), bench.tile, overlap
        )
        ratios[label] = seam.ratio
        rows.append(_seam_row(bench, label, values, overlap, truth))
    rows.append(_seam_row(bench, "the landscape itself", truth, quarter, truth))
    for name in installed_peers():
        share = ratios["geobiomass"] / ratios[name]
        bench.target(f"our seam over that of {name}", share, 1, least=False)
    return rows


def _seam_row(
    bench: Bench, label: str, values: scenes.Map, overlap: int, truth: scenes.Map
) -> Row:
    seam = scenes.measure_seam(values, bench.tile, overlap)
    return {
        "map by": label,
        "overlap": percent(bench, overlap),
        "seam": seam.ratio,
        "step at tiles, Mg/ha": seam.at_tiles,
        "step inside, Mg/ha": seam.inside,
        "RMSE, Mg/ha": scenes.rmse(values, truth),
    }


def memory(bench: Bench) -> list[Row]:
    """Map a scene, and a 16 times larger one that is NaN outside these pixels."""
    rows: list[Row] = []
    observed, whole = bench.memory_sides
    for side in (observed, whole):
        say(f"memory at {side} x {side} ...")
        scene = scenes.sparse(bench.folder, bench.scene, observed, side)
        order = bench.order(OURS, bench.overlaps[1], "memory", scene=str(scene))
        # Separate processes without a warm-up, which needs memory itself.
        process = Process(OURS, bench.random)
        contender = Contender(order, process)
        contender.turn()
        process.close()
        rows.append(
            {
                "scene": f"{side} x {side}",
                "observed": f"{observed} x {observed}",
                "seconds": contender.best,
                "peak MB": contender.peak / MEGABYTE,
                "over the smaller": contender.peak
                / MEGABYTE
                / (rows[0]["peak MB"] if rows else contender.peak / MEGABYTE),
            }
        )
    what = f"peak memory at {whole} over {observed} pixels squared"
    bench.target(what, rows[1]["over the smaller"], 1.2, least=False)
    return rows


def workers(bench: Bench) -> list[Row]:
    """Map on a local cluster of one single-threaded process, and of two."""
    block = bench.blocks[1]
    say("one and two workers ...")
    contenders = []
    for count in (1, 2):
        label = f"workers-{count}"
        order = bench.order(OURS, bench.overlaps[1], label, workers=count, block=block)
        contenders.append(bench.contender(order, f"on {count} workers"))
    take_turns(contenders, bench.rounds)
    return [
        {
            "workers": contender.order.workers,
            "block": block,
            "seconds": contender.median,
            "best": contender.best,
            "speed over one": contender.speed_over(contenders[0]),
        }
        for contender in contenders
    ]


def months(bench: Bench) -> list[Row]:
    """Map the same scene with fewer observed months; the others are NaN."""
    counts = (12, 6, 3)
    say("absent months ...")
    contenders = []
    for count in counts:
        scene = bench.scene
        if count < counts[0]:
            scene = scenes.with_months(bench.folder, bench.scene, count)
        order = bench.order(
            OURS, bench.overlaps[1], f"months-{count}", scene=str(scene)
        )
        contenders.append(bench.contender(order))
    take_turns(contenders, bench.rounds)
    return [
        {
            "months observed": f"{count} of 12",
            "seconds": contender.median,
            "best": contender.best,
            "share of the seconds": 1 / contender.speed_over(contenders[0]),
            "share of the months": count / counts[0],
        }
        for count, contender in zip(counts, contenders, strict=True)
    ]


def numbers(bench: Bench) -> list[Row]:
    """Map in float32 and in bf16, with the demonstration's model."""
    say("float32 and bf16 ...")
    overlap, model = bench.overlaps[1], str(bench.demo)
    contenders = []
    for precision in ("float32", "bf16"):
        order = bench.order(
            OURS, overlap, f"numbers-{precision}", precision=precision, model=model
        )
        contenders.append(bench.contender(order))
    take_turns(contenders, bench.rounds)
    truth = scenes.truth_of(bench.scene)
    maps = [scenes.read_map(contender.output) for contender in contenders]
    return [
        {
            "numbers": contender.order.precision,
            "seconds": contender.median,
            "speed over float32": contender.speed_over(contenders[0]),
            "RMSE, Mg/ha": scenes.rmse(values, truth),
            "RMS difference, Mg/ha": scenes.rmse(values, maps[0]),
            "greatest, Mg/ha": float(np.nanmax(np.abs(values - maps[0]))),
        }
        for contender, values in zip(contenders, maps, strict=True)
    ]


TITLES = {
    "ways": "The network alone",
    "speed": "Maps over the network alone",
    "peers": "Peers on the same scene",
    "seams": "Seams",
    "memory": "Memory of a larger scene",
    "workers": "Two workers over one",
    "months": "Absent months",
    "numbers": "Float32 and bf16",
}
MEASURES = {
    "ways": ways,
    "speed": speed,
    "peers": peers,
    "seams": seams,
    "memory": memory,
    "workers": workers,
    "months": months,
    "numbers": numbers,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--quick", action="store_true", help="small scenes, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument(
        "--folder", type=Path, help="folder of the data, kept and reused"
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="the demonstration's model, for seams; by default trained",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of turns of each contender"
    )
    parser.add_argument(
        "--side",
        type=int,
        default=1024,
        help="side of the scene: 256 + a multiple of 768",
    )
    chosen = parser.parse_args(arguments)
    if (chosen.side - 256) % 768:
        parser.error(f"--side must be 256 + a multiple of 768, got {chosen.side}.")
    for name in PEERS:
        if name not in installed_peers():
            print(f"{name} is not installed: no row {name!r}.")
    with tempfile.TemporaryDirectory(prefix="maps-") as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(
            folder.resolve(),
            quick=chosen.quick,
            rounds=1 if chosen.quick else chosen.rounds,
            side=256 if chosen.quick else chosen.side,
            chosen_demo=chosen.model,
        )
        try:
            measure(bench, chosen.only, markdown=chosen.markdown)
        finally:
            bench.close()


def measure(bench: Bench, parts: Sequence[str], *, markdown: bool) -> None:
    """Run the chosen parts, in their order, and print them."""
    for part in PARTS:
        if part in parts:
            show(TITLES[part], MEASURES[part](bench), markdown=markdown)
            sys.stdout.flush()
    if bench.quick:
        print("--quick: small scenes show that it runs, not its speed or quality.")
    elif bench.targets:
        show("Targets", bench.targets, markdown=markdown)


if __name__ == "__main__":
    main()
