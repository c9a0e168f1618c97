"""Random operations on files in mounts of two nodes against bytes in memory, then all zones are compared.

`lddp cluster up` with three zones and one rule over all of them, mounted at two nodes. Several files at a time, each in
a directory of its own and changed by `cluster/fsx.py` for as many operations as a run has: reads, writes, truncates,
mappings, renames, and now and then the file is closed in one mount and goes on in the other. What it reads must be what
it wrote. At the end the mounts and the three zones' real trees must be the same. What fails is kept, with the command
that does the run again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from cluster.drill import in_cluster, say
from cluster.drill_mounts import mount, settled, unmount
from cluster.drill_nodes import Cluster, Failed
from lddp.config import WriteMode

MOUNTS = 2


class Campaign:
    """All runs of one write mode."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._home = home
        self._points = [home / f"mount-{number + 1}" for number in range(MOUNTS)]
        self._began = 0.0
        self._done = 0

    def run(self) -> list[str]:
        """What was not as it should be. Raises Failed where the nodes could not go on."""
        for point in self._points:
            point.mkdir(parents=True)
        return in_cluster(self._home / "ecosystem", self._run)

    async def _run(self, cluster: Cluster) -> list[str]:
        mode = WriteMode(self._options.write_mode)
        served = list(zip(cluster.names[:MOUNTS], self._points, strict=True))
        for node, point in served:
            await mount(cluster, node, point, mode)
        wrong = await self._all(cluster)
        for node, point in served:
            found = await settled(cluster, point)
            say(f"{point.name} and zones: {found}")
            wrong += found.differences
            await unmount(cluster, node, point)
        return wrong

    async def _all(self, cluster: Cluster) -> list[str]:
        self._began = time.monotonic()
        left = self._options.operations
        sizes: list[int] = []
        while left > 0:
            sizes.append(min(left, self._options.each))
            left -= sizes[-1]
        runs = list(enumerate(sizes, self._options.seed))
        runs.reverse()
        wrong: list[str] = []

        async def worker() -> None:
            while runs and not wrong:
                seed, operations = runs.pop()
                wrong.extend(await self._one(cluster, seed, operations))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._options.files):
                group.create_task(worker())
        return wrong

    async def _one(self, cluster: Cluster, seed: int, operations: int) -> list[str]:
        here, there = (point / f"seed-{seed}" for point in self._points)
        await asyncio.to_thread(here.mkdir)
        await cluster.ask(cluster.names[1], "POST", "/v1/barrier")
        barriers = [option for name in cluster.names[:MOUNTS] for option in ("--barrier", cluster.endpoints[name])]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cluster.fsx", str(here), "--hand-over", str(there)),
            *("--operations", str(operations), "--seed", str(seed), "--size", str(self._options.size)),
            *(*barriers, "--token-file", str(cluster.described["token_file"])),
            *(["--sync"] if self._options.write_mode == WriteMode.PIPELINED.value else []),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        if process.returncode:
            return [f"seed {seed}: {line}" for line in output.decode(errors="backslashreplace").splitlines()]
        self._done += operations
        seconds = time.monotonic() - self._began
        say(f"seed {seed}: {operations} operations good; {self._done} in all, {self._done / seconds:.0f} a second")
        return []


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fsx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=100_000, help="of all runs together")
    parser.add_argument("--each", type=int, default=10_000, help="operations of a run")
    parser.add_argument("--files", type=int, default=4, help="runs at a time")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others have the numbers after it")
    parser.add_argument("--size", type=int, default=3 << 20, help="bytes that a file has at most")
    parser.add_argument("--write-mode", choices=[mode.value for mode in WriteMode], default=WriteMode.SYNC.value)
    parser.add_argument("--directory", type=Path, help="where nodes and zones are made; a temporary one if not given")
    options = parser.parse_args()
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        say("only root with /dev/fuse can mount here")
        return 1
    home = options.directory or Path(tempfile.mkdtemp(prefix="lddp-fsx-"))
    try:
        wrong = Campaign(home, options).run()
    except (Failed, aiohttp.ClientError, OSError) as error:
        wrong = [f"it could not go on: {error!r}"]
    except KeyboardInterrupt:
        say(f"interrupted; what there is is in {home}")
        return 130
    for line in wrong:
        say(f"  {line}")
    if wrong:
        say(f"failed; kept in {home}")
        return 1
    if options.directory is None:
        shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
