"""Crash points, crash images and power cuts, from the command line; a failure is printed with what repeats it.

scripts/crash points                  every case, every point; --case NAME, --points 3-9
scripts/crash again --seeds 1-50      kills of a start that follows a kill
scripts/crash images --seeds 1-5000   images of the database after a power cut
scripts/crash prefixes                the image after each event of a run, with nothing that was not synced
scripts/crash cuts --seeds 1-20       power cuts of a real filesystem, as root
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from random import Random

from cluster.seeds import seeds_of
from tests.crash import cuts, images, lone, points
from tests.crash.cases import CASES
from tests.crash.mutants import MUTANTS
from tests.crash.points import Result
from tests.crash.tracer import obstacle

AGAIN_POINTS = 6
FIRST_MAX = 40


def again(seed: int, patch: points.Patch) -> Result:
    """A case, a point in its operation, and some points of the start after it, by chance."""
    chance = Random(seed)
    case = CASES[chance.choice(sorted(CASES))]
    first = chance.randint(1, FIRST_MAX)
    result = points.run_twice(case, first, sorted(chance.sample(range(1, FIRST_MAX), AGAIN_POINTS)), patch)
    return result._replace(failures=[f"{failure}\n  scripts/crash again --seeds {seed}" for failure in result.failures])


def _results(options: argparse.Namespace) -> Iterator[Result]:
    patch = MUTANTS[options.mutant].patch if options.mutant else lambda: None
    match options.kind:
        case "points":
            for name in options.case or CASES:
                yield points.run(CASES[name], options.points, patch)
        case "again":
            for seed in options.seeds:
                yield again(seed, patch)
        case "images":
            yield images.run(options.seeds, patch)
        case "prefixes":
            yield images.run_prefixes(options.seeds, patch)
        case "cuts":
            for seed in options.seeds:
                for of in (options.of,) if options.of else cuts.SETTINGS:
                    yield cuts.run(seed, of, patch)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="crash", description="Kills a node and cuts its power, and looks what is left."
    )
    parser.add_argument("kind", choices=("points", "again", "images", "prefixes", "cuts"))
    parser.add_argument("--case", action="append", choices=sorted(CASES), metavar="NAME", help="of points (all)")
    parser.add_argument("--points", type=seeds_of, metavar="A-B", help="of points (all that there are)")
    parser.add_argument("--seeds", type=seeds_of, default=[], metavar="A-B", help="of the other kinds")
    parser.add_argument("--of", choices=sorted(cuts.SETTINGS), help="of cuts: what the node is doing (all)")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME", help="with this fault in the node")
    parser.add_argument("--log", action="store_true", help="print what the nodes log")
    options = parser.parse_args(arguments)
    if options.kind not in ("points", "prefixes") and not options.seeds:
        options.seeds = seeds_of({"again": "1-20", "images": "1-500", "cuts": "1-5"}[options.kind])
    return options


def main(arguments: list[str]) -> int:
    """0 where all holds, 1 where something does not."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO if options.log else logging.CRITICAL)
    stopped = obstacle() or (cuts.obstacle() if options.kind == "cuts" else "")
    if stopped:
        print(f"not here: {stopped}")
        return 1
    lone.prepare()
    began, count, failures = time.monotonic(), 0, 0
    for result in _results(options):
        count += result.points
        failures += len(result.failures)
        if options.kind == "points":
            print(f"{result.case}: {result.points}", flush=True)
        for failure in result.failures:
            print(f"FAILED {failure}", flush=True)
        if options.mutant and failures:
            break  # it is noticed: more would be no news
    print(f"{count} of {options.kind}, {failures} failed, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
