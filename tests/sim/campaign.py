"""Campaigns: many seeds of the simulator, a line for each failure with the command that repeats it.

scripts/simulate --seeds 1-1000 --kind mixed
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sim import elections, migration, mixed, mount, operations, power, writable
from tests.sim.checks import Violation

RUNS = {
    "operations": operations.run,
    "migration": migration.run,
    "mixed": mixed.run,
    "writable": writable.run,
    "power": power.run,
    "elections": elections.run,
    "mount": mount.run,
}
FAILED_SEEDS = Path(__file__).with_name("failed_seeds.txt")
INTERRUPTED = 130
SEEDS_PER_TASK = 10
SEEDS_PER_COLLECTION = 20


class Result(NamedTuple):
    """What became of one seed. `failure` is empty where all held; `faults` counts what was injected, by kind."""

    kind: str
    seed: int
    failure: str
    faults: dict[str, int]
    simulated_s: float
    records: int
    fingerprint: str


def run(kind: str, seed: int) -> Result:
    """One simulation. Anything that it raises is a failure of the seed."""
    gc.disable()  # what a simulation leaves behind is one large cycle: looked for when it is over
    try:
        world = RUNS[kind](seed)
    except Exception as error:  # noqa: BLE001 - it is the result
        failure = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        return Result(kind, seed, failure or repr(error), getattr(error, "counts", {}), 0.0, 0, "")
    finally:
        gc.enable()
        if seed % SEEDS_PER_COLLECTION == 0:
            gc.collect()
    checks = world.checks
    return Result(
        kind, seed, "", world.counts, world.loop.now - world.began, len(checks.records()), world.fingerprint()
    )


def command(result: Result) -> str:
    return f"scripts/simulate --kind {result.kind} --seeds {result.seed}-{result.seed}"


def failed_seeds() -> list[tuple[str, int]]:
    """Every seed that has failed once: (kind, seed)."""
    found = []
    for line in FAILED_SEEDS.read_text("utf-8").splitlines():
        words = line.partition("#")[0].split()
        if words:
            kind, seed = words
            found.append((kind, int(seed)))
    return found


def _run_all(kind: str, seeds: Iterable[int]) -> list[Result]:
    return [run(kind, seed) for seed in seeds]


def campaign(kind: str, seeds: range, jobs: int) -> Iterator[Result]:
    """All seeds, in order, on so many processors."""
    if jobs == 1:
        for seed in seeds:
            yield run(kind, seed)
        return
    parts = [seeds[at : at + SEEDS_PER_TASK] for at in range(0, len(seeds), SEEDS_PER_TASK)]
    with ProcessPoolExecutor(jobs) as pool:
        for results in pool.map(_run_all, [kind] * len(parts), parts):
            yield from results


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"seeds are given as 1-100 or 7, not as {text!r}")
    return range(int(first), int(last or first) + 1)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulate", description="Runs seeds of the simulator.")
    parser.add_argument("--seeds", type=_seeds, default=range(1, 101), metavar="A-B", help="which seeds (1-100)")
    parser.add_argument("--kind", choices=sorted(RUNS), default="mixed", help="what is simulated (mixed)")
    parser.add_argument("--jobs", type=int, default=1, help="how many processors to use (1)")
    parser.add_argument("--log", action="store_true", help="print what the nodes log, with simulated times")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """0 where every seed holds, 1 where one fails; INTERRUPTED where it was ended by Ctrl-C, with the sums so far."""
    options = _options(arguments)
    if options.log:
        logging.getLogger("simulation").setLevel(logging.DEBUG)
        logging.root.setLevel(logging.DEBUG)
    gc.freeze()  # modules need not be looked through for what simulations leave behind
    began, done, failures, faults = time.monotonic(), 0, 0, Counter[str]()
    simulated_s = records = 0.0
    interrupted = False
    try:
        for result in campaign(options.kind, options.seeds, options.jobs):
            done += 1
            faults.update(result.faults)
            simulated_s += result.simulated_s
            records += result.records
            if result.failure:
                failures += 1
                shown = result.failure if len(options.seeds) == 1 else result.failure.splitlines()[0]
                print(f"FAILED {command(result)}: {shown}", flush=True)
    except KeyboardInterrupt:
        interrupted = True  # what has been done counts
    took_s = time.monotonic() - began
    print(f"{done} seeds of {options.kind}, {failures} failed, {done / took_s:.1f} a second")
    print(f"{records:.0f} records ordered in {simulated_s:.0f} simulated seconds, {faults.total()} faults injected:")
    print("  " + ", ".join(f"{count} {what}" for what, count in faults.most_common()))
    return INTERRUPTED if interrupted else 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
