"""Measure how fast, how small in memory and how seamless maps are, in one run.

``python benchmarks/maps.py [--only speed memory ...] [--quick] [--markdown]``

Prints throughput over that of the network alone, peers on the same scene, seams, peak
memory at two sizes, two workers over one, what absent months save, and the targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import scenes
from geobiomass.tiles import Lattice
from map_peers import PEERS
from mapping import ALONE, OURS, SIDE_BY_SIDE, WAYS, Order, knows_blend
from tables import Row, show
from turns import Contender, Process, take_turns

MEGABYTE = 1e6
PARTS = ("ways", "speed", "peers", "seams", "memory", "workers", "months")


@dataclass
class Bench:
    """Sizes of a run, in pixels, and where its scenes, models and maps lie.

    The sides are such that tiles of 256 with 0, 25 and 50 % overlap all end on the
    scene's edge: every contender has the same tiles.
    """

    folder: Path
    quick: bool = False
    rounds: int = 3
    side: int = 1024
    chosen_demo: Path | None = None
    way: str = SIDE_BY_SIDE  # the fastest for the network alone, once it is known
    targets: list[Row] = field(default_factory=list)
    processes: dict[tuple[str, str], Process] = field(default_factory=dict)
    reference: scenes.Map | None = None  # of the small scene, by this library

    @property
    def tile(self) -> int:
        """Side of a tile."""
        return 64 if self.quick else 256

    @property
    def blocks(self) -> tuple[int, int]:
        """Side of a block: the default, and one with many borders."""
        return (4 * self.tile, 2 * self.tile)

    @property
    def overlaps(self) -> tuple[int, int, int]:
        """Pixels: no overlap, a quarter, a half of a tile."""
        return (0, self.tile // 4, self.tile // 2)

    @property
    def memory_sides(self) -> tuple[int, int]:
        """Side of the scene that is observed, and of the one that holds it."""
        sides = (8 * self.tile, 32 * self.tile)
        return (sides[0] // 2, sides[1] // 2) if self.quick else sides

    @cached_property
    def scene(self) -> Path:
        """The scene of most rows."""
        say(f"writing a scene of {self.side} x {self.side} ...")
        return scenes.scene(self.folder, self.side, self.side)

    @cached_property
    def small(self) -> Path:
        """A scene of four tiles, to warm up and to check on."""
        return scenes.scene(self.folder, 2 * self.tile, 2 * self.tile)

    @cached_property
    def ragged(self) -> Path:
        """A scene that tiles do not end on the edge of."""
        return scenes.scene(self.folder, 2 * self.tile - 12, 2 * self.tile + 88)

    @cached_property
    def random(self) -> Path:
        """A model with a ResNet-18 encoder and random weights."""
        return scenes.random_model(self.folder)

    @cached_property
    def demo(self) -> Path:
        """The demonstration's model."""
        if self.quick:
            return scenes.random_model(self.folder, "resnet10t")
        if self.chosen_demo:
            return self.chosen_demo
        say("training the demonstration's model, about five minutes ...")
        return scenes.demo_model(self.folder)

    def order(self, name: str, overlap: int, label: str = "", **rest: object) -> Order:
        """Give an order; maps go to a file of their own, named by the label."""
        ending = {OURS: ".zarr", ALONE: ".npy", "xbatcher": ".zarr"}.get(name, ".tif")
        label = label or f"{name}-{overlap}".replace(" ", "-")
        common = {
            "scene": str(self.scene),
            "model": str(self.random),
            "block": self.blocks[0],
            "way": self.way,
            "output": str(self.folder / f"map-{label}{ending}"),
        }
        return Order(name=name, tile=self.tile, overlap=overlap, **(common | rest))  # type: ignore[arg-type]

    def contender(self, order: Order, apart: str = "") -> Contender:
        """Give an order to the contender's process, started if it is not there.

        What it gives of a small scene is compared first.

        Parameters
        ----------
        order : Order
            What to map.
        apart : str
            Orders of one contender that differ in this get a process each.
        """
        key = order.name, apart
        if key not in self.processes:
            say(f"starting {order.name} {apart}".rstrip() + " ...")
            self.processes[key] = Process(order.name, self.random)
            self._check(Contender(order, self.processes[key]))
        return Contender(order, self.processes[key])

    def _check(self, contender: Contender) -> None:
        """Compare maps of four tiles; they also warm the process up.

        Without overlap every way to join tiles is the same, so that all must agree.

        Raises
        ------
        RuntimeError
            If one differs from this library's map by more than a thousandth of the
            map's standard deviation.
        """
        order = contender.order
        if order.name in PEERS:
            scenes.write_tiff(self.small)
        output = contender.output.with_stem(f"check-{contender.output.stem}")
        contender.run(
            scene=str(self.small),
            model=str(self.random),
            output=str(output),
            overlap=0,
            block=self.tile,
            blend="smooth",
        )
        found = scenes.read_map(output)
        if self.reference is None:
            if order.name != OURS:
                self.contender(self.order(OURS, 0))
            else:
                self.reference = found
        assert self.reference is not None
        worst = np.abs(found - self.reference).max() / self.reference.std()
        if not worst <= 1e-3:
            raise RuntimeError(
                f"{order.name} gives another map of {self.small.name} than {OURS}: "
                f"they differ by up to {worst:.3g} standard deviations."
            )

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def target(self, what: str, value: float, limit: float, least: bool) -> None:
        """Hold what was measured against what was promised."""
        met = value >= limit if least else value <= limit
        row = {
            "target": what,
            "measured": value,
            "limit": f"{'>=' if least else '<='} {limit:g}",
            "met": "yes" if met else "no",
        }
        self.targets.append(row)


