"""Histories on a real filesystem that loses its power, as a program: it mounts filesystems that no other process sees.

    python -m tests.replay.volumes --of small --first 0 --count 12

`small` are those of `tests.replay.small`, `any` those of the campaign, where the process may live on for a while
without power; `shared` are small ones of a tree that programs could change, too. What the kernel has written back by
then is up to it and to chance.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.crash import volume
from tests.crash.volume import Volume
from tests.replay.bench import Killed
from tests.replay.campaign import run_campaign
from tests.replay.mortal import Death, MortalFiles
from tests.replay.small import Machine, Stage, Story, make_story, steps_of

CUTS = 3
"""Of one small history."""


class Powered:
    """A machine of small histories with its zone on a volume."""

    def __init__(self, stage: Stage, disk: Volume, name: str) -> None:
        self._disk = disk
        self._files = disk.mounted / name
        self.death = Death()
        self.machine: Machine = stage.machine(MortalFiles(self.death, self._files))

    async def cut(self) -> None:
        self._disk.cut()
        await self.machine.end()
        self.machine.zone.close()
        self._disk.end()
        self._disk.begin()
        self.death.revive()
        zone = MortalFiles(self.death, self._files)
        zone.discard_leftovers()
        self.machine.zone = zone
        self.machine.again()

    async def play(self, steps: Sequence[str], batch: int, random: Random) -> None:
        """The kernel writes back what it has at some moment, or does not."""
        at = random.randrange(2 * len(steps) + 1)
        await self.machine.play(steps[:at], batch)
        if at < len(steps):
            self._disk.write_back()
            await self.machine.play(steps[at:], batch)


async def play(stage: Stage, disk: Volume, story: Story, seed: int) -> int:
    """How many cuts there were."""
    cuts = 0
    for number in range(CUTS):
        random = Random(f"volume {seed} {number}")
        powered = Powered(stage, disk, f"{seed}-{number}")
        powered.machine.begin()
        await powered.machine.play(steps_of(story.before), 1)
        await powered.machine.settled()
        await powered.play(story.after, story.batch, random)
        await powered.cut()
        cuts += 1
        powered.death.arm(random.randrange(1, 20))
        try:
            await powered.machine.settled()
        except Killed:
            if random.random() < 0.5:
                disk.write_back()
            await powered.cut()
            cuts += 1
        powered.death.revive()
        await powered.machine.settled()
        powered.machine.assert_equal()
        await powered.machine.end()
        powered.machine.zone.close()
    return cuts


def run_small(seed: int, *, is_shared: bool = False) -> int:
    with tempfile.TemporaryDirectory(prefix="lddp-volume-") as name, Volume(Path(name)) as disk:
        stage = Stage(Path(name), is_shared=is_shared)
        story = make_story(seed)
        try:
            cuts: int = stage.run(lambda: play(stage, disk, story, seed))
        except AssertionError as error:
            raise AssertionError("\n".join([f"seed {seed}: {error}", *story.before, "after:", *story.after])) from error
        return cuts


def run_shared(seed: int) -> int:
    return run_small(seed, is_shared=True)


def run_any(seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="lddp-volume-") as name, Volume(Path(name)) as disk:
        return run_campaign(Path(name), seed, real=True, volume=disk).cuts


RUNS: dict[str, Callable[[int], int]] = {"small": run_small, "shared": run_shared, "any": run_any}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=[*RUNS], default="small")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="lddp-volume-") as name:
        obstacle = volume.obstacle(Path(name))
    if obstacle:
        print(f"not here: {obstacle}")
        return 0
    run = RUNS[arguments.of]
    cuts = failed = 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        try:
            cuts += run(seed)
        except AssertionError as error:
            failed += 1
            print(error)
    print(f"{arguments.count} histories, {cuts} power cuts, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
