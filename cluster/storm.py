"""Migrates trees while a program changes them, and lets an independent judge say whether both ends are the same.

Each seed: a tree is made, a writer starts, `lddp migrate --once` runs, the writer goes on until some seconds after the
scan is done, and the migration then has to end by itself, with a receipt. With --kill a node is killed every few
seconds meanwhile. What fails is kept, with the command that does it again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import compare, trees
from cluster.seeds import seeds_of

LIVE_TIMEOUT_S = 180.0
END_TIMEOUT_S = 240.0
SHOWN_MAX = 40
SOURCE_ZONE = 0
UNSEEN = re.compile(rf"\bzone {SOURCE_ZONE}: .*: the bytes is not what the log says$")
_COMMAND = (sys.executable, "-m", "lddp.cli.main", "migrate")
SUSPICIOUS = ("Traceback", " C lddp", " E lddp", "not as the log left it", "AssertionError", "it differs")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Failed(Exception):
    """A seed that did not end as it should."""


class Migration:
    """`lddp migrate --once --json`, followed."""

    def __init__(self, source: Path, target: Path, errors: Path) -> None:
        self.state = target.parent / f".{target.name}.lddp"
        self.phase = ""
        self.phases: list[str] = []
        self.last: dict[str, Any] = {}
        self.receipt: dict[str, Any] | None = None
        self.restarts = 0
        self.messages: list[str] = []
        self._errors = open(errors, "wb")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*_COMMAND, str(source), str(target), "--once", "--json", "--delete-extraneous"],
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            document = json.loads(line)
            with self._changed:
                match document["event"]:
                    case "progress":
                        self.last = document
                        self.phase = document["phase"]
                        if self.phases[-1:] != [self.phase]:
                            self.phases.append(self.phase)
                    case "receipt":
                        self.receipt = document
                    case "message":
                        self.messages.append(document["message"])
                        self.restarts += document["message"].startswith("restarted")
                self._changed.notify_all()
        with self._changed:
            self.phase = "ended"
            self._changed.notify_all()

    def await_live(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.phase in ("live", "verifying", "verified", "ended"), timeout_s)

    def nodes(self) -> dict[str, int]:
        try:
            described = json.loads((self.state / "cluster.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: int(pid) for name, pid in described["pids"].items()}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
        self._errors.close()


class Killer:
    """Kills a random node of a migration every few seconds until told to end."""

    def __init__(self, migration: Migration, seed: int, every_s: float) -> None:
        self.kills: list[str] = []
        self._migration = migration
        self._chance = random.Random(seed)
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s * self._chance.uniform(0.5, 1.5)):
            nodes = self._migration.nodes()
            if not nodes:
                continue
            name = self._chance.choice(sorted(nodes))
            try:
                descriptor = os.pidfd_open(nodes[name])
            except ProcessLookupError:
                continue
            try:
                # The number may be a stranger's by now.
                if Path(f"/proc/{nodes[name]}/comm").read_text().strip() == f"lddp-{name}":
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    self.kills.append(name)
            except (FileNotFoundError, ProcessLookupError):
                continue
            finally:
                os.close(descriptor)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@dataclass
class Storm:
    """One seed."""

    seed: int
    options: argparse.Namespace
    home: Path
    notes: list[str] = field(default_factory=list)

    def run(self) -> str:
        """What happened, in a line. Raises Failed."""
        source, target, outside = self.home / "source", self.home / "target", self.home / "outside"
        self.home.mkdir()
        outside.mkdir()
        trees.build(source, self.options.tree, self.seed)
        if self.options.tree == "all":
            # What is in the target already must not matter.
            shutil.copytree(source / "small" / "d0", target / "small" / "d0")
            (target / "small" / "d1").write_text("in the way")
        began = time.monotonic()
        with self._writer(source, outside) as writer:
            migration = Migration(source, target, self.home / "migrate.err")
            killer = Killer(migration, self.seed, self.options.kill_every) if self.options.kill else None
            try:
                self._write_on(migration, killer, writer)
                writer.terminate()
                summary = (writer.stdout.read() if writer.stdout else b"").decode().strip()
                stopped = time.monotonic()
                self._await_end(migration)
            finally:
                if writer.poll() is None:
                    writer.terminate()
                if killer is not None:
                    killer.end()
                migration.end()
        ended = time.monotonic()
        self._judge(migration, source, target)
        line = f"{summary.partition(':')[0]}; phases {', '.join(migration.phases)}; "
        line += f"{ended - began:.1f} s, of which {ended - stopped:.1f} s after the last change"
        return line + (f"; {len(killer.kills)} kills" if killer is not None else "")

    def _writer(self, source: Path, outside: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cluster.writer", str(source), str(outside), "--seed", str(self.seed)]
        root = Path(__file__).parent.parent
        writer = subprocess.Popen(
            [*command, "--rate", str(self.options.rate)], stdout=subprocess.PIPE, cwd=root, start_new_session=True
        )
        assert writer.stdout is not None
        if writer.stdout.readline() != b"ready\n":
            raise Failed("the writer did not start")
        return writer

    def _write_on(self, migration: Migration, killer: Killer | None, writer: subprocess.Popen[bytes]) -> None:
        began = time.monotonic()
        if not migration.await_live(LIVE_TIMEOUT_S):
            self.notes.append(f"not live after {LIVE_TIMEOUT_S:g} s while the writer ran: {migration.last}")
        else:
            self.notes.append(f"live after {time.monotonic() - began:.1f} s")
        until = time.monotonic() + self.options.seconds
        while time.monotonic() < until or (killer is not None and len(killer.kills) < self.options.kills):
            if migration.process.poll() is not None:
                raise Failed(f"the migration ended while the writer ran: {_tail(self.home / 'migrate.err')}")
            if writer.poll() is not None:
                raise Failed("the writer ended by itself")
            time.sleep(0.1)
        if killer is not None:
            killer.end()

    def _await_end(self, migration: Migration) -> None:
        try:
            code = migration.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"not ended {END_TIMEOUT_S:g} s after the writer: {migration.last}") from None
        if code:
            text = "\n".join(migration.messages[-3:])
            raise Failed(f"exit code {code}: {_tail(self.home / 'migrate.err')} {text}")

    def _judge(self, migration: Migration, source: Path, target: Path) -> None:
        if migration.receipt is None or not migration.receipt["holds"]:
            raise Failed(f"no receipt that holds: {migration.receipt}")
        found = compare.differences(source, target)
        if found:
            raise Failed("\n".join([f"{len(found)} differences", *found[:SHOWN_MAX]]))
        suspicious = list(_suspicious(migration.state))
        if self.options.kill:
            # A store through a mapping may move no time: made while the source's node is down, only the comparison
            # can see it. Nothing of the kind is true of a target.
            unseen = [line for line in suspicious if UNSEEN.search(line)]
            suspicious = [line for line in suspicious if line not in unseen]
            self.notes.append(f"{len(unseen)} stores at the source seen by the comparison alone")
        if suspicious:
            shown = [line[:300] for line in suspicious[:SHOWN_MAX]]
            raise Failed("\n".join(["the trees are the same, but the logs are not clean", *shown]))


def _suspicious(state: Path) -> Iterator[str]:
    for log in sorted(state.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if any(mark in line for mark in SUSPICIOUS):
                yield f"{log.name}: {line}"


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:].strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/storm", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-20"), help="such as 7 or 1-20 or 1,4-6")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to write on once the scan is done")
    parser.add_argument("--rate", type=float, default=400.0, help="changes a second")
    parser.add_argument("--tree", choices=trees.KINDS, default="all")
    parser.add_argument("--kill", action="store_true", help="kill nodes meanwhile")
    parser.add_argument("--kill-every", type=float, default=2.0, help="seconds between kills, on average")
    parser.add_argument("--kills", type=int, default=10, help="how many there are at least")
    parser.add_argument("--directory", type=Path, help="where the trees are made; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="keep the trees of seeds that pass too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # nothing is left running
    base = options.directory or Path(tempfile.mkdtemp(prefix="lddp-storm-"))
    base.mkdir(parents=True, exist_ok=True)
    failed = [seed for seed in options.seeds if not _one(seed, options, base)]
    if failed:
        say(f"{len(failed)} of {len(options.seeds)} seeds failed: {', '.join(map(str, failed))}; see {base}")
        return 1
    say(f"all {len(options.seeds)} seeds passed")
    if not options.keep and options.directory is None:
        base.rmdir()
    return 0


def _one(seed: int, options: argparse.Namespace, base: Path) -> bool:
    storm = Storm(seed, options, base / f"seed-{seed}")
    if storm.home.exists():
        _remove(storm.home)
    try:
        line = storm.run()
    except Failed as failure:
        say(f"seed {seed}: FAILED: {failure}\n  {'; '.join(storm.notes)}\n  kept in {storm.home}")
        kill = f" --kill --kill-every {options.kill_every:g} --kills {options.kills}" if options.kill else ""
        say(
            f"  again: scripts/storm --seeds {seed} --tree {options.tree} --seconds {options.seconds:g}"
            f" --rate {options.rate:g}{kill}"
        )
        return False
    say(f"seed {seed}: passed: {line}; {'; '.join(storm.notes)}")
    if not options.keep:
        _remove(storm.home)
    return True


def _remove(path: Path) -> None:
    """Also what is deeper than a path can say."""
    subprocess.run(["rm", "-rf", "--", str(path)], check=True)


if __name__ == "__main__":
    sys.exit(main())