def say(what: str) -> None:
    """Tell what is being done, apart from the tables."""
    print(what, file=sys.stderr, flush=True)


def installed_peers() -> list[str]:
    """Give the peers whose package is installed."""
    return [name for name in PEERS if find_spec(name)]


def percent(bench: Bench, overlap: int) -> str:
    """Write an overlap as a share of the tile."""
    return f"{100 * overlap / bench.tile:.0f} %"


def ways(bench: Bench) -> list[Row]:
    """Find the fastest way to run the network alone; it is the bar for the rest."""
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
            raise RuntimeError("A map must not depend on its blocks, and does.")
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
    """Measure the seams of each way to join tiles, on the demonstration's model."""
    none, quarter, half = bench.overlaps
    plan = {
        "geobiomass, no overlap": (OURS, none, "smooth"),
        "geobiomass, cropped": (OURS, quarter, "crop"),
        "geobiomass": (OURS, quarter, "smooth"),
        "geobiomass, half": (OURS, half, "smooth"),
    } | {name: (name, quarter, "smooth") for name in installed_peers()}
    if not knows_blend():
        print("This version has no blend='crop': no row 'geobiomass, cropped'.")
        del plan["geobiomass, cropped"]
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
    """Map a scene, and one sixteen times as large that is NaN but for those pixels."""
    rows: list[Row] = []
    observed, whole = bench.memory_sides
    for side in (observed, whole):
        say(f"memory at {side} x {side} ...")
        scene = scenes.sparse(bench.folder, bench.scene, observed, side)
        order = bench.order(OURS, bench.overlaps[1], "memory", scene=str(scene))
        # A process each without a warm-up, which takes memory itself.
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
    """Map on a local cluster: one process of one thread, and two."""
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
    """Map the same scene with fewer months observed; the others stay, all NaN."""
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


TITLES = {
    "ways": "The network alone",
    "speed": "Maps over the network alone",
    "peers": "Peers on the same scene",
    "seams": "Seams",
    "memory": "Memory of a larger scene",
    "workers": "Two workers over one",
    "months": "Absent months",
}
MEASURES = {
    "ways": ways,
    "speed": speed,
    "peers": peers,
    "seams": seams,
    "memory": memory,
    "workers": workers,
    "months": months,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="small: does it run?")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument("--folder", type=Path, help="keep the data here, or use it")
    parser.add_argument(
        "--model", type=Path, help="the demonstration's, for seams, if it is there"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument(
        "--side", type=int, default=1024, help="of the scene; 256 + a multiple of 384"
    )
    chosen = parser.parse_args(arguments)
    if (chosen.side - 256) % 384:
        parser.error(f"--side must be 256 + a multiple of 384, got {chosen.side}.")
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
    """Run the parts that were chosen, in their order, and print them."""
    for part in PARTS:
        if part in parts:
            show(TITLES[part], MEASURES[part](bench), markdown=markdown)
            sys.stdout.flush()
    if bench.quick:
        print("--quick: small scenes show that it runs, not how fast or how well.")
    elif bench.targets:
        show("Targets", bench.targets, markdown=markdown)


if __name__ == "__main__":
    main()
