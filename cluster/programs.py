"""Lets programs work in a mount of three nodes, kills the leader meanwhile, and compares all zones afterwards.

For each write mode: `lddp cluster up` with three zones and one rule over all of them, mounted (hard) at one node; git,
a compiler, SQLite, rsync, editors and pip then work in the mount, each beside the others' files, and check themselves
that all is as on a local filesystem. With --kill 10 the leader is killed every 10 s and started again, until the last
program has ended. A mount ends with its node; so when that is the one that leads, it is first stopped until another one
does. At the end the mount and the three zones' real trees must be the same. What fails is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from cluster.drill import in_cluster, say
from cluster.drill_mounts import mount, settled, unmount
from cluster.drill_nodes import Cluster, Failed
from cluster.programs_work import NAMES, WORKS, Work, environment, missing, prepare
from lddp.config import WriteMode

PROGRAM_TIMEOUT_S = 1800.0
RECOVERY_S = 300.0
"""Until a node leads, or is there again: how fast that is on a busy machine is not what is judged here."""
SHOWN_MAX = 20


class Killer:
    """Kills the leader every few seconds, never the node that serves the mount."""

    def __init__(self, cluster: Cluster, spared: str, every_s: float) -> None:
        self._cluster = cluster
        self._spared = spared
        self._every_s = every_s
        self.kills: list[str] = []
        self.stops = 0

    async def run(self) -> None:
        """Until cancelled, and whoever was killed is there again."""
        while True:
            await asyncio.sleep(self._every_s)
            killing = asyncio.create_task(self._kill())
            try:
                await asyncio.shield(killing)
            except asyncio.CancelledError:
                await killing
                raise

    async def _kill(self) -> None:
        leader = await self._cluster.leader(within_s=RECOVERY_S)
        if leader == self._spared:
            self.stops += 1
            self._cluster.send(leader, signal.SIGSTOP)
            try:
                leader = await self._cluster.leader(besides=self._spared, within_s=RECOVERY_S)
            finally:
                self._cluster.send(self._spared, signal.SIGCONT)
        self._cluster.kill(leader)
        self.kills.append(leader)
        self._cluster.restart(leader)
        await self._cluster.await_ready(leader, RECOVERY_S)


class Session:
    """One write mode."""

    def __init__(self, home: Path, mode: WriteMode, options: argparse.Namespace) -> None:
        self._mode = mode
        self._options = options
        self._home = home
        self._point = home / "mnt"
        self._outside = home / "outside"

    def run(self) -> list[str]:
        """What was not as it should be. Raises Failed where the nodes could not go on."""
        self._home.mkdir(parents=True)
        self._point.mkdir()
        prepare(self._outside, self._options.repository, self._options.project)
        return in_cluster(self._home / "ecosystem", self._run)

    async def _run(self, cluster: Cluster) -> list[str]:
        server = cluster.names[0]
        await mount(cluster, server, self._point, self._mode)
        wrong = await self._programs(cluster, server)
        found = await settled(cluster, self._point)
        say(f"{self._mode.value:10} {'zones':10} {found}")
        await unmount(cluster, server, self._point)
        return wrong + found.differences

    # -- programs -----------------------------------------------------------------------------------------------------

    async def _programs(self, cluster: Cluster, server: str) -> list[str]:
        killer = Killer(cluster, server, self._options.kill)
        killing = asyncio.create_task(killer.run()) if self._options.kill else None
        wrong: list[str] = []
        try:
            for turn in range(self._options.times):
                for work in WORKS:
                    if work.name in self._options.only:
                        wrong += await self._program(work, turn, killer)
                        if killing is not None and killing.done():
                            await killing
        finally:
            if killing is not None:
                killing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await killing
        return wrong

    async def _program(self, work: Work, turn: int, killer: Killer) -> list[str]:
        if absent := missing(work):
            say(f"{self._mode.value:10} {work.name:10} left out: {', '.join(absent)} not installed")
            return []
        directory, began = self._point / f"{work.name}-{turn + 1}", time.monotonic()
        kills, stops = len(killer.kills), killer.stops
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", f'mkdir "$0"; cd "$0"\n{work.script}', str(directory)),
            env=os.environ | environment(self._outside, self._options.package),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), PROGRAM_TIMEOUT_S)
        except TimeoutError:
            raise Failed(f"{work.name} has not ended after {PROGRAM_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        took, died, stopped = time.monotonic() - began, len(killer.kills) - kills, killer.stops - stops
        say(
            f"{self._mode.value:10} {work.name:10} {took:8.1f} s {died:6} {stopped:6}"
            f"  {'good' if not process.returncode else f'ended with {process.returncode}'}"
        )
        if not process.returncode:
            return []
        return [f"{work.name}: {line}" for line in output.decode(errors="backslashreplace").splitlines()[-SHOWN_MAX:]]


def _works(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: one of {', '.join(NAMES)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/programs", description=__doc__)
    parser.add_argument("--write-mode", choices=[mode.value for mode in WriteMode], help="both if not given")
    parser.add_argument("--kill", type=float, default=0.0, metavar="S", help="kill the leader every S seconds")
    parser.add_argument("--only", type=_works, default=list(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--times", type=int, default=1, help="how often each is run")
    parser.add_argument("--project", type=Path, help="a tar of a C project with a Makefile, instead of one made here")
    parser.add_argument("--repository", type=Path, help="a git repository that is cloned as well")
    parser.add_argument("--package", default="aiohttp", help="what pip installs, from the package index it has")
    parser.add_argument("--directory", type=Path, help="where nodes and zones are made; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="keep the files of what passes too")
    options = parser.parse_args()
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        say("only root with /dev/fuse can mount here")
        return 1
    base = options.directory or Path(tempfile.mkdtemp(prefix="lddp-programs-"))
    say(f"{'mode':10} {'program':10} {'took':>10} {'kills':>6} {'stops':>6}")
    failed = [mode for mode in _modes(options) if not _one(mode, options, base)]
    if failed:
        say(f"failed: {', '.join(failed)}; see {base}")
        return 1
    if not options.keep and options.directory is None:
        base.rmdir()
    return 0


def _modes(options: argparse.Namespace) -> Iterator[WriteMode]:
    return (mode for mode in WriteMode if options.write_mode in (None, mode.value))


def _one(mode: WriteMode, options: argparse.Namespace, base: Path) -> bool:
    home = base / mode.value
    try:
        wrong = Session(home, mode, options).run()
    except (Failed, aiohttp.ClientError, OSError) as error:
        wrong = [f"it could not go on: {error!r}"]
    for line in wrong[:SHOWN_MAX]:
        say(f"  {line}")
    if not wrong and not options.keep:
        shutil.rmtree(home)
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
