"""Random histories on a real filesystem that loses its power, as a program: it mounts filesystems that no other process
sees.

    python -m tests.replay.volumes --first 0 --count 12
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.crash import volume
from tests.crash.volume import Volume
from tests.replay.campaign import run_campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="lddp-volume-") as name:
        obstacle = volume.obstacle(Path(name))
    if obstacle:
        print(f"not here: {obstacle}")
        return 0
    cuts = failed = 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        with tempfile.TemporaryDirectory(prefix="lddp-volume-") as name, Volume(Path(name)) as disk:
            try:
                cuts += run_campaign(Path(name), seed, real=True, volume=disk).cuts
            except AssertionError as error:
                failed += 1
                print(error)
    print(f"{arguments.count} histories, {cuts} power cuts, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
